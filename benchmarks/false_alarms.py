"""What is promised of new normal patients beside what happens: simulated patients of three domains, calibrated by N of each, and fresh ones.

Fresh patients have as many images as those that calibrate, since the promise is made to such ones alone. A patient counts as called anomalous, or as
unknown, where any of the images is.

Training scores are lower than validation scores, slices of a patient are correlated, content has 108 features.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.known import SHARE
from benchmarks.measure import show
from tests.evaluation.simulation import simulated

ALPHA = 0.05


def observed(patients: int, slices: int, seed: int, features: int = 108) -> tuple[float, float, bool, bool]:
    """Shares of fresh patients with an image that is called anomalous or is unknown, and whether the one and the other is guaranteed."""
    rng = np.random.default_rng(seed)
    train = simulated(rng, 40, 10, features, shift=-0.3)
    calibration = Calibration.fit(train, simulated(rng, patients, slices, features), ALPHA)
    fresh = simulated(rng, 100, slices, features)
    verdict = calibration.apply(fresh.scores)
    calls = verdict.anomalous, np.array([bool(reason) for reason in verdict.unknown])
    anomalous, unknown = (len(np.unique(fresh.unit[called])) / len(np.unique(fresh.unit)) for called in calls)
    return anomalous, unknown, bool(verdict.guaranteed.all()), calibration.known.guaranteed


def rows(patients: Sequence[int], slices: Sequence[int], simulations: int) -> Iterator[dict[str, Any]]:
    """One for each number of patients and of slices: means over the simulations, ± twice their standard error."""
    for count in patients:
        for images in slices:
            runs = [observed(count, images, seed) for seed in tqdm(range(simulations), desc=f"{count} x {images}", disable=None)]
            anomalous, unknown, *guaranteed = zip(*runs, strict=True)
            row = {"patients": count, "slices": images}
            for name, promised, values, sure in (("anomalous", ALPHA, anomalous, guaranteed[0]), ("unknown", 2 * SHARE, unknown, guaranteed[1])):
                row[f"{name} (promised {promised})"] = f"{np.mean(values):.4f} ± {2 * np.std(values) / np.sqrt(len(runs)):.4f}"
                row[f"{name} guaranteed"] = "yes" if sure[0] else "no"
            yield row


def main(argv: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_alarms", description=__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[2, 12, 20, 36, 100, 300], help="validation patients of each domain")
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 8], help="images of each")
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--json", type=Path, help="file for the same numbers")
    arguments = parser.parse_args(argv)
    show(rows(arguments.patients, arguments.slices, arguments.simulations), arguments.json)


if __name__ == "__main__":
    main()
