"""A study from its plan to its tables: what can go wrong is looked for first, then one experiment runs after the other, or several at a time."""

import errno
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock

from anomaly_detection.build import build_baseline
from anomaly_detection.data.catalog import is_phantom
from anomaly_detection.data.dataset import DataSource, Domains
from anomaly_detection.data.phantom.datasets import write_phantoms
from anomaly_detection.data.twins import load_twins
from anomaly_detection.study.experiment import (
    Experiment,
    check_data,
    check_settings,
    check_version,
    finished_metrics,
    is_finished,
    preprocessing_of,
    same_threshold,
)
from anomaly_detection.study.plan import StudyData, cautions
from anomaly_detection.study.render import to_markdown, to_text
from anomaly_detection.study.report import DRAWING, Study, Tables
from anomaly_detection.study.train_and_score import run_experiment
from anomaly_detection.system.backends import LOCAL, run_side_by_side
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.memory import release_memory
from anomaly_detection.system.processes import Pace, import_ahead
from anomaly_detection.system.progress import is_quiet
from anomaly_detection.training.log import tensorboard_writer
from anomaly_detection.training.loop import check_constraint

logger = logging.getLogger(__name__)

SHOWN = 4  # experiments that a sentence names one by one


@dataclass(frozen=True)
class Workers:
    """What computes.

    Attributes:
        device: "cuda" are all GPUs in turn.
        jobs: experiments at a time.
        backend: what runs several at a time; see `BACKENDS`.
    """

    device: torch.device
    jobs: int = 1
    backend: str = LOCAL


def state_of(experiment: Experiment) -> str:
    """As --dry-run lists it; "refused" where its folder is that of other settings or of an older version, which ends the study before it begins."""
    try:
        for each in experiment.begun():
            check_version(each)
            check_settings(each)
    except UserError:
        return "refused"
    metrics = finished_metrics(experiment)
    if metrics is not None:
        return "finished" if same_threshold(metrics, experiment) else "to score"
    return "interrupted" if (experiment.folder / "checkpoint.pt").exists() else "to do"


def run_study(
    study: Study, results: Path, planned: Sequence[Experiment], experiments: Sequence[Experiment], data: StudyData, workers: Workers
) -> int:
    """Run experiments that are not finished, and write tables and report of all of the study that is; say what is not, where others run it.

    Args:
        study: what its tables are about.
        results: the folder that receives everything.
        planned: all experiments of the study.
        experiments: those of them that are run here.
        data: the images; phantoms are rendered where they are not there.
        workers: what computes.

    Returns:
        The exit code: 0, or 1 when an experiment failed.

    Raises:
        UserError: a mistake in the settings or the data, met before the first experiment begins.
    """
    check_without_images(experiments, data)
    render(data)
    source = DataSource(data.root)
    check_images(experiments, source)
    for text in cautions(planned):
        logger.warning("%s", text)
    study.write(results)

    tables = Tables(results, study, source)
    failed = run_all(experiments, source, workers, lambda: show(tables))
    document = tables.write(figures=True)
    if document is not None:
        if not is_quiet():
            print(to_markdown(document))
        print(f"tables in {results / 'table.md'} and {results / 'table.csv'}, with figures in {results / 'report.html'}")
    for line in failed:
        print(f"failed: {line}")
    if elsewhere := [each.name for each in planned if each not in experiments and not is_finished(each, source)]:
        print(f"without what other shards have not finished, or failed at: {_some(elsewhere)}; each writes all this anew when it ends")
    if document is not None:
        print("", *tables.words(), sep="\n")
    return 1 if failed else 0


