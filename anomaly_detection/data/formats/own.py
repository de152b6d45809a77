"""How files that `predict` wrote are known again, so that nothing takes them for images."""

import gzip
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom

from anomaly_detection.data.formats.dicom import QUIET, is_dicom
from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_text

TABLE = "predictions.csv"
PATIENTS = "patients.csv"
OVERLAYS = "overlays"  # a folder
ENDING = "_overlay.png"  # of what is in it
MARK = "anomaly_detection predict"  # Manufacturer of a DICOM file, the beginning of a NIfTI file's description
DESCRIP = slice(148, 228)  # bytes of a NIfTI-1 header
DESCRIP_2 = slice(240, 320)  # of a NIfTI-2 header

_TABLES = {TABLE: r"\W*image\W.*\Wcalibrated_score\W", PATIENTS: r"\W*patient\W.*\Wworst_slices\W"}  # how their first lines are known
_MAP = re.compile(r"_anomaly\.nii\.gz$|_(seg|seg_\d{4,}|overlay_\d{4,})\.dcm$")


def is_own(file: SourceFile) -> bool:
    """Whether `predict` wrote a file: an overlay, a map, or a table beside them."""
    if _test(file.name) is None:
        return False
    try:
        with file.on_disk() as path:
            return is_written(path)
    except (OSError, UserError):  # it is told when it is read
        return False


def is_written(path: Path) -> bool:
    """The same of a file that is no member of an archive."""
    test = _test(path.name)
    return test is not None and test(path)


def _test(name: str) -> Callable[[Path], bool] | None:
    """What tells whether `predict` wrote a file of such a name; None where it gives no such names."""
    last = name.rpartition("/")[2]
    if last in _TABLES:
        return _is_table
    return _is_overlay if last.lower().endswith(ENDING) else is_own_map if _MAP.search(last) else None


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


def _is_overlay(path: Path) -> bool:
    """Whether a file is an overlay, or an empty file in their folder, as one is left where the machine stopped while it was written."""
    with open(path, "rb") as file:
        start = file.read(256)
    return (not start and OVERLAYS in path.parts) or b"tEXtSoftware\0" + MARK.encode() in start


def _is_table(path: Path) -> bool:
    """Whether a file is a predictions.csv or patients.csv, perhaps saved again by a spreadsheet."""
    try:
        return re.match(_TABLES[path.name], read_text(path)) is not None
    except UserError:
        return False
