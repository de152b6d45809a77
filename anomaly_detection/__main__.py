"""MADDR: one network that detects anomalies in medical images of several organs and modalities.

`maddr COMMAND --help` tells about a command; `maddr study` does everything, on rendered phantoms where there are no data.
"""

import argparse
import sys
from pathlib import Path
from types import ModuleType

from anomaly_detection.commands import check, evaluate, export, init, phantom, port, predict, prepare, report, study, train, train_eval
from anomaly_detection.commands.exit_codes import run
from anomaly_detection.commands.verbosity import add_verbosity, set_verbosity
from anomaly_detection.system.version import __version__

# Each module imports what its command needs when the command runs: --help waits for nothing.
COMMANDS: tuple[ModuleType, ...] = (init, phantom, prepare, check, study, train, train_eval, evaluate, predict, export, report, port)


def _parser() -> argparse.ArgumentParser:
    typed = "maddr" if Path(sys.argv[0]).stem == "maddr" else "python -m anomaly_detection"
    parser = argparse.ArgumentParser(prog=typed, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"anomaly-detection {__version__}")
    add_verbosity(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        summary = module.__doc__.splitlines()[0]
        text = summary[0].lower() + summary[1:].rstrip(".")
        command = commands.add_parser(module.__name__.rpartition(".")[2], help=text, description=module.__doc__)
        module.add(command)
        add_verbosity(command)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    set_verbosity(arguments)
    return arguments.run(arguments) or 0


def console() -> None:
    """The command `maddr`, and `python -m anomaly_detection`."""
    run(main)


if __name__ == "__main__":
    console()
