from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD

from anomaly_detection.data.dataset import Batch
from anomaly_detection.registry import BASELINES
from anomaly_detection.training import loop, replay
from anomaly_detection.training.loop import train
from anomaly_detection.training.seed import seed_everything
from tests.helpers import die_at, toy_images
from tests.test_baselines import built, settings_of

REPLAYED = ["MADDR_dpa", "f_anogan", "ganomaly", "memae"]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class FakeGraph:
    """Does again, when it is replayed, what was handed to it while it was captured."""

    capturing: "FakeGraph | None" = None

    def __init__(self):
        self.work = []

    def replay(self):
        for each in self.work:
            each()

    @staticmethod
    @contextmanager
    def capture(graph, stream):
        FakeGraph.capturing = graph
        try:
            yield
        finally:
            FakeGraph.capturing = None


class Watched:
    """A step that says how it was done, and with which images."""

    device = torch.device("cuda", 1)

    def __init__(self):
        self.done = []
        self.capturable = None

    def training_step(self, batch, optimizers):
        group = optimizers["sgd"].param_groups[0]
        if FakeGraph.capturing is None:
            self.done.append(("done", batch.image.sum().item(), group["lr"]))
        else:
            rate, self.capturable = group["lr"], group["capturable"]  # the rate is part of what is captured
            FakeGraph.capturing.work.append(lambda: self.done.append(("replayed", batch.image.sum().item(), rate)))
        return {"loss": batch.image.sum()}


@pytest.fixture
def fake_gpu(monkeypatch):
    class Stream:
        def __init__(self, device):
            assert device == Watched.device

        def wait_stream(self, other):
            pass

    @contextmanager
    def inside(stream):
        yield

    for name, value in {"Stream": Stream, "current_stream": Stream, "stream": inside, "CUDAGraph": FakeGraph, "graph": FakeGraph.capture}.items():
        monkeypatch.setattr(torch.cuda, name, value)


def batch_of(value: float) -> Batch:
    label = torch.zeros(1, dtype=torch.int64)
    return Batch(torch.full((1, 1, 1, 1), value), label, label, label)


def sgd() -> SGD:
    return SGD(nn.Linear(1, 1).parameters(), 0.5)


def test_steps_are_replayed_with_the_images_of_each_batch(fake_gpu):
    watched, optimizers = Watched(), {"sgd": sgd()}
    step = replay.ReplayedStep(watched)
    losses = [step(batch_of(float(value)), optimizers) for value in range(6)]
    ways = ["done"] * replay.WARM_UP + ["replayed"] * 3
    assert watched.done == [(way, float(value), 0.5) for value, way in enumerate(ways)]
    assert all(set(each) == {"loss"} for each in losses)
    assert len({each["loss"].data_ptr() for each in losses}) == 6, "the next step does not write into what the last one returned"
    assert watched.capturable is True
    assert "capturable" not in optimizers["sgd"].param_groups[0], "a checkpoint says what it said before"


@pytest.mark.parametrize(("option", "value", "rate"), [("lr", 0.25, 0.25), ("momentum", 0.9, 0.5)])
def test_another_option_or_batch_size_is_captured_anew(fake_gpu, option, value, rate):
    watched, optimizers = Watched(), {"sgd": sgd()}
    step = replay.ReplayedStep(watched)
    for number in range(4):
        step(batch_of(float(number)), optimizers)
    optimizers["sgd"].param_groups[0][option] = value
    for number in range(4):
        step(batch_of(float(number)), optimizers)
    assert watched.done[4:] == [("done", 0.0, rate), ("done", 1.0, rate), ("done", 2.0, rate), ("replayed", 3.0, rate)]
    step(replace(batch_of(7.0), image=torch.full((2, 1, 1, 1), 7.0)), optimizers)
    assert watched.done[-1] == ("done", 14.0, rate)


