"""The anomaly map of a NIfTI volume as a NIfTI file on the same voxels."""

import gzip
import io
from pathlib import Path

import numpy as np

from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.data.formats.own import MARK
from anomaly_detection.evaluation.overlay import TOP
from anomaly_detection.system.files import whole_file

ENDING = "_anomaly.nii.gz"
DESCRIPTION = f"{MARK}: anomaly map; normals seldom exceed cal_min"  # at most 79 characters
STEPS = 32767  # from 0 to the greatest value, in 16 bits


class NiftiMap:
    """A file that is written when it is closed, whole or not at all; in memory is the map of the volume, float32.

    It has the shape, the affines and the units of the volume, so that viewers lay one over the other. The values are those of the network's anomaly
    maps, as int16 with a slope, in steps of 1/32767 of the greatest; they are 0 where a slice was not added and outside of a crop. Viewers are told
    to show from what is seldom exceeded in normal images (cal_min) up to twice that (cal_max), as pictures of overlays do.

    Args:
        volume: that the maps are of.
        path: of the file, .nii.gz.
        scale: what the detector's maps seldom exceed in normal images.
    """

    def __init__(self, volume: Volume, path: Path, scale: float):
        self._volume, self._path, self._scale = volume, path, scale
        self._voxels = np.zeros(volume.shape, np.float32, order="F")

    def add(self, number: int, anomaly_map: np.ndarray) -> None:
        """Take the map of a slice.

        Args:
            number: of the slice, as `Volume.read` counts.
            anomaly_map: (rows, columns), upright as `Volume.read` has the slice.
        """
        self._volume.put(self._voxels, number, anomaly_map)

    def close(self) -> list[Path]:
        """Write the file; returns its path."""
        greatest = max(float(self._voxels.max()), -float(self._voxels.min()))
        slope = greatest / STEPS if greatest > 0 else 1.0
        header = self._volume.header_for(np.int16)
        header.set_slope_inter(slope, 0)
        header.set_intent("estimate", (), name="anomaly map")
        header["descrip"] = DESCRIPTION
        header["cal_min"], header["cal_max"] = self._scale, TOP * self._scale
        header["vox_offset"] = header.single_vox_offset
        start = io.BytesIO()
        header.write_to(start)
        # not compressed: it would save a tenth of these bytes and take longer than reading the volume
        with whole_file(self._path) as partial, open(partial, "wb") as raw, gzip.GzipFile("", "wb", 0, raw, 0) as file:
            file.write(start.getvalue().ljust(header.single_vox_offset, b"\0"))
            for k in range(self._voxels.shape[2]):
                slab = np.rint(self._voxels[..., k] * np.float32(1 / slope))
                file.write(slab.astype(header.get_data_dtype()).tobytes(order="F"))
        return [self._path]
