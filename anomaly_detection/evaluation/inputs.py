"""New images on their way to the network: which files they are in, and their pixels, decoded while it works."""

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

from anomaly_detection.data.formats.own import is_own
from anomaly_detection.data.formats.series import Run, Series, Slice, read_run
from anomaly_detection.data.formats.sources import SourceFile, list_inputs
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.evaluation.overlay import Backdrop, backdrop
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.progress import progress_bar

logger = logging.getLogger(__name__)

AHEAD = 32  # files that are decoded before it is their turn
LONG = 8  # a file of many images counts as so many
CHUNK = 16  # images of a file that are decoded at a time


class InputImage(NamedTuple):
    """An image of a file, or why it could not be read.

    Attributes:
        series: that it belongs to.
        name: of the image; of a file that could not be read the file's.
        slice: where it comes from; None where it could not be read.
        pixels: (channels, image_size, image_size) uint8, as the network takes them; None likewise.
        backdrop: for the picture of it; None likewise, and where there is to be none.
        error: why it could not be read; "" where it was.
    """

    series: Series
    name: str
    slice: Slice | None
    pixels: np.ndarray | None
    backdrop: Backdrop | None = None
    error: str = ""


def files_of(inputs: Sequence[Path]) -> list[tuple[str, SourceFile]]:
    """The files of some inputs by their names, each once, without what `predict` wrote.

    Raises:
        UserError: there is no such input, or no file in it.
    """
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


def with_window(preprocessing: Preprocessing, window: Window | Literal["auto"]) -> Preprocessing:
    """The preprocessing with the window of --window, where training has left the choice; raises UserError where it has not."""
    if preprocessing.window is None:
        logger.warning("--window %s: is used instead of what the files say", _words(window))
    elif preprocessing.window != window:
        trained = _words(preprocessing.window)
        raise UserError(f"--window {_words(window)}: the network was trained on images shown through {trained}; leave --window out")
    return replace(preprocessing, window=window)


def _words(window: Window | Literal["auto"]) -> str:
    return window if window == "auto" else f"{window.level:g} {window.width:g}"


def decode_ahead(series: Sequence[Series], preprocessing: Preprocessing, pictures: bool) -> Iterator[InputImage]:
    """The images of all series in their order; a few files are decoded in threads while the network works, and no more is held of a long one.

    Args:
        series: what is read.
        preprocessing: how images come to the network.
        pictures: whether there is to be a picture of each.
    """
    runs = ((each, run) for each in series for run in each.runs)
    total = sum(len(each.runs) for each in series)
    with ThreadPoolExecutor() as pool, progress_bar(total=total, desc="predicting", unit="file") as bar:
        waiting: deque[tuple[int, Future]] = deque()
        room = AHEAD
        while True:
            while room > 0 and (following := next(runs, None)):
                weight = _weight(*following)
                waiting.append((weight, pool.submit(_some, _read(*following, preprocessing, pictures))))
                room -= weight
            if not waiting:
                return
            weight, future = waiting.popleft()
            images, rest = future.result()
            if rest is None:
                bar.update()
                room += weight
            else:
                waiting.appendleft((weight, pool.submit(_some, rest)))
            yield from images


def _weight(series: Series, run: Run) -> int:
    """Of how many files with one image what is held of a file while it waits is about the size."""
    return LONG if series.kind == "nifti" or len(run.positions) > 1 else 1


def _some(reader: Iterator[InputImage]) -> tuple[list[InputImage], Iterator[InputImage] | None]:
    """The next images of a file, and what reads the rest; None where there is none."""
    images = list(itertools.islice(reader, CHUNK))
    return images, reader if len(images) == CHUNK else None


def _read(series: Series, run: Run, preprocessing: Preprocessing, pictures: bool) -> Iterator[InputImage]:
    try:
        for place, image in read_run(run, preprocessing.window):
            picture = backdrop(image.pixels) if pictures else None
            yield InputImage(series, place.name, place, preprocessing.apply(image.pixels), picture)
    except UserError as error:
        yield InputImage(series, run.name, None, None, None, str(error))
