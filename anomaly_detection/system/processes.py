"""Work shared out over processes, with a progress bar."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from statistics import mean
from typing import Any, TypeVar

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.memory import keep_memory
from anomaly_detection.system.progress import progress_bar

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
    with progress_bar(total=len(jobs), desc=label, unit=unit) as bar:
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


class Pace:
    """How long the rest of some work may take, told from what has been done of it.

    Pieces of one kind take as long as those of the kind that have ended, in the mean. While a kind has pieces to do and none that ended, nobody
    knows; the quick kinds come first, so it is taken to be no quicker than the slowest of those, and "at least" is said.

    Args:
        kinds: of each piece of the work.
        at_a_time: how many pieces are worked on.
    """

    def __init__(self, kinds: Sequence[Hashable], at_a_time: int = 1):
        self._to_do = Counter(kinds)
        self._seconds: dict[Hashable, list[float]] = {}
        self._at_a_time = at_a_time

    def ended(self, kind: Hashable, seconds: float) -> None:
        """A piece of that kind took so long."""
        self._to_do[kind] -= 1
        self._seconds.setdefault(kind, []).append(seconds)

    def left(self) -> str:
        """Such as ", about 12 min left"; nothing where no piece has ended, or none is to do."""
        means = {kind: mean(seconds) for kind, seconds in self._seconds.items()}
        to_do = {kind: count for kind, count in self._to_do.items() if count}
        if not means or not to_do:
            return ""
        word = "about" if set(to_do) <= set(means) else "at least"
        seconds = sum(count * means.get(kind, max(means.values())) for kind, count in to_do.items()) / self._at_a_time
        return f", {word} {seconds / 3600:.1f} h left" if seconds >= 5400 else f", {word} {max(1, round(seconds / 60))} min left"


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
