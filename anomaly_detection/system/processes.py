"""Work shared out over processes, with a progress bar."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm import tqdm

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.memory import keep_memory

Result = TypeVar("Result")

START_METHOD = "fork" if sys.platform == "linux" else None  # a forked worker need not import the package, and torch with it, again


def map_jobs(function: Callable[[Any], Result], jobs: Sequence, workers: int | None, label: str, unit: str, fresh: bool = False) -> Iterator[Result]:
    """`function(job)` of every job, in their order; several at a time.

    Args:
        function: can be pickled; an exception in it is raised here, and the jobs not yet begun are dropped.
        jobs: can be pickled.
        workers: processes; as many as there are processors if None. With 1 no process is started.
        label, unit: what the progress bar says.
        fresh: start the processes from nothing, which takes seconds, instead of as copies of this one: needed once this one has computed in
            threads, since locks that these held stay locked in a copy.

    Raises:
        UserError: a process was killed, as happens where memory runs out.
    """
    workers = max(1, min(workers or processors(), len(jobs)))
    with tqdm(total=len(jobs), desc=label, unit=unit, disable=None, dynamic_ncols=True) as bar:
        for result in map(function, jobs) if workers == 1 else _map_in_pool(function, jobs, workers, fresh):
            bar.update()
            yield result


def _map_in_pool(function: Callable[[Any], Result], jobs: Sequence, workers: int, fresh: bool) -> Iterator[Result]:
    pool = ProcessPoolExecutor(workers, get_context("spawn" if fresh else START_METHOD), initializer=_begin_worker)
    try:
        yield from pool.map(function, jobs)
    except BrokenProcessPool:
        advice = "if memory ran out, use fewer --workers; the same command goes on where this one stopped"
        raise UserError(f"one of {workers} worker processes was killed; {advice}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    keep_memory()


def time_left(seconds: float, done: int, total: int) -> str:
    """How long the rest may take, such as ", about 12 min left", from how long some of the work took; nothing where none is done."""
    if not 0 < done < total:
        return ""
    left = seconds / done * (total - done)
    return f", about {left / 3600:.1f} h left" if left >= 5400 else f", about {max(1, round(left / 60))} min left"


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
