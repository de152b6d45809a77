"""Windows, and images of one size."""

import numpy as np
import pytest

from anomaly_detection.data.prepare.grey import Window, resize_grey, resize_mask


def test_a_window_is_linear_between_its_ends():
    hu = np.array([-2000, -160, -60, 40, 140, 240, 5000, np.nan, np.inf, -np.inf])
    expected = [0, 0, 63.75, 127.5, 191.25, 255, 255, 0, 255, 0]
    assert np.abs(Window(40, 400).grey(hu).astype(float) - expected).max() <= 0.5


def test_automatic_window_covers_all_but_a_percent():
    values = np.random.default_rng(0).normal(1000, 50, 10_000)
    grey = Window.covering(np.append(values, np.nan)).grey(values)
    assert 0.003 < (grey == 0).mean() < 0.008
    assert 0.003 < (grey == 255).mean() < 0.008
    assert Window.covering(np.full(10, 7.0)).grey(np.full(10, 7.0)).tolist() == [128] * 10
    assert Window.covering(np.full(3, np.nan)).grey(np.full(3, np.nan)).tolist() == [0] * 3


def test_a_window_has_a_width():
    with pytest.raises(ValueError, match="width"):
        Window(40, 0)


def test_stretch_and_pad():
    wide = np.full((10, 40), 200, np.uint8)
    assert resize_grey(wide, 20, "stretch").tolist() == [[200] * 20] * 20
    padded = resize_grey(wide, 20, "pad")
    assert padded.shape == (20, 20)
    assert not padded[:7].any()
    assert not padded[13:].any()
    assert (padded[8:12] == 200).all()


def test_masks_keep_their_place_and_small_lesions():
    mask = np.zeros((100, 100), bool)
    mask[20:60, 40:80] = True
    small = resize_mask(mask, 10, "stretch")
    expected = np.zeros((10, 10), np.uint8)
    expected[2:6, 4:8] = 255
    assert np.array_equal(small, expected)
    speck = np.zeros((100, 100), bool)
    speck[55, 55] = True
    assert np.argwhere(resize_mask(speck, 10, "stretch")).tolist() == [[5, 5]]
    assert not resize_mask(np.zeros((5, 5), bool), 10, "pad").any()
