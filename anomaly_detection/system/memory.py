"""Memory that tensors on the CPU leave behind, kept for the next ones."""

import ctypes
import os
import sys

# Options of mallopt in glibc's malloc.h, each with its value when memory is kept, and when it is not: what glibc's own rule settles at.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_OPTIONS = {_TRIM_THRESHOLD: (2**31 - 1, 64 * 2**20), _MMAP_THRESHOLD: (32 * 2**20, 32 * 2**20), _MMAP_MAX: (0, 65536)}


def keep_memory(keep: bool = True) -> None:
    """Give the memory of freed tensors to the next ones instead of back to the system. For a program's start: it holds for the whole process.

    By itself glibc returns large blocks at once, and the system has to fill every page of the next one with zeros: 3 to 45 % of the time of
    training steps on a CPU, most with large batches. Up to 2 GiB stay with the process. C libraries other than glibc are left as they are.

    torch is told to ask the system for large pages as well (THP_MEM_ALLOC_ENABLE, unless the environment sets it). It looks once, at its first
    large tensor: call this before.

    Args:
        keep: False to return to glibc's own way; the large pages stay.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, (kept, returned) in _OPTIONS.items():
            mallopt(option, kept if keep else returned)
