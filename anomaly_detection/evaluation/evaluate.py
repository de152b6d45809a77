"""From a trained network to all that is known of it: lines, metrics, calibration, and what figures are drawn from."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_detection.baseline import Baseline
from anomaly_detection.data.arrays import cache_folder
from anomaly_detection.data.dataset import DataSource, ImageSet, to_bytes
from anomaly_detection.data.masks import LesionMasks
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.splits import NO_ABNORMAL, Part
from anomaly_detection.data.twins import load_twins
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.gallery import Gallery
from anomaly_detection.evaluation.localisation import UpperQuantile, pixel_metrics
from anomaly_detection.evaluation.map_file import MapFile
from anomaly_detection.evaluation.normals import Normals, needed, numbered
from anomaly_detection.evaluation.pooling import patient_rows
from anomaly_detection.evaluation.rows import check_finite, metrics_of, score_rows
from anomaly_detection.evaluation.scores import BATCH, Scores, assessments, score_images
from anomaly_detection.evaluation.twins import twin_metrics, twin_rows
from anomaly_detection.system.lines import Lines

logger = logging.getLogger(__name__)

USUAL = 0.995
TRAINING_IMAGES = 2000

Masks = dict[str, LesionMasks]  # by dataset; their places are those in the set of all test images
Maps = dict[str, np.ndarray]  # by dataset (M, H, W), of the same images


@dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
        rows: lines of scores.csv, validation images first.
        patients: lines of patients.csv.
        twins: lines of twins.csv; none where the data have no twins.
        metrics: see `metrics_of`; datasets with masks have those of `pixel_metrics` beside, those with twins those of `twin_metrics`.
        calibration: of the scores.
        map_scale: the anomaly map's 99.5th percentile over all pixels of the validation normals: what is usual in a normal image.
        details: arrays by name: latent (rows, D), and those of `Gallery.arrays`: of each dataset and label the test images with telling scores;
            where none of these is reconstructed, gallery_nearest (n, C, H, W) uint8, the training image whose latent is nearest to each; where
            there are masks, gallery_mask (n, H, W) bool, which is empty of an image without one.
    """

    rows: Lines
    patients: list[dict[str, Any]]
    twins: list[dict[str, Any]]
    metrics: dict[str, Any]
    calibration: Calibration
    map_scale: float
    details: dict[str, np.ndarray]


def evaluate(
    baseline: Baseline,
    source: DataSource,
    preprocessing: Mapping[str, Preprocessing],
    alpha: float,
    device: torch.device,
    memory_mib: int = 4096,
) -> Evaluation:
    """Score the images of some datasets and measure the network on the test images. Each image passes through the network once.

    Of the training images, whose scores help where validation images are few, `TRAINING_IMAGES` of a dataset at most are looked at.

    Args:
        baseline: trained, on the device.
        source: of the images.
        preprocessing: of each dataset.
        alpha: the rate of false alarms that is aimed at.
        device: where it is computed.
        memory_mib: see `DataSource.load`.

    Raises:
        UserError: images cannot be read, or a score is not a number.
    """
    datasets = list(preprocessing)
    domains = source.domains(datasets)
    train, val, test = (source.load(datasets, part, preprocessing, memory_mib).to(device) for part in ("train", "val", "test"))
    masks = _known_masks(source, preprocessing, test)
    patients = {part: source.patients(images) for part, images in (("train", train), ("val", val), ("test", test))}
    normals = look_at_normals(baseline, train, val, patients, alpha)
    calibration = normals.calibration
    test_scores, maps, gallery = _look_at_tests(baseline, test, masks, source.data_root)
    parts: tuple[tuple[Part, ImageSet, Scores], ...] = (("val", val, normals.val_scores), ("test", test, test_scores))
    rows = Lines.of(row for part, images, scores in parts for row in score_rows(images, patients[part], part, scores, calibration, domains))
    metrics = metrics_of(rows, calibration, domains)
    _warn_of_few(metrics, alpha)
    _warn_of_normals_alone(metrics)
    for name in masks:
        metrics["datasets"][name] |= pixel_metrics(maps[name], masks[name])
    pairs = _look_at_twins(baseline, source, preprocessing, test, test_scores.score, maps, masks)
    _add_twin_metrics(metrics, pairs, rows)
    latent = np.concatenate([normals.val_scores.latent, test_scores.latent]).astype(np.float32)
    seen = gallery.arrays()
    places = seen["gallery_row"]
    details = {"latent": latent, **seen, "gallery_row": len(val) + places, **_gallery_masks(places, masks)}
    if "gallery_reconstruction" not in details:
        nearest = normals.chosen[nearest_rows(normals.train_scores.latent, latent[details["gallery_row"]])]
        details["gallery_nearest"] = to_bytes(train.batch(torch.from_numpy(nearest)).image).cpu().numpy()
    return Evaluation(rows, patient_rows(rows, calibration, domains), pairs, metrics, calibration, normals.map_scale, details)


