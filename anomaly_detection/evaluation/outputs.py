"""The files that `predict` writes: names that are never two files' at once, and no file of anybody else's."""

import itertools
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from PIL import Image, PngImagePlugin

from anomaly_detection.data.formats.own import ENDING, MARK, is_written
from anomaly_detection.data.formats.sources import same_name
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import LONGEST, is_abandoned, whole_file

MAPS = "maps"
LONGEST_ENDING = 40  # `whole_file` has longer names for a while

_FORMAT = re.compile(r"\.(png|jpe?g|tiff?|bmp|dcm|dicom|ima|nii(\.gz)?)(?=(#\d+)?$)", re.IGNORECASE)
_NOWHERE = re.compile(r'[<>:"\\|?*\x00-\x1f]')  # in no name on Windows


class Names:
    """Hands out names, none of them twice; names that a file system may take for one, in upper and lower case or with accents, are the same."""

    def __init__(self):
        self._taken: set[str] = set()

    def take(self, *candidates: str) -> str:
        """The first of the candidates that is free; else the last, with a number before its suffix."""
        name = next(name for name in itertools.chain(candidates, _numbered(candidates[-1])) if same_name(name) not in self._taken)
        self._taken.add(same_name(name))
        return name


def _numbered(name: str) -> Iterator[str]:
    """`a/x~2.png` and so on."""
    path = PurePosixPath(name)
    for number in itertools.count(2):
        yield str(path.with_stem(f"{path.stem}~{number}"))


def printable(text: str) -> str:
    """Text with the bytes of file names that are no UTF-8 written as %E9, so that any file can hold it."""
    return text if text.isascii() else re.sub(r"[\ud800-\udfff]", lambda match: f"%{ord(match[0]) & 0xFF:02X}", text)


def overlay_names(image: str) -> tuple[str, str]:
    """What the overlay of an image may be called, `a/x_overlay.png` of `a/x.png`; the second where the first is another's."""
    return _file_name(_FORMAT.sub("", image), ENDING), _file_name(image, ENDING)


def map_names(series: str) -> tuple[str, str]:
    """What the maps of a series may be called, up to their endings: `a/v` of `a/v.nii.gz`; the second where the first is another's."""
    return _file_name(_FORMAT.sub("", series), ""), _file_name(series, "")


def _file_name(name: str, ending: str) -> str:
    # what leads up or to the root, as an identifier in a header may, is a name like any other
    parts = [part if part.strip(".") else part.replace(".", "%2E") for part in _NOWHERE.sub(_as_percent, name).split("/") if part]
    *folders, last = parts or [""]
    return "/".join([*(_shortened(folder, 0) for folder in folders), _shortened(last, LONGEST_ENDING + 8) + ending])


def _as_percent(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _shortened(name: str, left: int) -> str:
    """A name cut so that so many more characters may follow it."""
    return name.encode()[: LONGEST - left].decode(errors="ignore")


def check_free(path: Path) -> None:
    """Raise UserError where a file that `predict` has not written has the name of one that it writes."""
    if path.exists() and not is_written(path):
        raise UserError(f"{path}: is there, and `predict` has not written it; name another --output")


def save_overlay(picture: Image.Image, path: Path) -> None:
    """Write an overlay with the mark by which `is_own` knows it.

    Raises:
        UserError: another file has its name.
    """
    check_free(path)
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", MARK)  # at the beginning of the file, where `is_own` looks for it
    with whole_file(path, await_disk=False) as partial:  # no run trusts the overlays of another
        picture.save(partial, "png", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=text)  # a third of the time, a tenth more bytes


def remove_stale(folder: Path, written: Iterable[Path]) -> int:
    """Remove what `predict` wrote into a folder before it wrote some files, and the folders that are empty then; returns how many there were."""
    kept = {_identity(path) for path in written}
    files = (path for path in folder.rglob("*") if path.is_file())
    stale = [path for path in files if is_abandoned(path) or (is_written(path) and _identity(path) not in kept)]
    for path in stale:
        path.unlink()
    for parent in sorted({parent for path in stale for parent in path.parents if folder in (parent, *parent.parents)}, reverse=True):
        if not any(parent.iterdir()):
            parent.rmdir()
    return len(stale)


def _identity(path: Path) -> tuple[int, int]:
    """What tells files apart where names differ in upper and lower case alone."""
    return os.stat(path).st_dev, os.stat(path).st_ino
