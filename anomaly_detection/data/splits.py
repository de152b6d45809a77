"""Which image is in which split: the files train_test_split/{normal,anomaly}/{train,val,test} in a folder of folds.

A line is `image dataset`: the path of the image in its dataset's folder, and the dataset's name or label after the last space, comma or semicolon.
Empty lines and lines that begin with `#` count for nothing.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from anomaly_detection.data.catalog import DatasetSpec, leads_out, unknown_dataset
from anomaly_detection.data.formats.sources import same_name
from anomaly_detection.data.manifest import MANIFEST
from anomaly_detection.data.prepare.options import DOWNLOADS
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_text

Kind = Literal["normal", "anomaly"]
Part = Literal["train", "val", "test"]

# what a dataset must have images in: normal ones to train on, to set thresholds by, and to see how often a healthy patient is called ill
NEEDED: tuple[tuple[Kind, Part], ...] = (("normal", "train"), ("normal", "val"), ("normal", "test"))
# what it may have images in: abnormal ones are for the test alone, and without any nothing is said of what would be found
SPLITS: tuple[tuple[Kind, Part], ...] = (*NEEDED, ("anomaly", "test"))
NO_ABNORMAL = "no abnormal test images: false alarms can be measured, sensitivity and AUROC cannot"


@dataclass(frozen=True)
class SplitEntry:
    """A line of a split file; `image` is relative to the folder of the dataset, `where` is file:line for messages."""

    image: str
    dataset: str
    kind: Kind
    part: Part
    where: str


class Splits:
    """All split files that exist in a folder of folds.

    Args:
        folds: the folder that holds train_test_split/.
        catalog: the datasets that the lines may name.
        but: a dataset whose lines count for nothing, since others are to take their place.

    Raises:
        UserError: a malformed line, an unknown dataset, or an image that stands in the files twice. An image in two splits would be
            trained on and tested on, so this is looked for across all files.
    """

    def __init__(self, folds: Path, catalog: Mapping[str, DatasetSpec], but: str | None = None):
        self.folds = Path(folds)
        self.entries: list[SplitEntry] = []
        for kind in get_args(Kind):
            for part in get_args(Part):
                if self._file(kind, part).exists():
                    self.entries += [entry for entry in _read(self._file(kind, part), kind, part, catalog) if entry.dataset != but]
        self._listed: dict[tuple[str, Kind, Part], list[SplitEntry]] = {}  # so that of many datasets each is not looked for among all
        seen: dict[tuple[str, str], SplitEntry] = {}
        for entry in self.entries:
            first = seen.setdefault((entry.dataset, entry.image), entry)
            if first is not entry:
                raise UserError(f"{entry.where}: {entry.image} of {entry.dataset} stands at {first.where} already; take one line out")
            self._listed.setdefault((entry.dataset, entry.kind, entry.part), []).append(entry)

    def select(self, dataset: str, kind: Kind, part: Part) -> list[SplitEntry]:
        """The images of one dataset in one split file, in the order of its lines; at least one where they are `NEEDED`.

        Raises:
            UserError: the file is missing or lists no image of the dataset, and must.
        """
        listed = list(self._listed.get((dataset, kind, part), ()))
        if not listed and (kind, part) in NEEDED:
            raise UserError(self._nothing_listed(dataset, kind, part))
        return listed

    def _nothing_listed(self, dataset: str, kind: Kind, part: Part) -> str:
        file = self._file(kind, part)
        line = f"a line each: image {dataset}"
        if part == "test":
            line += "; without normal test images nothing is known of false alarms (a few of those to train on will do, of other patients)"
        if file.is_file():
            return f"{file}: lists no image of {dataset}; add some, {line}"
        return f"{file}: no such split file; list the {kind} images for {part} in it, {line}"

    def _file(self, kind: Kind, part: Part) -> Path:
        return self.folds / "train_test_split" / kind / part


def _read(file: Path, kind: Kind, part: Part, catalog: Mapping[str, DatasetSpec]) -> list[SplitEntry]:
    names = {str(spec.label): name for name, spec in catalog.items()} | {name: name for name in catalog}
    entries = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        image, dataset = parse_line(line)
        if not image or image.startswith("#"):
            continue
        if dataset is None:
            raise UserError(f"{file}:{number}: {image!r} names no dataset; write `image dataset` with a space between")
        if dataset not in names:
            raise UserError(f"{file}:{number}: {unknown_dataset(dataset, catalog)}")
        if leads_out(image):
            raise UserError(f"{file}:{number}: {image} leads out of the folder of {dataset}; write the path in that folder, without `..`")
        # one spelling for one file: ./a//b.png is a/b.png
        entries.append(SplitEntry(PurePosixPath(image).as_posix(), names[dataset], kind, part, f"{file}:{number}"))
    return entries


_QUOTED = re.compile(r'"((?:[^"]|"")*)"(?=[\s,;]|$)')  # a cell with a comma in it, as spreadsheets save it
_LINE = re.compile(r"(.*[^\s,;])[\s,;]+([^\s,;]+)")


def parse_line(line: str) -> tuple[str, str | None]:
    """A line of a split file, as people and spreadsheets write it: the image, and the dataset's name or label.

    Of a comment, an empty line and one without a dataset it is the whole text, and None.
    """
    line = line.strip()
    if quoted := _QUOTED.match(line):
        line = quoted[1].replace('""', '"') + line[quoted.end() :]
    line = line.rstrip(" \t,;")
    match = None if line.startswith("#") else _LINE.fullmatch(line)
    return (match[1], match[2].strip('"')) if match else (line, None)


def aliases(entries: Sequence[SplitEntry], catalog: Mapping[str, DatasetSpec], data_root: Path) -> Iterator[tuple[SplitEntry, SplitEntry]]:
    """Lines that mean one file, whatever its names are: by links, by folders that datasets share, in upper or lower case where that is one.

    Each comes with the first such line, where that is of another split, or of the same dataset. Two datasets may list a file in the same split. Files
    that are missing are left to those who read them.
    """
    files: dict[tuple[int, int], SplitEntry] = {}
    for entry in entries:
        try:
            status = os.stat(_path(entry, catalog, data_root))
        except OSError:
            continue
        other = files.setdefault((status.st_dev, status.st_ino), entry)
        elsewhere = (other.kind, other.part) != (entry.kind, entry.part)
        # hard links are files of their own: in one split they do no harm
        if elsewhere or (other is not entry and other.dataset == entry.dataset and status.st_nlink == 1):
            yield entry, other


def linked_outside(entries: Sequence[SplitEntry], catalog: Mapping[str, DatasetSpec], data_root: Path) -> str | None:
    """A line that tells of images that lie outside of the data root, behind links; None where none does.

    A report shows images: of data that are another's, files of one's own could come into it.
    """
    home = os.path.realpath(data_root)
    inside: dict[str, bool] = {}
    outside = []
    for entry in entries:
        path = _path(entry, catalog, data_root)
        folder = os.path.dirname(path)
        if folder not in inside:
            inside[folder] = _is_below(os.path.realpath(folder), home)
        if os.path.exists(path) and not (_is_below(os.path.realpath(path), home) if os.path.islink(path) else inside[folder]):
            outside.append(path)
    if not outside:
        return None
    first = f"{outside[0]} is {os.path.realpath(outside[0])}"
    return f"{data_root}: {len(outside)} images lie outside of it, behind links, the first: {first}; see that they are meant"


def _path(entry: SplitEntry, catalog: Mapping[str, DatasetSpec], data_root: Path) -> str:
    return os.path.join(data_root, catalog[entry.dataset].root, entry.image)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def missing_images(missing: Sequence[SplitEntry], listed: int, spec: DatasetSpec, data_root: Path) -> str:
    """What is said where images of a dataset, of so many that are listed, are not there: how many, the first, and what mends it."""
    folder, first = Path(data_root) / spec.root, missing[0]
    words = spec.name if spec.name in DOWNLOADS else f"folder {spec.name}"
    command = f"`maddr prepare {words} ... --data-root {data_root}`"
    if near := _nearly(folder / first.image):
        advice = f"{near} is there: correct the list (did a spreadsheet take zeros away?), or let {command} write it again"
    elif (folder / MANIFEST).is_file():
        advice = f"the list is of other images than `prepare` has made there; {command} writes both"
    else:
        advice = f"put the images there, or correct `root` of {spec.name} in datasets.yaml or the split file; {command} writes both images and lists"
    return f"{first.where}: {len(missing)} of {listed} images of {spec.name} are missing, the first is {folder / first.image}; {advice}"


def _nearly(path: Path) -> str | None:
    """The file beside a missing one whose name differs in zeros before a number, in capitals or in how accents are written."""

    def plain(name: str) -> str:
        return re.sub(r"(?<!\d)0+(?=\d)", "", same_name(name))

    names = (other.name for other in sorted(path.parent.iterdir())) if path.parent.is_dir() else ()
    return next((name for name in names if plain(name) == plain(path.name)), None)
