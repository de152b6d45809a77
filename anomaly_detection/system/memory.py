"""Memory that tensors on the CPU leave behind: kept for the next ones, and given back once these may need less."""

import ctypes
import gc
import os
import sys
from typing import Any

# Options of mallopt in glibc's malloc.h, each with its value when memory is kept, and when it is not: what glibc's own rule settles at.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_OPTIONS = {_TRIM_THRESHOLD: (2**31 - 1, 64 * 2**20), _MMAP_THRESHOLD: (32 * 2**20, 32 * 2**20), _MMAP_MAX: (0, 65536)}


def keep_memory(keep: bool = True) -> None:
    """Give the memory of freed tensors to the next ones instead of back to the system. For a program's start: it holds for the whole process.

    By itself glibc returns large blocks at once, and the system has to fill every page of the next one with zeros: 3 to 45 % of the time of
    training steps on a CPU, most with large batches. Up to 2 GiB at the end of the process's memory stay with it, and whatever is free before what is
    still in use, until `release_memory`. C libraries other than glibc are left as they are.

    torch is told to ask the system for large pages as well (THP_MEM_ALLOC_ENABLE, unless the environment sets it). It looks once, at its first
    large tensor: call this before.

    Args:
        keep: False to return to glibc's own way; the large pages stay.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        for option, (kept, returned) in _OPTIONS.items():
            mallopt(option, kept if keep else returned)


def release_memory() -> None:
    """Give back to the system what is free, once some work is done and other work may follow that needs less: a tenth of a second, whatever the size.

    The next tensors take new pages, as those of a fresh process. So is what torch keeps of a GPU for later tensors, which other processes cannot have
    meanwhile. C libraries other than glibc are left as they are.
    """
    gc.collect()  # a network and its optimizers refer to each other
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)
    torch = sys.modules.get("torch")  # not imported for this
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where that is another."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
