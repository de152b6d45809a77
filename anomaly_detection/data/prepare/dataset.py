"""From the files of a download to what training reads: images, masks, a manifest, split files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.manifest import Key, Row
from anomaly_detection.data.prepare.assign import assign_splits
from anomaly_detection.data.prepare.build import Job, build_dataset
from anomaly_detection.data.prepare.lists import begin_splits, write_splits
from anomaly_detection.data.prepare.options import Shares
from anomaly_detection.data.splits import Kind, Part, Splits


@dataclass(frozen=True)
class Target:
    """Where a dataset goes.

    Attributes:
        data_root: the folder that holds the folders of the datasets.
        folds: the folder that holds train_test_split/.
        catalog: the datasets that its files may name.
        inherited: the split files that were read so far; what they say of datasets in the data root stays where `folds` is not there yet.
    """

    data_root: Path
    folds: Path
    catalog: Mapping[str, DatasetSpec]
    inherited: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did.

    Attributes:
        counts: images that the split files list.
        rows: of the manifest.
        left_out: images in no split, by reason.
        skipped: a line for each file that could not be read.
        images_made, splits_written: whether there was anything to do.
    """

    counts: dict[tuple[Kind, Part], int]
    rows: list[Row]
    left_out: Counter
    skipped: list[str]
    images_made: bool
    splits_written: bool


def prepare(
    spec: DatasetSpec,
    jobs: Sequence[Job],
    target: Target,
    *,
    settings: dict,
    shares: Shares,
    told_by: Key = "name",
    healthy_first: bool = True,
    published: Mapping[str, Part] | None = None,
    workers: int | None = None,
    skip_bad: bool = False,
) -> Prepared:
    """Make the images of a dataset and put them into the split files; does nothing where that is done.

    Args:
        spec: the dataset, with the part of its preprocessing that is done here.
        jobs: the files of the download.
        target: where it goes.
        settings, told_by, workers, skip_bad: see `build_dataset`.
        shares, healthy_first, published: see `assign_splits`.

    Raises:
        UserError: one line that says what, where, and how to mend it; images that were made by then are not made again.
    """
    folder = target.data_root / spec.root
    assign = partial(assign_splits, shares=shares, healthy_first=healthy_first, published=published)
    rows, skipped, made = build_dataset(folder, jobs, spec.preprocessing, settings, workers, skip_bad, told_by, accept=assign)
    splits, left_out = assign(rows)
    origin = "as published with the images" if published is not None else _describe(shares)
    if target.inherited is not None and not target.folds.exists():
        others = [other for other in target.catalog.values() if other.name != spec.name and (target.data_root / other.root).is_dir()]
        begin_splits(target.folds, target.inherited, others)
    written = write_splits(target.folds, spec, splits, f"{origin}; {len(rows)} images in all", target.catalog, folder)
    # lists that stay may have been edited
    there = Counter((entry.kind, entry.part) for entry in Splits(target.folds, target.catalog).entries if entry.dataset == spec.name)
    counts = {key: there[key] for key in splits}
    return Prepared(counts, rows, left_out, skipped, made, written)


def _describe(shares: Shares) -> str:
    text = f"by patient, seed {shares.seed}, {shares.train:g} for training, {shares.val:g} for validation"
    return text if shares.train_images is None else f"{text}, at most {shares.train_images} images to train on"
