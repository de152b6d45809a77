"""Score the images again with a trained network."""

import argparse
from pathlib import Path

from anomaly_detection.commands.arguments import add_device, add_set, override_layers


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `evaluate`."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of an experiment: .../seed_0")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: where they were in training)")
    add_set(parser, "threshold_quantile=Q: another threshold, until a study of other settings is run again")
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Score validation and test images and write what an experiment leaves.

    Raises:
        UserError: the experiment is not trained, or was trained on other data, or a setting is to be changed that training depends on.
    """
    from anomaly_detection.data.dataset import DataSource
    from anomaly_detection.study import provenance
    from anomaly_detection.study.experiment import check_changeable, load_experiment, locked_folder
    from anomaly_detection.study.report import tables_around, tell_results
    from anomaly_detection.study.train_and_score import evaluate_experiment
    from anomaly_detection.system.devices import choose_device

    device = choose_device(arguments.device)
    overrides = override_layers(arguments.set)
    check_changeable(overrides)
    experiment = load_experiment(arguments.folder, overrides)
    data_root = arguments.data_root or Path(provenance.read(arguments.folder)["data_root"])
    source = DataSource(data_root)
    with locked_folder(experiment, source):
        evaluate_experiment(experiment, source, device)
    print("\n".join([*(tell_results(experiment.folder, data_root) or ()), f"results in {experiment.folder}"]))
    if (around := tables_around(experiment.folder)) is not None:
        print(f"tables and report in {around} tell of the earlier scores until `maddr report {around}` writes them again")
    print(f"next: maddr report {experiment.folder} draws the figures")
