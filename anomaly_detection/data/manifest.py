"""manifest.csv in the folder of a dataset that `prepare` made: whose each image is, and what it was made of."""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import optional, read_table, whole_file

MANIFEST = "manifest.csv"

# How it is known whose an image is: by --patient, by the header of its file, by its subfolder, by the names that a public dataset gives its files,
# or, since nothing says it, every study, series or file counts as a patient of its own; "": an older manifest does not say
Key = Literal["--patient", "header", "folder", "name", "study", "series", "file", ""]
UNTOLD: tuple[Key, ...] = ("study", "series", "file")  # one person may have several


@dataclass(frozen=True)
class Row:
    """A line of manifest.csv.

    Attributes:
        image: path in the dataset's folder.
        abnormal: 0 or 1.
        patient: whose it is; images of one patient are never on two sides of a split.
        source, source_sha256: the file that it was made of, below the source folder, and its content.
        pixels_sha256: of the written pixels; the same for the same image under two names.
        mask_pixels: size of the lesion in the written mask; empty where there is none.
        patient_from: by which key `patient` was told, see `Key`; empty in a manifest of an older version.
        patient_id, study, series, modality: PatientID, StudyInstanceUID, SeriesInstanceUID and Modality of a DICOM file, as far as it has them.
    """

    image: str
    abnormal: int
    patient: str
    source: str
    source_sha256: str
    pixels_sha256: str
    mask_pixels: int | None
    patient_from: Key = ""
    patient_id: str = ""
    study: str = ""
    series: str = ""
    modality: str = ""


def read_manifest(path: Path) -> list[Row]:
    """The rows of a manifest.csv; columns that came later are empty in an older one.

    Raises:
        UserError: it is missing or damaged, names an image twice, or says of one not whose it is.
    """
    needed = [field.name for field in fields(Row) if field.default is MISSING]
    kinds = dict.fromkeys(needed, str) | {"abnormal": int, "mask_pixels": optional(int)}
    try:
        lines = read_table(path, kinds)
    except UserError as error:
        raise UserError(f"{error}; this is not a manifest as `prepare` writes it: delete the folder and prepare it again") from None
    rows = [Row(**{field.name: line[field.name] for field in fields(Row) if field.name in line}) for line in lines]
    images = Counter(row.image for row in rows)
    for row in rows:
        if images[row.image] > 1:
            raise UserError(f"{path}: {row.image} stands in it {images[row.image]} times; leave one line of it")
        if not row.patient.strip():
            raise UserError(f"{path}: {row.image} has no patient; write whose it is, or delete the folder and prepare it again")
    return rows


def empty_masks_warning(rows: Sequence[Row]) -> str | None:
    """That images count as abnormal though their masks have no lesion; None where there are none."""
    empty = [row.image for row in rows if row.abnormal and row.mask_pixels == 0]
    if not empty:
        return None
    have, count = ("image has", "counts") if len(empty) == 1 else ("images have", "count")
    what = f"{len(empty)} abnormal {have} a mask without lesion, and still {count} as abnormal"
    return f"{what}, the first: {empty[0]}; take out what shows none"


def pixels_hash(pixels: np.ndarray) -> str:
    """What `Row.pixels_sha256` is of an image (H, W) or (H, W, 3) uint8 that is not of one grey."""
    return hashlib.sha256(pixels).hexdigest()[:16]


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """The inverse of `read_manifest`."""
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
