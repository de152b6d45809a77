"""The members of zip archives, of archives in archives too, read where they lie: nothing is unpacked under a name that an archive gives."""

import functools
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from anomaly_detection.system.errors import UserError

MAX_MEMBER = 8 * 2**30  # bytes; the largest public CT volumes unpack to 1 GiB
MAX_MEMBERS = 2_000_000
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
METHODS = {9: "Deflate64", 97: "WavPack", 98: "PPMd", 99: "AES encryption", 93: "Zstandard", 95: "XZ"}


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: its path, with "/" between, below the archive; the folder of an inner archive's members is the path of that archive without suffix.
        member: its name in the archive.
        within: the name of the inner archive that it lies in; None for the outer one itself.
        size: bytes.
    """

    name: str
    member: str
    within: str | None
    size: int


def is_archive(name: str) -> bool:
    """Whether its suffix says so."""
    return name.lower().endswith(".zip")


def members(archive: Path, within: str | None = None) -> Iterator[Member]:
    """The files in an archive and in the archives that it holds, but for hidden ones and what macOS adds; archives in these are no more opened.

    Raises:
        UserError: an archive is damaged, encrypted or unsafe: it names paths outside, holds links, or members that would unpack to more than
            8 GiB; or it is compressed as Python cannot undo.
    """
    where = str(archive) if within is None else f"{archive}: {within}"
    try:
        listed = open_archive(archive, within).infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{where}: a damaged zip archive ({one_line(error)}); download it again") from None
    if len(listed) > MAX_MEMBERS:
        raise UserError(f"{where}: holds {len(listed)} files, which no dataset does; nothing of it was read")
    names = set()
    for entry in listed:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if entry.is_dir() and not path.parts:  # `./`, the archive itself
            continue
        _check(where, entry)
        if entry.is_dir() or path.parts[0] == "__MACOSX" or any(part.startswith(".") for part in path.parts):
            continue
        if path in names:
            raise UserError(f"{where}: holds {entry.filename!r} twice; unpack the archive and give the folder")
        names.add(path)
        if is_archive(path.name) and within is None:
            folder = path.as_posix()[: -len(".zip")]
            yield from (inner._replace(name=f"{folder}/{inner.name}") for inner in members(archive, entry.filename))
        else:
            yield Member(path.as_posix(), entry.filename, within, entry.file_size)


def _check(where: str, entry: zipfile.ZipInfo) -> None:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not name.parts or re.fullmatch("[A-Za-z]:", name.parts[0]):
        raise UserError(f"{where}: unsafe archive, it names a path outside ({entry.filename!r}); nothing of it was read")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UserError(f"{where}: unsafe archive, it holds a link ({entry.filename!r}); nothing of it was read")
    if entry.file_size > MAX_MEMBER:
        size = f"{entry.file_size / 2**30:.0f} GiB"
        raise UserError(f"{where}: unsafe archive, {entry.filename!r} would unpack to {size}; nothing of it was read")
    if entry.flag_bits & 1:
        raise UserError(f"{where}: {entry.filename!r} is encrypted; unpack the archive with its password and give the folder")
    if entry.compress_type not in READABLE:
        method = METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        raise UserError(f"{where}: {entry.filename!r} is packed by {method}, which is not read here; unpack the archive and give the folder")


def open_member(archive: Path, within: str | None, member: str) -> IO[bytes]:
    """The unpacked bytes of a member; raises what zipfile raises, while reading, too."""
    return open_archive(archive, within).open(member)


def checksum(archive: Path, within: str | None, member: str) -> int:
    """The CRC-32 of a member, as the archive's directory has it."""
    return open_archive(archive, within).getinfo(member).CRC


def open_archive(path: Path, within: str | None = None) -> zipfile.ZipFile:
    """The archive, whose list of members is read once in each process; a forked one must not share the open file of its parent."""
    return _open_once(path, within, path.stat().st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=8)
def _open_once(path: Path, within: str | None, changed: int, process: int) -> zipfile.ZipFile:
    if within is None:
        return zipfile.ZipFile(path)
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - on disk, as it may be larger than memory; it goes with the archive that reads it
    with _open_once(path, None, changed, process).open(within) as packed:
        shutil.copyfileobj(packed, copy, 2**20)
    return zipfile.ZipFile(copy)


def one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
