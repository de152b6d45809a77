"""Grey images out of DICOM files."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, iter_pixels

from anomaly_detection.data.formats.sources import one_line
from anomaly_detection.data.formats.window import NO_WINDOW, Window, WindowChoice
from anomaly_detection.system.errors import UserError

DICOM = (".dcm", ".dicom", ".ima")
DECODERS = 'pip install "pylibjpeg[all]" may bring the decoder'


def is_dicom(path: Path) -> bool:
    """Whether a file is named as DICOM, or has DICOM's mark behind its preamble: scanners often leave the suffix out."""
    if path.name.lower().endswith(DICOM):
        return True
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path, window: WindowChoice) -> tuple[str, Iterator[np.ndarray]]:
    """A DICOM file: its PatientID ("" where it has none), and its frames as (H, W) uint8.

    Rescale slope and intercept (or the modality LUT) give the values, of CT in Hounsfield units. They are shown through `window`, or, if it
    is None, through the file's own VOI table or first window (as a linear one); 8 bits need neither. MONOCHROME1 is inverted, so that bright
    means the same in all files. Colour becomes grey.

    Raises:
        UserError: not a DICOM file, one without an image, or one whose pixels cannot be decoded; of the latter also while iterating.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True)
        patient = str(header.get("PatientID") or "").strip()
        if not header.get("Rows") or not header.get("Columns"):
            raise ValueError(f"it holds no image but {header.get('Modality') or 'other data'}")
    except Exception as error:  # a damaged file makes pydicom raise InvalidDicomError, OSError, EOFError, ValueError, struct.error and more
        raise UserError(f"{path}: cannot be read as DICOM ({one_line(error)}); leave it out") from None
    return patient, _frames(path, header, window)


def _frames(path: Path, header: pydicom.Dataset, window: WindowChoice) -> Iterator[np.ndarray]:
    logger = logging.getLogger("pydicom")
    level, logger.level = logger.level, logging.CRITICAL  # what it logs about a file it also raises
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for frame in iter_pixels(path):
                yield _dicom_grey(frame, header, window)
    except Exception as error:
        advice = f"; {DECODERS}" if "missing dependencies" in str(error) or "decompress" in str(error) else ""
        raise UserError(f"{path}: no grey image can be made of it ({one_line(error)}){advice}") from None
    finally:
        logger.level = level


def _dicom_grey(frame: np.ndarray, header: pydicom.Dataset, window: WindowChoice) -> np.ndarray:
    kind = str(header.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        frame = apply_color_lut(frame, header)
        frame = (frame >> 8 if frame.dtype == np.uint16 else frame).astype(np.uint8)
    if frame.ndim == 3:  # iter_pixels has made RGB of whatever colour there was
        if frame.dtype != np.uint8:
            frame = Window((2**header.BitsStored - 1) / 2, 2**header.BitsStored - 1).grey(frame)
        return np.rint(frame[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    grey = _monochrome_grey(frame, header, window)
    return 255 - grey if kind == "MONOCHROME1" else grey


def _monochrome_grey(frame: np.ndarray, header: pydicom.Dataset, window: WindowChoice) -> np.ndarray:
    values = apply_modality_lut(frame, header)
    if window == "auto":
        return Window.covering(values).grey(values)
    if window is not None:
        return window.grey(values)
    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        return Window((2**bits - 1) / 2, 2**bits - 1).grey(apply_voi(values, header))
    if "WindowCenter" in header and "WindowWidth" in header:
        center, width = (float(np.atleast_1d(header[key].value)[0]) for key in ("WindowCenter", "WindowWidth"))
        # the standard's linear window (PS3.3 C.11.2.1.2.1) reaches from c - 0.5 - (w-1)/2 to c - 0.5 + (w-1)/2
        return Window(center - 0.5, max(width - 1, 1e-6)).grey(values)
    if header.BitsAllocated > 8:
        raise ValueError(NO_WINDOW)
    return Window((2**header.BitsStored - 1) / 2, 2**header.BitsStored - 1).grey(values)
