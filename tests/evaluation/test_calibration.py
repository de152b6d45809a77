"""What a score means: p-values, thresholds and one scale for all domains."""

import dataclasses
import json
import math

import numpy as np
import pytest

from anomaly_detection.evaluation.calibration import PRIOR, Calibration
from anomaly_detection.evaluation.normals import Normals
from anomaly_detection.evaluation.scores import Scores
from tests.evaluation.simulation import DOMAINS, SCALES, simulated


@pytest.fixture(scope="module")
def calibration():
    rng = np.random.default_rng(0)
    return Calibration.fit(simulated(rng, 100, 2, shift=-0.3), simulated(rng, 60, 3), 0.05)


def plain(score, unit=None, pair=(0, 0)):
    """Normals of one domain without heads, of the given scores."""
    score = np.array(score, float)
    unit = np.arange(len(score)) if unit is None else np.array(unit)
    latent = np.random.default_rng(0).normal(size=(len(score), 2))
    return Normals(Scores(score, latent, None, None, None, np.zeros(len(score), bool)), *(np.full(len(score), each) for each in pair), unit)


def test_an_images_p_value_counts_patients_by_their_highest_slice():
    train, val = plain(np.arange(30.0)), plain([1, 5, 2, 2, 3, 9], unit=[0, 0, 1, 1, 1, 2])  # the patients' highest: 5, 3, 9
    calibration = Calibration.fit(train, val, 0.05)
    verdict = calibration.apply(plain([0, 3, 3.1, 5, 6, 9, 10]).scores)
    assert verdict.p_value == pytest.approx([4 / 4, 4 / 4, 3 / 4, 3 / 4, 2 / 4, 2 / 4, 1 / 4])
    assert not verdict.guaranteed.any()


def test_patients_of_validation_are_pooled_over_the_slices_that_the_network_knows_as_those_of_the_test_are():
    """Patient 1 has a blank slice that scores highest, patient 2 none but a blank one."""
    val = plain([1, 2, 9, 3, 1, 4, 8, 5], unit=[0, 0, 1, 1, 1, 1, 2, 3])
    val.scores.blank[[2, 6]] = True
    val.scores.latent[:] = 0
    (reference,) = Calibration.fit(plain(np.arange(30.0)), val, 0.05).domains.values()
    assert reference.pooled == pytest.approx(sorted([3 / 2, (3 + 1 + 4) / 3, 5]))
    assert reference.highest == (2, 5, 8, 9), "any image is compared with the highest"
    assert reference.slices == (1, 2, 4), "of those that are pooled: two, four and one"


def test_a_calibration_that_knows_no_slices_can_be_read(calibration):
    """An older version did not ask how many a patient has."""
    values = json.loads(json.dumps(calibration.to_plain()))
    for each in (*values["domains"], *values["told"], values["everything"]):
        assert each.pop("slices") == [3, 3, 3]
    assert {each.slices for each in Calibration.from_plain(values).domains.values()} == {None}


def test_each_way_to_tell_the_domain_has_its_own_reference():
    """A score that depends on the domain: heads name the wrong one for every fourth image."""
    rng = np.random.default_rng(0)

    def normals(count):
        each = simulated(rng, count, 1)
        told = rng.normal(size=(len(each.unit), 2, 2)) + np.array([[10.0, 20.0], [30.0, 40.0]])
        unused = rng.normal(size=len(each.unit)) + 100
        named = np.where(np.arange(len(each.unit)) % 4 == 0, 0, each.organ)
        score = told[np.arange(len(named)), named, each.modality]
        return dataclasses.replace(each, scores=dataclasses.replace(each.scores, score=score, unused=unused, told=told))

    train, val, test = normals(60), normals(40), normals(30)
    calibration = Calibration.fit(train, val, 0.05)

    def highest(scores, pair):
        return tuple(sorted(scores[val.of(pair)].tolist()))

    for pair in ((0, 0), (1, 0), (1, 1)):
        assert calibration.domains[pair].highest == highest(val.scores.score, pair)
        assert calibration.told[pair].highest == highest(val.scores.told[:, pair[0], pair[1]], pair)
        assert calibration.told[pair].threshold == pytest.approx(10 + 20 * pair[0] + 10 * pair[1] + 1.6, abs=1.5)
    assert calibration.everything.highest == tuple(sorted(val.scores.unused.tolist()))
    verdict = calibration.apply_in(test.scores, test.organ, test.modality)
    expected = test.scores.told[np.arange(len(test.unit)), test.organ, test.modality]
    thresholds = [calibration.told[pair].threshold for pair in zip(test.organ.tolist(), test.modality.tolist(), strict=True)]
    assert verdict.anomalous.tolist() == (expected > thresholds).tolist()
    assert Calibration.from_plain(json.loads(json.dumps(calibration.to_plain()))) == calibration


