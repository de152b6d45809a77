"""What a DICOM source says of whose it is, and of where its frames lie in the patient."""

from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.charset import decode_element
from pydicom.valuerep import DA, DS, TM

from anomaly_detection.data.formats.archives import one_line
from anomaly_detection.data.formats.dicom import QUIET
from anomaly_detection.system.errors import UserError

PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight")
STUDY = ("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber", "ReferringPhysicianName")
SERIES = ("SeriesInstanceUID", "SeriesNumber", "Modality", "BodyPartExamined", "Laterality", "FrameOfReferenceUID", "PositionReferenceIndicator")
IMAGE = ("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "Rows", "Columns", "NumberOfFrames", "PatientOrientation")
PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionOrganizationSequence", "DimensionIndexSequence")
DEFAULT, UNICODE = "ISO_IR 6", "ISO_IR 192"
DATES = {"DA": DA, "TM": TM}
EMPTY = (*PATIENT[:4], *STUDY[1:4], *STUDY[5:])  # must be there, but may say nothing (type 2)


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
    """Tell text in Unicode, and leave out what is damaged or, where it need not be there, not as the standard has it."""
    characters = header.get("SpecificCharacterSet") or DEFAULT
    for tag in list(header.keys()):
        try:
            decode_element(header[tag], characters)
        except Exception:  # see `read_dicom`
            del header[tag]
    header.SpecificCharacterSet = UNICODE  # highdicom knows not all character sets, and none that begin with the default one
    for keyword in EMPTY:
        if not _is_sound(header, keyword):
            setattr(header, keyword, None)
    if header.get("NumberOfFrames") in (None, 1) and not any(header.get(keyword) for keyword in FRAMES):
        header.pop("NumberOfFrames", None)  # some slices of a series say that they are one frame


def _is_sound(header: Dataset, keyword: str) -> bool:
    """Whether an element that may be empty says what the standard knows; dates that somebody made unknown are often none."""
    if keyword not in header:
        return False
    element = header[keyword]
    try:
        if element.VR in DATES:
            DATES[element.VR](element.value or "")
        return keyword != "PatientSex" or element.value in ("M", "F", "O")
    except (TypeError, ValueError):
        return False


def decimal(number: float) -> str:
    """Of at most 16 characters, as DICOM has decimal strings."""
    return str(DS(number, auto_format=True))


def of_frame(header: Dataset, frame: int, group: str, keyword: str) -> Any:
    """An element of a frame, of its file's functional groups or of the file itself; None where there is none."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for place in (*per_frame[frame : frame + 1], *shared[:1]):
        for item in (place.get(group) or [])[:1]:
            if item.get(keyword) is not None:
                return item.get(keyword)
    return header.get(keyword)
