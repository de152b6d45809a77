"""COVID-CT: lung CT slices with and without COVID-19, cut out of papers."""

from collections.abc import Sequence
from pathlib import Path

from anomaly_detection.data.formats.pictures import is_picture
from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.data.patients import figure_of
from anomaly_detection.data.prepare.options import DOWNLOADS
from anomaly_detection.data.prepare.pictures import PictureJob, picture_names
from anomaly_detection.data.splits import Part
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_text

KINDS = {"CT_NonCOVID": False, "CT_COVID": True}  # folder or archive of the images -> whether they are abnormal


def plan(where: Path, files: Sequence[SourceFile], window: WindowChoice = None) -> list[PictureJob]:
    """A job for each image below a folder, or in an archive, of the name CT_COVID or CT_NonCOVID.

    The crops of a figure stay together, see `figure_of`.

    Raises:
        UserError: images of one of the two kinds are missing.
    """
    folders = {name.lower(): abnormal for name, abnormal in KINDS.items()}
    kinds = [(file, [folders[part] for part in file.folder.lower().split("/") if part in folders]) for file in files if is_picture(file.name)]
    images = [(file, found[-1]) for file, found in kinds if found]
    for name, abnormal in KINDS.items():
        if abnormal not in {kind for _, kind in images}:
            raise UserError(f"{where}: no image of {name}.zip, or of a folder {name}, is there; what is needed is {DOWNLOADS['covid_ct']}")
    names = picture_names([file for file, _ in images])
    return [PictureJob((file,), name, figure_of(file.stem, abnormal), abnormal, window) for (file, abnormal), name in zip(images, names, strict=True)]


def published_split(files: Sequence[SourceFile]) -> dict[str, Part] | None:
    """Which list of Data-split names an image: by the name of its file in lower case, with and without suffix, behind `normal/` or `abnormal/`; None
    where the lists are not there.

    Raises:
        UserError: some of the six lists are there, others not, or one is there twice with other lines.
    """
    lists = {f"{part}ct_{kind}.txt": part for part in ("train", "val", "test") for kind in ("covid", "noncovid")}
    found: dict[str, SourceFile] = {}
    for file in files:
        if (name := file.name.rsplit("/", 1)[-1].lower()) in lists:
            first = found.setdefault(name, file)
            if (file.size, file.checksum()) != (first.size, first.checksum()):
                raise UserError(f"{file}: is there twice, with other lines, the other one is {first}; take one away, or use --own-split")
    if not found:
        return None
    missing = sorted(set(lists) - set(found))
    if missing:
        raise UserError(f"{next(iter(found.values()))}: of the lists of Data-split {', '.join(missing)} are missing; add them, or use --own-split")
    split: dict[str, Part] = {}
    for name, part in lists.items():
        with found[name].on_disk() as path:
            lines = read_text(path).splitlines()
        kind = "normal" if "noncovid" in name else "abnormal"
        for line in filter(None, map(str.strip, lines)):
            for image in (line.lower(), line.lower().rsplit(".", 1)[0]):
                split.setdefault(f"{kind}/{image}", part)
    return split
