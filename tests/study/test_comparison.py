"""Paired differences between two detectors."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from anomaly_detection.evaluation.bootstrap import metric_samples, share_samples
from anomaly_detection.evaluation.metrics import METRICS, image_metrics
from anomaly_detection.study.comparison import (
    Raised,
    Scored,
    differences,
    intervals_over_seeds,
    mean_auroc_interval,
    raised,
    scored,
    twin_rate_difference,
)
from anomaly_detection.system.errors import UserError
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


def test_two_patients_of_a_class_prove_nothing():
    """Every sample has the same AUROC: that is no certainty."""

    def network(*scores: float) -> dict[str, list[Scored]]:
        return {"a": [Scored(np.array([0, 0, 1, 1]), np.array(scores), np.zeros(4, bool), ("n1", "n2", "a1", "a2"))] * 2}

    perfect, shifted, chance = network(0, 1, 2, 3), network(0, 1, 2, 4), network(0, 0, 0, 0)
    for other, value in ((chance, 0.5), (shifted, 0.0)):
        for difference in differences(perfect, other).values():
            assert difference.value == value
            assert difference.low < -0.4
            assert difference.high > 0.4
    assert str(differences(perfect, perfect)["mean"]) == "+0.000 [+0.000, +0.000]", "the same scores are the same detector"
    rates = [{"a": Raised(np.ones(2), ("p", "q"))}], [{"a": Raised(np.array([0.5, 0.5]), ("p", "q"))}]
    assert twin_rate_difference(*rates).low < 0


def of_patients(*scores: float, normal: int = 3) -> Scored:
    labels = np.repeat([0, 1], [normal, len(scores) - normal])
    return Scored(labels, np.array(scores), np.zeros(len(scores)), tuple(map(str, range(len(scores)))))


def test_networks_that_differ_in_no_sample_may_differ_in_other_patients():
    """Both AUROCs vary with the patients who are drawn, and in every sample alike: of all other patients 71 % may be otherwise."""
    one, other = of_patients(1, 2, 3, 1.5, 4, 5, 6, 7), of_patients(1.2, 2.4, 2.9, 1.9, 4.5, 4.6, 9, 8)
    most = 1 - 0.025 ** (1 / 3)
    found = differences({"a": [one]}, {"a": [other]})
    for each in found.values():
        assert (each.low, each.value, each.high) == pytest.approx((-most, 0, most))
    strict = differences({"a": [one]}, {"a": [other]}, 0.05 / 6)["a"]
    assert strict.high == pytest.approx(1 - (0.05 / 12) ** (1 / 3)), "so many may be otherwise at the level that is asked for"
    half = differences({"a": [one, one]}, {"a": [other, one]})["a"]
    assert half.high == pytest.approx(most / 2), "one of two trainings is the same"


def test_pairs_of_which_two_networks_say_the_same_are_no_proof_unless_their_scores_are_the_same():
    bodies = tuple(f"body {i}" for i in range(20))
    flags, rises = np.arange(20) % 4 > 0, np.linspace(-1, 2, 20)
    one, same, other = (Raised(flags.astype(float), bodies, each) for each in (rises, rises.copy(), 2 * rises))
    most = 1 - 0.025 ** (1 / 20)
    for unlike in (other, replace(one, rises=None)):
        found = twin_rate_difference([{"a": one}], [{"a": unlike}])
        assert (found.low, found.value, found.high) == pytest.approx((-most, 0, most))
    assert str(twin_rate_difference([{"a": one}], [{"a": same}])) == "+0.000 [+0.000, +0.000]"


def test_a_dataset_on_which_no_sample_tells_adds_to_the_variance_of_a_mean():
    one, other = of_patients(1, 2, 3, 1.5, 4, 5, 6, 7), of_patients(1.2, 2.4, 2.9, 1.9, 4.5, 4.6, 9, 8)
    few, many = ({"a": [each]} for each in (one, other)), ({"b": [example(0, 1.5)]}, {"b": [example(1, 0.2)]})
    found = differences(*({**a, **b} for a, b in zip(few, many, strict=True)))
    deviations = [(found[name].high - found[name].value) / student.ppf(0.975, freedom) for name, freedom in (("a", 2), ("b", 49))]
    assert deviations[0] > 0.1
    variances = [each**2 / 4 for each in deviations]
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 49)
    assert found["mean"].high - found["mean"].value == pytest.approx(student.ppf(0.975, freedom) * np.sqrt(sum(variances)), rel=0.05)


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
    assert (found.called.tolist(), found.patients) == ([False, False, True], (None, "P", "P"))
    everything = scored(lines, None, "other", -3.0)
    assert (everything.scores.tolist(), everything.called.tolist()) == ([-1.0, -2.0, -3.0, -7.0, -8.0], [True, True, False, False, False])


def test_pairs_stand_in_the_order_of_their_names_and_equal_scores_are_half_raised():
    pairs = [("b", 1.0, 1.0), ("c", 1.0, 2.0), ("a", 2.0, 1.0)]
    rows = [{"image": name, "dataset": "x", "patient": name.upper()} for name, *_ in pairs]
    lines = [{"dataset": "x", "image": name, "score": score, "twin_score": twin} for name, score, twin in pairs]
    found = raised(lines, Lines.of(rows))["x"]
    assert (found.flags.tolist(), found.patients, found.rises.tolist()) == ([1.0, 0.5, 0.0], ("A", "B", "C"), [1.0, 0.0, -1.0])


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


BODIES = tuple(f"body {i}" for i in range(100))


def test_the_same_bodies_in_another_dataset_make_a_mean_no_surer():
    """Three times the same images say as much as once; as those of other patients they would be surer by the root of 3."""

    def width(interval):
        return interval[1] - interval[0]

    one, other = ([example(seed, shift, BODIES) for seed in range(2)] for shift in (1.5, 0.5))
    thrice = differences(dict.fromkeys("abc", one), dict.fromkeys("abc", other))
    once = differences({"a": one}, {"a": other})["mean"]
    assert (thrice["mean"].low, thrice["mean"].high) == pytest.approx((thrice["b"].low, thrice["b"].high))
    assert (thrice["mean"].low, thrice["mean"].high) == pytest.approx((once.low, once.high), rel=0.05)  # others of the samples' random numbers
    once, thrice = mean_auroc_interval({"a": one[:1]}), mean_auroc_interval(dict.fromkeys("abc", one[:1]))
    assert thrice == pytest.approx(once, rel=0.02)
    others = {name: [replace(one[0], patients=tuple(f"{name}{who}" for who in BODIES))] for name in "abc"}
    assert width(once) / width(mean_auroc_interval(others)) == pytest.approx(3**0.5, rel=0.1)


@pytest.mark.parametrize("shared", [0, 20, 40])
def test_deviations_of_means_over_sets_of_bodies_are_those_of_simulations(shared):
    """Three datasets of 20 normal and 20 abnormal bodies, of which some are in all; what is odd about a body shows wherever it is."""

    def simulated(seed):
        rng = np.random.default_rng(seed)
        labels, oddness, datasets = np.tile([0, 1], 20), rng.normal(size=40), {}
        for name in "abc":
            common = np.arange(40) < shared
            scores = labels + 0.9 * np.where(common, oddness, rng.normal(size=40)) + 0.45 * rng.normal(size=40)
            patients = tuple(f"{i}" if here else f"{name}{i}" for i, here in enumerate(common))
            datasets[name] = [Scored(labels, scores, scores > 1, patients)]
        return datasets

    means = [np.mean([each.auroc for (each,) in simulated(seed).values()]) for seed in range(1000)]
    constant = {name: [replace(each[0], scores=np.zeros(40))] for name, each in simulated(0).items()}  # 0.5 in every sample
    found = [differences(simulated(seed), constant)["mean"] for seed in range(40)]
    freedom = student.ppf(0.975, 19 if shared else 57)  # of 20 bodies of a class, or of three times as many
    assert np.mean([(each.high - each.low) / 2 / freedom for each in found]) == pytest.approx(np.std(means), rel=0.12)


def test_the_freedom_of_a_mean_over_shared_and_other_patients_by_hand():
    """Two datasets of the same 100 bodies are one source of variance with 49 degrees of freedom, a third of four patients another with 1."""
    few = tuple(f"P{i // 25}" for i in range(100))
    patients = {"a": BODIES, "few": few, "b": BODIES}
    one, two = (
        {name: [example(seed + start, shift, who)] for seed, (name, who) in enumerate(patients.items())} for start, shift in ((0, 1.5), (3, 0.5))
    )
    found = differences(one, two)
    reach = {name: (found[name].high - found[name].low) / 2 for name in (*patients, "mean")}
    of_few = (reach["few"] / student.ppf(0.975, 1) / 3) ** 2
    of_bodies = (_deviation_of_pair(one, two) / 3) ** 2
    freedom = (of_few + of_bodies) ** 2 / (of_few**2 / 1 + of_bodies**2 / 49)
    assert reach["mean"] == pytest.approx(student.ppf(0.975, freedom) * np.sqrt(of_few + of_bodies), rel=0.1)  # the two are drawn independently


def _deviation_of_pair(one, two) -> float:
    """Of the sum of the differences on a and b, whose bodies are drawn together: weights of every body in a loop."""
    rng, sums = np.random.default_rng(5), []
    for _ in range(400):
        weights = np.concatenate([np.bincount(rng.integers(50, size=49), minlength=50) for _ in range(2)])
        aurocs = [[roc_auc_score(each.labels, each.scores, sample_weight=weights) for each in (one[name][0], two[name][0])] for name in "ab"]
        sums.append(sum(first - second for first, second in aurocs))
    return float(np.std(sums))


def pairs(seed: int, rate: float, patients=BODIES) -> Raised:
    return Raised((np.random.default_rng(seed).random(len(patients)) < rate).astype(float), patients)


def test_a_difference_of_twin_rates_by_hand():
    """Over two sets of the same 100 bodies: the variance of a body's mean over them, and 99 degrees of freedom."""
    one, other = {"a": pairs(0, 0.9), "b": pairs(1, 0.8)}, {"a": pairs(2, 0.7), "b": pairs(3, 0.7)}
    of_each_body = np.mean([one[name].flags - other[name].flags for name in "ab"], axis=0)
    found = twin_rate_difference([one], [other])
    assert found.value == pytest.approx(of_each_body.mean())
    reach = student.ppf(0.975, 99) * of_each_body.std(ddof=1) / 10
    assert ((found.high - found.low) / 2, (found.high + found.low) / 2) == pytest.approx((reach, found.value), rel=0.06)
    drawn = share_samples(of_each_body[None] / 2 + 0.5, BODIES)[0, 0] * 2
    assert (found.high - found.low) / 2 == pytest.approx(student.ppf(0.975, 99) * drawn.std()), "the same samples"