@pytest.mark.parametrize("wrong", [0.0, 0.2])
@pytest.mark.parametrize("shift", [-8.0, 8.0])
def test_false_alarms_are_as_promised_where_the_domain_that_is_named_has_a_part_in_the_score(wrong, shift):
    """Simulated: 19 validation patients a domain promise one false alarm in 20; the score of an image whose domain is named wrongly is moved."""
    rng = np.random.default_rng(0)

    def normals(count):
        organ = np.repeat([0, 1], count)
        places, modality = np.arange(2 * count), np.zeros(2 * count, int)
        named = np.where(rng.random(2 * count) < wrong, 1 - organ, organ)
        told = np.empty((2 * count, 2, 1))
        told[places, organ, 0] = rng.normal(size=2 * count)
        told[places, 1 - organ, 0] = told[places, organ, 0] + shift + rng.normal(size=2 * count)
        sure = np.where(named[:, None] == [0, 1], 0.99, 0.01)
        latent = rng.normal(size=(2 * count, 2))
        heads = sure, np.ones((2 * count, 1)), latent
        scores = Scores(told[places, named, 0], latent, *heads, np.zeros(2 * count, bool), told[places, organ, 0] + 100, told)
        return Normals(scores, organ, modality, places), named == organ

    rates = []
    for _ in range(120):
        calibration, (test, right) = Calibration.fit(normals(30)[0], normals(19)[0], 0.05), normals(100)
        limits = np.array([calibration.domains[pair].threshold for pair in zip(test.organ, test.modality, strict=True)])
        calls = calibration.apply(test.scores).anomalous, calibration.apply_in(test.scores, test.organ, test.modality).anomalous
        rates.append([np.mean(right & calls[0]), calls[1].mean(), np.mean(test.scores.score > limits)])
    named, told, table = np.mean(rates, axis=0)
    assert told == pytest.approx(1 / 20, abs=0.01), "in the true domain"
    assert table == pytest.approx(1 / 20, abs=0.01), "as tables call them: the score, whoever named its domain, by normals of the true domain"
    assert named < 0.05 + 0.01, "named rightly and called"
    if wrong == 0:
        assert named == pytest.approx(1 / 20, abs=0.01)


def test_an_image_that_is_not_scored_in_the_domain_it_is_named_is_unknown():
    """A score that depends on the domain, of heads that the baseline does not trust everywhere: there it uses none."""
    rng = np.random.default_rng(0)

    def normals(count, trusted):
        each = simulated(rng, count, 1)
        told = rng.normal(size=(len(each.unit), 2, 2)) + np.array([[10.0, 20.0], [30.0, 40.0]])
        unused = rng.normal(size=len(each.unit)) + 100
        score = np.where(trusted(np.arange(len(unused))), told[np.arange(len(unused)), each.organ, each.modality], unused)
        return dataclasses.replace(each, scores=dataclasses.replace(each.scores, score=score, unused=unused, told=told))

    calibration = Calibration.fit(normals(60, lambda i: i >= 0), normals(40, lambda i: i >= 0), 0.05)
    test = normals(40, lambda i: i % 5 > 0)
    unsure = np.array(["not sure" in reason for reason in calibration.apply(test.scores).unknown])
    assert unsure[::5].all()
    assert unsure.sum() < 24 + 6
    told = calibration.apply_in(test.scores, test.organ, test.modality)
    assert sum("not sure" in reason for reason in told.unknown) < 6, "the domain is told"
    some = Calibration.fit(normals(60, lambda i: i >= 0), normals(100, lambda i: i != 7), 0.05)
    many = Calibration.fit(normals(60, lambda i: i >= 0), normals(100, lambda i: i % 5 > 0), 0.05)
    assert (some.known.guaranteed, many.known.guaranteed) == (True, False), "a fifth of normals is more than is promised"


