"""Train one network."""

import argparse
from dataclasses import replace
from pathlib import Path

from anomaly_detection.commands.arguments import add_experiment_arguments, override_layers


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `train`."""
    add_arguments(parser)
    parser.set_defaults(run=lambda arguments: train(arguments, then_evaluate=False))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `train` and of `train_eval`."""
    parser.epilog = f"example: {parser.prog} configs/MADDR_dpa/universal.yaml"
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file such as configs/MADDR_dpa/lits.yaml")
    add_experiment_arguments(parser)


def train(arguments: argparse.Namespace, then_evaluate: bool) -> None:
    """Train the network that a config describes, or go on with it; under torchrun together with the other processes.

    Raises:
        UserError: anything in the settings or the data is wrong, or the folder of the results holds another experiment.
    """
    from anomaly_detection.build import build_baseline
    from anomaly_detection.config.layers import read_layers
    from anomaly_detection.config.paths import named_config, warn_of_overlooked
    from anomaly_detection.data.dataset import DataSource
    from anomaly_detection.registry import build_settings
    from anomaly_detection.study.experiment import Experiment, locked_folder, preprocessing_of
    from anomaly_detection.study.report import tell_results
    from anomaly_detection.study.train_and_score import evaluate_experiment, train_experiment
    from anomaly_detection.system.devices import choose_device
    from anomaly_detection.system.distributed import process_group, rank
    from anomaly_detection.training.loop import check_constraint

    warn_of_overlooked()
    settings = build_settings([*read_layers(named_config(arguments.config)), *override_layers(arguments.set)])
    device = choose_device(arguments.device)
    source = DataSource(arguments.data_root or Path("data"))
    results = arguments.results or Path("results") / source.data_root.resolve().name
    check_constraint(build_baseline(settings, source.domains(settings.datasets)))  # before the folder is this experiment's
    experiment = Experiment.place(settings, results)
    if not experiment.folder.exists():  # the order changes nothing of the network, and one folder is enough
        settings = replace(settings, datasets=[name for name in source.catalog if name in settings.datasets])
        experiment = Experiment.place(settings, results)
    if then_evaluate:
        source.masks_fingerprint(settings.datasets, preprocessing_of(settings, source))  # masks that do not fit are not for after the training
    with process_group(device) as device_here, locked_folder(experiment, source):
        train_experiment(experiment, source, device_here)
        if rank() > 0:
            return
        if then_evaluate:
            evaluate_experiment(experiment, source, device_here)
    if then_evaluate:
        print("\n".join(tell_results(experiment.folder, source.data_root) or ()))
    print(f"results in {experiment.folder}")
    following = ("report", " draws the figures") if then_evaluate else ("evaluate", "")
    print(f"next: maddr {following[0]} {experiment.folder}{following[1]}")
