"""Who and what stands on two sides of the splits: files, pixels, sources and patients, in a dataset and across datasets."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.doubts import doubts
from anomaly_detection.data.manifest import MANIFEST, UNTOLD, Row, empty_masks_warning, read_manifest
from anomaly_detection.data.patients import patient_of, patient_warning, shared_beginnings
from anomaly_detection.data.splits import Kind, SplitEntry


@dataclass(frozen=True)
class Listed:
    """A line of a split file, and what is known of its image.

    Attributes:
        entry: the line.
        file: what tells its file from all others, by whatever name; None where it is missing.
        content: a hash of its pixels; None where it cannot be read.
        patient: whose it is, as `patient_of` tells.
        named: whose it is by its name alone, as the public datasets have it.
        row: its line in the manifest, without what headers say alike of all images, as after a careless anonymisation.
    """

    entry: SplitEntry
    file: tuple[int, int] | None
    content: str | None
    patient: str | None
    named: str | None
    row: Row | None

    @property
    def split(self) -> str:
        """The split file that lists it."""
        return f"{self.entry.kind}/{self.entry.part}"

    @property
    def is_as_manifest(self) -> bool:
        """Whether the manifest says whose it is, and nothing goes before that."""
        return self.row is not None and self.patient == self.row.patient

    @property
    def patient_id(self) -> str | None:
        """PatientID in the header of what it was made of, where something else told whose it is."""
        return self.row.patient_id if self.row and self.patient != self.row.patient_id else None

    @property
    def folder(self) -> str | None:
        """The subfolder that it, or what it was made of, lies in; None where it lies in none."""
        source = self.row.source if self.row else self.entry.image.partition("/")[2]
        return source.rpartition("/")[0] or None


def listed_images(spec: DatasetSpec, data_root: Path, entries: Sequence[SplitEntry], contents: Sequence[str | None]) -> list[Listed]:
    """What is known of the images of one dataset.

    Args:
        spec: the dataset.
        data_root: the folder of the datasets.
        entries: its lines in the split files.
        contents: of each a hash of its pixels, or None.

    Raises:
        UserError: the manifest is damaged.
    """
    folder = data_root / spec.root
    rows = {row.image: row for row in read_manifest(folder / MANIFEST)} if (folder / MANIFEST).is_file() else {}
    patients = {image: row.patient for image, row in rows.items()}
    alike = [key for key in ("patient_id", "study", "series") if len({getattr(row, key) for row in rows.values()}) == 1]
    rows = {image: replace(row, **dict.fromkeys(alike, "")) for image, row in rows.items()}

    def listed(entry: SplitEntry, content: str | None) -> Listed:
        abnormal = entry.kind == "anomaly"
        named = patient_of(entry.image, abnormal)
        patient = patient_of(entry.image, abnormal, patients, spec.patient)
        return Listed(entry, _file(folder / entry.image), content, patient, named, rows.get(entry.image))

    return [listed(entry, content) for entry, content in zip(entries, contents, strict=True)]


def _file(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# What makes two images one, or of one person, beyond doubt: what is said of it, what is compared, and where it must not be in two.
# An image has one place among all split files; a person's images may be normal and abnormal, but of one part.
_CERTAIN: tuple[tuple[str, Callable[[Listed], Hashable], Callable[[Listed], str]], ...] = (
    ("the same file in several splits", lambda image: image.file, lambda image: image.split),
    ("the same image in several splits", lambda image: image.content, lambda image: image.split),
    # two patients may have the same file of one grey, whose content is None
    ("one source file on several sides", lambda image: image.content and image.row and image.row.source_sha256, lambda image: image.entry.part),
    ("one series on several sides", lambda image: image.row and image.row.series, lambda image: image.entry.part),
    ("one study on several sides", lambda image: image.row and image.row.study, lambda image: image.entry.part),
    ("patient {} on several sides", lambda image: image.patient, lambda image: image.entry.part),
)


_ROUNDED = re.compile(r"\d([.,]\d+)?E\+\d+")


def leaks(images: Sequence[Listed]) -> Iterator[str]:
    """A line for each file, image, source file and patient of one dataset that is on two sides; of several that mean the same images, the first."""
    told: set[frozenset[SplitEntry]] = set()
    for words, key, side in _CERTAIN:
        for value, places in _on_sides(images, key, side).items():
            if (same := frozenset(image.entry for image in places.values())) not in told:
                told.add(same)
                yield f"{words.format(value)}: " + ", ".join(f"{image.entry.image} in {place}" for place, image in places.items())


def warnings(images: Sequence[Listed]) -> Iterator[str]:
    """A line for each thing in one dataset by which images of one patient seem to be on two sides, though nothing says so."""
    if rounded := [image.row.patient for image in images if image.row and _ROUNDED.fullmatch(image.row.patient)]:
        yield f"{MANIFEST}: patient {rounded[0]} of {len(rounded)} images was a number that a spreadsheet has rounded: prepare the dataset again"
    without = [image for image in images if image.row is None]
    if 0 < len(without) < len(images):
        first = without[0].entry.image
        yield f"{MANIFEST} says nothing of {len(without)} of {len(images)} images, the first: {first}; were names changed, or images added by hand?"
    told = [image.row for image in images if image.is_as_manifest]
    if line := patient_warning(told):
        yield line
    if line := empty_masks_warning([image.row for image in images if image.row]):
        yield line
    yield from doubts(told)
    alone = _alone(images)
    beginnings = shared_beginnings([image.entry.image for image in alone])
    expression = re.compile(beginnings[0] if beginnings else "$^()")
    # one folder for all images of a kind says nothing
    folders = {kind: {image.folder for image in alone if image.entry.kind == kind} for kind in get_args(Kind)}
    by_folder = [image for image in alone if image.folder and len(folders[image.entry.kind]) > 1]
    for words, images_of, key in (
        ("images of PatientID {}", images, lambda image: image.patient_id),
        ("images of {}, by their names,", alone, lambda image: image.named),
        ("images whose names begin alike, {},", alone, lambda image: _beginning(image, expression)),
        ("images of one folder, {},", by_folder, lambda image: image.folder),
    ):
        sides = _on_sides(images_of, key, lambda image: image.entry.part)
        if sides:
            value, places = next(iter(sides.items()))
            first = ", ".join(f"{image.entry.image} in {place}" for place, image in places.items())
            more = f", and {len(sides) - 1} more such" if len(sides) > 1 else ""
            advice = "if they are one patient's, say so: --patient of prepare, or `patient` in datasets.yaml"
            yield f"{words.format(value)} on several sides: {first}{more}; {advice}"


def _beginning(image: Listed, expression: re.Pattern) -> str | None:
    """What its name has in common with others of its kind."""
    match = expression.search(image.entry.image)
    return match and f"{image.entry.kind} {match[1]}"


def _alone(images: Sequence[Listed]) -> list[Listed]:
    """The images of which nothing says whose they are: no manifest names them, or it counts their source files, series or studies as patients.

    An older manifest does not tell of which files that is so: of all, unless one of its patients has several.
    """
    sources: dict[str, set[str]] = defaultdict(set)
    for image in images:
        if image.row:
            sources[image.row.patient].add(image.row.source)
    known = any(len(files) > 1 for files in sources.values())
    untold = UNTOLD if known else (*UNTOLD, "")
    return [image for image in images if image.patient is None or (image.is_as_manifest and image.row.patient_from in untold)]


def leaks_across(images: Sequence[Listed]) -> Iterator[str]:
    """The same as `leaks` of what is in two datasets, on different sides of each; without patients, whose names may be alike."""
    told: set[frozenset[SplitEntry]] = set()
    for words, key, side in _CERTAIN[:-1]:
        for places in _across(images, key, side):
            if (same := frozenset(image.entry for image in places)) not in told:
                told.add(same)
                yield f"{words}: " + ", ".join(f"{image.entry.image} of {image.entry.dataset} in {side(image)}" for image in places)


def likely_leaks_across(images: Sequence[Listed]) -> Iterator[str]:
    """A line for each two datasets that name patients alike, who are on different sides of them."""
    pairs: dict[tuple[str, ...], list[list[Listed]]] = defaultdict(list)
    for places in _across(images, lambda image: image.patient, lambda image: image.entry.part):
        pairs[tuple(dict.fromkeys(image.entry.dataset for image in places))].append(places)
    for datasets, several in pairs.items():
        first = ", ".join(f"{image.entry.image} of {image.entry.dataset} in {image.entry.part}" for image in several[0])
        count = f"{len(several)} patients of one name on several sides" if len(several) > 1 else "a patient of one name on several sides"
        yield f"{' and '.join(datasets)}: {count}: {several[0][0].patient}: {first}; if that is one person, put all images on one side"


def _across(images: Sequence[Listed], key: Callable, side: Callable) -> Iterator[list[Listed]]:
    for places in _on_sides(images, key, lambda image: (image.entry.dataset, side(image))).values():
        if len({dataset for dataset, _ in places}) > 1 and len({place for _, place in places}) > 1:
            yield list(places.values())


def _on_sides(images: Iterable[Listed], key: Callable[[Listed], Hashable], side: Callable[[Listed], Hashable]) -> dict:
    """By each value of `key` that several sides have: the first image on each side."""
    places: dict[Hashable, dict[Hashable, Listed]] = defaultdict(dict)
    for image in images:
        if value := key(image):
            places[value].setdefault(side(image), image)
    return {value: on for value, on in places.items() if len(on) > 1}
