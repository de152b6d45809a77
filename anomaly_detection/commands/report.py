"""Write the tables and figures of a study, or of what was trained by itself, again."""

import argparse
from pathlib import Path

from anomaly_detection.system.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `report`."""
    parser.add_argument(
        "results", type=Path, metavar="RESULTS", help="the folder of a study or of trainings, results/NAME, or of one experiment, .../seed_0"
    )
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: where they were)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write table.md, table.csv and report.html into the folder from what is finished, and each experiment's figures/.

    Raises:
        UserError: there is no experiment, or nothing is finished on the images that are there now.
    """
    from anomaly_detection.study.experiment import load_experiment, scored_metrics
    from anomaly_detection.study.report import experiment_folders, tell_results

    lines = tell_results(arguments.results, arguments.data_root, figures=True)
    if lines is not None:
        print("\n".join(lines))
        return
    folders = experiment_folders(arguments.results)
    if folders == [arguments.results] and scored_metrics(load_experiment(arguments.results)) is None:
        reason = f"not evaluated yet; `maddr evaluate {arguments.results}` does it (what an older version wrote does not count)"
    elif any((folder / "metrics.json").exists() for folder in folders):
        reason = "every experiment that has ended was left out, as said above"
    else:
        reason = "no experiment has ended; run the study again, it continues"
    raise UserError(f"{arguments.results}: nothing to report: {reason}")
