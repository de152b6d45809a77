"""Which images belong together: the slices of a volume or of a series, in order of their position in the patient."""

import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np

from anomaly_detection.data.formats.header import Layout, Place, read_layout
from anomaly_detection.data.formats.nifti import is_nifti
from anomaly_detection.data.formats.owners import folder_owners
from anomaly_detection.data.formats.pictures import is_picture
from anomaly_detection.data.formats.read import Image, images_in
from anomaly_detection.data.formats.sources import SourceFile, natural
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.system.progress import progress_bar

logger = logging.getLogger(__name__)

ALIKE = 0.99  # cosine of the angle between normals of one stack; localisers of one series lie across each other


@dataclass(frozen=True)
class Run:
    """Images of one file that follow one another in a series.

    Attributes:
        name: of the file.
        file: that holds them.
        numbers: of the frames, in this order; None: all, as they are stored.
        positions: of these frames, see `Slice`; empty where they follow from the file when it is read.
    """

    name: str
    file: SourceFile
    numbers: tuple[int, ...] | None = None
    positions: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Series:
    """Images that belong together: a NIfTI volume, the DICOM files of one series, or one file that belongs to no other.

    Attributes:
        kind: how its files are read; what is neither NIfTI nor DICOM by its header counts as a picture.
        name: the SeriesInstanceUID; of a volume, or of several frames without one, the name of the file; "" of a single picture.
        patient: whose it is; "" where that is not known.
        runs: its images, in order of position.
    """

    kind: Literal["picture", "nifti", "dicom"]
    name: str
    patient: str
    runs: tuple[Run, ...]

    @property
    def files(self) -> list[SourceFile]:
        """Each once, in order of their first image."""
        return list(dict.fromkeys(run.file for run in self.runs))


@dataclass(frozen=True)
class Slice:
    """Where an image comes from.

    Attributes:
        name: of the file, with the number of the slice or frame behind `#` where it holds several.
        file: that holds it.
        number: of the slice or frame in the file, from 0; of a NIfTI file along its axial axis, as `Volume.read` counts.
        position: along the normal of the slices, in mm; None where the file does not tell.
        shape: (H, W) as it was read.
    """

    name: str
    file: SourceFile
    number: int
    position: float | None
    shape: tuple[int, int]


class _Frame(NamedTuple):
    """A frame of a DICOM file on its way to its place in a series."""

    name: str
    file: SourceFile
    layout: Layout
    number: int

    @property
    def place(self) -> Place | None:
        return self.layout.places[self.number]


def series_of(files: Sequence[tuple[str, SourceFile]]) -> list[Series]:
    """The series that files belong to, in order of their first files. Headers of DICOM files are read for it; pictures are not opened.

    DICOM files of one PatientID and SeriesInstanceUID are one series; a file of which there are copies is in it once. Its frames are in order of
    Image Position (Patient) along the normal of Image Orientation (Patient), stack after stack where there are several orientations; where not all of
    them have a position, of InstanceNumber; else of the names of the files. The slices of a NIfTI volume are in their stored order. Any other file is
    by itself.

    The patient is the PatientID of a DICOM file; of files without one what `folder_owners` tells; else it is not known.

    Args:
        files: with a name of its own each.
    """
    layouts = _layouts([file for _, file in files])
    owners = folder_owners([file for _, file in files], layouts)
    groups: dict[Hashable, list[int]] = {}
    for i, layout in enumerate(layouts):
        key = (layout.header.patient_id, layout.header.series) if layout and layout.header.series else i
        groups.setdefault(key, []).append(i)
    series = []
    for members in groups.values():
        name, file = files[members[0]]
        owner = owners[members[0]]
        if layouts[members[0]] is None:
            volume = is_nifti(file.name)
            series.append(Series("nifti" if volume else "picture", name if volume else "", owner, (Run(name, file),)))
        else:
            series.append(_dicom_series([(*files[i], layouts[i]) for i in members], owner))
    return series


