"""Archives that lie beside what was unpacked from them, whose images would count twice."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath

from anomaly_detection.data.formats.dicom import DICOM, START, begins_as_dicom
from anomaly_detection.data.formats.nifti import NIFTI
from anomaly_detection.data.formats.pictures import PICTURES
from anomaly_detection.data.formats.sources import SourceFile, same_name

MOST = 64  # files of one name and size that are compared with a member


def copies(files: Sequence[SourceFile]) -> tuple[SourceFile, SourceFile] | None:
    """A file that is there twice, with the other one: by its name, or as member of an archive whose largest image lies elsewhere, too.

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
    for member in _largest_images(files):
        for other in alike[_base(member), member.size][:MOST]:
            if _archive(other) != _archive(member) and other.checksum() == member.checksum():
                return member, other
    return None


def _largest_images(files: Sequence[SourceFile]) -> Iterator[SourceFile]:
    """Of each archive that holds images the largest: the viewer on the discs of a clinic may be larger, and is on those of all patients."""
    archives: dict[tuple, list[SourceFile]] = defaultdict(list)
    for file in files:
        if file.member is not None:
            archives[_archive(file)].append(file)
    for members in archives.values():
        yield from islice(filter(_is_image, sorted(members, key=lambda file: -file.size)), 1)


def _is_image(file: SourceFile) -> bool:
    """Whether its suffix says so, or it begins as DICOM, of which scanners leave the suffix out."""
    if file.name.lower().endswith((*PICTURES, *NIFTI, *DICOM)):
        return True
    try:
        with file.open() as stream:
            return begins_as_dicom(stream.read(START))
    except Exception:  # zipfile raises all kinds of errors; whoever reads the file tells
        return False


def _archive(file: SourceFile) -> tuple | None:
    return None if file.member is None else (file.path, file.within)


def _base(file: SourceFile) -> str:
    return same_name(PurePosixPath(file.name).name)
