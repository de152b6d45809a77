"""Healthy twins: images that differ from an abnormal test image by its lesions alone, as only phantoms have them.

`twin_lists` says where they are told. Nothing is trained on them: they are no part of the fingerprint of the data, and have one of their own, by
which results are known to be of other twins.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_detection.data.arrays import KeptImages, load_images
from anomaly_detection.data.dataset import DataSource, ImageSet
from anomaly_detection.data.masks import mask_path
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.splits import SplitEntry
from anomaly_detection.data.twin_lists import TWINS, read_facts, read_twins
from anomaly_detection.system.errors import UserError

PART = "twins"  # of the data, in the names of the arrays that keep their pixels


@dataclass(frozen=True)
class Twins:
    """The twins of T test images.

    Attributes:
        places: (T,) of the abnormal images in the set of test images.
        names: of these images.
        images: the twins in the same order, each with label 0.
        facts: of each abnormal image: stratum, `NUMBERS` and, where it is told, the unit of contrast and noise; empty where nothing is said of it.
    """

    places: list[int]
    names: list[str]
    images: ImageSet
    facts: list[dict[str, Any]]


def load_twins(source: DataSource, test: ImageSet, preprocessing: Mapping[str, Preprocessing]) -> Twins | None:
    """The twins of test images, on their device; None where there are none.

    Args:
        source: of the images.
        test: its test images.
        preprocessing: of each of their datasets.

    Raises:
        UserError: twins.csv or phantoms.csv is damaged, or a twin is missing or unreadable.
    """
    twin_of = read_twins(source.data_root)
    named = list(zip(test.datasets, test.names, strict=True))
    places = [place for place, key in enumerate(named) if key in twin_of and test.label[place] == 1]
    if not places:
        return None
    kept = kept_twins(source, preprocessing)
    pixels = {(dataset, twin): row for dataset, (twins, images) in kept.items() for twin, row in zip(twins, images.array, strict=True)}
    index = torch.tensor(places, device=test.device)
    images = ImageSet(
        images=torch.from_numpy(np.stack([pixels[named[place][0], twin_of[named[place]]] for place in places])).to(test.device),
        organ=test.organ[index],
        modality=test.modality[index],
        label=torch.zeros_like(test.label[index]),
        names=[twin_of[named[place]] for place in places],
        datasets=[named[place][0] for place in places],
    )
    facts = read_facts(source.data_root)
    return Twins(places, [test.names[place] for place in places], images, [facts.get(named[place], {}) for place in places])


def kept_twins(source: DataSource, preprocessing: Mapping[str, Preprocessing]) -> dict[str, tuple[list[str], KeptImages]]:
    """Of each dataset that has twins of test images their names and pixels, kept as those of other images are.

    Raises:
        UserError: as `load_twins` does.
    """
    twin_of, kept = read_twins(source.data_root), {}
    for dataset in preprocessing if twin_of else ():
        images = [entry.image for entry in source.splits.select(dataset, "anomaly", "test") if (dataset, entry.image) in twin_of]
        twins = [twin_of[dataset, image] for image in images]
        for image, twin in zip(images, twins, strict=True):
            _file_of(source, dataset, image, twin)
        if twins:
            entries = [SplitEntry(twin, dataset, "normal", PART, TWINS) for twin in twins]
            kept[dataset] = twins, load_images(entries, source.catalog[dataset], source.data_root, preprocessing[dataset])
    return kept


def twins_fingerprint(source: DataSource, datasets: Sequence[str]) -> str | None:
    """A short hash of the twins of the test images of some datasets, their masks and what is said of their lesions; None where there are none.

    As that of the data it depends on no folder and no file time.

    Raises:
        UserError: as `load_twins` does, but for files that are there and unreadable.
    """
    twin_of = read_twins(source.data_root)
    if not twin_of:
        return None
    facts = read_facts(source.data_root)
    keys = sorted((name, entry.image) for name in datasets for entry in source.splits.select(name, "anomaly", "test"))
    content = []
    for dataset, image in keys:
        if twin := twin_of.get((dataset, image)):
            mask = source.data_root / source.catalog[dataset].root / mask_path(image)
            pixels = _digest(_file_of(source, dataset, image, twin)), _digest(mask) if mask.is_file() else None
            content.append([dataset, image, twin, *pixels, facts.get((dataset, image))])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16] if content else None


def _file_of(source: DataSource, dataset: str, image: str, twin: str) -> Path:
    """Where the twin of an image lies; raises UserError where it does not."""
    file = source.data_root / source.catalog[dataset].root / twin
    if not file.is_file():
        path = source.data_root / TWINS
        raise UserError(f"{file}: is missing; {path} names it as the twin of {image}: copy the data root whole, or delete {path}")
    return file


def _digest(file: Path) -> str:
    """Of a file's bytes; of a file that stays as it is they are read once."""
    state = file.stat()
    return _digest_of(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _digest_of(file: Path, _size: int, _changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
