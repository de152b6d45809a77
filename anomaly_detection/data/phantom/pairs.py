"""Pictures of one body, and of the same body with lesions: two that differ by the lesions alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from anomaly_detection.data.phantom.lesions import Lesion, draw_detail, draw_liver_lesions, draw_lung_lesions, points_in
from anomaly_detection.data.phantom.patient import Patient
from anomaly_detection.data.phantom.protocol import LUNG_MM, draw_level, fit_exposure, fit_scan
from anomaly_detection.data.phantom.rendering import LIVER_WINDOW, LUNG_WINDOW, Projection, render_slice, window_hu
from anomaly_detection.data.phantom.strata import Conspicuity, measure

CLINICAL = "clinical"  # the stratum of lesions as a clinic sees them, whatever they are
THIN_MM = 4.0  # water-equivalent thickness from which an opacity counts as visible in a radiograph
TRIES = 300  # draws of lesions, one in about ten of which is of a given stratum


class Diseased(NamedTuple):
    """A picture (H, W), 8-bit, with lesions, its mask (H, W), 0 or 255, and how conspicuous they are."""

    picture: np.ndarray
    mask: np.ndarray
    facts: Conspicuity


class Pair(NamedTuple):
    """A healthy picture (H, W), 8-bit; where one was asked for, the same with lesions; and the level (reference mm) of a slice."""

    healthy: np.ndarray
    diseased: Diseased | None
    level: float | None = None


def slice_pair(patient: Patient, organ: str, stratum: str | None, key: Sequence[int], size: int) -> Pair:
    """A CT slice of "liver" or "lung" by the protocol.

    Args:
        patient: who is scanned.
        organ: that the slice is of.
        stratum: one of `STRATA`, or CLINICAL; None: no lesions.
        key: of the random numbers; the same key gives the same pictures.
        size: side in pixels.
    """
    rng = np.random.default_rng(key)
    level = draw_level(patient, organ, rng)
    scan, window = fit_scan(patient, organ, level, size, rng), LIVER_WINDOW if organ == "liver" else LUNG_WINDOW
    healthy = render_slice(patient, scan, level, organ, [*key, 1], size)
    picture = window_hu(healthy.hu, *window)
    if stratum is None:
        return Pair(picture, None, level)
    places = points_in(patient, organ, rng)

    def draw() -> list[Lesion]:
        if stratum == CLINICAL:
            return draw_liver_lesions(patient, rng) if organ == "liver" else draw_lung_lesions(patient, rng)
        return draw_detail(patient, organ, level, rng, places)

    def show(lesions: list[Lesion]) -> Diseased | None:
        ill = render_slice(patient, scan, level, organ, [*key, 1], size, lesions)
        if ill.lesion.max() < 0.5:
            return None  # the slice does not cut them
        mask = mask_of(ill.lesion, 0.5)
        return Diseased(window_hu(ill.hu, *window), mask, measure(ill.hu, healthy.hu, mask > 0, healthy.organ > 0.5, scan.pixel))

    return Pair(picture, _of_stratum(draw, show, stratum), level)


def radiograph_pair(patient: Patient, stratum: str | None, key: Sequence[int], size: int) -> Pair:
    """A posterior-anterior chest radiograph; for the arguments see `slice_pair`."""
    rng = np.random.default_rng(key)
    exposure = fit_exposure(patient, rng)
    projection = Projection(patient, exposure, size)
    picture = projection.picture(key, np.zeros_like(projection.plain))
    if stratum is None:
        return Pair(picture, None)
    places = points_in(patient, "lung", rng)

    def draw() -> list[Lesion]:
        clinical = stratum == CLINICAL
        return draw_lung_lesions(patient, rng, projected=True) if clinical else draw_detail(patient, "lung", None, rng, places)

    def show(lesions: list[Lesion]) -> Diseased | None:
        added = projection.added(lesions)
        if not added.max() > 0:
            return None
        ill, mask = projection.picture(key, added), mask_of(added, THIN_MM)
        facts = measure(ill.astype(float), picture.astype(float), mask > 0, projection.lung_mm > LUNG_MM, exposure.view / size)
        return Diseased(ill, mask, facts)

    return Pair(picture, _of_stratum(draw, show, stratum))


def _of_stratum(draw: Callable[[], list[Lesion]], show: Callable[[list[Lesion]], Diseased | None], stratum: str) -> Diseased:
    """The first picture of lesions that is of the stratum; of a body in which none comes to be, the last that shows any."""
    last = None
    for _ in range(TRIES):
        shown = show(draw())
        if shown is not None and stratum in (CLINICAL, shown.facts.stratum):
            return shown
        last = shown or last
    if last is None:
        raise RuntimeError(f"no lesion is visible in {TRIES} draws")
    return last


def mask_of(share: np.ndarray, threshold: float) -> np.ndarray:
    """Where a lesion covers `threshold`, or half of its most if it is nowhere so much, as 0 / 255."""
    return np.where(share >= min(threshold, float(share.max()) / 2), 255, 0).astype(np.uint8)
