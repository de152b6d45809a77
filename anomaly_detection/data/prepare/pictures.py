"""A picture file as a job: what COVID-CT, chest X-rays and folders of pictures have in common."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_detection.data.formats.pictures import read_picture
from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.data.prepare.build import Picture
from anomaly_detection.errors import UserError


@dataclass(frozen=True)
class PictureJob:
    """A PNG, JPEG, TIFF or BMP file that becomes one image; a second source is its mask, not 0 where the lesion is."""

    sources: tuple[SourceFile, ...]
    name: str
    patient: str
    abnormal: bool
    window: WindowChoice = None

    def pictures(self, paths: Sequence[Path]) -> Iterator[Picture]:
        """The one image."""
        pixels, *mask = (self._read(path, source) for path, source in zip(paths, self.sources, strict=True))
        if mask and mask[0].shape[:2] != pixels.shape[:2]:
            raise UserError(f"{self.sources[1]}: is a mask of {mask[0].shape[:2]} pixels for an image of {pixels.shape[:2]}; make them the same")
        yield Picture(self.name, self.patient, self.abnormal, pixels, np.asarray(Image.fromarray(mask[0]).convert("L")) > 0 if mask else None)

    def _read(self, path: Path, source: SourceFile) -> np.ndarray:
        try:
            return read_picture(path, self.window if source is self.sources[0] else None)
        except UserError as error:  # of a member of an archive it names a temporary copy
            raise UserError(str(error).replace(str(path), str(source))) from None


def distinct_names(files: Sequence[SourceFile], names: Sequence[str]) -> list[str]:
    """A name for each file; those that would share one, on a file system that knows no upper case, keep their suffix or folder."""
    for longer in (lambda file: file.name.rsplit("/", 1)[-1], lambda file: file.name.replace("/", "_")):
        counts = Counter(name.lower() for name in names)
        names = [name if counts[name.lower()] == 1 else longer(file) for file, name in zip(files, names, strict=True)]
    return names
