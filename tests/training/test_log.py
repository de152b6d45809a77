import time

import pytest
import torch

from anomaly_detection.training.log import Means


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_images_per_second_are_a_number_where_the_clock_stood_still(seconds, monkeypatch):
    """As one that ticks 64 times a second does."""
    now = [7.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("anomaly_detection.training.log.SHORTEST", 1 / 64, raising=False)
    means = Means()
    for value in (1.0, 3.0):
        means.add({"loss": torch.tensor(value)})
    now[0] += seconds
    assert means.take(images=8) == {"loss": 2.0, "images_per_second": 2 * 8 / (seconds or 1 / 64)}
