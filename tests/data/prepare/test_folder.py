"""Anyone's images: formats, patients, masks."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from anomaly_detection.data.formats.sources import list_source
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.manifest import Row
from anomaly_detection.data.prepare import folder
from anomaly_detection.data.prepare.build import NoImage
from anomaly_detection.data.prepare.identity import settle_patients
from anomaly_detection.system.errors import UserError
from tests.data.formats.test_dicom import CT, STORED, write_dicom

VOLUME = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def image(path, value=7, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def nifti(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def plan(root, masks=False, window=None, patient=None, max_slices=20):
    return folder.plan(
        *(list_source(root / name) for name in ("normal", "abnormal")), list_source(root / "masks") if masks else [], window, patient, max_slices
    )


def pictures(jobs):
    return [picture for job in jobs for picture in job.pictures([file.path for file in job.sources])]


def owners(root, **options):
    """Image -> patient, as the manifest gets it."""
    made = [(job.sources[0].name, p, "abnormal" if p.abnormal else "normal") for job in plan(root, **options)[0] for p in pictures([job])]
    rows = [Row(f"{kind}/{p.name}.png", int(p.abnormal), p.patient, source, "", "", None, "", *p.header[:3]) for source, p, kind in made]
    return {row.image.removesuffix(".png"): row.patient for row in settle_patients(rows, "--patient")}


@pytest.fixture
def root(tmp_path):
    image(tmp_path / "normal" / "a.png")
    image(tmp_path / "abnormal" / "b.jpg")
    return tmp_path


def test_every_format(root):
    (root / "normal" / "readme.txt").write_text("hello")
    (root / "normal" / "report.dcm").write_bytes(Path(get_testdata_file("reportsi.dcm", download=False)).read_bytes())
    nifti(root / "normal" / "v.nii.gz", VOLUME)
    write_dicom(root / "abnormal" / "IM1", STORED, **CT, PatientID="P7")
    write_dicom(root / "abnormal" / "movie.dcm", np.zeros((3, 4, 5), np.uint8))
    jobs, other = plan(root, window=Window(60, 120))
    assert [file.name for file in other] == ["readme.txt", "report.dcm"]
    assert owners(root, window=Window(60, 120)) == {
        "normal/a": "normal/a",
        **{f"normal/v_{k:03d}": "normal/v" for k in range(6)},
        "abnormal/b": "abnormal/b",
        "abnormal/IM1": "P7",
        "abnormal/movie": "abnormal/movie",
        "abnormal/movie_001": "abnormal/movie",
        "abnormal/movie_002": "abnormal/movie",
    }
    assert all(p.abnormal == (p.name in ("b", "IM1", "movie", "movie_001", "movie_002")) for p in pictures(jobs))
    slices = {p.name: p.pixels for p in pictures(jobs)}
    # stored as it is looked at: columns along the first axis, rows along the second
    expected = [[np.clip(VOLUME[x, y, 2] / 120, 0, 1) * 255 for x in range(4)] for y in range(5)]
    assert np.abs(slices["v_002"] - np.array(expected)).max() <= 0.51


def test_nifti_slices(root):
    data = VOLUME.copy()
    data[:, :, 4] = 1000  # of one grey
    nifti(root / "normal" / "v.nii", data)
    assert [p.name for p in pictures(plan(root, window="auto")[0]) if p.name[0] == "v"] == [f"v_{k:03d}" for k in (0, 1, 2, 3, 5)]
    assert [p.name for p in pictures(plan(root, window="auto", max_slices=2)[0]) if p.name[0] == "v"] == ["v_001"]
    with pytest.raises(UserError, match=r"v\.nii: the file states no window; give one: --window LEVEL WIDTH"):
        pictures(plan(root)[0])


def test_masks(root):
    lesion = np.zeros(VOLUME.shape, np.uint8)
    lesion[1, 2, 3] = 9
    nifti(root / "abnormal" / "p" / "v.nii.gz", VOLUME)
    nifti(root / "masks" / "p" / "v.nii", lesion)
    image(root / "masks" / "b.png", 0)
    found = {p.name: p for p in pictures(plan(root, masks=True, window="auto")[0])}
    assert set(found) == {"a", "b", "p/v_003"}
    assert np.argwhere(found["p/v_003"].mask).tolist() == [[2, 1]]
    assert not found["b"].mask.any()
    assert found["a"].mask is None
    image(root / "masks" / "b.png", 0, size=(3, 3))
    with pytest.raises(UserError, match=r"masks/b\.png: is a mask of \(3, 3\) pixels for an image of \(5, 6\)"):
        pictures(plan(root, masks=True, window="auto")[0])
    image(root / "masks" / "stranger.png", 0)
    with pytest.raises(UserError, match=r"stranger\.png: a mask without an abnormal image"):
        plan(root, masks=True)


@pytest.mark.parametrize("kind", ["normal", "abnormal"])
@pytest.mark.parametrize("name", ["p/benign (1)_mask.png", "p/benign (1)_mask_1.png", "p/Benign (1)-Seg.tif", "p/benign (1)_label.nii.gz"])
def test_masks_beside_their_images_are_no_images(root, kind, name):
    image(root / kind / "p" / "benign (1).png")
    image(root / kind / "q" / "benign (2)_mask.png")  # of no image
    image(root / kind / "p" / "benign (1)_masked.png")
    assert len(plan(root)[0]) == 5
    (root / kind / name).touch()
    told = rf"{kind}/{re.escape(name)}: is called as a mask of p/benign \(1\)\.png beside it, and would become an image; .* for --masks$"
    with pytest.raises(UserError, match=told):
        plan(root)


@pytest.mark.parametrize("label", [0, -1, np.nan])
def test_a_volume_of_which_no_slice_is_taken_is_told(root, label):
    nifti(root / "abnormal" / "p" / "v.nii.gz", VOLUME)
    nifti(root / "masks" / "p" / "v.nii", np.full(VOLUME.shape, label, np.float32))
    jobs = {job.name: job for job in plan(root, masks=True, window="auto")[0]}
    with pytest.raises(NoImage, match=r"abnormal/p/v\.nii\.gz: no slice of it shows more than one grey and is marked in .*masks/p/v\.nii$"):
        pictures([jobs["p/v"]])
    nifti(root / "normal" / "grey.nii", np.full_like(VOLUME, 5))
    (job,) = (job for job in plan(root, window="auto")[0] if job.name == "grey")
    with pytest.raises(NoImage, match=r"grey\.nii: no slice of it shows more than one grey$"):
        pictures([job])


def test_masks_that_are_none_or_two(root):
    (root / "masks").mkdir()
    write_dicom(root / "masks" / "b.dcm", STORED)
    with pytest.raises(UserError, match=r"masks/b\.dcm: cannot be read as an image"):
        pictures(plan(root, masks=True)[0])
    image(root / "masks" / "b.png")
    with pytest.raises(UserError, match=r"masks/b\.png: b\.jpg has another mask, .*b\.dcm; take one away"):
        plan(root, masks=True)
    (root / "masks" / "b.dcm").unlink()
    (root / "masks" / "readme.txt").write_text("hello")
    jobs, other = plan(root, masks=True)
    assert [file.name for file in other] == ["readme.txt"]
    assert next(p for p in pictures(jobs) if p.name == "b").mask.all()


def test_patients(root):
    image(root / "normal" / "p1" / "c_1.png")
    image(root / "normal" / "p1" / "c_2.png")
    image(root / "abnormal" / "p1" / "d.png")
    image(root / "abnormal" / "more" / "IM1.png")
    assert owners(root) == {
        "normal/a": "normal/a", "normal/p1/c_1": "p1", "normal/p1/c_2": "p1",
        "abnormal/b": "abnormal/b", "abnormal/p1/d": "p1", "abnormal/more/IM1": "more",
    }  # fmt: skip
    assert owners(root, patient=r"([^/]*?)(_\d+)?\.")["normal/p1/c_2"] == "c"
    with pytest.raises(UserError, match=r"--patient c\(_1\): finds no patient in a\.png"):
        plan(root, patient="c(_1)")
    with pytest.raises(UserError, match="needs a group"):
        plan(root, patient="c")
    with pytest.raises(UserError, match="not a regular expression"):
        plan(root, patient="(")


def test_one_subfolder_for_all_is_no_patient(tmp_path):
    for kind in ("normal", "abnormal"):
        for name in "xyz":
            image(tmp_path / kind / "images" / f"{name}.png")
    # and a stem that is in both folders is not one patient, either
    assert set(owners(tmp_path).values()) == {f"{kind}/images/{name}" for kind in ("normal", "abnormal") for name in "xyz"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v.hdr", r"v\.hdr: one of a pair of files; save both as one \.nii\.gz file$"),
        ("x.tar.gz", r"x\.tar\.gz: an archive that is not read; unpack it, or pack it as zip$"),
    ],
)
def test_what_may_hold_images_but_is_not_read_is_told(root, name, told):
    (root / "normal" / "a.png").rename(root / "normal" / name)
    (root / "normal" / "README").touch()
    with pytest.raises(UserError, match=f"^no normal image is there among 2 files; .*{told}"):
        plan(root)


def test_a_folder_without_images_says_what_is_read(root):
    (root / "normal" / "a.png").rename(root / "normal" / "a.mgz")
    with pytest.raises(UserError, match=r"no normal image is there among 1 files; PNG, JPEG, TIFF, BMP, DICOM and NIfTI"):
        plan(root)


def test_nibabels_own_files_are_read_or_refused_in_one_line():
    files = list_source(Path(nibabel.__file__).parent / "tests" / "data")
    jobs, other = folder.plan(files, files, [], "auto", None, 3)
    assert any(file.name.endswith(".mgz") for file in other)
    read, refused = set(), {}
    for job in jobs[: len(jobs) // 2]:
        try:
            read |= {job.sources[0].name for _ in job.pictures([job.sources[0].path])}
        except UserError as error:
            refused[job.sources[0].name] = str(error)
    assert {"anatomical.nii", "0.dcm", "1.dcm"} <= read
    assert {"example4d.nii.gz", "functional.nii"} <= set(refused)
    assert all("\n" not in line for line in refused.values())
