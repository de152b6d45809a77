"""Bootstrap intervals: the resampled metrics are scikit-learn's, and the intervals hold what they promise."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, recall_score, roc_auc_score

from anomaly_detection.evaluation.bootstrap import auroc_samples, interval, metric_intervals, resample, weighted_metrics
from anomaly_detection.evaluation.metrics import METRICS, image_metrics


def scored(normal: int, abnormal: int, shift: float, seed: int, decimals: int = 9):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [normal, abnormal])
    return labels, np.round(rng.normal(size=normal + abnormal) + shift * labels, decimals)


@pytest.mark.parametrize("decimals", [9, 1])  # 1: many ties
def test_every_sample_is_measured_as_scikit_learn_does(decimals):
    labels, scores = scored(30, 40, 0.7, 1, decimals)
    (counts,) = resample(labels, samples=25, seed=3)
    values = weighted_metrics(labels, scores, 0.5, counts)
    assert set(values) == set(METRICS)
    for row in range(25):
        y, s = np.repeat(labels, counts[row].astype(int)), np.repeat(scores, counts[row].astype(int))
        called = s > 0.5
        expected = {
            "auroc": roc_auc_score(y, s),
            "average_precision": average_precision_score(y, s),
            "f1": f1_score(y, called),
            "accuracy": accuracy_score(y, called),
            "sensitivity": recall_score(y, called),
            "specificity": recall_score(y, called, pos_label=0),
            "oracle_accuracy": max(accuracy_score(y, s > threshold) for threshold in [*s, -np.inf]),
        }
        assert {name: values[name][row] for name in expected} == pytest.approx(expected)


def test_the_sample_as_it_is_has_the_metrics_of_the_table():
    labels, scores = scored(30, 40, 0.7, 2, 1)
    values = weighted_metrics(labels, scores, 0.5, np.ones((1, 70)))
    table = image_metrics(labels, scores, 0.5)
    assert {name: value[0] for name, value in values.items()} == pytest.approx({name: table[name] for name in values})


def test_samples_are_stratified_and_repeatable():
    labels, _ = scored(30, 40, 0, 0)
    counts = np.concatenate(list(resample(labels, samples=50)))
    assert (counts[:, labels == 0].sum(axis=1) == 30).all()
    assert (counts[:, labels == 1].sum(axis=1) == 40).all()
    assert np.array_equal(counts, np.concatenate(list(resample(labels, samples=50))))
    assert counts[:, 0].mean() == pytest.approx(1, abs=0.5)


def test_blocks_do_not_change_the_count(monkeypatch):
    monkeypatch.setattr("anomaly_detection.evaluation.bootstrap._CELLS", 7 * 70)
    labels, scores = scored(30, 40, 0.7, 2)
    assert [len(block) for block in resample(labels, samples=20)] == [7, 7, 6]
    assert auroc_samples(labels, scores, samples=20).shape == (20,)


def test_intervals_cover_the_true_auroc():
    shift, covered = 1.0, 0
    true = norm.cdf(shift / np.sqrt(2))
    for seed in range(200):
        low, high = metric_intervals(*scored(60, 60, shift, seed), 0.0, samples=400)["auroc"]
        covered += low <= true <= high
    assert 180 <= covered <= 198


def test_paired_differences_are_narrower_than_those_of_strangers():
    labels, scores = scored(60, 60, 1.0, 0)
    better = scores + 0.1 * labels
    paired = interval(auroc_samples(labels, better) - auroc_samples(labels, scores))
    strangers = interval(auroc_samples(labels, better, seed=1) - auroc_samples(labels, scores))
    assert paired[0] > 0
    assert paired[1] - paired[0] < 0.3 * (strangers[1] - strangers[0])
