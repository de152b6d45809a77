"""How files that `predict` wrote are known again, so that it never takes them for images."""

import gzip
import zlib
from pathlib import Path

import pydicom

from anomaly_detection.data.formats.dicom import QUIET, is_dicom

MARK = "anomaly_detection predict"  # Manufacturer of a DICOM file, the beginning of a NIfTI file's description
DESCRIP = slice(148, 228)  # bytes of a NIfTI-1 header
DESCRIP_2 = slice(240, 320)  # of a NIfTI-2 header


def is_own_map(path: Path) -> bool:
    """Whether a file is a map that `predict` wrote: NIfTI, or a segmentation or a secondary capture in DICOM.

    Args:
        path: of a file that can be read; what it is, its content says.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with (gzip.open if packed else open)(path, "rb") as file:
            start = file.read(DESCRIP_2.stop)
    except (OSError, EOFError, zlib.error):  # it is told when it is read
        return False
    if any(start[place].startswith(MARK.encode()) for place in (DESCRIP, DESCRIP_2)):
        return True
    if not is_dicom(path):
        return False
    try:
        with QUIET:
            return str(pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["Manufacturer"]).get("Manufacturer")) == MARK
    except Exception:  # of a damaged file, see `read_dicom`
        return False
