"""Write the tables and figures of a study again."""

import argparse
from dataclasses import replace
from pathlib import Path

from anomaly_detection.system.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `report`."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="the folder of a study: results/NAME")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: where they were)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write table.md, table.csv and report.html from what is finished.

    Raises:
        UserError: there is no study, or nothing is finished on the images that are there now.
    """
    from anomaly_detection.data.dataset import DataSource
    from anomaly_detection.study.report import Study, write_study

    study = Study.read(arguments.results)
    study = replace(study, data_root=arguments.data_root or study.data_root)
    if write_study(arguments.results, study, DataSource(study.data_root)) is None:
        raise UserError(f"{arguments.results}: no experiment has ended on the images that lie in {study.data_root} now")
    print(f"tables and figures in {arguments.results / 'report.html'}")
