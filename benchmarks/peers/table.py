"""From what detectors said of validation and test images to a row of the table."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from anomaly_detection.evaluation.normals import limit
from anomaly_detection.study.comparison import Scored, differences, intervals_over_seeds, scored
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.lines import Lines
from benchmarks.peers.measured import manifest

QUANTILE = 0.95  # of all validation normals together, which one threshold for all datasets is to leave below it
# of a row, behind those of the datasets
COLUMNS = (
    "mean",
    "minus the first",
    "pooled",
    "false alarms, %",
    "sensitivity, %",
    "training, images/CPU s",
    "scoring, images/CPU s",
    "peak MiB",
    "seeds",
)


def read_run(exchange: Path, path: Path) -> Lines:
    """What a CSV says of the images that nothing was trained on: part, dataset, label, image, patient and score.

    Raises:
        UserError: it says nothing of some, or no finite number.
    """
    with open(path, newline="", encoding="utf-8") as file:
        scores = {row["file"]: float(row["score"]) for row in csv.DictReader(file)}
    rest = [row for row in manifest(exchange) if row["part"] != "train"]
    wrong = [row["file"] for row in rest if not np.isfinite(scores.get(row["file"], np.nan))]
    if wrong:
        raise UserError(f"{path}: no finite score of {wrong[0]} and {len(wrong) - 1} more")
    return Lines.of({**row, "label": int(row["label"]), "patient": row["patient"] or None, "score": scores[row["file"]]} for row in rest)


def by_dataset(runs: Sequence[Lines]) -> dict[str, list[Scored]]:
    """Of each dataset its test images as each seed scored them, called at the one threshold of all."""
    return {name: [scored(rows, name, called=threshold(rows)) for rows in runs] for name in dict.fromkeys(runs[0].column("dataset"))}


def threshold(rows: Lines) -> float:
    """One for all datasets."""
    return limit(rows.where(part="val").column("score"), 1 - QUANTILE)


def quality(runs: Sequence[Lines], reference: Sequence[Lines]) -> dict[str, str]:
    """Cells of a row.

    Args:
        runs: one for each seed.
        reference: of one seed or of as many, of the detector that is compared with.

    Returns:
        AUROC of each dataset with its interval over patients and seeds, their mean, the mean minus the reference's (paired), AUROC of all images
        together; and at one threshold, in percent by dataset, false alarms among normal images, and sensitivity.
    """
    datasets = by_dataset(runs)
    other = by_dataset(reference if len(reference) == len(runs) else [reference[0]] * len(runs))
    cells, means = {}, []
    for name, trainings in datasets.items():
        values = [each.auroc for each in trainings]
        low, high = intervals_over_seeds(trainings, {"auroc": values})["auroc"]
        cells[name] = f"{mean(values):.3f} [{low:.2f}, {high:.2f}]"
        means.append(mean(values))
    pooled = mean(scored(rows, called=threshold(rows)).auroc for rows in runs)
    minus = "" if runs is reference else str(differences(datasets, other)["mean"])
    rates = {label: " / ".join(f"{100 * _called(trainings, label):.0f}" for trainings in datasets.values()) for label in (0, 1)}
    return cells | {
        "mean": f"{mean(means):.3f}",
        "minus the first": minus,
        "pooled": f"{pooled:.3f}",
        "false alarms, %": rates[0],
        "sensitivity, %": rates[1],
    }


def _called(trainings: Sequence[Scored], label: int) -> float:
    """The share of images of one label that is called abnormal, mean over seeds."""
    return mean(float(each.called[each.labels == label].mean()) for each in trainings)


def cost(facts: Sequence[Mapping[str, Any]], feature_s: float) -> dict[str, Any]:
    """Cells of a row: images a second of processor time in training, each counted once, and in scoring; the most memory; the number of seeds.

    Args:
        facts: of each seed, see `measured.report`.
        feature_s: seconds for the features of an image, where the detector was given them.
    """
    training, scoring = (
        mean(1 / (each[f"{kind}_s"] / each[count] + feature_s) for each in facts) for kind, count in (("training", "trained"), ("scoring", "scored"))
    )
    peak = max(each["peak_mib"] for each in facts)
    return {"training, images/CPU s": round(training, 1), "scoring, images/CPU s": round(scoring, 1), "peak MiB": round(peak), "seeds": len(facts)}
