"""Paired differences between two detectors."""

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from anomaly_detection.evaluation.bootstrap import metric_samples
from anomaly_detection.evaluation.metrics import METRICS, image_metrics
from anomaly_detection.study.comparison import Scored, differences, intervals_over_seeds, mean_auroc_interval, scored
from anomaly_detection.system.lines import Lines


def example(seed, shift, patients=(None,) * 100):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], 50)
    scores = rng.normal(size=100) + shift * labels
    return Scored(labels, scores, scores > 1, patients)


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
        {"image": name, "dataset": dataset, "part": part, "label": int(name > "b"), "score": score, "other": -score}
        | {"patient": None if name == "a" else "P", "label_anomalous": int(score > 2)}
        for name, dataset, part, score in (
            ("c", "x", "test", 3.0),
            ("a", "x", "test", 1.0),
            ("b", "x", "val", 9.0),
            ("b", "x", "test", 2.0),
            ("a", "y", "test", 7.0),
            ("c", "y", "test", 8.0),
            ("b", "normals alone", "test", 9.0),
        )
    ]
    lines = Lines.of(rows)
    found = scored(lines, "x")
    assert (found.labels.tolist(), found.scores.tolist()) == ([0, 0, 1], [1.0, 2.0, 3.0])
    assert (found.called.tolist(), found.patients) == ([False, False, True], (None, "x/P", "x/P"))
    everything = scored(lines, None, "other", -2.5)
    assert (everything.scores.tolist(), everything.called.tolist()) == ([-1.0, -2.0, -3.0, -7.0, -8.0], [True, True, False, False, False])


def test_what_has_no_abnormal_images_has_no_difference_and_no_part_in_the_mean():
    alone = Scored(np.zeros(9, int), np.arange(9.0), np.zeros(9, bool), (None,) * 9)
    one, two = {"a": [example(0, 1.5)], "b": [alone]}, {"a": [example(1, 0.2)], "b": [alone]}
    assert set(differences(one, two)) == {"a", "mean"}
    assert differences(one, two)["mean"].value == differences({"a": one["a"]}, {"a": two["a"]})["mean"].value
    assert differences({"b": [alone]}, {"b": [alone]}) == {}


def test_a_difference_over_few_patients_and_seeds_is_uncertain():
    """The same images: what looks sure over images of one seed is not over four patients of three seeds that disagree."""
    patients = tuple(f"P{i // 25}" for i in range(100))
    sure = differences({"a": [example(0, 1.5)]}, {"a": [example(1, 0.2)]})["a"]
    over_patients = differences({"a": [example(0, 1.5, patients)]}, {"a": [example(1, 0.2, patients)]})["a"]
    assert over_patients.high - over_patients.low > 2 * (sure.high - sure.low)
    one = {"a": [example(0, shift) for shift in (2.5, 0.0, 1.0)]}
    seeds = differences(one, {"a": [example(1, 0.2)] * 3})["a"]
    assert seeds.high - seeds.low > 2 * (sure.high - sure.low)


def test_the_mean_over_datasets_has_the_freedom_of_those_that_vary():
    """Beside a dataset of four patients, which hardly varies, one of many images decides."""
    few, labels = tuple(f"P{i // 25}" for i in range(100)), np.repeat([0, 1], 50)
    steady = Scored(labels, labels + np.linspace(0, 0.1, 100), labels > 0, few)  # told apart by all patients alike
    one, other = {"a": [steady], "b": [example(0, 1.5)]}, {"a": [steady], "b": [example(1, 0.2)]}
    found, alone = differences(one, other), differences({"b": one["b"]}, {"b": other["b"]})["b"]
    assert found["mean"].high - found["mean"].low == pytest.approx((alone.high - alone.low) / 2, rel=0.1)


def test_the_freedom_of_a_mean_over_datasets_by_hand():
    """Satterthwaite's, of 50 images of each class (49) and of two patients of each (1): far below 49, since the few vary most."""
    patients = tuple(f"P{i // 25}" for i in range(100))
    one = {"a": [example(0, 1.5)], "b": [example(1, 1.5, patients)]}
    two = {"a": [example(2, 0.5)], "b": [example(3, 0.5, patients)]}

    def samples(network, number):
        return metric_samples(network.labels, network.scores, network.called, network.patients, seed=number)["auroc"]

    drawn = [samples(one[name][0], number) - samples(two[name][0], number) for number, name in enumerate(one)]
    first, second = (float(np.var(each)) for each in drawn)
    freedom = (first + second) ** 2 / (first**2 / 49 + second**2 / 1)
    assert freedom < 20
    found = differences(one, two)["mean"]
    assert (found.high - found.low) / 2 == pytest.approx(student.ppf(0.975, freedom) * np.std(np.mean(drawn, axis=0)))


def test_every_metric_has_an_interval_over_seeds():
    trainings = [example(seed, 1.0) for seed in range(3)]
    values = {name: [image_metrics(each.labels, each.scores, each.called)[name] for each in trainings] for name in METRICS}
    intervals = intervals_over_seeds(trainings, values)
    assert set(intervals) == set(METRICS)
    for name, (low, high) in intervals.items():
        assert low < np.mean(values[name]) < high


def test_an_interval_of_another_level_is_wider_by_the_quantiles_of_t():
    one, two = {"a": [example(0, 1.5)]}, {"a": [example(1, 0.2)]}
    usual, strict = (differences(one, two, *level)["a"] for level in ((), (0.05 / 6,)))
    ratio = student.ppf(1 - 0.05 / 12, 49) / student.ppf(0.975, 49)  # 50 images of each class
    assert strict.high - strict.value == pytest.approx(ratio * (usual.high - usual.value))


def test_the_interval_of_a_mean_over_datasets_narrows_with_their_number():
    """Of one dataset it is that of its AUROC; of four alike and independent ones about half as wide on the logit scale."""

    def width(low, high):
        return np.log(high / (1 - high)) - np.log(low / (1 - low))

    scores = {name: [example(number, 1.0)] for number, name in enumerate("abcd")}
    value = roc_auc_score(scores["a"][0].labels, scores["a"][0].scores)
    single = mean_auroc_interval({"a": scores["a"]})
    assert single == pytest.approx(intervals_over_seeds(scores["a"], {"auroc": [value]})["auroc"])
    assert 0.4 < width(*mean_auroc_interval(scores)) / width(*single) < 0.6


@pytest.mark.parametrize("abnormal", [7.0, 3.5])
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_mean_with_a_dataset_of_one_abnormal_patient_says_nothing(abnormal, seeds):
    """Nothing tells how such patients differ, whether its samples vary or, where it is told apart from all others, do not."""
    single = Scored(np.repeat([0, 1], [6, 2]), np.append(np.arange(6.0), [abnormal] * 2), np.zeros(8, bool), (*"abcdef", "ill", "ill"))
    one, two = ({"a": [single] * seeds, "b": [example(seed + shift, shift) for seed in range(seeds)]} for shift in (2, 0))
    found = differences(one, two)
    assert [(found[name].low, found[name].high) for name in ("a", "mean")] == [(-1.0, 1.0)] * 2
    assert -1 < found["b"].low < found["b"].high < 1
    assert mean_auroc_interval(one) == [0.0, 1.0]


def test_a_difference_of_aurocs_reaches_no_further_than_one():
    few = tuple(f"P{i // 25}" for i in range(100))
    found = differences({"a": [example(0, 3.0, few), example(1, -1.0, few)]}, {"a": [example(2, 0.0, few), example(3, 0.0, few)]})["a"]
    assert (found.low, found.high) == (-1.0, 1.0)
