"""Archives that lie beside what was unpacked from them, whose images would count twice."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from anomaly_detection.data.formats.sources import SourceFile, same_name

MOST = 64  # files of one name and size that are compared with a member


def copies(files: Sequence[SourceFile]) -> tuple[SourceFile, SourceFile] | None:
    """A file that is there twice, with the other one: by its name, or as member of an archive whose largest member lies elsewhere, too.

    Names alone do not tell, since the slices of all patients may be named alike; so of equal names and sizes the contents are compared.
    """
    names: dict[str, SourceFile] = {}
    for file in files:
        other = names.setdefault(file.name, file)
        if other is not file:
            return file, other
    alike: dict[tuple[str, int], list[SourceFile]] = defaultdict(list)
    for file in files:
        alike[_base(file), file.size].append(file)
    for member in _largest_members(files):
        for other in alike[_base(member), member.size][:MOST]:
            if _archive(other) != _archive(member) and other.checksum() == member.checksum():
                return member, other
    return None


def _largest_members(files: Sequence[SourceFile]) -> Iterator[SourceFile]:
    """Of each archive the member that surely is content, not a note beside it."""
    largest: dict[tuple, SourceFile] = {}
    for file in files:
        if file.member is not None and file.size > largest.setdefault(_archive(file), file).size:
            largest[_archive(file)] = file
    yield from largest.values()


def _archive(file: SourceFile) -> tuple | None:
    return None if file.member is None else (file.path, file.within)


def _base(file: SourceFile) -> str:
    return same_name(PurePosixPath(file.name).name)
