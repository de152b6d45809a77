"""How long it takes yet."""

import pytest

from anomaly_detection.system.backends import run_side_by_side
from anomaly_detection.system.processes import time_left


@pytest.mark.parametrize(
    ("seconds", "done", "total", "told"),
    [
        (0, 0, 5, ""),
        (60, 1, 4, ", about 3 min left"),
        (10, 1, 2, ", about 1 min left"),
        (7200, 2, 4, ", about 2.0 h left"),
        (90, 4, 4, ""),
    ],
)
def test_the_time_left_is_that_of_the_work_done_so_far(seconds, done, total, told):
    assert time_left(seconds, done, total) == told


def test_a_redirected_study_has_lines_and_no_bar(monkeypatch, caplog, capfd):
    caplog.set_level("INFO")
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert sorted(run_side_by_side(abs, [(-1,), (2,), (-3,)], 2, "loky", "experiment")) == [1, 2, 3]
    told = [record.message for record in caplog.records if "have ended" in record.message]
    assert [line.partition(" have")[0] for line in told] == [f"{n} of 3 experiments" for n in (1, 2, 3)]
    assert "\r" not in capfd.readouterr().err
