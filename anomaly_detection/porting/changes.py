"""What is to be written into a clone: shown first, then written whole, all of it or nothing."""

import difflib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_detection.porting.lines import split, text_of
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file

LOSSES = Path(__file__).resolve().parents[1] / "MADDR_dpa" / "rec_losses.py"
RECORD = ".maddr_port.json"


@dataclass(frozen=True)
class Change:
    """A file's bytes before and after; None where there is no such file."""

    path: Path
    before: bytes | None
    after: bytes | None


def show(changes: Sequence[Change], clone: Path) -> str:
    """A unified diff of the edited files, and a line for each file that comes, goes or is replaced whole."""
    parts = []
    for change in changes:
        name = change.path.relative_to(clone).as_posix()
        if change.before is None or change.after is None or change.path.name in (LOSSES.name, RECORD):
            verb = "new" if change.before is None else "deleted" if change.after is None else "replaced"
            parts.append(f"{name}: {verb}\n")
        else:
            before, after = ([text_of(line) + "\n" for line in split(content)] for content in (change.before, change.after))
            parts.append("".join(difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")))
    return "".join(parts).encode("utf-8", "replace").decode()


def write(changes: Sequence[Change]) -> None:
    """Write every file whole, and all of them or none.

    Raises:
        UserError: a file cannot be written; those written before it are as they were.
    """
    for change in changes:
        if change.before is not None and not change.path.stat().st_mode & 0o200:
            raise UserError(f"{change.path}: is read-only; make it writable first. Nothing was changed")
    begun = []
    try:
        for change in changes:
            begun.append(change)
            _put(change.path, change.after)
    except BaseException as error:
        _restore(begun)
        if isinstance(error, OSError):
            raise UserError(f"{begun[-1].path}: {error.strerror or error}; every file is as it was") from None
        raise


def _restore(begun: Sequence[Change]) -> None:
    broken = []
    for change in reversed(begun):
        try:
            if (change.path.read_bytes() if change.path.exists() else None) != change.before:
                _put(change.path, change.before)
        except OSError as error:
            broken.append(f"{change.path} ({error.strerror or error})")
    if broken:
        raise UserError(f"these files could not be written, and not be put back either: {', '.join(broken)}; git checkout restores them") from None


def _put(path: Path, content: bytes | None) -> None:
    path = path.resolve()
    if content is None:
        path.unlink()
        return
    with whole_file(path) as partial:
        partial.write_bytes(content)
        if path.exists():
            shutil.copymode(path, partial)
