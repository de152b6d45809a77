"""A volume and the same as DICOM through `predict`: tables, and maps that lie where the lesion is in the patient."""

import csv
import shutil
from dataclasses import fields, replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter

from anomaly_detection import read_images
from anomaly_detection.__main__ import main
from anomaly_detection.data.dataset import Domains
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.manifest import read_manifest
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Prediction
from anomaly_detection.evaluation import map_files
from anomaly_detection.evaluation.calibration import Calibration, Reference
from anomaly_detection.evaluation.known import Known
from anomaly_detection.evaluation.predictions import write_predictions
from anomaly_detection.system.errors import UserError
from tests.evaluation.maps.sources import LESION, PATIENT, SERIES, SHAPE, SPACING, place, save_frames, save_nifti, save_series

SIDE = 32  # of the network's images
USUAL = 200.0


@pytest.fixture
def detector():
    """Its map is the blurred brightness of an image, its score the highest of it."""

    def predict_batch(images):
        maps = [gaussian_filter(image[0].astype(np.float32), 0.7) for image in images]
        said = [{"score": float(each.max()), "unknown_because": "", "anomaly_map": each, "organ": "liver", "modality": "ct"} for each in maps]
        return [Prediction(**{field.name: each.get(field.name) for field in fields(Prediction)}) for each in said]

    few = Reference(100.0, 10.0, 120.0, False, (110.0,), (110.0,))
    calibration = Calibration(0.05, {(0, 0): few}, {(0, 0): few}, few, Known(((0.0,),), (((1.0,),),), 1.0, 0.5, 1, False))
    preprocessing = Preprocessing(window=Window(0, 400), size=56, aspect="pad", crop_size=50, image_size=SIDE)
    scores = {"calibration": calibration, "domains": Domains(("liver",), ("ct",)), "map_scale": USUAL, "baseline": object()}
    return SimpleNamespace(preprocessing=preprocessing, predict_batch=predict_batch, **scores)


def tables(output):
    for name in ("predictions.csv", "patients.csv"):
        with open(output / name, encoding="utf-8") as file:
            yield list(csv.DictReader(file))


def predicted(detector, source, output, **options):
    write_predictions(detector, [source], output, None, **options)
    rows, (told,) = tables(output)
    return rows, told


