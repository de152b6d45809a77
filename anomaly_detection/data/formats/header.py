"""What the header of a DICOM file says of whose it is, how it was taken, and where its frames lie in the patient."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pydicom
from pydicom.multival import MultiValue

from anomaly_detection.data.formats.dicom import DICOM, QUIET, START, begins_as_dicom, other_content
from anomaly_detection.data.formats.greyscale import places, stated_window, value
from anomaly_detection.data.formats.sources import SourceFile

TAGS = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"]
_LAYOUT = [
    *TAGS,
    *("SOPInstanceUID", "InstanceNumber", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SOPClassUID", "Rows", "Columns"),
]

_WINDOWS = ["WindowCenter", "WindowWidth", "VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]


class Header(NamedTuple):
    """What the header of a file says of all its images; "" for what it does not say.

    Attributes:
        patient_id, study, series: PatientID, StudyInstanceUID, SeriesInstanceUID.
        modality: Modality, such as CT.
    """

    patient_id: str = ""
    study: str = ""
    series: str = ""
    modality: str = ""


class Place(NamedTuple):
    """Where a frame lies, in the coordinates of the patient: x to the left, y to the back, z to the head.

    Attributes:
        corner: the center of its first pixel, in mm.
        normal: of length 1, across its rows and columns.
    """

    corner: tuple[float, float, float]
    normal: tuple[float, float, float]


@dataclass(frozen=True)
class Layout:
    """What orders the images of a file among others.

    Attributes:
        header: its identity.
        instance: SOPInstanceUID, "" where there is none.
        number: InstanceNumber.
        places: of each frame; None where the file does not tell.
    """

    header: Header
    instance: str
    number: int | None
    places: tuple[Place | None, ...]


def read_header(path: Path) -> Header:
    """The header of a DICOM file; an empty one where it cannot be read, which whoever reads the pixels tells."""
    try:
        with QUIET:
            return _identity(_read(path, TAGS))
    except Exception:  # a damaged file makes pydicom raise all kinds of errors
        return Header()


def read_windows(path: Path) -> set[str]:
    """What the frames of a DICOM file are to be shown through, see `stated_window`; nothing where it cannot be read."""
    try:
        with QUIET:
            data = _read(path, _WINDOWS)
            frames = len(value(data, "PerFrameFunctionalGroupsSequence") or [None])
            return {window for number in range(frames) if (window := stated_window(data, number))}
    except Exception:
        return set()


def read_layout(file: SourceFile) -> Layout | None:
    """What orders the images of a DICOM file; None of other files, and where it cannot be read, which whoever reads the pixels tells."""
    try:
        with QUIET, file.open() as stream:
            start = stream.read(START)
            if not file.name.lower().endswith(DICOM) and not begins_as_dicom(start):
                return None
            stream.seek(0)
            data = _read(stream, _LAYOUT)
            if other_content(data):
                return None
            frames = range(int(value(data, "NumberOfFrames") or 1))
            if len(frames) > file.size:
                return None  # a damaged number, and a list of as many places might not fit into memory
            number = _numbers("InstanceNumber", [data])
            return Layout(_identity(data), _text(data, "SOPInstanceUID"), number and int(number[0]), tuple(_place(data, each) for each in frames))
    except Exception:
        return None


def _read(file: Path | IO[bytes], tags: list[str]) -> pydicom.Dataset:
    return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)


def _identity(data: pydicom.Dataset) -> Header:
    return Header(*(_text(data, tag) for tag in TAGS))


def _text(data: pydicom.Dataset, tag: str) -> str:
    """One line; a backslash, which DICOM takes to part several values, stands between these as it does in the file."""
    content = data.get(tag) or ""
    return " ".join("\\".join(map(str, content if isinstance(content, MultiValue) else [content])).split())


def _place(data: pydicom.Dataset, number: int) -> Place | None:
    corner = _numbers("ImagePositionPatient", places(data, number, "PlanePositionSequence"))
    turn = _numbers("ImageOrientationPatient", places(data, number, "PlaneOrientationSequence"))
    if corner is None or turn is None or (len(corner), len(turn)) != (3, 6):
        return None
    normal = np.cross(turn[:3], turn[3:])
    length = float(np.linalg.norm(normal))
    return Place(tuple(corner), tuple((normal / length).tolist())) if length > 0 and np.isfinite([*corner, length]).all() else None


def _numbers(keyword: str, where: Iterable[pydicom.Dataset]) -> list[float] | None:
    """The values of an element in the first place that has it; None where none has, or where they are no numbers."""
    try:
        content = next((content for place in where if (content := value(place, keyword)) is not None), None)
        return None if content is None else np.atleast_1d(np.asarray(content, float)).tolist()
    except ValueError:  # pydicom's, too
        return None
