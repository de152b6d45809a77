"""From a trained network to all that is known of it: lines, metrics, calibration, and what figures are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anomaly_detection.baseline import Baseline
from anomaly_detection.data.dataset import DataSource, ImageSet
from anomaly_detection.data.masks import load_masks
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.gallery import Gallery
from anomaly_detection.evaluation.localisation import UpperQuantile, pixel_metrics
from anomaly_detection.evaluation.rows import check_finite, metrics_of, score_rows
from anomaly_detection.evaluation.scores import Scores, assessments

USUAL = 0.995

Masks = dict[str, tuple[np.ndarray, np.ndarray]]  # dataset: places of images in their set, masks (M, H, W)


@dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
        rows: lines of scores.csv, validation images first.
        metrics: see `metrics_of`; datasets with masks have those of `pixel_metrics` beside.
        calibration: of the scores.
        map_scale: the anomaly map's 99.5th percentile over all pixels of the validation normals: what is usual in a normal image.
        details: arrays by name: latent (rows, D), and those of `Gallery.arrays`: of each dataset and label the test images with telling scores.
    """

    rows: list[dict[str, Any]]
    metrics: dict[str, Any]
    calibration: Calibration
    map_scale: float
    details: dict[str, np.ndarray]


def evaluate(
    baseline: Baseline,
    source: DataSource,
    preprocessing: Mapping[str, Preprocessing],
    quantile: float,
    device: torch.device,
    memory_mib: int = 4096,
) -> Evaluation:
    """Score the validation and test images of some datasets and measure the network on them. Each image passes through the network once.

    Args:
        baseline: trained, on the device.
        source: of the images.
        preprocessing: of each dataset.
        quantile: of the calibrated scores of validation normals, which becomes the threshold.
        device: where it is computed.
        memory_mib: see `DataSource.load`.

    Raises:
        UserError: images cannot be read, or a score is not a number.
    """
    datasets = list(preprocessing)
    domains = source.domains(datasets)
    val, test = (source.load(datasets, part, preprocessing, memory_mib).to(device) for part in ("val", "test"))
    masks = _known_masks(source, preprocessing, test)
    val_scores, map_scale = _look_at_normals(baseline, val)
    test_scores, maps, gallery = _look_at_tests(baseline, test, masks)
    calibration = Calibration.fit(val_scores, val.organ.cpu().numpy(), val.modality.cpu().numpy(), quantile)
    parts = (("val", val, val_scores), ("test", test, test_scores))
    rows = [row for part, images, scores in parts for row in score_rows(images, part, scores, calibration, domains)]
    metrics = metrics_of(rows, quantile)
    for name in masks:
        metrics["datasets"][name] |= pixel_metrics(maps[name], masks[name][1])
    latent = np.concatenate([val_scores.latent, test_scores.latent]).astype(np.float32)
    return Evaluation(rows, metrics, calibration, map_scale, {"latent": latent, **gallery.arrays(offset=len(val))})


def _known_masks(source: DataSource, preprocessing: Mapping[str, Preprocessing], images: ImageSet) -> Masks:
    """Of each dataset that has masks."""
    known: Masks = {}
    names, labels, datasets = np.array(images.names), images.label.cpu().numpy(), np.array(images.datasets)
    for dataset in dict.fromkeys(images.datasets):
        places = np.flatnonzero(datasets == dataset)
        folder = source.data_root / source.catalog[dataset].root
        masks = load_masks(names[places].tolist(), labels[places].tolist(), folder, preprocessing[dataset])
        if masks is not None:
            known[dataset] = places[masks[0]], masks[1]
    return known


def _look_at_normals(baseline: Baseline, images: ImageSet) -> tuple[Scores, float]:
    """The scores of validation normals, and what their maps seldom exceed."""
    parts, usual = [], UpperQuantile(len(images) * int(np.prod(images.images.shape[2:])), USUAL)
    for _, assessment in assessments(baseline, images):
        parts.append(Scores.of(baseline, assessment))
        usual.add(assessment.map.float().cpu().numpy())
    scores = Scores.joined(parts)
    check_finite(scores, images)
    return scores, usual.value()


def _look_at_tests(baseline: Baseline, images: ImageSet, masks: Masks) -> tuple[Scores, dict[str, np.ndarray], Gallery]:
    """The scores of test images, the maps (M, H, W) of those with known masks by dataset, and the gallery."""
    parts, gallery = [], Gallery()
    maps = {name: np.empty(known.shape, np.float32) for name, (_, known) in masks.items()}
    groups = list(zip(images.datasets, images.label.tolist(), strict=True))
    for batch, assessment in assessments(baseline, images):
        parts.append(Scores.of(baseline, assessment))
        places = batch.index.cpu().numpy()
        gallery.add(places.tolist(), [groups[place] for place in places], batch.image, assessment)
        batch_maps = assessment.map[:, 0].float().cpu().numpy()
        for name, (known, _) in masks.items():
            maps[name][np.isin(known, places)] = batch_maps[np.isin(places, known)]
    scores = Scores.joined(parts)
    check_finite(scores, images)
    return scores, maps, gallery
