"""Score new images with a trained network."""

import argparse
from collections import Counter
from pathlib import Path

from anomaly_detection.commands.arguments import add_device, add_trained


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `predict`."""
    parser.epilog = f"example: {parser.prog} results/.../maddr/lits+covid_ct+covid_xray/seed_0 scans/ --output predictions"
    add_trained(parser)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help="PNG, JPEG, TIFF, BMP, DICOM or NIfTI files, folders or zip archives")
    text = (
        "receives predictions.csv, with a line for each image or slice, whose column `overlay` names its picture; patients.csv, with one for each "
        "patient and series; overlays/; and maps/: NAME_anomaly.nii.gz of a volume, NAME_seg.dcm and captures of the overlays of a DICOM series. "
        "What an earlier run wrote there goes"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=text)
    parser.add_argument("--no-overlays", action="store_true", help="write no pictures of the anomaly maps")
    parser.add_argument("--no-maps", action="store_true", help="write no NIfTI and DICOM files of the anomaly maps of volumes and series")
    text = "what is shown of more than 8 bits, if training has not settled it: level and width (Hounsfield units for CT), or auto"
    parser.add_argument("--window", nargs="+", metavar=("LEVEL", "WIDTH"), help=text)
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write predictions.csv, patients.csv, the overlays and the maps.

    Raises:
        UserError: there is no such network or input, an input is a network, too, or not one image could be read.
    """
    from anomaly_detection.data.formats.window import parse_window
    from anomaly_detection.detector import load
    from anomaly_detection.evaluation.patients import estimate_warning
    from anomaly_detection.evaluation.predictions import write_predictions
    from anomaly_detection.system.errors import UserError

    for path in arguments.inputs:
        if (path / "checkpoint.pt").is_file():
            raise UserError(f"{path}: is a network, whose figures would be scored; predict takes one network, then images: run it once for each")
    window = parse_window(arguments.window)
    detector = load(arguments.trained, arguments.device)
    written = write_predictions(detector, arguments.inputs, arguments.output, window, not arguments.no_overlays, not arguments.no_maps)
    for line in detector.promises():
        print(line)
    unreadable = f"; {written.unreadable} could not be read, see the column error" if written.unreadable else ""
    print(f"{written.images} images in {arguments.output / 'predictions.csv'}{unreadable}")
    if written.patients:
        words = Counter(row["verdict"] for row in written.patients)
        counts = ", ".join(f"{words[word]} {word}" for word in ("anomalous", "normal", "unknown") if words[word])
        print(f"{len(written.patients)} patients or series in {arguments.output / 'patients.csv'}: {counts}")
    if warning := estimate_warning(written.patients, detector.calibration, detector.domains):
        print(warning)
