"""First phases that experiments share are trained by one of those that begin together; a file that is not read is told for what it is."""

import errno
import os
import threading
import time
from contextlib import suppress

import pytest
import torch

from anomaly_detection.system.errors import UserError
from anomaly_detection.training.checkpoint import FirstPhases, load_checkpoint, save_checkpoint


def test_others_wait_for_the_one_that_trains(tmp_path):
    order, entered = [], threading.Event()

    def train(name):
        with FirstPhases(tmp_path / "shared.pt") as phases:
            phases.wait()
            if not phases.path.exists():
                order.append(f"{name} trains")
                entered.set()
                time.sleep(0.2)
                phases.save({"model": {}})
                time.sleep(0.2)
                order.append(f"{name} ends")
            else:
                order.append(f"{name} goes on")

    first = threading.Thread(target=train, args=("a",))
    first.start()
    entered.wait()
    train("b")
    first.join()
    assert order == ["a trains", "b goes on", "a ends"], "b waits for the file, not for the end"
    assert load_checkpoint(tmp_path / "shared.pt")["model"] == {}


def test_one_that_fails_leaves_the_work_to_the_next(tmp_path):
    """What it had half written when it was killed goes."""
    half = tmp_path / "deep" / ".shared.pt.0123abcd.partial"
    with suppress(KeyboardInterrupt), FirstPhases(tmp_path / "deep" / "shared.pt") as phases:
        phases.wait()
        half.touch()
        raise KeyboardInterrupt
    with FirstPhases(tmp_path / "deep" / "shared.pt") as phases:
        phases.wait()
        assert not phases.path.exists()
        assert not half.exists()
        phases.save({"model": {}})


def test_where_the_file_is_nobody_waits(tmp_path):
    with FirstPhases(tmp_path / "shared.pt") as one:
        one.wait()
        one.save({"model": {}})
        with FirstPhases(tmp_path / "shared.pt") as other, FirstPhases(tmp_path / "shared.pt") as third:
            other.wait()
            third.wait()
            assert other.path.exists()


def test_a_checkpoint_is_on_the_disk_when_it_was_saved(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    save_checkpoint(tmp_path / "a.pt", {"model": {}})
    assert synced == [(tmp_path / "a.pt").stat().st_ino]


class Program:
    """What runs where it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_that_holds_a_program_is_refused_and_nothing_of_it_runs(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"model": Program(tmp_path / "made")})
    with pytest.raises(UserError, match=r"a\.pt: damaged checkpoint \(UnpicklingError\)"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "made").exists()


def test_a_folder_in_place_of_a_checkpoint_is_not_called_damaged(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \((Is a directory|Permission denied)\); it is left as it is"):
        load_checkpoint(tmp_path)


NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a.pt"), r"a\.pt: cannot be read \(Permission denied\); it is left as it is"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), r"a\.pt: cannot be read \(Input/output error\); it is left as it is"),
        (MemoryError(), r"a\.pt: does not fit into the memory that is left"),
        (RuntimeError(NO_MEMORY), r"a\.pt: does not fit into the memory that is left"),
    ],
)
def test_what_keeps_a_whole_file_from_being_read_is_told_for_what_it_is(error, told, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise error

    save_checkpoint(tmp_path / "a.pt", {"model": {}})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refuse)
        with pytest.raises(UserError, match=told) as caught:
            load_checkpoint(tmp_path / "a.pt")
    assert "delete" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "a.pt")["model"] == {}


@pytest.mark.parametrize("length", [0, 1, 4, 100, 1000, -1000, -100, -1])
def test_a_file_that_was_cut_short_is_damaged(length, tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"model": {"weight": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"checkpoint\.pt: damaged checkpoint \(\w+\); delete it"):
        load_checkpoint(path)


def test_of_a_machine_that_cannot_allocate_as_much_torch_says_what_is_looked_for():
    with pytest.raises(RuntimeError, match="you tried to allocate"):
        torch.empty(2**58, dtype=torch.uint8)
