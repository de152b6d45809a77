"""The anomaly maps of a DICOM series as DICOM: a segmentation of what exceeds the usual, and a secondary capture of each overlay."""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import Dataset

from anomaly_detection.data.formats.archives import one_line
from anomaly_detection.data.formats.dicom import QUIET
from anomaly_detection.data.formats.own import MARK
from anomaly_detection.evaluation.maps.source import PLANE, decimal, of_frame
from anomaly_detection.evaluation.maps.stacks import Marked, sources_of, stacks_of
from anomaly_detection.evaluation.outputs import check_free
from anomaly_detection.evaluation.overlay import Overlay
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file
from anomaly_detection.system.version import __version__

if TYPE_CHECKING:
    from highdicom import PlanePositionSequence
    from highdicom.seg import Segmentation

logger = logging.getLogger(__name__)

SEGMENTATION = "_seg.dcm"
SEGMENTATIONS = "_seg_{:04d}.dcm"  # where one cannot hold all
CAPTURE = "_overlay_{:04d}.dcm"
EXTRA = 'pip install "anomaly-detection[dicom]"'
LARGEST = 2**31 - 1  # of the numbers that DICOM has as text


def require_highdicom() -> None:
    """Make sure that DICOM can be written.

    Raises:
        UserError: highdicom is not installed.
    """
    if find_spec("highdicom") is None:
        raise UserError(f"maps in DICOM are written by highdicom, which is not installed: {EXTRA}")


class DicomMaps:
    """Files that refer to a source series, in its study and its frame of reference; they are left only if all could be written.

    STEM_seg.dcm marks the pixels whose map exceeds what is usual in normal images, STEM_overlay_0001.dcm and so on show the overlays, in the order
    in which images are added. Segmentations are written when the maps are closed; until then a bit for each pixel is in memory. There are several,
    STEM_seg_0001.dcm and so on, of a series whose images are no single stack of slices: localisers, phases, radiographs; see `stacks_of`.

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
        self._marked: list[Marked] = []
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
        self._marked.append(Marked(header, frame, np.packbits(marked), marked.shape))
        if overlay is not None:
            number = len(self._marked)
            self._write(CAPTURE.format(number), lambda: self._capture(header, frame, overlay, number))

    def close(self) -> list[Path]:
        """Write the segmentations; returns all files that were written, none where the source does not allow it."""
        stacks: list[list[Marked]] = []
        with self._told():
            stacks = stacks_of(self._marked)
        for number, stack in enumerate(stacks, 1):
            ending = SEGMENTATION if len(stacks) == 1 else SEGMENTATIONS.format(number)
            self._write(ending, lambda: self._segmentation(stack, number))
        self._marked = []
        return self.paths

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

    def _segmentation(self, stack: Sequence[Marked], number: int) -> "Segmentation":
        from highdicom import UID, AlgorithmIdentificationSequence
        from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
        from pydicom.sr.codedict import codes

        headers, pixels, frames = sources_of(stack)
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
            plane_positions=None if frames is None else [_plane_position(headers[0], frame) for frame in frames],
            series_instance_uid=self._segmentations,
            sop_instance_uid=UID(),
            instance_number=number,
            content_label="ANOMALY",
            **self._maker(headers[0], f"anomaly map above usual, {self._model}", 1000),
        )
        if "PixelMeasuresSequence" not in segmentation.SharedFunctionalGroupsSequence[0]:
            segmentation.PatientOrientation = headers[0].get("PatientOrientation")  # which there must be where there is no place in the patient
        if frames is not None:
            _refer_to_frames(segmentation, frames)
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


def _plane_position(header: Dataset, frame: int) -> "PlanePositionSequence":
    from highdicom import CoordinateSystemNames, PlanePositionSequence

    corner = of_frame(header, frame, "PlanePositionSequence", "ImagePositionPatient")
    return PlanePositionSequence(CoordinateSystemNames.PATIENT, [float(each) for each in corner])


def _refer_to_frames(segmentation: "Segmentation", frames: Sequence[int]) -> None:
    """Leave out the references to other frames of the source, which highdicom makes to all that lie in the same place."""
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", []):
            derivation.SourceImageSequence = [item for item in derivation.SourceImageSequence if item.ReferencedFrameNumber - 1 in frames]


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
    spacing = of_frame(header, frame, "PixelMeasuresSequence", "PixelSpacing")
    if spacing is None:
        return
    coarser = np.array([header.Rows / shape[0], header.Columns / shape[1]])
    finer = np.array(spacing, float) * coarser
    capture.PixelSpacing = [decimal(each) for each in finer]
    corner = of_frame(header, frame, "PlanePositionSequence", "ImagePositionPatient")
    directions = of_frame(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    if corner is None or directions is None:
        return
    along_row, along_column = np.array(directions, float).reshape(2, 3)
    shift = (finer - np.array(spacing, float)) / 2  # from the middle of the source's first pixel to that of the picture's
    capture.ImagePositionPatient = [decimal(each) for each in np.array(corner, float) + along_row * shift[1] + along_column * shift[0]]
    capture.ImageOrientationPatient = [decimal(float(each)) for each in directions]  # some sources have longer numbers than may be
    if (thickness := of_frame(header, frame, "PixelMeasuresSequence", "SliceThickness")) is not None:
        capture.SliceThickness = thickness
