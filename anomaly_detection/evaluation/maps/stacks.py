"""Which images of a DICOM series one segmentation can hold, and what of them it is made of."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from anomaly_detection.evaluation.maps.source import PLANE, decimal, of_frame

TURNED = 1e-3  # scanners say the directions of slices that lie side by side with so small differences


class Marked(NamedTuple):
    """Where an image exceeds the usual: a bit for each pixel."""

    header: Dataset
    frame: int
    bits: np.ndarray
    shape: tuple[int, int]

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        return np.unpackbits(self.bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(bool)


def stacks_of(marked: Sequence[Marked]) -> list[list[Marked]]:
    """The images that one segmentation can hold: slices side by side in one frame of reference, the frames of one file, or one image alone.

    Each place is in a stack once: a phase that shows it anew is another.
    """
    stacks: dict[Hashable, list[Marked]] = {}
    directions: list[np.ndarray] = []
    again: Counter[Hashable] = Counter()
    for each in marked:
        header = each.header
        key: Hashable = header.SOPInstanceUID
        if "NumberOfFrames" not in header and all(header.get(keyword) for keyword in ("FrameOfReferenceUID", *PLANE[:3])):
            key = header.FrameOfReferenceUID, _number_of(header.ImageOrientationPatient, directions), tuple(header.PixelSpacing), each.shape
        corner = _corner(header, each.frame)
        again[key, corner] += corner is not None
        stacks.setdefault((key, again[key, corner]), []).append(each)
    return list(stacks.values())


def _corner(header: Dataset, frame: int) -> tuple | None:
    corner = of_frame(header, frame, "PlanePositionSequence", "ImagePositionPatient")
    return None if corner is None else tuple(corner)


def _number_of(orientation: Sequence[float], directions: list[np.ndarray]) -> int:
    """The place of the first of some directions that is nearly an orientation, which is added where none is."""
    wanted = np.array(orientation, float)
    for number, each in enumerate(directions):
        if np.abs(each - wanted).max() <= TURNED:
            return number
    directions.append(wanted)
    return len(directions) - 1


class Sources(NamedTuple):
    """What a segmentation is made of.

    Attributes:
        headers: of the files.
        pixels: (n, H, W) bool, what is marked of each of them, or of each frame of the only one.
        frames: (n,) the numbers of these frames, where they are not all of its.
    """

    headers: list[Dataset]
    pixels: np.ndarray
    frames: list[int] | None = None


def sources_of(stack: Sequence[Marked]) -> Sources:
    """The sources of the segmentation of a stack."""
    first = stack[0].header
    if "NumberOfFrames" in first:
        frames, masks = list(range(int(first.NumberOfFrames))), {each.frame: each.mask for each in stack}
        corners = [_corner(first, frame) for frame in frames]
        several = None not in corners and len(set(corners)) < len(corners)
        frames = sorted(masks) if several else frames
        nothing = np.zeros(stack[0].shape, bool)
        return Sources([first], np.stack([masks.get(frame, nothing) for frame in frames]), frames if several else None)
    headers = [each.header for each in stack]
    distance = _distance(headers)
    for header in headers:
        if len(stack) > 1:
            header.ImageOrientationPatient = headers[0].ImageOrientationPatient  # highdicom asks for the same digits
        if len(stack) == 1 and "ImagePositionPatient" not in header:
            header.pop("PixelSpacing", None)  # with it highdicom would read a thickness, too
        elif header.get("SliceThickness") is None:
            header.SliceThickness = distance
    pixels = np.zeros((len(stack), *stack[0].shape), bool)
    for place, each in enumerate(stack):
        pixels[place] = each.mask
    return Sources(headers, pixels)


def _distance(headers: Sequence[Dataset]) -> str | None:
    """From slice to slice in mm, the median; None of a single one."""
    if len(headers) == 1:
        return None
    normal = np.cross(*np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3))
    along = np.sort([np.array(header.ImagePositionPatient, float) @ normal for header in headers])
    return decimal(float(np.median(np.diff(along))))
