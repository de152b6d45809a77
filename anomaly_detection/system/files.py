"""Files and folders that are written whole or not at all, and files that people edit, read as their programs save them."""

import codecs
import csv
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from anomaly_detection.system.errors import UserError

_LINE = re.compile(r".*\n|.+")  # of what `read_text` returns, with its end
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")  # what `_partial` makes
_AT_WORK = 24 * 60 * 60  # seconds within which who writes a file adds to it
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
LONGEST = 255  # bytes that the file systems of Linux, macOS and Windows hold in one name
SHORTENED = 200
# UTF-32 first: its mark begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@contextmanager
def whole_file(path: Path, await_disk: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it to `path` when the block ends well, delete it when it does not.

    A process that is killed inside the block leaves `path` as it was, and a temporary file, which goes when `path` is written a day later. The data
    reaches the disk before the move. An error of the disk, which names no file where it comes from a write, names `path`.

    Args:
        path: of the file.
        await_disk: False for one of many small files, since a disk takes longer for each than reading and writing the image in it: whoever writes
            them calls `wait_for_disk` for all, and trusts none of them before. A machine that stops in between may leave some empty. What
            killed processes left is not looked for.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if await_disk:
        delete_partials(path.parent, glob.escape(path.name))
    partial = _partial(path)
    try:
        yield partial
        if await_disk or not hasattr(os, "sync"):
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None and error.errno in _OF_WRITING:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    """A name beside a path that nobody else takes: containers that share a disk have the same numbers of processes, and the same one after a kill."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def is_abandoned(path: Path) -> bool:
    """Whether a file is one that `whole_file` had not ended, by a process that was killed: nobody has added to it for a day."""
    return _PARTIAL.fullmatch(path.name) is not None and time.time() - path.stat().st_mtime > _AT_WORK


def delete_partials(folder: Path, names: str = "*", alone: bool = False) -> None:
    """Delete what processes that were killed left of writing files by `whole_file`.

    Args:
        folder: of the files.
        names: of the files, a pattern.
        alone: whether nobody else can be at one of them, as who holds their lock knows; else only what is a day old goes.
    """
    for path in folder.glob(f".{names}.????????.partial"):
        with suppress(OSError):  # another process does the same; Windows keeps a file that is in use
            if alone or is_abandoned(path):
                path.unlink()


def wait_for_disk() -> None:
    """Wait until all that was written so far, by whomever, is on disk; at once where the system cannot (`whole_file` waits for each file there)."""
    if hasattr(os, "sync"):
        os.sync()


def short_hash(path: Path) -> str:
    """The beginning of a file's SHA-256, by which two are told apart."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def fitting_name(name: str) -> str:
    """The name of a file or folder as it is, where a file system can hold it; else its beginning and a hash of the whole, in `SHORTENED` bytes."""
    encoded = name.encode()
    if len(encoded) <= LONGEST:
        return name
    end = f"...{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: SHORTENED - len(end)].decode(errors="ignore") + end  # a character that the cut halves is left out


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it becomes `path` when the block ends well, and is deleted when it does not.

    It lies beside `path`, or in the empty folder that is there, which stays and gets what it holds: that may be a link, a mount point or the working
    folder.

    Raises:
        UserError: `path` holds something.
    """
    path = Path(os.path.realpath(path))
    there = path.exists()
    if there and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists and is not an empty folder; name a new one, or delete this one first")
    partial = _partial(path / "all" if there else path)
    try:
        partial.mkdir(parents=True)
        yield partial
        if there:
            for entry in list(partial.iterdir()):
                os.replace(entry, path / entry.name)
        else:
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file for people and programs."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, kinds: Mapping[str, type] = MappingProxyType({}), remedy: str = "delete the file") -> dict[str, Any]:
    """What `write_json` wrote.

    Args:
        path: of the file.
        kinds: the keys that must be there, each with the type of its value.
        remedy: what to do with a damaged one before the same command is run again.

    Raises:
        UserError: the file is missing or damaged, or lacks a key.
    """
    content: Any = None
    text = read_text(path)
    try:
        content = json.loads(text)
        damage = None if isinstance(content, dict) else "not a JSON object"
    except ValueError as error:
        damage = str(error)
    damage = damage or next((f"no {key} in it" for key, kind in kinds.items() if not isinstance(content.get(key), kind)), None)
    if damage:
        raise UserError(f"{path}: damaged ({damage}); {remedy} and run the same command again")
    return content


def read_text(path: Path) -> str:
    r"""The text of a file that people edit, as their programs save it, with "\n" at the end of each line.

    UTF-8 with or without a mark at its beginning, UTF-16 and UTF-32 with one; what is none of these is read as Windows-1252, in which spreadsheets
    of Western Europe save CSV.

    Raises:
        UserError: the file is missing, cannot be read, or is no text.
    """
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    text = _decoded(data)
    if text is None or "\0" in text:
        raise UserError(f"{path}: not a text file; save it again as text in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes) -> str | None:
    """Bytes as text; None where they are none."""
    mark, marked = next(((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), (b"", None))
    for encoding in (marked,) if marked else ("utf-8", "cp1252"):
        try:
            return data[len(mark) :].decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def read_table(path: Path, kinds: Mapping[str, Callable[[str], Any]], rest: Callable[[str], Any] = str) -> list[dict[str, Any]]:
    """The lines of a CSV file; see `table_lines`."""
    return list(table_lines(path, kinds, rest))


def table_lines(path: Path, kinds: Mapping[str, Callable[[str], Any]], rest: Callable[[str], Any] = str) -> Iterator[dict[str, Any]]:
    """The lines of a CSV file by the names in its header, as spreadsheets save it again.

    Between the cells stand commas, semicolons or tabs, whichever the header has more of; where it is not commas, a number may have a decimal comma.
    Empty lines count for nothing, and a line may lack empty cells at its end, or have more of them.

    Args:
        path: of the file, see `read_text`.
        kinds: the columns that must be there, each with what makes a value of its text and raises ValueError where that cannot be: str, int, ...
        rest: the same for all other columns.

    Raises:
        UserError: the file is missing or no table, lacks a column, or holds a cell that is not of its kind; it names file, line and column.
    """
    text = read_text(path)
    delimiter = _delimiter(text.partition("\n")[0])
    reader = csv.reader((line[0] for line in _LINE.finditer(text)), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        while header and not header[-1]:
            header.pop()
        for name in kinds:
            if header.count(name) != 1:
                raise UserError(f"{path}: has {header.count(name) or 'no'} columns {name!r}; its first line is {', '.join(header) or 'empty'}")
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if any(map(str.strip, cells[len(header) :])):
                raise UserError(f"{path}:{reader.line_num}: {len(cells)} cells, where the first line has {len(header)}")
            cells += [""] * (len(header) - len(cells))
            pairs = zip(header, cells, strict=False)
            yield {name: _value(kinds.get(name, rest), cell, delimiter, f"{path}:{reader.line_num}: {name}") for name, cell in pairs}
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a line of a table ({error})") from None


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as a CSV file; a value of None, and one that is not there, is an empty cell."""
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def optional(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """The kind of a column of `read_table` whose cells may be empty, which is None then."""

    def convert(text: str) -> Any:
        return kind(text) if text.strip() else None

    return convert


def _delimiter(header: str) -> str:
    """What stands between the cells of a table: what there is most of in its first line, of commas where that is none."""
    return max(",;\t", key=header.count)


def _value(kind: Callable[[str], Any], cell: str, delimiter: str, where: str) -> Any:
    try:
        return kind(cell)
    except ValueError:
        if delimiter != "," and re.fullmatch(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*", cell):
            return _value(kind, cell.replace(",", "."), ",", where)
        raise UserError(f"{where}: {cell!r} will not do ({_expected(kind)})") from None


def _expected(kind: Callable[[str], Any]) -> str:
    return {int: "a whole number is needed", float: "a number is needed"}.get(kind, "another kind of value is needed")
