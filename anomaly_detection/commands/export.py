"""Write a trained network as one file: NAME.onnx, or NAME.pt2 for torch.export."""

import argparse
from pathlib import Path

from anomaly_detection.commands.arguments import add_trained


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `export`."""
    add_trained(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="NAME.onnx or NAME.pt2")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the file and compare it with PyTorch.

    Raises:
        UserError: it cannot be written, or computes something else.
    """
    from anomaly_detection.detector import load
    from anomaly_detection.export import export

    differences = export(load(arguments.trained, "cpu"), arguments.file)
    told = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"{arguments.file} written; differences from PyTorch on images of three sizes, relative: {told}")
