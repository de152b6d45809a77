"""Bootstrap intervals: the resampled metrics are scikit-learn's, patients are drawn as wholes, and the intervals hold what they promise."""

from collections import defaultdict

import numpy as np
import pytest
from scipy.stats import beta
from scipy.stats import t as student
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, recall_score, roc_auc_score

from anomaly_detection.evaluation.bootstrap import (
    auroc_samples,
    difference_interval,
    doubted,
    freedom,
    metric_intervals,
    metric_samples,
    over_seeds,
    resample,
    seeds_interval,
    share_interval,
    share_interval_of,
    share_samples,
    sharing,
    unit_of,
    weighted_metrics,
)
from anomaly_detection.evaluation.metrics import METRICS, image_metrics
from benchmarks.intervals import coverage


def scored(normal: int, abnormal: int, shift: float, seed: int, decimals: int = 9):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [normal, abnormal])
    return labels, np.round(rng.normal(size=normal + abnormal) + shift * labels, decimals)


def strangers(labels) -> list[None]:
    return [None] * len(labels)


# normal only, abnormal only and both, of two to nine images each
PATIENTS = ["a"] * 3 + ["b"] * 2 + ["c"] * 9 + ["d"] * 4 + ["e"] * 2 + ["f"] * 6 + ["g"] * 5
LABELS = np.array([0] * 3 + [0] * 2 + [0] * 9 + [1] * 4 + [1] * 2 + [0, 1] * 3 + [1, 1, 0, 0, 0])


@pytest.mark.parametrize(("label", "metric"), [(0, "specificity"), (1, "sensitivity")])
def test_of_one_class_only_its_own_share_is_measured(label, metric):
    """The interval is that of the share of images that are called, or are not, over the same patients."""
    labels, called = np.full(len(PATIENTS), label), np.arange(len(PATIENTS)) % 4 == 0
    intervals = metric_intervals(labels, np.arange(len(PATIENTS)) * 1.0, called, PATIENTS)
    assert set(intervals) == {metric}
    assert intervals[metric] == pytest.approx(share_interval(called if label else ~called, PATIENTS))


@pytest.mark.parametrize("decimals", [9, 1])  # 1: many ties
def test_every_sample_is_measured_as_scikit_learn_does(decimals):
    labels, scores = scored(30, 40, 0.7, 1, decimals)
    (weights,) = resample(labels, strangers(labels), samples=25, seed=3)
    values = weighted_metrics(labels, scores, scores > 0.5, weights)
    assert set(values) == set(METRICS)
    for row in range(25):
        called, weight = scores > 0.5, {"sample_weight": weights[row]}
        expected = {
            "auroc": roc_auc_score(labels, scores, **weight),
            "average_precision": average_precision_score(labels, scores, **weight),
            "f1": f1_score(labels, called, **weight),
            "accuracy": accuracy_score(labels, called, **weight),
            "sensitivity": recall_score(labels, called, **weight),
            "specificity": recall_score(labels, called, pos_label=0, **weight),
            "oracle_accuracy": max(accuracy_score(labels, scores > threshold, **weight) for threshold in [*scores, -np.inf]),
        }
        assert {name: values[name][row] for name in expected} == pytest.approx(expected)


def test_samples_of_auroc_alone_are_those_of_scikit_learn():
    labels, scores = scored(30, 40, 0.7, 1, 1)
    (weights,) = resample(labels, strangers(labels), samples=25, seed=3)
    detectors = np.array([scores, -scores, np.round(scores)])
    expected = [[roc_auc_score(labels, each, sample_weight=weight) for weight in weights] for each in detectors]
    assert auroc_samples(labels, detectors, strangers(labels), 25, 3)[0] == pytest.approx(np.array(expected))


def test_datasets_share_patients_straight_or_by_way_of_others():
    patients = {"a": ["1", "2", None], "b": ["7", None], "c": ["3"], "d": ["3", "2"], "e": [None]}
    assert sharing(patients) == [["a", "c", "d"], ["b"], ["e"]]
    assert sharing({}) == []


# of two datasets, the second of which shows three of the first one's 40 bodies, one of them ill
BODIES = [*map(str, range(40)), "0", "1", "20"]
OF_BODIES = np.array([0] * 20 + [1] * 20 + [0, 0, 1])


