"""Maps of DICOM series, loaded back with pydicom and highdicom."""

import logging

import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter

from anomaly_detection.data.formats.own import is_own_map
from anomaly_detection.data.formats.read import images_in
from anomaly_detection.data.formats.sources import list_source
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.evaluation.maps import dicom
from anomaly_detection.evaluation.maps.dicom import DicomMaps
from anomaly_detection.evaluation.maps.series import SeriesMaps
from anomaly_detection.evaluation.maps.source import source_header
from anomaly_detection.evaluation.overlay import backdrop, draw_overlay
from anomaly_detection.system.errors import UserError
from tests.evaluation.maps.sources import LESION, PATIENT, SERIES, SHAPE, SPACING, STUDY, affine, place, save_frames, save_series, stored, values

highdicom = pytest.importorskip("highdicom")

WINDOW = Window(0, 400)
WAYS = [Preprocessing(window=WINDOW, image_size=32), Preprocessing(window=WINDOW, size=56, aspect="pad", crop_size=50, image_size=40)]
SCALE = 200.0


def write(source, stem, preprocessing, scale=SCALE):
    """Maps by a detector whose map is the blurred brightness of the network's image."""
    maps = SeriesMaps("dicom", "series", stem, preprocessing, scale, "blur")
    for file in list_source(source):
        for number, pixels in enumerate(image.pixels for image in images_in(file, preprocessing.window)):
            anomaly_map = gaussian_filter(preprocessing.apply(pixels)[0].astype(np.float32), 0.7)
            maps.add(file, number, pixels.shape[:2], anomaly_map, draw_overlay(backdrop(pixels), anomaly_map, preprocessing, scale))
    return maps.close()


def cell(preprocessing):
    """The sides of a cell of the network's map, in mm."""
    across = preprocessing.crop_size or preprocessing.image_size
    side = max(SHAPE) / preprocessing.size * across if preprocessing.size else max(SHAPE)
    return side / preprocessing.image_size * SPACING[:2].max()


@pytest.fixture(params=["series", "frames"])
def source(request, tmp_path):
    if request.param == "series":
        save_series(tmp_path / "in")
        return tmp_path / "in"
    return save_frames(tmp_path / "frames.dcm")


@pytest.mark.parametrize("preprocessing", WAYS, ids=["stretched", "padded and cropped"])
def test_the_segmentation_marks_the_lesion_where_it_is_in_the_patient(source, tmp_path, preprocessing):
    paths = write(source, tmp_path / "out" / "ct", preprocessing)
    assert sorted(path.name for path in paths) == [*(f"ct_overlay_{number:04d}.dcm" for number in range(1, SHAPE[2] + 1)), "ct_seg.dcm"]
    segmentation = highdicom.seg.segread(tmp_path / "out" / "ct_seg.dcm")
    volume = segmentation.get_volume(combine_segments=True)
    marked = np.argwhere(volume.array > 0)
    middle = volume.map_indices_to_reference(marked.astype(float)).mean(axis=0)
    assert np.linalg.norm(middle - place(LESION)) < cell(preprocessing)
    count = np.count_nonzero(values() > 60)
    assert count / 3 < len(marked) < 3 * count
    assert {k: str(segmentation[k].value) for k in (*PATIENT, *STUDY)} == {k: str(v) for k, v in {**PATIENT, **STUDY}.items()}
    assert segmentation.FrameOfReferenceUID == SERIES["FrameOfReferenceUID"]
    (referenced,) = segmentation.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == SERIES["SeriesInstanceUID"]
    sources = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in ([source] if source.is_file() else source.iterdir())]
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} <= set(sources)
    (described,) = segmentation.SegmentSequence
    assert described.SegmentDescription.startswith("Pixels whose anomaly map by blur exceeds 200, the 99.5th percentile of the maps of normal")


