"""Images a second that training is given: from PNG files by the workers of a DataLoader, and from the project's arrays, taken in turns.

The project reads every file once: images_per_second_first is the rate of that reading, which no later start repeats.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from anomaly_detection.data.order import ShuffledIndices
from benchmarks.cases import benchmark_images
from benchmarks.measure import WAVES, add_rounds, benchmark_parser, parse, seconds, show
from benchmarks.plain import AHEAD, READERS, PlainImages, plain_batches
from benchmarks.scaling import load_many, write_many


def row(size: int, batch: int, arguments) -> dict[str, Any]:
    """Of one size of images and batches."""
    images, paths = benchmark_images(arguments.data_root, size)
    files, held = PlainImages(paths, images.organ, images.modality, size), images.to(arguments.device)
    indices = ShuffledIndices(len(images), seed=0)
    count = max(1, 50 * arguments.steps * 32 // batch)
    rates: dict[str, list[float]] = {"plain": [], "project": []}
    for _ in range(arguments.rounds):
        batches = plain_batches(files, batch, arguments.device)
        next(batches)  # the workers have started
        several = max(count // 10, WAVES * READERS * AHEAD)  # of those that the workers make beforehand, so that these are no matter
        rates["plain"].append(_rate(lambda batches=batches: next(batches), several, batch, arguments.device))
        del batches
        rates["project"].append(_rate(lambda: held.batch(indices.take(batch)), count, batch, arguments.device))
    plain, project = statistics.median(rates["plain"]), statistics.median(rates["project"])
    return {
        "size": size,
        "batch": batch,
        "device": arguments.device.type,
        "images_per_second_plain": plain,
        "images_per_second_first": _first_reading(paths, size),
        "images_per_second": project,
        "speedup": project / plain,
    }


def _rate(step: Callable[[], Any], steps: int, batch: int, device: torch.device) -> float:
    return steps * batch / seconds(lambda: [step() for _ in range(steps)], device)


def _first_reading(paths: list[Path], size: int) -> float:
    """Images a second from files of which no array is kept yet."""
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".many") as folder:
        root = Path(folder) / "data"
        write_many(root, paths, len(paths))
        started = time.perf_counter()
        load_many(root, size)
        return len(paths) / (time.perf_counter() - started)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    arguments = parse(benchmark_parser(__doc__, add_rounds), argv)
    show((row(size, batch, arguments) for size in arguments.sizes for batch in arguments.batches), arguments.json)


if __name__ == "__main__":
    main()
