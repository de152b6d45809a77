"""Arguments that commands share."""

import argparse
from pathlib import Path

from anomaly_detection.config.layers import Layer, parse_override


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """--data-root, --results, --set and --device."""
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of the datasets (default: ./data); where it holds a datasets.yaml or folds/ of its own, these are used",
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="where results go (default: results/NAME after the data)")
    add_set(parser, "override a setting of the config, such as --set lr=0.0005 or --set baseline.latent_dim=64; repeatable")
    add_device(parser)


def add_set(parser: argparse.ArgumentParser, text: str) -> None:
    """--set KEY=VALUE; `override_layers` makes settings of it."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """--workers, of work on many files."""
    parser.add_argument("--workers", type=positive, metavar="N", help="processes (default: one for each processor)")


def positive(text: str) -> int:
    """A number from 1 on, as the type of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device; `choose_device` makes a device of it."""
    parser.add_argument("--device", default="auto", help="auto (the GPU where there is one), cpu, cuda, cuda:1 ... (default: auto)")


def add_trained(parser: argparse.ArgumentParser) -> None:
    """The network that a command uses, as `load` takes it."""
    parser.add_argument("trained", type=Path, metavar="RUN", help="the folder of an experiment, .../seed_0, or the checkpoint.pt in it")


def override_layers(overrides: list[str]) -> list[Layer]:
    """One layer of settings for each --set."""
    return [parse_override(text) for text in overrides]
