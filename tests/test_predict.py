"""New images through a trained network: from the command line and from Python."""

import csv
import json
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image

from anomaly_detection import load, registry
from anomaly_detection.__main__ import main
from anomaly_detection.errors import UserError
from anomaly_detection.evaluation.overlay import overlay
from tests.data.formats.test_dicom import CT, STORED, write_dicom
from tests.test_baselines import count_passes

CONFIG = "model: toy\ndatasets: [liver_ct, lung_ct, lung_xray]\nimage_size: 16\niterations: 300\nval_iter: 100\nbatch_size: 8\nlr: 0.01\n"


@pytest.fixture
def trained(monkeypatch, tmp_path, data_root):
    """A run of the toy baseline with MADDR, and its scores by (dataset, image)."""
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.toy:ToyBaseline")
    (tmp_path / "mine.yaml").write_text(CONFIG, encoding="utf-8")
    arguments = ["--data-root", str(data_root), "--results", str(tmp_path / "r"), "--set", "maddr.enabled=true", "--device", "cpu"]
    assert main(["train_eval", str(tmp_path / "mine.yaml"), *arguments]) == 0
    (run,) = (tmp_path / "r" / "toy" / "maddr").glob("*/seed_0")
    with open(run / "scores.csv", encoding="utf-8") as file:
        return run, {(row["dataset"], row["image"]): row for row in csv.DictReader(file)}


def predict(run, *words):
    assert main(["predict", str(run), *map(str, words), "--device", "cpu"]) == 0


