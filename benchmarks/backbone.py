"""Features of a frozen backbone, an image at a time and in batches: what this project computes, and other ways to compute it, taken in turns.

On a CPU the project takes a few images at a time through convolutions that pad and activate on their own, see `components.fused`.

The largest difference of a feature is relative to the standard deviation of its channel's layer: a way that is faster and computes something else is
no rival.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_detection.components.backbones import find_backbone, fold_batch_norms
from anomaly_detection.components.features import FrozenFeatures, chunk_of
from anomaly_detection.components.fused import fuse
from anomaly_detection.MADDR_dpa.rec_losses import FoldedConv
from benchmarks.measure import add_rounds, in_turns, parse, seconds, show

Features = dict[str, Tensor]
Way = Callable[[], Features]
SAME = 1e-3  # a difference that rounding does not explain makes a way another computation


class Listed(nn.Module):
    """A backbone that gives its layers as a tuple, as exported files do."""

    def __init__(self, network: nn.Module, layers: Sequence[str]):
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features = self.network(x, self.layers)
        return tuple(features[layer] for layer in self.layers)


def ways(frozen: FrozenFeatures, name: str, weights: str, x: Tensor, device: torch.device, wanted: Sequence[str]) -> dict[str, tuple[Way, float]]:
    """By name, what computes the features of x, and the seconds that it takes to be ready; what cannot be had here is said."""
    layers = frozen.layers
    chunk = chunk_of(x)

    def fresh() -> nn.Module:
        return find_backbone(name, weights).to(device)

    def folded() -> nn.Module:
        network = fresh()
        fold_batch_norms(network)
        return network

    def channels_first() -> Way:
        network = folded().to(memory_format=torch.contiguous_format)
        for module in network.modules():
            if isinstance(module, FoldedConv):  # gives them innermost, and what follows would go on so
                module.register_forward_hook(lambda module, inputs, features: features.contiguous())
        return partial(_in_chunks, network, x, layers, chunk)

    def bfloat16() -> Way:
        network = folded()
        network.depthwise = False  # or it would leave autocast there

        def call() -> Features:
            with torch.autocast(device.type, torch.bfloat16):
                return _in_chunks(network, x, layers, chunk)

        return call

    def compiled() -> Way:
        step = torch.compile(Listed(folded(), layers), options={"freezing": True} if device.type == "cpu" else None, dynamic=False)
        return lambda: dict(zip(layers, step(x), strict=True))

    builders = {
        "project": lambda: partial(frozen.compute, x),
        "in one batch": lambda: partial(fuse(frozen.backbone, layers, x) if device.type == "cpu" else frozen.backbone, x, layers),
        "channels last": lambda: partial(_in_chunks, frozen.backbone, x, layers, chunk),
        "batch norms unfolded": lambda: partial(_in_chunks, fresh(), x, layers, chunk),
        "channels first": channels_first,
        "bfloat16": bfloat16,
        "torch.compile": compiled,
        "onnxruntime": lambda: by_onnxruntime(fresh(), layers, x),
        "onnxruntime in chunks": lambda: by_onnxruntime(fresh(), layers, x, chunk),
    }
    rivals = {}
    for way in builders:
        if way in wanted:
            try:
                call = builders[way]()
                rivals[way] = call, seconds(call, device)
            except Exception as error:  # whatever a missing package or compiler makes of it
                print(f"{way} is left out: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return rivals


WAYS = (
    "project",
    "in one batch",
    "channels last",
    "batch norms unfolded",
    "channels first",
    "bfloat16",
    "torch.compile",
    "onnxruntime",
    "onnxruntime in chunks",
)


def _in_chunks(network: nn.Module, x: Tensor, layers: Sequence[str], size: int) -> Features:
    parts = [network(part, layers) for part in x.split(size)]
    return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}


def by_onnxruntime(network: nn.Module, layers: Sequence[str], x: Tensor, chunk: int | None = None) -> Way:
    """What computes the features of x, on the CPU: all images at once, or a few at a time. Ends the program where onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        print('error: the limit of a frozen backbone needs onnxruntime: pip install -e ".[onnx]"', file=sys.stderr)
        sys.exit(2)
    module, pixels = Listed(network, layers).cpu(), x.cpu().split(chunk or len(x))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or its idle threads slow down whoever takes the next turn

    def session(part: Tensor) -> Any:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "backbone.onnx"
            torch.onnx.export(module, (part,), path, input_names=["x"], dynamo=True, external_data=False, verbose=False)
            return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    sessions = {len(part): session(part) for part in {len(part): part for part in pixels}.values()}  # the last part may be a smaller one

    def call() -> Features:
        parts = [sessions[len(part)].run(None, {"x": part.numpy()}) for part in pixels]
        return {layer: torch.cat([torch.from_numpy(value) for value in values]) for layer, *values in zip(module.layers, *parts, strict=True)}

    return call


def differences(way: Callable[[], Features], expected: Features) -> float:
    """The largest of a feature, relative to the standard deviation of its layer."""
    features = way()
    return max(float((features[layer].float().cpu() - value).abs().max() / value.std()) for layer, value in expected.items())


@torch.inference_mode()
def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of every way at every batch, the project's first."""
    name, weights = arguments.backbone, arguments.weights
    frozen = FrozenFeatures(name, weights, None, 7, arguments.size, 1).to(arguments.device)
    plain = find_backbone(name, weights).double()
    for batch in arguments.batches:
        x = torch.nn.functional.interpolate(torch.rand(batch, 1, 12, 12, generator=torch.Generator().manual_seed(0)), arguments.size, mode="bicubic")
        x = x * 2 - 1
        parts = [plain(part.double(), frozen.layers) for part in x.split(chunk_of(x))]
        expected = {layer: torch.cat([part[layer] for part in parts]).float() for layer in frozen.layers}
        rivals = ways(frozen, name, weights, x.to(arguments.device), arguments.device, arguments.ways)
        turns = {way: partial(lambda step: step, step) for way, (step, _) in rivals.items()}
        times = in_turns(turns, arguments.rounds, arguments.steps, arguments.device)
        for way, (step, start) in rivals.items():
            row = {"way": way, "batch": batch, "s to begin": start, "ms an image": 1e3 * times[way] / batch}
            yield row | {"times the project's": times[way] / times["project"], "largest difference": differences(step, expected)}


def verdict(table: Sequence[dict[str, Any]]) -> str:
    """Of each batch, the fastest way that computes the same as the project."""
    lines = []
    for batch in dict.fromkeys(row["batch"] for row in table):
        same = [row for row in table if row["batch"] == batch and row["largest difference"] < SAME]
        best = min(same, key=lambda row: row["ms an image"])
        share = best["ms an image"] / same[0]["ms an image"]
        lines.append(f"chosen: project; fastest of the same features at batch {batch}: {best['way']}, {share:.2f} times its time")
    return "\n".join(lines)


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
    table: list[dict[str, Any]] = []
    show((table.append(row) or row for row in rows(arguments)), arguments.json)
    print(verdict(table))


if __name__ == "__main__":
    main()
