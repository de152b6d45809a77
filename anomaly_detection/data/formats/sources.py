"""The files of a download, in folders and in zip archives alike.

An archive is never unpacked: its members are read where they lie, so no name in it can reach a path outside, and a source is never changed.
"""

import logging
import os
import re
import shutil
import tempfile
import unicodedata
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO

from anomaly_detection.data.formats.archives import checksum, is_archive, members, one_line, open_member
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)

FORMATS = "PNG, JPEG, TIFF, BMP, DICOM and NIfTI files are read"


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file of a download.

    Attributes:
        name: its path below the folder or archive that was listed, with "/" between.
        path: the file, or the archive that holds it.
        member: its name in the archive; None for a file of its own.
        size: bytes.
        within: where the archive holds archives, the name of the one that `member` lies in.
        origin: what tells the source below which it was listed from the others, see `list_inputs`; "" where none were.
    """

    name: str
    path: Path
    member: str | None
    size: int
    within: str | None = None
    origin: str = ""

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.path, self.within, self.member) if part is not None)

    @property
    def stem(self) -> str:
        """The file's name without folders and without its suffix (.nii.gz is one)."""
        base = PurePosixPath(self.name).name
        return base[: -len(".nii.gz")] if base.lower().endswith(".nii.gz") else PurePosixPath(base).stem

    @property
    def folder(self) -> str:
        """The folder it lies in, below the one that was listed; "" for that one itself."""
        return "" if "/" not in self.name else self.name.rpartition("/")[0]

    def checksum(self) -> int:
        """The CRC-32 of its content, which of a member the archive knows; -1 where it cannot be read, which whoever needs the content tells."""
        if self.member is not None:
            return checksum(self.path, self.within, self.member)
        value = 0
        try:
            with open(self.path, "rb") as file:
                while block := file.read(2**20):
                    value = zlib.crc32(block, value)
        except OSError:
            return -1
        return value

    def open(self) -> IO[bytes]:
        """Its content from the beginning, of a member as it is unpacked; raises what `open` and zipfile raise, while reading, too."""
        return open(self.path, "rb") if self.member is None else open_member(self.path, self.within, self.member)

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
                with open_member(self.path, self.within, self.member) as packed, open(copy, "wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 2**20)
            except OSError as error:
                raise UserError(f"{self}: cannot be copied out of the archive ({one_line(error)}); make room in {Path(folder).parent}") from None
            except Exception as error:  # zipfile raises BadZipFile, zlib.error, EOFError, NotImplementedError and more
                raise UserError(f"{self}: cannot be unpacked ({one_line(error)}); download it again") from None
            try:
                yield copy
            except UserError as error:
                raise UserError(str(error).replace(str(copy), str(self))) from None


def list_source(source: Path) -> list[SourceFile]:
    """Every file below a folder, and every member of the zip archives there or of the one that `source` is, in order of their names; or the one file.

    Links are followed, and each file is listed once, however many links lead to it. Hidden files, links that lead nowhere (which are told) and
    what macOS adds to archives are left out. The folder of an archive's members is the archive's path without its suffix.

    Raises:
        UserError: there is no such file or folder, a folder must not be read, or an archive is damaged or unsafe, see `archives.members`.
    """
    source = Path(source)
    if source.is_file():
        return sorted(_files_of(source, source.name, ""))
    if not source.is_dir():
        raise UserError(f"{source}: {'a link that leads nowhere' if source.is_symlink() else 'no such file or folder'}")
    files: list[SourceFile] = []
    for path in _walk(source):
        name = path.relative_to(source).as_posix()
        files += _files_of(path, name, name[: -len(".zip")] + "/")
    return sorted(files)


def _files_of(path: Path, name: str, folder: str) -> Iterator[SourceFile]:
    """A file, or, of an archive, its members, whose names begin with `folder`."""
    if is_archive(path.name):
        yield from (SourceFile(folder + each.name, path, each.member, each.size, each.within) for each in members(path))
    else:
        yield SourceFile(name, path, None, path.stat().st_size)


def _walk(source: Path) -> list[Path]:
    """The files below a folder, each once: what lies there itself first, then what links lead to."""
    files: dict[str, Path] = {}  # by the path that no link is on, since that is what tells files apart
    again, dangling = [], []
    folders, links = deque([source]), deque()
    visited: set[str] = set()
    while folders or links:
        path = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(path)
        if real in visited or real in files:
            again.append(path)
        elif path.is_dir():
            visited.add(real)
            for name in _names_in(path):
                entry = path / name
                if entry.is_symlink():
                    (links if os.path.exists(entry) else dangling).append(entry)
                elif entry.is_dir():
                    folders.append(entry)
                elif entry.is_file() and files.setdefault(os.path.join(real, name), entry) is not entry:
                    again.append(entry)
        elif path.is_file():
            files[real] = path
    if dangling:
        logger.warning(
            "warning: %s: %d links lead nowhere and are left out, the first: %s (fetch what they stand for, with git-annex, DVC or the like)",
            source, len(dangling), dangling[0],
        )  # fmt: skip
    if again:
        logger.warning("warning: %s: %d links lead to what is there already, which is taken once; the first: %s", source, len(again), again[0])
    return list(files.values())


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be looked into ({error.strerror}); allow it, or take the folder away") from None


def list_inputs(inputs: Sequence[Path]) -> list[tuple[str, SourceFile]]:
    """The files of several sources, see `list_source`, each with a name of its own: its path below its source, and before it, where two files
    would share that, as many of the folders above as tell their sources apart.
    """
    folders = [_folder_of(Path(os.path.abspath(path))) for path in inputs]
    distinct = list(dict.fromkeys(folders))
    labels = unique_names([["/".join(folder.parts[-count:]) for count in range(1, max(2, len(folder.parts)))] for folder in distinct])
    label_of = dict(zip(distinct, labels, strict=True))
    files = [replace(file, origin=label_of[folder]) for folder, path in zip(folders, inputs, strict=True) for file in list_source(path)]
    names = unique_names([(file.name, f"{file.origin}/{file.name}") for file in files])
    return list(zip(names, files, strict=True))


def _folder_of(source: Path) -> Path:
    """The folder whose name stands for the files of a source; an archive is one."""
    if source.is_dir():
        return source
    return source.with_suffix("") if source.suffix.lower() == ".zip" else source.parent


def unique_names(candidates: Sequence[Sequence[str]]) -> list[str]:
    """A name for each of several sources: of its candidates, short ones first, the first that it need not share; else the last, with a number.

    Two names count as one where they differ in upper and lower case alone, or in how an accent is encoded, since there are file systems that do
    not tell these apart.
    """
    names = [each[0] for each in candidates]
    for level in range(1, max(map(len, candidates), default=0)):
        counts = Counter(map(same_name, names))
        names = [each[min(level, len(each) - 1)] if counts[same_name(name)] > 1 else name for name, each in zip(names, candidates, strict=True)]
    taken: set[str] = set()
    for place, name in enumerate(names):
        number = 1
        while same_name(names[place]) in taken:
            number += 1
            names[place] = f"{name}~{number}"
        taken.add(same_name(names[place]))
    return names


def same_name(name: str) -> str:
    """What is equal of names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def natural(name: str) -> list:
    """A sort key by which image 2 comes before image 10."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", name)]
