"""Work shared out over processes, with a progress bar."""

import contextlib
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import mean
from threading import Thread
from typing import Any, TypeVar

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.memory import keep_memory
from anomaly_detection.system.progress import progress_bar

Result = TypeVar("Result")

AHEAD = 64  # hand-outs to each worker before their results are taken: to hand out all of millions of jobs takes gigabytes
MOST = 61 if sys.platform == "win32" else sys.maxsize  # workers of a pool
START_METHOD = "fork" if sys.platform == "linux" else None  # a forked worker need not import the package, and torch with it, again


def map_jobs(
    function: Callable[[Any], Result],
    jobs: Sequence,
    workers: int | None,
    label: str,
    unit: str,
    fresh: str | None = None,
    groups: Sequence[int] | None = None,
) -> Iterator[Result]:
    """`function(job)` of every job, in their order; several at a time, in processes that end with this one.

    Args:
        function: can be pickled; an exception in it is raised here. Then, as on Ctrl-C, what has not begun is dropped, and SystemExit ends the rest,
            so that a job puts away what it has made for itself, such as the copy of a member of an archive.
        jobs: can be pickled.
        workers: processes; as many as there are processors if None. With 1 no process is started.
        label, unit: what the progress bar says.
        fresh: a module, to start the processes with that alone instead of as copies of this one, see `fresh_context`: needed once this one has
            computed in threads, since locks that these held stay locked in a copy.
        groups: how many are handed out at a time, first to last; None: one by one. To hand out takes 0.2 ms.

    Raises:
        UserError: a process was killed, as happens where memory runs out, or a signal from elsewhere ended its work.
    """
    workers = max(1, min(workers or processors(), len(jobs), MOST))
    with progress_bar(total=len(jobs), desc=label, unit=unit) as bar:
        for result in map(function, jobs) if workers == 1 else _map_in_pool(function, jobs, workers, fresh, groups):
            bar.update()
            yield result


def _map_in_pool(
    function: Callable[[Any], Result], jobs: Sequence, workers: int, fresh: str | None, groups: Sequence[int] | None
) -> Iterator[Result]:
    pool = ProcessPoolExecutor(workers, fresh_context(fresh) if fresh else get_context(START_METHOD), initializer=_begin_mapping)
    waiting: deque[Future[list[Result] | None]] = deque()
    try:
        first = 0
        for count in repeat(1, len(jobs)) if groups is None else groups:
            waiting.append(pool.submit(_map_here, function, jobs[first : first + count]))
            first += count
            if len(waiting) > AHEAD * workers:
                yield from _results(waiting[0])
                waiting.popleft()
        while waiting:
            yield from _results(waiting[0])
            waiting.popleft()
    except BrokenProcessPool:
        advice = "if memory ran out, use fewer --workers; the same command goes on where this one stopped"
        raise UserError(f"one of {workers} worker processes was killed; {advice}") from None
    finally:
        _end(pool, waiting, _stop_mapping)


def _results(future: Future[list[Result] | None]) -> list[Result]:
    results = future.result()
    if results is None:
        raise UserError("a worker process was stopped by a signal; the same command goes on where this one stopped")
    return results


def _end(pool: ProcessPoolExecutor, waiting: Iterable[Future], stop: Callable[[BaseProcess], object]) -> None:
    """Of a pool whose results are there, or of which one is no longer wanted: its processes are stopped at work then."""
    ours = list((pool._processes or {}).values())
    try:
        if not all(each.done() for each in waiting):
            for process in ours:
                stop(process)
        if sys.version_info < (3, 11, 5) and pool._call_queue is not None:
            pool._call_queue._reader.close()  # a thread that hands out more than the pipe holds would wait for killed readers (python/cpython#94777)
        pool.shutdown(cancel_futures=True)
    finally:
        for process in ours:  # of a pool that was interrupted while it began, or again while it ended: it stops none
            process.terminate()


STOP = getattr(signal, "SIGUSR1", None)  # ends a job and not its process, which would leave the pool with a lock of its pipes if it held one


def _stop_mapping(process: BaseProcess) -> None:
    if STOP is None:
        process.terminate()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, STOP)


def _map_here(function: Callable[[Any], Result], jobs: Sequence) -> list[Result] | None:
    """In a worker; None where a signal said that nobody wants results."""
    global _in_job
    try:
        _in_job = True
        signal.signal(signal.SIGTERM, _leave_job)
        return None if _told else [function(job) for job in jobs]
    except SystemExit:
        if _told is None:
            raise
        return None
    finally:
        _in_job = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if _told == signal.SIGTERM:
            os._exit(1)  # the pool is broken and takes no result


_in_job = False  # in a worker, as what follows
_told: int | None = None  # the signal by which it heard that nobody wants its results


