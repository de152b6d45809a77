"""The recipes of docs/porting.md: read from that page, applied to a clone of the codebase that each is for, and taken back.

Nothing is written before every place of a recipe was found exactly once; what was done is kept in the clone, for taking it back.
"""

import difflib
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from anomaly_detection.config.paths import SHIPPED
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file

RECIPES = ("dpa", "ganomaly", "memae", "f_anogan")
RECORD = ".maddr_port.json"
ADAPTED = (r"(DOMAINS = ){.*}(.*)", r"(.*MADDRConstraint\()[^)]*(\).*)")  # lines that the page asks users to adapt: what stays is in groups

PAGE = SHIPPED / "docs" / "porting.md"
_LOSSES = Path(__file__).resolve().parent / "MADDR_dpa" / "rec_losses.py"


@dataclass(frozen=True)
class Hunk:
    """A change at one place of a file.

    Args:
        file: relative to the clone, with forward slashes.
        scope: "class NAME" where the place is looked for in that class alone, "" for the whole file.
        lines: of the place, without line endings, each with its sign before it: " " stays, "-" goes, "+" comes.
    """

    file: str
    scope: str
    lines: tuple[str, ...]

    def before(self) -> list[str]:
        return [line[1:] for line in self.lines if line[0] != "+"]

    def reverse(self) -> "Hunk":
        return Hunk(self.file, self.scope, tuple({"+": "-", "-": "+"}.get(line[0], " ") + line[1:] for line in self.lines))


@dataclass(frozen=True)
class Recipe:
    """What the page says of one codebase.

    Args:
        name: the command's word for it; one of RECIPES.
        repository: its address.
        commit: the one that the recipe was written for.
        destination: where rec_losses.py goes, relative to the clone.
        hunks: the changes, in the page's order.
        then: what remains to be done by hand, one line.
    """

    name: str
    repository: str
    commit: str
    destination: str
    hunks: tuple[Hunk, ...]
    then: str

    def files(self) -> list[str]:
        """The files that it changes, each once."""
        return list(dict.fromkeys(hunk.file for hunk in self.hunks))

    def size(self) -> str:
        """The number of lines that it changes, such as "+11 -2 in 1 file"."""
        signs = [line[0] for hunk in self.hunks for line in hunk.lines]
        files = len(self.files())
        return f"+{signs.count('+')} -{signs.count('-')} in {files} {'file' if files == 1 else 'files'}"


@dataclass(frozen=True)
class Change:
    """A file's bytes before and after; None where there is no such file."""

    path: Path
    before: bytes | None
    after: bytes | None


# --- The page ----------------------------------------------------------------------------------------------------------------------------


def read_recipes() -> dict[str, Recipe]:
    """The recipes of docs/porting.md by name.

    Raises:
        UserError: the page is not there.
    """
    try:
        page = PAGE.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{PAGE}: the page with the recipes is not there; install the package again") from None
    return {recipe.name: recipe for recipe in parse_recipes(page)}


def parse_recipes(page: str) -> list[Recipe]:
    """The sections of the page whose heading is ``TITLE (`port NAME`)``.

    Each holds a line ``Repository: ADDRESS, commit `HASH`.``, one ``Copy `...rec_losses.py` to `PATH`.``, a paragraph ``Then: ...``, and ```diff
    blocks, each below a line that is the path of its file in backquotes and a colon.

    Raises:
        ValueError: a section lacks one of these, or a block does not stand below a path.
    """
    sections = re.findall(r"^## [^\n]*\(`port (\w+)`\)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return [_parse_recipe(name, text) for name, text in sections]


def _parse_recipe(name: str, text: str) -> Recipe:
    repository = re.search(r"^Repository: (\S+), commit `(\w+)`", text, re.MULTILINE)
    copy = re.search(r"^Copy `\S*rec_losses\.py` to `([^`]+)`\.$", text, re.MULTILINE)
    then = re.search(r"^Then: (.+?)\n\n", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^`([^`\n]+)`:\n\n```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if not (repository and copy and then and blocks) or len(blocks) != text.count("```diff"):
        raise ValueError(f"recipe {name}: lacks its repository, copy or then line, or a block does not stand below the path of its file")
    hunks = tuple(hunk for file, block in blocks for hunk in _parse_block(file, block))
    return Recipe(name, repository[1], repository[2], copy[1], hunks, " ".join(then[1].split()))


def _parse_block(file: str, block: str) -> list[Hunk]:
    places = re.split(r"^@@ ?(.*)\n", "@@\n" + block, flags=re.MULTILINE)[1:]
    pairs = zip(places[::2], places[1::2], strict=True)
    return [Hunk(file, scope, tuple(line or " " for line in text.splitlines())) for scope, text in pairs if text]


