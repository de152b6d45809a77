"""Train one network, then score it."""

import argparse

from anomaly_detection.commands.train import add_arguments, train


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `train_eval`, which are those of `train`."""
    add_arguments(parser)
    parser.set_defaults(run=lambda arguments: train(arguments, then_evaluate=True))