def _some(names: Sequence[str]) -> str:
    """The first of some names, and how many there are more."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def show(tables: Tables) -> None:
    """Write the tables as far as they are known, and print the one of AUROCs."""
    try:
        if tables.write() is not None and not is_quiet():
            print(f"\n{to_text(tables.short())}\n", flush=True)
    except UserError as error:  # results of another process or of an earlier command, which must not cost this study
        logger.warning("no tables yet: %s", error)


def check_without_images(experiments: Sequence[Experiment], data: StudyData) -> None:
    """Meet what can be met before images are rendered or read: folders of other settings, missing packages and backbones, impossible networks,
    heads that nothing would train.

    Raises:
        UserError: the first such mistake.
    """
    built = []
    for experiment in experiments:
        settings = experiment.settings
        for each in experiment.begun():
            check_version(each)
            check_settings(each)
        if settings.tensorboard:
            tensorboard_writer()
        if (settings.model, settings.baseline, settings.maddr) not in built:
            check_constraint(build_baseline(settings, Domains.of(data.datasets[name] for name in settings.datasets)))
            built.append((settings.model, settings.baseline, settings.maddr))


def render(data: StudyData) -> None:
    """Write phantoms where they are to be and are not there yet."""
    if data.there:
        return
    data.root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(data.root.with_name(f".{data.root.name}.lock")):
        if not is_phantom(data.root):  # another shard may have rendered them meanwhile
            write_phantoms(data.root)


def check_images(experiments: Sequence[Experiment], source: DataSource) -> None:
    """Meet every mistake in the data before the first hour of training.

    Raises:
        UserError: images are missing or damaged, a mask does not fit, or an experiment was begun with others.
    """
    read = []
    for experiment in experiments:
        settings, preprocessing = experiment.settings, preprocessing_of(experiment.settings, source)
        for each in experiment.begun():
            check_data(each, source)
        source.fingerprint(settings.datasets, preprocessing)  # meets images that are in two parts
        source.masks_fingerprint(settings.datasets, preprocessing)  # reads the masks, which are kept for the evaluation
        for part in ("train", "val", "test"):
            for dataset in settings.datasets:
                if (preprocessing[dataset], dataset, part) not in read:
                    images = source.load([dataset], part, preprocessing, settings.memory_mib)
                    if part == "test":
                        load_twins(source, images, preprocessing)
                    read.append((preprocessing[dataset], dataset, part))


def run_all(experiments: Sequence[Experiment], source: DataSource, workers: Workers, ended: Callable[[], None]) -> list[str]:
    """Run what is not finished, going on past what fails; return a line for each failure. `ended` is called after each experiment."""
    todo = [experiment for experiment in experiments if not is_finished(experiment, source)]
    jobs = max(1, min(workers.jobs, len(experiments)))  # not those to do: with other threads a resumed run would end otherwise
    if workers.jobs > 1:
        todo = in_order_of_need(todo)
    if workers.backend != LOCAL:  # its workers have working folders of their own
        source = source.absolute()
        todo = [replace(experiment, folder=experiment.folder.absolute()) for experiment in todo]
    calls = [(experiment, source, _device_in_turn(workers.device, place)) for place, experiment in enumerate(todo)]
    pace = Pace([experiment.settings.model for experiment in todo], max(1, min(jobs, len(todo))))
    failed, before = [], len(experiments) - len(todo)
    if workers.jobs == 1:
        outcomes = itertools.starmap(attempt, calls)
    else:
        if workers.backend == LOCAL:  # workers of a cluster have logs of their own
            calls = [(*call, logging.getLogger("anomaly_detection").getEffectiveLevel()) for call in calls]
        outcomes = run_side_by_side(attempt, calls, jobs, workers.backend, [experiment.name for experiment in todo])
    for number in range(before + 1, len(experiments) + 1):
        if workers.jobs == 1:
            logger.info("[%d/%d] %s%s", number, len(experiments), todo[number - before - 1].name, pace.left())
            if number == len(experiments):
                import_ahead(DRAWING)  # which comes next
        outcome = next(outcomes)
        pace.ended(outcome.model, outcome.seconds, outcome.whole)
        if workers.jobs > 1:
            logger.info("[%d/%d] %s has ended%s", number, len(experiments), outcome.experiment, pace.left())
        if outcome.failure is not None:
            failed.append(outcome.failure)
        elif number < len(experiments):
            ended()
    return failed


def in_order_of_need(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Of each seed, those first that take up nothing of another, and last those that take up a whole network; for several at a time.

    One that takes up the first phases of training from another, or the network for its probe, waits while that is still at them, and a core with
    it; what differs in MADDR alone may share them.
    """
    met, stage, seeds = set(), {}, list(dict.fromkeys(experiment.settings.seed for experiment in experiments))
    for experiment in experiments:
        settings = experiment.settings
        alike = settings.model, tuple(settings.datasets), settings.seed
        stage[experiment.name] = 2 if settings.maddr.probe else int(alike in met)
        met.add(alike)
    return sorted(experiments, key=lambda experiment: (seeds.index(experiment.settings.seed), stage[experiment.name]))


class Outcome(NamedTuple):
    """How an experiment ended.

    Attributes:
        experiment: its name.
        model: its model.
        seconds: how long it took.
        failure: a line; None where it did not fail.
        whole: whether it was trained from the start to its end.
    """

    experiment: str
    model: str
    seconds: float
    failure: str | None
    whole: bool


def attempt(experiment: Experiment, source: DataSource, device: torch.device, level: int | None = None) -> Outcome:
    """Run an experiment, and say what failed, since one failed experiment must not cost the others.

    Args:
        experiment, source, device: as `run_experiment` takes them.
        level: of the command's log, in a worker process that has none yet; None in the command itself.
    """
    started, failure = time.monotonic(), None
    begun = any((each.folder / "checkpoint.pt").exists() for each in experiment.begun())
    try:
        with nullcontext() if level is None else _log_of(experiment.name, level):
            run_experiment(experiment, source, device)
    except (Exception, SystemExit) as error:  # code from elsewhere may want to end the program
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # it would cost them all
        reason = "" if isinstance(error, SystemExit) else " ".join(str(error).split())
        failure = f"{experiment.name}: {reason or repr(error)}"
        logger.error("failed: %s", failure, exc_info=None if isinstance(error, UserError) else error)
    release_memory()  # the next network may be smaller, and other processes at work
    return Outcome(experiment.name, experiment.settings.model, time.monotonic() - started, failure, failure is None and not begun)


@contextmanager
def _log_of(name: str, level: int) -> Iterator[None]:
    """Lines of the log on stderr from `level` on, each with a name before it: those of several processes come between each other."""
    package, handler = logging.getLogger("anomaly_detection"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{name.replace('%', '%%')}: %(message)s"))
    before = package.level
    package.addHandler(handler)
    package.setLevel(level)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


def _device_in_turn(device: torch.device, place: int) -> torch.device:
    """The GPUs in turn, unless one was named."""
    return torch.device("cuda", place % torch.cuda.device_count()) if device == torch.device("cuda") else device
