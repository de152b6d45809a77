"""Anyone's images: a folder of normal ones and a folder of abnormal ones, in whatever format scanners and people save them."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_detection.data.formats.dicom import read_dicom
from anomaly_detection.data.formats.header import read_header, read_windows
from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.data.formats.read import kind_of, no_image
from anomaly_detection.data.formats.sources import FORMATS, SourceFile, same_name, unique_names
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.data.prepare.build import Job, NoImage, Picture
from anomaly_detection.data.prepare.pictures import PictureJob
from anomaly_detection.data.thinning import spread
from anomaly_detection.system.errors import UserError

_MASK = re.compile(r"(.+)[-_](mask|seg|segmentation|label)([-_]\d+)?", re.IGNORECASE)  # BUSI has `benign (4)_mask_1.png`


@dataclass(frozen=True)
class DicomJob:
    """A DICOM file; each of its frames becomes an image."""

    sources: tuple[SourceFile, ...]
    name: str
    patient: str
    abnormal: bool
    window: WindowChoice

    def pictures(self, paths: Sequence[Path]) -> Iterator[Picture]:
        """The frames; the second and later ones have their number in their name."""
        if len(self.sources) > 1:
            raise UserError(f"{self.sources[1]}: masks of DICOM files are not read; save image and mask as PNG or NIfTI")
        header, windows = read_header(paths[0]), frozenset() if self.window else frozenset(read_windows(paths[0]))
        for number, pixels in enumerate(read_dicom(paths[0], self.window)[1]):
            yield Picture(f"{self.name}_{number:03d}" if number else self.name, self.patient, self.abnormal, pixels, header=header, windows=windows)


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
        """Axial slices, spread over the volume: with a mask those that show the lesion, otherwise all that are not of one grey.

        Raises:
            NoImage: the volume has no such slice.
        """
        volume, *mask = (Volume(path, str(source)) for path, source in zip(paths, self.sources, strict=True))
        window = volume.shown(self.window)
        if mask and (mask[0].shape, mask[0].orientation) != (volume.shape, volume.orientation):
            raise UserError(f"{self.sources[1]}: differs from its volume in shape or orientation; which one is wrong cannot be known")
        apart = volume.apart(mask[0]) if mask else 0.0
        slices = np.flatnonzero(mask[0].count_marked()).tolist() if mask else list(range(volume.slices))
        slices = spread(slices, self.max_slices)
        empty = f"{self.sources[0]}: no slice of it shows more than one grey" + (f" and is marked in {self.sources[1]}" if mask else "")
        marks = (plane > 0 for plane in mask[0].planes(slices)) if mask else [None] * len(slices)
        for number, plane, marked in zip(slices, volume.planes(slices), marks, strict=True):
            pixels = window.grey(plane)
            if pixels.min() < pixels.max():
                empty = ""
                yield Picture(f"{self.name}_{number:03d}", self.patient, self.abnormal, pixels, marked, apart=apart)
        if empty:
            raise NoImage(empty)


def plan(
    normal: Sequence[SourceFile],
    abnormal: Sequence[SourceFile] | None,
    masks: Sequence[SourceFile],
    window: WindowChoice,
    patient: str | None,
    max_slices: int,
) -> tuple[list[Job], list[SourceFile]]:
    """A job for each image file, and the files that are none.

    Patients are named here where the regular expression `patient` is given, by its first group in the path below the folder; otherwise see
    `settle_patients`.

    Args:
        normal, abnormal: what lies in the two folders; None where there is no folder of abnormal images.
        masks: of abnormal images, at the same path below their folder; a suffix of another format does not matter.
        window: see `WindowChoice`.
        patient: a regular expression.
        max_slices: at most so many slices of a NIfTI volume.

    Raises:
        UserError: no image is there, or masks lie among the images; the expression is wrong or does not match a path; or a mask belongs to no image,
            or not to one alone.
    """
    expression = _compile(patient)
    jobs: list[Job] = []
    marks, other = [], []
    for file in masks:
        (other if kind_of(file) is None else marks).append(file)
    for files, ill in ((normal, False), (abnormal, True)):
        if files is None:
            continue
        kinds = [(file, kind) for file in files if (kind := kind_of(file)) is not None]
        images = [file for file, _ in kinds]
        other += sorted(set(files) - set(images))
        if not kinds:
            first = next((f"; {file}: {why}" for file in files if (why := no_image(file.name)) != no_image("")), f"; {FORMATS}")
            raise UserError(f"no {'abnormal' if ill else 'normal'} image is there among {len(files)} files{first}")
        _refuse_masks(images)
        names = unique_names([(_path(file), file.name.rsplit("/", 1)[-1], file.name.replace("/", "_")) for file in images])
        mask_of = _pair_masks(images, marks) if ill else {}
        for (file, kind), name in zip(kinds, names, strict=True):
            sources = (file, mask_of[file]) if file in mask_of else (file,)
            owner = _match(file, expression) if expression else ""
            if kind == "dicom":
                jobs.append(DicomJob(sources, name, owner, ill, window))
            elif kind == "nifti":
                jobs.append(NiftiJob(sources, name, owner, ill, window, max_slices))
            else:
                jobs.append(PictureJob(sources, name, owner, ill, window))
    return jobs, other


def _refuse_masks(images: Sequence[SourceFile]) -> None:
    """Masks that lie beside their images, `a_mask.png` beside `a.png`, would be trained on and tested as images."""
    there = {same_name(_path(file)): file for file in images}
    beside = [(file, there[same_name(match[1])]) for file in images if (match := _MASK.fullmatch(_path(file))) and same_name(match[1]) in there]
    if beside:
        (mask, image), more = beside[0], f", and {len(beside) - 1} more" if len(beside) > 1 else ""
        advice = "move masks out of the folder, those of abnormal images, each with the name of its image, into one of their own for --masks"
        raise UserError(f"{mask}: is called as a mask of {image.name} beside it{more}, and would become an image; {advice}")


def _pair_masks(images: Sequence[SourceFile], masks: Sequence[SourceFile]) -> dict[SourceFile, SourceFile]:
    """The mask of each image that has one: at the same path, else at the same path but for the suffix."""

    def spelling(path: str) -> str:  # accents may be encoded in two ways
        return unicodedata.normalize("NFC", path)

    exact = {spelling(image.name): image for image in images}
    alike: dict[str, list[SourceFile]] = defaultdict(list)
    for image in images:
        alike[spelling(_path(image))].append(image)
    mask_of: dict[SourceFile, SourceFile] = {}
    strangers = []
    for mask in masks:
        name = spelling(mask.name)
        fitting = [exact[name]] if name in exact else alike.get(spelling(_path(mask)), [])
        if len(fitting) > 1:
            raise UserError(f"{mask}: may belong to {fitting[0].name} or to {fitting[1].name}; give it the full name of one of them")
        if not fitting:
            strangers.append(mask)
        elif mask_of.setdefault(fitting[0], mask) is not mask:
            raise UserError(f"{mask}: {fitting[0].name} has another mask, {mask_of[fitting[0]]}; take one away")
    if strangers:
        more = f", and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise UserError(f"{strangers[0]}: a mask without an abnormal image of the same name{more}; a mask has its image's path")
    return mask_of


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
