"""What the commands share: common arguments, the choice of a device, and errors told in one line."""

import argparse
from pathlib import Path

from anomaly_detection.config.layers import Layer, parse_override


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """--data-root, --results, --set and --device."""
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of the datasets (default: ./data); where it holds a datasets.yaml or folds/ of its own, these are used",
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="where results go (default: results/NAME after the data)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting of the config, such as --set lr=0.0005 or --set baseline.latent_dim=64; repeatable",
    )
    parser.add_argument("--device", default="auto", help="auto (the GPU where there is one), cpu, cuda, cuda:1 ... (default: auto)")


def override_layers(overrides: list[str]) -> list[Layer]:
    """One layer of settings for each --set."""
    return [parse_override(text) for text in overrides]
