"""Calls side by side: in processes of this machine, or through dask or ray on several."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.memory import keep_memory
from anomaly_detection.system.processes import run_apart
from anomaly_detection.system.progress import HIDDEN

# name: the module that it needs, and what pip calls the package
LOCAL = "local"
BACKENDS = {LOCAL: None, "dask": ("distributed", "dask[distributed]"), "ray": ("ray", "ray")}


def check_backend(name: str) -> None:
    """See that a backend can be had.

    Raises:
        UserError: its package is not installed.
    """
    if BACKENDS[name] is None:
        return
    module, package = BACKENDS[name]
    if find_spec(module) is None:
        raise UserError(f"--backend {name} needs the package: pip install '{package}'")


def run_side_by_side(function: Callable, calls: Sequence[tuple], at_a_time: int, backend: str, names: Sequence[str] | None = None) -> Iterator[Any]:
    """`function(*call)` of every call, `at_a_time` at a time; each result when there is one, in any order (ray gives all at the end).

    On this machine the threads are shared out evenly.
    dask and ray find their cluster by DASK_SCHEDULER_ADDRESS and RAY_ADDRESS; without, they start one on this machine.

    Args:
        function: can be pickled, as its arguments and results.
        calls: the arguments of each.
        at_a_time: how many.
        backend: one of `BACKENDS`.
        names: of the calls, for messages.
    """
    if backend == LOCAL:
        yield from run_apart(partial(_call, function), calls, at_a_time, function.__module__, names)
        return

    import joblib  # here and below: numpy comes with it, which --help need not wait for

    _join_cluster(backend, at_a_time)
    with joblib.parallel_config(backend, n_jobs=at_a_time):
        parallel = joblib.Parallel(return_as="list" if backend == "ray" else "generator_unordered")
        yield from parallel(joblib.delayed(_call)(function, *call) for call in calls)


def _call(function: Callable, *arguments) -> Any:
    """In a worker: a process of its own, whose memory nobody has set yet, and whose bars would write over those of others."""
    os.environ[HIDDEN] = "1"
    keep_memory()
    return function(*arguments)


def _join_cluster(backend: str, at_a_time: int) -> None:
    if backend == "dask":
        import dask
        from distributed import Client

        if dask.config.get("scheduler-address", None):
            Client()
        else:
            Client(n_workers=at_a_time, threads_per_worker=1)
    elif backend == "ray":
        from ray.util.joblib import register_ray

        register_ray()
