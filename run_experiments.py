"""The study, as `python -m anomaly_detection study` runs it, too."""

import argparse

from anomaly_detection.commands import study
from anomaly_detection.commands.exit_codes import run


def main(argv: list[str] | None = None) -> int:
    """Run the study; returns the exit code: 0, or 1 when an experiment failed."""
    parser = argparse.ArgumentParser(description=study.__doc__)
    study.add(parser)
    return study.run(parser.parse_args(argv))


if __name__ == "__main__":
    run(main)