@pytest.mark.parametrize("preprocessing", WAYS, ids=["stretched", "padded and cropped"])
def test_captures_lie_where_their_slices_are(source, tmp_path, preprocessing):
    paths = [path for path in write(source, tmp_path / "ct", preprocessing) if "overlay" in path.name]
    tinted, weights, sources = [], [], {}
    for file in [source] if source.is_file() else source.iterdir():
        sources[pydicom.dcmread(file).SOPInstanceUID] = pydicom.dcmread(file)
    for path in paths:
        capture = pydicom.dcmread(path)
        height, width = capture.Rows, round(capture.Rows * SHAPE[0] / SHAPE[1])
        shown = capture.pixel_array[:, :width].astype(int)
        # highdicom's own way from pixels to the patient; where the slice of the source is, is computed from the affine
        transform = highdicom.spatial.ImageToReferenceTransformer.for_image(capture)
        (item,) = capture.SourceImageSequence
        named = sources[item.ReferencedSOPInstanceUID]
        number = item.ReferencedFrameNumber - 1 if source.is_file() else slice_of(named)
        corners = transform(np.array([[0, 0], [width, height]], float))
        outer = np.array([[-0.5, -0.5, number], [SHAPE[0] - 0.5, SHAPE[1] - 0.5, number]])
        assert np.abs(corners - [place(each) for each in outer]).max() < 1e-3
        rows, columns = np.nonzero(np.ptp(shown, axis=2))
        tinted.append(transform(np.stack([columns + 0.5, rows + 0.5], axis=1).astype(float)))
        weights.append(len(rows))
        assert (capture.PatientID, capture.StudyInstanceUID) == ("P7", STUDY["StudyInstanceUID"])
        assert capture.FrameOfReferenceUID == SERIES["FrameOfReferenceUID"]
        assert capture.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES["SeriesInstanceUID"]
        assert (capture.SliceThickness, capture.Modality) == (SPACING[2], "OT")
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in paths}) == SHAPE[2]
    assert len({pydicom.dcmread(path).SeriesInstanceUID for path in paths}) == 1
    assert np.linalg.norm(np.concatenate(tinted).mean(axis=0) - place(LESION)) < cell(preprocessing)


def slice_of(data):
    column_row_slice = np.linalg.solve(affine(), [*map(float, data.ImagePositionPatient), 1])
    assert np.allclose(column_row_slice[:2], 0, atol=1e-4)
    return round(column_row_slice[2])


def test_what_exceeds_nothing_is_an_empty_segmentation(tmp_path, caplog):
    save_series(tmp_path / "in")
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "in", tmp_path / "ct", WAYS[0], scale=300)
    assert not caplog.records
    assert not highdicom.seg.segread(tmp_path / "ct_seg.dcm").pixel_array.any()


