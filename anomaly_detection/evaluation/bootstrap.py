"""How far a metric may lie from what another sample of images would have given: 95 % bootstrap intervals.

Images are drawn with replacement, normal and abnormal ones apart (stratified), so that every sample has both. A sample is a row of counts; all
samples are measured at once from cumulative sums, since a thousand calls of scikit-learn for each cell of a table would take minutes.
`tests/evaluation/test_bootstrap.py` holds them against scikit-learn.
"""

from collections.abc import Iterator

import numpy as np

SAMPLES = 1000
SEED = 0
QUANTILES = (0.025, 0.975)
_CELLS = 4_000_000  # samples x images measured at a time


def resample(labels: np.ndarray, samples: int = SAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """How often each sample holds each image: (b, N) blocks, `samples` rows in all; the same for the same labels and seed."""
    rng = np.random.default_rng(seed)
    while samples > 0:
        block = min(samples, max(1, _CELLS // len(labels)))
        counts = np.zeros((block, len(labels)))
        for label in (0, 1):
            places = np.flatnonzero(labels == label)
            counts[:, places] = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=block)
        yield counts
        samples -= block


def weighted_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float, counts: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of `image_metrics` for each row of counts (B, N), as (B,) each."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # images with one score are called together
    abnormal = np.cumsum(counts[:, order] * labels[order], axis=1)[:, ends]
    every = np.cumsum(counts[:, order], axis=1)[:, ends]
    normal = every - abnormal
    first = np.zeros((len(counts), 1))
    abnormal, normal = np.hstack([first, abnormal]), np.hstack([first, normal])
    positives, negatives = abnormal[:, -1], normal[:, -1]
    rise, step = np.diff(abnormal), np.diff(normal)
    precision = abnormal[:, 1:] / np.maximum(abnormal[:, 1:] + normal[:, 1:], 1)
    best = np.argmax(abnormal - normal, axis=1)[:, None]  # the most correct calls
    called = (scores > threshold).astype(float)
    at = _rates(counts @ (called * labels), counts @ (called * (1 - labels)), positives, negatives)
    oracle = _rates(np.take_along_axis(abnormal, best, 1)[:, 0], np.take_along_axis(normal, best, 1)[:, 0], positives, negatives)
    return {
        "auroc": (step * (abnormal[:, 1:] + abnormal[:, :-1]) / 2).sum(axis=1) / (positives * negatives),
        "average_precision": (rise * precision).sum(axis=1) / positives,
        **at,
        **{f"oracle_{name}": value for name, value in oracle.items()},
    }


def _rates(true_positives: np.ndarray, false_positives: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "f1": 2 * true_positives / np.maximum(true_positives + false_positives + positives, 1),
        "accuracy": (true_positives + negatives - false_positives) / (positives + negatives),
        "sensitivity": true_positives / positives,
        "specificity": 1 - false_positives / negatives,
    }


def metric_intervals(labels: np.ndarray, scores: np.ndarray, threshold: float, samples: int = SAMPLES, seed: int = SEED) -> dict[str, list[float]]:
    """[low, high] of each metric: 95 % percentile intervals. The threshold is part of the detector and stays as it is."""
    blocks = [weighted_metrics(labels, scores, threshold, counts) for counts in resample(labels, samples, seed)]
    return {name: interval(np.concatenate([block[name] for block in blocks])) for name in blocks[0]}


def auroc_samples(labels: np.ndarray, scores: np.ndarray, samples: int = SAMPLES, seed: int = SEED) -> np.ndarray:
    """(samples,) AUROCs; for two detectors on the same images the same rows hold the same images, so that differences are paired."""
    return np.concatenate([weighted_metrics(labels, scores, 0.0, counts)["auroc"] for counts in resample(labels, samples, seed)])


def interval(values: np.ndarray) -> list[float]:
    """The 2.5th and the 97.5th percentile."""
    return [float(value) for value in np.quantile(values, QUANTILES)]
