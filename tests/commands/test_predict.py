"""New images through a trained network: from the command line and from Python."""

import csv
import os
import re
import shutil
import unicodedata
import zipfile
from dataclasses import fields, replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_detection import load, read_images, registry
from anomaly_detection.__main__ import main
from anomaly_detection.data.dataset import DataSource, Domains
from anomaly_detection.data.formats.window import Window, plain_window
from anomaly_detection.data.manifest import read_manifest
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Detector, Prediction
from anomaly_detection.evaluation.calibration import Calibration, Reference
from anomaly_detection.evaluation.known import Known
from anomaly_detection.evaluation.predictions import write_predictions
from anomaly_detection.system.errors import UserError
from anomaly_detection.training.checkpoint import load_checkpoint, save_checkpoint
from tests.data.formats.test_dicom import CT, STORED, write_dicom
from tests.data.formats.test_pictures import tiff
from tests.test_baselines import count_passes

CONFIG = "model: toy\ndatasets: [liver_ct, lung_ct, lung_xray]\nimage_size: 16\niterations: 300\nval_iter: 100\nbatch_size: 8\nlr: 0.01\n"


@pytest.fixture
def trained(monkeypatch, tmp_path, data_root):
    """A run of the toy baseline with MADDR, and its scores by (dataset, image)."""
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
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
        assert (row["organ"], row["modality"]) == (expected["predicted_organ"], expected["predicted_modality"])
        assert float(row["threshold"]) == pytest.approx(float(expected["threshold"]))
        assert row["guaranteed"] == expected["guaranteed"] == "0", "four validation images"
        if folder == "anomaly":
            assert float(row["p_value"]) == pytest.approx(float(expected["p_value"]))
            assert (row["anomalous"], row["unknown_because"]) == (expected["anomalous"], expected["unknown_because"])
            assert row["verdict"] == ("unknown" if expected["unknown_domain"] == "1" else "anomalous" if row["anomalous"] == "1" else "normal")
        assert 0 < float(row["confidence"]) <= 1
        picture = Image.open(tmp_path / "out" / "overlays" / f"{row['image'][:-4]}_overlay.png")
        assert picture.mode == "P"
        assert picture.height == 256 < picture.width, "the image and the colour bar"


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
    detector.predict_batch(np.stack([detector.preprocess(data_root / "lung_ct" / "normal" / f"val_{i}.png") for i in range(3)]))
    assert passed == [3]


def test_paths_pictures_and_arrays_are_the_same_image(trained, data_root):
    detector, path = load(trained[0] / "checkpoint.pt", "cpu"), data_root / "lung_ct" / "normal" / "test_0.png"
    pixels = np.asarray(Image.open(path))
    assert detector.predict(path).score == detector.predict(Image.open(path)).score == detector.predict(pixels).score
    with pytest.raises(ValueError, match="must lie in 0 to 1, got"):
        detector.predict(pixels.astype(float))
    with pytest.raises(ValueError, match=r"\(H, W\) or \(H, W, 3\), got uint8 of shape \(16, 16, 1\)"):
        detector.predict(pixels[..., None])


TURNED = Image.Exif()
TURNED[274] = 6


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    "save",
    [
        lambda path: Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20).save(path, "png", exif=TURNED),
        lambda path: Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20).save(path, "tiff", tiffinfo={274: 6}, compression="tiff_lzw"),
        lambda path: path.write_bytes(tiff(np.arange(0, 60000, 5000, dtype="<u2").tobytes(), 16, 0, size=(4, 3))),
        lambda path: path.write_bytes(tiff(np.arange(18, dtype=np.uint8).tobytes(), 12, 1, size=(4, 3))),
    ],
    ids=["turned PNG", "turned TIFF", "0 white", "12 bits"],
)
def test_an_opened_picture_is_what_its_file_is(tmp_path, save, loaded):
    save(tmp_path / "a.png")
    preprocess = Detector(None, None, None, Preprocessing(image_size=12), 1.0).preprocess
    image = Image.open(tmp_path / "a.png")
    if loaded:
        image.load()
    assert np.array_equal(preprocess(image), preprocess(tmp_path / "a.png"))
    assert np.ptp(preprocess(image)) > 20


