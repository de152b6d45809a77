"""How conspicuous a lesion is: held against discs on noise, whose contrast, noise and size are known, and against a plain loop."""

import numpy as np
import pytest

from anomaly_detection.data.phantom.strata import LIMITS, STRATA, measure, stratum_of

SIDE = 200
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def disc(row, column, diameter):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (rows - row) ** 2 + (columns - column) ** 2 < (diameter / 2) ** 2


def noise(deviation, seed=0):
    return 100 + deviation * np.random.default_rng(seed).standard_normal((SIDE, SIDE))


@pytest.mark.parametrize(("diameter", "contrast", "deviation"), [(40, 30, 10), (20, -15, 15), (60, 200, 80)])
def test_a_disc_on_white_noise_has_the_ratio_of_rose(diameter, contrast, deviation):
    twin, visible = noise(deviation), disc(90, 110, diameter)
    facts = measure(twin + contrast * visible, twin, visible, EVERYWHERE, 0.5)
    assert facts.lesions == 1
    assert facts.contrast == pytest.approx(contrast)
    assert facts.noise == pytest.approx(deviation, rel=0.1)
    assert facts.diameter_mm == pytest.approx(diameter * 0.5, rel=0.02)
    assert facts.area_px == facts.visible_px == visible.sum()
    assert facts.rose_snr == pytest.approx(abs(contrast) / deviation * np.sqrt(np.pi) * diameter / 2, rel=0.1)


def test_the_most_conspicuous_of_several_speaks_for_the_picture():
    """The numbers are those of a loop over pixels; the small and strong one gives way to the large one, which k puts first."""
    twin = noise(10)
    large, strong, faint = disc(60, 60, 50), disc(150, 150, 8), disc(40, 160, 30)
    picture = twin + 20 * large + 60 * strong + 2 * faint
    facts = measure(picture, twin, large | strong | faint, EVERYWHERE, 1.0)
    inside = [(i, j) for i in range(SIDE) for j in range(SIDE) if large[i, j]]
    around = {(i, j) for i in range(SIDE) for j in range(SIDE) if any(abs(di) + abs(dj) <= 2 and large[i + di, j + dj] for di, dj in _steps(i, j))}
    mean = sum(twin[place] for place in around) / len(around)
    deviation = (sum((twin[place] - mean) ** 2 for place in around) / len(around)) ** 0.5
    assert (facts.lesions, facts.area_px, facts.visible_px) == (3, len(inside), int(large.sum() + strong.sum() + faint.sum()))
    assert facts.noise == pytest.approx(deviation)
    assert facts.cnr == pytest.approx(20 / deviation)
    assert facts.rose_snr == pytest.approx(20 / deviation * len(inside) ** 0.5)


@pytest.mark.parametrize(
    ("large_contrast", "small_diameter", "small_contrast", "stratum", "large_speaks"),
    [
        (10, 9, 100, "obvious", True),  # k of 40 and 80
        (10, 18, 60, "obvious", True),  # the small one alone is typical
        (5, 18, 60, "typical", False),  # both are; k of 20 and 96
        (1.5, 9, 100, "subtle", False),  # both are; k of 6 and 80
        (5, 9, 100, "typical", True),
    ],
)
def test_a_small_and_strong_lesion_hides_no_larger_one(large_contrast, small_diameter, small_contrast, stratum, large_speaks):
    """A picture is of the stratum of whichever of its lesions is of the highest, whatever k another one has."""
    twin = noise(10)
    large, small = disc(60, 60, 45), disc(150, 150, small_diameter)
    facts = measure(twin + large_contrast * large + small_contrast * small, twin, large | small, EVERYWHERE, 1.0)
    assert facts.stratum == stratum
    assert facts.area_px == (large if large_speaks else small).sum()
    alone = [measure(twin + c * region, twin, region, EVERYWHERE, 1.0) for region, c in ((large, large_contrast), (small, small_contrast))]
    assert min(STRATA.index(each.stratum) for each in alone) == STRATA.index(stratum)
    assert facts.rose_snr == pytest.approx(alone[not large_speaks].rose_snr)


def _steps(i, j):
    return [(di, dj) for di in range(-2, 3) for dj in range(-2, 3) if 0 <= i + di < SIDE and 0 <= j + dj < SIDE]


def test_anatomy_counts_as_noise_where_it_is_the_organs():
    twin, visible = noise(10), disc(100, 100, 30)
    stripes = twin + 80 * (np.arange(SIDE) % 8 < 4)
    assert measure(stripes + 40 * visible, stripes, visible, EVERYWHERE, 1.0).noise > 35
    beside = twin + 1000 * ~visible  # bone beside the organ is no noise of the organ
    assert measure(beside + 40 * visible, beside, visible, visible, 1.0).noise < 12


def test_what_has_no_noise_is_not_infinitely_conspicuous():
    visible = disc(100, 100, 3)
    facts = measure(np.full((SIDE, SIDE), 50.0) + visible, np.full((SIDE, SIDE), 50.0), visible, EVERYWHERE, 1.0)
    assert np.isfinite(facts.rose_snr)
    assert facts.stratum == "subtle"


@pytest.mark.parametrize(
    ("rose_snr", "share", "stratum"),
    [
        (30, 0.0075, "obvious"),
        (29.9, 0.0075, "typical"),
        (300, 0.0074, "typical"),
        (10, 0.002, "typical"),
        (9.9, 0.1, "subtle"),
        (300, 0.0019, "subtle"),
        (0, 0, "subtle"),
    ],
)
def test_a_stratum_asks_for_both(rose_snr, share, stratum):
    assert stratum_of(rose_snr, share) == stratum


def test_strata_rise():
    assert STRATA == ("obvious", "typical", "subtle")
    snr, share = zip(*LIMITS.values(), strict=True)
    assert sorted(snr, reverse=True) == list(snr)
    assert sorted(share, reverse=True) == list(share)
