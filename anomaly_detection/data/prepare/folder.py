"""Anyone's images: a folder of normal ones and a folder of abnormal ones, in whatever format scanners and people save them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_detection.data.formats.dicom import read_dicom
from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.data.formats.read import kind_of
from anomaly_detection.data.formats.sources import FORMATS, SourceFile, unique_names
from anomaly_detection.data.formats.window import WindowChoice, spread
from anomaly_detection.data.prepare.build import Job, Picture
from anomaly_detection.data.prepare.pictures import PictureJob
from anomaly_detection.system.errors import UserError


@dataclass(frozen=True)
class DicomJob:
    """A DICOM file; each of its frames becomes an image."""

    sources: tuple[SourceFile, ...]
    name: str
    patient: str | None  # None: as the file says
    abnormal: bool
    window: WindowChoice

    def pictures(self, paths: Sequence[Path]) -> Iterator[Picture]:
        """The frames; the second and later ones have their number in their name."""
        if len(self.sources) > 1:
            raise UserError(f"{self.sources[1]}: masks of DICOM files are not read; save image and mask as PNG or NIfTI")
        patient, frames = read_dicom(paths[0], self.window)
        for number, pixels in enumerate(frames):
            yield Picture(f"{self.name}_{number:03d}" if number else self.name, self.patient or patient or self.name, self.abnormal, pixels)


@dataclass(frozen=True)
class NiftiJob:
    """A NIfTI volume, and its mask where there is one."""

    sources: tuple[SourceFile, ...]
    name: str
    patient: str
    abnormal: bool
    window: WindowChoice
    max_slices: int

    def pictures(self, paths: Sequence[Path]) -> Iterator[Picture]:
        """Axial slices, spread over the volume: with a mask those that show the lesion, otherwise all that are not of one grey."""
        volume, *mask = (Volume(path, str(source)) for path, source in zip(paths, self.sources, strict=True))
        window = volume.shown(self.window)
        if mask and (mask[0].shape, mask[0].orientation) != (volume.shape, volume.orientation):
            raise UserError(f"{self.sources[1]}: differs from its volume in shape or orientation; which one is wrong cannot be known")
        slices = np.flatnonzero(mask[0].count_marked()).tolist() if mask else list(range(volume.slices))
        slices = spread(slices, self.max_slices)
        marks = (plane > 0 for plane in mask[0].planes(slices)) if mask else [None] * len(slices)
        for number, plane, marked in zip(slices, volume.planes(slices), marks, strict=True):
            pixels = window.grey(plane)
            if pixels.min() < pixels.max():
                yield Picture(f"{self.name}_{number:03d}", self.patient, self.abnormal, pixels, marked)


def plan(
    normal: Sequence[SourceFile],
    abnormal: Sequence[SourceFile],
    masks: Sequence[SourceFile],
    window: WindowChoice,
    patient: str | None,
    max_slices: int,
) -> tuple[list[Job], list[SourceFile]]:
    """A job for each image file, and the files that are none.

    Patients: the first group of the regular expression `patient` in the path below the folder if one is given; otherwise the subfolder that a
    file lies in, where there are several; otherwise what a DICOM file says; otherwise every file is a patient of its own.

    Args:
        normal, abnormal: what lies in the two folders.
        masks: of abnormal images, at the same path below their folder; a suffix of another format does not matter.
        window: see `WindowChoice`.
        patient: a regular expression.
        max_slices: at most so many slices of a NIfTI volume.

    Raises:
        UserError: no image is there, the expression is wrong or does not match a path, or a mask belongs to no image.
    """
    expression = _compile(patient)
    of_masks: dict[str, SourceFile] = {}
    jobs: list[Job] = []
    other: list[SourceFile] = []
    for file in masks:
        if kind_of(file) is None:
            other.append(file)
        elif (first := of_masks.setdefault(_path(file), file)) is not file:
            raise UserError(f"{file}: is a mask of the same image as {first}; take one away")
    for files, ill in ((normal, False), (abnormal, True)):
        kinds = [(file, kind) for file in files if (kind := kind_of(file)) is not None]
        other += sorted(set(files) - {file for file, _ in kinds})
        if not kinds:
            raise UserError(f"no {'abnormal' if ill else 'normal'} image is there among {len(files)} files; {FORMATS}")
        names = unique_names([(_path(file), file.name.rsplit("/", 1)[-1], file.name.replace("/", "_")) for file, _ in kinds])
        subfolders = len({file.folder for file, _ in kinds}) > 1
        for (file, kind), name in zip(kinds, names, strict=True):
            mask = of_masks.pop(_path(file), None) if ill else None
            sources = (file,) if mask is None else (file, mask)
            owner = _match(file, expression) if expression else (subfolders and file.folder) or None
            if kind == "dicom":
                jobs.append(DicomJob(sources, name, owner, ill, window))
            elif kind == "nifti":
                jobs.append(NiftiJob(sources, name, owner or name, ill, window, max_slices))
            else:
                jobs.append(PictureJob(sources, name, owner or name, ill, window))
    if of_masks:
        first = next(iter(of_masks.values()))
        raise UserError(f"{first}: a mask without an abnormal image of the same name, and {len(of_masks) - 1} more; a mask has its image's path")
    return jobs, other


def _compile(patient: str | None) -> re.Pattern | None:
    try:
        expression = re.compile(patient) if patient else None
    except re.error as error:
        raise UserError(f"--patient {patient}: not a regular expression ({error})") from None
    if expression and expression.groups < 1:
        raise UserError(f"--patient {patient}: needs a group, such as '(.*)_[0-9]+' for name_12.png")
    return expression


def _match(file: SourceFile, expression: re.Pattern) -> str:
    match = expression.search(file.name)
    if match is None or not match[1]:
        raise UserError(f"--patient {expression.pattern}: finds no patient in {file.name}")
    return match[1]


def _path(file: SourceFile) -> str:
    return f"{file.folder}/{file.stem}".lstrip("/")