def test_a_sample_has_as_much_of_a_patient_in_every_dataset():
    (weights,) = resample(OF_BODIES, BODIES, samples=50, seed=1)
    assert (weights[:, 40:] == weights[:, [0, 1, 20]]).all()
    assert weights[:, :20].sum(axis=1) == pytest.approx(np.full(50, 20))
    assert weights[:, 20:40].sum(axis=1) == pytest.approx(np.full(50, 20))


def test_a_sample_without_a_class_of_a_dataset_says_nothing_of_that_one():
    """Else it is what the weights say, of each dataset by itself."""
    scores, flags = np.random.default_rng(0).normal(size=(2, 43)), (np.arange(43) % 3 == 0).astype(float)
    (weights,) = resample(OF_BODIES, BODIES, samples=200, seed=3)
    drawn = auroc_samples(OF_BODIES, scores, BODIES, 200, 3, sizes=[40, 3])
    empty = ~weights[:, 40:42].any(axis=1) | ~weights[:, 42:].any(axis=1)
    assert 0 < empty.sum() < 200
    for detector, values in zip(scores, drawn[1], strict=True):
        whole = roc_auc_score(OF_BODIES[40:], detector[40:])
        some = [roc_auc_score(OF_BODIES[40:], detector[40:], sample_weight=weight[40:]) for weight in weights[~empty]]
        assert values[empty] == pytest.approx(np.full(empty.sum(), whole))
        assert values[~empty] == pytest.approx(np.array(some))
    assert drawn[0] == pytest.approx(np.array([[roc_auc_score(OF_BODIES[:40], d[:40], sample_weight=w[:40]) for w in weights] for d in scores]))
    (weights,) = resample(np.zeros(43, int), BODIES, seed=3)
    shares = share_samples(flags[None], BODIES, 3, sizes=[40, 3])
    empty = ~weights[:, 40:].any(axis=1)
    assert 0 < empty.sum() < 200
    assert shares[1, 0][empty] == pytest.approx(np.full(empty.sum(), flags[40:].mean()))
    assert shares[1, 0][~empty] == pytest.approx([np.average(flags[40:], weights=weight[40:]) for weight in weights[~empty]])


def test_the_sample_as_it_is_has_the_metrics_of_the_table():
    labels, scores = scored(30, 40, 0.7, 2, 1)
    values = weighted_metrics(labels, scores, scores > 0.5, np.ones((1, 70)))
    table = image_metrics(labels, scores, scores > 0.5)
    assert {name: value[0] for name, value in values.items()} == pytest.approx({name: table[name] for name in values})


def test_a_patient_is_drawn_with_all_its_images_among_those_of_its_kind():
    weights = np.concatenate(list(resample(LABELS, PATIENTS, samples=200)))
    by_patient = defaultdict(list)
    for place, patient in enumerate(PATIENTS):
        by_patient[patient].append(weights[:, place])
    for columns in by_patient.values():
        assert (np.array(columns) == columns[0]).all()
    drawn = {patient: columns[0] for patient, columns in by_patient.items()}
    for kind in ("abc", "de", "fg"):
        total = sum(drawn[patient] for patient in kind)
        assert total == pytest.approx(len(kind)), "kinds keep their weight"
        step = len(kind) / (len(kind) - 1)
        assert {round(float(value / step), 6) for patient in kind for value in drawn[patient]} <= set(range(len(kind))), "n - 1 are drawn"
        assert all(values.mean() == pytest.approx(1, abs=0.25) for values in (drawn[patient] for patient in kind))


def test_samples_are_repeatable_and_have_both_classes():
    weights = np.concatenate(list(resample(LABELS, PATIENTS, samples=300)))
    assert np.array_equal(weights, np.concatenate(list(resample(LABELS, PATIENTS, samples=300))))
    for label in (0, 1):
        assert (weights[:, label == LABELS].sum(axis=1) > 0).all()
    only = np.concatenate(list(resample(np.array([0, 1, 1]), ["x", "x", "x"], samples=5)))
    assert (only == 1).all(), "a single patient is always there"


def test_blocks_do_not_change_the_count(monkeypatch):
    monkeypatch.setattr("anomaly_detection.evaluation.bootstrap._CELLS", 7 * 70)
    labels, scores = scored(30, 40, 0.7, 2)
    assert [len(block) for block in resample(labels, strangers(labels), samples=20)] == [7, 7, 6]
    assert metric_samples(labels, scores, scores > 0, strangers(labels), samples=20)["auroc"].shape == (20,)


