"""What the header of a DICOM file says of whose it is."""

import warnings
from pathlib import Path
from typing import NamedTuple

import pydicom

TAGS = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "Modality", "DirectoryRecordSequence"]


class Header(NamedTuple):
    """Identity in the header of a file; "" for what it does not say.

    Attributes:
        patient_id, study, series: PatientID, StudyInstanceUID, SeriesInstanceUID.
        instead: what a file without an image holds, such as `SR`; None where there is an image.
    """

    patient_id: str = ""
    study: str = ""
    series: str = ""
    instead: str | None = None


def read_header(path: Path) -> Header:
    """The header of a DICOM file; an empty one where it cannot be read, which whoever reads the pixels tells."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
            patient, study, series = (" ".join(str(data.get(tag) or "").split()) for tag in TAGS[:3])
            if len(data) == 0 or (data.get("Rows") and data.get("Columns")):
                return Header(patient, study, series)
            kind = "a directory of files" if "DirectoryRecordSequence" in data else str(data.get("Modality") or "other data")
            return Header(patient, study, series, kind)
    except Exception:  # a damaged file makes pydicom raise all kinds of errors
        return Header()