def test_what_predict_wrote_among_images_is_no_image(detector, tmp_path, caplog):
    """Maps of volumes and series, and overlays, beside the scans and in an archive of them all; a scan that is named alike is a scan."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("v0", "v1", "v2", "v3", "w_anomaly"):
        nibabel.save(nibabel.Nifti1Image(rng.integers(0, 400, (16, 16, 4)).astype(np.int16), np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")
    save_series(tmp_path / "in" / "ct")
    write_predictions(detector, [tmp_path / "in"], tmp_path / "in", None)
    written = {path.name for path in (tmp_path / "in").rglob("*") if path.name.endswith(("_overlay.png", "_anomaly.nii.gz", "_seg.dcm"))}
    assert len(written) > 9
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "in")
    for source, root in (("in", "data"), ("packed.zip", "other")):
        caplog.clear()
        words = ["x", "--organ", "liver", "--modality", "ct", "--normal", tmp_path / source, "--window", "auto", "--data-root", tmp_path / root]
        assert main(["prepare", "folder", *map(str, words), "--size", "16", "--max-slices", "2", "--workers", "1"]) in (0, None)
        sources = {row.source for row in read_manifest(tmp_path / root / "x" / "manifest.csv")}
        assert {name for name in sources if not name.startswith("ct/")} == {"v0.nii.gz", "v1.nii.gz", "v2.nii.gz", "v3.nii.gz", "w_anomaly.nii.gz"}
        assert not written & {name.rpartition("/")[2] for name in sources} - {"w_anomaly.nii.gz"}
        assert "files that predict wrote, the first: " in caplog.text
        assert {name.partition("#")[0] for name, _ in read_images(tmp_path / source, "auto")} == sources
    (overlay,) = (path for path in (tmp_path / "in").rglob("*_overlay.png") if "v0" in path.name and "2" in path.name)
    assert len(list(read_images(overlay))) == 1, "a file that is named is read"


CELL = max(SHAPE) / 56 * 50 / SIDE * SPACING[:2].max()  # of the network's map, in mm


def test_a_volume_and_the_same_as_dicom_in_any_packing_say_the_same(detector, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    save_series(tmp_path / "series")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "series")
    sources = {"nifti": save_nifti(tmp_path / "v.nii.gz"), "series": tmp_path / "series", "zip": archive, "frames": save_frames(tmp_path / "f.dcm")}
    scores, positions = {}, {}
    for name, source in sources.items():
        rows, told = predicted(detector, source, tmp_path / name)
        assert len(rows) == int(told["slices"]) == SHAPE[2]
        scores[name], positions[name] = float(told["score"]), sorted(float(row["position_mm"]) for row in rows)
        best = max(rows, key=lambda row: float(row["score"]))
        assert told["worst_slices"].startswith(best["image"])
        assert (told["verdict"], told["organ"]) == ("anomalous", "liver")
        if name == "nifti":
            assert told["maps"] == "maps/v_anomaly.nii.gz"
            image = nibabel.load(tmp_path / name / told["maps"])
            assert image.shape == nibabel.load(source).shape
            assert np.array_equal(image.affine, nibabel.load(source).affine)
            peak = np.argwhere(image.get_fdata() == image.get_fdata().max()).mean(axis=0)
            middle = nibabel.affines.apply_affine(np.diag([-1.0, -1, 1, 1]) @ image.affine, peak)
        else:
            assert (told["patient"], told["series"]) == (PATIENT["PatientID"], SERIES["SeriesInstanceUID"])
            assert told["maps"] == f"maps/{SERIES['SeriesInstanceUID']}_seg.dcm"
            volume = highdicom.seg.segread(tmp_path / name / told["maps"]).get_volume(combine_segments=True)
            middle = volume.map_indices_to_reference(np.argwhere(volume.array > 0).astype(float)).mean(axis=0)
            assert len(list((tmp_path / name / "maps").glob("*_overlay_*.dcm"))) == SHAPE[2]
        assert np.linalg.norm(middle - place(LESION)) < CELL, name
        assert len(list((tmp_path / name / "overlays").rglob("*.png"))) == SHAPE[2]
    assert max(scores.values()) - min(scores.values()) < 1e-3
    for each in positions.values():
        assert each == pytest.approx(positions["series"], abs=1e-3)
    assert np.diff(positions["series"]) == pytest.approx([SPACING[2]] * (SHAPE[2] - 1), abs=1e-3)


def test_what_was_written_is_never_scored_and_goes_with_the_next_run(detector, tmp_path):
    pytest.importorskip("highdicom")
    (tmp_path / "in").mkdir()
    save_series(tmp_path / "in" / "series")
    save_nifti(tmp_path / "in" / "v.nii.gz")
    write_predictions(detector, [tmp_path / "in"], tmp_path / "in" / "out", None)
    first = [row["image"] for row in next(tables(tmp_path / "in" / "out"))]
    assert len(first) == 2 * SHAPE[2]
    (tmp_path / "in" / "out" / "maps" / "mine_seg.dcm").write_bytes(b"mine")
    (tmp_path / "in" / "out" / "maps" / "mine_seg.dcm").rename(tmp_path / "mine")
    write_predictions(detector, [tmp_path / "in"], tmp_path / "in" / "out", None)
    assert [row["image"] for row in next(tables(tmp_path / "in" / "out"))] == first
    (tmp_path / "mine").rename(tmp_path / "in" / "out" / "maps" / "mine_seg.dcm")
    predicted(detector, tmp_path / "in" / "v.nii.gz", tmp_path / "in" / "out")
    assert sorted(path.name for path in (tmp_path / "in" / "out" / "maps").iterdir()) == ["mine_seg.dcm", "v_anomaly.nii.gz"]
    predicted(detector, tmp_path / "in" / "v.nii.gz", tmp_path / "in" / "out", maps=False)
    assert [path.name for path in (tmp_path / "in" / "out" / "maps").iterdir()] == ["mine_seg.dcm"]


def test_without_pictures_there_are_no_captures(detector, tmp_path):
    pytest.importorskip("highdicom")
    save_series(tmp_path / "in")
    _, told = predicted(detector, tmp_path / "in", tmp_path / "out", overlays=False)
    assert [f"maps/{path.name}" for path in (tmp_path / "out" / "maps").iterdir()] == [told["maps"]]
    assert not (tmp_path / "out" / "overlays").exists()


def test_dicom_without_what_writes_it_is_told_once(detector, tmp_path, monkeypatch, caplog):
    def missing():
        raise UserError("highdicom is not installed")

    monkeypatch.setattr(map_files, "require_highdicom", missing)
    (tmp_path / "in").mkdir()
    save_series(tmp_path / "in" / "a")
    save_series(tmp_path / "in" / "b", SeriesInstanceUID="1.2.3")
    write_predictions(detector, [tmp_path / "in"], tmp_path / "out", None)
    assert caplog.text.count("highdicom is not installed; without it there are pictures alone") == 1
    assert [row["maps"] for row in list(tables(tmp_path / "out"))[1]] == ["", ""]
    assert not (tmp_path / "out" / "maps").exists()


def test_volumes_of_one_name_have_maps_of_their_own(detector, tmp_path):
    for name in ("a/v.nii", "a/v.nii.gz", "b/v.nii"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        save_nifti(tmp_path / "in" / name)
    write_predictions(detector, [tmp_path / "in"], tmp_path / "out", None, overlays=False)
    told = list(tables(tmp_path / "out"))[1]
    assert {row["series"]: row["maps"] for row in told} == {
        "a/v.nii": "maps/a/v_anomaly.nii.gz",
        "a/v.nii.gz": "maps/a/v.nii.gz_anomaly.nii.gz",
        "b/v.nii": "maps/b/v_anomaly.nii.gz",
    }
    assert all((tmp_path / "out" / row["maps"]).is_file() for row in told)


def test_an_error_midway_leaves_no_map(detector, tmp_path):
    pytest.importorskip("highdicom")
    save_series(tmp_path / "in")
    predict = detector.predict_batch

    def failing(images):
        predictions = predict(images)
        return [*predictions[:4], replace(predictions[4], anomaly_map=None)]

    detector.predict_batch = failing
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever an impossible map brings about
        write_predictions(detector, [tmp_path / "in"], tmp_path / "out", None)
    assert not list((tmp_path / "out" / "maps").iterdir())
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_identifiers_that_look_like_paths_lead_nowhere_else(detector, tmp_path):
    pytest.importorskip("highdicom")
    (tmp_path / "in").mkdir()
    with pydicom.config.disable_value_validation():
        for number, uid in enumerate(("../../../up", str(tmp_path / "root"), "..")):
            save_series(tmp_path / "in" / str(number), SeriesInstanceUID=uid)
    output = tmp_path / "out" / "deep" / "er"
    write_predictions(detector, [tmp_path / "in"], output, None, overlays=False)
    _, patients = tables(output)
    assert all((output / row["maps"]).resolve().is_relative_to(output / "maps") for row in patients)
    assert sorted(path.name for path in tmp_path.rglob("*_seg.dcm")) == ["%2E%2E_seg.dcm", "root_seg.dcm", "up_seg.dcm"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("ending", ["_seg.dcm", "_overlay_0002.dcm"])
def test_a_dicom_file_of_another_is_not_overwritten(detector, tmp_path, ending):
    pytest.importorskip("highdicom")
    save_series(tmp_path / "in")
    path = tmp_path / "out" / "maps" / (SERIES["SeriesInstanceUID"] + ending)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match="is there, and `predict` has not written it; name another --output"):
        write_predictions(detector, [tmp_path / "in"], tmp_path / "out", None)
    assert path.read_bytes() == b"mine"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_map_of_another_is_not_overwritten(detector, tmp_path):
    save_nifti(tmp_path / "v.nii.gz")
    path = tmp_path / "out" / "maps" / "v_anomaly.nii.gz"
    path.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "v.nii.gz", path)
    with pytest.raises(UserError, match=r"v_anomaly\.nii\.gz: is there, and `predict` has not written it; name another --output"):
        write_predictions(detector, [tmp_path / "v.nii.gz"], tmp_path / "out", None)
    assert path.read_bytes() == (tmp_path / "v.nii.gz").read_bytes()