# --- What is to be written ----------------------------------------------------------------------------------------------------------------


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
    made = [hunk for hunk in hunks if _places(_split(files[hunk.file]), _as_adapted(hunk.reverse(), files[hunk.file]))]
    copy, losses = clone / recipe.destination, _LOSSES.read_bytes()
    if record is not None and len(made) == len(hunks) and copy.exists():
        return []
    if made:
        first = next(line[1:].strip() for line in made[0].lines if line[0] == "+")
        raise UserError(
            f"{clone / made[0].file}: holds the recipe already, or a part of it (`{first}`); git checkout removes it. Nothing was changed"
        )
    there = _read(copy) if copy.exists() else None
    replaced = None if there is None else _decode(there)
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
    replaced = None if record.replaced is None else _encode(record.replaced)
    return [*_edits(clone, files, hunks), Change(copy, losses, replaced), Change(clone / RECORD, _read(clone / RECORD), None)]


def _as_adapted(undoing: Hunk, content: bytes) -> Hunk:
    """A hunk that takes lines out, with those that the page asks users to adapt as the file has them now."""
    texts = [_text(line) for line in _split(content)]

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


# --- Places and lines ---------------------------------------------------------------------------------------------------------------------


def _edits(clone: Path, files: dict[str, bytes], hunks: Sequence[Hunk]) -> list[Change]:
    """The files with all hunks made. Places are those of the files as they are, so that one hunk does not hide or make another's."""
    changes = []
    for file, content in files.items():
        lines = _split(content)
        located = [(_place(clone, lines, hunk), hunk) for hunk in hunks if hunk.file == file]
        for at, hunk in sorted(located, key=lambda pair: pair[0], reverse=True):
            end = at + len(hunk.before())
            lines[at:end] = _changed(lines[at:end], hunk, _ending(lines[0]) or "\n")
        changes.append(Change(clone / file, content, _encode("".join(lines))))
    return changes


def _place(clone: Path, lines: list[str], hunk: Hunk) -> int:
    places = _places(lines, hunk)
    if len(places) == 1:
        return places[0]
    path, old = clone / hunk.file, hunk.before()
    where = f" in {hunk.scope}" if hunk.scope else ""
    if places:
        numbers = ", ".join(str(place + 1) for place in places)
        raise UserError(f"{path}: `{old[0].strip()}` stands {len(places)} times{where} (lines {numbers}), not once. Nothing was changed")
    present = {_text(lines[i]) for i in _scope(lines, hunk.scope)}
    missing = next((line for line in old if line not in present), None)
    told = f"the line `{missing.strip()}` does not stand" if missing is not None else f"the lines from `{old[0].strip()}` on do not stand together"
    raise UserError(f"{path}: {told} there{where}. Nothing was changed")


def _places(lines: list[str], hunk: Hunk) -> list[int]:
    old, texts = hunk.before(), [_text(line) for line in lines]
    scope = _scope(lines, hunk.scope)
    return [i for i in scope if i + len(old) <= scope.stop and texts[i : i + len(old)] == old]


def _scope(lines: list[str], scope: str) -> range:
    """The lines of a class: from its head to the next line that is indented no further. Empty where it is not there exactly once."""
    if not scope:
        return range(len(lines))
    heads = [i for i, line in enumerate(lines) if re.match(rf"\s*{re.escape(scope)}\b", line)]
    if len(heads) != 1:
        return range(0)
    ends = (i for i in range(heads[0] + 1, len(lines)) if lines[i].strip() and _indent(lines[i]) <= _indent(lines[heads[0]]))
    return range(heads[0], next(ends, len(lines)))


def _changed(block: list[str], hunk: Hunk, newline: str) -> list[str]:
    """The lines of a place with a hunk made. Lines that stay keep their ending; a file that ended without one still does."""
    newline = _ending(block[0]) or newline
    old = iter(block)
    result = []
    for line in hunk.lines:
        kept = line[1:] + newline if line[0] == "+" else next(old)
        if line[0] != "-":
            result.append(kept)
    if not _ending(block[-1]):
        result = [_text(line) + (_ending(line) or newline) for line in result]
        result[-1] = _text(result[-1])
    return result


def _split(content: bytes) -> list[str]:
    """The lines with their endings; only line feeds divide them, as they do in git."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", _decode(content))


def _ending(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else ""


def _text(line: str) -> str:
    return line[: len(line) - len(_ending(line))]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# --- Showing and writing --------------------------------------------------------------------------------------------------------------------


def show(changes: Sequence[Change], clone: Path) -> str:
    """A unified diff of the edited files, and a line for each file that comes, goes or is replaced whole."""
    parts = []
    for change in changes:
        name = change.path.relative_to(clone).as_posix()
        if change.before is None or change.after is None or change.path.name in (_LOSSES.name, RECORD):
            verb = "new" if change.before is None else "deleted" if change.after is None else "replaced"
            parts.append(f"{name}: {verb}\n")
        else:
            before, after = ([_text(line) + "\n" for line in _split(content)] for content in (change.before, change.after))
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
