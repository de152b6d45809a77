"""Turn a downloaded dataset into images and split files."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_detection.commands.arguments import add_workers
from anomaly_detection.commands.verbosity import add_verbosity
from anomaly_detection.data.formats.sources import FORMATS
from anomaly_detection.data.prepare.options import DOWNLOADS, LITS_TRAIN_IMAGES, STORED_SIZE, Choice, Shares
from anomaly_detection.system.errors import UserError

if TYPE_CHECKING:
    from anomaly_detection.data.catalog import DatasetSpec
    from anomaly_detection.data.prepare.dataset import Prepared
    from anomaly_detection.data.prepare.work import Work

logger = logging.getLogger(__name__)

SHOWN = 20  # lines of files that were left out


def add(parser: argparse.ArgumentParser) -> None:
    """Declare a command for each dataset, with its arguments."""
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        download = DOWNLOADS.get(name)
        added = datasets.add_parser(name, help=text, description=text, epilog=download and f"what SRC is: {download}")
        if download:
            added.add_argument("src", type=Path, metavar="SRC", help="the download: a folder or a zip archive, which is not changed")
        _add_common_arguments(added)
        return added

    _add_lits_arguments(command("lits", "liver CT: axial slices of the LiTS volumes"))
    text = "split by patient and seed although the lists of Data-split are there"
    command("covid_ct", "lung CT with and without COVID-19").add_argument("--own-split", action="store_true", help=text)
    command("covid_xray", "chest X-rays, normal and with tuberculosis or COVID-19")
    _add_folder_arguments(command("folder", f"your own images: {FORMATS}; an entry is added to datasets.yaml in the data root"))
    parser.set_defaults(run=run)


def _add_lits_arguments(parser: argparse.ArgumentParser) -> None:
    text = "of a slice, to be taken (default: %(default)s)"
    parser.add_argument("--min-liver", type=_share, default=Choice.min_liver, metavar="SHARE", help=text)
    text = "of a slice, to count as abnormal; one with less is left out (default: %(default)s)"
    parser.add_argument("--min-tumour", type=_share, default=Choice.min_tumour, metavar="SHARE", help=text)
    _add_max_slices(parser, "normal and as many abnormal slices of a volume")
    parser.set_defaults(train_images=LITS_TRAIN_IMAGES)


def _add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the dataset, new or known")
    parser.add_argument("--organ", required=True, help="what the images show; datasets with the same word share the class")
    parser.add_argument("--modality", required=True, help="how they were taken; likewise")
    parser.add_argument("--normal", type=Path, required=True, metavar="DIR", help="folder or zip archive of the normal images")
    text = "of the abnormal ones, which are for testing alone; without them false alarms are measured, sensitivity and AUROC are not"
    parser.add_argument("--abnormal", type=Path, metavar="DIR", help=text)
    text = "masks of the abnormal ones, of the same names, above 0 where the lesion is; of a volume only slices with lesion become images then"
    parser.add_argument("--masks", type=Path, metavar="DIR", help=text)
    text = "values shown, of DICOM, NIfTI and pictures with more than 8 bits: level and width (Hounsfield units for CT), or auto"
    text = f"{text} (0.5th to 99.5th percentile of each file, which of single DICOM slices is of each slice)"
    parser.add_argument("--window", nargs="+", metavar=("LEVEL", "WIDTH"), help=f"{text}; default: as DICOM files say, 16-bit pictures whole")
    text = (
        "regular expression whose first group is the patient in an image's path, such as '(.*)_[0-9]+'; "
        "default: DICOM's PatientID, else the subfolder, else every study, series or file is a patient"
    )
    parser.add_argument("--patient", metavar="REGEX", help=text)
    text = "axial slices of a NIfTI volume, spread evenly over it, or over those with lesion where there is a mask; all taken of an abnormal volume"
    _add_max_slices(parser, f"{text} without one count as abnormal")


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="folder of the datasets (default: ./data)")
    parser.add_argument("--folds", type=Path, metavar="DIR", help="folder of the split files (default: folds/ in the data root)")
    parser.add_argument("--size", type=int, default=STORED_SIZE, metavar="PIXELS", help="side of the images that are written (default: %(default)s)")
    parser.add_argument(
        "--aspect", choices=("stretch", "pad"), default="stretch", help="what is done to images that are not square (default: %(default)s)"
    )
    text = "of the images that are written: 3 keeps colours, 1 turns them grey (default: %(default)s)"
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1, help=text)
    parser.add_argument("--seed", type=int, default=Shares.seed, help="another seed, other patients in the splits (default: %(default)s)")
    parser.add_argument("--train", type=_share, default=Shares.train, metavar="SHARE", help="of the patients (default: %(default)s)")
    parser.add_argument("--val", type=_share, default=Shares.val, metavar="SHARE", help="of the patients (default: %(default)s)")
    text = f"train on at most so many images, spread over the patients; 0: all (default: {LITS_TRAIN_IMAGES} for lits, as the authors; else all)"
    parser.add_argument("--train-images", type=int, metavar="N", help=text)
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be read, and list them")
    add_workers(parser)
    add_verbosity(parser)


def _add_max_slices(parser: argparse.ArgumentParser, of_what: str) -> None:
    parser.add_argument("--max-slices", type=int, default=Choice.max_slices, metavar="N", help=f"at most so many {of_what} (default: %(default)s)")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, not {text}")
    return value


def run(arguments: argparse.Namespace) -> None:
    """Make the images and split files, and say what was done.

    Raises:
        UserError: one line that says what is wrong, where, and how to mend it.
    """
    from anomaly_detection.config.paths import find_catalog, warn_of_overlooked
    from anomaly_detection.data.catalog import read_catalog
    from anomaly_detection.data.prepare.dataset import prepare

    if arguments.size < 16 or (arguments.train_images or 0) < 0 or getattr(arguments, "max_slices", 1) < 1:
        raise UserError("--size must be 16 or more, --train-images 0 or more, --max-slices 1 or more")
    data_root = arguments.data_root
    warn_of_overlooked()
    catalog = read_catalog(find_catalog(data_root))
    try:
        shares = Shares(arguments.train, arguments.val, arguments.seed, arguments.train_images or None)
    except ValueError as error:
        raise UserError(f"--train, --val: {error}") from None
    work = _work(arguments, catalog).stored(arguments.size, arguments.aspect, arguments.channels)
    done = prepare(work, data_root, arguments.folds, shares, arguments.workers, arguments.skip_bad)
    _report(work.spec, done, data_root, getattr(arguments, "abnormal", None))


def _work(arguments: argparse.Namespace, catalog: "dict[str, DatasetSpec]") -> "Work":
    from anomaly_detection.data.formats.window import parse_window
    from anomaly_detection.data.prepare import work

    if arguments.dataset == "lits":
        return work.of_lits(arguments.src, catalog, Choice(arguments.min_liver, arguments.min_tumour, arguments.max_slices))
    if arguments.dataset == "covid_ct":
        return work.of_covid_ct(arguments.src, catalog, follow_lists=not arguments.own_split)
    if arguments.dataset == "covid_xray":
        return work.of_covid_xray(arguments.src, catalog)
    sources = work.FolderSources(arguments.normal, arguments.abnormal, arguments.masks)
    words = (arguments.name, arguments.organ, arguments.modality)
    return work.of_folder(sources, catalog, words, parse_window(arguments.window), arguments.patient, arguments.max_slices)


def _report(spec: "DatasetSpec", done: "Prepared", data_root: Path, abnormal: Path | None) -> None:
    from anomaly_detection.data.doubts import doubts
    from anomaly_detection.data.manifest import empty_masks_warning
    from anomaly_detection.data.patients import patient_warning
    from anomaly_detection.data.prepare.build import RECORD
    from anomaly_detection.data.prepare.identity import patients_folder_warning, patients_in_words, remarks
    from anomaly_detection.data.prepare.neighbours import neighbours_warning
    from anomaly_detection.data.prepare.scans import modalities_warning, single_slices_warning
    from anomaly_detection.data.prepare.slices import unequal_warning, unmarked_series_warning, unmarked_warning
    from anomaly_detection.data.splits import NO_ABNORMAL

    for line in done.skipped[:SHOWN]:
        logger.warning("skipped: %s", line)
    if len(done.skipped) > SHOWN:
        logger.warning("skipped: %d files in all, which %s lists", len(done.skipped), data_root / spec.root / RECORD)
    for reason, count in done.left_out.items():
        logger.info("in no split: %d %s", count, reason)
    counts = ", ".join(f"{count} {kind} {part}" for (kind, part), count in done.counts.items() if count)
    print(f"{spec.name}: {counts}; {patients_in_words(done.rows)}; in {data_root / spec.root}")
    if not done.images_made and not done.splits_written:
        print("nothing to do: these images and split files are there already")
    elif not done.images_made:
        print("the images were there already; the split files are new")
    if not done.counts["anomaly", "test"]:
        print(NO_ABNORMAL)
    of_scans = modalities_warning(done.rows), single_slices_warning(done.rows, spec.window)
    of_lesions = unmarked_warning(done.rows), unmarked_series_warning(done.rows), empty_masks_warning(done.rows)
    for line in (*remarks(done.rows), *of_scans, *of_lesions):
        if line:
            logger.warning("warning: %s", line)
    if line := unequal_warning(done.rows):
        logger.warning("WARNING: %s", line)
    if line := patient_warning(done.rows):
        alike = neighbours_warning(data_root / spec.root, done.rows)
        logger.warning("WARNING: %s%s", line, f"; {alike}" if alike else "")
    for line in (abnormal and patients_folder_warning(abnormal, done.rows), *doubts(done.rows)):
        if line:
            logger.warning("WARNING: %s", line)
