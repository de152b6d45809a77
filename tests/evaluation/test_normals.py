"""What may be promised on n normals, against counting."""

import numpy as np
import pytest

from anomaly_detection.evaluation.normals import estimate, highest, limit, needed, numbered, p_value


def test_units_are_numbered_and_what_is_not_known_stands_alone():
    assert numbered(["a", None, "b", "a", None]).tolist() == [0, 1, 2, 0, 3]
    assert numbered([(0,), None, None]).tolist() == [0, 1, 2], "no unit can be taken for an unknown one"
    assert len(numbered([])) == 0


def test_the_highest_of_each_unit():
    rng = np.random.default_rng(0)
    values, unit = rng.normal(size=50), rng.integers(0, 9, size=50)
    assert highest(values, unit).tolist() == [max(values[unit == each]) for each in sorted(set(unit.tolist()))]
    assert highest(values[:0], unit[:0]).tolist() == []


@pytest.mark.parametrize("n", [1, 2, 19, 20, 60])
def test_a_p_value_counts_those_at_least_as_high(n):
    rng = np.random.default_rng(n)
    calibration = rng.integers(0, 8, size=n).astype(float)  # with ties
    scores = np.arange(-1, 10).astype(float)
    expected = [(1 + sum(each >= score for each in calibration)) / (n + 1) for score in scores]
    assert p_value(scores, calibration) == pytest.approx(expected)
    assert np.isnan(p_value(np.array([np.nan, 0.0]), calibration)).tolist() == [True, False]


@pytest.mark.parametrize("share", [0.01, 1 - 0.95, 0.05, 1 - 0.9, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("more", [0, 1, 7, 40])
def test_above_the_limit_is_what_has_a_p_value_of_the_share(share, more):
    n = needed(share) + more
    calibration = np.random.default_rng(n).normal(size=n).round(1)  # with ties
    scores = np.linspace(-4, 4, 801)
    assert np.array_equal(scores > limit(calibration, share), p_value(scores, calibration) <= share + 1e-9)


@pytest.mark.parametrize(
    ("count", "quantile", "rank"), [(19, 0.95, 19), (20, 0.95, 20), (39, 0.95, 38), (1000, 0.95, 951), (5, 0.95, 5), (9, 0.5, 5)]
)
def test_the_limit_is_the_conformal_rank_or_the_highest(count, quantile, rank):
    normals = np.random.default_rng(0).permutation(count) + 1.0
    assert limit(normals, 1 - quantile) == rank


@pytest.mark.parametrize(
    ("standard", "expected"), [([], 1.64485), ([0.3, -2], 1.64485), ([0.3, 2], 2), ([*range(18), 0], 17), ([*range(19, 0, -1)], 19)]
)
def test_of_few_normals_the_estimate_is_at_least_that_of_a_normal_distribution(standard, expected):
    assert estimate(np.array(standard, float), 0.05) == pytest.approx(expected, abs=1e-5)
    assert estimate(np.full(19, -1.0), 0.05) == -1


@pytest.mark.parametrize(("share", "units"), [(1 - 0.95, 19), (0.05, 19), (1 - 0.9, 9), (0.01, 99), (0.5, 1), (0.03, 33)])
def test_as_many_are_needed_as_give_a_p_value_so_small(share, units):
    assert needed(share) == units
    smallest = p_value(np.array([np.inf]), np.zeros(units))[0]
    assert smallest <= share + 1e-9
    assert p_value(np.array([np.inf]), np.zeros(units - 1))[0] > share + 1e-9