@pytest.mark.parametrize("n", [18, 19, 20, 38, 39, 100])
def test_nineteen_patients_are_enough_for_a_guarantee(n):
    rng = np.random.default_rng(n)
    unit = np.repeat(np.arange(n), 3)
    val = plain(rng.normal(size=3 * n), unit)
    calibration = Calibration.fit(plain(rng.normal(size=200)), val, 1 - 0.95)
    fresh = plain(rng.normal(0.5, 1.5, size=2000))
    fresh.scores.score[0] = calibration.everything.threshold
    verdict = calibration.apply(fresh.scores)
    assert verdict.guaranteed.all() == (n >= 19)
    tops = [max(val.scores.score[unit == each]) for each in range(n)]
    if n >= 19:
        expected = [(1 + sum(top >= score for top in tops)) / (n + 1) <= 0.05 + 1e-9 for score in fresh.scores.score]
        assert verdict.anomalous.tolist() == expected
    assert len(set(verdict.threshold)) == 1
    assert np.array_equal(verdict.anomalous, fresh.scores.score > verdict.threshold)


@pytest.mark.parametrize(("patients", "slices"), [(20, 1), (36, 1), (36, 5), (100, 1)])
def test_false_alarms_on_fresh_patients_keep_to_what_is_guaranteed(patients, slices):
    rates = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        calibration = Calibration.fit(simulated(rng, 30, 2, shift=-0.5), simulated(rng, patients, slices), 0.05)
        fresh = simulated(rng, 100, 1)
        verdict = calibration.apply(fresh.scores)
        assert verdict.guaranteed.all()
        rates.append(verdict.anomalous.mean())
    assert np.mean(rates) <= 0.05 + 3 * np.std(rates) / math.sqrt(len(rates))


def test_few_patients_still_flag_and_are_not_far_off():
    """Three patients a domain, trained scores lower by half a deviation: without a guarantee, within a factor of three of what is promised."""
    rates, found = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        calibration = Calibration.fit(simulated(rng, 30, 5, shift=-0.25), simulated(rng, 3, 5), 0.05)
        assert not any(reference.guaranteed for reference in calibration.domains.values())
        rates.append(calibration.apply(simulated(rng, 100, 1).scores).anomalous.mean())
        found.append(calibration.apply(simulated(rng, 100, 1, shift=3).scores).anomalous.mean())
    assert 0.02 < np.mean(rates) < 0.15
    assert np.mean(found) > 0.9


def test_center_and_spread_are_drawn_to_training_where_patients_are_few():
    """By hand: one domain has the shift and the ratio of its own, so only the spread is held back, by the prior."""
    train, val = plain([0, 1, 2, 3, 4]), plain([10, 12, 14, 16, 18])
    (reference,) = Calibration.fit(train, val, 0.05).domains.values()
    assert reference.center == pytest.approx(14)
    mads = 1.4826 * 1, 1.4826 * 2
    ratio = 5 * math.log(2) / (5 + PRIOR)
    expected = mads[0] * math.exp(ratio) * (mads[1] / (mads[0] * math.exp(ratio))) ** (5 / (5 + PRIOR))
    assert reference.spread == pytest.approx(expected)


