"""The study in a clone, as `maddr study` runs it."""

import argparse

from anomaly_detection.commands import study
from anomaly_detection.commands.exit_codes import run
from anomaly_detection.commands.verbosity import add_verbosity, set_verbosity


def main(argv: list[str] | None = None) -> int:
    """Run the study; returns the exit code: 0, or 1 when an experiment failed."""
    parser = argparse.ArgumentParser(description=study.__doc__)
    study.add(parser)
    add_verbosity(parser)
    arguments = parser.parse_args(argv)
    set_verbosity(arguments)
    return study.run(arguments)


if __name__ == "__main__":
    run(main)
