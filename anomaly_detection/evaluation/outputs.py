"""The files that `predict` writes: names that are never two files' at once, and how its own are known again."""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from PIL import Image, PngImagePlugin

from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_text

TABLE = "predictions.csv"
PATIENTS = "patients.csv"
OVERLAYS = "overlays"
ENDING = "_overlay.png"
MARK = "anomaly_detection predict"  # the text "Software" in the PNG files
LONGEST = 255  # bytes that file systems take for a name

_FORMAT = re.compile(r"\.(png|jpe?g|tiff?|bmp|dcm|dicom|ima|nii(\.gz)?)(?=(#\d+)?$)", re.IGNORECASE)
_TABLES = {TABLE: r"\W*image\W.*\Wcalibrated_score\W", PATIENTS: r"\W*patient\W.*\Wworst_slices\W"}  # how their first lines are known
_NOWHERE = re.compile(r'[<>:"\\|?*\x00-\x1f]')  # in no name on Windows


class Names:
    """Hands out names, none of them twice; names that a file system may take for one, in upper and lower case or with accents, are the same."""

    def __init__(self):
        self._taken: set[str] = set()

    def take(self, *candidates: str) -> str:
        """The first of the candidates that is free; else the last, with a number before its suffix."""
        last = PurePosixPath(candidates[-1])
        numbered = (str(last.with_stem(f"{last.stem}~{number}")) for number in itertools.count(2))
        name = next(name for name in itertools.chain(candidates, numbered) if _alike(name) not in self._taken)
        self._taken.add(_alike(name))
        return name


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def printable(text: str) -> str:
    """Text with the bytes of file names that are no UTF-8 written as %E9, so that any file can hold it."""
    return re.sub(r"[\ud800-\udfff]", lambda match: f"%{ord(match[0]) & 0xFF:02X}", text)


def overlay_names(image: str) -> tuple[str, str]:
    """What the overlay of an image may be called, `a/x_overlay.png` of `a/x.png`; the second where the first is another's."""
    return _file_name(_FORMAT.sub("", image)), _file_name(image)


def _file_name(image: str) -> str:
    *folders, name = _NOWHERE.sub(lambda match: f"%{ord(match[0]):02X}", image).split("/")
    return "/".join([*(_shortened(folder, 0) for folder in folders), _shortened(name, len(ENDING) + 8) + ENDING])


def _shortened(name: str, left: int) -> str:
    """A name cut so that so many more characters may follow it."""
    return name.encode()[: LONGEST - left].decode(errors="ignore")


def check_free(path: Path) -> None:
    """Raise UserError where a file that `predict` has not written has the name of one that it writes."""
    if path.exists() and not (is_table if path.name in _TABLES else _is_overlay)(path):
        raise UserError(f"{path}: is there, and `predict` has not written it; name another --output")


def save_overlay(picture: Image.Image, path: Path) -> None:
    """Write an overlay with the mark by which `is_own` knows it.

    Raises:
        UserError: another file has its name.
    """
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", MARK)
    picture.save(path, compress_level=1, pnginfo=text)  # a third of the time, a tenth more bytes


def is_own(file: SourceFile) -> bool:
    """Whether `predict` wrote a file: an overlay, or a table beside them."""
    test = _is_overlay if file.name.lower().endswith(ENDING) else is_table if file.name.rpartition("/")[2] in _TABLES else None
    if test is None:
        return False
    try:
        with file.on_disk() as path:
            return test(path)
    except (OSError, UserError):  # it is told when it is read
        return False


def _is_overlay(path: Path) -> bool:
    with open(path, "rb") as file:
        return b"tEXtSoftware\0" + MARK.encode() in file.read(256)


def is_table(path: Path) -> bool:
    """Whether a file is a predictions.csv or patients.csv, perhaps saved again by a spreadsheet."""
    try:
        return re.match(_TABLES[path.name], read_text(path)) is not None
    except UserError:
        return False


def remove_stale(folder: Path, written: Iterable[Path]) -> int:
    """Remove the overlays in a folder that are not among those just written, and the folders that are empty then; returns how many there were."""
    kept = {_identity(path) for path in written}
    stale = [path for path in folder.rglob(f"*{ENDING}") if _is_overlay(path) and _identity(path) not in kept]
    for path in stale:
        path.unlink()
    for parent in sorted({parent for path in stale for parent in path.parents if folder in (parent, *parent.parents)}, reverse=True):
        if not any(parent.iterdir()):
            parent.rmdir()
    return len(stale)


def _identity(path: Path) -> tuple[int, int]:
    """What tells files apart where names differ in upper and lower case alone."""
    return os.stat(path).st_dev, os.stat(path).st_ino