@dataclass(frozen=True)
class NormalsSeen:
    """What a network says of training and validation normals.

    Attributes:
        calibration, map_scale: see `Evaluation`.
        val_scores, train_scores: of all validation images, and of the training images that were looked at.
        chosen: (n,) places of the latter.
    """

    calibration: Calibration
    map_scale: float
    val_scores: Scores
    train_scores: Scores
    chosen: np.ndarray


def look_at_normals(baseline: Baseline, train: ImageSet, val: ImageSet, patients: Mapping[Part, Sequence[str | None]], alpha: float) -> NormalsSeen:
    """Calibrate a network on normals: all that a trained network needs beside its weights.

    Args:
        baseline: trained, on the device of the image sets.
        train, val: normal images of the same domains.
        patients: whose each image of the parts train and val is; None where that is not known.
        alpha: the rate of false alarms that is aimed at.

    Raises:
        UserError: a score is not a number.
    """
    val_scores, map_scale = _look_at_validation(baseline, val)
    chosen = _evenly(train)
    train_scores = score_images(baseline, (train.batch(index).image for index in torch.from_numpy(chosen).split(BATCH)))
    of_train, of_val = _normals(train_scores, train, patients["train"], chosen), _normals(val_scores, val, patients["val"])
    return NormalsSeen(Calibration.fit(of_train, of_val, alpha), map_scale, val_scores, train_scores, chosen)


def _look_at_twins(
    baseline: Baseline,
    source: DataSource,
    preprocessing: Mapping[str, Preprocessing],
    test: ImageSet,
    scores: np.ndarray,
    maps: Maps,
    masks: Masks,
) -> list[dict[str, Any]]:
    """Lines of twins.csv; none where the data have no twins."""
    twins = load_twins(source, test, preprocessing)
    if twins is None:
        return []
    known = _numbers(masks)

    def marked(place: int) -> tuple[np.ndarray, np.ndarray] | None:
        name, number = known.get(place, (None, None))
        return None if name is None else (maps[name][number], masks[name][number])

    return twin_rows(baseline, twins, scores, marked)


def _numbers(masks: Masks) -> dict[int, tuple[str, int]]:
    """Of the places of images with known masks, the dataset and the number among its masks."""
    return {place: (name, number) for name, known in masks.items() for number, place in enumerate(known.places.tolist())}


def _add_twin_metrics(metrics: dict[str, Any], pairs: Sequence[dict[str, Any]], rows: Lines) -> None:
    """To those of each dataset that has twins."""
    for name in dict.fromkeys(pair["dataset"] for pair in pairs):
        values = metrics["datasets"][name]
        told = twin_metrics([pair for pair in pairs if pair["dataset"] == name], rows.where(dataset=name, part="test"))
        values |= told | {"intervals": values["intervals"] | told["intervals"]}


