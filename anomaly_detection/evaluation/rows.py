"""A line for every validation and test image, and the metrics that follow from these lines alone."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_detection.data.dataset import Domains, ImageSet
from anomaly_detection.evaluation.bootstrap import metric_intervals
from anomaly_detection.evaluation.calibration import Calibration, Verdict
from anomaly_detection.evaluation.metrics import image_metrics, normal_threshold
from anomaly_detection.evaluation.scores import Scores
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file

COLUMNS = (
    "image",
    "dataset",
    "organ",
    "modality",
    "part",
    "label",
    "score",
    "calibrated_score",
    "label_calibrated_score",
    "predicted_organ",
    "predicted_modality",
    "confidence",
    "content_distance",
    "unknown_domain",
)


def check_finite(scores: Scores, images: ImageSet) -> None:
    """Raise UserError with the name of the first image whose score is not a number."""
    finite = np.isfinite(scores.score)
    if not finite.all():
        raise UserError(f"the anomaly score of {images.names[int(np.argmin(finite))]} is not a finite number: the training diverged")


def score_rows(images: ImageSet, part: str, scores: Scores, calibration: Calibration, domains: Domains) -> list[dict[str, Any]]:
    """Lines of scores.csv for one part ("val" or "test") of the data.

    `calibrated_score` takes the domain that the heads name (without heads, all domains as one), `label_calibrated_score` the true one; columns
    that need heads are empty without.
    """
    verdict = calibration.apply(scores)
    by_label = calibration.calibrate(scores.score, images.organ.cpu().numpy(), images.modality.cpu().numpy())
    true = [(domains.organs[organ], domains.modalities[modality]) for organ, modality in zip(images.organ, images.modality, strict=True)]
    return [
        {
            "image": name,
            "dataset": dataset,
            "organ": organ,
            "modality": modality,
            "part": part,
            "label": label,
            "score": float(scores.score[i]),
            "calibrated_score": float(verdict.calibrated[i]),
            "label_calibrated_score": float(by_label[i]),
            **_of_heads(verdict, i, domains),
        }
        for i, (name, dataset, (organ, modality), label) in enumerate(zip(images.names, images.datasets, true, images.label.tolist(), strict=True))
    ]


def _of_heads(verdict: Verdict, i: int, domains: Domains) -> dict[str, Any]:
    if verdict.organ is None:
        return dict.fromkeys(("predicted_organ", "predicted_modality", "confidence", "content_distance", "unknown_domain"), "")
    return {
        "predicted_organ": domains.organs[verdict.organ[i]],
        "predicted_modality": domains.modalities[verdict.modality[i]],
        "confidence": float(verdict.confidence[i]),
        "content_distance": float(verdict.distance[i]),
        "unknown_domain": int(verdict.unknown[i]),
    }


def metrics_of(rows: Sequence[dict[str, Any]], quantile: float) -> dict[str, Any]:
    """Metrics with 95 % bootstrap intervals, each with a threshold from validation normals alone.

    Returns:
        "datasets": {name: metrics}, each with the threshold of its own normals; over all test images with one threshold for all: "pooled" of
        the scores as they are, "pooled_calibrated" of those calibrated in the domain that the heads name (where there are heads), and
        "pooled_label_calibrated" in the true domain. See `image_metrics`; "intervals" holds [low, high] by metric. With heads a dataset's
        metrics also have unknown_normal and unknown_abnormal, the shares of its test images whose domain the network says it does not know.
    """
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    found: dict[str, Any] = {"datasets": {name: _metrics([row for row in rows if row["dataset"] == name], quantile, "score") for name in names}}
    found["pooled"] = _metrics(rows, quantile, "score")
    if rows[0]["predicted_organ"]:
        found["pooled_calibrated"] = _metrics(rows, quantile, "calibrated_score")
        for name, metrics in found["datasets"].items():
            for kind, label in (("normal", 0), ("abnormal", 1)):
                test = [row["unknown_domain"] for row in rows if (row["dataset"], row["part"], row["label"]) == (name, "test", label)]
                metrics[f"unknown_{kind}"] = float(np.mean(test))
    found["pooled_label_calibrated"] = _metrics(rows, quantile, "label_calibrated_score")
    return found


def _metrics(rows: Sequence[dict[str, Any]], quantile: float, column: str) -> dict[str, Any]:
    validation = np.array([row[column] for row in rows if row["part"] == "val"])
    test = [row for row in rows if row["part"] == "test"]
    labels, scores = np.array([row["label"] for row in test]), np.array([row[column] for row in test])
    threshold = normal_threshold(validation, quantile)
    return {**image_metrics(labels, scores, threshold), "intervals": metric_intervals(labels, scores, threshold)}


def write_scores(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write scores.csv."""
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of a scores.csv.

    Raises:
        UserError: it is missing or damaged.
    """
    numbers = {"label": int, "score": float, "calibrated_score": float, "label_calibrated_score": float}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{**row, **{name: kind(row[name]) for name, kind in numbers.items()}} for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not scores as `evaluate` writes them ({error!r}); evaluate the run again") from None
