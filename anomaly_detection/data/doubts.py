"""Whether what counts as a patient is a person: not studies of which no header says whose they are, nor folders of several persons each."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple

from anomaly_detection.data.folders import are_parts, are_views, name_nobody
from anomaly_detection.data.formats.nifti import is_nifti
from anomaly_detection.data.manifest import Row
from anomaly_detection.data.patients import MOST, beginnings
from anomaly_detection.data.vocabulary import GENERIC, GROUPS, PERSON

FEW = 20  # folders; of more, each is most likely a patient's
MANY = 4  # names in a folder, as patients have few studies
LEAST = 3  # names that recur, below which there are no patients for three splits
LARGE = 10_000  # a bare number from here on is a person's, not that of a slice, series or year
STEM = r"([^/.]+)[^/]*$"  # the whole name of a file

_DATE = re.compile(r"(19|20)\d\d[-_.]?(0\d|1[0-2])[-_.]?[0-3]\d")
_UID = re.compile(r"\d+(\.\d+){4,}")


class Doubt(NamedTuple):
    """Why folders that count as patients may not be persons'.

    Attributes:
        fact: what is seen.
        outcome: what follows for results.
        mend: the --patient that tells patients better.
    """

    fact: str
    outcome: str
    mend: str


class _Way(NamedTuple):
    """A path, with the folder that counts as patient, how many folders stand before it, and what comes behind it."""

    path: str
    folder: str
    before: int
    behind: list[str]


class _Level(NamedTuple):
    """Names behind the folders, which may be persons'.

    Attributes:
        expression: whose first group finds them in a path; None where no simple one does.
        names: with the folder that each lies in, every pair once.
        paths: how many have one.
        of: what bears them; a file that is no NIfTI volume may be a slice.
    """

    expression: str | None
    names: list[tuple[str, str]]
    paths: int
    of: Literal["folder", "volume", "slice"]

    def homes(self) -> dict[str, list[str]]:
        """The folders that each name lies in."""
        homes = defaultdict(list)
        for folder, name in self.names:
            homes[name].append(folder)
        return homes


def doubts(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each reason to doubt that patients told by folder, study or series are persons."""
    if line := _doubt_of_studies(rows):
        yield line
    folders = {row.source: row.patient for row in rows if row.patient_from == "folder"}
    if doubt := doubt_of_folders(folders):
        yield f"{doubt.fact}: {doubt.outcome}; {doubt.mend}"


def _doubt_of_studies(rows: Sequence[Row]) -> str | None:
    """That of one person there may be several studies, each of which counts as a patient where headers name none."""
    counts = Counter({row.patient: row.patient_from for row in rows if row.patient_from in ("study", "series")}.values())
    if not counts:
        return None
    what = " and ".join(f"{counts[key]} {words}" for key, words in (("study", "studies"), ("series", "series")) if counts[key])
    return (
        f"{what}, each counted as a patient of its own, as headers name no patient: if some are of the same one, images of it may be trained on AND "
        "tested; give --patient REGEX, or a subfolder for each patient"
    )


def doubt_of_folders(folders: Mapping[str, str]) -> Doubt | None:
    """Why folders that count as patients may not be persons'; None where nothing points to that.

    Names that are alike in all patients, as those of series and slices, point to nothing.

    Args:
        folders: of each file, by its path with "/" between, the folder on its way that counts as its patient.
    """
    ways = _ways(folders)
    names = {way.folder for way in ways}
    nobody = name_nobody(names) or are_parts(names)
    if len(names) < 2 or (len(names) >= FEW and not nobody):
        return None
    levels = list(_levels(ways))
    for level in levels:
        if _persons_recur(level, names):
            return _recurring(level, len(names), len(ways))
    grouped = nobody or _may_group(names)
    for level in levels:
        if _holds_persons(level, grouped):
            return _crowded(level, len(names), len(ways))
    if not nobody:
        return None
    example = ", ".join(sorted(names)[:3])
    return Doubt(
        f"{len(names)} folders, each counted as a patient, are called as kinds of images or parts of a dataset are ({example})",
        "one patient may be in several of them, and trained on AND tested, or several in one",
        "give --patient REGEX",
    )


def _ways(folders: Mapping[str, str]) -> list[_Way]:
    """Those of the paths on which the folder is: patients of several folders that share a study bear the name of one of them."""
    ways = []
    for path, folder in folders.items():
        parts = path.split("/")
        composed = [unicodedata.normalize("NFC", part) for part in parts[:-1]]
        if folder in composed:
            before = composed.index(folder)
            ways.append(_Way(path, folder, before, parts[before + 1 :]))
    return ways


def _levels(ways: Sequence[_Way]) -> Iterator[_Level]:
    """What may name persons behind the folders: further folders, from the first one on, then what names of files begin with."""
    for depth in range(max(len(way.behind) for way in ways) - 1):
        named = [(way.folder, way.behind[depth]) for way in ways if len(way.behind) > depth + 1]
        if len(named) >= MOST * len(ways):
            yield _Level(_folder_expression(ways, depth), _pairs(named), len(named), "folder")
    of = "volume" if all(is_nifti(way.path) for way in ways) else "slice"
    files = [f"{way.folder}/{way.behind[-1]}" for way in ways]
    for expression in (*beginnings(files), STEM):
        search = re.compile(expression).search
        named = [(way.folder, match[1]) for way, file in zip(ways, files, strict=True) if (match := search(file))]
        if len(named) >= MOST * len(ways):
            yield _Level(expression, _pairs(named), len(named), of)


