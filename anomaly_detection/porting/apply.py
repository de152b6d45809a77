"""A recipe applied to a clone of the codebase that it is for, and taken back.

Nothing is written before every place of a recipe was found exactly once; what was done is kept in the clone, for taking it back.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from anomaly_detection.porting.changes import LOSSES, RECORD, Change
from anomaly_detection.porting.lines import changed, decode, encode, ending, places_of, scope_of, split, text_of
from anomaly_detection.porting.recipes import Hunk, Recipe, read_recipes
from anomaly_detection.system.errors import UserError

ADAPTED = (r"(DOMAINS = ){.*}(.*)", r"(.*MADDRConstraint\()[^)]*(\).*)")  # lines that the page asks users to adapt: what stays is in groups


def port(clone: Path, recipe: Recipe) -> list[Change]:
    """What porting the clone would write; nothing when this command has ported it already.

    Raises:
        UserError: no such folder, another codebase, a place that is missing or stands there twice, or a part of the recipe that is there already.
    """
    _check_codebase(clone, recipe)
    record = _read_record(clone)
    if record is not None and record.recipe != recipe.name:
        raise UserError(f"{clone}: was ported with the recipe {record.recipe}; --undo with that name takes it back")
    files = {file: _read(clone / file) for file in recipe.files()}
    hunks = recipe.hunks if record is None else record.hunks
    made = [hunk for hunk in hunks if places_of(split(files[hunk.file]), _as_adapted(hunk.reverse(), files[hunk.file]))]
    copy, losses = clone / recipe.destination, LOSSES.read_bytes()
    if record is not None and len(made) == len(hunks) and copy.exists():
        return []
    if made:
        first = next(line[1:].strip() for line in made[0].lines if line[0] == "+")
        raise UserError(
            f"{clone / made[0].file}: holds the recipe already, or a part of it (`{first}`); git checkout removes it. Nothing was changed"
        )
    there = _read(copy) if copy.exists() else None
    replaced = None if there is None else decode(there)
    if record is not None and there is not None and _digest(there) == record.digest:
        replaced = record.replaced  # the edits were taken out by other means than --undo, and the copy left behind
    new = _Record(recipe.name, recipe.destination, _digest(losses), replaced, recipe.hunks)
    old = None if record is None else _read(clone / RECORD)
    return [*_edits(clone, files, recipe.hunks), Change(copy, there, losses), Change(clone / RECORD, old, new.to_json())]


def undo(clone: Path, recipe: Recipe) -> list[Change]:
    """What taking the recipe back would write.

    Raises:
        UserError: the clone was not ported by this command, or what the recipe wrote has been edited since.
    """
    _check_codebase(clone, recipe)
    record = _read_record(clone)
    if record is None or record.recipe != recipe.name:
        there = "there is none" if record is None else f"it is of the recipe {record.recipe}"
        raise UserError(f"{clone}: cannot take {recipe.name} back without the record of its port, {RECORD}; {there}")
    hunks = [_as_adapted(hunk.reverse(), _read(clone / hunk.file)) for hunk in record.hunks]
    copy = clone / record.copy
    losses = _read(copy)
    if _digest(losses) != record.digest:
        raise UserError(f"{copy}: was edited after the port; take your edits out, or the recipe with git checkout. Nothing was changed")
    files = {hunk.file: _read(clone / hunk.file) for hunk in hunks}
    replaced = None if record.replaced is None else encode(record.replaced)
    return [*_edits(clone, files, hunks), Change(copy, losses, replaced), Change(clone / RECORD, _read(clone / RECORD), None)]


def _as_adapted(undoing: Hunk, content: bytes) -> Hunk:
    """A hunk that takes lines out, with those that the page asks users to adapt as the file has them now."""
    texts = [text_of(line) for line in split(content)]

    def now(line: str) -> str:
        kind = next((kind for kind in ADAPTED if re.fullmatch(kind, line[1:])), None)
        if line[0] != "-" or kind is None or line[1:] in texts:
            return line
        stays = re.fullmatch(kind, line[1:]).groups()
        alike = [text for text in texts if (match := re.fullmatch(kind, text)) and match.groups() == stays]
        return f"-{alike[0]}" if len(alike) == 1 else line

    return Hunk(undoing.file, undoing.scope, tuple(now(line) for line in undoing.lines))


def _check_codebase(clone: Path, recipe: Recipe) -> None:
    if not clone.is_dir():
        raise UserError(f"{clone}: no such folder; git clone {recipe.repository} makes one (the recipe is for commit {recipe.commit[:10]})")
    missing = _missing(clone, recipe)
    if missing:
        alike = [other for other in read_recipes().values() if not _missing(clone, other)]
        has = f"a clone of {recipe.repository} has it (commit {recipe.commit[:10]})"
        looks = f"; it looks like the codebase of: port {alike[0].name}" if alike else f"; {has}"
        raise UserError(f"{clone}: has no {missing[0]}{looks}. Nothing was changed")


def _missing(clone: Path, recipe: Recipe) -> list[str]:
    return [file for file in recipe.files() if not (clone / file).is_file()]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Nothing was changed") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class _Record:
    """What a port did: the file copied to `copy`, its SHA-256, the text of the file that stood there, and the changes."""

    recipe: str
    copy: str
    digest: str
    replaced: str | None
    hunks: tuple[Hunk, ...]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()


def _read_record(clone: Path) -> _Record | None:
    path = clone / RECORD
    if not path.exists():
        return None
    try:
        values = json.loads(_read(path))
        hunks = tuple(Hunk(hunk["file"], hunk["scope"], tuple(hunk["lines"])) for hunk in values.pop("hunks"))
        return _Record(**values, hunks=hunks)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; take the recipe back with git checkout, and delete it") from None


def _edits(clone: Path, files: dict[str, bytes], hunks: Sequence[Hunk]) -> list[Change]:
    """The files with all hunks made. Places are those of the files as they are, so that one hunk does not hide or make another's."""
    changes = []
    for file, content in files.items():
        lines = split(content)
        located = [(_place(clone, lines, hunk), hunk) for hunk in hunks if hunk.file == file]
        for at, hunk in sorted(located, key=lambda pair: pair[0], reverse=True):
            end = at + len(hunk.before())
            lines[at:end] = changed(lines[at:end], hunk, ending(lines[0]) or "\n")
        changes.append(Change(clone / file, content, encode("".join(lines))))
    return changes


def _place(clone: Path, lines: list[str], hunk: Hunk) -> int:
    places = places_of(lines, hunk)
    if len(places) == 1:
        return places[0]
    path, old = clone / hunk.file, hunk.before()
    where = f" in {hunk.scope}" if hunk.scope else ""
    if places:
        numbers = ", ".join(str(place + 1) for place in places)
        raise UserError(f"{path}: `{old[0].strip()}` stands {len(places)} times{where} (lines {numbers}), not once. Nothing was changed")
    present = {text_of(lines[i]) for i in scope_of(lines, hunk.scope)}
    missing = next((line for line in old if line not in present), None)
    told = f"the line `{missing.strip()}` does not stand" if missing is not None else f"the lines from `{old[0].strip()}` on do not stand together"
    raise UserError(f"{path}: {told} there{where}. Nothing was changed")
