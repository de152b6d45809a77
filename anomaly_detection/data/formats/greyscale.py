"""From the stored values of a monochrome DICOM frame to grey, step by step as PS3.3 C.11 and C.7.6.16 have it.

An element is looked for in the functional groups of the frame, in those that all frames share, and in the header itself, in this order; one that is
there without a value counts as absent, so does a window whose width the standard does not allow. pydicom.pixels windows by the same formulas, but it
reads no functional groups, takes empty elements for values, refuses tables of 8 and of 12 bits, and lets values wrap that lie far from a table's.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset

from anomaly_detection.data.formats.window import HOW, grey_of

SIGNED_16 = 2**15


class Values(NamedTuple):
    """What a frame measures, of CT in Hounsfield units.

    Attributes:
        array: (H, W) float32, which is exact for what 16 bits hold; float64 of more.
        span: the lowest and the highest one that the stored bits can stand for.
        padding: (H, W) bool, where there is no image; None if it is everywhere.
    """

    array: np.ndarray
    span: tuple[float, float]
    padding: np.ndarray | None

    @property
    def measured(self) -> np.ndarray:
        """(N,) those of the image alone."""
        return self.array.reshape(-1) if self.padding is None else self.array[~self.padding]


def measure(stored: np.ndarray, header: Dataset, number: int) -> Values:
    """The modality LUT or the rescaling of a frame (C.11.1, C.7.6.16.2.9), whose padding (C.7.5.1, C.7.6.3) is found in the stored values.

    Args:
        stored: (H, W), as decoded.
        header: of the file.
        number: of the frame, from 0.

    Raises:
        ValueError: a slope of 0, or a table that cannot be read.
    """
    padding = _padding(stored, header)
    span = _stored_span(stored, header)
    exact = np.float32 if stored.itemsize <= 2 else np.float64
    for place in places(header, number, "PixelValueTransformationSequence"):
        for table in _tables(place, "ModalityLUTSequence"):
            return Values(look_up(table, "LUT", stored, span[0] < 0).astype(exact), (0, 2 ** _bits(table, "LUT") - 1), padding)
        slope, intercept = (value(place, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
        if slope is not None or intercept is not None:
            slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
            if slope == 0:
                raise ValueError("its Rescale Slope is 0, which makes all values one")
            low, high = sorted(slope * end + intercept for end in span)
            return Values(stored.astype(exact) * slope + intercept, (low, high), padding)
    return Values(stored.astype(exact), span, padding)


def own_share(values: Values, header: Dataset, number: int) -> np.ndarray | None:
    """How bright the file's own VOI table or first window (C.11.2, C.7.6.16.2.10) makes a frame.

    Returns:
        (H, W), 0 black, 1 white; None where the file states neither.

    Raises:
        ValueError: a VOI LUT Function that the standard does not know, or a table that cannot be read.
    """
    for place in places(header, number, "FrameVOILUTSequence"):
        for table in _tables(place, "VOILUTSequence"):
            return look_up(table, "LUT", values.array, values.span[0] < 0) / (2 ** _bits(table, "LUT") - 1)
        function = str(value(place, "VOILUTFunction") or "LINEAR")
        if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            raise ValueError(f"its VOI LUT Function {function} is none that the standard knows; give a window: {HOW}")
        for center, width in _windows(place):
            if width >= 1 or (width > 0 and function != "LINEAR"):
                return _windowed(values.array, center, width, function)
    return None


def stated_window(header: Dataset, number: int) -> str:
    """What `own_share` shows a frame through: level and width, "table", or "" where the file states neither."""
    for place in places(header, number, "FrameVOILUTSequence"):
        if _tables(place, "VOILUTSequence"):
            return "table"
        for center, width in _windows(place):
            return f"{center:g} {width:g}"
    return ""


def whole_share(values: Values) -> np.ndarray:
    """The same where all values that the stored bits can stand for are shown."""
    low, high = values.span
    return (values.array - low) / (high - low)


def is_inverted(header: Dataset) -> bool:
    """Whether low values are bright: as the Presentation LUT Shape (C.7.6.1) says, otherwise the photometric interpretation (C.7.6.3.1.2)."""
    shape = value(header, "PresentationLUTShape")
    return header.PhotometricInterpretation == "MONOCHROME1" if shape is None else str(shape).upper() == "INVERSE"


def shown(share: np.ndarray, padding: np.ndarray | None, inverted: bool) -> np.ndarray:
    """(H, W) uint8; padding is black however the values run."""
    grey = grey_of(1 - share if inverted else share)
    if padding is not None:
        grey[padding] = 0
    return grey


def look_up(place: Dataset, prefix: str, values: np.ndarray, negative: bool) -> np.ndarray:
    """What a table (C.11.1.1, C.11.2.1.1, C.7.6.3.1.5) has for values of any shape; beyond its ends its first and last entry.

    Args:
        place: the data set with `prefix`Descriptor and `prefix`Data.
        values: of the step before.
        negative: whether these can be below 0.

    Raises:
        ValueError: it has fewer entries than its descriptor says.
    """
    entries, first, _ = map(int, place[f"{prefix}Descriptor"].value)
    entries = entries % 2**16 or 2**16
    if negative and first >= SIGNED_16:  # with implicit VR whether it is signed has to be known, and pydicom looks at the stored values alone
        first -= 2**16
    content = place[f"{prefix}Data"].value
    little = place.original_encoding[1] is not False
    if not isinstance(content, bytes):
        content, little = np.atleast_1d(np.asarray(content, np.uint16)).astype("<u2").tobytes(), True
    kind = "u1" if len(content) < 2 * entries else "<u2" if little else ">u2"
    table = np.frombuffer(content, kind, len(content) // np.dtype(kind).itemsize)[:entries]
    if len(table) < entries:
        raise ValueError(f"a table has {len(table)} entries, not {entries} as it says")
    return table[np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)]


def value(place: Dataset, keyword: str) -> Any:
    """The value of an element; None where it is absent or empty."""
    content = place.get(keyword)
    return None if content is None or (isinstance(content, str | bytes | Sequence) and not len(content)) else content


def places(header: Dataset, number: int, macro: str) -> Iterator[Dataset]:
    """Where an element of a frame may stand, the nearest first."""
    per_frame = value(header, "PerFrameFunctionalGroupsSequence") or []
    for group in (*per_frame[number : number + 1], *(value(header, "SharedFunctionalGroupsSequence") or [])[:1]):
        yield from (value(group, macro) or [])[:1]
    yield header


def _tables(place: Dataset, sequence: str) -> list[Dataset]:
    """The first table of a sequence, if it is there and has content."""
    return [item for item in (value(place, sequence) or [])[:1] if value(item, "LUTDescriptor") is not None and value(item, "LUTData") is not None]


def _bits(place: Dataset, prefix: str) -> int:
    return int(place[f"{prefix}Descriptor"].value[2])


def _windows(place: Dataset) -> list[tuple[float, float]]:
    centers, widths = (value(place, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    if centers is None or widths is None:
        return []
    return list(zip(np.atleast_1d(np.asarray(centers, float)).tolist(), np.atleast_1d(np.asarray(widths, float)).tolist(), strict=False))[:1]


def _windowed(x: np.ndarray, c: float, w: float, function: str) -> np.ndarray:
    """C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1, in this order, with 0 and 1 for the least and the greatest output."""
    if function == "SIGMOID":
        return 0.5 + 0.5 * np.tanh(2 * (x - c) / w)  # 1 / (1 + exp(-4 (x - c) / w)), which would overflow
    if function == "LINEAR":
        c, w = c - 0.5, w - 1
    return np.clip((x - c) / w + 0.5, 0, 1) if w > 0 else (x > c).astype(x.dtype)


def _stored_span(stored: np.ndarray, header: Dataset) -> tuple[float, float]:
    bits = int(value(header, "BitsStored") or header.BitsAllocated)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.dtype.kind != "u" else (0, 2**bits - 1)


def _padding(stored: np.ndarray, header: Dataset) -> np.ndarray | None:
    for kind in ("Pixel", "FloatPixel", "DoubleFloatPixel"):
        ends = [value(header, kind + keyword) for keyword in ("PaddingValue", "PaddingRangeLimit")]
        if ends[0] is not None and _fits(ends[0], stored.dtype):
            # of signed values some files give the bits as an unsigned number: 63536 is -2000
            low, *high = sorted(np.asarray(end).astype(stored.dtype) for end in ends if end is not None and _fits(end, stored.dtype))
            return stored == low if not high else (stored >= low) & (stored <= high[0])
    return None


def _fits(end: float, dtype: np.dtype) -> bool:
    """Whether a value can stand for stored bits, be they signed or not: 65535 is none of 8 bits, and would be taken for 255."""
    return dtype.kind == "f" or -(2 ** (8 * dtype.itemsize - 1)) <= end < 2 ** (8 * dtype.itemsize)