def _pairs(named: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(named))


def _folder_expression(ways: Sequence[_Way], depth: int) -> str | None:
    """What finds the folder that many levels behind that of the patient, from the beginning of the paths, or else from their end."""
    before = {way.before + 1 + depth for way in ways}
    if len(before) == 1:
        return "^" + "[^/]+/" * before.pop() + "([^/]+)/"
    after = {len(way.behind) - depth - 1 for way in ways}
    return "([^/]+)" + "/[^/]+" * after.pop() + "$" if len(after) == 1 else None


def _persons_recur(level: _Level, folders: set[str]) -> bool:
    """Whether the same persons seem to be in several folders, as they are below those of sequences, views and visits.

    Below sequences and views whatever recurs is a person's. Below others two of four signs are needed: the names are of folders or volumes, not of
    what may be slices; their numbers have gaps; they say that they are of persons; the folders are not numbered, as those of patients are.
    """
    homes = level.homes()
    again = [name for name, own in homes.items() if len(own) > 1]
    if len(again) < LEAST or 2 * len(again) < len(homes) or name_nobody(again):
        return False
    if are_views(folders):
        return True
    if sum(map(_is_identifier, again)) < MOST * len(again):
        return False
    named = sum(bool(_words(name) & PERSON) for name in again) >= MOST * len(again)
    words = _may_group(folders) or are_parts(folders) or 2 * sum(any(map(str.isdigit, folder)) for folder in folders) < len(folders)
    return (level.of != "slice") + (not _in_steps(again)) + named + words >= 2


def _holds_persons(level: _Level, grouped: bool) -> bool:
    """Whether each folder holds many names that are alike and in no other one, as those of persons are.

    Args:
        level: the names.
        grouped: whether the folders are called as parts or groups are: then names of series count, and beginnings of files do.
    """
    own: dict[str, set[str]] = defaultdict(set)
    for folder, name in level.names:
        own[folder].add(_without(name, folder))
    homes = Counter(name for names in own.values() for name in names)
    once = [name for name, count in homes.items() if count == 1]
    if median(map(len, own.values())) < MANY or len(once) < MOST * len(homes) or not _are_alike(once):
        return False
    if level.of == "slice":
        return grouped and level.expression != STEM
    return grouped or sum(map(_is_generic, once)) <= (1 - MOST) * len(once)


def _without(name: str, folder: str) -> str:
    """A name without that of its folder, with which names of a patient's files often begin; `p10000032` in `p10` does not begin so."""
    rest = name.removeprefix(folder)
    return name if rest == name or (folder[-1:].isdigit() and rest[:1].isdigit()) else rest


def _are_alike(names: Sequence[str]) -> bool:
    """Whether most differ in their numbers alone."""
    return Counter(re.sub(r"\d+", "#", name) for name in names).most_common(1)[0][1] >= MOST * len(names)


def _may_group(folders: set[str]) -> bool:
    """Whether all are called as sites, visits and the like are."""
    return all(_words(folder) & GROUPS for folder in folders)


def _is_identifier(name: str) -> bool:
    """Whether a name may be a person's, who has no other in any folder."""
    return not _is_generic(name) and (sum(map(str.isdigit, name)) >= 3 or bool(_words(name) & (PERSON | {"p"})))


def _is_generic(name: str) -> bool:
    """Whether series, slices or studies of every patient may be called so."""
    if _DATE.match(name) or _UID.fullmatch(name):
        return True
    words = _words(name)
    if not words:
        return max((int(digits) for digits in re.findall(r"\d+", name)), default=0) < LARGE
    return all(word in GENERIC or (len(word) == 1 and word != "p") for word in words)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", name.casefold()))


def _in_steps(names: Sequence[str]) -> bool:
    """Whether most of the numbers that names end with follow one another at one distance, as those of slices do."""
    numbers = sorted({int(digits[-1]) for name in names if (digits := re.findall(r"\d+", name))})
    steps = Counter(after - before for before, after in zip(numbers, numbers[1:], strict=False))
    return bool(steps) and steps.most_common(1)[0][1] >= MOST * steps.total()


def _recurring(level: _Level, folders: int, paths: int) -> Doubt:
    homes = level.homes()
    again = sorted(name for name, own in homes.items() if len(own) > 1)
    example = f"{again[0]} in {', '.join(sorted(homes[again[0]])[:3])}"
    fact = f"{folders} folders, each counted as a patient, but {len(again)} names recur in several of them ({example})"
    return Doubt(fact, "if each is of one person, that one may be trained on AND tested", _mend(level, len(homes), paths))


def _crowded(level: _Level, folders: int, paths: int) -> Doubt:
    example = ", ".join("/".join(pair) for pair in sorted(level.names)[:2])
    fact = f"{folders} folders, each counted as a patient, but they hold {len(level.names)} names as patients have ({example})"
    return Doubt(fact, "splits and intervals of so few patients say little", _mend(level, len(level.homes()), paths))


def _mend(level: _Level, patients: int, paths: int) -> str:
    if level.expression is None:
        return "give --patient REGEX"
    of_whom = "" if level.paths == paths else f" of the {level.paths} files whose paths fit"
    return f"--patient '{level.expression}' would make {patients} patients{of_whom}"
