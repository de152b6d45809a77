"""A volume with a lesion, once as NIfTI and once as DICOM: both maps have their maximum at the lesion, in millimetres of the patient."""

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from anomaly_detection.data.formats.read import read_images
from anomaly_detection.data.formats.sources import list_source
from anomaly_detection.data.formats.window import Window, plain_window
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.evaluation.maps import series
from anomaly_detection.evaluation.maps.series import SeriesMaps
from anomaly_detection.system.errors import UserError
from tests.evaluation.maps.sources import LESION, SHAPE, SPACING, place, save_frames, save_nifti, save_series

highdicom = pytest.importorskip("highdicom")

WINDOW = Window(0, 400)
SCALE = 170.0  # brighter than the body
WAYS = {
    "stretched": Preprocessing(window=WINDOW, image_size=32),
    "finer": Preprocessing(window=WINDOW, image_size=160),
    "padded": Preprocessing(window=WINDOW, size=40, aspect="pad", image_size=40),
    "cropped": Preprocessing(window=WINDOW, crop_size=44, image_size=32),
    "padded and cropped": Preprocessing(window=WINDOW, size=56, aspect="pad", crop_size=50, image_size=40),
}


def blur(pixels, preprocessing):
    """The map of a detector that was never trained: the blurred brightness of the network's image."""
    return gaussian_filter(preprocessing.apply(pixels)[0].astype(np.float32), 1.0)


def maps_of(kind, source, stem, preprocessing):
    """The files, and the greatest value of any map."""
    greatest = 0.0
    maps = SeriesMaps(kind, "v", stem, preprocessing, SCALE, "blur")
    for file in list_source(source):
        for number, (_, pixels) in enumerate(read_images(file.path, plain_window(preprocessing.window))):
            maps.add(file, number, pixels.shape[:2], blur(pixels, preprocessing), None)
            greatest = max(greatest, float(preprocessing.back(blur(pixels, preprocessing), pixels.shape[:2]).max()))
    return maps.close(), greatest


def test_a_map_that_does_not_fit_into_memory_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(series, "NiftiMap", full)
    save_nifti(tmp_path / "v.nii.gz")
    with pytest.raises(UserError, match=r"v: its map takes 0 GiB of memory, more than there is; leave maps out \(--no-maps\)"):
        maps_of("nifti", tmp_path / "v.nii.gz", tmp_path / "v", WAYS["stretched"])


def tolerance(preprocessing):
    """A cell of the map, in mm; its corners are as far from its middle in each direction."""
    across = preprocessing.crop_size or preprocessing.size or max(SHAPE)
    side = across * max(SHAPE) / (preprocessing.size or max(SHAPE))
    return max(side / preprocessing.image_size, 1) * SPACING[:2].max()


@pytest.mark.parametrize("way", WAYS)
def test_the_maximum_of_the_map_of_a_volume_lies_in_the_lesion(tmp_path, way):
    source = save_nifti(tmp_path / "v.nii.gz")
    (path,), greatest = maps_of("nifti", source, tmp_path / "out" / "v", WAYS[way])
    assert path == tmp_path / "out" / "v_anomaly.nii.gz"
    found, volume = nibabel.load(path), nibabel.load(source)
    assert (found.shape, found.affine.tolist()) == (volume.shape, volume.affine.tolist())
    values = found.get_fdata()
    assert values.max() == pytest.approx(greatest, rel=1e-3)
    voxel = np.unravel_index(values.argmax(), values.shape)
    in_lps = np.diag([-1, -1, 1]) @ (found.affine @ [*voxel, 1])[:3]
    assert np.linalg.norm(in_lps - place(LESION)) <= np.hypot(*[tolerance(WAYS[way])] * 2), "within a cell, in its slice"


@pytest.mark.parametrize("way", WAYS)
def test_the_same_volume_is_marked_in_the_same_place_in_all_formats(tmp_path, way):
    """Voxels of the NIfTI map above the scale are those of the segmentation, each at its place in millimetres; the crop leaves out the same."""
    (path,), _ = maps_of("nifti", save_nifti(tmp_path / "v.nii.gz"), tmp_path / "v", WAYS[way])
    found = nibabel.load(path)
    voxels = np.argwhere(found.get_fdata() > SCALE)
    marked = (np.c_[voxels, np.ones(len(voxels))] @ found.affine.T)[:, :3] @ np.diag([-1, -1, 1])
    assert 0 < len(marked) < found.get_fdata().size / 20
    save_series(tmp_path / "series")
    for source, stem in ((tmp_path / "series", "s"), (save_frames(tmp_path / "f.dcm"), "f")):
        (path,), _ = maps_of("dicom", source, tmp_path / stem, WAYS[way])
        volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
        places = volume.map_indices_to_reference(np.argwhere(volume.array > 0).astype(float))
        for one, other in ((marked, places), (places, marked)):
            apart, _ = KDTree(one).query(other)
            assert np.mean(apart < 0.01) > 0.97, "but for what rounding moves over the scale"
