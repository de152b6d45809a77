"""Work in other processes: what they begin with, how they end, and how long it takes yet."""

import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from anomaly_detection.system.backends import LOCAL, run_side_by_side
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.processes import Pace, map_jobs, processors, run_apart
from anomaly_detection.system.progress import progress_bar


@pytest.mark.parametrize(
    ("kinds", "ended", "at_a_time", "told"),
    [
        ("aaaaa", [], 1, ""),
        ("aaaa", [("a", 60)], 1, ", about 3 min left"),
        ("aa", [("a", 10)], 1, ", about 1 min left"),
        ("aaaa", [("a", 3600), ("a", 3600)], 1, ", about 2.0 h left"),
        ("aa", [("a", 5399)], 1, ", about 90 min left"),
        ("aa", [("a", 5400)], 1, ", about 1.5 h left"),
        ("aaaa", [("a", 1)] * 4, 1, ""),
        ("aaaaa", [("a", 120)], 2, ", about 4 min left"),
        # one of each kind was seen: 2 * 60 + 1 * 600
        ("aaabb", [("a", 60), ("b", 600)], 1, ", about 12 min left"),
        # nobody knows b and c yet, which come after what is quicker: 1 * 60 + 2 * 60 + 1 * 60
        ("aabbc", [("a", 60)], 1, ", at least 4 min left"),
        # c as slow as b, the slowest so far: 1 * 600 + 1 * 600
        ("aabbc", [("a", 60), ("a", 60), ("b", 600)], 1, ", at least 20 min left"),
        # a mean of its own kind: 2 * (60 + 180) / 2
        ("aaaa", [("a", 60), ("a", 180)], 1, ", about 4 min left"),
    ],
)
def test_the_time_left_is_told_by_kinds(kinds, ended, at_a_time, told):
    pace = Pace(list(kinds), at_a_time)
    for kind, seconds in ended:
        pace.ended(kind, seconds)
    assert pace.left() == told


def test_what_was_done_in_part_tells_nothing_of_the_time_of_others():
    pace = Pace("aaaa")
    pace.ended("a", 2, whole=False)
    assert pace.left() == ""
    pace.ended("a", 600)
    pace.ended("a", 2, whole=False)
    assert pace.left() == ", about 10 min left"


def told(seconds: float, text: str) -> tuple[str, int, int]:
    """After some seconds; the text, the process and its threads. Runs in a worker, as what follows does."""
    time.sleep(seconds)
    return text, os.getpid(), torch.get_num_threads()


