"""Write the tables and figures of a study again, or the figures of one experiment."""

import argparse
from dataclasses import replace
from pathlib import Path

from anomaly_detection.system.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `report`."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="the folder of a study, results/NAME, or of an experiment, .../seed_0")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: where they were)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write table.md, table.csv and report.html from what is finished; of an experiment figures/.

    Raises:
        UserError: there is no study, or nothing is finished on the images that are there now.
    """
    from anomaly_detection.data.dataset import DataSource
    from anomaly_detection.study.experiment import finished_metrics, load_experiment, told_metrics
    from anomaly_detection.study.report import Study, draw_experiment, write_study

    if (arguments.results / "provenance.json").exists():
        experiment = load_experiment(arguments.results)
        paths = draw_experiment(experiment)
        print("\n".join([experiment.name, *told_metrics(finished_metrics(experiment)), f"figures in {paths[0].parent}"]))
        return
    if not (arguments.results / "study.json").exists():
        advice = "name the folder of a study, results/NAME, or of an experiment, .../seed_0"
        raise UserError(f"{arguments.results / 'study.json'}: no such file; {advice}")
    study = Study.read(arguments.results)
    study = replace(study, data_root=arguments.data_root or study.data_root)
    if write_study(arguments.results, study, DataSource(study.data_root)) is None:
        ended = any(arguments.results.glob("*/*/*/seed_*/metrics.json"))
        left_out, to_do = "every experiment that has ended was left out, as said above", "no experiment has ended; run the study again, it continues"
        raise UserError(f"{arguments.results}: nothing to report: {left_out if ended else to_do}")
    print(f"tables and figures in {arguments.results / 'report.html'}")