def test_pairs_of_nobody_known_are_each_a_unit_and_a_set_of_one_patient_says_nothing():
    strangers, single = (None,) * 100, ("P",) * 100
    known, unknown, one = (twin_rate_difference([{"a": pairs(0, 0.9, who)}], [{"a": pairs(1, 0.7, who)}]) for who in (BODIES, strangers, single))
    assert (unknown.low, unknown.high) == (known.low, known.high)
    assert (one.low, one.high) == (-1.0, 1.0)
    beside = twin_rate_difference(*([{"a": pairs(seed, 0.8), "b": pairs(seed + 1, 0.8, single)}] for seed in (0, 2)))
    assert (beside.low, beside.high) == (-1.0, 1.0)


def freedom_of(one, two) -> float:
    """Degrees of freedom of the mean of some differences, read off from two levels of one interval."""
    wide, usual = (differences(one, two, level)["mean"] for level in (0.01, 0.05))
    ratio = (wide.high - wide.low) / (usual.high - usual.low)
    return brentq(lambda degrees: student.ppf(0.995, degrees) / student.ppf(0.975, degrees) - ratio, 1.5, 1000)


def test_datasets_of_shared_patients_have_the_freedom_of_the_smaller():
    """100 bodies, and 20 of them in another dataset: 9."""
    one, two = (
        {"a": [whole := example(seed, shift, BODIES)], "b": [replace(whole, **{name: getattr(whole, name)[40:60] for name in vars(whole)})]}
        for seed, shift in ((0, 1.5), (1, 0.5))
    )
    assert freedom_of(one, two) == pytest.approx(9, rel=0.01)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_each_dataset_varies_in_whatever_order_they_stand(order):
    """Of two datasets each has a patient of each class that the other has not."""
    labels, sizes = {"a": np.repeat([0, 1], [30, 30]), "b": np.repeat([0, 1], [6, 6])}, {"a": (29, 59), "b": (5, 11)}
    networks = [{}, {}]
    for seed, network in enumerate(networks):
        for name in order:
            rng = np.random.default_rng([seed, ord(name)])
            patients = [f"{label}.{place % (len(labels[name]) // 2)}" for place, label in enumerate(labels[name])]
            for place in sizes[name]:
                patients[place] += name
            scores = rng.normal(size=len(labels[name])) + labels[name] * (1 - 0.5 * seed)
            network[name] = [Scored(labels[name], scores, scores > 1, tuple(patients))]
    found, alone = differences(*networks), {name: differences(*({name: each[name]} for each in networks))[name] for name in "ab"}
    for name in "ab":
        assert found[name].high - found[name].low == pytest.approx(alone[name].high - alone[name].low, rel=0.15)
    assert list(found) == [*order, "mean"]


