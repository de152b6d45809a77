"""How well an anomaly map shows where the lesion is: metrics over pixels, where masks exist; and what is usual in a map."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import label
from sklearn.metrics import auc

from anomaly_detection.data.mapped import release

MAX_FALSE_POSITIVE_RATE = 0.3
BLOCK = 2**20  # pixels that are sorted at a time
PIXEL_METRICS = ("pixel_auroc", "pixel_average_precision", "aupro", "oracle_dice")


def pixel_metrics(maps: np.ndarray, masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Metrics over all pixels of some test images.

    Args:
        maps: (N, H, W), higher is more anomalous; they may lie in a file.
        masks: (N, H, W) bool, also as `LesionMasks`; True where the lesion is, all False of a normal image. Both values must occur.

    Returns:
        pixel_auroc, pixel_average_precision; aupro, see `aupro`; oracle_dice, the best Dice coefficient over all thresholds, one for all
        images, so chosen with the masks.
    """
    called = Called.of(maps, masks)
    hits, rise = called.hits, np.diff(called.hits, prepend=0)
    passed = 1 - (called.false + called.false_above) / (2 * called.outside)  # share of the others below each value, ties by half
    return {
        "pixel_auroc": float((rise * passed).sum() / hits[-1]),
        "pixel_average_precision": float((rise * (hits / (hits + called.false))).sum() / hits[-1]),
        "aupro": aupro(called),
        "oracle_dice": float((2 * hits / (hits + called.false + hits[-1])).max()),
    }


class Called(NamedTuple):
    """What thresholds at the values of lesion pixels call, from the highest down. Nothing but false alarms changes at the values between them.

    Attributes:
        hits: lesion pixels of at least each value.
        overlap: the mean over regions of the share of each that these are; a region is a connected lesion (8 neighbours) of one image.
        false: pixels outside of lesions of at least each value.
        false_above: those above it.
        outside: all of these.
    """

    hits: np.ndarray
    overlap: np.ndarray
    false: np.ndarray
    false_above: np.ndarray
    outside: int

    @classmethod
    def of(cls, maps: np.ndarray, masks: Sequence[np.ndarray]) -> "Called":
        """Of maps and masks as `pixel_metrics` takes them. They hold many millions of pixels: of those outside lesions `BLOCK` are held at a time."""
        step = max(1, BLOCK // maps[0].size)
        blocks = [slice(start, start + step) for start in range(0, len(maps), step)]
        lesions = []
        for block in blocks:
            if (mask := masks[block]).any():
                lesions.append((maps[block][mask], _weights(mask)))
                release(maps)
        values, weights = (np.concatenate(each) for each in zip(*lesions, strict=True))
        order = np.argsort(-values)
        last = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # of each value: equal ones are called together
        rising, overlap = values[order][last][::-1], np.cumsum(weights[order])[last]
        reached, passed = np.zeros((2, len(rising) + 1), np.int64)  # pixels outside of lesions by the number of values that they reach, and pass
        for block in blocks:
            others = np.sort(maps[block][~masks[block]])
            release(maps)
            count = np.searchsorted(rising, others, "right")
            np.add.at(reached, count, 1)
            np.add.at(passed, count - ((count > 0) & (rising[count - 1] == others)), 1)
        false, above = (np.cumsum(counts[:0:-1]) for counts in (reached, passed))
        return cls(last + 1, overlap / overlap[-1], false, above, int(reached.sum()))


def _weights(masks: np.ndarray) -> np.ndarray:
    """Of each lesion pixel, in the order of `maps[masks]`: 1 / the size of its region."""
    weights = []
    for mask in masks:
        numbers = label(mask, np.ones((3, 3)))[0][mask]
        weights.append(1 / np.bincount(numbers)[numbers])
    return np.concatenate(weights)


def aupro(called: Called, limit: float = MAX_FALSE_POSITIVE_RATE) -> float:
    """Area under the per-region-overlap curve up to a false positive rate, divided by it (Bergmann et al., IJCV 2021).

    The overlap of a region is the fraction of it above the threshold, and every region counts the same, however large. The rate is over all pixels
    outside lesions; between thresholds the curve is linear.

    Args:
        called: at which the curve rises.
        limit: the largest false positive rate.
    """
    before = np.append(0, called.overlap[:-1])  # where the curve comes to a value, from that above it
    rate, overlap = (np.stack(pair, axis=1).reshape(-1) for pair in ((called.false_above, called.false), (before, called.overlap)))
    rate, overlap = np.concatenate([[0], rate / called.outside, [1]]), np.concatenate([[0], overlap, [1]])
    inside = rate <= limit
    end = np.interp(limit, rate, overlap)
    return float(auc(np.append(rate[inside], limit), np.append(overlap[inside], end)) / limit)


class UpperQuantile:
    """A high quantile of numbers that come in parts: exact, as `numpy.quantile` has it, though only the numbers above it are kept.

    Args:
        count: how many will come.
        quantile: in [0, 1].
    """

    def __init__(self, count: int, quantile: float):
        place = quantile * (count - 1)  # among all numbers in ascending order
        self._kept = count - math.floor(place)
        self._share = place - math.floor(place)
        self._highest = np.empty(0, np.float32)

    def add(self, values: np.ndarray) -> None:
        """Some of the numbers, of any shape."""
        values = np.concatenate([self._highest, values.reshape(-1)])
        self._highest = values if len(values) <= self._kept else np.partition(values, -self._kept)[-self._kept :]

    def value(self) -> float:
        """The quantile, when all numbers have come."""
        lowest = np.sort(self._highest)[:2].astype(float)
        return float(lowest[0] + self._share * (lowest[-1] - lowest[0]))
