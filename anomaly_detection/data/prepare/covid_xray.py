"""Chest radiographs: the Shenzhen set, to which the MADDR authors link, or folders of normal and of COVID-19 X-rays."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from anomaly_detection.data.formats.pictures import is_picture
from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.data.prepare.options import DOWNLOADS
from anomaly_detection.data.prepare.pictures import PictureJob, picture_names
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)

SHOWN = 8  # folders whose images are left alone

_SHENZHEN = re.compile(r"CHNCXR_(\d{4})_([01])", re.IGNORECASE)


def plan(where: Path, files: Sequence[SourceFile], window: WindowChoice = None) -> list[PictureJob]:
    """A job for each radiograph; by the names of the Shenzhen set where these are there, else by folders. Masks are left alone, and so are
    other images, such as those of a third folder, which is told.

    Every radiograph of Shenzhen is another patient, in however many formats or sizes it is there; for other sets see `settle_patients`.

    Raises:
        UserError: normal or abnormal images are missing.
    """
    images = [file for file in files if is_picture(file.name) and not re.search(r"mask", file.folder, re.IGNORECASE)]
    named = [(file, bool(int(match[2]))) for file in images if (match := _SHENZHEN.fullmatch(file.stem))]
    found = named or _by_folder(images)
    for abnormal, kind in ((False, "normal"), (True, "abnormal")):
        if abnormal not in {own for _, own in found}:
            raise UserError(f"{where}: no {kind} X-ray is there; what is needed is {DOWNLOADS['covid_xray']}")
    names = picture_names([file for file, _ in found])
    patients = [file.stem.upper() if named else "" for file, _ in found]
    return [PictureJob((file,), *told, abnormal, window) for (file, abnormal), *told in zip(found, names, patients, strict=True)]


def _by_folder(images: Sequence[SourceFile]) -> list[tuple[SourceFile, bool]]:
    """The images in folders whose names say normal or abnormal, and which; a warning names the folders of the others.

    A folder in which both kinds lie, as that of a whole archive, says nothing: `COVID-19_Radiography_Dataset`, which holds `Normal`.
    """
    said = {image: _saying_folder(image.folder) for image in images}
    kinds = {folder: folder.rpartition("/")[2].lower().startswith("covid") for folder in said.values() if folder}
    both = {folder for folder in kinds for other in kinds if other.startswith(f"{folder}/") and kinds[other] != kinds[folder]}
    found = [(image, kinds[folder]) for image, folder in said.items() if folder and folder not in both]
    left = sorted({image.folder for image in images} - {image.folder for image, _ in found})
    if found and left:
        count, names = len(images) - len(found), ", ".join(folder or "." for folder in left[:SHOWN])
        logger.warning("left alone: %d images in folders that are called neither normal nor covid: %s", count, names)
    return found


def _saying_folder(folder: str) -> str | None:
    """The path of the last folder on the way that is called normal or covid."""
    parts = folder.split("/")
    depths = [depth for depth, part in enumerate(parts, 1) if part.lower().startswith(("normal", "covid"))]
    return "/".join(parts[: depths[-1]]) if depths else None
