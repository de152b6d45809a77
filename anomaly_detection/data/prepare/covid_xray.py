"""Chest radiographs: the Shenzhen set, to which the MADDR authors link, or folders of normal and of COVID-19 X-rays."""

import re
from collections.abc import Sequence
from pathlib import Path

from anomaly_detection.data.formats.pictures import is_picture
from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.data.prepare.options import DOWNLOADS
from anomaly_detection.data.prepare.pictures import PictureJob, picture_names
from anomaly_detection.system.errors import UserError

_SHENZHEN = re.compile(r"CHNCXR_(\d{4})_([01])", re.IGNORECASE)


def plan(where: Path, files: Sequence[SourceFile], window: WindowChoice = None) -> list[PictureJob]:
    """A job for each radiograph; by the names of the Shenzhen set where these are there, else by folders. Masks are left alone.

    Every image of Shenzhen is another patient; for other sets see `settle_patients`.

    Raises:
        UserError: normal or abnormal images are missing.
    """
    images = [file for file in files if is_picture(file.name) and not re.search(r"mask", file.folder, re.IGNORECASE)]
    named = [(file, bool(int(match[2]))) for file in images if (match := _SHENZHEN.fullmatch(file.stem))]
    found = named or [(file, abnormal) for file in images if (abnormal := _kind_of_folder(file.folder)) is not None]
    for abnormal, kind in ((False, "normal"), (True, "abnormal")):
        if abnormal not in {own for _, own in found}:
            raise UserError(f"{where}: no {kind} X-ray is there; what is needed is {DOWNLOADS['covid_xray']}")
    names = picture_names([file for file, _ in found])
    return [PictureJob((file,), name, name if named else "", abnormal, window) for (file, abnormal), name in zip(found, names, strict=True)]


def _kind_of_folder(folder: str) -> bool | None:
    """Whether the folders on the way say abnormal; None where they say nothing."""
    for part in reversed(folder.lower().split("/")):
        if part.startswith(("normal", "covid")):
            return part.startswith("covid")
    return None
