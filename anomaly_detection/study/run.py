"""Experiments side by side: in processes of this machine, or through dask or ray on several."""

import errno
import logging
import os
from collections.abc import Sequence

import joblib
import torch
from tqdm import tqdm

from anomaly_detection.data.dataset import DataSource
from anomaly_detection.study.experiment import Experiment, run_experiment
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.memory import keep_memory
from anomaly_detection.system.processes import processors

logger = logging.getLogger(__name__)

Job = tuple[Experiment, DataSource, torch.device]
BACKENDS = ("loky", "dask", "ray")


def attempt(experiment: Experiment, source: DataSource, device: torch.device) -> str | None:
    """Run an experiment; a line for what failed, since one failed experiment must not cost the others."""
    try:
        run_experiment(experiment, source, device)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # it would cost them all
        line = f"{experiment.name}: {' '.join(str(error).split()) or type(error).__name__}"
        logger.error("failed: %s", line, exc_info=None if isinstance(error, UserError) else error)
        return line
    return None


def run_side_by_side(work: Sequence[Job], jobs: int, backend: str) -> list[str]:
    """Run experiments, `jobs` at a time, the threads of this machine shared out evenly; the lines of those that failed.

    dask and ray find their cluster by DASK_SCHEDULER_ADDRESS and RAY_ADDRESS; without, they start one on this machine.

    Raises:
        UserError: the package of the backend is not installed.
    """
    options = {"inner_max_num_threads": max(1, processors() // jobs)} if backend == "loky" else {}
    return_as = "list" if backend == "ray" else "generator_unordered"  # ray gives all at the end
    os.environ["TQDM_DISABLE"] = "1"  # the workers inherit it: their bars would write over each other
    try:
        _join_cluster(backend)
        with joblib.parallel_config(backend, n_jobs=jobs, **options):
            outcomes = joblib.Parallel(return_as=return_as)(joblib.delayed(_attempt_elsewhere)(*job) for job in work)
            bar = tqdm(outcomes, total=len(work), unit="experiment", desc=f"experiments, {jobs} at a time", disable=False, dynamic_ncols=True)
            return [line for line in bar if line is not None]
    finally:
        del os.environ["TQDM_DISABLE"]


def _attempt_elsewhere(*job) -> str | None:
    """`attempt`, in a worker: a process of its own, whose memory nobody has set yet."""
    keep_memory()
    return attempt(*job)


def _join_cluster(backend: str) -> None:
    try:
        if backend == "dask":
            from distributed import Client

            Client()
        elif backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
    except ImportError:
        package = {"dask": "dask[distributed]", "ray": "ray"}[backend]
        raise UserError(f"--backend {backend} needs the package: pip install '{package}'") from None
