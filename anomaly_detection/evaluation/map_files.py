"""Where predictions lie in their images, as files: a picture of each image, and of each volume or series one thing in the format of its source."""

import logging
import re
from pathlib import Path
from types import TracebackType

from anomaly_detection.data.formats.own import OVERLAYS
from anomaly_detection.data.formats.series import Series
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Detector, Prediction
from anomaly_detection.evaluation.inputs import InputImage
from anomaly_detection.evaluation.maps.dicom import SEGMENTATION, require_highdicom
from anomaly_detection.evaluation.maps.nifti import ENDING as NIFTI_ENDING
from anomaly_detection.evaluation.maps.series import SeriesMaps
from anomaly_detection.evaluation.outputs import MAPS, Names, check_free, map_names, overlay_names, printable, save_overlay
from anomaly_detection.evaluation.overlay import Overlay, draw_overlay
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)

CAPTURED = re.compile(r"_overlay_\d+\.dcm$")


class MapFiles:
    """Writes the maps of images, those of a series one after another; only those of one series are in memory.

    Args:
        detector: whose maps they are.
        preprocessing: how images come to it.
        output: the folder that receives overlays/ and maps/.
        pictures: whether there is a picture of each image.
        volumes: whether there are maps of volumes and series.

    Attributes:
        written: the files.
        of_series: of each series, by patient and name, the files of its map below `output`, without captures of pictures.
    """

    def __init__(self, detector: Detector, preprocessing: Preprocessing, output: Path, pictures: bool, volumes: bool):
        self.written: list[Path] = []
        self.of_series: dict[tuple[str, str], list[str]] = {}
        self._detector, self._preprocessing, self._output = detector, preprocessing, output
        self._pictures, self._volumes = pictures, volumes
        self._picture_names, self._map_names = Names(), Names()
        self._series: Series | None = None
        self._maps: SeriesMaps | None = None
        self._writes_dicom: bool | None = None  # None: not needed so far

    def add(self, name: str, image: InputImage, prediction: Prediction) -> str:
        """Take an image by its name in predictions.csv; returns the path of its picture below `output`, "" where there is none."""
        if self._volumes and image.series is not self._series:
            self._finish()
            self._series, self._maps = image.series, self._begin(image.series)
        picture = self._draw(image, prediction) if self._pictures else None
        if self._maps is not None:
            place = image.slice
            self._maps.add(place.file, place.number, place.shape, prediction.anomaly_map, picture)
        if picture is None:
            return ""
        path = f"{OVERLAYS}/{self._picture_names.take(*overlay_names(name))}"
        self.written.append(self._output / path)
        save_overlay(picture.picture, self.written[-1])
        return path

    def give_up(self, series: Series) -> None:
        """Write no map of a volume that cannot be read to its end: on slices that were never seen it would be 0, as of healthy tissue."""
        if series is self._series and series.kind == "nifti" and self._maps is not None:
            logger.warning("warning: %s: no map of it is written, since it could not be read to its end", printable(series.name))
            self._maps = None

    def __enter__(self) -> "MapFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        elif self._maps is not None:
            self._maps.remove()

    def _draw(self, image: InputImage, prediction: Prediction) -> Overlay:
        return draw_overlay(image.backdrop, prediction.anomaly_map, self._preprocessing, self._detector.map_scale)

    def _begin(self, series: Series) -> SeriesMaps | None:
        if series.kind == "picture" or not series.name or (series.kind == "dicom" and not self._can_write_dicom()):
            return None
        stem = self._output / MAPS / self._map_names.take(*map_names(printable(series.name)))
        for ending in (NIFTI_ENDING, SEGMENTATION):
            check_free(stem.with_name(stem.name + ending))
        stem.parent.mkdir(parents=True, exist_ok=True)
        model = type(self._detector.baseline).__name__
        return SeriesMaps(series.kind, series.name, stem, self._preprocessing, self._detector.map_scale, model)

    def _can_write_dicom(self) -> bool:
        if self._writes_dicom is None:
            try:
                require_highdicom()
                self._writes_dicom = True
            except UserError as error:
                logger.warning("warning: %s; without it there are pictures alone", error)
                self._writes_dicom = False
        return self._writes_dicom

    def _finish(self) -> None:
        """Write what is left of the series that was begun."""
        if self._maps is not None:
            paths = self._maps.close()
            self.written += paths
            kept = [path.relative_to(self._output).as_posix() for path in paths if not CAPTURED.search(path.name)]
            self.of_series[printable(self._series.patient), printable(self._series.name)] = kept
        self._maps = self._series = None
