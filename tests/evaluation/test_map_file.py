import contextlib
from pathlib import Path

import numpy as np
import pytest

from anomaly_detection.evaluation.map_file import MapFile
from anomaly_detection.system.errors import UserError


def test_what_was_added_comes_back_and_nothing_is_left(tmp_path):
    maps = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    file = MapFile(tmp_path)
    for part in (maps[:2], maps[2:2], maps[2:]):
        file.add(part)
    array = file.array()
    del file
    assert np.array_equal(array, maps)
    del array
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_told(tmp_path, monkeypatch):
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: full)
        told = rf"{tmp_path}: anomaly maps cannot be kept there while they are measured \(No space left on device\); make space"
        with pytest.raises(UserError, match=told):
            MapFile(tmp_path).add(np.zeros((2, 3, 4), np.float32))
        with contextlib.suppress(OSError):
            full.close()
