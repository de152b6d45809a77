"""Anomaly maps that metrics look at in the end, in a file: those of a large test set are more than memory holds."""

import tempfile
from pathlib import Path

import numpy as np

from anomaly_detection.system.errors import UserError


class MapFile:
    """Maps (H, W) float32, one after another. The file has no name and is gone with the object.

    Args:
        folder: on whose disk it lies.
    """

    def __init__(self, folder: Path):
        self._folder, self._file = folder, tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it is closed with the object)
        self._count, self._shape = 0, (0, 0)

    def add(self, maps: np.ndarray) -> None:
        """Write maps (n, H, W) behind those that are there.

        Raises:
            UserError: the disk is full.
        """
        self._count, self._shape = self._count + len(maps), maps.shape[1:]
        try:
            # written rather than through a memory map, on which a full disk would be a bus error
            self._file.write(maps.astype(np.float32).tobytes())
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._folder}: anomaly maps cannot be kept there while they are measured ({error.strerror}); make space") from None

    def array(self) -> np.ndarray:
        """(N, H, W) all of them, at least one, memory-mapped: to be read, and let go by `release`."""
        return np.memmap(self._file, np.float32, "r", shape=(self._count, *self._shape))
