"""The anomaly map of a NIfTI volume as a NIfTI file on the same voxels."""

import io
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.evaluation.maps.marks import MARK
from anomaly_detection.evaluation.overlay import TOP
from anomaly_detection.system.files import whole_file

ENDING = "_anomaly.nii.gz"
DESCRIPTION = f"{MARK}: anomaly map; normals seldom exceed cal_min"  # at most 79 characters
MANTISSA = 10  # bits that are kept of 23: 0.05 % of a value, in half the time and the bytes
AHEAD = 64  # slabs that are packed at a time


class NiftiMap:
    """A file that is written when it is closed, whole or not at all; in memory is the map of the volume, float32.

    It has the shape, the affines and the units of the volume, so that viewers lay one over the other. The values are those of the network's anomaly
    maps, rounded to 11 significant bits, and 0 where a slice was not added and outside of a crop. Viewers are told to show from what is seldom
    exceeded in normal images (cal_min) up to twice that (cal_max), as pictures of overlays do.

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
        header = self._volume.header_for(np.float32)
        header.set_intent("estimate", (), name="anomaly map")
        header["descrip"] = DESCRIPTION
        header["cal_min"], header["cal_max"] = self._scale, TOP * self._scale
        start = io.BytesIO()
        header["vox_offset"] = header.single_vox_offset
        header.write_to(start)
        kind = header.get_data_dtype()
        with whole_file(self._path) as partial, open(partial, "wb") as file:
            slabs = (_rounded(self._voxels[..., k]).astype(kind).tobytes(order="F") for k in range(self._voxels.shape[2]))
            for piece in _packed(start.getvalue().ljust(header.single_vox_offset, b"\0"), slabs):
                file.write(piece)
        return [self._path]

    def __enter__(self) -> "NiftiMap":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 with zeros for the last bits of each value, which do not pack."""
    dropped = 23 - MANTISSA
    bits = np.asfortranarray(values).view(np.uint32) + np.uint32(1 << (dropped - 1))
    return (bits & np.uint32(-1 << dropped & 0xFFFFFFFF)).view(np.float32)


def _packed(start: bytes, slabs: Iterator[bytes]) -> Iterator[bytes]:
    """A gzip file of one member, whose parts are packed by all cores: each ends at a byte, with nothing that the next one refers to."""
    yield b"\x1f\x8b\x08\0" + b"\0" * 4 + b"\4\xff"
    yield _deflated(start)
    check, length = zlib.crc32(start), len(start)
    with ThreadPoolExecutor() as pool:
        while block := [slab for _, slab in zip(range(AHEAD), slabs, strict=False)]:
            yield from pool.map(_deflated, block)
            for slab in block:
                check, length = zlib.crc32(slab, check), length + len(slab)
    yield b"\3\0" + struct.pack("<II", check, length % 2**32)  # an empty last block


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)