def test_what_may_be_empty_may_be_missing(tmp_path):
    missing = [*PATIENT, "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "SeriesNumber"]
    for path in save_series(tmp_path / "in", **dict.fromkeys(missing)):
        data = pydicom.dcmread(path)
        del data.SliceThickness
        data.save_as(path)
    assert len(write(tmp_path / "in", tmp_path / "ct", WAYS[0])) == SHAPE[2] + 1
    segmentation = highdicom.seg.segread(tmp_path / "ct_seg.dcm")
    (measures,) = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SliceThickness == pytest.approx(SPACING[2], abs=1e-3), "from slice to slice, in whatever order they were added"


def test_sex_is_told_where_it_is_one_that_the_standard_knows(tmp_path):
    save_series(tmp_path / "in", PatientSex="FEMALE")
    write(tmp_path / "in", tmp_path / "ct", WAYS[0])
    assert not pydicom.dcmread(tmp_path / "ct_seg.dcm").PatientSex


@pytest.mark.parametrize("tags", [{"PatientBirthDate": "1970"}, {"StudyDate": "20200000"}, {"StudyTime": "25:00"}], ids=str)
def test_dates_that_are_none_are_left_empty(tmp_path, tags):
    """Such as somebody has made that took names and dates away."""
    paths = save_series(tmp_path / "in")
    for path in paths:
        data = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for keyword, value in tags.items():
                setattr(data, keyword, value)
            data.save_as(path)
    assert len(write(tmp_path / "in", tmp_path / "ct", WAYS[0])) == SHAPE[2] + 1
    for name in ("ct_seg.dcm", "ct_overlay_0001.dcm"):
        data = pydicom.dcmread(tmp_path / name)
        assert not any(data[keyword].value for keyword in tags)
        assert data.PatientName == PATIENT["PatientName"]


def test_what_is_damaged_is_left_out(tmp_path):
    """Four characters that are said to be a number of eight bytes."""
    for path in save_series(tmp_path / "in", PatientWeight="70.5"):
        path.write_bytes(path.read_bytes().replace(b"\x10\x00\x30\x10DS", b"\x10\x00\x30\x10FD"))
    assert len(write(tmp_path / "in", tmp_path / "ct", WAYS[0])) == SHAPE[2] + 1
    assert not pydicom.dcmread(tmp_path / "ct_seg.dcm").get("PatientWeight")


NAMES = [(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("GB18030", "Wang^XiaoDong=王^小东"), ("ISO_IR 144", "Люкceмбypг"), ("", "A^B")]


@pytest.mark.parametrize(("characters", "name"), NAMES)
def test_names_in_any_characters(tmp_path, characters, name):
    save_series(tmp_path / "in", SpecificCharacterSet=characters, PatientName=name)
    assert len(write(tmp_path / "in", tmp_path / "ct", WAYS[0])) == SHAPE[2] + 1
    assert {str(pydicom.dcmread(tmp_path / each).PatientName) for each in ("ct_seg.dcm", "ct_overlay_0001.dcm", "ct_overlay_0009.dcm")} == {name}


def test_slices_that_say_they_are_one_frame_are_slices(tmp_path):
    save_series(tmp_path / "in", NumberOfFrames=1)
    assert [path.name for path in write(tmp_path / "in", tmp_path / "ct", WAYS[0])][-1] == "ct_seg.dcm"
    assert len(highdicom.seg.segread(tmp_path / "ct_seg.dcm").ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[2]
    assert "ReferencedFrameNumber" not in pydicom.dcmread(tmp_path / "ct_overlay_0001.dcm").SourceImageSequence[0]


def test_slices_side_by_side_are_one_stack_though_their_directions_differ_in_the_last_digits(tmp_path):
    """About 0.2955, where rounding to three digits would part them."""
    for number, path in enumerate(sorted(save_series(tmp_path / "in"))):
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = [1, 0, 0, 0, "0.955", "-0.2955002" if number % 2 else "-0.2954998"]
        data.save_as(path)
    paths = write(tmp_path / "in", tmp_path / "ct", WAYS[0])
    assert [path.name for path in paths if "seg" in path.name] == ["ct_seg.dcm"]
    assert len(paths) == SHAPE[2] + 1


def test_numbers_stay_within_what_dicom_allows(tmp_path):
    """Directions of more than 16 characters are common in files that were made by programs; 2147483647 is the largest number of a series."""
    with pydicom.config.disable_value_validation():
        directions = [0.9553364891256060, 0.0, 0.29552020666133955, 0.0, 1.0, 0.0]
        for path in save_series(tmp_path / "in", SeriesNumber=2**31 - 1):
            data = pydicom.dcmread(path)
            data.ImageOrientationPatient = [pydicom.valuerep.DSfloat(str(each), validation_mode=pydicom.config.IGNORE) for each in directions]
            data.save_as(path)
    write(tmp_path / "in", tmp_path / "ct", WAYS[0])
    for name in ("ct_seg.dcm", "ct_overlay_0001.dcm"):
        data = pydicom.dcmread(tmp_path / name)
        assert 0 <= data.SeriesNumber < 2**31
    assert [len(str(each)) <= 16 for each in data.ImageOrientationPatient] == [True] * 6
    assert list(data.ImageOrientationPatient) == pytest.approx(directions, abs=1e-9)


SIDES = [({}, ""), ({"BodyPartExamined": "ABDOMEN", "Laterality": ""}, None), ({"Laterality": "L"}, "L")]


@pytest.mark.parametrize(("tags", "expected"), SIDES, ids=str)
def test_a_side_is_told_or_left_open_where_there_may_be_one(tmp_path, tags, expected):
    save_series(tmp_path / "in", **tags)
    write(tmp_path / "in", tmp_path / "ct", WAYS[0])
    capture = pydicom.dcmread(tmp_path / "ct_overlay_0001.dcm")
    assert ("Laterality" in capture) == (expected is not None)
    assert (capture.get("Laterality") or "") == (expected or "")
    assert capture.get("BodyPartExamined") == tags.get("BodyPartExamined")


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_source_that_lacks_what_must_be_there_is_told_in_a_line(tmp_path, missing, caplog):
    save_series(tmp_path / "in", **{missing: None})
    with caplog.at_level(logging.WARNING):
        assert write(tmp_path / "in", tmp_path / "out" / "ct", WAYS[0]) == []
    told = "warning: series: no maps in DICOM, since the source is not complete (it has no " + missing + "); its overlays are PNG files"
    assert [record.message for record in caplog.records] == [told]
    assert not list(tmp_path.glob("out/*"))


def test_radiographs_have_no_place_in_the_patient(tmp_path):
    """Neither a frame of reference nor a plane: what is marked is told in pixels."""
    data = pydicom.dcmread(save_series(tmp_path / "in")[5])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "SliceThickness"):
        delattr(data, keyword)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.Modality = "CR"
    (tmp_path / "cr").mkdir()
    data.save_as(tmp_path / "cr" / "x.dcm")
    assert len(write(tmp_path / "cr", tmp_path / "x", WAYS[0])) == 2
    marked = highdicom.seg.segread(tmp_path / "x_seg.dcm").pixel_array
    assert np.argwhere(marked).mean(axis=0) == pytest.approx([LESION[1], LESION[0]], abs=1.5)
    capture = pydicom.dcmread(tmp_path / "x_overlay_0001.dcm")
    assert "ImagePositionPatient" not in capture
    assert capture.PixelSpacing == pytest.approx(np.array([SPACING[1], SPACING[0]]) * SHAPE[1] / capture.Rows)


def test_images_that_are_no_single_stack_have_a_segmentation_each(tmp_path):
    """Two phases of a series show the same places, and a localiser lies across."""
    save_series(tmp_path / "in")
    paths = save_series(tmp_path / "again")
    for path in paths:
        path.rename(tmp_path / "in" / f"again_{path.name}")
    across = pydicom.dcmread(tmp_path / "in" / f"again_{paths[0].name}")
    across.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    across.SOPInstanceUID = across.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    across.save_as(tmp_path / "in" / "across.dcm")
    written = [path.name for path in write(tmp_path / "in", tmp_path / "ct", WAYS[0]) if "seg" in path.name]
    assert written == ["ct_seg_0001.dcm", "ct_seg_0002.dcm", "ct_seg_0003.dcm"]
    segmentations = [highdicom.seg.segread(tmp_path / name) for name in written]
    assert len({each.SeriesInstanceUID for each in segmentations}) == 1
    assert sorted(len(each.ReferencedSeriesSequence[0].ReferencedInstanceSequence) for each in segmentations) == [1, SHAPE[2], SHAPE[2]]


def test_phases_in_one_file_have_a_segmentation_each_that_refers_to_their_own_frames(tmp_path):
    """As of diffusion and perfusion; nothing is marked in the second one."""
    data = pydicom.dcmread(save_frames(tmp_path / "frames.dcm"))
    dark = np.minimum(data.pixel_array, 1024 + 40)
    data.PerFrameFunctionalGroupsSequence = [*data.PerFrameFunctionalGroupsSequence, *data.PerFrameFunctionalGroupsSequence]
    data.set_pixel_data(np.concatenate([data.pixel_array, dark]), "MONOCHROME2", 16)
    data.NumberOfFrames = 2 * SHAPE[2]
    data.save_as(tmp_path / "frames.dcm")
    paths = write(tmp_path / "frames.dcm", tmp_path / "ct", WAYS[0])
    assert [path.name for path in paths if "seg" in path.name] == ["ct_seg_0001.dcm", "ct_seg_0002.dcm"]
    first, second = (highdicom.seg.segread(tmp_path / f"ct_seg_000{number}.dcm") for number in (1, 2))
    volume = first.get_volume(combine_segments=True)
    marked = np.argwhere(volume.array > 0)
    middle = volume.map_indices_to_reference(np.round(marked.mean(axis=0))[None].astype(int))[0]
    assert np.linalg.norm(middle - place(LESION)) < cell(WAYS[0])
    assert LESION[2] + 1 in referred(first) <= set(range(1, SHAPE[2] + 1))
    assert referred(second) == set(range(SHAPE[2] + 1, 2 * SHAPE[2] + 1))
    assert not second.pixel_array.any()


def referred(segmentation):
    """The frames of the source that those of a segmentation refer to, one each."""
    items = [group.DerivationImageSequence[0].SourceImageSequence for group in segmentation.PerFrameFunctionalGroupsSequence]
    assert {len(each) for each in items} == {1}
    return {each[0].ReferencedFrameNumber for each in items}


@pytest.mark.parametrize("tags", [{"SOPInstanceUID": None}, {"ImageOrientationPatient": [1, 0, 0]}, {"ImagePositionPatient": ["1", "2"]}], ids=str)
def test_without_pictures_too_a_faulty_source_is_told_in_a_line(tmp_path, caplog, tags):
    headers = [source_header(path) for path in save_series(tmp_path / "in")]
    for header in headers:
        for keyword, value in tags.items():
            header.pop(keyword, None)
            if value is not None:
                setattr(header, keyword, value)
    maps = DicomMaps(tmp_path / "ct", "series", 1.0, "blur")
    for header in headers:
        maps.add(header, 0, np.full(SHAPE[1::-1], 2.0), None)
    with caplog.at_level(logging.WARNING):
        assert maps.close() == []
    assert [record.message[:45] for record in caplog.records] == ["warning: series: no maps in DICOM, since the "]
    assert not list(tmp_path.glob("ct*"))


def test_a_capture_says_nothing_of_the_one_before(tmp_path):
    """The second image of a series has no place in the patient, and is of another size."""
    first, second = save_series(tmp_path / "in")[:2]
    lost = source_header(second)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "FrameOfReferenceUID"):
        lost.pop(keyword, None)
    lost.Rows, lost.Columns = 301, 255
    lost.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    nothing, way = np.zeros((8, 8), np.float32), Preprocessing(image_size=8)
    maps = DicomMaps(tmp_path / "ct", "series", 1.0, "blur")
    for header, shape in ((source_header(first), SHAPE[1::-1]), (lost, (301, 255))):
        maps.add(header, 0, way.back(nothing, shape), draw_overlay(backdrop(np.full(shape, 90, np.uint8)), nothing, way, 1.0))
    maps.close()
    one, two = (pydicom.dcmread(tmp_path / f"ct_overlay_000{number}.dcm") for number in (1, 2))
    assert one.ImagePositionPatient
    assert not {"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "FrameOfReferenceUID"} & set(two.dir())
    assert (two.Rows, two.pixel_array.shape[0], one.Rows) == (301, 301, 256)
    assert two.SourceImageSequence[0].ReferencedSOPInstanceUID == lost.SOPInstanceUID != one.SourceImageSequence[0].ReferencedSOPInstanceUID
    assert (one.InstanceNumber, two.InstanceNumber) == (1, 2)
    for each in (one, two):
        assert each.file_meta.MediaStorageSOPInstanceUID == each.SOPInstanceUID
        assert np.abs(each.pixel_array[:250, :190].astype(int) - 90).max() <= 1


def test_a_missing_frame_of_reference_is_told_in_a_line(tmp_path, caplog):
    save_series(tmp_path / "in", FrameOfReferenceUID=None)
    with caplog.at_level(logging.WARNING):
        assert write(tmp_path / "in", tmp_path / "out" / "ct", WAYS[0]) == []
    (record,) = caplog.records
    assert "no Frame Of Reference UID" in record.message
    assert not list(tmp_path.glob("out/*"))


def test_frames_without_a_place_are_told_in_a_line(tmp_path, caplog):
    data = pydicom.dcmread(save_frames(tmp_path / "a.dcm"))
    del data.PerFrameFunctionalGroupsSequence
    data.save_as(tmp_path / "a.dcm")
    with caplog.at_level(logging.WARNING):
        assert write(tmp_path / "a.dcm", tmp_path / "a", WAYS[0]) == []
    (record,) = caplog.records
    assert record.message.startswith("warning: series: no maps in DICOM, since the source is not complete (")
    assert record.message.count("\n") == 0
    assert not list(tmp_path.glob("a_*"))


def test_nothing_is_left_of_maps_that_were_not_finished(tmp_path):
    (path, *_) = save_series(tmp_path / "in")
    maps = DicomMaps(tmp_path / "out" / "ct", "series", 1.0, "blur")
    nothing, way = np.zeros((8, 8), np.float32), Preprocessing(image_size=8)
    overlay = draw_overlay(backdrop(stored()[0].astype(np.uint8)), nothing, way, 1.0)
    maps.add(source_header(path), 0, way.back(nothing, SHAPE[1::-1]), overlay)
    assert len(list((tmp_path / "out").iterdir())) == 1
    maps.remove()
    assert not list((tmp_path / "out").iterdir())


def test_maps_are_known_again(tmp_path):
    paths = save_series(tmp_path / "in")
    assert all(is_own_map(path) for path in write(tmp_path / "in", tmp_path / "ct", WAYS[0]))
    assert not is_own_map(paths[0])


def test_without_highdicom_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed: pip install "anomaly-detection\[dicom\]"'):
        SeriesMaps("dicom", "series", tmp_path / "ct", WAYS[0], 1.0, "blur")
