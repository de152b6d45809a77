"""Paired differences between two detectors."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_detection.study.comparison import Scored, differences, scored


def example(seed, shift):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], 50)
    return Scored(labels, rng.normal(size=100) + shift * labels)


def test_values_are_means_over_seeds_and_datasets():
    one = {"a": [example(0, 1.5), example(1, 1.5)], "b": [example(2, 1.0), example(3, 1.0)]}
    two = {"a": [example(4, 0.2), example(5, 0.2)], "b": [example(6, 1.0), example(7, 1.0)]}
    found = differences(one, two)
    by_hand = {
        name: np.mean([roc_auc_score(x.labels, x.scores) - roc_auc_score(y.labels, y.scores) for x, y in zip(one[name], two[name], strict=True)])
        for name in one
    }
    assert found["a"].value == pytest.approx(by_hand["a"])
    assert found["mean"].value == pytest.approx((by_hand["a"] + by_hand["b"]) / 2)
    for difference in found.values():
        assert difference.low < difference.value < difference.high
    assert found["a"].low > 0
    assert found["b"].low < 0 < found["b"].high


def test_a_detector_does_not_differ_from_itself():
    one = {"a": [example(0, 1.0)]}
    assert str(differences(one, one)["a"]) == "+0.000 [+0.000, +0.000]"


def test_images_are_paired_by_name():
    rows = [
        {"image": name, "dataset": dataset, "part": part, "label": int(name > "b"), "score": score}
        for name, dataset, part, score in (
            ("c", "x", "test", 3.0),
            ("a", "x", "test", 1.0),
            ("b", "x", "val", 9.0),
            ("b", "x", "test", 2.0),
            ("a", "y", "test", 7.0),
        )
    ]
    found = scored(rows, "x")
    assert (found.labels.tolist(), found.scores.tolist()) == ([0, 0, 1], [1.0, 2.0, 3.0])
