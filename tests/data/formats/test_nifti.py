"""Axial slices of NIfTI volumes, in whatever orientation they are stored."""

import itertools

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from anomaly_detection.data.formats.nifti import Volume, spread
from anomaly_detection.system.errors import UserError

ORIENTATIONS = ["".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)]


def save(path, data, affine=None, orientation=None):
    image = nibabel.Nifti1Image(data, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine)
    if orientation:
        image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation)))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_are_upright_in_every_orientation(tmp_path, orientation, suffix):
    # by hand: [x to the right, y to the front, z up] becomes row 0 in front, column 0 on the patient's right
    body = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    upright = [[[body[4 - column, 5 - row, z] for column in range(5)] for row in range(6)] for z in range(7)]
    stored = upright if "S" in orientation else upright[::-1]
    volume = Volume(save(tmp_path / f"v{suffix}", body, orientation=orientation), "v")
    assert (volume.orientation, volume.slices) == (orientation, 7)
    assert volume.read(range(7)).tolist() == stored
    assert volume.read([5, 2]).tolist() == [stored[5], stored[2]]
    assert volume.count([1, 2]).tolist() == [[np.count_nonzero(np.array(plane) == label) for plane in stored] for label in (1, 2)]
    assert volume.count_marked().tolist() == [np.count_nonzero(plane) for plane in stored]


def test_values_are_scaled_as_the_header_says(tmp_path):
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nibabel.save(image, tmp_path / "v.nii")
    assert sorted(Volume(tmp_path / "v.nii", "v").read([0, 1]).reshape(-1)) == [2 * value - 1024 for value in range(8)]


def test_what_is_no_volume_is_refused_in_one_line(tmp_path):
    cases = {
        "not three dimensions": save(tmp_path / "four.nii", np.zeros((2, 2, 2, 3), np.uint8)),
        "not grey ones": save(tmp_path / "colour.nii", np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    }
    for name, content in {
        "text.nii": b"hello",
        "empty.nii.gz": b"",
        "short.nii": save(tmp_path / "x.nii", np.zeros((4, 4, 4))).read_bytes()[:300],
    }.items():
        (tmp_path / name).write_bytes(content)
        cases[f"{name}: cannot be read as NIfTI"] = tmp_path / name
    unknown = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    nibabel.save(unknown, tmp_path / "unknown.nii")
    cases["does not tell the orientation"] = tmp_path / "unknown.nii"
    for words, path in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            Volume(path, path.name)
        assert "\n" not in str(caught.value)


def test_a_volume_cut_short_is_found_when_it_is_read(tmp_path):
    whole = save(tmp_path / "v.nii.gz", np.random.default_rng(0).integers(0, 2, (20, 20, 20)).astype(np.uint8))
    whole.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(UserError, match="cannot be read as NIfTI"):
        Volume(whole, "v").count([1])


def test_labels_that_there_should_not_be(tmp_path):
    data = np.zeros((3, 3, 3), np.uint8)
    data[1, 1, 1] = 7
    with pytest.raises(UserError, match="holds the values 7, but labels are 0, 1, 2"):
        Volume(save(tmp_path / "s.nii", data), "s").count([1, 2])


def test_spread():
    assert spread([3, 4, 5], 5) == [3, 4, 5]
    assert spread(list(range(11)), 3) == [0, 5, 10]
    assert spread([1, 2, 3], 1) == [1]
    assert spread([1, 2, 3], 0) == []