def read_run(run: Run, window: WindowChoice) -> Iterator[tuple[Slice, Image]]:
    """The images of a run in their order; raises what `images_in` raises."""
    for place, image in enumerate(images_in(run.file, window, run.numbers)):
        if image.volume is not None:
            position = float(image.volume.positions[image.number])
        else:
            position = run.positions[place] if place < len(run.positions) else None
        yield Slice(run.name + image.suffix, run.file, image.number, position, image.pixels.shape[:2]), image


def _layouts(files: Sequence[SourceFile]) -> list[Layout | None]:
    """Of each DICOM file; None of others."""
    layouts: list[Layout | None] = [None] * len(files)
    unsaid = [i for i, file in enumerate(files) if not is_picture(file.name) and not is_nifti(file.name)]
    if not unsaid:
        return layouts
    with ThreadPoolExecutor() as pool, progress_bar(total=len(unsaid), desc="headers", unit="file", leave=False) as bar:
        for i, layout in zip(unsaid, pool.map(read_layout, [files[i] for i in unsaid]), strict=True):
            layouts[i] = layout
            bar.update()
    return layouts


def _dicom_series(files: Sequence[tuple[str, SourceFile, Layout]], folder: str) -> Series:
    header, name = files[0][2].header, files[0][0]
    once = _without_copies(files)
    if copies := len(files) - len(once):
        logger.warning("warning: series %s (%s): %d files are copies of others in it, and left out", header.series, name, copies)
    frames = [_Frame(*each, number) for each in once for number in range(len(each[2].places))]
    series = header.series or (name if len(frames) > 1 else "")
    return Series("dicom", series, header.patient_id or folder, _runs(_in_order(frames)))


def _without_copies(files: Sequence[tuple[str, SourceFile, Layout]]) -> list[tuple[str, SourceFile, Layout]]:
    """Of files of one SOPInstanceUID and the same content the first: a slice that lies there twice would count twice in its patient's score.

    Some programs give all files of a series the same identifier, so it alone makes no copy.
    """
    instances = Counter(layout.instance for _, _, layout in files if layout.instance)
    once: dict[Hashable, tuple[str, SourceFile, Layout]] = {}
    for each in files:
        name, file, layout = each
        key = (layout.instance, file.size, file.checksum()) if instances[layout.instance] > 1 else name
        once.setdefault(key, each)
    return list(once.values())


def _in_order(frames: Sequence[_Frame]) -> list[tuple[_Frame, float | None]]:
    """Frames of one series, each with its position."""
    stacks = _stacks([frame.place for frame in frames if frame.place is not None])
    placed = [None if frame.place is None else _along(frame.place, stacks) for frame in frames]
    numbered = all(frame.layout.number is not None for frame in frames)

    def key(pair: tuple[_Frame, tuple[int, float] | None]) -> tuple:
        frame, where = pair
        number = frame.layout.number if numbered else 0
        return (() if None in placed else where), number, natural(frame.name), frame.number

    ordered = sorted(zip(frames, placed, strict=True), key=key)
    return [(frame, where and where[1]) for frame, where in ordered]


def _stacks(places: Sequence[Place]) -> np.ndarray:
    """(S, 3), the normals of stacks of slices; which they are does not depend on the order of the places."""
    normals: list[np.ndarray] = []
    for normal in sorted({place.normal for place in places}):
        if not any(abs(other @ np.array(normal)) > ALIKE for other in normals):
            normals.append(np.array(normal))
    return np.array(normals)


def _along(place: Place, stacks: np.ndarray) -> tuple[int, float]:
    """The number of a place's stack, and how far along its normal it lies, in mm."""
    stack = int(np.argmax(np.abs(stacks @ np.array(place.normal)) > ALIKE))
    return stack, float(stacks[stack] @ np.array(place.corner))


def _runs(ordered: Sequence[tuple[_Frame, float | None]]) -> tuple[Run, ...]:
    runs = []
    for _, group in groupby(ordered, key=lambda pair: pair[0].name):
        frames, positions = zip(*group, strict=True)
        numbers, file = tuple(frame.number for frame in frames), frames[0]
        whole = numbers == tuple(range(len(file.layout.places)))
        runs.append(Run(file.name, file.file, None if whole else numbers, positions))
    return tuple(runs)
