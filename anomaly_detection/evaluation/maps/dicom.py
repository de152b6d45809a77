"""The anomaly maps of a DICOM series as DICOM: a segmentation of what exceeds the usual, and a secondary capture of each overlay."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.valuerep import DA, DS, TM

from anomaly_detection.data.formats.archives import one_line
from anomaly_detection.data.formats.dicom import QUIET
from anomaly_detection.evaluation.maps.marks import MARK
from anomaly_detection.evaluation.outputs import check_free
from anomaly_detection.evaluation.overlay import Overlay
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file
from anomaly_detection.system.version import __version__

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

logger = logging.getLogger(__name__)

SEGMENTATION = "_seg.dcm"
SEGMENTATIONS = "_seg_{:04d}.dcm"  # where one cannot hold all
CAPTURE = "_overlay_{:04d}.dcm"
EXTRA = 'pip install "anomaly-detection[dicom]"'

PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight")
STUDY = ("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber", "ReferringPhysicianName")
SERIES = ("SeriesInstanceUID", "SeriesNumber", "Modality", "BodyPartExamined", "Laterality", "FrameOfReferenceUID", "PositionReferenceIndicator")
IMAGE = ("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "Rows", "Columns", "NumberOfFrames", "PatientOrientation")
PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionOrganizationSequence", "DimensionIndexSequence")
LARGEST = 2**31 - 1  # of the numbers that DICOM has as text
UNICODE = "ISO_IR 192"
DATES = {"DA": DA, "TM": TM}
TURNED = 1e-3  # scanners say the directions of slices that lie side by side with so small differences
EMPTY = (*PATIENT[:4], *STUDY[1:4], *STUDY[5:])  # must be there, but may say nothing (type 2)


class _Marked(NamedTuple):
    """Where an image exceeds the usual: a bit for each pixel."""

    header: Dataset
    frame: int
    bits: np.ndarray
    shape: tuple[int, int]

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        return np.unpackbits(self.bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(bool)


def require_highdicom() -> None:
    """Make sure that DICOM can be written.

    Raises:
        UserError: highdicom is not installed.
    """
    if find_spec("highdicom") is None:
        raise UserError(f"maps in DICOM are written by highdicom, which is not installed: {EXTRA}")


def source_header(path: Path) -> Dataset:
    """What `DicomMaps` takes from the header of a source: whose it is, and where its pixels lie in the patient; some 10 kB.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with QUIET:
            header = pydicom.dcmread(path, force=True, specific_tags=[*PATIENT, *STUDY, *SERIES, *IMAGE, *PLANE, *FRAMES], stop_before_pixels=True)
            _mend(header)
    except Exception as error:  # see `read_dicom`
        raise UserError(f"{path}: cannot be read as DICOM ({one_line(error)})") from None
    return header


def _mend(header: Dataset) -> None:
    """Leave out what is not as the standard has it, where it need not be there."""
    for keyword in EMPTY:
        if not _is_sound(header, keyword):
            setattr(header, keyword, None)
    header.decode()
    header.SpecificCharacterSet = UNICODE  # highdicom knows not all character sets, and none that begin with the default one
    if header.get("NumberOfFrames") in (None, 1) and not any(header.get(keyword) for keyword in FRAMES):
        header.pop("NumberOfFrames", None)  # some slices of a series say that they are one frame


def _is_sound(header: Dataset, keyword: str) -> bool:
    """Whether an element that may be empty says what the standard knows; dates that somebody made unknown are often none."""
    try:
        element = header[keyword]
        if element.VR in DATES:
            DATES[element.VR](element.value or "")
        return keyword != "PatientSex" or element.value in ("M", "F", "O")
    except Exception:  # it is not there, or damaged, see `read_dicom`
        return False


