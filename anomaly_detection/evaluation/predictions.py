"""New images scored by a trained detector: predictions.csv, patients.csv and the anomaly maps."""

import csv
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomaly_detection.data.formats.own import OVERLAYS, PATIENTS, TABLE
from anomaly_detection.data.formats.series import series_of
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.detector import Detector, Prediction
from anomaly_detection.evaluation.inputs import InputImage, decode_ahead, files_of, with_window
from anomaly_detection.evaluation.map_files import MapFiles
from anomaly_detection.evaluation.outputs import MAPS, Names, check_free, printable, remove_stale
from anomaly_detection.evaluation.patients import BETWEEN, Said, verdict_rows
from anomaly_detection.evaluation.patients import COLUMNS as PATIENT_COLUMNS
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file, write_table

logger = logging.getLogger(__name__)

# of `Prediction`
SAID = (
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
)
COLUMNS = ("image", "patient", "series", "position_mm", *SAID, "error", "overlay")
BATCH = 64


class Written(NamedTuple):
    """What `write_predictions` wrote.

    Attributes:
        images: how many were scored.
        unreadable: how many files could not be read.
        patients: the lines of patients.csv.
    """

    images: int
    unreadable: int
    patients: list[dict[str, Any]]


def write_predictions(
    detector: Detector, inputs: Sequence[Path], output: Path, window: WindowChoice, overlays: bool = True, maps: bool = True
) -> Written:
    """Write `output`/predictions.csv and patients.csv, below `output`/overlays/ each image with its anomaly map, and below `output`/maps/ the maps of
    volumes and series, see `SeriesMaps`; few images, and the map of one series, are in memory at a time.

    The slices of a volume or series follow one another in order of position, see `series_of`. Every row has an image's name of its own, and names
    its overlay. What `predict` wrote before is never scored; the tables of an earlier run go with the first image that can be read, its overlays and
    maps at the end.

    Args:
        detector: scores the images.
        inputs: files, folders and zip archives; a file that cannot be read is a line with its error.
        output: a folder.
        window: what is shown of more than 8 bits where training has not settled it; None: what the files say.
        overlays: whether there are to be pictures.
        maps: whether there are to be maps in the format of a volume or series.

    Raises:
        UserError: there is no such input, no file in it, not one could be read, the window is not that of training, or a file that `predict` has
            not written would be overwritten.
    """
    preprocessing = detector.preprocessing if window is None else with_window(detector.preprocessing, window)
    files = files_of(inputs)
    for name in (TABLE, PATIENTS):
        check_free(output / name)
    said: list[Said] = []
    errors: list[str] = []
    names = Names()
    with (
        whole_file(output / TABLE) as partial,
        open(partial, "w", newline="", encoding="utf-8") as table,
        MapFiles(detector, preprocessing, output, overlays, maps) as map_files,
    ):
        writer = csv.DictWriter(table, COLUMNS, restval="")
        writer.writeheader()
        for image, prediction in _predicted(detector, decode_ahead(series_of(files), preprocessing, overlays)):
            row = _row(image, names.take(printable(image.name)), prediction)
            if prediction is None:
                errors.append(image.error)
                map_files.give_up(image.series)
            else:
                if len(said) == len(errors):  # the first: tables of an earlier run would stand beside its picture, where this one is stopped
                    for name in (TABLE, PATIENTS):
                        (output / name).unlink(missing_ok=True)
                row["overlay"] = map_files.add(row["image"], image, prediction)
            writer.writerow(row)
            said.append(_said(row, prediction))
        if len(errors) == len(said):
            raise UserError(f"not one of {len(files)} files could be read; the first: {errors[0]}")
    patients = [
        {**row, "maps": BETWEEN.join(map_files.of_series.get((row["patient"], row["series"]), ()))}
        for row in verdict_rows(said, detector.calibration, detector.domains)
    ]
    write_table(output / PATIENTS, patients, (*PATIENT_COLUMNS, "maps"))
    stale = sum(remove_stale(output / folder, map_files.written) for folder in (OVERLAYS, MAPS))
    if stale:
        logger.info("%s: %d overlays and maps of an earlier run are removed", output, stale)
    return Written(len(said) - len(errors), len(errors), patients)


def _predicted(detector: Detector, images: Iterator[InputImage]) -> Iterator[tuple[InputImage, Prediction | None]]:
    """Each image with what is said of it; None where it could not be read."""
    while batch := list(itertools.islice(images, BATCH)):
        readable = [image.pixels for image in batch if image.pixels is not None]
        predictions = iter(detector.predict_batch(np.stack(readable)) if readable else [])
        for image in batch:
            yield image, None if image.pixels is None else next(predictions)


def _row(image: InputImage, name: str, prediction: Prediction | None) -> dict[str, Any]:
    """A line of predictions.csv; a value of None is an empty cell."""
    series = image.series
    row = {"image": name, "patient": printable(series.patient), "series": printable(series.name)}
    if prediction is None:
        return row | {"error": printable(image.error)}
    values = {column: getattr(prediction, column) for column in SAID}
    position = None if image.slice.position is None else round(image.slice.position, 4)
    return row | {"position_mm": position} | {column: int(value) if isinstance(value, bool) else value for column, value in values.items()}


def _said(row: dict[str, Any], prediction: Prediction | None) -> Said:
    place = row["patient"], row["series"], row["image"]
    if prediction is None:
        return Said(*place)
    return Said(*place, prediction.score, not prediction.unknown_because, prediction.organ, prediction.modality)
