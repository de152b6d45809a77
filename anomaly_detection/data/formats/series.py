"""Which images belong together: the slices of a volume or of a series, in order of their position in the patient."""

from dataclasses import dataclass
from typing import Literal

from anomaly_detection.data.formats.sources import SourceFile

Kind = Literal["picture", "nifti", "dicom"]


@dataclass(frozen=True)
class Series:
    """Images that belong together: a NIfTI volume, the DICOM files of one series, or one file that belongs to no other.

    Attributes:
        kind: how its files are read.
        name: the SeriesInstanceUID; of a volume, or of several frames without one, the name of the file; "" of a single picture.
        patient: whose it is; "" where that is not known.
        files: with their names, in order of their first image.
    """

    kind: Kind
    name: str
    patient: str
    files: tuple[tuple[str, SourceFile], ...]


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
