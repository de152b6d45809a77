"""Images with their organ, modality and label, ready to be batched by index."""

import copy
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from anomaly_detection.config.paths import PROJECT, find_catalog, find_folds
from anomaly_detection.data.arrays import KeptImages, load_images
from anomaly_detection.data.catalog import DatasetSpec, read_catalog, unknown_dataset
from anomaly_detection.data.mapped import MappedImages
from anomaly_detection.data.masks import LesionMasks, load_masks
from anomaly_detection.data.patients import patient_of, patients_of
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.record import made_otherwise
from anomaly_detection.data.splits import SPLITS, Kind, Part, SplitEntry, Splits, aliases, linked_outside
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)


def to_floats(pixels: Tensor) -> Tensor:
    """Grey or colour values 0 ... 255, of any shape, as the float32 in [-1, 1] that networks take."""
    return pixels.float().div(127.5).sub_(1)  # bytes by themselves become torch's default kind of number


def to_bytes(images: Tensor) -> Tensor:
    """The inverse of `to_floats`, rounded, as uint8; what lies beyond [-1, 1] is cut off."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@dataclass(frozen=True)
class Batch:
    """Images of a set, as a network takes them.

    Attributes:
        image: (B, C, H, W) float32 in [-1, 1]; None where nobody asked for it.
        organ, modality: (B,) int64 class numbers.
        index: (B,) int64, the images' places in the set; None for mixtures, of which nothing was taken beforehand.
        partner: of a mixture, the images mixed in, with their labels.
        share: of a mixture, the part that is not its partner's.
    """

    image: Tensor | None
    organ: Tensor
    modality: Tensor
    index: Tensor | None
    partner: "Batch | None" = None
    share: float = 1.0

    def mixed(self, partner: "Batch", share: float) -> "Batch":
        """The batch of ``share * image + (1 - share) * partner.image``; `Baseline.constraint` weighs both labels likewise."""
        return replace(self, image=torch.lerp(partner.image, self.image, share), index=None, partner=partner, share=share)

    def chunks(self, count: int) -> list["Batch"]:
        """The batch cut into `count` equal ones, for a baseline whose step needs several."""
        tensors = [[None] * count if each is None else each.chunk(count) for each in (self.image, self.organ, self.modality, self.index)]
        partner = [None] * count if self.partner is None else self.partner.chunks(count)
        return [Batch(*fields, self.share) for fields in zip(*tensors, partner, strict=True)]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images of one or several datasets.

    Attributes:
        images: (N, C, H, W) uint8; a `MappedImages` where they are more than is to be kept in memory.
        organ, modality: (N,) int64, places in the `Domains` of the datasets that were loaded.
        label: (N,) int64, 0 normal, 1 abnormal.
        names: path of each image in the folder of its dataset.
        datasets: name of each image's dataset.
    """

    images: "Tensor | MappedImages"
    organ: Tensor
    modality: Tensor
    label: Tensor
    names: list[str]
    datasets: list[str]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def window(self) -> int | None:
        """How many of the images may be in memory at a time; None if all are."""
        return self.images.window if isinstance(self.images, MappedImages) else None

    @property
    def device(self) -> torch.device:
        """Where the labels are, and the images of a batch come to be."""
        return self.organ.device

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with its tensors on a device; mapped images stay in their files."""
        moved = {name: getattr(self, name).to(device) for name in ("images", "organ", "modality", "label")}
        return replace(self, **moved)

    def batch(self, index: Tensor, with_image: bool = True) -> Batch:
        """The images at `index` (B,) with their labels, on the device of the set; without image the labels alone, and no file is read."""
        index = index.to(self.device)
        image = to_floats(self.images[index.to(self.images.device)].to(self.device)) if with_image else None
        return Batch(image, self.organ[index], self.modality[index], index)

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, in batches of `size`, the last one smaller."""
        for index in torch.arange(len(self), device=self.device).split(size):
            yield self.batch(index)


@dataclass(frozen=True)
class Domains:
    """The organs and modalities of some datasets; an id is a place in these."""

    organs: tuple[str, ...]
    modalities: tuple[str, ...]

    @classmethod
    def of(cls, specs: Iterable[DatasetSpec]) -> "Domains":
        """Ids in the order in which organs and modalities first appear, going through the datasets by label."""
        specs = sorted(specs, key=lambda spec: spec.label)
        return cls(tuple(dict.fromkeys(spec.organ for spec in specs)), tuple(dict.fromkeys(spec.modality for spec in specs)))


