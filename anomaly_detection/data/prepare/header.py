"""What the header of a DICOM file says of whose it is."""

import warnings
from pathlib import Path
from typing import NamedTuple

import pydicom

TAGS = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"]


class Header(NamedTuple):
    """Identity in the header of a file; "" for what it does not say.

    Attributes:
        patient_id, study, series: PatientID, StudyInstanceUID, SeriesInstanceUID.
    """

    patient_id: str = ""
    study: str = ""
    series: str = ""


def read_header(path: Path) -> Header:
    """The header of a DICOM file; an empty one where it cannot be read, which whoever reads the pixels tells."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
            return Header(*(" ".join(str(data.get(tag) or "").split()) for tag in TAGS))
    except Exception:  # a damaged file makes pydicom raise all kinds of errors
        return Header()