def test_what_was_not_captured_whole_is_captured_anew(fake_gpu, monkeypatch):
    watched, optimizers = Watched(), {"sgd": sgd()}
    step = replay.ReplayedStep(watched)
    for number in range(replay.WARM_UP):
        step(batch_of(float(number)), optimizers)
    with monkeypatch.context() as patch:
        patch.setattr(watched, "training_step", lambda batch, optimizers: {}["no loss"])
        with pytest.raises(KeyError):
            step(batch_of(3.0), optimizers)
    step(batch_of(4.0), optimizers)
    assert watched.done[replay.WARM_UP :] == [("replayed", 4.0, 0.5)]


def test_mixtures_are_never_replayed(fake_gpu):
    watched, optimizers = Watched(), {"sgd": sgd()}
    step = replay.ReplayedStep(watched)
    for value in range(5):
        step(batch_of(float(value)), optimizers)
    step(batch_of(1.0).mixed(batch_of(2.0), 0.5), optimizers)
    step(batch_of(3.0), optimizers)
    assert watched.done[-2:] == [("done", 1.5, 0.5), ("replayed", 3.0, 0.5)]


@pytest.mark.parametrize("model", BASELINES)
def test_what_is_replayed(model):
    replayed = {phase.name for phase in built(settings_of(model)).phases() if phase.replayable}
    assert replayed == {"MADDR_dpa": {"stab_32"}, "f_anogan": {"encoder"}, "ganomaly": {"ganomaly"}, "memae": {"memae"}}.get(model, set())


@pytest.mark.parametrize(
    ("replayable", "device", "processes", "step"),
    [(True, "cuda", 1, "replayed"), (True, "cpu", 1, "its own"), (False, "cuda", 1, "its own"), (True, "cuda", 2, "its own")],
)
def test_steps_are_replayed_on_a_gpu_where_the_phase_lets_it_and_no_other_process_trains(replayable, device, processes, step, monkeypatch):
    monkeypatch.setattr(replay, "ReplayedStep", lambda baseline: "replayed")
    monkeypatch.setattr(replay, "processes", lambda: processes)
    baseline, phase = SimpleNamespace(training_step="its own"), SimpleNamespace(replayable=replayable)
    assert replay.step_of(baseline, phase, torch.device(device)) == step


def trained(folder, model, replayed, monkeypatch, stop_at=None, **options):
    """The weights of a baseline with MADDR, trained on the GPU."""
    with monkeypatch.context() as patch:
        if not replayed:
            patch.setattr(loop, "step_of", lambda baseline, phase, device: baseline.training_step)
        own = {"gan_iterations": 8} if model == "f_anogan" else {}
        baseline = built(settings_of(model, iterations=12, own=own, **options), maddr=True).cuda()
        die_at(baseline, stop_at, "after_step")
        train(baseline, toy_images(30, side=32).to("cuda"), toy_images(9, seed=1, side=32).to("cuda"), baseline.settings, folder)
    return baseline.state_dict()


@needs_gpu
@pytest.mark.parametrize("model", REPLAYED)
@pytest.mark.parametrize("options", [{}, {"lr_step": 5}, {"bf16": True}, {"mixup": {"first": 6, "last": 8}}], ids=lambda each: "-".join(each))
def test_replayed_steps_end_with_the_same_weights(tmp_path, monkeypatch, model, options):
    seed_everything(0)
    one = trained(tmp_path / "one", model, True, monkeypatch, **options)
    other = trained(tmp_path / "other", model, False, monkeypatch, **options)
    assert all(torch.equal(one[name], other[name]) for name in one)


@needs_gpu
@pytest.mark.parametrize("model", REPLAYED)
def test_a_killed_run_that_is_replayed_ends_as_one_that_was_not(tmp_path, monkeypatch, model):
    whole = trained(tmp_path / "whole", model, True, monkeypatch)
    with pytest.raises(KeyboardInterrupt):  # after four steps that were replayed, a checkpoint among them
        trained(tmp_path / "part", model, True, monkeypatch, stop_at=7 + 8 * (model == "f_anogan"))
    again = trained(tmp_path / "part", model, True, monkeypatch)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
