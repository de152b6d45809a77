"""What every detector of the comparison is run and measured by. The interpreters of other libraries import it: it needs numpy alone."""

import argparse
import csv
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Task(NamedTuple):
    """One training of one detector.

    Attributes:
        exchange: the folder that `exchange.write_exchange` wrote.
        out: a path; the scores go to OUT.csv, what was measured to OUT.json.
        model: of the library.
        on: "vectors", one for each image; "positions", a grid of them; "images".
        seed: of what is drawn.
    """

    exchange: Path
    out: Path
    model: str
    on: str
    seed: int


def read_task(models: Sequence[str]) -> Task:
    """From the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("exchange", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("model", choices=list(models))
    parser.add_argument("on", choices=["vectors", "positions", "images"])
    parser.add_argument("seed", type=int)
    return Task(**vars(parser.parse_args()))


def manifest(exchange: Path) -> list[dict[str, str]]:
    """The images, those to train on first."""
    with open(exchange / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and how many seconds processors worked on it, all threads together: other programs on the machine do not count."""
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


def peak_mib() -> float:
    """The most memory that this program had resident at any time.

    On Linux not getrusage's, which begins with that of the program that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(match[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def report(task: Task, scores: Iterable[float], training_s: float, scoring_s: float, library: str, note: str = "") -> None:
    """Write what a detector says of the images that it was not trained on, in their order, and what that cost.

    Args:
        task: what was run.
        scores: n of them, higher is more abnormal.
        training_s, scoring_s: seconds, see `timed`.
        library: name and version.
        note: weights, and what is no default.
    """
    images = manifest(task.exchange)
    rest = [row["file"] for row in images if row["part"] != "train"]
    with open(task.out.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "score"), *zip(rest, map(float, scores), strict=True)])
    trained = len(images) - len(rest)
    rates = {"training_s": training_s, "trained": trained, "scoring_s": scoring_s, "scored": len(rest)}
    facts = {"library": library, **rates, "peak_mib": peak_mib(), "note": note}
    task.out.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def run_on_features(package: str, models: dict[str, Callable[[int, int], Any]], scores_of: Callable[[Any, np.ndarray], np.ndarray]) -> None:
    """Fit a detector of vectors and score; the score of an image that is a grid of them is their mean, as it is of this project's `gaussian`.

    Args:
        package: as pip knows it.
        models: by name, of the length of the vectors and the seed.
        scores_of: (n,) of a detector and vectors (n, C), higher is more abnormal.
    """
    task = read_task(models)
    features = np.load(task.exchange / f"{task.on}.npy")
    trained = sum(row["part"] == "train" for row in manifest(task.exchange))
    each = features[0, ..., 0].size
    train, rest = (part.reshape(-1, features.shape[-1]) for part in (features[:trained], features[trained:]))
    detector = models[task.model](features.shape[-1], task.seed)
    _, training_s = timed(lambda: detector.fit(train))
    scores, scoring_s = timed(lambda: scores_of(detector, rest).reshape(-1, each).mean(axis=1))
    report(task, scores, training_s, scoring_s, f"{package} {version(package)}")
