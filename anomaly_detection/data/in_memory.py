"""Images in memory, and what is told of them, as training takes them: a set to train on and one to validate with."""

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch

from anomaly_detection.data.arrays import pixel_hash
from anomaly_detection.data.catalog import same_word
from anomaly_detection.data.dataset import Domains, ImageSet
from anomaly_detection.data.patients import merge_patients
from anomaly_detection.data.prepare.assign import order_patients
from anomaly_detection.data.splits import Part

logger = logging.getLogger(__name__)

Words = str | Sequence[str]
Groups = Sequence[Hashable | None]


@dataclass(frozen=True)
class Labels:
    """What is told of N normal images.

    Attributes:
        places: of the images among all that were handed over.
        organ, modality: the words of each.
        patient: whose each is; None where that is not known.
    """

    places: list[int]
    organ: list[str]
    modality: list[str]
    patient: list[str | None]

    @classmethod
    def of(cls, count: int, y: Sequence[int] | None, organ: Words, modality: Words, groups: Groups | None) -> "Labels":
        """Of the normal ones among images that are told of as in `AnomalyDetector.fit`.

        Raises:
            ValueError: not one for each image, other labels than 0 and 1, no normal image, or words that differ in case or space alone.
            TypeError: words that are none.
        """
        places = _normal_places(y, count)
        columns = _one_each("organ", organ, count), _one_each("modality", modality, count), _patients(groups, count)
        return cls(places, *([column[place] for place in places] for column in columns))

    @property
    def domains(self) -> Domains:
        """Organs and modalities in the order in which they appear."""
        return Domains(tuple(dict.fromkeys(self.organ)), tuple(dict.fromkeys(self.modality)))

    @property
    def datasets(self) -> list[str]:
        """The domain of each image, as the name of a dataset."""
        return [dataset_of(*domain) for domain in zip(self.organ, self.modality, strict=True)]


def dataset_of(organ: str, modality: str) -> str:
    """The name of the dataset that a domain of images in memory is."""
    return f"{organ} {modality}"


class Side(NamedTuple):
    """The images of one side of a split, and whose each is."""

    images: ImageSet
    patients: list[str | None]


def split(pixels: np.ndarray, labels: Labels, share: float, seed: int) -> dict[Part, Side]:
    """Some images to train on and the others to validate with.

    Of each domain a share of the patients, one at least, validates: those who come first in the order of `prepare`, so that who is in several
    domains is on one side in all. Images with the same pixels count as one patient's; where nobody knows whose they are, one of them validates.

    Args:
        pixels: (N, C, H, W) uint8.
        labels: of them.
        share: of the patients, between 0 and 1.
        seed: another seed, other patients.

    Raises:
        ValueError: another share, or too few patients in a domain.
    """
    if not (isinstance(share, Real) and 0 < share < 1):
        raise ValueError(f"validation_share must be between 0 and 1, not {share!r}")
    units, datasets = _units(pixels, labels), labels.datasets
    members = {name: sorted({unit for unit, dataset in zip(units, datasets, strict=True) if dataset == name}) for name in dict.fromkeys(datasets)}
    validating: set[str] = set()
    for inside in members.values():
        validating |= set(order_patients(inside, seed)[: min(max(1, round(share * len(inside))), len(inside) - 1)])
    for name, inside in members.items():
        if not validating.intersection(inside) or validating.issuperset(inside):
            told = "patients" if any(patient is not None for patient in labels.patient) else "images"
            advice = "training and validation need one each, whom no other domain needs on the other side"
            raise ValueError(f"{name}: {len(inside)} {told} are too few: {advice}")
    whose = {unit: who for unit, who in zip(reversed(units), reversed(labels.patient), strict=True) if who is not None}
    sides: dict[Part, list[int]] = {"train": [], "val": []}
    met: set[str] = set()
    for place, unit in enumerate(units):
        if unit not in validating:
            sides["train"].append(place)
        elif unit in whose or unit not in met:  # thresholds count strangers, so none may be there twice
            sides["val"].append(place)
        met.add(unit)
    return {part: _side(pixels, labels, places, [whose.get(units[place]) for place in places]) for part, places in sides.items()}


def _units(pixels: np.ndarray, labels: Labels) -> list[str]:
    """Who is on one side, of each image."""
    names = [f"image {place}" if who is None else f"patient {who}" for place, who in zip(labels.places, labels.patient, strict=True)]
    # images of one grey, such as empty slices, are nobody's
    hashes = [pixel_hash(image.tobytes()) if image.min() < image.max() else name for image, name in zip(pixels, names, strict=True)]
    owner = merge_patients(zip(names, hashes, strict=True))
    return [owner[name] for name in names]


def _side(pixels: np.ndarray, labels: Labels, places: list[int], patients: list[str | None]) -> Side:
    domains, datasets = labels.domains, labels.datasets
    images = ImageSet(
        images=torch.from_numpy(pixels[places]),
        organ=torch.tensor([domains.organs.index(labels.organ[place]) for place in places]),
        modality=torch.tensor([domains.modalities.index(labels.modality[place]) for place in places]),
        label=torch.zeros(len(places), dtype=torch.int64),
        names=[f"image {labels.places[place]}" for place in places],
        datasets=[datasets[place] for place in places],
    )
    return Side(images, patients)


def _normal_places(y: Sequence[int] | None, count: int) -> list[int]:
    labels = [0] * count if y is None else _column("y", y)
    if len(labels) != count:
        raise ValueError(f"y: {len(labels)} labels for {count} images")
    for label in labels:
        if label not in (0, 1):
            raise ValueError(f"y: expected 0 for normal and 1 for abnormal images, got {label!r}")
    places = [place for place, label in enumerate(labels) if label == 0]
    if not places:
        raise ValueError(f"y: none of {count} images is normal, and it is normal ones that are trained on")
    if len(places) < count:
        logger.info("%d abnormal images are left out: it is normal ones that are trained on", count - len(places))
    return places


def _one_each(name: str, words: Words, count: int) -> list[str]:
    """The word of each image."""
    words = [words] * count if isinstance(words, str) else _column(name, words)
    if len(words) != count:
        raise ValueError(f"{name}: {len(words)} words for {count} images; give one word for all, or one for each")
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise TypeError(f"{name}: expected words, got {word!r}")
    first: dict[str, str] = {}
    for word in dict.fromkeys(words):
        if (other := first.setdefault(same_word(word), word)) != word:
            raise ValueError(f"{name}: {other!r} and {word!r}, two classes, differ in upper and lower case or space alone; write them alike")
    return [str(word) for word in words]  # of numpy, too


def _patients(groups: Groups | None, count: int) -> list[str | None]:
    groups = [None] * count if groups is None else _column("groups", groups)
    if len(groups) != count:
        raise ValueError(f"groups: {len(groups)} patients for {count} images; give the patient of each image")
    return [None if _missing(group) else str(group) for group in groups]


def _missing(value: Any) -> bool:
    """Whether it says that something is not known, as None, NaN, NaT, pandas' NA and an empty cell of a table do."""
    try:
        return value is None or bool(value != value) or value == ""
    except TypeError:  # NA, of which nothing is true
        return True


def _column(name: str, values: Any) -> list[Any]:
    """What is told of each image.

    Raises:
        TypeError: something else than a list or an array of one dimension.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list or an array, one value for each image, got {values!r}")
    shape = getattr(values, "shape", (0,))
    if len(shape) > 1 and shape != (len(values), 1):
        raise TypeError(f"{name}: expected a list or an array, one value for each image, got one of shape {tuple(shape)}")
    return list(values if len(shape) == 1 else np.asarray(values)[:, 0])
