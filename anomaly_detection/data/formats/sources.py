"""The files of a download, in folders and in zip archives alike.

An archive is never unpacked: its members are read where they lie, so no name in it can reach a path outside, and a source is never changed.
"""

import functools
import os
import shutil
import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from anomaly_detection.system.errors import UserError

FORMATS = "PNG, JPEG, TIFF, BMP, DICOM and NIfTI files are read"
MAX_MEMBER = 8 * 2**30  # bytes; the largest public CT volumes unpack to 1 GiB
MAX_MEMBERS = 2_000_000


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file of a download.

    Attributes:
        name: its path below the folder or archive that was listed, with "/" between.
        path: the file, or the archive that holds it.
        member: its name in the archive; None for a file of its own.
        size: bytes.
    """

    name: str
    path: Path
    member: str | None
    size: int

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    @property
    def stem(self) -> str:
        """The file's name without folders and without its suffix (.nii.gz is one)."""
        base = PurePosixPath(self.name).name
        return base[: -len(".nii.gz")] if base.lower().endswith(".nii.gz") else PurePosixPath(base).stem

    @property
    def folder(self) -> str:
        """The folder it lies in, below the one that was listed; "" for that one itself."""
        return "" if "/" not in self.name else self.name.rpartition("/")[0]

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A path under which it can be read: its own, or that of a copy out of the archive which is deleted afterwards.

        A UserError that names the copy is made to name the member.

        Raises:
            UserError: a member of an archive is damaged, or there is no room for its copy.
        """
        if self.member is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / PurePosixPath(self.name).name
            try:
                with _open_archive(self.path).open(self.member) as packed, open(copy, "wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 2**20)
            except Exception as error:  # zipfile raises BadZipFile, zlib.error, EOFError, NotImplementedError, OSError and more
                raise UserError(f"{self}: cannot be unpacked ({one_line(error)}); download it again, or make room in {folder}") from None
            try:
                yield copy
            except UserError as error:
                raise UserError(str(error).replace(str(copy), str(self))) from None


def list_source(source: Path) -> list[SourceFile]:
    """Every file below a folder, and every member of the zip archives there or of the one that `source` is, in order of their names; or the one file.

    Hidden files, links to folders and what macOS adds to archives are left out. The folder of an archive's members is the archive's path
    without its suffix.

    Raises:
        UserError: there is no such file or folder, or an archive is damaged, encrypted or unsafe: it names paths outside, holds links, or members
            that would unpack to more than 8 GiB.
    """
    source = Path(source)
    if source.is_file():
        own = SourceFile(source.name, source, None, source.stat().st_size)
        return sorted(_members(source, "")) if source.suffix.lower() == ".zip" else [own]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    found: list[SourceFile] = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder) / name
            relative = path.relative_to(source).as_posix()
            if name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() == ".zip":
                found += _members(path, relative[: -len(".zip")] + "/")
            else:
                found.append(SourceFile(relative, path, None, path.stat().st_size))
    return sorted(found)


def list_inputs(inputs: Sequence[Path]) -> list[tuple[str, SourceFile]]:
    """The files of several sources, see `list_source`, each with a name of its own: its path below its source, and before it, where two files
    would share that, as many of the folders above as tell their sources apart.
    """
    folders = [_folder_of(Path(os.path.abspath(path))) for path in inputs]
    distinct = list(dict.fromkeys(folders))
    labels = unique_names([["/".join(folder.parts[-count:]) for count in range(1, max(2, len(folder.parts)))] for folder in distinct])
    label_of = dict(zip(distinct, labels, strict=True))
    files = [(label_of[folder], file) for folder, path in zip(folders, inputs, strict=True) for file in list_source(path)]
    names = unique_names([(file.name, f"{label}/{file.name}") for label, file in files])
    return [(name, file) for name, (_, file) in zip(names, files, strict=True)]


def _folder_of(source: Path) -> Path:
    """The folder whose name stands for the files of a source; an archive is one."""
    if source.is_dir():
        return source
    return source.with_suffix("") if source.suffix.lower() == ".zip" else source.parent


def unique_names(candidates: Sequence[Sequence[str]]) -> list[str]:
    """A name for each of several sources: of its candidates, short ones first, the first that it need not share; else the last, with a number.

    Two names count as one where they differ in upper and lower case alone, since there are file systems that do not tell these apart.
    """
    names = [each[0] for each in candidates]
    for level in range(1, max(map(len, candidates), default=0)):
        counts = Counter(name.lower() for name in names)
        names = [each[min(level, len(each) - 1)] if counts[name.lower()] > 1 else name for name, each in zip(names, candidates, strict=True)]
    taken: set[str] = set()
    for place, name in enumerate(names):
        number = 1
        while names[place].lower() in taken:
            number += 1
            names[place] = f"{name}~{number}"
        taken.add(names[place].lower())
    return names


def one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _members(archive: Path, folder: str) -> Iterator[SourceFile]:
    try:
        members = _open_archive(archive).infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{archive}: a damaged zip archive ({one_line(error)}); download it again") from None
    if len(members) > MAX_MEMBERS:
        raise UserError(f"{archive}: holds {len(members)} files, which no dataset does; nothing of it was read")
    for member in members:
        _check_member(archive, member)
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if not member.is_dir() and path.parts[0] != "__MACOSX" and not path.name.startswith("."):
            yield SourceFile(folder + path.as_posix(), archive, member.filename, member.file_size)


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not name.parts or ":" in name.parts[0]:
        raise UserError(f"{archive}: unsafe archive, it names a path outside ({member.filename!r}); nothing of it was read")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{archive}: unsafe archive, it holds a link ({member.filename!r}); nothing of it was read")
    if member.file_size > MAX_MEMBER:
        size = f"{member.file_size / 2**30:.0f} GiB"
        raise UserError(f"{archive}: unsafe archive, {member.filename!r} would unpack to {size}; nothing of it was read")
    if member.flag_bits & 1:
        raise UserError(f"{archive}: {member.filename!r} is encrypted; unpack the archive with its password first")


def _open_archive(path: Path) -> zipfile.ZipFile:
    """The archive, whose list of members is read once in each process; a forked one must not share the open file of its parent."""
    return _open_archive_once(path, path.stat().st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=8)
def _open_archive_once(path: Path, _changed: int, _process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
