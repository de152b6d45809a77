"""Images out of DICOM files, as a viewer shows them."""

import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, iter_pixels
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    RTDoseStorage,
    SegmentationStorage,
)

from anomaly_detection.data.formats.greyscale import is_inverted, look_up, measure, own_share, shown, value, whole_share
from anomaly_detection.data.formats.sources import one_line
from anomaly_detection.data.formats.window import NO_WINDOW, Window, WindowChoice, telling
from anomaly_detection.system.errors import UserError

DICOM = (".dcm", ".dicom", ".ima")
DECODERS = 'pip install "pylibjpeg[all]" may bring the decoder'
OTHER = {str(SegmentationStorage): "SEG", str(RTDoseStorage): "RTDOSE"}  # SOP class and Modality of grids that are no image: labels, and doses in Gy
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
START = 132  # bytes: the preamble and the word behind it
AUTO_FRAMES = 32  # of a file tell its automatic window
# an element of group 8 up to (0008,0018), little endian: its VR is written out, or its length is below 256
_BARE = re.compile(rb"\x08\x00[\x00-\x18]\x00(CS|UI|UL|DA|TM|LO|.\x00\x00\x00)", re.DOTALL)


class _Silence:
    """Keeps pydicom from saying what it also raises; of the threads and the iterators that ask for it at a time the last puts back what was."""

    def __init__(self):
        self._lock, self._users, self._before = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                logger = logging.getLogger("pydicom")
                self._before.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL)
                self._before.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")

    def __exit__(self, *_) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._before.close()


QUIET = _Silence()


def is_dicom(path: Path) -> bool:
    """Whether a file is named as DICOM, or begins as one: scanners often leave the suffix out, some the preamble, too."""
    if path.name.lower().endswith(DICOM):
        return True
    try:
        with open(path, "rb") as file:
            return begins_as_dicom(file.read(START))
    except OSError:
        return False


def begins_as_dicom(start: bytes) -> bool:
    """Whether the first `START` bytes are those of a DICOM file."""
    return start[128:] == b"DICM" or _BARE.match(start) is not None


def holds_image(path: Path) -> bool:
    """False for a sound DICOM file of other content: a report, a plan, a dose, a directory, a segmentation; what is damaged may hold one."""
    try:
        with QUIET:
            header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality", "Rows", "Columns"])
    except Exception:  # see `read_dicom`
        return True
    return not _is_sound(header) or other_content(header) is None


def _is_sound(header: pydicom.Dataset) -> bool:
    """Whether it says what it is of, as all sound files do; pydicom makes a header of any bytes, and of none."""
    return bool(value(header, "SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID"))


def other_content(header: pydicom.Dataset) -> str | None:
    """What a file holds in place of an image."""
    kind = OTHER.get(str(value(header, "SOPClassUID"))) or str(value(header, "Modality") or "other data")
    return kind if kind in OTHER.values() or not value(header, "Rows") or not value(header, "Columns") else None


def read_dicom(path: Path, window: WindowChoice, numbers: Sequence[int] | None = None) -> tuple[str, Iterator[np.ndarray]]:
    """A DICOM file: its PatientID ("" where it has none), and its frames as (H, W) uint8, of colour as (H, W, 3).

    The modality LUT or rescaling gives the values, of CT in Hounsfield units, see `greyscale`. They are shown through `window`, or, if it is None,
    through the file's own VOI table or first window; of up to 8 stored bits without either, all. Bright means the same in all files, padding is
    black and has no part in an automatic window. Pixels stay as they are stored: Pixel Aspect Ratio, ICC Profile and overlays are not applied. A
    file without preamble and file meta is taken for uncompressed.

    Args:
        path: of the file.
        window: see `WindowChoice`.
        numbers: the frames that are wanted, in this order; None: all as they are stored.

    Raises:
        UserError: not a DICOM file, one without an image, or one whose pixels cannot be decoded; of the latter also while iterating.
    """
    try:
        with QUIET:
            header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            patient = str(header.get("PatientID") or "").strip()
            if other := other_content(header):
                raise ValueError(f"it holds no image but {other}" if _is_sound(header) else "empty, or of another kind: download it again")
    except Exception as error:  # a damaged file makes pydicom raise InvalidDicomError, OSError, EOFError, ValueError, struct.error and more
        raise UserError(f"{path}: cannot be read as DICOM ({one_line(error)}); leave it out") from None
    return patient, _frames(path, header, window, numbers)