class DicomMaps:
    """Files that refer to a source series, in its study and its frame of reference; they are left only if all could be written.

    STEM_seg.dcm marks the pixels whose map exceeds what is usual in normal images, STEM_overlay_0001.dcm and so on show the overlays, in the order
    in which images are added. Segmentations are written when the maps are closed; until then a bit for each pixel is in memory. There are several,
    STEM_seg_0001.dcm and so on, of a series whose images are no single stack of slices: localisers, phases, radiographs.

    Where the source lacks what the files need, a line says so, and none is written.

    Args:
        stem: the path of the files up to their endings.
        name: what messages call the series.
        scale: what the detector's maps seldom exceed in normal images.
        model: the detector's name.

    Attributes:
        paths: the files that are written.

    Raises:
        UserError: highdicom is not installed.
    """

    def __init__(self, stem: Path, name: str, scale: float, model: str):
        require_highdicom()
        from highdicom import UID

        self._stem, self._name, self._scale, self._model = stem, name, scale, model
        self._segmentations, self._captures = UID(), UID()
        self._marked: list[_Marked] = []
        self._captured: tuple[Hashable, Dataset] | None = None
        self._failed = False
        self.paths: list[Path] = []

    def add(self, header: Dataset, frame: int, anomaly_map: np.ndarray, overlay: Overlay | None) -> None:
        """Take an image.

        Args:
            header: of its file, by `source_header`.
            frame: its number there, from 0.
            anomaly_map: (H, W) on the pixels of the image as it is stored.
            overlay: the picture of it; None: none is captured.
        """
        if self._failed:
            return
        marked = anomaly_map > self._scale
        self._marked.append(_Marked(header, frame, np.packbits(marked), marked.shape))
        if overlay is not None:
            number = len(self._marked)
            self._write(CAPTURE.format(number), lambda: self._capture(header, frame, overlay, number))

    def close(self) -> list[Path]:
        """Write the segmentations; returns all files that were written, none where the source does not allow it."""
        stacks: list[list[_Marked]] = []
        with self._told():
            stacks = _stacks(self._marked)
        for number, stack in enumerate(stacks, 1):
            ending = SEGMENTATION if len(stacks) == 1 else SEGMENTATIONS.format(number)
            self._write(ending, lambda: self._segmentation(stack, number))
        self._marked = []
        return self.paths

    def __enter__(self) -> "DicomMaps":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.remove()

    def _write(self, ending: str, build: Callable[[], Dataset]) -> None:
        if self._failed:
            return
        path = self._stem.with_name(self._stem.name + ending)
        check_free(path)
        with self._told():
            with whole_file(path) as partial:
                build().save_as(partial)
            self.paths.append(path)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell in a line what a source lacks, and take away what was written; a full disk is no fault of it."""
        try:
            with QUIET:
                yield
        except OSError:
            self.remove()
            raise
        except Exception as error:  # highdicom and pydicom raise AttributeError, KeyError, TypeError, ValueError and more
            reason = _lacks(error)
            logger.warning("warning: %s: no maps in DICOM, since the source is not complete (%s); its overlays are PNG files", self._name, reason)
            self._failed, self._marked = True, []
            self.remove()

    def remove(self) -> None:
        """Take away what has been written so far."""
        while self.paths:
            self.paths.pop().unlink(missing_ok=True)

    def _maker(self, header: Dataset, description: str, offset: int) -> dict[str, Any]:
        """What all files say of where they come from."""
        return {
            "series_number": (int(header.get("SeriesNumber") or 0) + offset) % LARGEST,
            "series_description": description[:64],
            "manufacturer": MARK,
            "manufacturer_model_name": self._model,
            "software_versions": __version__,
            "device_serial_number": "none",
        }

    def _segmentation(self, stack: Sequence[_Marked], number: int) -> "Segmentation":
        from highdicom import UID, AlgorithmIdentificationSequence
        from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
        from pydicom.sr.codedict import codes

        headers, pixels = _sources(stack)
        described = SegmentDescription(
            segment_number=1,
            segment_label="anomaly map above usual",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=AlgorithmIdentificationSequence(self._model, codes.DCM.ArtificialIntelligence, __version__),
        )
        described.SegmentDescription = (
            f"Pixels whose anomaly map by {self._model} exceeds {self._scale:.6g}, the 99.5th percentile of the maps of normal validation images. "
            "For research only; it outlines no lesion."
        )
        segmentation = Segmentation(
            source_images=headers,
            pixel_array=pixels,
            segmentation_type=SegmentationTypeValues.BINARY,
            omit_empty_frames=bool(pixels.any()),
            segment_descriptions=[described],
            series_instance_uid=self._segmentations,
            sop_instance_uid=UID(),
            instance_number=number,
            content_label="ANOMALY",
            **self._maker(headers[0], f"anomaly map above usual, {self._model}", 1000),
        )
        if "PixelMeasuresSequence" not in segmentation.SharedFunctionalGroupsSequence[0]:
            segmentation.PatientOrientation = headers[0].get("PatientOrientation")  # which there must be where there is no place in the patient
        return segmentation

    def _capture(self, header: Dataset, frame: int, overlay: Overlay, number: int) -> Dataset:
        from highdicom import UID

        picture = np.asarray(overlay.picture.convert("RGB"))
        key = header.StudyInstanceUID, header.PatientID, picture.shape
        if self._captured is None or self._captured[0] != key:
            self._captured = key, self._first_capture(header, picture)
        capture = self._captured[1]  # used again for every image, since most of its making is the same
        capture.SOPInstanceUID = capture.file_meta.MediaStorageSOPInstanceUID = UID()
        capture.InstanceNumber, capture.PixelData = number, picture.tobytes()
        capture.PatientOrientation = header.get("PatientOrientation")
        _refer(capture, header, frame)
        _place(capture, header, frame, overlay.shape)
        return capture

    def _first_capture(self, header: Dataset, picture: np.ndarray) -> Dataset:
        from highdicom import UID
        from highdicom.sc import SCImage
        from pydicom.uid import ExplicitVRLittleEndian

        return SCImage.from_ref_dataset(
            header,
            pixel_array=picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),  # asked for by highdicom; what the source says takes its place
            series_instance_uid=self._captures,
            sop_instance_uid=UID(),
            instance_number=1,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **self._maker(header, f"anomaly overlays, {self._model}", 1001),
        )


def _stacks(marked: Sequence[_Marked]) -> list[list[_Marked]]:
    """The images that one segmentation can hold: slices side by side in one frame of reference, the frames of one file, or one image alone."""
    stacks: dict[Hashable, list[_Marked]] = {}
    directions: list[np.ndarray] = []
    again: Counter[Hashable] = Counter()
    for each in marked:
        header = each.header
        key: Hashable = header.SOPInstanceUID
        if "NumberOfFrames" not in header and all(header.get(keyword) for keyword in ("FrameOfReferenceUID", *PLANE[:3])):
            key = header.FrameOfReferenceUID, _number_of(header.ImageOrientationPatient, directions), tuple(header.PixelSpacing), each.shape
            position = key, tuple(header.ImagePositionPatient)
            again[position] += 1
            key = key, again[position]  # a phase that shows the same place anew
        stacks.setdefault(key, []).append(each)
    return list(stacks.values())


def _number_of(orientation: Sequence[float], directions: list[np.ndarray]) -> int:
    """The place of the first of some directions that is nearly an orientation, which is added where none is."""
    wanted = np.array(orientation, float)
    for number, each in enumerate(directions):
        if np.abs(each - wanted).max() <= TURNED:
            return number
    directions.append(wanted)
    return len(directions) - 1


def _sources(stack: Sequence[_Marked]) -> tuple[list[Dataset], np.ndarray]:
    """The sources of a segmentation, and for each of them, or for each frame of the only one, what is marked: (n, H, W) bool."""
    first = stack[0].header
    if "NumberOfFrames" in first:
        pixels = np.zeros((int(first.NumberOfFrames), *stack[0].shape), bool)
        for each in stack:
            pixels[each.frame] = each.mask
        return [first], pixels
    headers = [each.header for each in stack]
    distance = _distance(headers)
    for header in headers:
        if len(stack) > 1:
            header.ImageOrientationPatient = headers[0].ImageOrientationPatient  # highdicom asks for the same digits
        if len(stack) == 1 and "ImagePositionPatient" not in header:
            header.pop("PixelSpacing", None)  # with it highdicom would read a thickness, too
        elif header.get("SliceThickness") is None:
            header.SliceThickness = distance
    pixels = np.zeros((len(stack), *stack[0].shape), bool)
    for place, each in enumerate(stack):
        pixels[place] = each.mask
    return headers, pixels


def _distance(headers: Sequence[Dataset]) -> str | None:
    """From slice to slice in mm, the median; None of a single one."""
    if len(headers) == 1:
        return None
    normal = np.cross(*np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3))
    along = np.sort([np.array(header.ImagePositionPatient, float) @ normal for header in headers])
    return _decimal(float(np.median(np.diff(along))))


def _lacks(error: Exception) -> str:
    """What highdicom says of a source, in words for its user."""
    text = one_line(error)
    missing = text.rpartition("has no attribute ")[2] if isinstance(error, AttributeError) else ""
    return f"it has no {missing.strip(chr(39))}" if missing else text


def _refer(capture: Dataset, header: Dataset, frame: int) -> None:
    """Name the image that was captured."""
    from pydicom.sr.codedict import codes

    source, instance, series = Dataset(), Dataset(), Dataset()
    for item in (source, instance):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        if "NumberOfFrames" in header:
            item.ReferencedFrameNumber = frame + 1
    purpose, code = Dataset(), codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = code.value, code.scheme_designator, code.meaning
    source.PurposeOfReferenceCodeSequence = [purpose]
    capture.SourceImageSequence = [source]
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = header.SeriesInstanceUID, [instance]
    capture.ReferencedSeriesSequence = [series]


def _place(capture: Dataset, header: Dataset, frame: int, shape: tuple[int, int]) -> None:
    """Say where the picture lies in the patient: its image, (h, w) of it, covers the whole of the source's."""
    for keyword in PLANE:
        capture.pop(keyword, None)  # of the image before
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator", "BodyPartExamined"):
        capture.pop(keyword, None)
        if keyword in header:
            setattr(capture, keyword, header.get(keyword))
    capture.pop("Laterality", None)
    if header.get("Laterality") or not header.get("BodyPartExamined"):
        capture.Laterality = header.get("Laterality")  # empty where it is not known whether what was examined has sides
    spacing = _of_frame(header, frame, "PixelMeasuresSequence", "PixelSpacing")
    if spacing is None:
        return
    coarser = np.array([header.Rows / shape[0], header.Columns / shape[1]])
    finer = np.array(spacing, float) * coarser
    capture.PixelSpacing = [_decimal(each) for each in finer]
    corner = _of_frame(header, frame, "PlanePositionSequence", "ImagePositionPatient")
    directions = _of_frame(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    if corner is None or directions is None:
        return
    along_row, along_column = np.array(directions, float).reshape(2, 3)
    shift = (finer - np.array(spacing, float)) / 2  # from the middle of the source's first pixel to that of the picture's
    capture.ImagePositionPatient = [_decimal(each) for each in np.array(corner, float) + along_row * shift[1] + along_column * shift[0]]
    capture.ImageOrientationPatient = [_decimal(float(each)) for each in directions]  # some sources have longer numbers than may be
    if (thickness := _of_frame(header, frame, "PixelMeasuresSequence", "SliceThickness")) is not None:
        capture.SliceThickness = thickness


def _decimal(number: float) -> str:
    """Of at most 16 characters, as DICOM has decimal strings."""
    return str(DS(number, auto_format=True))


def _of_frame(header: Dataset, frame: int, group: str, keyword: str) -> Any:
    """An element of a frame, of its file's functional groups or of the file itself; None where there is none."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for place in (*per_frame[frame : frame + 1], *shared[:1]):
        for item in (place.get(group) or [])[:1]:
            if item.get(keyword) is not None:
                return item.get(keyword)
    return header.get(keyword)