@pytest.mark.parametrize(
    ("patients", "unit"), [(["a", "b"], "patients"), ([None, None], "images"), (["a", None], "patients and images"), ([], "patients")]
)
def test_the_unit_has_a_name(patients, unit):
    assert unit_of(patients) == unit


def test_freedom_is_that_of_the_rarer_class():
    assert freedom(LABELS, PATIENTS) == 3, "four patients with abnormal images"
    assert freedom(np.zeros(5, int), ["a", "a", "b", "c", "d"]) == 3, "all of one class"
    assert freedom(np.array([0, 1, 0, 1]), ["a", "a", "b", "b"]) == 1


def test_a_share_of_one_class_has_the_freedom_of_its_patients():
    """Six normal patients and twenty abnormal ones, of whom none is called abnormal, and every fifth image."""
    labels, names = np.repeat([0, 1], [12, 40]), [f"P{i // 2}" for i in range(52)]
    assert [freedom(labels, names, metric) for metric in ("sensitivity", "specificity", "accuracy", "oracle_sensitivity")] == [19, 5, 5, 5]
    scores = np.random.default_rng(0).random(52)
    intervals = metric_intervals(labels, scores, scores > 2, names)
    assert intervals["sensitivity"] == pytest.approx([0, 1 - 0.025 ** (1 / 20)])  # Clopper and Pearson
    assert intervals["specificity"] == pytest.approx([0.025 ** (1 / 6), 1])
    called = np.arange(52) % 5 == 0
    intervals = metric_intervals(labels, scores, called, names)
    for metric, label in (("sensitivity", 1), ("specificity", 0)):
        of_class = [who for who, each in zip(names, labels, strict=True) if each == label]
        alone = share_interval(called[labels == 1] if label else ~called[labels == 0], of_class)
        assert intervals[metric] == pytest.approx(alone, abs=0.04), "other patients are drawn"


# one patient; one of each kind; a single normal one; a single abnormal one; one of both kinds beside a normal one
@pytest.mark.parametrize(
    ("patients", "labels"),
    [("aaaaaa", [0, 0, 0, 1, 1, 1]), ("aabbcc", [0, 1, 0, 0, 1, 1]), ("aaabcd", [0, 0, 0, 1, 1, 1]), ("abcddd", [0, 0, 0, 1, 1, 1])],
)
def test_a_class_of_one_patient_says_nothing_of_others(patients, labels):
    """However many images it has: an interval that is only as wide as the other class varies would be a promise."""
    labels, names = np.array(labels), list(patients)
    scores = np.array([1.0, 3, 2, 2.5, 4, 0])
    assert freedom(labels, names) == 0
    intervals = metric_intervals(labels, scores, scores > 2, names)
    for metric, label in (("specificity", 0), ("sensitivity", 1)):
        if len({who for who, each in zip(names, labels, strict=True) if each == label}) > 2:
            low, high = intervals.pop(metric)  # of that class alone, which has three patients
            assert 0 < low < high <= 1
    assert {tuple(interval) for interval in intervals.values()} == {(0.0, 1.0)}
    trainings = np.array([metric_samples(labels, scores, scores > 2, names)["auroc"]] * 2)
    assert seeds_interval([0.5, 0.6], trainings, 0) == [0.0, 1.0]
    assert difference_interval(0.1, trainings[0] - trainings[1] + 0.1, 0) == [-1.0, 1.0]


