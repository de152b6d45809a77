"""The datasets there are: datasets.yaml, read and checked."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from anomaly_detection.config.layers import Layer, build, read_yaml
from anomaly_detection.config.paths import OF_NO_DATASET
from anomaly_detection.data.formats.sources import same_name
from anomaly_detection.data.formats.window import window_from
from anomaly_detection.data.preprocessing import Aspect, Preprocessing
from anomaly_detection.system.errors import UserError

PHANTOM = "PHANTOM"  # the file that marks phantoms
OVER_DATASETS = ("mean", "pooled", "pooled_calibrated", "pooled_label_calibrated")  # what stands beside datasets in tables and among intervals
OWN_WORDS = (*OVER_DATASETS, *OF_NO_DATASET)


@dataclass(frozen=True)
class DatasetSettings:
    """The keys of one dataset in datasets.yaml, where each is explained."""

    label: int
    organ: str
    modality: str
    root: str
    crop_size: int | None = None
    equalize_hist: bool = False
    window: list[float] | Literal["auto"] | None = None
    aspect: Aspect = "stretch"
    size: int | None = None
    patient: str | None = None
    channels: Literal[1, 3] = 1

    def __post_init__(self):
        if self.label < 0:
            raise ValueError(f"label must be 0 or more, not {self.label}")
        if self.crop_size is not None and self.crop_size < 1:
            raise ValueError(f"crop_size must be at least 1 pixel, or null for no crop, not {self.crop_size}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, or null for images that were not prepared, not {self.size}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 for grey or 3 for colours, not {self.channels}")
        try:
            window_from(self.window)
        except ValueError:
            raise ValueError(f"window must be [level, width] with a width above 0, auto or null, not {self.window}") from None
        if self.patient is not None:
            try:
                re.compile(self.patient)
            except re.error as error:
                raise ValueError(f"patient must be a regular expression, not {self.patient!r}: {error}") from None
        for key in ("organ", "modality", "root"):
            if not getattr(self, key).strip():
                raise ValueError(f"{key} must not be empty")
        if leads_out(self.root):
            raise ValueError(f"root must be a folder under the data root, without `..`, not {self.root}; a link may lead elsewhere")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(DatasetSettings):
    """A dataset: its settings and the name it has in datasets.yaml."""

    name: str

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to its images, but for the part of training: `image_size`, and the channels that a network sees."""
        values = {key: getattr(self, key) for key in ("aspect", "size", "crop_size", "equalize_hist")}
        return Preprocessing(window=window_from(self.window), stored_channels=self.channels, **values)


def is_phantom(data_root: Path) -> bool:
    """Whether the data are rendered phantoms, or made of them."""
    return (Path(data_root) / PHANTOM).is_file()


def mark_phantom(folder: Path, text: str) -> None:
    """Leave the mark by which phantoms are known for what they are."""
    (Path(folder) / PHANTOM).write_text(text + "\n", encoding="utf-8")


def read_catalog(path: Path) -> dict[str, DatasetSpec]:
    """The datasets of a datasets.yaml by name, in order of their labels.

    Raises:
        UserError: one line with the file, the dataset and the key that is wrong.
    """
    catalog: dict[str, DatasetSpec] = {}
    for name, values in read_yaml(path).items():
        check_name(str(path), name)
        spec = DatasetSpec(name=name, **vars(build(DatasetSettings, [Layer(f"{path}: {name}", values)])))
        for other in catalog.values():
            if other.label == spec.label:
                raise UserError(f"{path}: {name}: label: {spec.label} is the label of {other.name} already; give each dataset its own")
        check_distinct(str(path), name, catalog)
        check_words(str(path), spec, catalog.values())
        catalog[name] = spec
    if not catalog:
        raise UserError(f"{path}: no dataset in it; describe one as `name:` with the keys label, organ, modality and root below it")
    return dict(sorted(catalog.items(), key=lambda item: item[1].label))


def check_name(where: str, name: object) -> None:
    """Split files name a dataset after a space, by name or number, and the name stands in paths, in tables and in the names of configs: raises
    UserError if it will not do."""
    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d_][\w.-]*", name):
        raise UserError(f"{where}: {name}: a dataset's name begins with a letter and goes on with letters, digits, '_', '-' or '.'")
    if same_name(name) in OWN_WORDS:
        raise UserError(f"{where}: {name}: is a word of tables or of configs, as are {', '.join(OWN_WORDS)}; give the dataset another name")


def check_distinct(where: str, name: str, others: Iterable[str]) -> None:
    """Datasets have folders of their names: raises UserError if some file system takes a name for another one's."""
    for other in others:
        if other != name and same_name(other) == same_name(name):
            raise UserError(f"{where}: {name}: some systems take it for {other}, and results of both into one folder; give it another name")


def check_words(where: str, spec: DatasetSpec, others: Iterable[DatasetSpec]) -> None:
    """Organs and modalities are classes by their words: raises UserError if two differ in nothing that anybody hears."""
    for other in others:
        for key in ("organ", "modality"):
            own, there = getattr(spec, key), getattr(other, key)
            if own != there and same_word(own) == same_word(there):
                what = f"{own!r} and the {there!r} of {other.name} differ in upper and lower case or space alone, and would be two classes"
                raise UserError(f"{where}: {spec.name}: {key}: {what}; write them alike")


def same_word(word: str) -> str:
    """What is equal of words that differ in upper and lower case or space alone."""
    return same_name(" ".join(word.split()))


def leads_out(path: str) -> bool:
    """Whether a path that a list or a catalog names is absolute or climbs with `..`, on this system or another."""
    windows = PureWindowsPath(path)
    return bool(windows.drive or windows.root) or PurePosixPath(path).is_absolute() or ".." in windows.parts


def unknown_dataset(name: str, catalog: Mapping[str, DatasetSpec]) -> str:
    """The sentence that says that there is no such dataset, and which one may be meant."""
    near = difflib.get_close_matches(name, catalog, 1)
    return f"no dataset {name!r} in datasets.yaml; " + (f"did you mean {near[0]}?" if near else f"it has {', '.join(catalog)}")
