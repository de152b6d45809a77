"""Maps of NIfTI volumes, loaded back with nibabel alone."""

import itertools

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.data.formats.own import is_own_map
from anomaly_detection.evaluation.maps import nifti
from anomaly_detection.evaluation.maps.nifti import NiftiMap

ORIENTATIONS = ["".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)]
SHAPE = (9, 7, 6)
STEP = 0.51 / 32767  # of the greatest value, what rounding takes


def oblique(turn=(12, -8, 20), spacing=(0.8, 0.9, 2.5), shift=(-90, 40, 1200.5)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * spacing
    affine[:3, 3] = shift
    return affine


def save(path, orientation="RAS", kind=nibabel.Nifti1Image, affine=None, data=None, shape=SHAPE):
    data = np.random.default_rng(0).integers(1, 255, shape, np.uint8) if data is None else data
    image = kind(data, oblique() if affine is None else affine)
    if orientation != "RAS":
        image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation)))
    nibabel.save(image, path)
    return path


def own_values(path, out, scale=1.0):
    """A map of which each slice says what the volume's own slice says."""
    volume = Volume(path, "v")
    maps = NiftiMap(volume, out, scale)
    for number in np.random.default_rng(1).permutation(volume.slices):
        maps.add(number, volume.read([number])[0])
    maps.close()
    return nibabel.load(out)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_each_voxel_has_the_value_of_its_own_place(tmp_path, orientation, kind):
    path = save(tmp_path / "v.nii.gz", orientation, kind)
    source, found = nibabel.load(path), own_values(path, tmp_path / "out" / "m.nii.gz")
    assert type(found) is kind
    assert np.abs(found.get_fdata() - source.get_fdata()).max() <= STEP * source.get_fdata().max()
    assert np.array_equal(found.affine, source.affine)
    assert found.get_data_dtype() == np.int16
    assert found.header.get_zooms() == source.header.get_zooms()


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 1, 1)])
@pytest.mark.parametrize("orientation", ["RAS", "PSL"])
def test_lengths_of_1_behind_the_third_stay(tmp_path, shape, orientation):
    three = nibabel.load(save(tmp_path / "3.nii", orientation))
    data = np.asarray(three.dataobj)
    path = save(tmp_path / "4.nii", data=data.reshape(*data.shape, *shape[3:]), affine=three.affine)
    found = own_values(path, tmp_path / "m.nii.gz")
    assert found.shape == (*three.shape, *shape[3:])
    assert np.abs(found.get_fdata().reshape(data.shape) - data).max() <= STEP * data.max()


def test_both_affines_of_the_header_and_the_units_stay(tmp_path):
    image = nibabel.Nifti1Image(np.ones(SHAPE, np.int16), None)
    image.set_sform(oblique(), 4)
    image.set_qform(oblique((3, 2, 1)), 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2, -1024)
    nibabel.save(image, tmp_path / "v.nii")
    found = own_values(tmp_path / "v.nii", tmp_path / "m.nii.gz")
    for affine, code in ((found.get_sform(coded=True), 4), (found.get_qform(coded=True), 1)):
        assert affine[1] == code
    assert np.array_equal(found.get_sform(), image.get_sform())
    assert np.allclose(found.get_qform(), image.get_qform(), atol=1e-5)
    assert found.header.get_xyzt_units() == ("mm", "sec")
    assert np.allclose(found.get_fdata(), 2 - 1024, rtol=1e-6), "scaling is of the values of the volume, not of the map"


def test_the_header_says_what_it_is_and_what_is_to_be_shown(tmp_path):
    header = own_values(save(tmp_path / "v.nii"), tmp_path / "m.nii.gz", scale=0.25).header
    assert header.get_intent() == ("estimate", (), "anomaly map")
    assert (float(header["cal_min"]), float(header["cal_max"])) == (0.25, 0.5)
    assert header["descrip"].item().decode() == "anomaly_detection predict: anomaly map; normals seldom exceed cal_min"


@pytest.mark.parametrize("sign", [1, -1])
def test_values_are_told_in_small_steps_and_what_is_not_added_is_0(tmp_path, sign):
    path = save(tmp_path / "v.nii", shape=(31, 30, 200), affine=np.diag([-1.0, -1, 1, 1]))
    values = sign * np.random.default_rng(0).lognormal(size=(200, 30, 31)).astype(np.float32)
    values[:, 0, 0] = 0
    maps = NiftiMap(Volume(path, "v"), tmp_path / "m.nii.gz", 1.0)
    for number in range(199):
        maps.add(number, values[number])
    maps.close()
    found = nibabel.load(tmp_path / "m.nii.gz").get_fdata().T
    assert np.abs(found[:199] - values[:199]).max() <= STEP * np.abs(values[:199]).max()
    assert not found[:, 0, 0].any()
    assert not found[199].any()


def test_a_map_of_nothing(tmp_path):
    NiftiMap(Volume(save(tmp_path / "v.nii"), "v"), tmp_path / "m.nii.gz", 1.0).close()
    assert not nibabel.load(tmp_path / "m.nii.gz").get_fdata().any()


def test_nothing_is_left_of_a_map_that_was_not_finished(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.nii.gz").write_bytes(b"before")
    maps = NiftiMap(Volume(save(tmp_path / "v.nii"), "v"), tmp_path / "out" / "m.nii.gz", 1.0)
    maps.add(0, np.ones((7, 9)))
    assert len(list((tmp_path / "out").iterdir())) == 1

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(nifti.np, "rint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        maps.close()
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [b"before"]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_map_is_known_again(tmp_path, kind):
    path = save(tmp_path / "v.nii.gz", kind=kind)
    own_values(path, tmp_path / "m.nii.gz")
    nibabel.save(nibabel.load(tmp_path / "m.nii.gz"), tmp_path / "unpacked.nii")
    (tmp_path / "half.nii.gz").write_bytes((tmp_path / "m.nii.gz").read_bytes()[:30])
    assert [is_own_map(tmp_path / name) for name in ("m.nii.gz", "unpacked.nii", "v.nii.gz", "half.nii.gz")] == [True, True, False, False]
