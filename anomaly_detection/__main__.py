"""python -m anomaly_detection COMMAND. `study` is what `python run_experiments.py` runs, too."""

import argparse
from types import ModuleType

from anomaly_detection.commands import check, evaluate, export, phantom, port, predict, prepare, report, study, train, train_eval
from anomaly_detection.commands.exit_codes import run
from anomaly_detection.system.version import __version__

# Each module imports what its command needs when the command runs: --help waits for nothing.
COMMANDS: tuple[ModuleType, ...] = (phantom, prepare, check, study, train, train_eval, evaluate, predict, export, report, port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m anomaly_detection", description=__doc__)
    parser.add_argument("--version", action="version", version=f"anomaly-detection {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        summary = module.__doc__.splitlines()[0]
        text = summary[0].lower() + summary[1:].rstrip(".")
        module.add(commands.add_parser(module.__name__.rpartition(".")[2], help=text, description=module.__doc__))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments) or 0


if __name__ == "__main__":
    run(main)
