"""Grey images out of DICOM files."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from anomaly_detection.data.formats.dicom import holds_image, is_dicom, read_dicom
from anomaly_detection.data.formats.header import read_layout
from anomaly_detection.data.formats.sources import SourceFile
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


def test_frames(tmp_path):
    values = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(frames(write_dicom(tmp_path / "f.dcm", values)), values)


RGB = [[(255, 0, 0), (0, 0, 0)], [(10, 200, 30), (255, 255, 255)]]
# PS3.3 C.7.6.3.1.2: Y = .299 R + .587 G + .114 B, CB = -.1687 R - .3313 G + .5 B + 128, CR = .5 R - .4187 G - .0813 B + 128
OF_YBR = [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
YBR = [[[min(255, round(np.dot(row, pixel) + zero)) for row, zero in zip(OF_YBR, (0, 128, 128), strict=True)] for pixel in line] for line in RGB]
BY_PLANE = np.array(RGB, np.uint8).transpose(2, 0, 1)
PAIRS = [[(90, 100, 140), (120, 100, 140)]]  # two pixels that share CB and CR
OF_PAIRS = [[[y + 1.402 * (cr - 128), y - 0.34414 * (cb - 128) - 0.71414 * (cr - 128), y + 1.772 * (cb - 128)] for y, cb, cr in row] for row in PAIRS]


@pytest.mark.parametrize(
    ("kind", "content", "expected", "tags"),
    [
        ("RGB", RGB, RGB, {}),
        ("RGB", BY_PLANE, RGB, {"PlanarConfiguration": 1}),
        ("RGB", RGB, RGB, {"PlanarConfiguration": None}),
        ("RGB", RGB, RGB, {"WindowCenter": 5, "WindowWidth": 9}),
        ("YBR_FULL", YBR, RGB, {}),
        ("YBR_FULL_422", [90, 120, 100, 140], OF_PAIRS, {}),
    ],
    ids=["by pixel", "by plane", "planar configuration empty", "windows are of grey", "YBR", "YBR, CB and CR of every other pixel"],
)
def test_colour_stays_colour(tmp_path, kind, content, expected, tags):
    path = write_dicom(tmp_path / "c.dcm", np.array(RGB, np.uint8), "RGB")
    data = pydicom.dcmread(path)
    data.PhotometricInterpretation, data.PixelData, data.Rows = kind, np.array(content, np.uint8).tobytes(), len(expected)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path)
    (frame,) = frames(path)
    assert (frame.shape, frame.dtype) == ((len(expected), 2, 3), np.uint8)
    assert np.abs(frame.astype(float) - np.array(expected)).max() <= 2, "YBR is rounded"


def test_colours_that_are_not_known_are_refused(tmp_path):
    data = pydicom.dcmread(write_dicom(tmp_path / "c.dcm", np.array(RGB, np.uint8), "RGB"))
    data.PhotometricInterpretation = "YBR_PARTIAL_422"
    data.save_as(tmp_path / "c.dcm")
    with pytest.raises(UserError, match="its colours are YBR_PARTIAL_422; convert it to RGB"):
        frames(tmp_path / "c.dcm")


def test_colour_of_16_bits(tmp_path):
    deep = np.array([[[0, 257, 65535], [128 * 257, 1000, 129]]], np.uint16)
    data = pydicom.dcmread(write_dicom(tmp_path / "c.dcm", np.zeros((1, 2, 3), np.uint8), "RGB"))
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelData = 16, 16, 15, deep.tobytes()
    data.save_as(tmp_path / "c.dcm")
    assert frames(tmp_path / "c.dcm")[0].tolist() == [[[0, 1, 255], [128, 4, 1]]]


def segments(*numbers: int) -> bytes:
    return np.array(numbers, "<u2").tobytes()


@pytest.mark.parametrize(
    ("descriptor", "red", "stored", "expected"),
    [
        ([4, 0, 16], np.array([0, 257, 65535, 129], "<u2").tobytes(), [0, 1, 2, 3], [0, 1, 255, 1]),
        ([4, 0, 8], bytes([9, 20, 30, 40]), [0, 1, 2, 3], [9, 20, 30, 40]),
        ([2, 2, 8], bytes([9, 20]), [0, 2, 3, 255], [9, 9, 20, 20]),
        ([300, 0, 8], bytes(x // 2 for x in range(300)), [0, 255, 256, 299], [0, 127, 128, 149]),  # pydicom's own wraps after 255
        ([4, 0, 8], np.array([9, 20, 30, 40], "<u2").tobytes(), [0, 1, 2, 3], [9, 20, 30, 40]),  # 8 bits in words
        ([5, 0, 16], (0, 1, 0, 1, 4, 65535), [0, 1, 2, 4], [0, 64, 128, 255]),  # in segments: 0, then a line of four up to 65535
    ],
    ids=["16 bits", "8 bits", "first value 2", "300 entries", "8 bits in words", "segments"],
)
def test_a_palette_gives_colours(tmp_path, descriptor, red, stored, expected):
    data = pydicom.dcmread(write_dicom(tmp_path / "p.dcm", np.array([stored], np.uint16)))
    data.PhotometricInterpretation = "PALETTE COLOR"
    prefix = "Segmented" if isinstance(red, tuple) else ""
    for name in ("Red", "Green", "Blue"):
        data.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", descriptor)
        table = segments(*red) if prefix else red
        data.add_new(
            f"{prefix}{name}PaletteColorLookupTableData", "OW", table if name == "Red" else segments(0, 1, 0, 1, 4, 0) if prefix else bytes(len(red))
        )
    data.save_as(tmp_path / "p.dcm")
    assert frames(tmp_path / "p.dcm")[0].tolist() == [[[value, 0, 0] for value in expected]]


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
                read += [path.name for frame in frames(path, "auto") if frame.dtype == np.uint8 and frame.shape[2:] in ((), (3,))]
        except UserError as error:
            refused[path] = str(error)
    assert all("\n" not in line and str(path) in line for path, line in refused.items())
    assert {"CT_small.dcm", "MR_small.dcm", "examples_palette.dcm", "examples_ybr_color.dcm"} <= set(read)
    assert {"rtplan.dcm", "rtdose.dcm", "DICOMDIR", "MR_truncated.dcm"} <= {path.name for path in refused}
    (deep,) = (line for path, line in refused.items() if path.name == "JPGExtended.dcm")
    assert "12-bit" in deep, "a decoder is not there"
    assert 'pip install "pylibjpeg[all]" may bring the decoder' in deep


def test_reading_side_by_side_leaves_warnings_and_logs_as_they_were(tmp_path):
    path = write_dicom(tmp_path / "f.dcm", np.zeros((3, 4, 5), np.uint8))
    before = list(warnings.filters), logging.getLogger("pydicom").level
    first, second = (read_dicom(path, None)[1] for _ in range(2))
    next(first), next(second)
    assert logging.getLogger("pydicom").level == logging.CRITICAL
    assert len(list(first)) == len(list(second)) == 2
    assert (list(warnings.filters), logging.getLogger("pydicom").level) == before


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


@pytest.mark.parametrize("name", ["a.dcm", "IM0001"])
@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_without_preamble_and_file_meta(tmp_path, name, implicit, little):
    data = pydicom.dcmread(write_dicom(tmp_path / "whole.dcm", STORED, **CT, WindowCenter=40, WindowWidth=400, PatientID="P7"))
    expected = frames(tmp_path / "whole.dcm")[0]
    bare = pydicom.Dataset()
    bare.update(data)
    if not little:
        bare.PixelData = STORED.astype(">u2").tobytes()
    path = tmp_path / name
    bare.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    assert is_dicom(path) == (little or name.endswith(".dcm"))
    assert holds_image(path)
    patient, read = read_dicom(path, None)
    assert patient == "P7"
    assert np.array_equal(next(read), expected)


def test_without_a_transfer_syntax(tmp_path):
    data = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", STORED, **CT, WindowCenter=40, WindowWidth=400))
    expected = frames(tmp_path / "a.dcm")[0]
    del data.file_meta.TransferSyntaxUID
    data.save_as(tmp_path / "b.dcm", implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert np.array_equal(frames(tmp_path / "b.dcm")[0], expected)


def test_a_deflated_file(tmp_path):
    data = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", STORED, **CT, WindowCenter=40, WindowWidth=400))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(tmp_path / "b.dcm")
    assert np.array_equal(frames(tmp_path / "b.dcm")[0], frames(tmp_path / "a.dcm")[0])


def test_run_lengths_of_values_in_the_upper_bits(tmp_path):
    data = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", STORED, WindowCenter=2048, WindowWidth=4096))
    expected = frames(tmp_path / "a.dcm")[0]
    data.HighBit, data.PixelData = 15, (STORED << 4).tobytes()
    data.compress(RLELossless)
    data.save_as(tmp_path / "b.dcm")
    assert np.array_equal(frames(tmp_path / "b.dcm")[0], expected)


def test_reports_and_directories_hold_no_image(tmp_path):
    folder = Path(pydicom.data.__file__).parent / "test_files"
    others = ("reportsi.dcm", "rtplan.dcm", "rtdose.dcm", "dicomdirtests/DICOMDIR", "waveform_ecg.dcm")
    assert not any(holds_image(folder / name) for name in others)
    assert all(holds_image(folder / name) for name in ("CT_small.dcm", "MR_truncated.dcm", "JPGExtended.dcm"))
    (tmp_path / "text.dcm").write_text("hello")
    assert holds_image(tmp_path / "text.dcm"), "what is damaged is told, not left out"
    (tmp_path / "empty.dcm").touch()
    for name in ("text", "empty"):
        with pytest.raises(UserError, match=rf"{name}\.dcm: cannot be read as DICOM \(empty, or of another kind: download it again\); leave it out"):
            read_dicom(tmp_path / f"{name}.dcm", None)


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({"Modality": "RTDOSE"}, "RTDOSE"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "RTDOSE"),  # PS3.4 B.5: RT Dose Storage
        ({"Modality": "OT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "RTDOSE"),
        ({"Modality": "SEG"}, "SEG"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "SEG"),  # Segmentation Storage
    ],
)
def test_grids_of_doses_and_labels_are_no_images(tmp_path, tags, kind):
    path = write_dicom(tmp_path / "a.dcm", STORED, **CT, WindowCenter=40, WindowWidth=400, SeriesInstanceUID="1.2", **tags)
    assert not holds_image(path)
    assert read_layout(SourceFile("a.dcm", path, None, path.stat().st_size)) is None
    with pytest.raises(UserError, match=f"a\\.dcm: cannot be read as DICOM \\(it holds no image but {kind}\\); leave it out"):
        read_dicom(path, None)