class _Contents:
    """The images of several splits by their pixels, none of which may be in two."""

    def __init__(self):
        self._first: dict[bytes, SplitEntry] = {}

    def add(self, entries: Sequence[SplitEntry], kept: KeptImages) -> None:
        """Those of one split; raises UserError where an image is in another, too. Images of one grey are nobody's."""
        for entry, digest in zip(entries, map(bytes, kept.hashes), strict=True):
            other = self._first.setdefault(digest, entry)
            if any(digest) and (other.kind, other.part) != (entry.kind, entry.part):
                first = f"{other.image} of {other.dataset} in {other.kind}/{other.part} ({other.where})"
                raise UserError(f"{entry.where}: {entry.image} of {entry.dataset} shows the same pixels as {first}; take one line out")


class DataSource:
    """What there is under a data root, as its catalog and split files describe it.

    Args:
        data_root: holds the folders of the datasets; its own datasets.yaml and folds/, where it has them, go before the project's.
        project_root: holds configs/datasets.yaml and folds/.

    Attributes:
        catalog: the datasets by name, in order of their labels.
        splits: the split files.

    Raises:
        UserError: there is no such folder, or the catalog or a split file is wrong.
    """

    def __init__(self, data_root: Path, project_root: Path = PROJECT):
        self.data_root = Path(data_root)
        if not self.data_root.is_dir():
            raise UserError(f"{data_root}: no such folder; the data root is the folder that holds the folders of the datasets")
        self.catalog = read_catalog(find_catalog(data_root, project_root))
        self.splits = Splits(find_folds(data_root, project_root), self.catalog)
        self._fingerprints: dict[tuple, str] = {}
        self._digests: dict[tuple, str] = {}
        self._patients_digests: dict[str, str] = {}
        self._masks_digests: dict[tuple[str, Preprocessing], str | None] = {}
        self._files_checked = False
        self._patients_checked: set[str] = set()

    def absolute(self) -> "DataSource":
        """The same source, for processes with other working folders."""
        source = copy.copy(self)
        source.data_root = self.data_root.absolute()
        return source

    def available(self) -> list[str]:
        """The datasets whose folder exists and of which the split files list images, in order of their labels."""
        listed = {entry.dataset for entry in self.splits.entries}
        return [name for name, spec in self.catalog.items() if name in listed and (self.data_root / spec.root).is_dir()]

    def domains(self, datasets: Sequence[str]) -> Domains:
        """The organs and modalities of some datasets, to which the ids in their `ImageSet` refer."""
        return Domains.of(self._specs(datasets))

    def counts(self, dataset: str) -> dict[tuple[Kind, Part], int]:
        """How many images of a dataset each split file lists; files that list none are left out."""
        return dict(Counter((entry.kind, entry.part) for entry in self.splits.entries if entry.dataset == dataset))

    def patient_counts(self, dataset: str) -> dict[tuple[Kind, Part], int | None]:
        """How many patients the images of a dataset in each split file are of; None where it is not known of all.

        Raises:
            UserError: a manifest is damaged.
        """
        patients: dict[tuple[Kind, Part], set[str | None]] = {}
        for entry, who in self._whose(dataset):
            patients.setdefault((entry.kind, entry.part), set()).add(who)
        return {split: None if None in who else len(who) for split, who in patients.items()}

    def _whose(self, dataset: str) -> Iterator[tuple[SplitEntry, str | None]]:
        """Each line of the split files that names an image of a dataset, and its patient."""
        spec = self.catalog[dataset]
        manifest = patients_of(self.data_root / spec.root)
        for entry in self.splits.entries:
            if entry.dataset == dataset:
                yield entry, patient_of(entry.image, entry.kind == "anomaly", manifest, spec.patient)

    def preprocessing(self, datasets: Sequence[str], image_size: int, channels: Literal[1, 3]) -> dict[str, Preprocessing]:
        """What is done to the images of each of some datasets before a network sees them.

        Raises:
            UserError: an unknown dataset, or one whose images `prepare` has made otherwise than the catalog says, see `made_otherwise`.
        """
        specs = self._specs(datasets)
        for spec in specs:
            if line := made_otherwise(spec, self.data_root):
                raise UserError(line)
        return {spec.name: replace(spec.preprocessing, image_size=image_size, channels=channels) for spec in specs}

    def load(self, datasets: Sequence[str], part: Part, preprocessing: Mapping[str, Preprocessing], memory_mib: int = 4096) -> ImageSet:
        """The images of some datasets in one part of the data, dataset after dataset in order of their labels.

        train and val are normal images alone; test is the normal images, then the abnormal ones, if there are any, of each dataset.

        Args:
            datasets: their names.
            part: of the data.
            preprocessing: what is done to the images of each dataset.
            memory_mib: images of more than this are left in their files, of which no more than this is in memory at a time.

        Raises:
            UserError: an unknown dataset, a dataset without images in a split that needs some, images that are missing or unreadable, a file that
                several lines of the split files mean, see `aliases`, or a patient who is in several parts.
        """
        specs = self._specs(datasets)
        domains = Domains.of(specs)
        groups = self._groups(specs, part)
        arrays = [self._kept(group, preprocessing).array for group in groups]
        sizes = torch.tensor([len(entries) for _, _, entries in groups])

        def per_image(values: list[int]) -> Tensor:
            return torch.tensor(values).repeat_interleave(sizes)

        budget = memory_mib * 2**20
        large = sum(array.nbytes for array in arrays) > budget
        return ImageSet(
            images=MappedImages(arrays, budget) if large else torch.from_numpy(np.concatenate(arrays)),
            organ=per_image([domains.organs.index(spec.organ) for spec, _, _ in groups]),
            modality=per_image([domains.modalities.index(spec.modality) for spec, _, _ in groups]),
            label=per_image([int(kind == "anomaly") for _, kind, _ in groups]),
            names=[entry.image for _, _, entries in groups for entry in entries],
            datasets=[spec.name for spec, _, entries in groups for _ in entries],
        )

    def kept(self, datasets: Sequence[str], part: Part, preprocessing: Mapping[str, Preprocessing]) -> list[KeptImages]:
        """The pixels that `load` puts together, of each line of split files by itself; raises as it does."""
        return [self._kept(group, preprocessing) for group in self._groups(self._specs(datasets), part)]

    def patients(self, images: ImageSet) -> list[str | None]:
        """Whose each image of a set is, as `patient_of` tells; None where that is not known.

        Raises:
            UserError: a manifest is damaged.
        """
        manifests = {name: patients_of(self.data_root / self.catalog[name].root) for name in dict.fromkeys(images.datasets)}
        patterns = {name: self.catalog[name].patient for name in manifests}
        labelled = zip(images.names, images.datasets, images.label.tolist(), strict=True)
        return [patient_of(image, bool(label), manifests[dataset], patterns[dataset]) for image, dataset, label in labelled]

    def fingerprint(
        self, datasets: Sequence[str], preprocessing: Mapping[str, Preprocessing], parts: Sequence[Part] = ("train", "val", "test")
    ) -> str:
        """A short hash of names, labels, organs, modalities and pixels in some parts of the data.

        It depends on no folder and no file time, so a copy of the data on another machine has the same. It is taken once: files that change
        later are refused when they are read.

        Raises:
            UserError: as `load` does; also where two of these parts hold the same pixels, whatever the names of the files.
        """
        specs = self._specs(datasets)
        key = (*((spec.name, preprocessing[spec.name]) for spec in specs), *parts)
        if key not in self._fingerprints:
            domains = Domains.of(specs)
            content, images = [], _Contents()
            for part in parts:
                for spec, kind, entries in self._groups(specs, part):
                    kept = self._kept((spec, kind, entries), preprocessing)
                    images.add(entries, kept)
                    ids = domains.organs.index(spec.organ), domains.modalities.index(spec.modality)
                    content.append([part, kind, spec.name, *ids, [entry.image for entry in entries], kept.array.shape, kept.digest])
            self._fingerprints[key] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        return self._fingerprints[key]

    def patients_fingerprint(self, datasets: Sequence[str]) -> str:
        """A short hash of whose the images of some datasets are, taken once.

        Raises:
            UserError: an unknown dataset, or a damaged manifest.
        """
        names = [spec.name for spec in self._specs(datasets)]
        for name in names:
            if name not in self._patients_digests:
                content = sorted((entry.image, who or "") for entry, who in self._whose(name))
                self._patients_digests[name] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return hashlib.sha256(json.dumps([[name, self._patients_digests[name]] for name in names]).encode()).hexdigest()[:16]

    def masks(self, dataset: str, preprocessing: Preprocessing) -> LesionMasks | None:
        """Those of the test images of a dataset, in the order of `load`; None where no lesion is in any, see `load_masks`.

        Raises:
            UserError: as `load_masks` does, or they are not those that were met before, of which fingerprints were taken.
        """
        groups = self._groups(self._specs([dataset]), "test")
        images = [entry.image for _, _, entries in groups for entry in entries]
        labels = [int(kind == "anomaly") for _, kind, entries in groups for _ in entries]
        masks = load_masks(images, labels, self.catalog[dataset], self.data_root, preprocessing)
        digest = None if masks is None else masks.digest
        if self._masks_digests.setdefault((dataset, preprocessing), digest) != digest:
            raise UserError(f"{self.data_root / self.catalog[dataset].root}: masks changed while this command ran; run the same command again")
        return masks

    def masks_fingerprint(self, datasets: Sequence[str], preprocessing: Mapping[str, Preprocessing]) -> str | None:
        """A short hash of the masks of the test images of some datasets, as networks see them, taken once; None where there are none.

        As `fingerprint` it depends on no folder and no file time.

        Raises:
            UserError: as `masks` does.
        """
        keys = [(spec.name, preprocessing[spec.name]) for spec in self._specs(datasets)]
        for key in keys:
            if key not in self._masks_digests:
                self.masks(*key)
        content = [[name, digest] for name, each in keys if (digest := self._masks_digests[name, each])]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16] if content else None

    def _groups(self, specs: Sequence[DatasetSpec], part: Part) -> list[tuple[DatasetSpec, Kind, list[SplitEntry]]]:
        """The lines of each dataset in the split files of a part."""
        if not self._files_checked:
            self._check_files()
            self._files_checked = True
        for spec in specs:
            self._check_patients(spec)
        kinds = [kind for kind, its_part in SPLITS if its_part == part]
        groups = [(spec, kind, self.splits.select(spec.name, kind, part)) for spec in specs for kind in kinds]
        return [group for group in groups if group[2]]

    def _check_files(self) -> None:
        """Refuse lines of all datasets that mean one file; say which files lie elsewhere."""
        for entry, other in aliases(self.splits.entries, self.catalog, self.data_root):
            first = f"{other.image} of {other.dataset} in {other.kind}/{other.part} ({other.where})"
            raise UserError(f"{entry.where}: {entry.image} of {entry.dataset} is the same file as {first}; take one line out")
        if line := linked_outside(self.splits.entries, self.catalog, self.data_root):
            logger.warning("%s", line)

    def _check_patients(self, spec: DatasetSpec) -> None:
        """Refuse a dataset of which a patient is known to be in several parts: what was learnt of somebody would be tested on the same."""
        if spec.name in self._patients_checked:
            return
        first: dict[str, SplitEntry] = {}
        apart = [(entry, who) for entry, who in self._whose(spec.name) if who is not None and first.setdefault(who, entry).part != entry.part]
        if apart:
            (entry, who), count = apart[0], len({who for _, who in apart})
            more = f"; {count} patients are in several parts, which `check` lists" if count > 1 else ""
            other = f"{first[who].image} in {first[who].part} ({first[who].where})"
            raise UserError(
                f"{entry.where}: {entry.image} of {spec.name} is of patient {who}, as is {other}; move all of a patient into one part{more}"
            )
        self._patients_checked.add(spec.name)

    def _kept(self, group: tuple[DatasetSpec, Kind, list[SplitEntry]], preprocessing: Mapping[str, Preprocessing]) -> KeptImages:
        """The pixels of some lines; raises UserError where they are not those that were met before, of which fingerprints were taken."""
        spec, kind, entries = group
        kept = load_images(entries, spec, self.data_root, preprocessing[spec.name])
        if self._digests.setdefault((spec.name, kind, entries[0].part, preprocessing[spec.name]), kept.digest) != kept.digest:
            raise UserError(f"{self.data_root / spec.root}: images changed while this command ran; run it again, with another --results")
        return kept

    def _specs(self, datasets: Sequence[str]) -> list[DatasetSpec]:
        for name in datasets:
            if name not in self.catalog:
                raise UserError(unknown_dataset(name, self.catalog))
        if not datasets:
            raise UserError(f"no dataset is chosen; the catalog has {', '.join(self.catalog)}")
        return [spec for name, spec in self.catalog.items() if name in datasets]
