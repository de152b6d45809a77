"""How well an anomaly map shows where the lesion is: metrics over pixels, where masks exist; and what is usual in a map."""

import math

import numpy as np
from scipy.ndimage import label
from sklearn.metrics import auc

MAX_FALSE_POSITIVE_RATE = 0.3
PIXEL_METRICS = ("pixel_auroc", "pixel_average_precision", "aupro", "oracle_dice")


def pixel_metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Metrics over all pixels of some test images.

    Args:
        maps: (N, H, W), higher is more anomalous.
        masks: (N, H, W) bool, True where the lesion is; all False of a normal image. Both values must occur.

    Returns:
        pixel_auroc, pixel_average_precision; aupro, see `aupro`; oracle_dice, the best Dice coefficient over all thresholds, one for all
        images, so chosen with the masks.
    """
    lesion = masks.reshape(-1)
    order, ends = ranked(maps)
    called = np.append(0, ends + 1)
    hits = np.append(0, np.cumsum(lesion[order])[ends])
    false, rise = np.diff(called - hits), np.diff(hits)
    return {
        "pixel_auroc": float((false * (hits[1:] + hits[:-1])).sum() / (2 * hits[-1] * (called[-1] - hits[-1]))),
        "pixel_average_precision": float((rise * (hits[1:] / called[1:])).sum() / hits[-1]),
        "aupro": aupro(masks, order, ends),
        "oracle_dice": float((2 * hits / (called + hits[-1])).max()),
    }


def ranked(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pixels of maps (N, H, W) from the highest value down, and the last rank of each value: equal ones are called together.

    Maps hold millions of pixels, and sorting them is what takes time: it is done once for all metrics.
    """
    values = maps.reshape(-1)
    order = np.argsort(-values)
    return order, np.flatnonzero(np.append(np.diff(values[order]) != 0, True))


def aupro(masks: np.ndarray, order: np.ndarray, ends: np.ndarray, limit: float = MAX_FALSE_POSITIVE_RATE) -> float:
    """Area under the per-region-overlap curve up to a false positive rate, divided by it (Bergmann et al., IJCV 2021).

    A region is a connected lesion (8 neighbours) of one image; its overlap is the fraction of it above the threshold, and every region counts
    the same, however large. The rate is over all pixels outside lesions; between thresholds the curve is linear.

    Args:
        masks: as for `pixel_metrics`.
        order, ends: the maps as `ranked` gives them.
        limit: the largest false positive rate.
    """
    weight = np.zeros(masks.shape)  # of a region's pixel: 1 / (its size * number of regions)
    regions = 0
    for image, mask in enumerate(masks):
        numbers, count = label(mask, np.ones((3, 3)))
        sizes = np.bincount(numbers.reshape(-1))
        weight[image][mask] = 1 / sizes[numbers[mask]]
        regions += count
    share, outside = weight.reshape(-1)[order] / regions, ~masks.reshape(-1)[order]
    rate = np.append(0, np.cumsum(outside)[ends] / outside.sum())
    overlap = np.append(0, np.cumsum(share)[ends])
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
