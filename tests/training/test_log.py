import os
import time

import pytest
import torch

from anomaly_detection.training import log
from anomaly_detection.training.log import Means, TrainingLog


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


def test_a_disk_is_awaited_when_training_ends_and_not_for_each_row(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    monkeypatch.setattr(os, "sync", lambda: None, raising=False)
    kept = TrainingLog(tmp_path, False, [])
    kept.add({"phase": "main", "iteration": 2, "loss": 1.0})
    assert not synced
    kept.close()
    assert synced == [(tmp_path / "log.csv").stat().st_ino]


def test_tensorboard_is_told_of_steps_that_never_go_back(tmp_path, monkeypatch):
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append((folder.name, purge_step))

        def add_scalar(self, *scalar):
            told.append(scalar)

        def close(self):
            told.append("closed")

    monkeypatch.setattr(log, "tensorboard_writer", lambda: Writer)
    rows = [{"phase": "first", "iteration": 2, "loss": 4.0}, {"phase": "first", "iteration": 4, "loss": 3.0}]
    kept = TrainingLog(tmp_path, True, [*rows, {"phase": "second", "iteration": 2, "loss": 2.0}])
    kept.add({"phase": "second", "iteration": 4, "loss": 1.0})
    kept.close()
    assert told == [("tensorboard", 7), ("second/loss", 1.0, 8), "closed"]