def _frames(path: Path, header: pydicom.Dataset, window: WindowChoice, numbers: Sequence[int] | None) -> Iterator[np.ndarray]:
    try:
        with QUIET:
            options = _pixel_options(header)
            source = pydicom.dcmread(path) if options["transfer_syntax_uid"] == DeflatedExplicitVRLittleEndian else path
            header.PhotometricInterpretation = options["photometric_interpretation"]
            if window == "auto" and header.PhotometricInterpretation.startswith("MONOCHROME"):
                window = _auto(source, header, options)
            shift = options["bits_stored"] - _bits_stored(header)
            frames = iter_pixels(source, indices=numbers, **options)
            for number, frame in enumerate(frames) if numbers is None else zip(numbers, frames, strict=True):
                yield _shown(frame >> shift if shift else frame, header, number, window)
    except Exception as error:
        text = one_line(error)
        advice = f"; {DECODERS}" if "missing dependencies" in text or "available plugins" in text else ""
        raise UserError(f"{path}: no grey image can be made of it ({text}){advice}") from None


def _pixel_options(header: pydicom.Dataset) -> dict[str, Any]:
    """How the pixels are stored, with what is meant where an element is missing or empty."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if not syntax:
        implicit, little = header.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    samples = int(value(header, "SamplesPerPixel") or 1)
    bits, high = _bits_stored(header), value(header, "HighBit")
    as_stored = not syntax.is_encapsulated or syntax == RLELossless
    options = {
        "transfer_syntax_uid": UID(syntax),
        "samples_per_pixel": samples,
        "photometric_interpretation": str(value(header, "PhotometricInterpretation") or ("MONOCHROME2" if samples == 1 else "RGB")),
        "number_of_frames": int(value(header, "NumberOfFrames") or 1),
        # files of old lie in the upper bits: read with those below, which are cut off afterwards
        "bits_stored": max(bits, min(int(high) + 1, header.BitsAllocated)) if as_stored and high is not None else bits,
        "pixel_representation": int(value(header, "PixelRepresentation") or 0),
    }
    return options | ({"planar_configuration": int(value(header, "PlanarConfiguration") or 0)} if samples > 1 else {})


def _bits_stored(header: pydicom.Dataset) -> int:
    return int(value(header, "BitsStored") or header.BitsAllocated)


def _auto(source: Path | pydicom.Dataset, header: pydicom.Dataset, options: dict[str, Any]) -> Window:
    """The window that covers what the frames of a file measure, as far as some of them, spread over it, tell."""
    numbers = telling(options["number_of_frames"], AUTO_FRAMES)
    frames = zip(numbers, iter_pixels(source, indices=numbers, **options), strict=True)
    return Window.covering(np.concatenate([measure(frame, header, number).measured.astype(np.float32) for number, frame in frames]), overwrite=True)


def _shown(frame: np.ndarray, header: pydicom.Dataset, number: int, window: WindowChoice) -> np.ndarray:
    kind = header.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        return _palette_colours(frame, header)
    if frame.ndim == 3:  # iter_pixels has made RGB of these
        if kind not in COLOURS:
            raise ValueError(f"its colours are {kind}; convert it to RGB, by dcmconv of DCMTK for example")
        return _eight_bit(frame[..., :3], _bits_stored(header))
    values = measure(frame, header, number)
    if window is not None:
        share = window.share(values.array)
    elif (share := own_share(values, header, number)) is None:
        if frame.dtype.kind == "f" or _bits_stored(header) > 8:
            raise ValueError(NO_WINDOW)
        share = whole_share(values)
    return shown(share, values.padding, is_inverted(header))


def _palette_colours(frame: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    """(H, W, 3) uint8."""
    bits = int(header.RedPaletteColorLookupTableDescriptor[2])
    if value(header, "RedPaletteColorLookupTableData") is None:  # in segments
        return _eight_bit(apply_color_lut(frame, header)[..., :3], bits)
    signed = frame.dtype.kind == "i"
    return _eight_bit(
        np.stack([look_up(header, f"{name}PaletteColorLookupTable", frame, signed) for name in ("Red", "Green", "Blue")], axis=-1), bits
    )


def _eight_bit(colours: np.ndarray, bits: int) -> np.ndarray:
    return colours.astype(np.uint8) if bits == 8 else np.rint(colours * (255 / (2**bits - 1))).astype(np.uint8)
