"""A picture file as a job: what COVID-CT, chest X-rays and folders of pictures have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_detection.data.formats.pictures import read_picture
from anomaly_detection.data.formats.sources import SourceFile, unique_names
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.data.masks import read_mask
from anomaly_detection.data.prepare.build import Picture


@dataclass(frozen=True)
class PictureJob:
    """A PNG, JPEG, TIFF or BMP file that becomes one image; a second source is its mask, see `read_mask`."""

    sources: tuple[SourceFile, ...]
    name: str
    patient: str
    abnormal: bool
    window: WindowChoice = None

    def pictures(self, paths: Sequence[Path]) -> Iterator[Picture]:
        """The one image."""
        pixels = read_picture(paths[0], self.window)
        mask = read_mask(paths[1], pixels.shape[:2]) if len(paths) > 1 else None
        yield Picture(self.name, self.patient, self.abnormal, pixels, mask)


def picture_names(files: Sequence[SourceFile]) -> list[str]:
    """A name for each file: without suffix; those that would share one keep their suffix, then their folder."""
    return unique_names([(file.stem, file.name.rsplit("/", 1)[-1], file.name.replace("/", "_")) for file in files])
