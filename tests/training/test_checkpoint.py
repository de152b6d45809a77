"""First phases that experiments share are trained by one of those that begin together."""

import threading
import time

import pytest

from anomaly_detection.training.checkpoint import FirstPhases, load_checkpoint


def test_others_wait_for_the_one_that_trains(tmp_path):
    order, entered = [], threading.Event()

    def train(name):
        with FirstPhases(tmp_path / "shared.pt") as phases:
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
    with pytest.raises(KeyboardInterrupt), FirstPhases(tmp_path / "deep" / "shared.pt"):
        raise KeyboardInterrupt
    with FirstPhases(tmp_path / "deep" / "shared.pt") as phases:
        assert not phases.path.exists()
        phases.save({"model": {}})


def test_where_the_file_is_nobody_waits(tmp_path):
    with FirstPhases(tmp_path / "shared.pt") as one:
        one.save({"model": {}})
        with FirstPhases(tmp_path / "shared.pt") as other, FirstPhases(tmp_path / "shared.pt"):
            assert other.path.exists()
