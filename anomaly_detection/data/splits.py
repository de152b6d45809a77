"""Which image is in which split: the files train_test_split/{normal,anomaly}/{train,val,test} in a folder of folds.

A line is `image dataset`: the path of the image in its dataset's folder, and the dataset's name or label after the last space.
Empty lines and lines that begin with `#` count for nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from anomaly_detection.data.catalog import DatasetSpec, unknown_dataset
from anomaly_detection.system.errors import UserError

Kind = Literal["normal", "anomaly"]
Part = Literal["train", "val", "test"]

# what a complete dataset has images in: normal ones to train on, to validate with and to test, abnormal ones for the test alone
SPLITS: tuple[tuple[Kind, Part], ...] = (("normal", "train"), ("normal", "val"), ("normal", "test"), ("anomaly", "test"))


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

    Raises:
        UserError: a malformed line, an unknown dataset, or an image that stands in the files twice. An image in two splits would be
            trained on and tested on, so this is looked for across all files.
    """

    def __init__(self, folds: Path, catalog: Mapping[str, DatasetSpec]):
        self.folds = Path(folds)
        self.entries: list[SplitEntry] = []
        for kind in get_args(Kind):
            for part in get_args(Part):
                if self._file(kind, part).exists():
                    self.entries += _read(self._file(kind, part), kind, part, catalog)
        seen: dict[tuple[str, str], SplitEntry] = {}
        for entry in self.entries:
            first = seen.setdefault((entry.dataset, entry.image), entry)
            if first is not entry:
                raise UserError(f"{entry.where}: {entry.image} of {entry.dataset} stands at {first.where} already; take one line out")

    def select(self, dataset: str, kind: Kind, part: Part) -> list[SplitEntry]:
        """The images of one dataset in one split file, in the order of its lines; at least one.

        Raises:
            UserError: the file is missing or lists no image of the dataset.
        """
        found = [entry for entry in self.entries if (entry.dataset, entry.kind, entry.part) == (dataset, kind, part)]
        file = self._file(kind, part)
        if not found and not file.is_file():
            raise UserError(f"{file}: no such split file; list the {kind} images for {part} in it, a line each: image {dataset}")
        if not found:
            raise UserError(f"{file}: lists no image of {dataset}; add some, a line each: image {dataset}")
        return found

    def _file(self, kind: Kind, part: Part) -> Path:
        return self.folds / "train_test_split" / kind / part


def _read(file: Path, kind: Kind, part: Part, catalog: Mapping[str, DatasetSpec]) -> list[SplitEntry]:
    names = {str(spec.label): name for name, spec in catalog.items()} | {name: name for name in catalog}
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable text file in UTF-8 ({error}); write it again") from None
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        image, *dataset = line.rsplit(maxsplit=1)
        if not dataset:
            raise UserError(f"{file}:{number}: {line.strip()!r} names no dataset; write `image dataset` with a space between")
        if dataset[0] not in names:
            raise UserError(f"{file}:{number}: {unknown_dataset(dataset[0], catalog)}")
        # one spelling for one file: ./a//b.png is a/b.png
        entries.append(SplitEntry(PurePosixPath(image.strip()).as_posix(), names[dataset[0]], kind, part, f"{file}:{number}"))
    return entries