def table(folder):
    with open(folder / "predictions.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_are_the_scores_of_the_evaluation(trained, data_root, tmp_path):
    run, scores = trained
    predict(run, data_root / "lung_ct" / "anomaly", data_root / "lung_ct" / "normal" / "val_0.png", "--output", tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [row["image"] for row in rows] == [*(f"test_{i}.png" for i in range(4)), "val_0.png"]
    for row in rows:
        folder = "normal" if row["image"].startswith("val") else "anomaly"
        expected = scores["lung_ct", f"{folder}/{row['image']}"]
        assert float(row["score"]) == pytest.approx(float(expected["score"]), rel=1e-5)
        assert float(row["calibrated_score"]) == pytest.approx(float(expected["calibrated_score"]), rel=1e-4)
        if expected["unknown_domain"] == "0":
            assert (row["organ"], row["modality"]) == (expected["predicted_organ"], expected["predicted_modality"])
        else:
            assert (row["organ"], row["modality"]) == ("unknown domain", "unknown domain")
        assert 0 < float(row["confidence"]) <= 1
        picture = Image.open(tmp_path / "out" / "overlays" / f"{row['image']}.png")
        assert (picture.mode, picture.size) == ("RGB", (256, 256))


def test_a_network_that_has_learned_names_organ_modality_and_anomaly(trained, data_root):
    detector = load(trained[0], "cpu")
    found = [detector.predict(data_root / name / "normal" / "val_1.png") for name in ("liver_ct", "lung_ct", "lung_xray")]
    assert [(p.organ, p.modality) for p in found] == [("liver", "ct"), ("lung", "ct"), ("lung", "xray")]
    ill = detector.predict(str(data_root / "liver_ct" / "anomaly" / "test_0.png"))
    assert ill.anomalous
    assert ill.calibrated_score > found[0].calibrated_score
    assert ill.anomaly_map.shape == (16, 16)
    assert ill.anomaly_map[4:9, 6:11].mean() > ill.anomaly_map.mean()


def test_predicting_encodes_each_image_once(trained, data_root):
    detector = load(trained[0], "cpu")
    passed = count_passes(detector.baseline.encoder)
    detector.predict_batch(np.stack([detector.fit(data_root / "lung_ct" / "normal" / f"val_{i}.png") for i in range(3)]))
    assert passed == [3]


def test_paths_pictures_and_arrays_are_the_same_image(trained, data_root):
    detector, path = load(trained[0] / "checkpoint.pt", "cpu"), data_root / "lung_ct" / "normal" / "test_0.png"
    pixels = np.asarray(Image.open(path))
    assert detector.predict(path).score == detector.predict(Image.open(path)).score == detector.predict(pixels).score
    with pytest.raises(ValueError, match="expected uint8"):
        detector.predict(pixels.astype(float))


def test_every_format_and_a_bad_file_is_a_row(trained, data_root, tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.arange(4 * 5 * 2, dtype=np.int16).reshape(4, 5, 2), np.eye(4)), inputs / "v.nii.gz")
    write_dicom(inputs / "d.dcm", STORED, **CT)
    write_dicom(inputs / "frames.dcm", np.zeros((2, 4, 5), np.uint8))
    (inputs / "bad.png").write_bytes(b"\x89PNG")
    (inputs / "notes.txt").write_text("hello")
    with zipfile.ZipFile(inputs / "more.zip", "w") as archive:
        archive.write(data_root / "lung_ct" / "normal" / "test_0.png", "a.png")
    predict(trained[0], inputs, "--window", "0", "400", "--output", tmp_path / "out", "--no-overlays")
    rows = {row["image"]: row for row in table(tmp_path / "out")}
    assert set(rows) == {"v.nii.gz#000", "v.nii.gz#001", "d.dcm", "frames.dcm#000", "frames.dcm#001", "bad.png", "notes.txt", "more/a.png"}
    assert [name for name, row in rows.items() if row["error"]] == ["bad.png", "notes.txt"]
    assert "cannot be read as an image" in rows["bad.png"]["error"]
    assert rows["bad.png"]["score"] == ""
    assert not (tmp_path / "out" / "overlays").exists()


def test_images_of_the_same_name_are_told_apart(trained, data_root, tmp_path):
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        Image.open(data_root / "lung_ct" / "normal" / f"test_{'AB'.index(name)}.png").save(tmp_path / name / "IM1.png")
    predict(trained[0], tmp_path / "A", tmp_path / "B", "--output", tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [row["image"] for row in rows] == ["A/IM1.png", "B/IM1.png"]
    assert rows[0]["score"] != rows[1]["score"]
    overlays = tmp_path / "out" / "overlays"
    assert sorted(str(path.relative_to(overlays)) for path in overlays.rglob("*.png")) == ["A/IM1.png.png", "B/IM1.png.png"]


def test_the_window_of_training_is_used_if_there_is_one(trained, tmp_path):
    values = json.loads((trained[0] / "calibration.json").read_text())
    for name, window in (("liver_ct", [40, 400]), ("lung_ct", [40, 400]), ("lung_xray", None)):
        values["preprocessing"][name]["window"] = window
    (trained[0] / "calibration.json").write_text(json.dumps(values))
    assert load(trained[0], "cpu").window is None, "one dataset has none: what is shown of a new image is not known"
    values["preprocessing"]["lung_xray"]["window"] = [40, 400]
    (trained[0] / "calibration.json").write_text(json.dumps(values))
    write_dicom(tmp_path / "d.dcm", STORED, **CT)
    predict(trained[0], tmp_path / "d.dcm", "--output", tmp_path / "a", "--no-overlays")
    predict(trained[0], tmp_path / "d.dcm", "--window", "40", "400", "--output", tmp_path / "b", "--no-overlays")
    assert table(tmp_path / "a") == table(tmp_path / "b")


def test_nothing_readable_leaves_nothing_behind(trained, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"not one of 1 files could be read; the first: .*bad\.png"):
        predict(trained[0], tmp_path / "in", "--output", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        predict(trained[0], tmp_path / "nowhere", "--output", tmp_path / "out")


def test_what_a_run_lacks_is_told(trained, tmp_path):
    run = trained[0]
    values = json.loads((run / "calibration.json").read_text())
    values["preprocessing"]["lung_ct"]["crop_size"] = 8
    (run / "calibration.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"different crop_size \(liver_ct: None, lung_ct: 8, lung_xray: None\)"):
        load(run, "cpu")
    (run / "calibration.json").unlink()
    with pytest.raises(UserError, match=r"no calibration\.json; `python -m anomaly_detection evaluate"):
        load(run, "cpu")


def test_overlay_tints_what_is_beyond_the_usual():
    image = np.full((1, 2, 2), 100, np.uint8)
    found = overlay(image, np.array([[0.0, 1.0], [2.0, 9.0]]), scale=1.0)
    assert found.tolist() == [[[100, 100, 100], [100, 100, 100]], [[178, 50, 50], [255, 0, 0]]]
