"""Whose an image is, so that no patient is trained on and tested: as the manifest says, otherwise as the names of the public datasets do."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from anomaly_detection.data.manifest import MANIFEST, UNTOLD, Key, Row, read_manifest

_SLICE = re.compile(r"(volume-\d+)_\d+", re.IGNORECASE)  # LiTS
_RADIOGRAPH = re.compile(r"CHNCXR_\d{4}_[01]", re.IGNORECASE)  # Shenzhen
MOST = 0.9  # of the names must be alike: a few others lie in most folders


def patients_of(folder: Path) -> dict[str, str]:
    """The patient of each image in the folder of a dataset that `prepare` made, by the image's path in it; empty for other folders.

    Raises:
        UserError: the manifest is damaged.
    """
    path = folder / MANIFEST
    return {row.image: row.patient for row in read_manifest(path)} if path.is_file() else {}


def counted_as_patients(folder: Path) -> list[Key]:
    """Which of files, series and studies count as patients in the folder of a dataset that `prepare` made, since nothing told whose they are.

    Raises:
        UserError: the manifest is damaged.
    """
    path = folder / MANIFEST
    keys = {row.patient_from for row in read_manifest(path)} if path.is_file() else set()
    return [key for key in UNTOLD if key in keys]


def patient_of(image: str, abnormal: bool, manifest: Mapping[str, str] | None = None, pattern: str | None = None) -> str | None:
    """Whose an image is; None where that cannot be told.

    Without a line in the manifest the name decides, if it is one of the public datasets: the slice `volume-3_010` is of LiTS's volume 3, every
    radiograph `CHNCXR_0001_0` of Shenzhen is another patient, and `12%3` is cut out of figure 12 of COVID-CT.

    Args:
        image: its path, of which the name counts.
        abnormal: whether it shows disease.
        manifest: see `patients_of`.
        pattern: a regular expression that goes before all else: the patient is its first group, or all that it matches.
    """
    if pattern is not None:
        match = re.search(pattern, image)
        return (match[1] if match.re.groups else match[0]) or None if match else None
    if manifest and image in manifest:
        return manifest[image]
    name = PurePosixPath(image).stem
    if match := _SLICE.fullmatch(name):
        return match[1].lower()
    if _RADIOGRAPH.fullmatch(name):
        return name
    return figure_of(name, abnormal) if "%" in name else None


def figure_of(name: str, abnormal: bool) -> str:
    """The figure or patient that an image of COVID-CT is of: what stands before "%", told apart by kind, since the kinds are numbered alike."""
    return f"{'COVID' if abnormal else 'NonCOVID'} {name.partition('%')[0]}"


def merge_patients(images: Iterable[tuple[str, Hashable]]) -> dict[str, str]:
    """For each patient the one whose name stands for all with whom they share an image, or a study.

    Args:
        images: of each its patient, and what is the same of what is shared, such as a hash of its pixels.
    """
    images = list(images)
    owner = {patient: patient for patient, _ in images}

    def find(patient: str) -> str:
        while owner[patient] != patient:
            owner[patient] = owner[owner[patient]]  # so that the way is short for the next
            patient = owner[patient]
        return patient

    first: dict[Hashable, str] = {}
    for patient, pixels in images:
        one, other = sorted((find(patient), find(first.setdefault(pixels, patient))))
        owner[other] = one
    return {patient: find(patient) for patient in owner}


def patient_warning(rows: Sequence[Row]) -> str | None:
    """What `suspicious_patients` says of the images of which nothing told whose they are: neither --patient nor header, subfolder or public names."""
    if files := [(row.image, row.patient) for row in rows if row.patient_from == "file"]:
        return _warning_of_files(files)
    untold = [row for row in rows if row.patient_from == ""]
    return suspicious_patients([row.image for row in untold], [row.patient for row in untold])


def suspicious_patients(images: Sequence[str], patients: Sequence[str]) -> str | None:
    """A line that says that patients may be on both sides of the splits, since every file counts as one; None where nothing points to that.

    An older manifest does not say by which key patients were told: here that follows from their names.

    Where names share their beginnings, as `run12_000.png` and `run12_001.png` do, it gives the regular expression that groups them.

    Args:
        images: paths in the dataset's folder, as in the manifest: `normal/run12_000.png`.
        patients: whose each is.
    """
    files = [(image, who) for image, who in zip(images, patients, strict=True) if _named_after_file(image, who)]
    return _warning_of_files(files) if files and 2 * len(files) >= len(images) else None


def _warning_of_files(files: Sequence[tuple[str, str]]) -> str | None:
    """What `suspicious_patients` says of images, each with the file that counts as its patient."""
    first: dict[str, str] = {}  # image of each
    for image, who in files:
        first.setdefault(who, image)
    if grouping := shared_beginnings(list(first.values())):
        expression, groups, fitting = grouping
        of_whom = "them" if fitting == len(first) else f"the {fitting} whose names fit"
        example = _grouped_example(list(first.values()), expression)
        return (
            f"{len(first)} files, each counted as a patient of its own, but names share their beginnings ({example}): images of one patient may be "
            f"trained on AND tested; --patient '{expression}' would make {groups} patients of {of_whom}"
        )
    if 2 * sum(count > 1 for count in Counter(who for _, who in files).values()) > len(first):  # volumes, each most likely a patient's
        return None
    return (
        f"{len(first)} files, each counted as a patient of its own: if some show the same patient, results are too good; "
        "give --patient REGEX, or a subfolder for each patient"
    )


def _named_after_file(image: str, patient: str) -> bool:
    """Whether a patient is nothing but the name of the file that the image was made of, which may have given several."""
    name = _below_kind(image)
    if patient_of(image, image.startswith("abnormal")) == patient:
        return False
    # behind it stands the number of a slice, or, of two files that differ in their suffix alone, the suffix
    return any(name == own or name.startswith((f"{own}_", f"{own}.")) for own in (patient, _below_kind(patient)))


def _below_kind(image: str) -> str:
    """The path in the folder `normal` or `abnormal`, without suffix."""
    kind, _, name = image.partition("/")
    return (name if kind in ("normal", "abnormal") else image).removesuffix(".png")


def shared_beginnings(images: Sequence[str]) -> tuple[str, int, int] | None:
    """The regular expression whose first group is shared by images as it is by those of one patient, how many groups it makes, and of how many."""
    for expression in beginnings(images):
        search = re.compile(expression).search
        found = [(image.partition("/")[0], match[1]) for image in images if (match := search(image))]
        sizes = Counter(found)  # within a folder, since the same name in both says nothing
        groups = Counter(group for _, group in found)
        shared = sum(size for size in sizes.values() if size > 1)
        numbered = 2 * sum(any(map(str.isdigit, group)) for group in groups) > len(groups) or len(groups) >= 6
        if len(found) < MOST * len(images) or len(groups) < 3 or not numbered:
            continue
        if 5 * shared >= len(images) and 5 * max(groups.values()) <= 3 * len(images):
            return expression, len(groups), len(found)
    return None


def beginnings(images: Sequence[str]) -> Iterator[str]:
    """Regular expressions for what names may begin with, coarse ones first."""
    names = [PurePosixPath(image).name for image in images]
    for mark in "_-%+ ":
        marked = [(image, name) for image, name in zip(images, names, strict=True) if mark in name]
        if len(marked) >= MOST * len(images):
            first: dict[str, set[str]] = defaultdict(set)
            for image, name in marked:
                first[image.partition("/")[0]].add(name.partition(mark)[0])
            piece, between = f"[^/{mark}]+", re.escape(mark) + ("+" if any(2 * mark in name for name in names) else "")
            kind = piece + between if all(len(words) == 1 for words in first.values()) else ""  # `normal_run3_07` begins with its kind
            for pieces in (1, 2, 3):
                yield f"{kind}({between.join([piece] * pieces)}){between}[^/]*$"
    yield r"([^/0-9]*[0-9]+)[^/0-9.][^/]*$"  # p01s03


def _grouped_example(images: Sequence[str], expression: str) -> str:
    """Two names of one folder that share their beginning."""
    seen: dict[tuple[str, str], str] = {}
    for image in images:
        match = re.search(expression, image)
        key = image.partition("/")[0], match[1] if match else ""
        if match and key in seen:
            return f"{PurePosixPath(seen[key]).name}, {PurePosixPath(image).name}"
        seen.setdefault(key, image)
    return ""
