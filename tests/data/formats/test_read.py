"""Any file, folder or archive as images, through the public door."""

import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from anomaly_detection import UserError, read_images
from anomaly_detection.data.formats.sources import list_source
from anomaly_detection.data.formats.window import window_from
from anomaly_detection.data.prepare.folder import plan
from tests.data.formats.test_dicom import CT, STORED, write_dicom

DEEP = np.array([[0, 1000], [32768, 65535]], np.uint16)
COLOUR = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "scans"
    (root / "a").mkdir(parents=True)
    Image.fromarray(DEEP).save(root / "a" / "deep.png")
    Image.fromarray(COLOUR).save(root / "colour.bmp")
    write_dicom(root / "IM1", STORED, **CT, WindowCenter=40, WindowWidth=400)
    write_dicom(root / "movie.dcm", np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    (root / "notes.txt").write_text("hello")
    return root


def test_a_folder_and_the_archive_of_it_hold_the_same_images(folder, tmp_path):
    images = dict(read_images(folder))
    assert list(images) == ["IM1", "a/deep.png", "colour.bmp", "movie.dcm#000", "movie.dcm#001"]
    assert images["a/deep.png"].tolist() == [[0, 4], [128, 255]]
    assert np.array_equal(images["colour.bmp"], COLOUR)
    assert np.array_equal(images["movie.dcm#001"], np.arange(12, 24).reshape(3, 4))
    # the standard's linear window, PS3.3 C.11.2.1.2.1
    expected = np.clip((STORED.astype(float) - 1024 - 39.5) / 399 + 0.5, 0, 1) * 255
    assert np.abs(images["IM1"] - expected).max() <= 0.51
    assert {pixels.dtype for pixels in images.values()} == {np.dtype(np.uint8)}
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    packed = dict(read_images(str(tmp_path / "scans.zip")))
    assert list(packed) == list(images)
    assert all(np.array_equal(packed[name], images[name]) for name in images)


def test_the_window_is_that_of_the_caller(folder, tmp_path):
    shown = dict(read_images(folder / "IM1", (0, 100)))["IM1"]
    assert np.abs(shown - np.clip((STORED.astype(float) - 1024) / 100 + 0.5, 0, 1) * 255).max() <= 0.51
    assert dict(read_images(folder / "a" / "deep.png", [500, 1000]))["deep.png"].tolist() == [[0, 255], [255, 255]]
    volume = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "v.nii.gz")
    slices = dict(read_images(tmp_path / "v.nii.gz", "auto"))
    assert list(slices) == [f"v.nii.gz#{k:03d}" for k in range(6)]
    low, high = np.percentile(volume, [0.5, 99.5])
    expected = np.clip((volume[..., 2].T.astype(float) - low) / (high - low), 0, 1) * 255
    assert np.abs(slices["v.nii.gz#002"] - expected).max() <= 0.51
    with pytest.raises(
        UserError, match=r"v\.nii\.gz: the file states no window; give one: --window .*, in Python window=\(level, width\), .*; or auto$"
    ):
        next(read_images(tmp_path / "v.nii.gz"))
    with pytest.raises(ValueError, match="window must be"):
        next(read_images(folder, "wide"))


def test_what_is_no_image_is_left_out_and_what_is_damaged_is_told(folder, tmp_path):
    with pytest.raises(UserError, match=r"notes\.txt: no image; PNG, JPEG"):
        list(read_images(folder / "notes.txt"))
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        list(read_images(tmp_path / "nowhere"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
        archive.writestr("more.txt", "hello")
    with pytest.raises(UserError, match=r"x\.zip: no image is there among 2 files"):
        list(read_images(tmp_path / "x.zip"))
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("a/bad.png", b"\x89PNG")
    with pytest.raises(UserError, match=r"y\.zip: a/bad\.png: cannot be read as an image"):
        list(read_images(tmp_path / "y.zip"))


@pytest.mark.parametrize("name", ["v.hdr", "v.IMG", "v.img.gz"])
def test_a_pair_of_files_is_told_to_be_one(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(400))
    with pytest.raises(UserError, match=rf"{name}: one of a pair of files; save both as one \.nii\.gz file"):
        next(read_images(tmp_path / name))


def test_reports_and_directories_are_left_out_and_told_apart(folder):
    files = Path(pydicom.data.__file__).parent / "test_files"
    for name, source in (("sr.dcm", "reportsi.dcm"), ("DICOMDIR", "dicomdirtests/DICOMDIR"), ("mask", "liver_1frame.dcm")):
        (folder / name).write_bytes((files / source).read_bytes())
    assert list(dict(read_images(folder))) == ["IM1", "a/deep.png", "colour.bmp", "movie.dcm#000", "movie.dcm#001"]
    with pytest.raises(UserError, match=r"sr\.dcm: cannot be read as DICOM \(it holds no image but SR\); leave it out"):
        list(read_images(folder / "sr.dcm"))
    with pytest.raises(UserError, match=r"mask: cannot be read as DICOM \(it holds no image but SEG\)"):
        list(read_images(folder / "mask"))


@pytest.mark.parametrize("window", [None, (40, 400), "auto"])
def test_prepare_reads_the_same_pixels(folder, window):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 6))
    nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8 if window is None else np.int16), np.diag([-1.0, -1.0, 1.0, 1.0])), folder / "v.nii.gz")
    files = list_source(folder)
    jobs, _ = plan(files, files, [], window_from(window), None, 99)
    prepared = [picture.pixels for job in jobs if not job.abnormal for picture in job.pictures([job.sources[0].path])]
    images = [pixels for _, pixels in read_images(folder, window)]
    assert len(images) == len(prepared) == 11
    assert all(np.array_equal(one, other) for one, other in zip(images, prepared, strict=True))


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "m.dcm"])
def test_a_file_of_many_images_is_read_one_by_one(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 600), dtype=np.uint8)
    if name == "m.dcm":
        write_dicom(tmp_path / name, np.ascontiguousarray(values.transpose(2, 0, 1)))
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / name)
    count = sum(1 for _ in read_images(tmp_path / name))  # what is imported and kept for good is there by now
    tracemalloc.start()
    for _ in read_images(tmp_path / name):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 600
    assert peak < values.nbytes / 4


def test_the_public_door_does_not_import_torch():
    code = "import sys, anomaly_detection as ad; list(ad.read_images(sys.argv[1])); print(ad.__version__, 'torch' in sys.modules)"
    path = Path(nibabel.__file__).parent / "tests" / "data" / "0.dcm"
    done = subprocess.run([sys.executable, "-c", code, path], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.stdout.split()[1:] == ["False"], done.stderr
