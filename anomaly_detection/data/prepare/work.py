"""What `prepare` has to do for each of the datasets it knows, and for anyone's images."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from anomaly_detection.config.paths import SHIPPED
from anomaly_detection.data.catalog import PHANTOM, DatasetSpec, is_phantom, read_catalog
from anomaly_detection.data.formats.own import is_own
from anomaly_detection.data.formats.read import no_image
from anomaly_detection.data.formats.sources import FORMATS, SourceFile, list_source
from anomaly_detection.data.formats.window import WindowChoice, plain_window
from anomaly_detection.data.manifest import Key
from anomaly_detection.data.prepare import covid_ct, covid_xray, folder, lits
from anomaly_detection.data.prepare.build import RECORD, Job
from anomaly_detection.data.prepare.copies import copies
from anomaly_detection.data.prepare.lists import catalog_entry
from anomaly_detection.data.prepare.options import DOWNLOADS, Choice
from anomaly_detection.data.preprocessing import Aspect
from anomaly_detection.data.splits import Part
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)

Catalog = Mapping[str, DatasetSpec]


@dataclass(frozen=True)
class Work:
    """How a dataset is made.

    Attributes:
        spec: the dataset.
        jobs: the files of the download.
        settings: what the images depend on beside the files and their preprocessing; see `build_dataset`.
        phantom: whether the files are phantoms.
        told_by: by what the jobs know the patients that they name, see `settle_patients`.
        healthy_first, published: see `assign_splits`.
    """

    spec: DatasetSpec
    jobs: Sequence[Job]
    settings: dict[str, Any]
    phantom: bool
    told_by: Key = "name"
    healthy_first: bool = True
    published: Mapping[str, Part] | None = None

    def stored(self, size: int, aspect: Aspect, channels: Literal[1, 3]) -> "Work":
        """The same with the form in which the images are stored."""
        return replace(self, spec=replace(self.spec, size=size, aspect=aspect, channels=channels))


def of_lits(src: Path, catalog: Catalog, choice: Choice) -> Work:
    """The slices of the LiTS volumes; raises UserError where these are not there, as the functions below do."""
    spec, files = _known("lits", catalog), _list(src, DOWNLOADS["lits"])
    if spec.window is None:
        raise UserError("datasets.yaml: lits: window: is needed to make grey of Hounsfield units; [40, 400] shows the liver")
    jobs = lits.plan(src, files, choice, spec.preprocessing.window)
    # the split of the 131 volumes follows from their names, whatever lesions are in them: folds/ lists it
    return Work(spec, jobs, asdict(choice), _phantom(files), healthy_first=False)


def of_covid_ct(src: Path, catalog: Catalog, follow_lists: bool) -> Work:
    """The images of COVID-CT, split as the lists beside them say, or by patient and seed."""
    spec, files = _known("covid_ct", catalog), _list(src, DOWNLOADS["covid_ct"])
    published = covid_ct.published_split(files) if follow_lists else None
    return Work(spec, covid_ct.plan(src, files, spec.preprocessing.window), {}, _phantom(files), published=published)


def of_covid_xray(src: Path, catalog: Catalog) -> Work:
    """The radiographs of the Shenzhen set, or of folders of normal and of COVID-19 X-rays."""
    spec, files = _known("covid_xray", catalog), _list(src, DOWNLOADS["covid_xray"])
    return Work(spec, covid_xray.plan(src, files, spec.preprocessing.window), {}, _phantom(files))


class FolderSources(NamedTuple):
    """Folders or zip archives of the normal images, of the abnormal ones, and of the masks of these; None where there are none."""

    normal: Path
    abnormal: Path | None
    masks: Path | None


def of_folder(
    sources: FolderSources, catalog: Catalog, words: tuple[str, str, str], window: WindowChoice, patient: str | None, max_slices: int
) -> Work:
    """Anyone's images.

    Args:
        sources: where they are.
        catalog: the datasets there are; if the name is one of them, organ and modality must be its own.
        words: name, organ and modality of the dataset.
        window: what is shown of more than 8 bits; None: as the files say.
        patient: a regular expression that names the patient in a path; None: by folder or file.
        max_slices: of a volume.
    """
    name, organ, modality = words
    spec = replace(catalog_entry(catalog, name, organ, modality), window=plain_window(window))
    if sources.masks and not sources.abnormal:
        raise UserError(f"--masks {sources.masks}: masks mark the lesions of abnormal images, of which there are none; give --abnormal, too")
    wanted = f"a folder or zip archive of images ({FORMATS})"
    normal, abnormal, masks = (_list(source, wanted) if source else [] for source in sources)
    _refuse_both(sources, normal, abnormal)
    of_masks = {_place(file) for file in masks}  # the folder of masks often lies in that of the images
    normal, abnormal = ([file for file in files if _place(file) not in of_masks] for files in (normal, abnormal))
    jobs, other = folder.plan(normal, abnormal if sources.abnormal else None, masks, window, patient, max_slices)
    other = [file for file in other if file.name != PHANTOM]
    if other:
        logger.warning("left alone: %d files that are no images, the first: %s (%s)", len(other), other[0], no_image(other[0].name))
    return Work(spec, jobs, {"patient": patient, "max_slices": max_slices}, _phantom([*normal, *abnormal]), "--patient" if patient else "name")


def check_mixture(data_root: Path, work: Work, catalog: Catalog) -> None:
    """Phantoms and real images under one root would stand in one table: raises UserError where that is to be."""
    others = [other for other in catalog.values() if other.name != work.spec.name and (data_root / other.root).is_dir()]
    if others and is_phantom(data_root) != work.phantom:
        kinds = ("phantoms", "real images") if work.phantom else ("real images", "phantoms")
        raise UserError(f"{data_root}: {kinds[0]} among {kinds[1]} ({others[0].name}); give them a folder of their own: --data-root")


def _list(source: Path, wanted: str) -> list[SourceFile]:
    """The files of a download, without what `prepare` and `predict` wrote among them; raises UserError where some are there twice."""
    if not source.exists() and not source.is_symlink():
        raise UserError(f"{source}: no such folder or zip archive; what is needed is {wanted}")
    listed = list_source(source)
    made = {folder for folder in {file.path.parent for file in listed} if _is_made(folder, source)}
    files = [file for file in listed if file.path.parent not in made]
    if len(files) < len(listed):
        first = next(file for file in listed if file.path.parent in made)
        logger.warning("left alone: %d files of datasets that prepare has made, the first: %s", len(listed) - len(files), first)
    if own := {file for file in files if is_own(file)}:  # overlays and maps would count as images
        logger.warning("left alone: %d files that predict wrote, the first: %s", len(own), min(own))
        files = [file for file in files if file not in own]
    if twice := copies(files):
        raise UserError(f"{twice[0]}: is there twice, the other one is {twice[1]}, packed or unpacked; take one away")
    return files


def _is_made(folder: Path, source: Path) -> bool:
    """Whether a folder is, or lies in, that of a dataset that `prepare` made, below the source."""
    return any((each / RECORD).is_file() for each in (folder, *folder.parents) if each != source and source in each.parents)


def _refuse_both(sources: FolderSources, normal: Sequence[SourceFile], abnormal: Sequence[SourceFile]) -> None:
    """An image is normal or abnormal; where one folder lies in the other, or a link leads there, its images would be both."""
    there = {_place(file) for file in normal}
    both = [file for file in abnormal if _place(file) in there]
    if both:
        what = f"{len(both)} files are in --normal {sources.normal} and in --abnormal {sources.abnormal}, the first: {both[0]}"
        raise UserError(f"{what}; give two folders that share none")


def _place(file: SourceFile) -> tuple[str, str | None, str | None]:
    return os.path.realpath(file.path), file.within, file.member


def _known(name: str, catalog: Catalog) -> DatasetSpec:
    """The entry of a public dataset; the shipped one, under a label that is free, where a datasets.yaml of one's own has none."""
    if name in catalog:
        return catalog[name]
    shipped = read_catalog(SHIPPED / "configs" / "datasets.yaml")[name]
    return replace(shipped, label=catalog_entry(catalog, name, shipped.organ, shipped.modality).label)


def _phantom(files: Sequence[SourceFile]) -> bool:
    return any(file.name == PHANTOM for file in files)