def test_no_dataset_is_without_doubt_whoever_shares_patients_with_whom():
    """A chain of datasets, each showing ten patients of each class, one of them new."""
    rng, one, two = np.random.default_rng(0), {}, {}
    for number in range(12):
        labels, patients = np.repeat([0, 1], 10), tuple(f"{label}.{number + place}" for label in (0, 1) for place in range(10))
        for side, shift in ((one, 1.0), (two, 0.5)):
            scores = rng.normal(size=20) + shift * labels
            side[f"s{number}"] = [Scored(labels, scores, scores > 1, patients)]
    found = differences(one, two)
    alone = {name: differences({name: one[name]}, {name: two[name]})[name] for name in one}
    assert all(found[name].high - found[name].low > 0.7 * (alone[name].high - alone[name].low) for name in one)


def test_datasets_stay_in_their_order():
    one, two = ({name: [example(seed, 1.0, who)] for name, who in (("a", BODIES), ("b", (None,) * 100), ("c", BODIES))} for seed in (0, 1))
    assert list(differences(one, two)) == ["a", "b", "c", "mean"]


def test_samples_are_of_the_patients_and_the_place_that_are_asked_for(monkeypatch):
    """What was drawn before of the same scores, for other patients or as another dataset, is not taken."""
    few = tuple(f"P{i // 10}" for i in range(100))
    asked = [{"a": [example(0, 1.0, BODIES)]}, {"a": [example(0, 1.0, few)]}, {"b": [example(1, 1.0)], "a": [example(0, 1.0, BODIES)]}]
    kept = [mean_auroc_interval(each) for each in asked]
    for each, interval in zip(asked, kept, strict=True):
        monkeypatch.setattr("anomaly_detection.study.comparison._DRAWN", {})
        assert mean_auroc_interval(each) == interval


def test_networks_that_are_compared_are_of_the_same_patients():
    one, two = {"a": [example(0, 1.0, BODIES)]}, {"a": [example(1, 1.0)]}
    with pytest.raises(UserError, match="^a: some networks were scored when its images were said to be of other patients"):
        differences(one, two)
    with pytest.raises(UserError, match="^a: some networks"):
        twin_rate_difference([{"a": pairs(0, 0.9)}], [{"a": pairs(1, 0.7, (None,) * 100)}])


def test_twin_rates_of_two_sets_of_others_are_surer_by_the_root_of_two():
    """Equal flags: were both drawn alike, their mean would be no surer than one."""
    others = tuple(f"other {i}" for i in range(100))
    single, both = (
        twin_rate_difference([{name: pairs(0, 0.9, who) for name, who in sets}], [{name: pairs(1, 0.7, who) for name, who in sets}])
        for sets in ([("a", BODIES)], [("a", BODIES), ("b", others)])
    )
    assert (single.high - single.low) / (both.high - both.low) == pytest.approx(2**0.5, rel=0.1)
