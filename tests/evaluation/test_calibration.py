"""Scores on one scale for all domains, and images that belong to none."""

import json

import numpy as np
import pytest

from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.scores import Scores

ORGANS, MODALITIES = 2, 2
SCALES = {(0, 0): (10.0, 1.0), (1, 0): (100.0, 20.0), (1, 1): (0.1, 0.01)}


def scores_of(pairs, z, sure=0.99, shift=0.0, seed=0):
    """Images of given domains with scores z deviations above their domain's middle; the heads are `sure` of the right domain."""
    rng = np.random.default_rng(seed)

    def one_hot(column, classes):
        found = np.full((len(pairs), classes), (1 - sure) / (classes - 1))
        found[np.arange(len(pairs)), [pair[column] for pair in pairs]] = sure
        return found

    score = np.array([SCALES.get(pair, (5.0, 1.0))[0] + SCALES.get(pair, (5.0, 1.0))[1] * value for pair, value in zip(pairs, z, strict=True)])
    content = rng.normal(size=(len(pairs), 6)) + shift
    return Scores(score, content, one_hot(0, ORGANS), one_hot(1, MODALITIES), content)


def normals(count=400, seed=1):
    rng = np.random.default_rng(seed)
    pairs = [list(SCALES)[i % 3] for i in range(count)]
    return pairs, scores_of(pairs, rng.normal(size=count), seed=seed)


@pytest.fixture(scope="module")
def calibration():
    pairs, read = normals()
    organ, modality = np.array(pairs).T
    return Calibration.fit(read, organ, modality, 0.95)


def test_medians_and_spreads_are_those_of_each_domain(calibration):
    pairs, read = normals()
    for pair in SCALES:
        own = np.array([score for score, each in zip(read.score, pairs, strict=True) if each == pair])
        middle = sorted(own)[len(own) // 2] if len(own) % 2 else sum(sorted(own)[len(own) // 2 - 1 : len(own) // 2 + 1]) / 2
        deviations = sorted(abs(own - middle))
        mad = deviations[len(own) // 2] if len(own) % 2 else sum(deviations[len(own) // 2 - 1 : len(own) // 2 + 1]) / 2
        assert calibration.domains[pair] == pytest.approx((middle, 1.4826 * mad))


def test_scores_of_all_domains_come_to_one_scale(calibration):
    z = np.array([-1.0, 0.0, 3.0])
    for pair in SCALES:
        verdict = calibration.apply(scores_of([pair] * 3, z))
        assert verdict.calibrated == pytest.approx(z, abs=0.7)
        assert verdict.anomalous.tolist() == [False, False, True]
        assert (verdict.organ.tolist(), verdict.modality.tolist()) == ([pair[0]] * 3, [pair[1]] * 3)
    true = calibration.calibrate(np.array([120.0]), np.array([1]), np.array([0]))
    assert true == pytest.approx([1.0], abs=0.3)


def test_a_fraction_of_validation_normals_is_called_anomalous_and_few_unknown(calibration):
    verdict = calibration.apply(normals()[1])
    assert verdict.anomalous.mean() == pytest.approx(0.05, abs=0.003)
    assert verdict.unknown.mean() <= 0.02


def test_a_domain_that_no_head_knows_is_unknown(calibration):
    known = scores_of([(1, 1)] * 20, np.zeros(20))
    assert calibration.apply(known).unknown.mean() < 0.2
    assert calibration.apply(scores_of([(0, 1)] * 20, np.zeros(20))).unknown.all(), "organ and modality are known, their pair is not"
    assert calibration.apply(scores_of([(1, 1)] * 20, np.zeros(20), sure=0.6)).unknown.all(), "heads that are not sure"
    assert calibration.apply(scores_of([(1, 1)] * 20, np.zeros(20), shift=6.0)).unknown.all(), "content far from the center"


def test_distance_by_hand(calibration):
    read = scores_of([(1, 1)], [0.0])
    expected = np.sqrt(np.mean([((c - m) / s) ** 2 for c, m, s in zip(read.content[0], calibration.center, calibration.deviation, strict=True)]))
    assert calibration.apply(read).distance[0] == pytest.approx(expected)


def test_without_heads_everything_is_one_domain():
    pairs, read = normals()
    organ, modality = np.array(pairs).T
    plain = Scores(read.score, read.latent, None, None, None)
    calibration = Calibration.fit(plain, organ, modality, 0.95)
    verdict = calibration.apply(plain)
    assert np.array_equal(np.argsort(verdict.calibrated), np.argsort(read.score)), "the order of scores stays"
    assert verdict.organ is verdict.confidence is None
    assert not verdict.unknown.any()
    assert verdict.anomalous.mean() == pytest.approx(0.05, abs=0.003)


def test_equal_scores_divide_by_no_zero():
    read = Scores(np.array([2.0, 2.0, 2.0]), np.zeros((3, 1)), None, None, None)
    assert Calibration.fit(read, np.zeros(3, int), np.zeros(3, int), 0.95).apply(read).calibrated.tolist() == [0, 0, 0]


def test_it_comes_back_from_json(calibration):
    assert Calibration.from_plain(json.loads(json.dumps(calibration.to_plain()))) == calibration
