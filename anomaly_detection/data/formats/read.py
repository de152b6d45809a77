"""Any file that the project reads, as 8-bit images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from anomaly_detection.data.formats.dicom import holds_image, is_dicom, read_dicom
from anomaly_detection.data.formats.nifti import PAIR, Volume, is_nifti
from anomaly_detection.data.formats.own import is_own
from anomaly_detection.data.formats.pictures import is_picture, read_picture
from anomaly_detection.data.formats.sources import FORMATS, SourceFile, list_inputs
from anomaly_detection.data.formats.window import WindowChoice, window_from
from anomaly_detection.system.errors import UserError

PACKED = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


def kind_of(file: SourceFile) -> Literal["picture", "nifti", "dicom"] | None:
    """How a file is read; None if it is no image, as far as can be told without reading it.

    What cannot be unpacked may be DICOM, as what is damaged otherwise: whoever reads it tells.
    """
    if is_picture(file.name):
        return "picture"
    if is_nifti(file.name):
        return "nifti"
    try:
        with file.on_disk() as path:
            return "dicom" if is_dicom(path) and holds_image(path) else None
    except UserError:
        return "dicom"


def no_image(name: str) -> str:
    """Why a file of another name, or of several the first, is not read."""
    if name.lower().endswith(PAIR):
        return "one of a pair of files; save both as one .nii.gz file"
    if name.lower().endswith(PACKED):
        return "an archive that is not read; unpack it, or pack it as zip"
    return f"no image; {FORMATS}"


class Image(NamedTuple):
    """An image of a file, as it is read.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8.
        number: of the slice or frame in its file, from 0.
        alone: whether the file holds no other.
        path: under which the file can be read until the next image is asked for.
        volume: that a slice is of; None for other files.
    """

    pixels: np.ndarray
    number: int
    alone: bool
    path: Path
    volume: Volume | None = None

    @property
    def suffix(self) -> str:
        """What its name has behind that of its file: its number, such as `#002`, or nothing where it is alone."""
        return "" if self.alone else f"#{self.number:03d}"


def images_in(file: SourceFile, window: WindowChoice, numbers: Sequence[int] | None = None) -> Iterator[Image]:
    """The images in a file; only two are in memory at a time.

    Args:
        file: to be read.
        window: see `WindowChoice`.
        numbers: of a DICOM file, the frames that are wanted, in this order; None: all, as they are stored.

    Raises:
        UserError: it is no image, or damaged; of later images also while iterating.
    """
    with file.on_disk() as path:
        if is_picture(file.name):
            yield Image(read_picture(path, window), 0, True, path)
        elif is_nifti(file.name):
            yield from _slices(path, Volume(path, str(file)), window)
        elif is_dicom(path):
            yield from _frames(path, window, numbers)
        else:
            raise UserError(f"{file}: {no_image(file.name)}")


def _frames(path: Path, window: WindowChoice, numbers: Sequence[int] | None) -> Iterator[Image]:
    frames = read_dicom(path, window, numbers)[1]
    if numbers is not None:
        yield from (Image(frame, number, False, path) for number, frame in zip(numbers, frames, strict=True))
        return
    first, second = next(frames), next(frames, None)
    yield Image(first, 0, second is None, path)
    if second is not None:
        yield Image(second, 1, False, path)
        yield from (Image(frame, number, False, path) for number, frame in enumerate(frames, 2))


def _slices(path: Path, volume: Volume, window: WindowChoice) -> Iterator[Image]:
    shown = volume.shown(window)
    for number, plane in enumerate(volume.planes(range(volume.slices))):
        yield Image(shown.grey(plane), number, False, path, volume)


def read_images(path: str | Path, window: Sequence[float] | Literal["auto"] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """The images in a file, folder or zip archive of PNG, JPEG, TIFF, BMP, DICOM and NIfTI files, as `prepare` and `predict` read them.

    Args:
        path: the file, folder or archive; of the files in a folder or an archive those that are no images, or that `predict` wrote, are left out.
        window: the values that are shown of DICOM and NIfTI files and of pictures with more than 8 bits: (level, width), of CT in Hounsfield units;
            "auto", from the 0.5th to the 99.5th percentile of each file; None, as each file says.

    Yields:
        The path below `path`, with the number of a frame or slice behind `#`, and (H, W) uint8, or (H, W, 3) of a picture with colours.

    Raises:
        UserError: there is no such file, no image among the files, or one that cannot be read or states no window.
        ValueError: another `window`.
    """
    choice = window_from(window)
    files = list_inputs([Path(path)])
    images = [(name, file) for name, file in files if len(files) == 1 or (kind_of(file) is not None and not is_own(file))]
    if not images:
        raise UserError(f"{path}: no image is there among {len(files)} files (what `predict` wrote is none); {FORMATS}")
    for name, file in images:
        for image in images_in(file, choice):
            yield name + image.suffix, image.pixels
