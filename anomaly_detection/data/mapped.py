"""Arrays that stay in their files: rows are read when they are taken, and the pages that held them are let go."""

import mmap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Bytes of a file that may be read before its pages are let go. The system keeps what it has room for, outside the process; for rows here and there
# it may map ten times as much.
MAPPED = 8 * 2**20


class MappedImages:
    """N images that stay in the files of several memory-mapped arrays, one after another; see `take`.

    They are indexed as a uint8 tensor (N, C, H, W) on the CPU would be.

    Attributes:
        shape, device: of that tensor.
        window: how many images the budget holds, within which training shuffles.
    """

    device = torch.device("cpu")

    def __init__(self, arrays: Sequence[np.ndarray], budget: int):
        """arrays: (N_i, C, H, W) uint8, memory-mapped; budget: bytes."""
        self._arrays = list(arrays)
        self._ends = np.cumsum([len(array) for array in arrays])
        self.shape = (int(self._ends[-1]), *arrays[0].shape[1:])
        self.window = max(1, budget // arrays[0][0].nbytes)

    def __len__(self) -> int:
        return self.shape[0]

    def to(self, device: torch.device | str) -> "MappedImages":
        """Itself: only what is taken is moved."""
        return self

    def __getitem__(self, index: Tensor) -> Tensor:
        """The images at `index` (B,): (B, C, H, W) uint8."""
        places = index.numpy()
        found = np.empty((len(places), *self.shape[1:]), np.uint8)
        owners = np.searchsorted(self._ends, places, side="right")
        for owner in np.unique(owners):
            own = owners == owner
            array = self._arrays[owner]
            found[own] = take(array, places[own] - (self._ends[owner] - len(array)))
        return torch.from_numpy(found)


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of some rows (n,) of a memory-mapped array, of which no more than `MAPPED` bytes are read before its pages are let go."""
    copied = np.empty((len(rows), *array.shape[1:]), array.dtype)
    step = max(1, MAPPED * len(array) // array.nbytes)
    for start in range(0, len(rows), step):
        copied[start : start + step] = array[rows[start : start + step]]
        release(array)
    return copied


def release(array: np.ndarray) -> None:
    """Let the pages of a memory-mapped array go that were read so far, where the system can; those of a file are read again when they are needed."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)
