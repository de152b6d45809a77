import platform
import subprocess
import sys

import pytest

# In a process of its own, whose memory no other test has used. hblks, the fourth number of mallinfo2, are blocks straight from the system.
PROGRAM = """
import ctypes
import numpy as np
from anomaly_detection.system.memory import keep_memory

def blocks():
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = type("MallInfo", (ctypes.Structure,), {"_fields_": [(f"n{i}", ctypes.c_size_t) for i in range(10)]})
    return mallinfo().n3

def allocated():
    return np.empty(64 * 2**20, np.uint8)

before = blocks()
keep_memory(False)
returned = allocated()
assert blocks() == before + 1, "glibc's own way"
keep_memory()
kept = allocated()
assert blocks() == before + 1, "from the process's own memory"
address = kept.ctypes.data
del kept
assert allocated().ctypes.data == address, "used again"
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to glibc's allocator")
def test_large_arrays_come_from_memory_that_is_kept():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
