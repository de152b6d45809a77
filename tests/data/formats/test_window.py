"""Which values are shown."""

import numpy as np
import pytest

from anomaly_detection.data.catalog import DatasetSettings
from anomaly_detection.data.formats.window import Window, parse_window, telling, window_from
from anomaly_detection.system.errors import UserError


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


@pytest.mark.parametrize(("level", "width"), [(float("nan"), 400), (float("inf"), 400), (40, float("inf")), (40, float("nan")), (40, -1)])
def test_a_window_is_of_numbers(level, width):
    with pytest.raises(ValueError, match="both finite"):
        Window(level, width)
    with pytest.raises(UserError, match="expected LEVEL WIDTH"):
        parse_window([str(level), str(width)])
    with pytest.raises(ValueError, match=r"window must be \[level, width\]"):
        DatasetSettings(0, "liver", "ct", "x", window=[level, width])


def test_a_window_covers_the_largest_floats():
    values = np.float32([[1e38, 3e38]])
    assert Window.covering(values).share(np.float32([2e38])) == pytest.approx(0.5, abs=1e-3)


def test_a_window_has_a_width():
    with pytest.raises(ValueError, match="width"):
        Window(40, 0)


def test_a_window_is_two_numbers_of_any_sequence():
    assert window_from(np.array([40, 400])) == window_from([40, 400]) == window_from((40.0, 400.0)) == Window(40, 400)
    assert window_from("auto") == "auto"
    assert window_from(None) is None
    for other in ("AUTO", "40", 5, True, (40,), (1, 2, 3), ("a", "b"), {40: 0, 400: 0}, np.zeros((2, 2))):
        with pytest.raises(ValueError, match="^window must be "):
            window_from(other)


def test_what_tells_an_automatic_window_reaches_from_the_first_slice_to_the_last():
    assert telling(3, 5) == [0, 1, 2]
    assert telling(11, 3) == [0, 5, 10]
    assert telling(100, 4) == [0, 33, 66, 99]
