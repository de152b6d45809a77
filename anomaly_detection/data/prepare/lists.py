"""The split files and the datasets.yaml that a prepared dataset gets its lines in; what they say of other datasets stays."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from anomaly_detection.data.catalog import PHANTOM, DatasetSpec, check_distinct, check_name, check_words, read_catalog
from anomaly_detection.data.formats.sources import natural
from anomaly_detection.data.splits import SPLITS, Kind, Part, Splits, parse_line
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_text, whole_file, whole_folder

RESERVED = ("folds", "datasets.yaml", PHANTOM)  # what lies in a data root beside the folders of datasets


def write_splits(
    folds: Path,
    spec: DatasetSpec,
    splits: Mapping[tuple[Kind, Part], Sequence[str]],
    origin: str,
    catalog: Mapping[str, DatasetSpec],
    folder: Path | None = None,
) -> bool:
    """Put the images of a dataset into the split files, in place of the lines it has there.

    Above them goes a comment with the counts, the `origin` and a hash of the split. Where these comments are there already the split is the one
    that would be written, and nothing is, so that lines which somebody has added or taken out stay.

    Args:
        folds: the folder that holds train_test_split/.
        spec: the dataset.
        splits: its images for each file.
        origin: where the split comes from: shares and seed, or published lists.
        catalog: the datasets that the files may name.
        folder: of the dataset, in which the images of lines must be; None: that is not looked for.

    Returns:
        whether anything was written.

    Raises:
        UserError: the files that are there are wrong, or a line that would stay or be written names no image.
    """
    images = {image for each in splits.values() for image in each}
    counts = ", ".join(f"{len(images)} {kind} {part}" for (kind, part), images in splits.items())
    header = f"# {spec.name}: {counts}; {origin}; {_hash(splits)}"
    files = {key: _file(folds, *key) for key in splits}
    texts = {key: _lines(file) for key, file in files.items()}
    if all(header in (parse_line(line)[0] for line in lines) for lines in texts.values()):
        for entry in Splits(folds, catalog).entries:
            if folder is not None and entry.dataset == spec.name and not (folder / entry.image).is_file():
                anew = f"delete {folder} to prepare it anew" if entry.image in images else f"all of {spec.name} to have them written anew"
                advice = f"take the line out, or {anew}"
                raise UserError(f"{entry.where}: {entry.image}: no such image in {folder}; {advice}")
        return False
    Splits(folds, catalog, but=spec.name)  # what stays must be in order; of a run that was stopped an image may stand in two files
    if folder is not None and (gone := sorted(image for image in images if not (folder / image).is_file())):
        raise UserError(f"{folder}: {len(gone)} of its images are gone, the first: {gone[0]}; delete the folder to prepare it anew")
    for key, file in files.items():
        block = [header, *(f"{image} {spec.name}" for image in sorted(splits[key], key=natural))]
        _write(file, [*(line for line in texts[key] if not _is_of(line, spec)), *block])
    return True


def begin_splits(folds: Path, inherited: Path, specs: Sequence[DatasetSpec]) -> None:
    """Begin the split files of a data root, all or none, with the lines that datasets have in those read so far: from now on these are not read."""
    kept = {key: lines for key in SPLITS if (lines := [line for line in _lines(_file(inherited, *key)) if any(_is_of(line, spec) for spec in specs)])}
    if kept:
        with whole_folder(folds) as unfinished:
            for key, lines in kept.items():
                _write(_file(unfinished, *key), lines)


def _file(folds: Path, kind: Kind, part: Part) -> Path:
    return folds / "train_test_split" / kind / part


def _lines(file: Path) -> list[str]:
    return read_text(file).splitlines() if file.exists() else []


def _write(file: Path, lines: Sequence[str]) -> None:
    with whole_file(file) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _hash(splits: Mapping[tuple[Kind, Part], Sequence[str]]) -> str:
    lines = sorted(f"{kind}/{part} {image}" for (kind, part), images in splits.items() for image in images)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def catalog_entry(catalog: Mapping[str, DatasetSpec], name: str, organ: str, modality: str) -> DatasetSpec:
    """The entry of a dataset in the catalog, or one that could be added.

    Raises:
        UserError: the entry that is there says something else, the name will not do, or a word is another dataset's but for upper and lower case.
    """
    check_name("prepare", name)
    check_distinct("prepare", name, [*catalog, *RESERVED])
    if name in RESERVED:
        raise UserError(f"prepare: {name}: is the name of something else in the data root; take another one")
    if name not in catalog:
        label = max((spec.label for spec in catalog.values()), default=-1) + 1
        try:
            spec = DatasetSpec(name=name, label=label, organ=organ, modality=modality, root=name)
        except ValueError as error:
            raise UserError(f"prepare: {error}") from None
        check_words("prepare", spec, catalog.values())
        return spec
    there = catalog[name]
    if (there.organ, there.modality) != (organ, modality):
        what = f"{there.organ} {there.modality}, not {organ} {modality}"
        raise UserError(f"datasets.yaml: {name} is {what}; take another name, or the same organ and modality")
    return there


def write_entry(data_root: Path, inherited: Path, spec: DatasetSpec) -> None:
    """Write the entry of a dataset into `data_root`/datasets.yaml, which begins as a copy of the file `inherited` where there is none yet.

    A new entry goes to the end. In one that is there the values that differ are replaced and missing keys added; all else, comments too, stays.
    """
    path = data_root / "datasets.yaml"
    source = path if path.exists() else inherited
    there = read_catalog(source).get(spec.name)
    if there == spec:
        return
    text = read_text(source)
    entry = {key: value for key, value in vars(spec).items() if key != "name"}
    if there is None:
        plain = {key: value for key, value in entry.items() if value != _DEFAULTS.get(key, ...)}
        text = f"{text.rstrip()}\n\n{spec.name}:\n" + "".join(f"  {key}: {_yaml(value)}\n" for key, value in plain.items())
    else:
        text = _with_values(text, spec.name, {key: value for key, value in entry.items() if value != getattr(there, key)})
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(DatasetSpec) if field.default is not dataclasses.MISSING}


def _with_values(text: str, name: str, values: Mapping[str, Any]) -> str:
    """The text of a datasets.yaml with other values in one entry."""
    (entry,) = (value for key, value in yaml.compose(text, yaml.SafeLoader).value if key.value == name)
    spans = {key.value: (value.start_mark.index, _end(value)) for key, value in entry.value}
    edits = [(*spans[key], f" {_yaml(value)}" if spans[key][0] == spans[key][1] else _yaml(value)) for key, value in values.items() if key in spans]
    added = [f"{key}: {_yaml(value)}" for key, value in values.items() if key not in spans]
    if entry.flow_style:
        place, addition = entry.end_mark.index - 1, "".join(f", {line}" for line in added)
    else:
        last = text.find("\n", max(end for _, end in spans.values()))
        place, addition = len(text) if last < 0 else last, "".join(f"\n{' ' * entry.start_mark.column}{line}" for line in added)
    text = text[:place] + addition + text[place:]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _end(node: yaml.Node) -> int:
    """Where the last character of a value stands; a list of lines would reach to the next key otherwise, over comments."""
    inside = isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value
    return _end(node.value[-1]) if inside else node.end_mark.index


def _yaml(value: Any) -> str:
    """A value on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def _is_of(line: str, spec: DatasetSpec) -> bool:
    text, dataset = parse_line(line)
    return text.startswith(f"# {spec.name}:") or dataset in (spec.name, str(spec.label))
