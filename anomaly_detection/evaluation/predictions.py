"""New images scored by a trained detector: predictions.csv and pictures of the anomaly maps."""

import csv
import itertools
import logging
import os
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
from anomaly_detection.evaluation.outputs import OVERLAYS, TABLE, Names, is_own, is_table, overlay_names, printable, remove_stale, save_overlay
from anomaly_detection.evaluation.overlay import overlay
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file
from anomaly_detection.system.progress import progress_bar

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

    Every row has an image's name of its own, and names its overlay. What `predict` wrote before is never scored, and overlays of an earlier run go.

    Args:
        detector: scores the images.
        inputs: files, folders and zip archives; a file that cannot be read is a line with its error.
        output: a folder.
        window: what is shown of more than 8 bits where training has not settled it; None: what the files say.
        overlays: whether there are to be pictures.

    Returns:
        How many images were scored, and how many files could not be read.

    Raises:
        UserError: there is no such input, no file in it, not one could be read, the window is not that of training, or a file that `predict` has
            not written would be overwritten.
    """
    preprocessing = detector.preprocessing if window is None else _with_window(detector.preprocessing, window)
    files = _files_of(inputs)
    if (output / TABLE).exists() and not is_table(output / TABLE):
        raise UserError(f"{output / TABLE}: is there, and `predict` has not written it; name another --output")
    good = bad = 0
    names, overlay_files, written = Names(), Names(), []
    with (
        whole_file(output / TABLE) as partial,
        open(partial, "w", newline="", encoding="utf-8") as table,
        progress_bar(total=len(files), desc="predicting", unit="file") as bar,
    ):
        writer = csv.DictWriter(table, (*COLUMNS, "overlay"), restval="")
        writer.writeheader()
        for batch in _in_batches(_decode_ahead(files, preprocessing, bar)):
            readable = [image for image in batch if image.pixels is not None]
            predictions = iter(detector.predict_batch(np.stack([image.pixels for image in readable])) if readable else [])
            for image in batch:
                row = {"image": names.take(printable(image.name))}
                if image.pixels is None:
                    bad += 1
                    writer.writerow({**row, "error": printable(image.error)})
                    continue
                good += 1
                prediction = next(predictions)
                if overlays:
                    row["overlay"] = f"{OVERLAYS}/{overlay_files.take(*overlay_names(row['image']))}"
                    written.append(output / row["overlay"])
                    save_overlay(_picture(image, prediction, detector), written[-1])
                writer.writerow({**row, **_columns(prediction)})
        if not good:
            raise UserError(f"not one of {len(files)} files could be read; the first: {batch[0].error}")
    if stale := remove_stale(output / OVERLAYS, written):
        logger.info("%s: %d overlays of an earlier run are removed", output / OVERLAYS, stale)
    return good, bad


def _files_of(inputs: Sequence[Path]) -> list[tuple[str, SourceFile]]:
    """The files of some inputs by their names, each once, without what `predict` wrote."""
    sources: dict[str, Path] = {}
    for path in inputs:
        sources.setdefault(os.path.realpath(path), path)
    files: dict[tuple, tuple[str, SourceFile]] = {}
    listed = list_inputs(list(sources.values()))
    for name, file in listed:
        files.setdefault((os.path.realpath(file.path) if len(sources) > 1 else name, file.within, file.member), (name, file))
    scored = [(name, file) for name, file in files.values() if not is_own(file)]
    if len(sources) < len(inputs) or len(files) < len(listed):
        logger.warning("inputs are given twice, or lie in one another: each file is scored once")
    if len(scored) < len(files):
        logger.info("left out: %d files that predict wrote", len(files) - len(scored))
    if not scored:
        raise UserError(f"{', '.join(map(str, inputs))}: no file is there" + (" but those that predict wrote" if files else ""))
    return scored


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


def _picture(image: InputImage, prediction: Prediction, detector: Detector) -> Image.Image:
    picture = Image.fromarray(overlay(image.pixels, prediction.anomaly_map, detector.map_scale))
    return picture.resize((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.BICUBIC)