def _leave_job(number: int, _) -> None:
    """Once, since it may be at putting things away then; never between jobs, where an exception could leave a lock of the pool locked."""
    global _told
    first, _told = _told is None, number
    if _in_job and first:
        sys.exit()


def _begin_mapping() -> None:
    _begin_worker()
    if STOP is not None:
        signal.signal(STOP, _leave_job)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    keep_memory()
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    if _in_job:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)  # to put things away
    os._exit(1)  # nobody is left to take a result, and what the parent had locked stays locked as long as a copy of it lives


def fresh_context(module: str) -> BaseContext:
    """Of processes that have imported a module and computed nothing.

    They are copies of one process that does no more than import it, once, with all that it needs; where the system has no such server, each
    imports it itself.

    Args:
        module: that the server imports, unless it runs already: its first module stays.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([module])
    _start_server()
    return context


def _start_server() -> None:
    """Where it runs not yet; without the working folder, where a random.py would be taken for Python's, unless that is where this package lies."""
    from multiprocessing.forkserver import ensure_running

    before = os.environ.get("PYTHONSAFEPATH")  # which Python 3.10 does not know
    if not os.path.samefile(Path(__file__).parents[2], os.curdir):
        os.environ["PYTHONSAFEPATH"] = "1"
    try:
        ensure_running()
    finally:
        if before is None:
            os.environ.pop("PYTHONSAFEPATH", None)
        else:
            os.environ["PYTHONSAFEPATH"] = before


def import_ahead(module: str) -> None:
    """Let the server of `fresh_context` import a module from now on, beside this process, which goes on at once."""
    if "forkserver" in get_all_start_methods():
        fresh_context(module)


def run_apart(
    function: Callable[..., Result], calls: Sequence[tuple], workers: int, module: str, names: Sequence[str] | None = None
) -> Iterator[Result]:
    """`function(*call)` of every call in processes that end with this one; each result when it is there, in any order.

    What is no longer wanted is stopped at once: hours of computing must not outlive an error or Ctrl-C.

    Args:
        function: can be pickled, as its arguments and results. The first exception in it is raised here.
        calls: the arguments of each.
        workers: processes, each for many calls; the threads of this machine are shared out to them evenly.
        module: that they begin with, see `fresh_context`.
        names: of the calls, for messages.

    Raises:
        UserError: a process was killed, as happens where memory runs out; it names the calls that were at work.
    """
    workers = min(workers, MOST)
    waiting, met = [], set()
    context = fresh_context(module)
    begun = context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_apart, initargs=(max(1, processors() // workers), begun))
    try:
        waiting = [pool.submit(_run_noted, place, function, *call) for place, call in enumerate(calls)]
        for done in as_completed(waiting):
            met |= _taken(begun)
            yield done.result()
    except BrokenProcessPool:
        at_work = [place for place in sorted(met) if isinstance(waiting[place].exception(), BrokenProcessPool)]
        at = ", at " + " or ".join(names[place] for place in at_work) if names and at_work else ""
        advice = "if memory ran out, use fewer --jobs; the same command goes on where this one stopped"
        raise UserError(f"one of {workers} worker processes was killed{at}; {advice}") from None
    finally:
        _end(pool, waiting, BaseProcess.terminate)


def _begin_apart(threads: int, begun: SimpleQueue) -> None:
    """In a worker, which has imported torch and not used it."""
    import torch

    global _begun
    _begin_worker()
    torch.set_num_threads(threads)
    _begun = begun


_begun: SimpleQueue | None = None  # in a worker: takes the place of each call that it begins


def _run_noted(place: int, function: Callable[..., Result], *call) -> Result:
    _begun.put(place)
    return function(*call)


def _taken(begun: SimpleQueue) -> set[int]:
    """What has been put into a queue, which may take no more than a few thousand places at a time."""
    places = set()
    while not begun.empty():
        places.add(begun.get())
    return places


class Pace:
    """How long the rest of some work may take, told from what has been done of it.

    Pieces of one kind take as long as those of the kind that have ended and were whole, in the mean. While a kind has pieces to do and none that
    ended, nobody knows; the quick kinds come first, so it is taken to be no quicker than the slowest of those, and "at least" is said.

    Args:
        kinds: of each piece of the work.
        at_a_time: how many pieces are worked on.
    """

    def __init__(self, kinds: Sequence[Hashable], at_a_time: int = 1):
        self._to_do = Counter(kinds)
        self._seconds: dict[Hashable, list[float]] = {}
        self._at_a_time = at_a_time

    def ended(self, kind: Hashable, seconds: float, whole: bool = True) -> None:
        """A piece of that kind took so long; where a part of it had been done before, or it broke off, that tells nothing of others."""
        self._to_do[kind] -= 1
        if whole:
            self._seconds.setdefault(kind, []).append(seconds)

    def left(self) -> str:
        """Such as ", about 12 min left"; nothing where no whole piece has ended, or none is to do."""
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
