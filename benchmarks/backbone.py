"""Features of a frozen backbone, an image at a time and in batches: what this project computes, and other ways to compute it, taken in turns.

The largest difference of a feature is relative to the standard deviation of its channel's layer: a way that is faster and computes something else is
no rival.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_detection.components.backbones import find_backbone
from anomaly_detection.components.features import FrozenFeatures
from benchmarks.measure import add_rounds, in_turns, parse, show

Features = dict[str, Tensor]


class Listed(nn.Module):
    """A backbone that gives its layers as a tuple, as exported files do."""

    def __init__(self, network: nn.Module, layers: Sequence[str]):
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features = self.network(x, self.layers)
        return tuple(features[layer] for layer in self.layers)


def ways(frozen: FrozenFeatures, name: str, weights: str, x: Tensor, device: torch.device, wanted: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """By name, what computes the features of x."""
    layers = frozen.layers

    def fresh() -> nn.Module:
        return find_backbone(name, weights).to(device)

    def bfloat16() -> Any:
        network = FrozenFeatures(name, weights, layers, frozen.grid, x.shape[-1], x.shape[1]).to(device).backbone
        network.depthwise = False  # or it would leave autocast there

        def call():
            with torch.autocast(device.type, torch.bfloat16):
                return network(x, layers)

        return call

    def compiled() -> Any:
        step = torch.compile(Listed(frozen.backbone, layers))
        return lambda: dict(zip(layers, step(x), strict=True))

    builders = {
        "project": lambda: partial(frozen.compute, x),
        "in one batch": lambda: partial(frozen.backbone, x, layers),
        "batch norms unfolded": lambda: partial(fresh(), x, layers),
        "channels first": lambda: partial(fresh().to(memory_format=torch.contiguous_format), x, layers),
        "bfloat16": bfloat16,
        "torch.compile": compiled,
        "onnxruntime": lambda: _onnx(Listed(fresh(), layers), x),
    }
    return {way: builders[way]() for way in builders if way in wanted}


WAYS = ("project", "in one batch", "batch norms unfolded", "channels first", "bfloat16", "torch.compile", "onnxruntime")


def _onnx(module: Listed, x: Tensor) -> Callable[[], Features]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "backbone.onnx"
        torch.onnx.export(module.cpu(), (x.cpu(),), path, input_names=["x"], dynamo=True, external_data=False, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda: dict(zip(module.layers, map(torch.from_numpy, session.run(None, {"x": x.cpu().numpy()})), strict=True))


def differences(way: Callable[[], Features], expected: Features) -> float:
    """The largest of a feature, relative to the standard deviation of its layer."""
    features = way()
    return max(float((features[layer].float().cpu() - value).abs().max() / value.std()) for layer, value in expected.items())


@torch.inference_mode()
def rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Of every way at every batch."""
    name, weights = arguments.backbone, arguments.weights
    frozen = FrozenFeatures(name, weights, None, 7, arguments.size, 1).to(arguments.device)
    plain = find_backbone(name, weights).double()
    found = []
    for batch in arguments.batches:
        x = torch.nn.functional.interpolate(torch.rand(batch, 1, 12, 12, generator=torch.Generator().manual_seed(0)), arguments.size, mode="bicubic")
        expected = {layer: value.float() for layer, value in plain(x.double() * 2 - 1, frozen.layers).items()}
        rivals = ways(frozen, name, weights, (x * 2 - 1).to(arguments.device), arguments.device, arguments.ways)
        times = in_turns({way: partial(lambda step: step, step) for way, step in rivals.items()}, arguments.rounds, arguments.steps, arguments.device)
        for way, step in rivals.items():
            row = {"way": way, "batch": batch, "ms an image": 1e3 * times[way] / batch, "times the project's": times[way] / times["project"]}
            found.append(row | {"largest difference": differences(step, expected)})
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_rounds(parser)
    parser.add_argument("--backbone", default="efficientnet_lite0", help="see find_backbone (default: efficientnet_lite0)")
    parser.add_argument("--weights", default="pretrained", help="pretrained, random:SEED, or a file (default: pretrained)")
    parser.add_argument("--size", type=int, default=224, metavar="PIXELS", help="(default: 224)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64], metavar="IMAGES", help="(default: 1 64)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY", help="(default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="timed in each turn (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parse(parser, argv)
    arguments.ways = list(dict.fromkeys(["project", *arguments.ways]))
    show(rows(arguments), arguments.json)


if __name__ == "__main__":
    main()