@pytest.mark.parametrize("image", [None, b"x", [1, 2], torch.zeros(2, 8, 8).byte(), np.zeros((0, 8), np.uint8), np.zeros((8, 0), np.uint8)])
def test_what_is_no_image_is_refused(image):
    with pytest.raises((TypeError, ValueError), match="^image: expected "):
        Detector(None, None, None, Preprocessing(image_size=8), 1.0).preprocess(image)


def test_a_path_may_lead_to_any_format_with_one_image(trained, tmp_path):
    detector = load(trained[0], "cpu")
    write_dicom(tmp_path / "d.dcm", STORED, **CT, WindowCenter=40, WindowWidth=400)
    (_, pixels), *_ = read_images(tmp_path / "d.dcm")
    assert detector.predict(tmp_path / "d.dcm").score == detector.predict(pixels).score
    write_dicom(tmp_path / "frames.dcm", np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(UserError, match=r"frames\.dcm: holds 2 images"):
        detector.predict(tmp_path / "frames.dcm")


def test_a_checkpoint_alone_predicts_and_is_exported(trained, data_root, tmp_path):
    picture = data_root / "lung_ct" / "anomaly" / "test_1.png"
    expected = load(trained[0], "cpu").predict(picture)
    (tmp_path / "alone").mkdir()
    (trained[0] / "checkpoint.pt").rename(tmp_path / "alone" / "moved.pt")
    prediction = load(tmp_path / "alone" / "moved.pt", "cpu").predict(picture)
    assert np.array_equal(prediction.anomaly_map, expected.anomaly_map)
    assert replace(prediction, anomaly_map=None) == replace(expected, anomaly_map=None)
    predict(tmp_path / "alone" / "moved.pt", picture, "--output", tmp_path / "out", "--no-overlays")
    assert float(table(tmp_path / "out")[0]["score"]) == pytest.approx(expected.score, rel=1e-6)
    assert main(["export", str(tmp_path / "alone" / "moved.pt"), str(tmp_path / "model.pt2")]) == 0


def test_another_threshold_is_kept_in_the_checkpoint(trained, data_root):
    before = load_checkpoint(trained[0] / "checkpoint.pt")
    assert main(["evaluate", str(trained[0]), "--set", "threshold_quantile=0.5", "--device", "cpu"]) == 0
    after = load_checkpoint(trained[0] / "checkpoint.pt")
    thresholds = [content["calibration"]["scores"]["everything"]["threshold"] for content in (before, after)]
    assert thresholds[1] < thresholds[0]
    assert load(trained[0], "cpu").calibration.everything.threshold == thresholds[1]
    assert load(trained[0], "cpu").calibration.alpha == 0.5
    assert all(torch.equal(value, after["model"][name]) for name, value in before["model"].items())
    assert (after["regime"], after["domains"]) == ("maddr", {"organs": ["liver", "lung"], "modalities": ["ct", "xray"]})


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
    assert sorted(str(path.relative_to(overlays)) for path in overlays.rglob("*.png")) == ["A/IM1_overlay.png", "B/IM1_overlay.png"]


def set_preprocessing(run, **by_dataset):
    """Write other values into the checkpoint, as if the datasets had been prepared so."""
    content = load_checkpoint(run / "checkpoint.pt")
    for name, changed in by_dataset.items():
        content["preprocessing"][name] |= changed
    save_checkpoint(run / "checkpoint.pt", content)


def test_the_window_of_training_is_used_and_no_other(trained, tmp_path, caplog):
    run, window = trained[0], {"window": [40, 400]}
    set_preprocessing(run, liver_ct=window, lung_ct=window)
    assert load(run, "cpu").preprocessing.window is None, "one dataset has none: what is shown of a new image is not known"
    assert "different windows (liver_ct: [40.0, 400.0], lung_ct: [40.0, 400.0], lung_xray: None)" in caplog.text
    set_preprocessing(run, lung_xray=window)
    write_dicom(tmp_path / "d.dcm", STORED, **CT)
    predict(run, tmp_path / "d.dcm", "--output", tmp_path / "a", "--no-overlays")
    predict(run, tmp_path / "d.dcm", "--window", "40", "400", "--output", tmp_path / "b", "--no-overlays")
    assert table(tmp_path / "a") == table(tmp_path / "b")
    assert not table(tmp_path / "a")[0]["error"]
    for words, told in ((["50", "400"], "50 400"), (["auto"], "auto")):
        with pytest.raises(UserError, match=f"--window {told}: the network was trained on images shown through 40 400; leave --window out"):
            predict(run, tmp_path / "d.dcm", "--window", *words, "--output", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_window_where_training_had_none_is_said(trained, tmp_path, caplog):
    write_dicom(tmp_path / "d.dcm", STORED, **CT)
    predict(trained[0], tmp_path / "d.dcm", "--window", "40", "400", "--output", tmp_path / "a")
    assert "--window 40 400: is used instead of what the files say" in caplog.text
    with pytest.raises(UserError, match="states no window"):
        predict(trained[0], tmp_path / "d.dcm", "--output", tmp_path / "b")


def sources(root):
    """Normal and abnormal images in every format, not square, of more and of less than 8 bits; a patient each."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(200, 1800, 20 * 50).reshape(20, 50)
    for kind, count in (("normal", 12), ("abnormal", 3)):
        (root / kind).mkdir(parents=True)
        for number in range(count):
            values = np.clip(ramp + 300 * rng.random(ramp.shape), 0, 4095).astype(np.uint16)
            values[5:10, 10:20] += 900 * (kind == "abnormal")
            eight = (values >> 4).astype(np.uint8)
            path = root / kind / f"{kind[0]}{number}"
            match number % 6:
                case 0:
                    Image.fromarray(values).save(path.with_suffix(".png"))
                case 1:
                    Image.fromarray(np.stack([eight, eight // 2, 255 - eight], axis=2)).save(path.with_suffix(".png"))
                case 2:
                    Image.fromarray(eight).save(path.with_suffix(".jpg"))
                case 3:
                    write_dicom(path.with_suffix(".dcm"), values, RescaleSlope=1, RescaleIntercept=-10)
                case 4:
                    volume = np.stack([values.T + 7 * k for k in range(3)], axis=2).astype(np.int16)
                    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, -1, 1, 1])), path.with_suffix(".nii.gz"))
                case 5:
                    Image.fromarray(values.astype(np.int32)).save(path.with_suffix(".tif"))
    with zipfile.ZipFile(root / "normal" / "more.zip", "w") as archive:
        archive.write(root / "normal" / "n0.png", "z.png")
    (root / "normal" / "n0.png").unlink()


@pytest.mark.parametrize(
    ("options", "channels"),
    [(["--window", "1000", "1600"], 1), (["--window", "auto", "--aspect", "pad"], 1), (["--window", "1000", "1600", "--aspect", "pad"], 3)],
)
def test_predict_sees_what_training_saw(monkeypatch, tmp_path, options, channels):
    """Of the very files that were prepared every score is that of the evaluation."""
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
    sources(tmp_path / "in")
    data = tmp_path / "data"
    folders = ["--normal", tmp_path / "in" / "normal", "--abnormal", tmp_path / "in" / "abnormal", "--data-root", data, "--folds", data / "folds"]
    command = ["prepare", "folder", "x", "--organ", "lung", "--modality", "ct", *folders, "--size", "40", "--workers", "1", *options]
    assert main(list(map(str, command))) == 0
    (tmp_path / "toy.yaml").write_text(f"model: toy\ndatasets: [x]\nimage_size: 16\nchannels: {channels}\niterations: 4\nbatch_size: 4\nlr: 0.01\n")
    assert main(["train_eval", str(tmp_path / "toy.yaml"), "--data-root", str(data), "--results", str(tmp_path / "r"), "--device", "cpu"]) == 0
    run = tmp_path / "r" / "toy" / "separate" / "x" / "seed_0"
    predict(run, tmp_path / "in" / "normal", tmp_path / "in" / "abnormal", "--output", tmp_path / "out", "--no-overlays")
    predicted = {row["image"]: row for row in table(tmp_path / "out")}
    sources_of = {row.image: row.source for row in read_manifest(data / "x" / "manifest.csv")}
    with open(run / "scores.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {sources_of[row["image"]].split(".", 1)[1] for row in rows} >= {"png", "nii.gz"}
    for row in rows:
        number = row["image"].removesuffix(".png")[-3:]
        name = sources_of[row["image"]] + (f"#{number}" if sources_of[row["image"]].endswith(".nii.gz") else "")
        assert float(predicted[name]["score"]) == pytest.approx(float(row["score"]), rel=1e-5), name
    # and of all files, those that were trained on too: the pixels
    detector, source = load(run, "cpu"), DataSource(data)
    images = source.load(["x"], "train", source.preprocessing(["x"], 16, channels))
    read = dict(read_images(tmp_path / "in" / "normal", plain_window(detector.preprocessing.window)))
    for image, pixels in zip(images.names, images.images.numpy(), strict=True):
        number = image.removesuffix(".png")[-3:]
        name = sources_of[image] + (f"#{number}" if sources_of[image].endswith(".nii.gz") else "")
        assert np.array_equal(detector.preprocess(read[name]), pixels), name


def test_nothing_readable_leaves_nothing_behind(trained, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"not one of 1 files could be read; the first: .*bad\.png"):
        predict(trained[0], tmp_path / "in", "--output", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        predict(trained[0], tmp_path / "nowhere", "--output", tmp_path / "out")
    with pytest.raises(UserError, match=f"{re.escape(str(trained[0]))}: is a network, .* predict takes one network, then images"):
        predict(trained[0], tmp_path / "in", trained[0], "--output", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir()), "of its figures nothing"


def test_what_a_run_lacks_is_told(trained, tmp_path):
    run = trained[0]
    set_preprocessing(run, lung_ct={"crop_size": 8})
    with pytest.raises(UserError, match=r"different crop_size \(liver_ct: None, lung_ct: 8, lung_xray: None\): how a new image"):
        load(run, "cpu")
    trained_calibration = load_checkpoint(run / "checkpoint.pt")["calibration"]
    content = load_checkpoint(run / "checkpoint.pt")
    domain, *others = content["calibration"]["scores"]["domains"]
    of_an_older_version = [{name: value for name, value in domain.items() if name != "pooled"}, *others]
    older = {**content["calibration"], "scores": {**content["calibration"]["scores"], "domains": of_an_older_version}}
    for calibration in (older, {"map_scale": 1.0}, None):
        save_checkpoint(run / "checkpoint.pt", content | {"calibration": calibration})
        with pytest.raises(UserError, match=r"not calibrated yet; `maddr evaluate`"):
            load(run, "cpu")
    content = load_checkpoint(run / "checkpoint.pt")
    told = trained_calibration.pop("scores")
    for missing in ("known", "alpha", "everything"):  # as older versions calibrated
        older = {key: value for key, value in told.items() if key != missing}
        save_checkpoint(run / "checkpoint.pt", content | {"calibration": trained_calibration | {"scores": older}})
        with pytest.raises(UserError, match=r"not calibrated yet; .*\(what an older version calibrated does not count\)"):
            load(run, "cpu")
    del told["everything"]["pooled"]
    save_checkpoint(run / "checkpoint.pt", content | {"calibration": trained_calibration | {"scores": told}})
    with pytest.raises(UserError, match="not calibrated yet"):
        load(run, "cpu")
    save_checkpoint(run / "checkpoint.pt", content | {"training": content["training"] | {"finished": False}})
    with pytest.raises(UserError, match=r"training has not ended; run the training command again"):
        load(run, "cpu")
    torch.save({"model": content["model"], "state": {"finished": True}}, run / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint\.pt: a checkpoint of layout 1, where 2 is read; train again") as caught:
        load(run, "cpu")
    assert "\n" not in str(caught.value)


@pytest.fixture
def detector():
    """A detector that was never trained; what it says of an image is its mean."""

    def predicted(value):
        said = {"score": value, "calibrated_score": value, "anomalous": False, "unknown_domain": False, "anomaly_map": np.zeros((8, 8), np.float32)}
        return Prediction(**{field.name: said.get(field.name) for field in fields(Prediction)})

    def predict_batch(images):
        return [predicted(float(image.mean())) for image in images]

    few = Reference(0.0, 1.0, 200.0, False, (100.0,), (100.0,))
    calibration = Calibration(0.05, {(0, 0): few}, {(0, 0): few}, few, Known(((0.0,),), (((1.0,),),), 1.0, None, 1, False))
    scores = {"calibration": calibration, "domains": Domains(("liver",), ("ct",)), "map_scale": 1.0, "baseline": object()}
    return SimpleNamespace(preprocessing=Preprocessing(image_size=8), predict_batch=predict_batch, **scores)


def picture(path, grey=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (9, 9), grey).save(path)


def rows_of(detector, inputs, output, overlays=True):
    """The rows of predictions.csv; that each overlay is of one row, and each row with a score has one, is looked at every time."""
    write_predictions(detector, inputs, output, None, overlays)
    rows = table(output)
    assert len({row["image"].casefold() for row in rows}) == len(rows)
    named = [row["overlay"] for row in rows if row["score"] and overlays]
    assert sorted(named) == sorted(str(path.relative_to(output)) for path in (output / "overlays").rglob("*.png"))
    return rows


NEAR = [("a.png", "a.jpg"), ("v#000.png", "v.tif"), ("x/a.png", "a.png"), ("é.png", "e\u0301.png"), ("B.png", "b.png"), ("B.png", "b.jpg")]


@pytest.mark.parametrize("names", NEAR)
def test_names_that_could_meet_stay_apart(detector, tmp_path, names):
    for number, name in enumerate(names):
        picture(tmp_path / "in" / name, 100 + number)
    if len(list((tmp_path / "in").rglob("*.*"))) < 2:
        pytest.skip("one name here")
    rows = rows_of(detector, [tmp_path / "in"], tmp_path / "out")
    assert sorted(float(row["score"]) for row in rows) == [100, 101]
    assert len({unicodedata.normalize("NFC", row["overlay"]).casefold() for row in rows}) == 2


def test_slices_of_a_volume_and_a_picture_named_like_one(detector, tmp_path):
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 2), np.uint8), np.eye(4)), tmp_path / "in" / "v.nii.gz")
    picture(tmp_path / "in" / "v#000.png")
    detector.preprocessing = replace(detector.preprocessing, window=Window(100, 200))
    rows = rows_of(detector, [tmp_path / "in"], tmp_path / "out")
    assert [row["image"] for row in rows] == ["v#000.png", "v.nii.gz#000", "v.nii.gz#001"]
    assert [row["overlay"] for row in rows] == [f"overlays/{name}_overlay.png" for name in ("v#000", "v.nii.gz#000", "v#001")]


def test_inputs_given_twice_are_scored_once(detector, tmp_path, caplog):
    for name in ("x.png", "y.png", "z/x.png"):
        picture(tmp_path / "a" / name)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    expected = rows_of(detector, [tmp_path / "a"], tmp_path / "once")
    assert "twice" not in caplog.text
    assert rows_of(detector, [tmp_path / "a", tmp_path / "a", tmp_path / "link"], tmp_path / "out") == expected
    assert "given twice" in caplog.text
    rows = rows_of(detector, [tmp_path / "a", tmp_path / "a" / "z", tmp_path / "a" / "y.png"], tmp_path / "out")
    assert [row["image"].rpartition("/")[2] for row in rows] == ["x.png", "y.png", "x.png"]


def test_names_that_no_file_can_hold_are_written_otherwise(detector, tmp_path):
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in" / "a.png")
    for name in (b"r\xe9sum\xe9.png", b"r%E9sum%E9.png", b"n\xff.txt", b"x" * 250 + b".png", b"why?.png"):
        shutil.copy(tmp_path / "in" / "a.png", os.fsencode(tmp_path / "in" / "") + b"/" + name)
    rows = {row["image"]: row for row in rows_of(detector, [tmp_path / "in"], tmp_path / "out")}
    assert set(rows) == {"a.png", "r%E9sum%E9.png", "r%E9sum%E9~2.png", "n%FF.txt", "x" * 250 + ".png", "why?.png"}
    assert "n%FF.txt: no image" in rows["n%FF.txt"]["error"]
    assert rows["why?.png"]["overlay"] == "overlays/why%3F_overlay.png"


def test_what_predict_wrote_is_never_scored(detector, tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("a.png", "p/b.png", "overlays/c.png", "not_an_overlay.png"):
        picture(tmp_path / "in" / name)
    expected = [row["image"] for row in rows_of(detector, [tmp_path / "in"], tmp_path / "in" / "first")]
    (tmp_path / "in" / "first" / "predictions.csv").write_bytes(b"\xef\xbb\xbf" + b"image;score;calibrated_score;overlay\r\na.png;0,5;0,5;\r\n")
    (tmp_path / "in" / "first").rename(tmp_path / "in" / "moved")
    with zipfile.ZipFile(tmp_path / "in" / "packed.zip", "w") as archive:
        archive.write(tmp_path / "in" / "moved" / "overlays" / "a_overlay.png", "moved/overlays/a_overlay.png")
    write_predictions(detector, [tmp_path / "in"], tmp_path / "in", None, True)
    assert [row["image"] for row in table(tmp_path / "in")] == expected
    assert "left out: 7 files that predict wrote" in caplog.text
    with pytest.raises(UserError, match="no file is there but those that predict wrote"):
        write_predictions(detector, [tmp_path / "in" / "moved"], tmp_path / "out", None, True)


@pytest.mark.parametrize("more", [[], ["other"], ["other", "one.png", "all.zip"]])
def test_members_of_one_name_in_inner_archives_are_all_scored(detector, tmp_path, more):
    picture(tmp_path / "other" / "im.png")
    picture(tmp_path / "one.png")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, grey in enumerate((50, 150, 250)):
            picture(tmp_path / "im.png", grey)
            with zipfile.ZipFile(tmp_path / "inner.zip", "w") as packed:
                packed.write(tmp_path / "im.png", "im.png")
            archive.write(tmp_path / "inner.zip", f"p{number}.zip")
    rows = rows_of(detector, [tmp_path / "all.zip", *(tmp_path / name for name in more)], tmp_path / "out")
    assert sorted(float(row["score"]) for row in rows) == sorted([50, 150, 250, *[100] * len({*more} - {"all.zip"})])


@pytest.mark.parametrize("overlays", [True, False])
def test_overlays_of_an_earlier_run_go_and_files_of_others_stay(detector, tmp_path, overlays):
    for name in ("a.png", "p/q/b.png", "c.png"):
        picture(tmp_path / "in" / name)
    rows_of(detector, [tmp_path / "in"], tmp_path / "out")
    picture(tmp_path / "out" / "overlays" / "mine_overlay.png")
    for place in ("overlays", "overlays/p", "."):
        killed = tmp_path / "out" / place / ".predictions.csv.0123abcd.partial"
        killed.touch()
        os.utime(killed, (0, 0))
    (tmp_path / "out" / "overlays" / "notes.txt").write_text("mine")
    write_predictions(detector, [tmp_path / "in" / "a.png"], tmp_path / "out", None, overlays)
    assert not list((tmp_path / "out").rglob(".*.partial"))
    left = sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir())
    assert left == ["a_overlay.png"] * overlays + ["mine_overlay.png", "notes.txt"]


def test_a_run_that_was_stopped_within_an_overlay_is_run_again(detector, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name)

    def stopped(_, path, *args, **options):
        path.touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_predictions(detector, [tmp_path / "in"], tmp_path / "in", None, True)
    assert not any((tmp_path / "in" / "overlays").iterdir())
    (tmp_path / "in" / "overlays" / "b_overlay.png").touch()  # as a machine that stopped leaves it
    (tmp_path / "in" / "c_overlay.png").touch()  # of somebody, as a broken copy leaves it
    rows = rows_of(detector, [tmp_path / "in"], tmp_path / "in")
    assert [(row["image"], bool(row["error"])) for row in rows] == [("a.png", False), ("b.png", False), ("c_overlay.png", True)]


def test_where_nothing_can_be_read_an_earlier_run_stays(detector, tmp_path):
    picture(tmp_path / "in" / "a.png")
    rows_of(detector, [tmp_path / "in"], tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="not one of 1 files could be read"):
        write_predictions(detector, [tmp_path / "in"], tmp_path / "out", None, True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("stopped_at", "left"), [("map_files.save_overlay", []), ("predictions.verdict_rows", ["predictions.csv"])])
def test_a_run_that_was_stopped_leaves_no_table_of_an_earlier_one(detector, tmp_path, monkeypatch, stopped_at, left):
    """Beside pictures of its own, or beside its first table."""
    picture(tmp_path / "in" / "a.png")
    rows_of(detector, [tmp_path / "in"], tmp_path / "out")
    picture(tmp_path / "in" / "a.png", 200)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"anomaly_detection.evaluation.{stopped_at}", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_predictions(detector, [tmp_path / "in"], tmp_path / "out", None, True)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == left
    assert all(float(row["score"]) == 200 for _ in left for row in table(tmp_path / "out"))


@pytest.mark.parametrize("name", ["overlays/a_overlay.png", "predictions.csv", "patients.csv"])
def test_a_file_of_another_is_not_overwritten(detector, tmp_path, name):
    picture(tmp_path / "in" / "a.png")
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"image,score\n1,2\n")
    with pytest.raises(UserError, match=f"{name}: is there, and `predict` has not written it; name another --output"):
        write_predictions(detector, [tmp_path / "in"], tmp_path / "out", None, True)
    assert path.read_bytes() == b"image,score\n1,2\n"


def told_of(output):
    with open(output / "patients.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def series_of_two(root):
    """Two DICOM series of one patient, interleaved and named against the order of their positions; their greys are 10, 11, ... and 60, 61, ..."""
    for number in range(5):
        for name, first in (("1.2.7", 10), ("1.2.8", 60)):
            tags = {"SeriesInstanceUID": name, "SOPInstanceUID": f"{name}.{number}", "PatientID": "P7"}
            place = {"ImagePositionPatient": [0.0, 0.0, 2.5 * number], "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0]}
            path = root / f"IM{2 * (4 - number) + (first == 60)}"
            write_dicom(path, np.full((9, 9), first + number, np.uint8), **tags, **place)


@pytest.mark.parametrize("packed", [False, True])
def test_slices_of_a_series_follow_one_another_and_are_judged_together(detector, tmp_path, packed):
    (tmp_path / "in").mkdir()
    series_of_two(tmp_path / "in")
    given = tmp_path / "in"
    if packed:
        given = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "in")
    rows = rows_of(detector, [given], tmp_path / "out")
    assert {row["series"] for row in rows[:5]} == {"1.2.8"} or {row["series"] for row in rows[:5]} == {"1.2.7"}
    for name, first in (("1.2.7", 10), ("1.2.8", 60)):
        its = [row for row in rows if row["series"] == name]
        assert [float(row["score"]) for row in its] == [first + number for number in range(5)]
        assert [float(row["position_mm"]) for row in its] == [0, 2.5, 5, 7.5, 10]
        assert {row["patient"] for row in its} == {"P7"}
    told = {row["series"]: row for row in told_of(tmp_path / "out")}
    assert {name: float(row["score"]) for name, row in told.items()} == {"1.2.7": 13, "1.2.8": 63}
    assert told["1.2.7"]["worst_slices"] == "IM0 | IM2 | IM4"
    assert (told["1.2.7"]["slices"], told["1.2.7"]["unreadable"], told["1.2.7"]["verdict"]) == ("5", "0", "normal")


def test_a_volume_is_a_series_and_what_cannot_be_read_of_it_is_counted(detector, tmp_path, caplog):
    detector.preprocessing = replace(detector.preprocessing, window=Window(127.5, 255))
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 40), np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 3, 1])), tmp_path / "in" / "v.nii.gz")
    rows = rows_of(detector, [tmp_path / "in"], tmp_path / "whole")
    assert [row["image"] for row in rows[:2]] == ["v.nii.gz#000", "v.nii.gz#001"]
    assert [(row["series"], row["position_mm"]) for row in rows[:2]] == [("v.nii.gz", "0.0"), ("v.nii.gz", "3.0")]
    (told,) = told_of(tmp_path / "whole")
    assert float(told["score"]) == pytest.approx(np.mean(sorted(float(row["score"]) for row in rows)[-3:]))
    content = (tmp_path / "in" / "v.nii.gz").read_bytes()
    (tmp_path / "in" / "v.nii.gz").write_bytes(content[: len(content) // 2])
    cut = rows_of(detector, [tmp_path / "in"], tmp_path / "cut")
    assert 10 < len(cut) < 25
    assert cut[:-1] == rows[: len(cut) - 1]
    assert "cannot be read as NIfTI" in cut[-1]["error"]
    (told,) = told_of(tmp_path / "cut")
    assert (int(told["slices"]), told["unreadable"]) == (len(cut) - 1, "1")
    assert nibabel.load(tmp_path / "whole" / "maps" / "v_anomaly.nii.gz").shape == values.shape
    assert (told["maps"], list((tmp_path / "cut").rglob("*.nii.gz"))) == ("", []), "a map that is 0 where nothing was read"
    assert "v.nii.gz: no map of it is written, since it could not be read to its end" in caplog.text


def test_images_of_subfolders_are_pooled_to_patients(detector, tmp_path):
    for name, grey in (("p1/a.png", 10), ("p1/b/c.png", 20), ("p2/a.png", 200), ("x.png", 50)):
        picture(tmp_path / "in" / name, grey)
    rows_of(detector, [tmp_path / "in"], tmp_path / "out")
    told = told_of(tmp_path / "out")
    assert [(row["patient"], row["series"], float(row["score"])) for row in told] == [("p1", "", 15), ("p2", "", 200)]
    rows_of(detector, [tmp_path / "in" / "x.png"], tmp_path / "out")
    assert told_of(tmp_path / "out") == [], "those of an earlier run are gone"


def test_no_line_of_patients_mixes_those_of_two_inputs(detector, tmp_path):
    greys = {"p1": 10, "p2": 200}
    for who, grey in greys.items():
        for series in ("axial", "coronal", "s1"):
            picture(tmp_path / who / series / "1.png", grey)
    rows_of(detector, [tmp_path / "p1", tmp_path / "p2"], tmp_path / "out")
    told = {row["patient"]: float(row["score"]) for row in told_of(tmp_path / "out")}
    assert told == {f"{who}/{series}": grey for who, grey in greys.items() for series in ("axial", "coronal", "s1")}
    for who in greys:
        shutil.rmtree(tmp_path / who / "s1")
    rows_of(detector, [tmp_path / "p1", tmp_path / "p2"], tmp_path / "out")
    assert {row["patient"]: float(row["score"]) for row in told_of(tmp_path / "out")} == greys


def test_few_slices_of_long_files_are_held(detector, tmp_path, monkeypatch):
    """However long a volume is: as many slices are decoded as the network is about to be given."""
    detector.preprocessing = replace(detector.preprocessing, window=Window(127.5, 255))
    for name in "ab":
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 400), np.uint8), np.eye(4)), tmp_path / f"{name}.nii")
    decoded, most = [], []
    apply = Preprocessing.apply
    monkeypatch.setattr(Preprocessing, "apply", lambda self, pixels: decoded.append(1) or apply(self, pixels))
    predict = detector.predict_batch
    given = []

    def predict_batch(images):
        given.extend(images)
        most.append(len(decoded) - len(given))
        return predict(images)

    detector.predict_batch = predict_batch
    assert len(rows_of(detector, [tmp_path / "a.nii", tmp_path / "b.nii"], tmp_path / "out", overlays=False)) == 800
    assert max(most) <= 3 * 16


def test_predict_tells_of_patients_in_a_line(trained, data_root, tmp_path, capsys):
    for name in ("p1", "p2"):
        shutil.copytree(data_root / "lung_ct" / "normal", tmp_path / "in" / name)
    predict(trained[0], tmp_path / "in", "--output", tmp_path / "out", "--no-overlays")
    said = capsys.readouterr().out
    assert "2 patients or series in " in said
    assert "patients.csv: verdicts that are not guaranteed are estimates: it is not known whose the validation images are" in said
    with open(tmp_path / "out" / "patients.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["patient"] for row in rows] == ["p1", "p2"]
    assert rows[0]["score"] == rows[1]["score"]
    assert rows[0]["guaranteed"] == "0"
