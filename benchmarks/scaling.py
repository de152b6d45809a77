"""Time and memory against the number of images, each number in a process of its own: of training, or, with --prepare, of `maddr prepare folder`.

The images of training are phantoms under many names (links to the same files), so that every one of them is read and decoded. Those of `prepare` are
files of their own, of 256 x 256 pixels, 50 of each patient, every fifth patient ill, with masks.
"""

import argparse
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from anomaly_detection.data.dataset import DataSource, ImageSet
from anomaly_detection.data.formats.pictures import read_picture, write_png
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.memory import keep_memory
from anomaly_detection.system.processes import processors
from benchmarks.cases import Case, Project, benchmark_images
from benchmarks.measure import show

DATASET = {"root": "many", "label": 0, "organ": "body", "modality": "image"}


def write_many(root: Path, files: list[Path], count: int) -> None:
    """A data root with one dataset of `count` training images."""
    (root / "many").mkdir(parents=True)
    folds = root / "folds" / "train_test_split" / "normal"
    folds.mkdir(parents=True)
    names = [f"{i:07d}.png" for i in range(count)]
    for i, name in enumerate(names):
        os.link(files[i % len(files)], root / "many" / name)
    (folds / "train").write_text("".join(f"{name} many\n" for name in names), encoding="utf-8")
    (root / "datasets.yaml").write_text(yaml.safe_dump({"many": DATASET}), encoding="utf-8")


def load_many(root: Path, size: int, memory_mib: int = 4096) -> ImageSet:
    """The images of `write_many`."""
    source = DataSource(root)
    return source.load(["many"], "train", source.preprocessing(["many"], size, 1), memory_mib)


def measure(root: Path, steps: int, memory_mib: int) -> dict[str, Any]:
    """In this process: start, then steps of DPA with MADDR at 64 pixels and batch 32."""
    keep_memory()
    started = time.perf_counter()
    images = load_many(root, 64, memory_mib)
    loaded = time.perf_counter() - started
    project = Project(Case("MADDR_dpa", "l1", 64, 32), images, torch.device("cpu"))
    step = project.step(project.baseline.phases()[0])
    for _ in range(5):
        step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return {"seconds_start": loaded, "steps_per_second": steps / (time.perf_counter() - started), **_memory(), "mapped": images.window is not None}


def _memory() -> dict[str, float]:
    """Resident MiB of this process now, and the highest so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("resident_mib", "VmRSS"), ("peak_mib", "VmHWM"))}


def _in_process(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scaling", "--measure", str(root)]
    command += ["--steps", str(arguments.steps), "--memory-mib", str(arguments.memory_mib)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def row(count: int, files: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Of one number of images: of a start that reads all files and of the next, which is timed."""
    with tempfile.TemporaryDirectory(dir=files[0].parent, prefix=".many") as folder:
        root = Path(folder) / "data"
        write_many(root, files, count)
        first, second = (_in_process(root, arguments) for _ in range(2))
    return {"images": count, "image_mib": count * 64 * 64 / 2**20, "seconds_first_start": first["seconds_start"], **second}


def write_pictures(folder: Path, count: int) -> list[Path]:
    """`count` images without their masks, below normal/, abnormal/ and masks/ of a folder; their paths.

    No two have the same pixels, nor have they as networks take them, of 64 pixels a side: the number of each stands in its upper edge.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(1, 256, (20, 16, 16), np.uint8)
    bodies = [np.array(Image.fromarray(each).resize((256, 256), Image.Resampling.BICUBIC)) for each in coarse]
    lesion = np.zeros((256, 256), np.uint8)
    lesion[50:90, 50:90] = 255
    paths = []
    for number in range(count):
        patient = number // 50
        ill = patient % 5 == 0
        body = bodies[number % len(bodies)]
        body[:8] = np.kron(np.unpackbits(np.frombuffer(number.to_bytes(4, "big"), np.uint8)) * 255, np.ones((8, 8), np.uint8))
        for kind, pixels in [("abnormal", body), ("masks", lesion)] if ill else [("normal", body)]:
            path = folder / kind / f"p{patient:06d}" / f"{number:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=1)
            if kind != "masks":
                paths.append(path)
    return paths


def prepare_command(source: Path, root: Path) -> list[str]:
    """`maddr prepare folder` of what `write_pictures` wrote into a folder."""
    command = [sys.executable, "-m", "anomaly_detection", "-q", "prepare", "folder", "many", "--organ", "body", "--modality", "image"]
    command += ["--patient", "(p[0-9]+)/"]  # a lone patient's folder would count as none
    return [*command, *(word for kind in ("normal", "abnormal", "masks") for word in (f"--{kind}", str(source / kind))), "--data-root", str(root)]


def cost(command: list[str]) -> tuple[float, float]:
    """Seconds of a command, and MiB of the largest of its processes; what it prints is dropped.

    A small process starts it: to begin with, the system counts the memory of whoever starts one as the new one's.
    """
    started = subprocess.run([sys.executable, "-S", "-c", _WATCH, *command], stdout=subprocess.PIPE, text=True)
    if started.returncode:
        raise SystemExit(f"{' '.join(command)}: failed")
    seconds, kib = map(float, started.stdout.split())
    return seconds, kib / 1024


_WATCH = """
import resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def _seconds_of_images(paths: list[Path]) -> float:
    """Of reading, resizing and writing one image, with no disk to wait for, on one core; masks and checksums are not in it."""
    stored = Preprocessing(size=256)
    started = time.perf_counter()
    for path in paths:
        write_png(stored.store(read_picture(path, None)), io.BytesIO())
    return (time.perf_counter() - started) / len(paths)


def prepare_row(count: int, before: dict[str, Any] | None) -> dict[str, Any]:
    """Of one number of images.

    Args:
        count: how many.
        before: the row of fewer images, from which `slope` goes, 1 where time grows as their number does, and `ms_each_more`, without the start.
    """
    with tempfile.TemporaryDirectory(dir=".", prefix=".many") as folder:
        paths = write_pictures(Path(folder) / "source", count)
        command = prepare_command(Path(folder) / "source", Path(folder) / "data")
        seconds, mib = cost(command)
        again, _ = cost(command)
        least = _seconds_of_images(paths[:: max(1, count // 300)]) * count / processors()
    slope = each_more = None
    if before is not None:
        slope = math.log(seconds / before["seconds"]) / math.log(count / before["images"])
        each_more = 1e3 * (seconds - before["seconds"]) / (count - before["images"])
    return {
        "images": count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "over_images": seconds / least,
        "slope": slope,
        "ms_each_more": each_more,
        "seconds_again": again,
        "peak_mib": mib,
    }


def prepare_rows(counts: list[int]) -> Iterator[dict[str, Any]]:
    """Of each number of images, from the smallest."""
    before = None
    for count in sorted(counts):
        before = prepare_row(count, before)
        yield before


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", nargs="+", type=int, default=[1000, 10_000, 100_000], metavar="N", help="(default: 1000 10000 100000)")
    parser.add_argument("--prepare", action="store_true", help="of `maddr prepare folder`, instead of training")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="timed (default: 100)")
    parser.add_argument("--memory-mib", type=int, default=64, metavar="M", help="budget of the images (default: 64)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="(default: phantoms of 512 pixels, rendered once)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--measure", type=Path, metavar="ROOT", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments.steps, arguments.memory_mib)))
        return
    if arguments.prepare:
        show(prepare_rows(arguments.images), arguments.json)
        return
    _, files = benchmark_images(arguments.data_root, 64)
    show((row(count, files, arguments) for count in arguments.images), arguments.json)


if __name__ == "__main__":
    main()
