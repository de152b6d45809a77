import platform
import subprocess
import sys
import weakref

import pytest
import torch

from anomaly_detection.system import memory

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
# What is freed lies between arrays that stay, one of them in a cycle, so that it is no end of the process's memory that could be given back.
RELEASING = """
import os
import numpy as np
from anomaly_detection.system.memory import keep_memory, release_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

def filled():
    return np.ones(64 * 2**20, np.uint8)

keep_memory()
free, cycle, kept = filled(), [filled()], filled()
cycle.append(cycle)
before = resident()
del free, cycle
assert resident() > before - 32, "kept until then"
release_memory()
assert before - 160 < resident() < before - 96, "two of three are given back"
assert kept.sum() == 64 * 2**20
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to glibc's allocator")
@pytest.mark.parametrize("program", [PROGRAM, RELEASING], ids=["kept", "released"])
def test_memory_of_freed_arrays_is_kept_until_it_is_released(program):
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("used", [True, False])
def test_what_torch_keeps_of_a_gpu_is_released_where_one_is_used(used, monkeypatch):
    """Once tensors of networks that refer to themselves are gone; on systems without glibc, too."""
    network = torch.nn.Linear(1, 1)
    network.itself, gone, emptied = [network], weakref.ref(network), []
    del network
    monkeypatch.setattr(memory, "_of_glibc", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(gone() is None))
    memory.release_memory()
    assert gone() is None
    assert emptied == [True] * used
