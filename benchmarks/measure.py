"""Times of rivals taken in turn, the rate that the machine can reach, and tables of both."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from anomaly_detection.registry import BASELINES
from anomaly_detection.system.devices import choose_device
from anomaly_detection.system.files import whole_file
from anomaly_detection.system.memory import keep_memory, release_memory

PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
UNTIMED, LONG = 3, 60.0  # steps before those that are timed, and seconds after which fewer will do
WAVES = 4  # of batches, that are timed of what readers deliver


def add_models(parser: argparse.ArgumentParser) -> None:
    """--models, for a benchmark of several."""
    parser.add_argument("--models", nargs="+", default=list(BASELINES), choices=list(BASELINES), metavar="MODEL", help="(default: all)")


def add_losses(parser: argparse.ArgumentParser) -> None:
    """--losses, for a benchmark of DPA."""
    parser.add_argument("--losses", nargs="+", default=["compose", "l1"], choices=["compose", "l1"], help="of MADDR_dpa (default: both)")


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """--rounds, for a benchmark that takes rivals in turns."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often the rivals take turns (default: 5)")


def benchmark_parser(description: str, *more: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    """--sizes, --batches, --device, --steps, --data-root and --json, and what `more` adds."""
    parser = argparse.ArgumentParser(description=description)
    for add in more:
        add(parser)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128], metavar="PIXELS", help="(default: 64 128)")
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 256], metavar="IMAGES", help="(default: 32 256)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="timed in each turn (default: 3)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="(default: phantoms of 512 pixels, rendered once)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, `device` as a torch.device; to be called before the first tensor, since torch then looks whether to ask for large pages."""
    keep_memory()
    arguments = parser.parse_args(argv)
    arguments.device = choose_device(arguments.device)
    return arguments


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Of one call, its work on the device included."""
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def in_turns(
    rivals: Mapping[str, Callable[[], Callable[[], Any]]], rounds: int, steps: int, device: torch.device, readers: int = 1
) -> dict[str, float]:
    """Median seconds of a step of each rival. In every round each takes its turn, so that a slow minute of the machine meets them all.
    The rival "plain" has the C library's memory as it comes, the others as the project's commands have it; each begins without what others left.

    Args:
        rivals: by name, what begins a turn and returns the step; what it has opened is closed when the step is dropped.
        rounds, steps: turns, and steps timed in each, after some that are not, since memory has to settle: three, or fewer that take a minute.
        readers: processes that read for "plain" alone, see `plain.plain_batches`. They deliver in waves of as many batches, of which the first is
            waited for, the others not. So a turn of "plain" counts with its mean step, over whole waves and four at least, or fewer steps that take
            a minute: steps that are so slow wait for no reader.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, begin in rivals.items():
            keep_memory(name != "plain")
            release_memory()
            step = begin()
            spent = 0.0
            for _ in range(UNTIMED):
                spent += seconds(step, device)
                if spent > LONG:
                    break
            if name == "plain":
                times[name].append(_mean_over_waves(step, steps, readers, device))
            else:
                times[name] += [seconds(step, device) for _ in range(steps)]
            del step
    return {name: statistics.median(each) for name, each in times.items()}


def _mean_over_waves(step: Callable[[], Any], steps: int, readers: int, device: torch.device) -> float:
    spent, done, wanted = 0.0, 0, readers * max(WAVES, -(-steps // readers))
    while done < wanted and (done < steps or spent < LONG):
        spent += seconds(step, device)
        done += 1
    return spent / done


class _Operations(TorchDispatchMode):
    """Adds up operations. (torch's own FlopCounterMode follows modules by hooks, with which the gradient of a gradient fails.)"""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        count = flop_registry.get(function._overloadpacket)
        if count is None:
            with self:  # without autograd the convolutions come in larger pieces
                result = function.decompose(*arguments, **options)
            return function(*arguments, **options) if result is NotImplemented else result
        result = function(*arguments, **options)
        self.total += count(*arguments, **options, out_val=result)
        return result


def operations(step: Callable[[], Any]) -> int:
    """Floating-point operations of the convolutions and matrix products of a step, backward included."""
    with _Operations() as counter:
        step()
    return counter.total


class Peak:
    """The highest rate of a large matrix product seen so far: of torch's `@` or, which another library computes, of a convolution of 1 x 1 pixels.

    Attributes:
        rates: of each precision, in floating-point operations a second.
    """

    def __init__(self, device: torch.device):
        self.device = device
        side = self.side = PEAK_SIDE[device.type]
        self.matrices = [torch.randn(side, side, device=device, dtype=kind) for kind in (torch.float32, torch.bfloat16)]
        self.rates = {matrix.dtype: 0.0 for matrix in self.matrices}

    @property
    def rate(self) -> float:
        """Of the fastest precision."""
        return max(self.rates.values())

    @torch.inference_mode()
    def measure(self) -> Callable[[], Any]:
        """For `in_turns`: try again, in every precision and way."""
        for matrix in self.matrices:
            image = matrix.view(1, self.side, 32, -1).contiguous(memory_format=torch.channels_last)
            kernel = matrix.view(self.side, self.side, 1, 1)
            for product in (lambda m=matrix: m @ m, lambda x=image, k=kernel: torch.nn.functional.conv2d(x, k)):
                fastest = min(seconds(product, self.device) for _ in range(4))
                self.rates[matrix.dtype] = max(self.rates[matrix.dtype], 2 * self.side**3 / fastest)
        return lambda: None


def show(rows: Iterable[Mapping[str, Any]], file: Path | None) -> list[Mapping[str, Any]]:
    """Print rows as a table, each when it is there, write them as JSON where asked, and return them."""
    done: list[Mapping[str, Any]] = []
    for row in rows:
        if not done:
            print("| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
        print("| " + " | ".join(_text(value) for value in row.values()) + " |", flush=True)
        done.append(row)
        if file is not None:
            with whole_file(file) as partial:
                partial.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return done


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