def test_a_domain_of_one_patient_takes_its_scale_from_training_and_the_others():
    """Two domains, both trained at half of what validation scores; the second has a single validation image, which is an odd one."""
    rng = np.random.default_rng(0)
    scores = rng.normal(1, 0.1, size=200)
    parts = []
    for first, second in ((scores[:100], 100 * scores[:100]), (scores[100:] + 0.2, [100 * 1.5])):
        score, organ = np.array([*first, *second]), np.array([0] * len(first) + [1] * len(second))
        latent = rng.normal(size=(len(score), 2))
        parts.append(Normals(Scores(score, latent, None, None, None, np.zeros(len(score), bool)), organ, organ * 0, np.arange(len(score))))
    calibration = Calibration.fit(*parts, 0.05)
    one, other = calibration.domains[0, 0], calibration.domains[1, 0]
    assert one.center == pytest.approx(np.median(parts[1].scores.score[:100]), rel=0.01)
    assert other.center == pytest.approx(120, rel=0.05), "hardly where its only image is"
    assert other.spread == pytest.approx(100 * one.spread, rel=0.1), "in its own unit, not 1.0"
    assert not other.guaranteed
    assert other.threshold < 10 * 150, "ten times the only validation normal is anomalous"


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_a_handful_of_images_sets_no_threshold_below_the_usual(images, alpha):
    """The highest of one or two normals is often a low one: three of four normals were called anomalous on some."""
    rates = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        calibration = Calibration.fit(plain(rng.normal(size=200)), plain(rng.normal(size=images)), alpha)
        assert calibration.everything.threshold > calibration.everything.center
        rates.append(calibration.apply(plain(rng.normal(size=400)).scores).anomalous.mean())
    assert np.mean(rates) < 0.3
    assert np.mean(np.array(rates) > 0.5) < 0.2


def test_a_domain_is_drawn_to_what_the_others_lead_to_expect_as_far_as_it_has_few_patients():
    """By hand. Trained alike (center 10), one spread; 30 patients of the first validate at 12, 10 of the second at 16: on average 3 higher."""
    train, scores = [9, 10, 11], ([11, 12, 13] * 10, [15] * 3 + [16] * 4 + [17] * 3)
    parts = []
    for first, second in ((train, train), scores):
        organ = np.array([0] * len(first) + [1] * len(second))
        parts.append(dataclasses.replace(plain([*first, *second]), organ=organ))
    one, other = (Calibration.fit(*parts, 0.05).domains[pair] for pair in ((0, 0), (1, 0)))
    assert PRIOR == 10, "or other weights than 3/4 and 1/2"
    assert (one.center, other.center) == pytest.approx((13 - 3 / 4, 13 + 3 / 2))
    assert (one.spread, other.spread) == pytest.approx((1.4826, 1.4826))


def test_scores_of_all_domains_come_to_one_scale(calibration):
    rng = np.random.default_rng(5)
    fresh = simulated(rng, 200, 1)
    verdict = calibration.apply(fresh.scores)
    for pair, scale in zip(DOMAINS, SCALES, strict=True):
        inside = fresh.of(pair)
        assert np.median(verdict.calibrated[inside]) == pytest.approx(0, abs=0.4)
        assert calibration.domains[pair].center == pytest.approx(scale, rel=0.2)
        assert (set(verdict.organ[inside]), set(verdict.modality[inside])) == ({pair[0]}, {pair[1]})
    told = calibration.apply_in(fresh.scores, fresh.organ, fresh.modality)
    assert np.array_equal(told.calibrated, verdict.calibrated), "the heads are right"


