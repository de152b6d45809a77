"""What one experiment of a study leaves to the next, and what is begun before it is needed."""

from types import SimpleNamespace

import pytest
import torch

from anomaly_detection.study import run
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


def experiments(*names: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(name=name, settings=SimpleNamespace(model="memae")) for name in names]


def test_every_experiment_gives_its_memory_back_and_drawing_is_begun_with_the_last(events):
    failed = run.run_all(experiments("done", "a", "bad", "b"), None, run.Workers(torch.device("cpu")), lambda: events.append("tables"))
    assert failed == ["bad: no"]
    assert events == ["a", "released", "tables", "bad", "released", DRAWING, "b", "released"]


def test_nothing_is_begun_where_all_is_done(events):
    assert run.run_all(experiments("done", "done"), None, run.Workers(torch.device("cpu")), lambda: None) == []
    assert events == []
