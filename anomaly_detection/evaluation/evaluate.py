"""From a trained network to all that is known of it: lines, metrics, calibration, and what figures are drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anomaly_detection.baseline import Baseline
from anomaly_detection.data.dataset import DataSource, ImageSet, to_bytes
from anomaly_detection.data.masks import load_masks
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.localisation import pixel_metrics
from anomaly_detection.evaluation.reading import Reading, read
from anomaly_detection.evaluation.scoring import check_finite, metrics_of, score_rows

BATCH = 256
USUAL = 0.995
GALLERY = 3  # images of each kind: the highest and the lowest scored, of normal and of abnormal ones


@dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
        rows: lines of scores.csv, validation images first.
        metrics: see `metrics_of`; datasets with masks have those of `pixel_metrics` beside.
        calibration: of the scores.
        map_scale: the anomaly map's 99.5th percentile over all pixels of the validation normals: what is usual in a normal image.
        details: arrays by name: latent (rows, D); of some images with telling scores gallery_row (places in `rows`), gallery_image and
            gallery_reconstruction (n, C, H, W) uint8, gallery_map (n, H, W).
    """

    rows: list[dict[str, Any]]
    metrics: dict[str, Any]
    calibration: Calibration
    map_scale: float
    details: dict[str, np.ndarray]


def evaluate(baseline: Baseline, source: DataSource, datasets: Sequence[str], quantile: float, device: torch.device) -> Evaluation:
    """Score the validation and test images of some datasets and measure the network on them.

    Raises:
        UserError: images cannot be read, or a score is not a number.
    """
    domains = source.domains(datasets)
    parts = {part: source.load(datasets, part).to(device) for part in ("val", "test")}
    readings = {part: read(baseline, (batch.image for batch in images.batches(BATCH))) for part, images in parts.items()}
    for part, images in parts.items():
        check_finite(readings[part], images)
    val = parts["val"]
    calibration = Calibration.fit(readings["val"], val.organ.cpu().numpy(), val.modality.cpu().numpy(), quantile)
    rows = [row for part, images in parts.items() for row in score_rows(images, part, readings[part], calibration, domains)]
    metrics = metrics_of(rows, quantile)
    for name, values in _pixel_metrics(baseline, source, parts["test"]).items():
        metrics["datasets"][name] |= values
    return Evaluation(rows, metrics, calibration, _map_scale(baseline, val), _details(baseline, parts, readings, rows))


@torch.inference_mode()
def _pixel_metrics(baseline: Baseline, source: DataSource, images: ImageSet) -> Mapping[str, dict[str, float]]:
    """Of each dataset that has masks."""
    baseline.eval()
    found = {}
    names, labels = np.array(images.names), images.label.cpu().numpy()
    for dataset in dict.fromkeys(images.datasets):
        own = np.flatnonzero(np.array(images.datasets) == dataset)
        known = load_masks(names[own].tolist(), labels[own].tolist(), source.catalog[dataset], source.data_root, source.size)
        if known is not None:
            places, masks = known
            batches = (images.batch(index) for index in torch.from_numpy(own[places]).split(BATCH))
            maps = [baseline.anomaly_map(batch.image)[:, 0].float().cpu() for batch in batches]
            found[dataset] = pixel_metrics(torch.cat(maps).numpy(), masks)
    return found


@torch.inference_mode()
def _map_scale(baseline: Baseline, images: ImageSet) -> float:
    maps = [baseline.anomaly_map(batch.image).float().cpu().numpy() for batch in images.batches(BATCH)]
    return float(np.quantile(np.concatenate(maps), USUAL))


@torch.inference_mode()
def _details(baseline: Baseline, parts: dict[str, ImageSet], readings: dict[str, Reading], rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    test, offset = parts["test"], len(parts["val"])
    chosen = torch.tensor(_telling(rows[offset:]))
    seen, made, maps = [], [], []
    for index in chosen.split(BATCH):
        x = test.batch(index).image
        seen.append(x)
        made.append(torch.nn.functional.interpolate(baseline.reconstruct(x).float(), x.shape[2:], mode="nearest"))
        maps.append(baseline.anomaly_map(x)[:, 0].float())
    return {
        "latent": np.concatenate([reading.latent for reading in readings.values()]).astype(np.float32),
        "gallery_row": chosen.numpy() + offset,
        "gallery_image": to_bytes(torch.cat(seen)).cpu().numpy(),
        "gallery_reconstruction": to_bytes(torch.cat(made)).cpu().numpy(),
        "gallery_map": torch.cat(maps).cpu().numpy(),
    }


def _telling(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Places of the images with the highest and the lowest scores, of each dataset and label."""
    groups: dict[tuple[str, int], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault((row["dataset"], row["label"]), []).append(place)
    found = []
    for places in groups.values():
        places.sort(key=lambda place: rows[place]["score"])
        found += dict.fromkeys([*places[-1 : -GALLERY - 1 : -1], *places[:GALLERY]])
    return found
