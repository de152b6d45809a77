"""What the commands share: common arguments, the choice of a device, and errors told in one line."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from anomaly_detection.allocator import keep_memory
from anomaly_detection.config import Layer, parse_override
from anomaly_detection.data.catalog import PROJECT
from anomaly_detection.errors import UserError

CONFIGS = PROJECT / "configs"


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


def choose_device(name: str) -> torch.device:
    """The device that --device names.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; try --device cpu") from None
    return device


def run(main: Callable[[list[str] | None], int]) -> None:
    """Run a command and leave the process: 0 well, 1 something failed, 2 the user can mend it, 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keep_memory()
    try:
        sys.exit(main(None))
    except UserError as error:
        sys.exit(_told(str(error)))
    except OSError as error:
        sys.exit(
            _told(f"{error.filename or 'a file'}: {error.strerror or error}; nothing that was saved is lost, run the same command again to continue")
        )
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _told(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
