"""LiTS: which slices are taken, and what is refused."""

import nibabel
import numpy as np
import pytest

from anomaly_detection.data.formats.sources import list_source
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.prepare.lits import plan
from anomaly_detection.data.prepare.options import Choice
from anomaly_detection.system.errors import UserError


def write(folder, number, hu, labels, affine=None, labels_affine=None, suffix=".nii"):
    folder.mkdir(exist_ok=True)
    affine = np.diag([1.0, 1.0, 5.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine), folder / f"volume-{number}{suffix}")
    nibabel.save(
        nibabel.Nifti1Image(labels.astype(np.uint8), affine if labels_affine is None else labels_affine), folder / f"segmentation-{number}{suffix}"
    )


def body(slices=8, side=20):
    """Slice k holds liver in k rows of 20, and k // 2 pixels of tumour."""
    labels = np.zeros((side, side, slices), np.uint8)
    for k in range(slices):
        labels[:, :k, k] = 1
        labels[: k // 2, 0, k] = 2
    return 10 * labels.astype(int) + 40, labels


def pictures(folder, **choice):
    files = list_source(folder)
    found = []
    for job in plan(folder, files, Choice(**choice), Window(40, 400)):
        found += job.pictures([file.path for file in job.sources])
    return found


def test_slices_are_chosen_by_liver_and_tumour(tmp_path):
    hu, labels = body()
    write(tmp_path / "s", 7, hu, labels, suffix=".nii.gz")
    found = {(p.name, p.abnormal) for p in pictures(tmp_path / "s", min_liver=0.05, min_tumour=0.005)}
    # slice 0 shows no liver, slice 1 liver alone; slices 2, 3 have 1 pixel of 400: too small, but not normal
    assert found == {("volume-7_001", False), *((f"volume-7_{k:03d}", True) for k in (4, 5, 6, 7))}
    assert {p.name for p in pictures(tmp_path / "s", min_liver=0.3, min_tumour=0.005)} == {"volume-7_006", "volume-7_007"}


def test_masks_pixels_and_patient(tmp_path):
    hu, labels = body()
    write(tmp_path / "s", 7, hu, labels)
    picture = next(p for p in pictures(tmp_path / "s") if p.name == "volume-7_006")
    assert picture.patient == "volume-7"
    assert np.argwhere(picture.mask).tolist() == [[19, 17], [19, 18], [19, 19]]  # x 0 to 2 is on the patient's left, y 0 is the back
    assert set(np.unique(picture.pixels[picture.mask])) == {round((20 / 400 + 0.5) * 255)}


def test_at_most_so_many_slices_spread_over_the_volume(tmp_path):
    """In the middle of each third: 6.7, 20 and 33.3 slices of 1 from the end, not at both ends."""
    labels = np.ones((20, 20, 40), np.uint8)
    write(tmp_path / "s", 0, np.zeros((20, 20, 40)), labels)
    assert [p.name for p in pictures(tmp_path / "s", max_slices=3)] == ["volume-0_006", "volume-0_020", "volume-0_033"]


def test_a_segmentation_that_lies_elsewhere_is_taken_and_told(tmp_path):
    """By its voxels it is the volume's; by the header it lies 8 slices of 5 mm higher."""
    hu, labels = body()
    higher = np.diag([1.0, 1.0, 5.0, 1.0])
    higher[2, 3] = 40
    write(tmp_path / "there", 7, hu, labels)
    write(tmp_path / "higher", 7, hu, labels, labels_affine=higher)
    there, found = (pictures(tmp_path / name, min_liver=0.05, min_tumour=0.005) for name in ("there", "higher"))
    assert {p.apart for p in there} == {0}
    assert {(p.abnormal, p.apart) for p in found} == {(False, 40.0), (True, 40.0)}
    assert [p.name for p in found] == [p.name for p in there]
    assert all(np.array_equal(p.mask, q.mask) for p, q in zip(found, there, strict=True) if p.abnormal)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    hu, labels = body()
    write(tmp_path / "alone", 3, hu, labels)
    (tmp_path / "alone" / "segmentation-3.nii").unlink()
    with pytest.raises(UserError, match=r"volume-3\.nii: there is no segmentation-3\.nii beside it"):
        pictures(tmp_path / "alone")
    write(tmp_path / "twice", 3, hu, labels)
    write(tmp_path / "twice", 3, hu, labels, suffix=".nii.gz")
    with pytest.raises(UserError, match="is there twice"):
        pictures(tmp_path / "twice")
    write(tmp_path / "flipped", 3, hu, labels, labels_affine=np.diag([-1.0, 1.0, 5.0, 1.0]))
    with pytest.raises(UserError, match=r"differ in shape or orientation \(\(20, 20, 8\) RAS and \(20, 20, 8\) LAS\)"):
        pictures(tmp_path / "flipped")
    write(tmp_path / "labels", 3, hu, labels + 3)
    with pytest.raises(UserError, match=r"segmentation-3\.nii: holds the values 3,"):
        pictures(tmp_path / "labels")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no volume-N\.nii .* is there; .*codalab"):
        pictures(tmp_path / "empty")


def test_volumes_are_taken_by_number_wherever_they_lie(tmp_path):
    hu, labels = body()
    for number in (10, 9):
        write(tmp_path / "s", number, hu, labels)
    (tmp_path / "s" / "part").mkdir()
    (tmp_path / "s" / "segmentation-9.nii").rename(tmp_path / "s" / "part" / "segmentation-9.nii")
    (tmp_path / "s" / "notes.txt").write_text("hello")
    jobs = plan(tmp_path, list_source(tmp_path / "s"), Choice(), Window(40, 400))
    assert [job.sources[0].stem for job in jobs] == ["volume-9", "volume-10"]
