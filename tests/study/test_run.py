"""What one experiment of a study leaves to the next, and what is begun before it is needed."""

import errno
import itertools
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anomaly_detection.config.settings import Settings
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.study import run
from anomaly_detection.study.experiment import Experiment
from anomaly_detection.study.report import DRAWING
from anomaly_detection.system.errors import UserError


@pytest.fixture
def events(monkeypatch):
    """What happens, in turn."""
    met = []

    def run_experiment(experiment, *_):
        met.append(experiment.name)
        if experiment.name == "bad":
            raise UserError("no")

    monkeypatch.setattr(run, "run_experiment", run_experiment)
    monkeypatch.setattr(run, "release_memory", lambda: met.append("released"))
    monkeypatch.setattr(run, "import_ahead", met.append)
    monkeypatch.setattr(run, "is_finished", lambda experiment, _: experiment.name == "done")
    return met


def experiments(*names: str, folder: Path = Path("nowhere")) -> list[SimpleNamespace]:
    """Experiments as far as `run_all` looks at them."""
    each = (SimpleNamespace(name=name, settings=SimpleNamespace(model="memae"), folder=folder / name) for name in names)
    return [SimpleNamespace(**vars(one), begun=lambda one=one: [one]) for one in each]


def test_every_experiment_gives_its_memory_back_and_drawing_is_begun_with_the_last(events):
    failed = run.run_all(experiments("done", "a", "bad", "b"), None, run.Workers(torch.device("cpu")), lambda: events.append("tables"))
    assert failed == ["bad: no"]
    assert events == ["a", "released", "tables", "bad", "released", DRAWING, "b", "released"]


def test_only_what_is_trained_from_start_to_end_tells_the_time_of_others(events, tmp_path):
    (tmp_path / "resumed").mkdir()
    (tmp_path / "resumed" / "checkpoint.pt").touch()
    outcomes = [run.attempt(each, None, torch.device("cpu")) for each in experiments("new", "resumed", "bad", folder=tmp_path)]
    assert [outcome.whole for outcome in outcomes] == [True, False, False]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_more_ends_the_study_and_another_error_one_experiment(number, events, monkeypatch):
    def run_experiment(*_):
        raise OSError(number, "the disk")

    monkeypatch.setattr(run, "run_experiment", run_experiment)
    (experiment,) = experiments("a")
    if number == errno.EIO:
        assert run.attempt(experiment, None, torch.device("cpu")).failure == f"a: [Errno {number}] the disk"
    else:
        with pytest.raises(OSError, match="the disk"):
            run.attempt(experiment, None, torch.device("cpu"))


def test_gpus_take_turns_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [run._device_in_turn(torch.device("cuda"), place).index for place in range(3)] == [0, 1, 0]
    assert [run._device_in_turn(torch.device(name), 0) for name in ("cuda:1", "cpu")] == [torch.device("cuda:1"), torch.device("cpu")]


def test_of_each_seed_those_are_first_that_take_up_nothing_and_those_last_that_take_up_a_network():
    def planned(model: str, regime: str, seed: int) -> SimpleNamespace:
        settings = SimpleNamespace(model=model, datasets=["a"], seed=seed, maddr=SimpleNamespace(probe=regime == "probe"))
        return SimpleNamespace(name=f"{seed} {regime} {model}", settings=settings)

    given = [planned(*each) for each in itertools.product("xy", ("united", "probe", "maddr"), (0, 1))]
    expected = [f"{seed} {regime} {model}" for seed in (0, 1) for regime in ("united", "maddr", "probe") for model in "xy"]
    assert [each.name for each in run.in_order_of_need(given)] == expected


def test_nothing_is_begun_where_all_is_done(events):
    assert run.run_all(experiments("done", "done"), None, run.Workers(torch.device("cpu")), lambda: None) == []
    assert events == []


@pytest.mark.parametrize(("names", "jobs", "workers"), [(("done", "done", "a"), 2, 2), (("done", "done", "a"), 8, 3), (("a", "b", "c", "d"), 3, 3)])
def test_a_study_that_goes_on_has_as_many_workers_as_before(names, jobs, workers, events, monkeypatch):
    """The threads of each follow from their number, and the weights from the threads."""
    asked = []

    def side_by_side(function, calls, at_a_time, *_):
        asked.append(at_a_time)
        return (function(*call) for call in calls)

    monkeypatch.setattr(run, "run_side_by_side", side_by_side)
    monkeypatch.setattr(run, "in_order_of_need", list)
    run.run_all(experiments(*names), None, run.Workers(torch.device("cpu"), jobs=jobs), lambda: None)
    assert asked == [workers]


@pytest.mark.parametrize(("backend", "absolute"), [("local", False), ("dask", True), ("ray", True)])
def test_a_cluster_is_told_of_folders_in_full(backend, absolute, events, tmp_path, monkeypatch):
    """Its workers have working folders of their own."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    handed = []
    outcome = run.Outcome("", "memae", 1, None, True)
    monkeypatch.setattr(run, "run_side_by_side", lambda _, calls, *__: handed.extend(calls) or iter([outcome]))
    experiment, workers = Experiment.place(Settings("memae", ["a"]), Path("results")), run.Workers(torch.device("cpu"), 2, backend)
    run.run_all([experiment], DataSource(Path("data")), workers, lambda: None)
    ((given, source, *_),) = handed
    assert given.settings == experiment.settings
    assert (given.folder.is_absolute(), source.data_root.is_absolute()) == (absolute, absolute)
    assert (given.folder.absolute(), source.data_root.absolute()) == (tmp_path / experiment.folder, tmp_path / "data")


@pytest.mark.parametrize(("level", "told"), [(logging.INFO, "a: waiting\na: few\n"), (logging.WARNING, "a: few\n")])
def test_workers_tell_as_much_as_the_command_and_of_which_experiment(level, told, monkeypatch, capsys, caplog):
    def run_experiment(*_):
        logging.getLogger("anomaly_detection.training").info("waiting")
        logging.getLogger("anomaly_detection.training").warning("few")

    def side_by_side(function, calls, *_):
        for call in calls:
            logging.getLogger("anomaly_detection").setLevel(logging.NOTSET)  # as in a new process
            yield function(*call)

    monkeypatch.setattr(run, "run_experiment", run_experiment)
    monkeypatch.setattr(run, "is_finished", lambda *_: False)
    monkeypatch.setattr(run, "release_memory", lambda: None)
    monkeypatch.setattr(run, "run_side_by_side", side_by_side)
    monkeypatch.setattr(run, "in_order_of_need", list)
    caplog.set_level(level, "anomaly_detection")
    run.run_all(experiments("a"), None, run.Workers(torch.device("cpu"), jobs=2), lambda: None)
    assert capsys.readouterr().err == told
    assert logging.getLogger("anomaly_detection").handlers == []