def process_of(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def with_a_bar(seconds: float) -> None:
    for _ in progress_bar(range(1)):
        time.sleep(seconds)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once_the_other_works(role: str, sign: Path) -> None:
    if role == "slow":
        sign.touch()
        time.sleep(300)
    while role == "killed":
        if sign.exists():
            killed()
        time.sleep(0.01)


def refused() -> None:
    raise ValueError("no")


def gone(process: int) -> bool:
    """Whether a process ends within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_results_come_as_they_are_there():
    outcomes = run_side_by_side(told, [(2, "a"), (0, "b"), (0, "c")], 2, LOCAL)
    assert next(outcomes)[0] in "abc"
    assert len(list(outcomes)) == 2


def test_processes_share_the_cores_and_serve_many_calls():
    results = list(run_apart(told, [(0, str(i)) for i in range(5)], 2, __name__))
    assert sorted(text for text, _, _ in results) == list("01234")
    assert len({process for _, process, _ in results} - {os.getpid()}) <= 2
    assert {threads for _, _, threads in results} == {max(1, processors() // 2)}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_what_is_not_waited_for_is_stopped():
    results = run_apart(told, [(0, "quick"), (300, "slow")], 2, __name__)
    _, process, _ = next(results)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 60
    assert gone(process)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_calls_that_a_pipe_does_not_hold_are_dropped():
    """Python 3.10 waits for their readers, which were stopped."""
    results = run_apart(told, [(0, "quick"), *[(300, "x" * 300_000)] * 4], 2, __name__)
    next(results)
    results.close()


def test_an_exception_comes_out_and_a_killed_process_is_told():
    with pytest.raises(ValueError, match="no"):
        list(run_apart(refused, [()], 1, __name__))
    with pytest.raises(UserError, match="was killed; if memory ran out, use fewer --jobs"):
        list(run_apart(killed, [()], 1, __name__))


ORPHANS = """
import os, signal
from tests.system.test_processes import __name__ as name, run_apart, told
results = run_apart(told, [(0, "quick"), (300, "slow")], 2, name)
print(next(results)[1], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_at_work_when_a_process_was_killed_is_named(tmp_path):
    """Not what had ended, and not what had not begun."""
    roles = ["quick", "killed", "slow", "never begun"]
    calls = [(role, tmp_path / "sign") for role in roles]
    with pytest.raises(UserError, match=r"one of 2 worker processes was killed, at killed or slow; if memory"):
        list(run_apart(killed_once_the_other_works, calls, 2, __name__, roles))


STOPPED = """
from anomaly_detection.system.processes import run_apart
from tests.system.test_processes import __name__ as name, with_a_bar
results = run_apart(with_a_bar, [(0,), (300,)], 2, name)
next(results)
results.close()
"""


def test_nothing_is_said_where_work_is_stopped():
    ended = subprocess.run([sys.executable, "-c", STOPPED], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=60)
    assert not ended.stderr


def noted_late(seconds: float) -> None:
    if seconds == 99:
        raise ValueError("99")
    time.sleep(seconds)


def signalled(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(300)
    return number


def noted(number: int) -> tuple[int, int]:
    return number, os.getpid()


@pytest.mark.parametrize("groups", [None, [3, 1, 7], [11]])
def test_jobs_that_are_handed_out_together_are_done_by_one_process(groups):
    results = list(map_jobs(noted, range(11), 2, "", "", groups=groups))
    assert [number for number, _ in results] == list(range(11))
    processes = iter(process for _, process in results)
    for count in groups or [1] * 11:
        (process,) = {next(processes) for _ in range(count)}
        assert process != os.getpid()


def test_an_exception_ends_the_jobs_that_are_at_work():
    started = time.monotonic()
    with pytest.raises(ValueError, match="99"):
        list(map_jobs(noted_late, [99, 300, 300], 2, "", ""))
    assert time.monotonic() - started < 200, "the others sleep for longer"


def slow_to_send(folder: Path | None) -> None:
    """A worker that, once it has or waits for a lock of the pool, takes a second to notice, as one of a busy machine may."""
    if folder is None:
        return
    lock = multiprocessing.synchronize.SemLock
    at_once = lock.__enter__

    def slowly(self):
        lock.__enter__ = at_once
        (folder / str(os.getpid())).touch()
        taken = at_once(self)
        time.sleep(1)
        return taken

    lock.__enter__ = slowly


STOPPED_AS_IT_SENDS = """
import sys, time
from pathlib import Path
from anomaly_detection.system.processes import map_jobs
from tests.system.test_processes import slow_to_send
folder = Path(sys.argv[1])
results = map_jobs(slow_to_send, [None, folder, folder, *[None] * 9], 2, "", "")
next(results)
while len(list(folder.iterdir())) < 2:
    time.sleep(0.01)
results.close()
"""


def test_a_worker_that_is_stopped_while_it_sends_a_result_leaves_no_lock_behind(tmp_path):
    """It would wait for itself, and the program for it."""
    command = [sys.executable, "-c", STOPPED_AS_IT_SENDS, str(tmp_path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=60)
    assert "Error" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGUSR1 there")
def test_a_signal_from_elsewhere_is_told():
    """Cluster managers send it to every process of a job; results must not be missing without a word."""
    with pytest.raises(UserError, match="stopped by a signal"):
        list(map_jobs(signalled, range(9), 2, "", ""))


SHADOWED = """
import math
from anomaly_detection.system.processes import map_jobs
print(*map_jobs(math.sqrt, [4, 9], 2, "", "", fresh="anomaly_detection.system.errors"))
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the working folder comes first there")
def test_files_of_the_working_folder_are_not_taken_for_modules_of_python(tmp_path):
    (tmp_path / "random.py").touch()
    path = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONSAFEPATH": ""}
    program = "import sys; sys.path.remove('')" + SHADOWED + "import os; assert not os.environ['PYTHONSAFEPATH']"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("2.0 3.0\n", 0), done.stderr


INTERRUPTED_AS_IT_BEGINS = """
from concurrent.futures import ProcessPoolExecutor
from anomaly_detection.system.processes import map_jobs
begin, begun = ProcessPoolExecutor._spawn_process, []

def two(self):
    if len(begun) == 2:
        raise KeyboardInterrupt
    begun.append(begin(self))

ProcessPoolExecutor._spawn_process = two
list(map_jobs(abs, range(9), 4, "", ""))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes begin one by one")
def test_a_pool_that_is_interrupted_as_it_begins_ends():
    command = [sys.executable, "-c", INTERRUPTED_AS_IT_BEGINS]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=60)
    assert "KeyboardInterrupt" in ended.stderr


INTERRUPTED = """
import signal, sys
from anomaly_detection.system.processes import map_jobs
from tests.system.test_processes import with_a_copy
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background begins without
list(map_jobs(with_a_copy, [sys.argv[1]] * int(sys.argv[2]), 2, "", ""))
"""


def with_a_copy(folder: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as copy:
        Path(copy, "begun").touch()
        time.sleep(300)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT there")
@pytest.mark.parametrize(("number", "jobs"), [("SIGINT", 2), ("SIGINT", 9), ("SIGTERM", 2)])
def test_what_ends_a_program_ends_jobs_at_once_and_they_put_their_copies_away(number, jobs, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), str(jobs)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) as program:
        while len(list(tmp_path.glob("*/begun"))) < 2:
            assert program.poll() is None
            time.sleep(0.01)
        program.send_signal(getattr(signal, number))
        try:
            _, said = program.communicate(timeout=60)  # until the last process has closed what it inherited
        finally:
            program.kill()
    assert (b"KeyboardInterrupt" in said) == (number == "SIGINT")
    assert not list(tmp_path.iterdir())


LOCKED_ORPHANS = """
import os, signal, sys
from filelock import FileLock
from anomaly_detection.system.processes import map_jobs
from tests.system.test_processes import process_of
with FileLock(sys.argv[1]):
    results = map_jobs(process_of, [0, 0, 300, 300], 2, "", "")
    print(next(results), next(results), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("script", [ORPHANS, LOCKED_ORPHANS])
def test_processes_end_with_a_parent_that_was_killed(script, tmp_path):
    """Those of a program that had locked a file would keep it locked: they are copies of it."""
    lock = tmp_path / "lock"
    with open(tmp_path / "processes", "w+", encoding="utf-8") as told_by:  # a pipe would stay open with them
        ended = subprocess.run([sys.executable, "-c", script, str(lock)], cwd=Path(__file__).parents[2], stdout=told_by, check=False)
        told_by.seek(0)
        processes = [int(word) for word in told_by.read().split()]
    assert ended.returncode == -signal.SIGKILL
    assert processes
    assert all(gone(process) for process in processes)
    FileLock(lock).acquire(timeout=0).lock.release()
