"""Images that a network knows, and those it does not."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student

from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.known import BLANK, FAR, NEVER_TRAINED, NO_NUMBER, NOT_SURE, SHARE, Known
from anomaly_detection.evaluation.normals import Normals
from anomaly_detection.evaluation.scores import Scores
from tests.evaluation.simulation import DOMAINS, simulated


def known_of(seed=0, patients=60, heads=True):
    rng = np.random.default_rng(seed)
    return Known.fit(simulated(rng, 60, 4, heads=heads), simulated(rng, patients, 1, heads=heads))


def test_the_distance_is_mahalanobis_from_the_nearest_domain():
    rng = np.random.default_rng(3)
    train, val = simulated(rng, 4000, 1, features=4), simulated(rng, 20, 1, features=4)
    known = Known.fit(train, val)
    expected = []
    for content in val.scores.content:
        each = []
        for pair in DOMAINS:
            group = train.scores.content[train.of(pair)]
            difference = content - group.mean(axis=0)
            each.append(difference @ np.linalg.inv(np.cov(group.T)) @ difference / 4)
        expected.append(np.sqrt(min(each)))
    assert known.distance(val.scores) == pytest.approx(expected, rel=0.02), "of many images hardly anything is shrunk"


def test_a_feature_that_was_constant_in_training_does_not_make_everything_unknown():
    rng = np.random.default_rng(0)
    train, val, fresh = (simulated(rng, 60, 1) for _ in range(3))
    train.scores.content[:, 0] = 0.5
    for part in (val, fresh):
        part.scores.content[:, 0] = 0.5 + 1e-9 * rng.normal(size=len(part.unit))
    known = Known.fit(train, val)
    assert np.mean([bool(reason) for reason in known.reasons(fresh.scores, np.ones(180, bool))]) < 0.1
    assert known.distance(fresh.scores).max() < 5


def test_the_limit_of_few_patients_is_estimated_from_their_logarithms_and_the_spread_of_training():
    """Value by value: one feature, one domain, patients with two images of which the farther one counts."""
    rng = np.random.default_rng(1)
    parts = [simulated(rng, patients, 2, features=1, heads=False) for patients in (30, 5)]
    train, val = (replace(part, organ=part.organ * 0, modality=part.modality * 0) for part in parts)
    center, deviation = np.mean(train.scores.latent), np.std(train.scores.latent)

    def farthest(part):
        """Logarithms of distances; the floor of a tenth makes the deviation a little larger."""
        far = [math.log(abs(x - center) / (deviation * math.sqrt(1 + 0.1**2))) for x in part.scores.latent[:, 0]]
        return [max(value for value, unit in zip(far, part.unit, strict=True) if unit == each) for each in sorted(set(part.unit.tolist()))]

    before, after = farthest(train), farthest(val)
    n = len(after)
    assert n == 15
    degrees = n - 1 + 10  # as many as ten patients of training would give
    variance = (sum((value - np.mean(after)) ** 2 for value in after) + 10 * np.var(before)) / degrees
    reach = student.ppf(0.99, degrees) * math.sqrt(variance * (1 + 1 / n))  # of a new patient, around a mean of n
    assert Known.fit(train, val).max_distance == pytest.approx(math.exp(np.mean(after) + reach))


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_of_each_domain_gives_limits_that_are_numbers(count):
    rng = np.random.default_rng(0)
    known = Known.fit(simulated(rng, count, 1), simulated(rng, 1, 1))
    assert np.isfinite(known.max_distance)
    assert known.distance(simulated(rng, 1, 1).scores).shape == (3,)


def scores_like(known, **changes):
    """An image that is known, but for the changes."""
    values = {"organ": [[0.99, 0.01]], "modality": [[0.99, 0.01]], "content": [known.centers[0]], "blank": [False]} | changes
    arrays = {name: np.array(value) for name, value in values.items()}
    return Scores(np.zeros(1), arrays["content"], arrays["organ"], arrays["modality"], arrays["content"], arrays["blank"])


@pytest.mark.parametrize(
    ("changes", "trained", "reason"),
    [
        ({}, True, ""),
        ({"organ": [[0.6, 0.4]]}, True, NOT_SURE),
        ({}, False, NEVER_TRAINED),
        ({"content": [[100.0] * 6]}, True, FAR),
        ({"blank": [True]}, True, BLANK),
        ({"blank": [True], "modality": [[0.5, 0.5]]}, False, f"{NOT_SURE}; {NEVER_TRAINED}; {BLANK}"),
    ],
)
def test_every_reason_is_told(changes, trained, reason):
    known = known_of()
    assert known.reasons(scores_like(known, **changes), np.array([trained])) == [reason]


def test_without_heads_the_whole_latent_tells():
    known = known_of(heads=False)
    assert known.min_confidence is None
    assert (known_of().promised, known.promised) == (2 * SHARE, SHARE)
    far = Scores(np.zeros(1), np.full((1, 6), 50.0), None, None, None, np.array([False]))
    assert known.reasons(far, np.array([True])) == [FAR]


def test_whoever_is_sure_is_never_unknown_for_lack_of_confidence():
    rng = np.random.default_rng(0)
    train, val = simulated(rng, 60, 1, doubt=-9), simulated(rng, 120, 1, doubt=-9)
    assert val.scores.confidence().min() > 0.99
    assert Known.fit(train, val).min_confidence == 0.9


def test_an_estimate_lets_pass_nothing_that_nobody_would_call_sure():
    rng = np.random.default_rng(0)
    train, val = simulated(rng, 60, 1, doubt=-3), simulated(rng, 4, 1, doubt=-3)
    assert val.scores.confidence().min() > 0.5
    assert Known.fit(train, val).min_confidence == 0.5


@pytest.mark.parametrize("patients", [2, 4, 12, 40, 100])
def test_no_more_fresh_normals_are_unknown_than_promised(patients):
    """Promised is the share of each limit where there are units enough; an estimate from 12 patients of each domain is close."""
    rates = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        known = Known.fit(simulated(rng, 60, 4), simulated(rng, patients, 1))
        fresh = simulated(rng, 300, 1)
        rates.append(np.mean([bool(reason) for reason in known.reasons(fresh.scores, np.ones(900, bool))]))
    assert known.units == 3 * patients
    assert known.guaranteed == (patients >= 33)
    chance = 3 * np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) <= known.promised * (1 if known.guaranteed else 1.5 if patients >= 12 else 4) + chance


@pytest.mark.parametrize(("share", "reason"), [(0, NEVER_TRAINED), (0.002, NEVER_TRAINED), (0.1, NEVER_TRAINED), (0.002, BLANK), (0.1, BLANK)])
def test_normals_that_are_unknown_for_any_reason_are_within_the_promise(share, reason):
    """Of normals a share is taken for a pair that was never trained on, or blank: it counts, and where it is above the promise there is none."""

    def drawn(rng, patients):
        normals = simulated(rng, patients, 1)
        struck = rng.random(len(normals.unit)) < share * (3 if reason == NEVER_TRAINED else 1)
        if reason == BLANK:
            normals.scores.blank[struck] = True
        else:
            struck &= normals.of((0, 0))
            normals.scores.modality[struck] = [0.01, 0.99]
        return normals

    rates, guaranteed, seen = [], [], 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        known, fresh = Known.fit(simulated(rng, 60, 4), drawn(rng, 100)), drawn(rng, 300)
        unknown = known.reasons(fresh.scores, fresh.scores.named_one_of(DOMAINS))
        seen += sum(reason in each for each in unknown)
        guaranteed.append(known.guaranteed)
        rates.append(known.guaranteed * np.mean([bool(each) for each in unknown]))
    assert any(guaranteed) == (share < 0.05)
    assert seen == pytest.approx(share * 12 * 900, rel=0.5)
    assert np.mean(rates) <= 2 * SHARE + 3 * np.std(rates) / np.sqrt(len(rates))


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_never_normal(score):
    known = known_of()
    odd = replace(scores_like(known), score=np.array([score]))
    assert known.reasons(odd, np.array([True])) == [NO_NUMBER]


def test_features_that_are_no_numbers_are_far():
    assert known_of().reasons(scores_like(known_of(), content=[[np.nan] * 6]), np.array([True])) == [FAR]


def test_test_images_move_nothing():
    """What is kept with a detector follows from training and validation normals: apply changes nothing."""
    rng = np.random.default_rng(0)
    calibration = Calibration.fit(simulated(rng, 60, 4), simulated(rng, 20, 2), 0.05)
    before = calibration.to_plain()
    calibration.apply(simulated(rng, 50, 1, shift=9).scores)
    assert calibration.to_plain() == before


def test_images_of_a_domain_that_was_never_trained_on_are_unknown():
    rng = np.random.default_rng(0)
    calibration = Calibration.fit(simulated(rng, 60, 4), simulated(rng, 40, 1), 0.05)
    fresh = simulated(rng, 5, 1)
    stranger = Normals(fresh.scores, fresh.organ * 0, fresh.modality * 0 + 1, fresh.unit)
    named = replace(fresh.scores, organ=np.tile([0.999, 0.001], (15, 1)), modality=np.tile([0.001, 0.999], (15, 1)))
    for verdict in (calibration.apply_in(stranger.scores, stranger.organ, stranger.modality), calibration.apply(named)):
        assert all(NEVER_TRAINED in reason for reason in verdict.unknown)
        assert {verdict.word(i) for i in range(len(verdict.unknown))} == {"unknown"}
