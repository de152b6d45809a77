"""Normal images that a network is calibrated on, and what may be promised on them: conformal p-values and limits.

Whoever is exchangeable with n others is as likely as any of them to be the highest, so at most a share of `share` of fresh ones lies above the
limit below (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Bates et al., Ann. Statist. 2023). Exchangeable are patients,
not the slices of one: the unit is the patient, who stands with the highest of its images.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from anomaly_detection.evaluation.scores import Scores

HIGHEST = 3  # slices of a patient, whose mean the patient's score is
_ROUNDING = 1e-9  # 1 - 0.95 is a little more than 0.05, 1 - 0.9 a little less than 0.1


@dataclass(frozen=True)
class Normals:
    """N normal images of a part of the data.

    Attributes:
        scores: what the network says of them.
        organ, modality: (N,) their true class numbers.
        unit: (N,) the same number for images of one patient.
        stranger: (N,) bool, nobody knows whose image it is, so that it is a unit of its own; None: of none.
    """

    scores: Scores
    organ: np.ndarray
    modality: np.ndarray
    unit: np.ndarray
    stranger: np.ndarray | None = None

    def pairs(self) -> list[tuple[int, int]]:
        """The domains that occur, sorted."""
        return sorted(set(zip(self.organ.tolist(), self.modality.tolist(), strict=True)))

    def of(self, pair: tuple[int, int]) -> np.ndarray:
        """(N,) bool, whether an image is of a domain."""
        return (self.organ == pair[0]) & (self.modality == pair[1])

    def word(self, places: np.ndarray | slice = slice(None)) -> str:
        """What the units of some images are, see `unit_word`."""
        return unit_word(np.zeros(len(self.unit), bool)[places] if self.stranger is None else self.stranger[places])


def unit_word(stranger: np.ndarray) -> str:
    """ "patients", "images" where nobody knows whose they are (N,) bool, or "patients and images"."""
    return "patients" if not stranger.any() else "images" if stranger.all() else "patients and images"


def numbered(units: Sequence[Hashable | None]) -> np.ndarray:
    """(N,) int64: the same number for the same unit; None is a unit of its own each time."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault((place,) if unit is None else unit, len(numbers)) for place, unit in enumerate(units)], np.int64)


def highest(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The highest value (N,) of each unit, sorted by unit."""
    if not len(values):
        return values
    order = np.argsort(unit, kind="stable")
    return np.maximum.reduceat(values[order], _starts(unit[order]))


def pooled(values: np.ndarray, unit: np.ndarray, k: int = HIGHEST) -> np.ndarray:
    """The mean of the k highest values (N,) of each unit, or of all that it has, sorted by unit."""
    if not len(values):
        return values
    order = np.lexsort((-values, unit))
    starts = _starts(unit[order])
    counts = np.diff(np.append(starts, len(values)))
    rank = np.arange(len(values)) - np.repeat(starts, counts)  # from 0, the highest of the unit
    kept = np.minimum(counts, k)
    return np.add.reduceat(values[order][rank < k], np.cumsum(kept) - kept) / kept


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Where each unit begins, of units (N,) in order."""
    return np.flatnonzero(np.append(True, np.diff(ordered) != 0))


def p_value(score: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """(N,) conformal p-values of scores (N,): how large a part of the n calibration scores and the image itself is at least as high.

    A score that is no number has none either: NaN.
    """
    ordered = np.sort(calibration)
    return np.where(np.isnan(score), np.nan, (1 + len(ordered) - np.searchsorted(ordered, score, side="left")) / (len(ordered) + 1))


def rejected(p: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool, whether p-values (N,) are at most `share`: 2/20 is at most 1 - 0.9, which floating point makes a little less than 0.1."""
    return p <= share + _ROUNDING


def needed(share: float) -> int:
    """How many units it takes before any can be said to be among the highest `share`."""
    return math.ceil(1 / share - _ROUNDING) - 1


def limit(calibration: np.ndarray, share: float) -> float:
    """The floor((n + 1) share)-th highest of n scores: above it is at most `share` of fresh units, exactly what has a `p_value` of at most `share`.

    It takes `needed(share)` units; of fewer it is the highest, which promises nothing.
    """
    rank = math.floor(share * (len(calibration) + 1) + _ROUNDING)
    return float(np.sort(calibration)[-max(rank, 1)])


def estimate(standard: np.ndarray, share: float) -> float:
    """What about `share` of fresh units exceed, by scores (N,) in spreads from the center of the normals of their domains; no promise.

    Fewer than `needed(share)` have no such quantile, and the highest of one or two may be a low one: it is at least that of a normal distribution.
    """
    if len(standard) >= needed(share):
        return limit(standard, share)
    return float(np.max([*standard, ndtri(1 - share)]))
