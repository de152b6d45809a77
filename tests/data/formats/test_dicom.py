"""Grey images out of DICOM files."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from anomaly_detection.data.formats.dicom import is_dicom, read_dicom
from anomaly_detection.data.formats.window import Window
from anomaly_detection.system.errors import UserError


def write_dicom(path: Path, values: np.ndarray, kind: str = "MONOCHROME2", **tags) -> Path:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.set_pixel_data(values, kind, 12 if values.dtype.itemsize == 2 else 8)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


STORED = np.array([[0, 864, 984, 1064], [1104, 1164, 1264, 4095]], np.uint16)
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def frames(path, window=None):
    return list(read_dicom(path, window)[1])


def test_rescale_and_window(tmp_path):
    hu = STORED.astype(float) - 1024
    path = write_dicom(tmp_path / "a.dcm", STORED, **CT, PatientID="P7", WindowCenter=[40, -600], WindowWidth=[400, 1500])
    patient, read = read_dicom(path, None)
    # the standard, PS3.3 C.11.2.1.2.1, value by value
    expected = [[np.clip((x - 39.5) / 399 + 0.5, 0, 1) * 255 for x in row] for row in hu]
    assert patient == "P7"
    assert np.abs(next(read) - np.array(expected)).max() <= 0.51
    given = frames(path, Window(0, 100))[0]
    assert np.abs(given - np.clip(hu / 100 + 0.5, 0, 1) * 255).max() <= 0.51
    assert frames(path, "auto")[0].min() == 0


def test_monochrome1_is_inverted(tmp_path):
    tags = {"WindowCenter": 2048, "WindowWidth": 4096}
    one = frames(write_dicom(tmp_path / "1.dcm", STORED, "MONOCHROME1", **tags))[0]
    two = frames(write_dicom(tmp_path / "2.dcm", STORED, "MONOCHROME2", **tags))[0]
    assert (one.astype(int) + two == 255).all()


def test_frames_and_colour(tmp_path):
    values = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(frames(write_dicom(tmp_path / "f.dcm", values)), values)
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 0], colour[1, 1] = (255, 0, 0), (255, 255, 255)
    assert frames(write_dicom(tmp_path / "c.dcm", colour, "RGB"))[0].tolist() == [[76, 0], [0, 255]]


def test_more_than_8_bits_need_a_window(tmp_path):
    with pytest.raises(UserError, match=r"a\.dcm: .*states no window; give one: --window LEVEL WIDTH"):
        frames(write_dicom(tmp_path / "a.dcm", STORED, **CT))


def test_pydicoms_own_files_are_read_or_refused_in_one_line():
    folder = Path(pydicom.data.__file__).parent / "test_files"
    read, refused = [], {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and is_dicom(path)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # nothing but the line of the error may be said
                read += [path.name for frame in frames(path, "auto") if frame.dtype == np.uint8 and frame.ndim == 2]
        except UserError as error:
            refused[path] = str(error)
    assert all("\n" not in line and str(path) in line for path, line in refused.items())
    assert {"CT_small.dcm", "MR_small.dcm", "examples_palette.dcm", "examples_ybr_color.dcm", "rtdose.dcm"} <= set(read)
    assert {"rtplan.dcm", "DICOMDIR", "MR_truncated.dcm"} <= {path.name for path in refused}


def test_ct_small_by_hand():
    path = get_testdata_file("CT_small.dcm", download=False)
    data = pydicom.dcmread(path)
    hu = np.frombuffer(data.PixelData, np.int16).reshape(data.Rows, data.Columns) * float(data.RescaleSlope) + float(data.RescaleIntercept)
    assert np.abs(frames(Path(path), Window(40, 400))[0] - np.clip((hu + 160) / 400, 0, 1) * 255).max() <= 0.51


def test_dicom_is_known_by_its_mark(tmp_path):
    write_dicom(tmp_path / "IM0001", STORED)
    (tmp_path / "notes").write_text("hello")
    assert is_dicom(tmp_path / "IM0001")
    assert not is_dicom(tmp_path / "notes")
