"""What is finished costs nothing: no image is decoded and none is hashed again."""

import hashlib
import json
from types import SimpleNamespace

import pytest

import run_experiments
from anomaly_detection import registry
from anomaly_detection.data import arrays, dataset
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError


def test_a_finished_study_decodes_and_hashes_no_image(monkeypatch, tmp_path, data_root):
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
    (tmp_path / "configs" / "toy").mkdir(parents=True)
    (tmp_path / "configs" / "toy" / "base.yaml").write_text("model: toy\ndatasets: [liver_ct]\nimage_size: 16\niterations: 2\nbatch_size: 8\n")
    monkeypatch.setattr("anomaly_detection.study.plan.CONFIGS", tmp_path / "configs")
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)
    decoded, hashed, read = [], [], Preprocessing.read

    class Counted:
        def __init__(self, data=b""):
            self._digest = hashlib.sha256()
            self.update(data)

        def update(self, data):
            hashed.append(bytes(data))
            self._digest.update(data)

        def hexdigest(self):
            return self._digest.hexdigest()

        def digest(self):
            return self._digest.digest()

    def pixels_hashed():
        found = []
        for data in filter(None, hashed):
            try:
                json.loads(data)  # names, sizes and times of files
            except ValueError:
                found.append(data)
        return found

    monkeypatch.setattr(Preprocessing, "read", lambda self, path: (decoded.append(path), read(self, path))[1])
    for module in (arrays, dataset):
        monkeypatch.setattr(module, "hashlib", SimpleNamespace(sha256=Counted))
    study = ["--models", "toy", "--data-root", str(data_root), "--results", str(tmp_path / "results"), "--seeds", "0", "--device", "cpu"]
    assert run_experiments.main(study) == 0
    assert len(decoded) == len(set(decoded)) == 60, "20 of each of three datasets, each once"
    assert len(pixels_hashed()) == 2 * 60, "each for itself, and in the hash of all"
    decoded.clear()
    hashed.clear()
    assert run_experiments.main(study) == 0
    assert decoded == []
    assert hashed
    assert pixels_hashed() == []
    (data_root / "lung_ct" / "normal" / "val_2.png").write_bytes((data_root / "lung_ct" / "normal" / "val_1.png").read_bytes())
    with pytest.raises(UserError, match="other images or splits"):
        run_experiments.main(study)
