"""Pixel metrics against slow loops."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly_detection.evaluation import localisation
from anomaly_detection.evaluation.localisation import Called, aupro, pixel_metrics


@pytest.fixture(params=[1, 300, 2**20])  # an image at a time, two, all of them
def _blocks(request, monkeypatch):
    monkeypatch.setattr(localisation, "BLOCK", request.param)


def example(seed: int, levels: int | None = None):
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, 12, 12), bool)
    masks[0, 1:4, 1:4] = masks[0, 8:10, 8:11] = True
    masks[1, 5, 5] = True
    masks[2, 2, 2] = masks[2, 3, 3] = True  # touch at a corner: one region
    maps = rng.normal(size=masks.shape) + 1.2 * masks
    return (np.round(maps * levels) / levels if levels else maps), masks


def flood(mask, start):
    """The pixels connected with one, found by walking."""
    seen, todo = set(), [start]
    while todo:
        y, x = todo.pop()
        if (y, x) in seen or not (0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]) or not mask[y, x]:
            continue
        seen.add((y, x))
        todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return frozenset(seen)


def slow_aupro(maps, masks, limit):
    regions = {(i, flood(mask, tuple(start))) for i, mask in enumerate(masks) for start in np.argwhere(mask)}
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(maps.reshape(-1)), reverse=True):
        called = maps >= threshold
        rate = (called & ~masks).sum() / (~masks).sum()
        curve.append((rate, np.mean([np.mean([called[i, y, x] for y, x in region]) for i, region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve, curve[1:], strict=False):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        else:
            if x0 < limit:
                middle = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
                area += (limit - x0) * (y0 + middle) / 2
            break
    return area / limit, len(regions)


@pytest.mark.parametrize("levels", [None, 4])  # 4: many ties
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
@pytest.mark.usefixtures("_blocks")
def test_aupro(seed, levels, limit):
    maps, masks = example(seed, levels)
    expected, regions = slow_aupro(maps, masks, limit)
    assert regions == 4
    assert aupro(Called.of(maps, masks), limit) == pytest.approx(expected, abs=1e-12)


def test_aupro_at_its_limits():
    _, masks = example(0)
    assert aupro(Called.of(masks.astype(float), masks)) == pytest.approx(1.0)
    assert aupro(Called.of(np.zeros(masks.shape), masks)) == pytest.approx(0.15), "the straight line of a coin: area 0.3^2 / 2, divided by 0.3"


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.usefixtures("_blocks")
def test_the_other_pixel_metrics(levels):
    maps, masks = example(5, levels)
    values = pixel_metrics(maps, masks)
    flat = masks.reshape(-1)
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(flat, maps.reshape(-1)))
    assert values["pixel_average_precision"] == pytest.approx(average_precision_score(flat, maps.reshape(-1)))
    dice = [2 * ((maps >= t) & masks).sum() / ((maps >= t).sum() + masks.sum()) for t in set(maps.reshape(-1))]
    assert values["oracle_dice"] == pytest.approx(max(dice))
    assert set(values) == {"pixel_auroc", "pixel_average_precision", "aupro", "oracle_dice"}


def test_memory_is_that_of_lesions_and_a_block(monkeypatch):
    """However many images there are: a hospital has many."""
    monkeypatch.setattr(localisation, "BLOCK", 2**14)
    peaks = []
    for count in (50, 400):
        maps, masks = np.random.default_rng(0).normal(size=(count, 64, 64)).astype(np.float32), np.zeros((count, 64, 64), bool)
        masks[:50:2, 20:26, 30:36] = True
        tracemalloc.start()
        pixel_metrics(maps, masks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < maps.size