def nearest_rows(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(Q,), of each query (Q, D) the number of the nearest of the rows (N, D)."""
    return np.array([np.square(rows - query).sum(axis=1).argmin() for query in queries])


def _evenly(images: ImageSet) -> np.ndarray:
    """Places of images at even distances in each dataset, as many as are needed."""
    datasets = np.array(images.datasets)
    places = [np.flatnonzero(datasets == name) for name in dict.fromkeys(images.datasets)]
    return np.concatenate([place[np.linspace(0, len(place) - 1, min(len(place), TRAINING_IMAGES)).astype(int)] for place in places])


def _normals(scores: Scores, images: ImageSet, patients: Sequence[str | None], places: np.ndarray | slice = slice(None)) -> Normals:
    stranger = np.array([patient is None for patient in patients], bool)
    return Normals(scores, *(each[places] for each in (images.organ.cpu().numpy(), images.modality.cpu().numpy(), numbered(patients), stranger)))


def _warn_of_few(metrics: Mapping[str, Any], alpha: float) -> None:
    """Say where there are too few validation normals for a guarantee."""
    few = {name: each["false_alarms"] for name, each in metrics["datasets"].items() if not each["false_alarms"]["guaranteed"]}
    if few:
        counts = ", ".join(f"{name} only {each['units']} ({each['unit']})" for name, each in few.items())
        advice = "thresholds are estimates there"
        logger.warning("few validation normals: %s; it takes %d to guarantee a false-alarm rate of %.3g, so %s", counts, needed(alpha), alpha, advice)


def _warn_of_normals_alone(metrics: Mapping[str, Any]) -> None:
    """Say what is not measured where nothing abnormal is tested."""
    if names := [name for name, each in metrics["datasets"].items() if not each["abnormal"]]:
        logger.warning("%s: %s", ", ".join(names), NO_ABNORMAL)


def _known_masks(source: DataSource, preprocessing: Mapping[str, Preprocessing], images: ImageSet) -> Masks:
    """Of each dataset that has masks."""
    known: Masks = {}
    datasets = np.array(images.datasets)
    for dataset in dict.fromkeys(images.datasets):
        masks = source.masks(dataset, preprocessing[dataset])
        if masks is not None:
            known[dataset] = replace(masks, places=np.flatnonzero(datasets == dataset)[masks.places])
    return known


def _gallery_masks(places: np.ndarray, masks: Masks) -> dict[str, np.ndarray]:
    """gallery_mask of the images at some places (n,) of their set; nothing where there are no masks."""
    if not masks:
        return {}
    known, empty = _numbers(masks), np.zeros_like(next(iter(masks.values()))[0])
    found = [known.get(place) for place in places.tolist()]
    return {"gallery_mask": np.array([empty if each is None else masks[each[0]][each[1]] for each in found])}


def _look_at_validation(baseline: Baseline, images: ImageSet) -> tuple[Scores, float]:
    """The scores of validation normals, and what their maps seldom exceed."""
    parts, usual = [], UpperQuantile(len(images) * int(np.prod(images.images.shape[2:])), USUAL)
    for batch, assessment in assessments(baseline, images):
        parts.append(Scores.of(baseline, batch.image, assessment))
        usual.add(assessment.map.float().cpu().numpy())
    scores = Scores.joined(parts)
    check_finite(scores, images)
    return scores, usual.value()


def _look_at_tests(baseline: Baseline, images: ImageSet, masks: Masks, data_root: Path) -> tuple[Scores, Maps, Gallery]:
    """The scores of test images, the maps of those with known masks, which lie beside the arrays of images meanwhile, and the gallery."""
    parts, gallery = [], Gallery()
    files = {name: MapFile(cache_folder(data_root.resolve())) for name in masks}
    has_mask = {name: np.isin(np.arange(len(images)), known.places) for name, known in masks.items()}
    groups = list(zip(images.datasets, images.label.tolist(), strict=True))
    for batch, assessment in assessments(baseline, images):
        parts.append(Scores.of(baseline, batch.image, assessment))
        places = batch.index.cpu().numpy()
        gallery.add(places.tolist(), [groups[place] for place in places], batch.image, assessment)
        batch_maps = assessment.map[:, 0].float().cpu().numpy()
        for name, file in files.items():
            file.add(batch_maps[has_mask[name][places]])
    scores = Scores.joined(parts)
    check_finite(scores, images)
    return scores, {name: file.array() for name, file in files.items()}, gallery
