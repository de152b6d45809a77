"""New images scored by a trained detector: predictions.csv and pictures of the anomaly maps."""

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
from anomaly_detection.data.formats.window import Window, WindowChoice
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Detector, Prediction
from anomaly_detection.evaluation.overlay import overlay
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file

logger = logging.getLogger(__name__)

# those of `Prediction`, but for the first and the last
COLUMNS = (
    "image",
    "verdict",
    "score",
    "calibrated_score",
    "p_value",
    "threshold",
    "anomalous",
    "guaranteed",
    "organ",
    "modality",
    "confidence",
    "unknown_because",
    "error",
)
BATCH = 64
AHEAD = 32  # files that are decoded before it is their turn
OVERLAY_SIDE = 256


class InputImage(NamedTuple):
    """An image of a file: its name, and its pixels as the network takes them or why there are none."""

    name: str
    pixels: np.ndarray | None
    error: str


def write_predictions(detector: Detector, inputs: Sequence[Path], output: Path, window: WindowChoice, overlays: bool) -> tuple[int, int]:
    """Write `output`/predictions.csv, and below `output`/overlays/ each image with its anomaly map; only a few images are in memory at a time.

    Args:
        detector: scores the images.
        inputs: files, folders and zip archives; a file that cannot be read is a line with its error.
        output: a folder.
        window: what is shown of more than 8 bits where training has not settled it; None: what the files say.
        overlays: whether there are to be pictures.

    Returns:
        How many images were scored, and how many files could not be read.

    Raises:
        UserError: there is no such input, no file in it, not one could be read, or the window is not that of training.
    """
    preprocessing = detector.preprocessing if window is None else _with_window(detector.preprocessing, window)
    files = list_inputs(inputs)
    if not files:
        raise UserError(f"{', '.join(map(str, inputs))}: no file is there")
    good = bad = 0
    with (
        whole_file(output / "predictions.csv") as partial,
        open(partial, "w", newline="", encoding="utf-8") as table,
        tqdm(total=len(files), desc="predicting", unit="file", disable=None, dynamic_ncols=True) as bar,
    ):
        writer = csv.DictWriter(table, COLUMNS, restval="")
        writer.writeheader()
        for batch in _in_batches(_decode_ahead(files, preprocessing, bar)):
            readable = [image for image in batch if image.pixels is not None]
            predictions = iter(detector.predict_batch(np.stack([image.pixels for image in readable])) if readable else [])
            for image in batch:
                if image.pixels is None:
                    bad += 1
                    writer.writerow({"image": image.name, "error": image.error})
                    continue
                good += 1
                prediction = next(predictions)
                writer.writerow({"image": image.name, **_columns(prediction)})
                if overlays:
                    _write_overlay(image, prediction, detector, output / "overlays")
        if not good:
            raise UserError(f"not one of {len(files)} files could be read; the first: {batch[0].error}")
    return good, bad


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


def _decode_ahead(files: Sequence[tuple[str, SourceFile]], preprocessing: Preprocessing, bar: tqdm) -> Iterator[InputImage]:
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


def _read_file(name: str, file: SourceFile, preprocessing: Preprocessing) -> list[InputImage]:
    try:
        return [InputImage(name + number, preprocessing.apply(pixels), "") for number, pixels in images_in(file, preprocessing.window)]
    except UserError as error:
        return [InputImage(name, None, str(error))]


def _in_batches(images: Iterator[InputImage]) -> Iterator[list[InputImage]]:
    while batch := list(itertools.islice(images, BATCH)):
        yield batch


def _columns(prediction: Prediction) -> dict:
    values = {name: getattr(prediction, name) for name in COLUMNS[1:-1]}
    return {name: "" if value is None else int(value) if isinstance(value, bool) else value for name, value in values.items()}


def _write_overlay(image: InputImage, prediction: Prediction, detector: Detector, folder: Path) -> None:
    picture = Image.fromarray(overlay(image.pixels, prediction.anomaly_map, detector.map_scale))
    path = folder / f"{image.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.BICUBIC).save(path, compress_level=1)  # a third of the time, a tenth more bytes
