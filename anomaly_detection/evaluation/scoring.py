"""A score for every validation and test image, and the metrics that follow from the scores alone."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from anomaly_detection.baseline import Baseline
from anomaly_detection.data.dataset import ImageSet
from anomaly_detection.errors import UserError
from anomaly_detection.evaluation.metrics import image_metrics, normal_threshold
from anomaly_detection.files import whole_file

COLUMNS = ("image", "dataset", "organ", "modality", "part", "label", "score")


@torch.inference_mode()
def anomaly_scores(baseline: Baseline, images: ImageSet, batch_size: int = 256) -> np.ndarray:
    """(N,) float64, in the order of the images; each depends on its image alone.

    Raises:
        UserError: a score is not a number.
    """
    baseline.eval()
    index = torch.arange(len(images), device=images.images.device)
    parts = [baseline.anomaly_score(images.pixels(part)) for part in tqdm(index.split(batch_size), desc="scoring", leave=False, dynamic_ncols=True)]
    scores = torch.cat(parts).double().cpu().numpy()
    if not np.isfinite(scores).all():
        raise UserError(f"the anomaly score of {images.names[int(np.argmin(np.isfinite(scores)))]} is not a finite number: the training diverged")
    return scores


def score_rows(baseline: Baseline, images: ImageSet, part: str, organs: tuple[str, ...], modalities: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of scores.csv for one part ("val" or "test") of the data."""
    columns = (
        images.names,
        images.datasets,
        images.organ.tolist(),
        images.modality.tolist(),
        images.label.tolist(),
        anomaly_scores(baseline, images),
    )
    return [
        dict(zip(COLUMNS, (name, dataset, organs[organ], modalities[modality], part, label, float(score)), strict=True))
        for name, dataset, organ, modality, label, score in zip(*columns, strict=True)
    ]


def metrics_of(rows: list[dict[str, Any]], quantile: float) -> dict[str, Any]:
    """Metrics of every dataset with the threshold of its own validation normals, and over all test images with one threshold for all.

    Returns:
        {"datasets": {name: metrics}, "pooled": metrics}; see `image_metrics`.
    """
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    datasets = {name: _metrics([row for row in rows if row["dataset"] == name], quantile) for name in names}
    return {"datasets": datasets, "pooled": _metrics(rows, quantile)}


def _metrics(rows: list[dict[str, Any]], quantile: float) -> dict[str, float]:
    validation = np.array([row["score"] for row in rows if row["part"] == "val"])
    test = [row for row in rows if row["part"] == "test"]
    labels, scores = np.array([row["label"] for row in test]), np.array([row["score"] for row in test])
    return image_metrics(labels, scores, normal_threshold(validation, quantile))


def write_scores(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write scores.csv."""
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file for people and programs."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
