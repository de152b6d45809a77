"""Axial slices of NIfTI volumes, in whatever orientation they are stored."""

import itertools

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.data.formats.window import Window
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


@pytest.mark.parametrize("shape", [(4, 5, 6, 1), (4, 5, 6, 1, 1)])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR", "PSL"])
def test_lengths_of_1_behind_the_third_are_left_out(tmp_path, shape, orientation):
    body = np.random.default_rng(0).integers(0, 3, shape[:3]).astype(np.uint8)
    three = Volume(save(tmp_path / "3.nii.gz", body, orientation=orientation), "3")
    stored = nibabel.load(tmp_path / "3.nii.gz")
    data = np.asarray(stored.dataobj)
    more = Volume(save(tmp_path / "4.nii.gz", data.reshape(*data.shape, *shape[3:]), stored.affine), "4")
    assert (more.shape, more.orientation, more.slices) == (three.shape, three.orientation, three.slices)
    assert np.array_equal(more.read(range(more.slices)), three.read(range(three.slices)))
    assert np.array_equal(more.count_marked(), three.count_marked())


@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(("saved", "named"), [("v.nii", "w.nii.gz"), ("v.nii.gz", "w.nii"), ("v.nii.gz", "W.NII.GZ")])
def test_content_not_the_name_says_whether_it_is_packed(tmp_path, version, saved, named):
    body = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nibabel.save(version(body, np.diag([-1.0, -1, 1, 1])), tmp_path / saved)
    (tmp_path / saved).rename(tmp_path / named)
    assert np.array_equal(Volume(tmp_path / named, "v").read(range(5)), body.transpose(2, 1, 0))


@pytest.mark.parametrize("orientation", ["RAS", "SAR"])
def test_planes_one_after_the_other(tmp_path, orientation):
    body = np.random.default_rng(0).integers(0, 99, (5, 6, 70)).astype(np.int16)
    volume = Volume(save(tmp_path / "v.nii", body, orientation=orientation), "v")
    slices = [0, 3, *range(10, 69)]  # more than are in memory at a time
    assert np.array_equal(np.array(list(volume.planes(slices))), volume.read(slices))


def test_which_values_are_shown(tmp_path):
    """8 bits as they are, more through a window: the display range of the header is most often that of the values."""
    body = np.array([[[-100, 0, 50, 255]]], np.int16)
    image = nibabel.Nifti1Image(body, np.diag([-1.0, -1, 1, 1]))
    image.header["cal_min"], image.header["cal_max"] = 0, 50
    nibabel.save(image, tmp_path / "deep.nii")
    with pytest.raises(UserError, match="deep: the file states no window; give one: --window"):
        Volume(tmp_path / "deep.nii", "deep").shown(None)
    assert Volume(tmp_path / "deep.nii", "deep").shown(Window(0, 10)) == Window(0, 10)
    eight = Volume(save(tmp_path / "8.nii", body.astype(np.uint8)), "8")
    assert [int(eight.shown(None).grey(plane)[0, 0]) for plane in eight.planes(range(4))] == [156, 0, 50, 255]
    scaled = nibabel.Nifti1Image(body.astype(np.uint8), np.eye(4))
    scaled.header.set_slope_inter(2, -1024)
    nibabel.save(scaled, tmp_path / "scaled.nii")
    with pytest.raises(UserError, match="states no window"):
        Volume(tmp_path / "scaled.nii", "scaled").shown(None)


def test_what_is_no_number_is_black_and_left_out_of_auto(tmp_path):
    body = np.full((40, 1, 1), np.nan, np.float32)
    body[:3, 0, 0] = 10, 11, 12
    volume = Volume(save(tmp_path / "v.nii", body, np.diag([-1.0, -1, 1, 1])), "v")
    window = volume.shown("auto")
    assert (window.level, window.width) == (pytest.approx(11), pytest.approx(1.98, abs=1e-5))  # 10.01 to 11.99
    assert window.grey(volume.read([0]))[0, 0].tolist() == [0, 128, 255] + [0] * 37


