import ctypes
import platform

import pytest
import torch

from anomaly_detection.allocator import keep_memory

MIB = 2**20


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2; hblks are the blocks taken straight from the system."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


def blocks_of_the_system() -> int:
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    return mallinfo().hblks


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to glibc's allocator")
def test_large_tensors_come_from_memory_that_is_kept():
    keep_memory(False)
    before = blocks_of_the_system()
    returned = torch.empty(64 * MIB, dtype=torch.uint8)
    assert blocks_of_the_system() == before + 1
    try:
        keep_memory()
        kept = torch.empty(64 * MIB, dtype=torch.uint8)
        assert blocks_of_the_system() == before + 1
        address = kept.data_ptr()
        del kept
        assert torch.empty(64 * MIB, dtype=torch.uint8).data_ptr() == address
    finally:
        keep_memory()
    assert returned.numel() == 64 * MIB