@pytest.mark.parametrize(("patients", "slices"), [(13, 7), (7, 3), (20, 1), (11, 9), (2, 5)])
def test_a_metric_without_a_mistake_is_that_of_so_many_patients(patients, slices):
    """Sums of weights round: a deviation of 1e-16 is none, or the interval of a perfect detector would hardly depend on the patients."""
    labels, names = np.repeat([0, 1], patients * slices), np.repeat([f"P{i}" for i in range(2 * patients)], slices).tolist()
    scores = 10 * labels + np.random.default_rng(patients).random(len(labels))
    edge = 0.025 ** (1 / patients)  # of Clopper and Pearson
    for interval in metric_intervals(labels, scores, scores > 5, names).values():
        assert interval == pytest.approx([edge, 1.0])
    assert share_interval(labels[labels == 1] == 1, names[: len(labels) // 2]) == pytest.approx([edge, 1.0])


@pytest.mark.parametrize(("correlation", "both"), [(0.0, 0), (0.6, 0), (0.3, 6), (0.6, 13)])
def test_intervals_cover_the_true_auroc_of_alike_slices(correlation, both):
    """`benchmarks.intervals` has the whole table; of 60 simulations, 95 % within three standard errors and no less than 0.90 of many."""
    assert coverage(13, 20, correlation, both, simulations=60) >= 0.87


def test_intervals_over_images_would_not():
    assert coverage(13, 20, 0.6, 0, simulations=60, known=False) < 0.7


def test_the_interval_by_hand():
    """t standard errors on the logit scale; the standard error of the mean of n drawn with n - 1 is the unbiased one."""
    rng = np.random.default_rng(0)
    flags = rng.random(40) < 0.3
    low, high = share_interval(flags, [None] * 40)
    share = flags.mean()
    error = np.sqrt(share * (1 - share) / 39) / (share * (1 - share))  # of the mean, times the slope of the logit
    expected = [1 / (1 + np.exp(-(np.log(share / (1 - share)) + sign * student.ppf(0.975, 39) * error))) for sign in (-1, 1)]
    assert [low, high] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("value", "degrees", "expected"),
    [(0.0, 9, [0.0, 0.308]), (1.0, 9, [0.692, 1.0]), (1.0, 1, [0.158, 1.0]), (0.5, 1, [0.013, 0.987]), (0.3, 9, [0.067, 0.652])],
)
def test_where_all_patients_are_alike_the_interval_is_that_of_clopper_and_pearson(value, degrees, expected):
    assert share_interval_of(value, np.full(100, value), degrees) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_interval_of_all_or_none_holds_it_where_samples_differ(value):
    low, high = share_interval_of(value, abs(value - np.tile([0.0, 0.001], 50)), 9)
    assert low <= value <= high
    assert 0 < high - low < 0.1


@pytest.mark.parametrize("patients", [["a"] * 8, ["a", "a", "a", "a", "b", "b", "b", "b"]])
def test_a_single_patient_of_a_class_says_nearly_nothing(patients):
    labels, scores = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([1.0, 4, 2, 3, 5, 2.5, 3.5, 6])
    for low, high in metric_intervals(labels, scores, scores > 3.2, patients).values():
        assert high - low > 0.8


def test_a_share_of_few_patients_is_uncertain_however_many_slices_they_have():
    flags, patients = np.repeat([True, False, False, False], 100), np.repeat(list("abcd"), 100).tolist()
    low, high = share_interval(flags, patients)
    assert low < 0.05
    assert high > 0.6
    few = share_interval(flags, strangers(flags))
    assert few[1] - few[0] < 0.1


def test_paired_differences_are_narrower_than_those_of_strangers():
    labels, scores = scored(60, 60, 1.0, 0)
    better, nobody = scores + 0.1 * labels, strangers(labels)

    def samples(values, seed=0):
        return metric_samples(labels, values, values > 0, nobody, seed=seed)["auroc"]

    one, other = (float(roc_auc_score(labels, values)) for values in (better, scores))
    paired = difference_interval(one - other, samples(better) - samples(scores), 59)
    others = difference_interval(one - other, samples(better, 1) - samples(scores), 59)
    assert paired[0] > 0
    assert paired[1] - paired[0] < 0.3 * (others[1] - others[0])


@pytest.mark.parametrize("outside", [0.05, 0.01])
def test_a_difference_that_no_sample_changes_may_be_any_in_as_many_patients_as_none_of_so_many_may_be(outside):
    """0 of 9: Clopper and Pearson's 0.336; of these a difference of 2/3 may be -1."""
    most = beta.ppf(1 - outside / 2, 1, 9)
    for value in (0.0, 2 / 3, -2 / 3):
        drawn = doubted(value, np.full((2, 1000), value), 8, outside=outside)
        low, high = difference_interval(value, drawn[0], 8, outside)
        reach = most * (1 + abs(value))
        assert (low, high) == pytest.approx((max(value - reach, -1), min(value + reach, 1)))
        half = doubted(value, np.full((2, 1000), value), 8, 0.5, outside)
        assert half.std() == pytest.approx(drawn.std() / 2), "in the other training the scores are the same"
    same = np.full((1, 1000), 0.1)
    assert doubted(0.1, same, 8, 0.0) is same
    assert doubted(0.1, varied := np.linspace(0, 0.2, 1000)[None], 8) is varied, "they tell themselves"


def test_seeds_are_not_drawn_as_patients_are():
    """As many of both, and what a training adds is what a patient takes away: by one stream of random numbers every sample would be the same."""
    patients, trainings = np.array([0.2, 0.1, 0.0, -0.1, -0.2]), -np.array([0.2, 0.1, 0.0, -0.1, -0.2])
    for count in range(3, 6):
        drawn = np.concatenate(list(resample(np.zeros(count, int), [str(i) for i in range(count)]))) / count
        values = 0.5 + trainings[:count, None] + drawn @ patients[:count]
        samples, _ = over_seeds((0.5 + trainings[:count] + patients[:count].mean()).tolist(), values, count - 1)
        expected = (patients[:count].var(ddof=1) + trainings[:count].var(ddof=1)) / count
        assert samples.var() == pytest.approx(expected, rel=0.15)


def test_of_several_best_thresholds_both_ways_take_the_highest():
    """Rounding of rates must not choose: then the oracle's value lay outside of its own interval."""
    for count in range(15, 120):
        labels = np.random.default_rng(count).integers(0, 2, count)
        scores = np.random.default_rng(count + 1).permutation(np.arange(float(count)))
        calls = [scores >= least for least in range(count, -1, -1)]  # from none to all
        best = max(calls, key=lambda called, labels=labels: (called == labels).sum())  # the first of several
        values = image_metrics(labels, scores, scores > count)
        drawn = weighted_metrics(labels, scores, scores > count, np.ones((1, count)))
        assert values["oracle_sensitivity"] == pytest.approx(best[labels == 1].mean())
        for name in ("oracle_f1", "oracle_accuracy", "oracle_sensitivity", "oracle_specificity"):
            assert values[name] == pytest.approx(drawn[name][0], abs=1e-12)


def test_who_is_in_every_sample_and_has_most_of_the_images_leaves_nothing_to_tell():
    labels = np.repeat([0, 0, 1], [100, 5, 5])
    names = ["alone"] * 100 + list("abcde") * 2
    assert freedom(labels, names, "specificity") == 0
    assert freedom(labels, names, "sensitivity") == 4
    assert freedom(labels[96:], names[96:], "specificity") == 5


def test_one_interval_holds_patients_and_seeds():
    """Trainings that differ by 0.1 of a standard deviation of 0.02 over patients: variances add up, freedom is Satterthwaite's."""
    rng = np.random.default_rng(0)
    values = np.array([0.6, 0.7, 0.8])
    drawn = values[:, None] + 0.02 * rng.normal(size=20000)  # the same patients for all trainings
    samples, degrees = over_seeds(values.tolist(), drawn, 30)
    of_seeds = values.var(ddof=1) / 3
    assert samples.mean() == pytest.approx(0.7, abs=0.003)
    assert samples.var() == pytest.approx(of_seeds + 0.02**2, rel=0.05)
    patients = samples.var() - of_seeds
    assert degrees == pytest.approx(samples.var() ** 2 / (of_seeds**2 / 2 + patients**2 / 30))
    low, high = seeds_interval(values.tolist(), drawn, 30)
    assert low < 0.6 < 0.8 < high, "three trainings say little"
    single = seeds_interval([0.7], 0.7 + 0.02 * rng.normal(size=(1, 20000)), 30)
    assert single == pytest.approx([0.7 - 2.04 * 0.02, 0.7 + 2.04 * 0.02], abs=0.004)


def test_intervals_over_seeds_cover_the_mean():
    hits = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        shift = 0.03 * rng.normal()  # of the patients drawn, the same for all trainings
        values = (0.75 + shift + 0.03 * rng.normal(size=4)).tolist()
        drawn = np.array(values)[:, None] + 0.03 * rng.normal(size=500)
        low, high = seeds_interval(values, drawn, 30)
        hits += low <= 0.75 <= high
    assert 0.9 <= hits / 150 <= 1


def test_metric_intervals_hold_every_metric():
    labels, scores = scored(30, 40, 0.7, 1)
    intervals = metric_intervals(labels, scores, scores > 0.5, strangers(labels), samples=200)
    assert set(intervals) == set(METRICS)
    values = image_metrics(labels, scores, scores > 0.5)
    assert all(low < values[name] < high for name, (low, high) in intervals.items())
