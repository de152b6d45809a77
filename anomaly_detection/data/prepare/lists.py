"""The split files and the datasets.yaml that a prepared dataset gets its lines in; what they say of other datasets stays."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from anomaly_detection.data.catalog import DatasetSpec, check_name
from anomaly_detection.data.splits import Kind, Part, Splits
from anomaly_detection.errors import UserError
from anomaly_detection.files import whole_file


def write_splits(
    folds: Path,
    spec: DatasetSpec,
    splits: Mapping[tuple[Kind, Part], Sequence[str]],
    origin: str,
    catalog: Mapping[str, DatasetSpec],
) -> bool:
    """Put the images of a dataset into the split files, in place of the lines it has there.

    Above them goes a comment with the counts and the `origin` of the split. Where these comments are there already nothing is written, so
    that lines which somebody has added or taken out stay.

    Args:
        folds: the folder that holds train_test_split/.
        spec: the dataset.
        splits: its images for each file.
        origin: where the split comes from: shares and seed, or published lists.
        catalog: the datasets that the files may name.

    Returns:
        whether anything was written.

    Raises:
        UserError: the files that are there are wrong.
    """
    Splits(folds, catalog)  # what is there must be in order before it is rewritten
    counts = ", ".join(f"{len(images)} {kind} {part}" for (kind, part), images in splits.items())
    header = f"# {spec.name}: {counts}; {origin}"
    files = {(kind, part): folds / "train_test_split" / kind / part for kind, part in splits}
    texts = {key: file.read_text(encoding="utf-8-sig").splitlines() if file.exists() else [] for key, file in files.items()}
    if all(header in lines for lines in texts.values()):
        return False
    for key, file in files.items():
        block = [header, *(f"{image} {spec.name}" for image in sorted(splits[key], key=natural))]
        with whole_file(file) as partial:
            partial.write_text("\n".join([*(line for line in texts[key] if not _is_of(line, spec)), *block]) + "\n", encoding="utf-8")
    return True


def natural(name: str) -> list:
    """A sort key by which image 2 comes before image 10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]


def catalog_entry(catalog: Mapping[str, DatasetSpec], name: str, organ: str, modality: str, window: list[float] | None) -> DatasetSpec:
    """The entry of a dataset in the catalog, or one that could be added.

    Raises:
        UserError: the entry that is there says something else, or the name will not do.
    """
    check_name("prepare folder", name)
    if name not in catalog:
        label = max((spec.label for spec in catalog.values()), default=-1) + 1
        return DatasetSpec(name=name, label=label, organ=organ, modality=modality, root=name, window=window)
    there = catalog[name]
    if (there.organ, there.modality) != (organ, modality):
        what = f"{there.organ} {there.modality}, not {organ} {modality}"
        raise UserError(f"datasets.yaml: {name} is {what}; take another name, or the same organ and modality")
    return there


def add_to_catalog(data_root: Path, inherited: Path, spec: DatasetSpec) -> None:
    """Write an entry at the end of `data_root`/datasets.yaml, which begins as a copy of the file `inherited` where there is none yet."""
    path = data_root / "datasets.yaml"
    text = (path if path.exists() else inherited).read_text(encoding="utf-8")
    entry = {key: value for key, value in vars(spec).items() if key in ("label", "organ", "modality", "root") or (key == "window" and value)}
    with whole_file(path) as partial:
        partial.write_text(f"{text.rstrip()}\n\n{yaml.safe_dump({spec.name: entry}, sort_keys=False, allow_unicode=True)}", encoding="utf-8")


def _is_of(line: str, spec: DatasetSpec) -> bool:
    if line.startswith("#"):
        return line.startswith(f"# {spec.name}:")
    return bool(line.strip()) and line.rsplit(maxsplit=1)[-1] in (spec.name, str(spec.label))
