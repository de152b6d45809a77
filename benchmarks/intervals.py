"""How often a 95 % interval holds the true AUROC of 0.75: simulated patients with slices that are alike, of one class each or of both."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm
from tqdm import tqdm

from anomaly_detection.evaluation.bootstrap import metric_intervals
from benchmarks.measure import show

AUROC = 0.75


def simulated(rng: np.random.Generator, patients: int, slices: int, correlation: float, both: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, scores and patients of so many patients a class, of whom `both` have slices of both classes.

    The scores of two slices of one patient have the given correlation.
    """
    layout = [(number, label) for label in (0, 1) for number in range(patients)]
    names = [f"P{number}" if number < both else f"P{number}.{label}" for number, label in layout for _ in range(slices)]
    labels = np.repeat([label for _, label in layout], slices)
    unit = np.unique(names, return_inverse=True)[1]
    own = rng.normal(size=len(labels))
    scores = np.sqrt(correlation) * rng.normal(size=unit.max() + 1)[unit] + np.sqrt(1 - correlation) * own
    return labels, scores + np.sqrt(2) * norm.ppf(AUROC) * labels, names


def coverage(patients: int, slices: int, correlation: float, both: int, simulations: int, known: bool = True) -> float:
    """The share of simulations whose interval holds the true AUROC; not `known`: of intervals over images."""
    hits = 0
    for seed in tqdm(range(simulations), desc=f"{patients} patients, {both} of both classes, correlation {correlation}", disable=None):
        labels, scores, names = simulated(np.random.default_rng(seed), patients, slices, correlation, both)
        units = names if known else [None] * len(names)
        low, high = metric_intervals(labels, scores, scores > 0, units)["auroc"]
        hits += low <= AUROC <= high
    return hits / simulations


def rows(patients: Sequence[int], slices: int, correlations: Sequence[float], simulations: int) -> Iterator[dict[str, Any]]:
    """One for each case."""
    for count in patients:
        for both in (0, count // 2, count):
            for correlation in correlations:
                yield {
                    "patients a class": count,
                    "of both classes": both,
                    "slices": slices,
                    "correlation": correlation,
                    "over patients": coverage(count, slices, correlation, both, simulations),
                    "over images": coverage(count, slices, correlation, both, simulations, known=False),
                }


def main(argv: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intervals", description=__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[13, 6], help="of each class")
    parser.add_argument("--slices", type=int, default=20, help="of each patient and class")
    parser.add_argument("--correlations", type=float, nargs="+", default=[0.0, 0.3, 0.6])
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--json", type=Path, help="file for the same numbers")
    arguments = parser.parse_args(argv)
    show(rows(arguments.patients, arguments.slices, arguments.correlations, arguments.simulations), arguments.json)


if __name__ == "__main__":
    main()