def test_thresholds_are_of_patients_that_had_no_part_in_center_and_spread():
    """Of six patients, each far from the others; in-sample their own scores would widen the spread they are measured in."""
    val = plain(np.repeat([0.0, 10, 20, 30, 40, 500], 2) + np.tile([0, 1], 6), np.repeat(np.arange(6), 2))
    train = plain(np.arange(60.0))
    (reference,) = Calibration.fit(train, val, 0.05).domains.values()

    def standard(scores, n):
        median = np.median(scores)
        mad = 1.4826 * np.median(abs(scores - median))
        before = 1.4826 * np.median(abs(train.scores.score - np.median(train.scores.score)))
        expected = before * (mad / before) ** (n / (n + PRIOR))
        return median, expected * (mad / expected) ** (n / (n + PRIOR))

    left_out = []
    for unit in range(6):
        middle, spread = standard(val.scores.score[val.unit != unit], 5)
        left_out += [(score - middle) / spread for score in val.scores.score[val.unit == unit]]
    middle, spread = standard(val.scores.score, 6)
    assert reference.threshold == pytest.approx(middle + spread * max(left_out)), "12 images have no 95th percentile: the highest"


def test_without_heads_several_domains_are_one_and_nothing_is_guaranteed():
    rng = np.random.default_rng(0)
    train, val = simulated(rng, 40, 1, heads=False), simulated(rng, 40, 1, heads=False)
    calibration = Calibration.fit(train, val, 0.05)
    fresh = simulated(rng, 100, 1, heads=False)
    verdict = calibration.apply(fresh.scores)
    assert np.array_equal(np.argsort(verdict.calibrated), np.argsort(fresh.scores.score)), "the order of scores stays"
    assert verdict.organ is verdict.modality is verdict.confidence is None
    assert not verdict.guaranteed.any()
    assert verdict.anomalous.mean() == pytest.approx(0.05, abs=0.04)
    told = calibration.apply_in(fresh.scores, fresh.organ, fresh.modality)
    assert told.guaranteed.all()


@pytest.mark.parametrize(("strangers", "unit"), [([], "patients"), ([0], "patients and images"), (range(120), "images")])
def test_the_threshold_for_all_domains_names_what_it_counts(strangers, unit):
    rng = np.random.default_rng(0)
    train, val = simulated(rng, 60, 1), simulated(rng, 40, 1)
    val = dataclasses.replace(val, stranger=np.isin(np.arange(120), strangers))
    assert Calibration.fit(train, val, 0.05).everything.unit == unit


def test_without_heads_a_single_domain_is_known():
    calibration = Calibration.fit(plain(range(50)), plain(range(30)), 0.05)
    assert calibration.everything == calibration.domains[0, 0]
    assert calibration.apply(plain([40]).scores).guaranteed.all()


@pytest.mark.parametrize("scores", [[2.0, 2.0, 2.0], [0.0], [5.0]])
def test_equal_scores_divide_by_no_zero(scores):
    verdict = Calibration.fit(plain(scores), plain(scores), 0.05).apply(plain(scores).scores)
    assert verdict.calibrated.tolist() == [0] * len(scores)
    assert not verdict.anomalous.any()


def test_more_patients_than_folds_give_nearly_the_threshold_of_leaving_out_each(monkeypatch):
    rng = np.random.default_rng(0)
    train, val = simulated(rng, 40, 1, heads=False), simulated(rng, 40, 1, heads=False)
    exact = Calibration.fit(train, val, 0.05).everything.threshold
    monkeypatch.setattr("anomaly_detection.evaluation.calibration.FOLDS", 10)
    assert Calibration.fit(train, val, 0.05).everything.threshold == pytest.approx(exact, rel=0.1)


def test_it_comes_back_from_json(calibration):
    assert Calibration.from_plain(json.loads(json.dumps(calibration.to_plain()))) == calibration


def test_the_verdict_is_one_word(calibration):
    rng = np.random.default_rng(0)
    for shift, word in ((4, "anomalous"), (-2, "normal")):
        verdict = calibration.apply(simulated(rng, 40, 1, shift=shift).scores)
        words = [verdict.word(i) for i in range(120)]
        assert [each == "unknown" for each in words] == [bool(reason) for reason in verdict.unknown]
        assert set(words) <= {word, "unknown"}
        assert words.count(word) > 100
