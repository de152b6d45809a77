"""python -m anomaly_detection predict: score new images with a trained network."""

import argparse
import csv
import itertools
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from anomaly_detection.data.formats.read import images_in
from anomaly_detection.data.formats.sources import SourceFile, list_inputs
from anomaly_detection.data.formats.window import Window, parse_window
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Detector, Prediction, load
from anomaly_detection.evaluation.overlay import overlay
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file

logger = logging.getLogger(__name__)

COLUMNS = ("image", "score", "calibrated_score", "anomalous", "organ", "modality", "confidence", "error")
UNKNOWN = "unknown domain"
BATCH = 64
AHEAD = 32  # files that are decoded before it is their turn
OVERLAY_SIDE = 256


class Found(NamedTuple):
    """An image of a file: its name, and its pixels as the network takes them or why there are none."""

    name: str
    pixels: np.ndarray | None
    error: str


def add_predict_parser(commands) -> None:
    """Add `predict`."""
    parser = commands.add_parser(
        "predict",
        help="score new images with a trained network",
        description=__doc__,
        epilog="example: python -m anomaly_detection predict results/.../maddr/lits+covid_ct+covid_xray/seed_0 scans/ --output predictions",
    )
    parser.add_argument("run", type=Path, metavar="RUN_OR_CHECKPOINT", help="the folder of an experiment, .../seed_0, or the checkpoint.pt in it")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help="PNG, JPEG, TIFF, BMP, DICOM or NIfTI files, folders or zip archives")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="receives predictions.csv and overlays/")
    parser.add_argument("--no-overlays", action="store_true", help="write no pictures of the anomaly maps")
    text = "what is shown of more than 8 bits, if training has not settled it: level and width (Hounsfield units for CT), or auto"
    parser.add_argument("--window", nargs="+", metavar=("LEVEL", "WIDTH"), help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")


def run_predict(arguments: argparse.Namespace) -> None:
    """Run `predict` with parsed arguments.

    Raises:
        UserError: there is no such network or input, or not one image could be read.
    """
    window = parse_window(arguments.window)
    detector = load(arguments.run, arguments.device)
    preprocessing = detector.preprocessing if window is None else _with_window(detector.preprocessing, window)
    files = list_inputs(arguments.inputs)
    if not files:
        raise UserError(f"{', '.join(map(str, arguments.inputs))}: no file is there")
    good = bad = 0
    with (
        whole_file(arguments.output / "predictions.csv") as partial,
        open(partial, "w", newline="", encoding="utf-8") as table,
        tqdm(total=len(files), desc="predicting", unit="file", disable=None, dynamic_ncols=True) as bar,
    ):
        writer = csv.DictWriter(table, COLUMNS, restval="")
        writer.writeheader()
        for batch in _in_batches(_decode_ahead(files, preprocessing, bar)):
            readable = [found for found in batch if found.pixels is not None]
            predictions = iter(detector.predict_batch(np.stack([found.pixels for found in readable])) if readable else [])
            for found in batch:
                if found.pixels is None:
                    bad += 1
                    writer.writerow({"image": found.name, "error": found.error})
                    continue
                good += 1
                prediction = next(predictions)
                writer.writerow({"image": found.name, **_columns(prediction)})
                if not arguments.no_overlays:
                    _write_overlay(found, prediction, detector, arguments.output / "overlays")
        if not good:
            raise UserError(f"not one of {len(files)} files could be read; the first: {batch[0].error}")
    print(f"{good} images in {arguments.output / 'predictions.csv'}" + (f"; {bad} could not be read, see the column error" if bad else ""))


def _with_window(preprocessing: Preprocessing, window: Window | Literal["auto"]) -> Preprocessing:
    """The preprocessing with the window of --window, where training has left the choice."""
    if preprocessing.window is None:
        logger.warning("--window %s: is used instead of what the files say", _words(window))
    elif preprocessing.window != window:
        trained = _words(preprocessing.window)
        raise UserError(f"--window {_words(window)}: the network was trained on images shown through {trained}; leave --window out")
    return replace(preprocessing, window=window)


def _words(window: Window | Literal["auto"]) -> str:
    return window if window == "auto" else f"{window.level:g} {window.width:g}"


def _decode_ahead(files: Sequence[tuple[str, SourceFile]], preprocessing: Preprocessing, bar: tqdm) -> Iterator[Found]:
    """The images of all files in their order; a few files are decoded in threads while the network works, and no more are held."""
    with ThreadPoolExecutor() as pool:
        waiting: deque[Future] = deque()
        rest = iter(files)
        for name, file in itertools.islice(rest, AHEAD):
            waiting.append(pool.submit(_read_file, name, file, preprocessing))
        while waiting:
            yield from waiting.popleft().result()
            bar.update()
            for name, file in itertools.islice(rest, 1):
                waiting.append(pool.submit(_read_file, name, file, preprocessing))


def _read_file(name: str, file: SourceFile, preprocessing: Preprocessing) -> list[Found]:
    try:
        return [Found(name + number, preprocessing.apply(pixels), "") for number, pixels in images_in(file, preprocessing.window)]
    except UserError as error:
        return [Found(name, None, str(error))]


def _in_batches(images: Iterator[Found]) -> Iterator[list[Found]]:
    while batch := list(itertools.islice(images, BATCH)):
        yield batch


def _columns(prediction: Prediction) -> dict:
    heads = prediction.organ is not None
    unknown = prediction.unknown_domain
    return {
        "score": prediction.score,
        "calibrated_score": prediction.calibrated_score,
        "anomalous": int(prediction.anomalous),
        "organ": UNKNOWN if unknown else prediction.organ or "",
        "modality": UNKNOWN if unknown else prediction.modality or "",
        "confidence": prediction.confidence if heads else "",
    }


def _write_overlay(found: Found, prediction: Prediction, detector: Detector, folder: Path) -> None:
    picture = Image.fromarray(overlay(found.pixels, prediction.anomaly_map, detector.map_scale))
    path = folder / f"{found.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.BICUBIC).save(path, compress_level=1)  # a third of the time, a tenth more bytes
