"""From the files of a download to what training reads: images, masks, a manifest, split files."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from filelock import FileLock

from anomaly_detection.config.paths import find_catalog, find_folds
from anomaly_detection.data.catalog import is_phantom, mark_phantom, read_catalog
from anomaly_detection.data.manifest import Row
from anomaly_detection.data.prepare.assign import assign_splits
from anomaly_detection.data.prepare.build import build_dataset
from anomaly_detection.data.prepare.lists import begin_splits, catalog_entry, write_entry, write_splits
from anomaly_detection.data.prepare.options import Shares
from anomaly_detection.data.prepare.work import Work, check_mixture
from anomaly_detection.data.splits import Kind, Part, Splits

LOCK = ".lock"  # in a data root, of whoever writes its lists


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


def prepare(work: Work, data_root: Path, folds: Path | None, shares: Shares, workers: int | None = None, skip_bad: bool = False) -> Prepared:
    """Make the images of a dataset, and put them into the split files and the datasets.yaml of its data root; does nothing where that is done.

    Several datasets of one data root may be prepared at once: its lists are read and written by one process at a time.

    Args:
        work: what is done; a new dataset gets another label where another one has taken its own meanwhile.
        data_root: the folder that holds the folders of the datasets.
        folds: the folder that holds train_test_split/; None: folds/ in the data root, which begins with what the split files that were read so far
            say of datasets that lie in the data root.
        shares: see `assign_splits`.
        workers, skip_bad: see `build_dataset`.

    Raises:
        UserError: one line that says what, where, and how to mend it; images that were made by then are not made again.
    """
    spec, folder = work.spec, data_root / work.spec.root
    check_mixture(data_root, work, read_catalog(find_catalog(data_root)))
    assign = partial(assign_splits, shares=shares, healthy_first=work.healthy_first, published=work.published)
    rows, skipped, made = build_dataset(folder, work.jobs, spec.preprocessing, work.settings, workers, skip_bad, work.told_by, accept=assign)
    splits, left_out = assign(rows)
    origin = "as published with the images" if work.published is not None else _describe(shares)
    with FileLock(data_root / LOCK):
        place = find_catalog(data_root)
        catalog = read_catalog(place)
        check_mixture(data_root, work, catalog)
        spec = replace(spec, label=catalog_entry(catalog, spec.name, spec.organ, spec.modality).label)
        catalog = {**catalog, spec.name: spec}
        if work.phantom and not is_phantom(data_root):
            mark_phantom(data_root, f"prepared from phantoms: {spec.name} and what else lies here")
        write_entry(data_root, place, spec)  # before the lines that name it: with lines of no dataset nothing can be read
        if folds is None:
            folds, inherited = data_root / "folds", find_folds(data_root)
            if not folds.exists():
                others = [other for other in catalog.values() if other.name != spec.name and (data_root / other.root).is_dir()]
                begin_splits(folds, inherited, others)
        written = write_splits(folds, spec, splits, f"{origin}; {len(rows)} images in all", catalog, folder)
        # lists that stay may have been edited
        there = Counter((entry.kind, entry.part) for entry in Splits(folds, catalog).entries if entry.dataset == spec.name)
    return Prepared({key: there[key] for key in splits}, rows, left_out, skipped, made, written)


def _describe(shares: Shares) -> str:
    text = f"by patient, seed {shares.seed}, {shares.train:g} for training, {shares.val:g} for validation"
    return text if shares.train_images is None else f"{text}, at most {shares.train_images} images to train on"
