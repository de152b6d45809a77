"""The maps of the images of a volume or a series, as one thing in the format of their source."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom import Dataset

from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.evaluation.maps.dicom import DicomMaps
from anomaly_detection.evaluation.maps.nifti import ENDING, NiftiMap
from anomaly_detection.evaluation.maps.source import source_header
from anomaly_detection.evaluation.overlay import Overlay
from anomaly_detection.system.errors import UserError


class SeriesMaps:
    """STEM_anomaly.nii.gz of a NIfTI volume, STEM_seg.dcm and STEM_overlay_0001.dcm ... of a DICOM series; see `NiftiMap` and `DicomMaps`.

    Args:
        kind: of the source.
        name: what messages call it.
        stem: the path of the files up to their endings.
        preprocessing: how images come to the network.
        scale: what the detector's maps seldom exceed in normal images.
        model: the detector's name.

    Raises:
        UserError: highdicom, which DICOM takes, is not installed.
    """

    def __init__(self, kind: Literal["nifti", "dicom"], name: str, stem: Path, preprocessing: Preprocessing, scale: float, model: str):
        self._name, self._stem, self._preprocessing, self._scale = name, stem, preprocessing, scale
        self._dicom = DicomMaps(stem, name, scale, model) if kind == "dicom" else None
        self._nifti: NiftiMap | None = None
        self._header: tuple[SourceFile, Dataset] | None = None

    def add(self, file: SourceFile, number: int, shape: tuple[int, int], anomaly_map: np.ndarray, overlay: Overlay | None) -> None:
        """Take an image.

        Args:
            file: that holds it.
            number: of the slice or frame in it.
            shape: (H, W) of the image as it was read.
            anomaly_map: (image_size, image_size) of the network.
            overlay: the picture that is captured in DICOM; None: none is.

        Raises:
            UserError: the file cannot be read any more, or the map of a volume does not fit into memory.
        """
        laid = self._preprocessing.back(anomaly_map, shape)
        if self._dicom is not None:
            self._dicom.add(self._header_of(file), number, laid, overlay)
            return
        if self._nifti is None:
            with file.on_disk() as path:
                self._nifti = self._new_nifti(Volume(path, str(file)))
        self._nifti.add(number, laid)

    def close(self) -> list[Path]:
        """Write what is still to be written; returns the files, none where a DICOM source lacks what they need (a line says so)."""
        maps = self._nifti if self._dicom is None else self._dicom
        return [] if maps is None else maps.close()

    def remove(self) -> None:
        """Take away what has been written so far."""
        if self._dicom is not None:
            self._dicom.remove()

    def _new_nifti(self, volume: Volume) -> NiftiMap:
        try:
            return NiftiMap(volume, self._stem.with_name(self._stem.name + ENDING), self._scale)
        except MemoryError:
            size = 4 * math.prod(volume.shape) / 2**30
            raise UserError(f"{self._name}: its map takes {size:.0f} GiB of memory, more than there is; leave maps out (--no-maps)") from None

    def _header_of(self, file: SourceFile) -> Dataset:
        """Read once for all frames of a file."""
        if self._header is None or self._header[0] != file:
            with file.on_disk() as path:
                self._header = file, source_header(path)
        return self._header[1]