def test_what_is_no_volume_is_refused_in_one_line(tmp_path):
    cases = {
        r"\(2, 2, 2, 3\), which is several volumes; save one volume to a file, with nibabel": save(
            tmp_path / "four.nii", np.zeros((2, 2, 2, 3), np.uint8)
        ),
        r"\(2, 2, 2, 1, 3\), which is several": save(tmp_path / "five.nii.gz", np.zeros((2, 2, 2, 1, 3), np.uint8)),
        r"\(2, 2\), not three dimensions": save(tmp_path / "two.nii", np.zeros((2, 2), np.uint8)),
        "holds colours; save its slices as PNG, or one channel": save(tmp_path / "colour.nii", np.zeros((2, 2, 2), [(c, "u1") for c in "RGB"])),
        "complex64, not grey ones; save their magnitude": save(tmp_path / "complex.nii", np.zeros((2, 2, 2), np.complex64)),
    }
    nibabel.save(nibabel.MGHImage(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "x.mgz")
    for name, content in {
        "text.nii": b"hello",
        "empty.nii.gz": b"",
        "other.nii.gz": (tmp_path / "x.mgz").read_bytes(),
        "short.nii": save(tmp_path / "x.nii", np.zeros((4, 4, 4))).read_bytes()[:300],
    }.items():
        (tmp_path / name).write_bytes(content)
        cases[f"{name}: cannot be read as NIfTI"] = tmp_path / name
    unknown = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    nibabel.save(unknown, tmp_path / "unknown.nii")
    cases["does not tell the orientation"] = tmp_path / "unknown.nii"
    content = bytearray(save(tmp_path / "lost.nii", np.zeros((2, 2, 2), np.uint8)).read_bytes())
    content[292:296] = np.float32(np.nan).tobytes()  # x of the first voxel, by the sform
    (tmp_path / "lost.nii").write_bytes(content)
    cases["its affine holds what is no number"] = tmp_path / "lost.nii"
    for words, path in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            Volume(path, path.name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_what_is_above_0_is_marked(tmp_path, dtype):
    body = np.zeros((3, 3, 4), dtype)
    body[1, 1, 1], body[2, 1, 1], body[0, 0, 2] = 1, 100, 7
    if dtype != np.uint8 and dtype != np.uint16:
        body[0, 0, 3] = -1
    if dtype == np.float32:
        body[0, 0, 0] = np.nan
    assert Volume(save(tmp_path / "m.nii.gz", body), "m").count_marked().tolist() == [0, 2, 1, 0]


def test_a_volume_cut_short_is_found_when_it_is_read(tmp_path):
    whole = save(tmp_path / "v.nii.gz", np.random.default_rng(0).integers(0, 2, (20, 20, 20)).astype(np.uint8))
    whole.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(UserError, match="cannot be read as NIfTI"):
        Volume(whole, "v").count([1])


def test_a_shape_beyond_memory_is_told(tmp_path):
    path = save(tmp_path / "v.nii", np.zeros((4, 4, 4), np.uint8), np.eye(4)[[2, 1, 0, 3]])
    content = bytearray(path.read_bytes())
    content[40:48] = np.array([3, 32000, 32000, 32000], np.int16).tobytes()
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"v\.nii: cannot be read as NIfTI"):
        next(Volume(path, "v.nii").planes(range(3200)))


def test_labels_that_there_should_not_be(tmp_path):
    data = np.zeros((3, 3, 3), np.uint8)
    data[1, 1, 1] = 7
    with pytest.raises(UserError, match="holds the values 7, but labels are 0, 1, 2"):
        Volume(save(tmp_path / "s.nii", data), "s").count([1, 2])


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ([0, 0, 0], 0),
        ([0, 0, 40], 40),
        ([0, 0, 2.5], 0),
        ([0.35, 0, 0], 0),
        ([0, -1.4, 0], 1.4),
        ([3, 4, 12], 13),
    ],
    ids=["the same", "eight slices", "half a slice", "half a pixel", "two pixels", "3 4 12 13"],
)
def test_how_far_apart_volumes_lie(tmp_path, shift, expected):
    """Voxels of 0.7 x 0.7 x 5 mm, a tenth turned about the axis of the body."""
    turn = nibabel.eulerangles.euler2mat(z=0.1)
    affine = nibabel.affines.from_matvec(turn @ np.diag([0.7, 0.7, 5]), [-90, 12, 7])
    other = nibabel.affines.from_matvec(turn @ np.diag([0.7, 0.7, 5]), np.array([-90, 12, 7]) + turn @ shift)
    one, two = (Volume(save(tmp_path / f"{name}.nii", np.zeros((9, 8, 7), np.int8), each), name) for name, each in (("a", affine), ("b", other)))
    assert one.apart(two) == pytest.approx(expected, abs=1e-3)
    assert two.apart(one) == pytest.approx(expected, abs=1e-3)


def test_volumes_of_other_voxels_lie_apart_at_their_far_corner(tmp_path):
    """Against a loop over all voxels; spacings that were rounded to four digits do not count, nor does a volume in its own place."""
    shape = (30, 20, 10)
    affines = {
        "mm": np.diag([-0.703125, -0.703125, 5.0, 1.0]),
        "rounded": np.diag([-0.7031, -0.7031, 5.0, 1.0]),
        "ones": np.diag([-1.0, -1.0, 1.0, 1.0]),
        "turned": nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(x=0.2) @ np.diag([-0.703125, -0.703125, 5.0])),
    }
    volumes = {name: Volume(save(tmp_path / f"{name}.nii", np.zeros(shape, np.int8), affine), name) for name, affine in affines.items()}
    for name, affine in affines.items():
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        shifts = [apply_affine(affine, places[index]) - apply_affine(affines["mm"], places[index]) for index in np.ndindex(shape)]
        expected = 0 if name in ("mm", "rounded") else max(map(np.linalg.norm, shifts))
        assert volumes["mm"].apart(volumes[name]) == pytest.approx(expected, abs=1e-3)
    assert volumes["mm"].apart(volumes["ones"]) > 36, "ten slices of 5 mm beside ten of 1 mm"
