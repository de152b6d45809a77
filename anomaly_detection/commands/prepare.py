"""python -m anomaly_detection prepare: from the downloads to the images and split files that training reads."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from anomaly_detection.config.paths import find_catalog, find_folds
from anomaly_detection.data.catalog import PHANTOM, DatasetSpec, is_phantom, mark_phantom, read_catalog, unknown_dataset
from anomaly_detection.data.formats.read import FORMATS
from anomaly_detection.data.formats.sources import SourceFile, list_source
from anomaly_detection.data.formats.window import parse_window, plain_window
from anomaly_detection.data.prepare import covid_ct, covid_xray, folder, lits
from anomaly_detection.data.prepare.assign import Shares
from anomaly_detection.data.prepare.build import Job
from anomaly_detection.data.prepare.dataset import Prepared, Target, prepare
from anomaly_detection.data.prepare.lists import catalog_entry, write_entry
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.splits import Part
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)

STORED_SIZE = 300  # that of the authors' images, as far as can be told


def add_prepare_parser(commands) -> None:
    """Add `prepare` with a command for each dataset."""
    parser = commands.add_parser("prepare", help="turn a downloaded dataset into images and split files", description=__doc__)
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")

    def add(name: str, text: str, download: str | None = None) -> argparse.ArgumentParser:
        added = datasets.add_parser(name, help=text, description=text, epilog=download and f"what SRC is: {download}")
        if download:
            added.add_argument("src", type=Path, metavar="SRC", help="the download: a folder or a zip archive, which is not changed")
        _add_common_arguments(added)
        return added

    command = add("lits", "liver CT: axial slices of the LiTS volumes", lits.DOWNLOAD)
    command.add_argument(
        "--min-liver", type=_share, default=lits.Choice.min_liver, metavar="SHARE", help="of a slice, to be taken (default: %(default)s)"
    )
    text = "of a slice, to count as abnormal; one with less is left out (default: %(default)s)"
    command.add_argument("--min-tumour", type=_share, default=lits.Choice.min_tumour, metavar="SHARE", help=text)
    _add_max_slices(command, "normal and as many abnormal slices of a volume")
    command.set_defaults(train_images=lits.TRAIN_IMAGES)
    command = add("covid_ct", "lung CT with and without COVID-19", covid_ct.DOWNLOAD)
    command.add_argument("--own-split", action="store_true", help="split by patient and seed although the lists of Data-split are there")
    add("covid_xray", "chest X-rays, normal and with tuberculosis or COVID-19", covid_xray.DOWNLOAD)
    command = add("folder", f"your own images: {FORMATS}; how they were stored is noted in datasets.yaml in the data root")
    command.add_argument("name", metavar="NAME", help="of the dataset, new or known")
    command.add_argument("--organ", required=True, help="what the images show; datasets with the same word share the class")
    command.add_argument("--modality", required=True, help="how they were taken; likewise")
    command.add_argument("--normal", type=Path, required=True, metavar="DIR", help="folder or zip archive of the normal images")
    command.add_argument("--abnormal", type=Path, required=True, metavar="DIR", help="of the abnormal ones")
    command.add_argument("--masks", type=Path, metavar="DIR", help="masks of the abnormal ones, of the same names, not 0 where the lesion is")
    text = (
        "values shown, of images with more than 8 bits: level and width (Hounsfield units for CT), or auto (0.5th to 99.5th percentile of each file)"
    )
    command.add_argument("--window", nargs="+", metavar=("LEVEL", "WIDTH"), help=f"{text}; default: as DICOM files say, 16-bit pictures whole")
    text = "regular expression whose first group is the patient in an image's path, such as '(.*)_[0-9]+'; default: subfolders, DICOM's PatientID"
    command.add_argument("--patient", metavar="REGEX", help=text)
    _add_max_slices(command, "slices of a NIfTI volume")


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="folder of the datasets (default: ./data)")
    parser.add_argument("--folds", type=Path, metavar="DIR", help="folder of the split files (default: folds/ in the data root, else the project's)")
    parser.add_argument("--size", type=int, default=STORED_SIZE, metavar="PIXELS", help="side of the images that are written (default: %(default)s)")
    parser.add_argument(
        "--aspect", choices=("stretch", "pad"), default=Preprocessing.aspect, help="what is done to images that are not square (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=Shares.seed, help="another seed, other patients in the splits (default: %(default)s)")
    parser.add_argument("--train", type=_share, default=Shares.train, metavar="SHARE", help="of the patients (default: %(default)s)")
    parser.add_argument("--val", type=_share, default=Shares.val, metavar="SHARE", help="of the patients (default: %(default)s)")
    text = f"train on at most so many images, spread over the patients; 0: all (default: {lits.TRAIN_IMAGES} for lits, as the authors; else all)"
    parser.add_argument("--train-images", type=int, metavar="N", help=text)
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be read, and list them")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each processor)")


def _add_max_slices(parser: argparse.ArgumentParser, of_what: str) -> None:
    parser.add_argument(
        "--max-slices", type=int, default=lits.Choice.max_slices, metavar="N", help=f"at most so many {of_what} (default: %(default)s)"
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, not {text}")
    return value


def run_prepare(arguments: argparse.Namespace) -> None:
    """Run `prepare` with parsed arguments.

    Raises:
        UserError: one line that says what is wrong, where, and how to mend it.
    """
    if arguments.size < 16 or (arguments.train_images or 0) < 0 or getattr(arguments, "max_slices", 1) < 1:
        raise UserError("--size must be 16 or more, --train-images 0 or more, --max-slices 1 or more")
    catalog_path = find_catalog(arguments.data_root)
    catalog = read_catalog(catalog_path)
    try:
        shares = Shares(arguments.train, arguments.val, arguments.seed, arguments.train_images or None)
    except ValueError as error:
        raise UserError(f"--train, --val: {error}") from None
    work = _PLANS[arguments.dataset](arguments, catalog)
    _check_mixture(arguments.data_root, work.phantom, catalog, work.spec)
    done = prepare(
        work.spec,
        work.jobs,
        Target(arguments.data_root, arguments.folds or find_folds(arguments.data_root), {**catalog, work.spec.name: work.spec}),
        settings=work.settings,
        shares=shares,
        healthy_first=work.healthy_first,
        published=work.published,
        workers=arguments.workers,
        skip_bad=arguments.skip_bad,
    )
    if work.phantom and not is_phantom(arguments.data_root):
        mark_phantom(arguments.data_root, f"prepared from phantoms: {work.spec.name} and what else lies here")
    write_entry(arguments.data_root, catalog_path, work.spec)
    _report(work.spec, done, arguments)


@dataclass(frozen=True)
class _Work:
    spec: DatasetSpec
    jobs: Sequence[Job]
    settings: dict
    phantom: bool
    healthy_first: bool = True
    published: dict[str, Part] | None = None


def _plan_lits(arguments: argparse.Namespace, catalog: dict[str, DatasetSpec]) -> _Work:
    spec, files = _known("lits", catalog), _list(arguments.src, lits.DOWNLOAD)
    if spec.window is None:
        raise UserError("datasets.yaml: lits: window: is needed to make grey of Hounsfield units; [40, 400] shows the liver")
    choice = lits.Choice(arguments.min_liver, arguments.min_tumour, arguments.max_slices)
    jobs = lits.plan(arguments.src, files, choice, spec.preprocessing.window)
    # the split of the 131 volumes follows from their names, whatever lesions are in them: folds/ lists it
    return _Work(_stored(spec, arguments), jobs, asdict(choice), _is_phantom(files), healthy_first=False)


def _plan_covid_ct(arguments: argparse.Namespace, catalog: dict[str, DatasetSpec]) -> _Work:
    spec, files = _known("covid_ct", catalog), _list(arguments.src, covid_ct.DOWNLOAD)
    published = None if arguments.own_split else covid_ct.published_split(files)
    jobs = covid_ct.plan(arguments.src, files, spec.preprocessing.window)
    return _Work(_stored(spec, arguments), jobs, {}, _is_phantom(files), published=published)


def _plan_covid_xray(arguments: argparse.Namespace, catalog: dict[str, DatasetSpec]) -> _Work:
    spec, files = _known("covid_xray", catalog), _list(arguments.src, covid_xray.DOWNLOAD)
    jobs = covid_xray.plan(arguments.src, files, spec.preprocessing.window)
    return _Work(_stored(spec, arguments), jobs, {}, _is_phantom(files))


def _plan_folder(arguments: argparse.Namespace, catalog: dict[str, DatasetSpec]) -> _Work:
    window = parse_window(arguments.window)
    spec = catalog_entry(catalog, arguments.name, arguments.organ, arguments.modality)
    normal, abnormal = _list(arguments.normal, FORMATS), _list(arguments.abnormal, FORMATS)
    masks = _list(arguments.masks, FORMATS) if arguments.masks else []
    jobs, other = folder.plan(normal, abnormal, masks, window, arguments.patient, arguments.max_slices)
    other = [file for file in other if file.name != PHANTOM]
    if other:
        logger.warning("left alone: %d files that are no images, the first: %s (%s)", len(other), other[0], FORMATS)
    settings = {"patient": arguments.patient, "max_slices": arguments.max_slices}
    return _Work(replace(_stored(spec, arguments), window=plain_window(window)), jobs, settings, _is_phantom([*normal, *abnormal]))


def _stored(spec: DatasetSpec, arguments: argparse.Namespace) -> DatasetSpec:
    """The dataset with the form in which its images are stored."""
    return replace(spec, aspect=arguments.aspect, size=arguments.size)


_PLANS = {"lits": _plan_lits, "covid_ct": _plan_covid_ct, "covid_xray": _plan_covid_xray, "folder": _plan_folder}


def _list(source: Path, wanted: str) -> list[SourceFile]:
    if not source.exists():
        raise UserError(f"{source}: no such folder or zip archive; what is needed is {wanted}")
    return list_source(source)


def _known(name: str, catalog: dict[str, DatasetSpec]) -> DatasetSpec:
    if name not in catalog:
        raise UserError(unknown_dataset(name, catalog))
    return catalog[name]


def _is_phantom(files: Sequence[SourceFile]) -> bool:
    return any(file.name == PHANTOM for file in files)


def _check_mixture(data_root: Path, phantom: bool, catalog: dict[str, DatasetSpec], spec: DatasetSpec) -> None:
    """Phantoms and real images under one root would stand in one table."""
    others = [other for other in catalog.values() if other.name != spec.name and (data_root / other.root).is_dir()]
    if others and is_phantom(data_root) != phantom:
        kinds = ("phantoms", "real images") if phantom else ("real images", "phantoms")
        raise UserError(f"{data_root}: {kinds[0]} among {kinds[1]} ({others[0].name}); give them a folder of their own: --data-root")


def _report(spec: DatasetSpec, done: Prepared, arguments: argparse.Namespace) -> None:
    for line in done.skipped:
        logger.warning("skipped: %s", line)
    for reason, count in done.left_out.items():
        logger.info("in no split: %d %s", count, reason)
    counts = ", ".join(f"{count} {kind} {part}" for (kind, part), count in done.counts.items())
    print(f"{spec.name}: {counts}; {done.patients} patients; in {arguments.data_root / spec.root}")
    if not done.images_made and not done.splits_written:
        print("nothing to do: these images and split files are there already")
    elif not done.images_made:
        print("the images were there already; the split files are new")
