import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress

import pytest
import torch

from anomaly_detection import estimator
from anomaly_detection.study import train_and_score
from anomaly_detection.training.seed import random_state, seed_everything, set_random_state
from tests.test_estimator import GROUPS, ILL, X, detector

CPU, SECOND = torch.device("cpu"), torch.device("cuda", 1)


def states(*numbers: int) -> list[torch.Tensor]:
    """Told apart by their first byte."""
    return [torch.full((16,), number, dtype=torch.uint8) for number in numbers]


@pytest.fixture
def gpus(monkeypatch):
    """{number of a GPU: what its generator was set to}; all that a process may not do that was forked from one that uses a GPU fails."""
    put_back = {}
    torch.optim.Adam([torch.zeros(1)])  # with the first of them torch imports what counts its functions, the ones below among them

    def refuse(*_, **__):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    for name in ("get_rng_state_all", "set_rng_state_all", "manual_seed_all", "init", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states(40 + torch.device(device).index)[0])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put_back.update({torch.device(device).index: int(state[0])}))
    return put_back


def test_the_random_state_comes_back():
    seed_everything(1)
    torch.randn(3)
    state = random_state(CPU)
    expected = torch.randn(5)
    torch.randn(2)
    set_random_state(state, CPU)
    assert torch.equal(torch.randn(5), expected)


def test_a_seed_on_a_device_is_the_seed_everywhere(gpus, monkeypatch):
    seed_everything(3, CPU)
    drawn = torch.randn(5)
    assert torch.equal(drawn, torch.randn(5, generator=torch.Generator().manual_seed(3)))
    seeded, within = [], []
    monkeypatch.setattr(torch.cuda, "device", lambda device: within.append(device) or torch.no_grad())
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded.append)
    seed_everything(3, SECOND)
    assert torch.equal(torch.randn(5), drawn)
    assert (seeded, within) == ([3], [SECOND])


def test_training_on_a_cpu_looks_at_no_gpu(gpus, monkeypatch):
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # torch's own Adam looks whether one captures
        monkeypatch.setattr(torch.optim.Optimizer, name, lambda _: None, raising=False)
    one = detector().fit(X, groups=GROUPS)
    assert one.decision_function(ILL).min() > 0
    assert not gpus


def test_of_gpus_the_one_that_is_trained_on_is_kept_and_put_back(gpus, caplog):
    state = random_state(SECOND)
    assert set(state) == {"cpu", "cuda"}
    set_random_state(state, SECOND)
    assert gpus == {1: 41}
    set_random_state(state, torch.device("cuda", 0))  # another of the same kind takes its place
    assert gpus == {1: 41, 0: 41}
    assert not caplog.text


@pytest.mark.parametrize(("device", "put_back"), [(torch.device("cuda", 0), {0: 7}), (SECOND, {1: 8}), (torch.device("cuda"), {None: 7}), (CPU, {})])
def test_checkpoints_of_older_versions_which_hold_all_gpus_are_gone_on_from(device, put_back, gpus, caplog):
    set_random_state({"cpu": torch.get_rng_state(), "cuda": states(7, 8), "mps": []}, device)
    assert gpus == put_back
    assert not caplog.text


@pytest.mark.parametrize(
    ("saved", "device", "told"),
    [
        ({"cuda": states(7)[0]}, CPU, "saved on cuda and continues on cpu"),
        ({}, SECOND, "saved on cpu and continues on cuda"),
        ({"cuda": [], "mps": []}, SECOND, "saved on cpu and continues on cuda"),
        ({"mps": states(7)[0]}, SECOND, "saved on mps and continues on cuda"),
        ({}, CPU, ""),
    ],
)
def test_generators_that_are_not_there_are_told(saved, device, told, gpus, caplog):
    set_random_state({"cpu": torch.get_rng_state(), **saved}, device)
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)
    assert not gpus


@pytest.mark.parametrize("older", [False, True])
def test_the_generator_of_mps_comes_back(older, monkeypatch):
    (state,), put_back, device = states(9), [], torch.device("mps")
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state)
    monkeypatch.setattr(torch.mps, "set_rng_state", put_back.append)
    saved = random_state(device)
    set_random_state({"cpu": saved["cpu"], "cuda": [], "mps": [state]} if older else saved, device)
    assert len(put_back) == 1
    assert torch.equal(put_back[0], state)


def fit(monkeypatch, train):
    monkeypatch.setattr(estimator, "train", train)
    return lambda: detector().fit(X, groups=GROUPS)


def experiment(monkeypatch, train):
    monkeypatch.setattr(train_and_score, "locked_folder", lambda *_, **__: nullcontext())
    monkeypatch.setattr(train_and_score, "finished_metrics", lambda _: None)
    monkeypatch.setattr(train_and_score, "train_experiment", lambda *_: seed_everything(0) or train())
    return lambda: train_and_score.run_experiment(None, None, CPU)


@pytest.mark.parametrize("training", [fit, experiment])
def test_what_threads_train_they_train_one_after_the_other(training, monkeypatch):
    """Each draws what follows from its seed, as if it were alone."""
    meeting, drawn = threading.Barrier(2), []

    def train(*_):
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.5)  # where the other may come, too, it is there long before
        drawn.append(torch.rand(1).item())
        raise KeyError("trained")

    run = training(monkeypatch, train)
    with ThreadPoolExecutor(2) as pool:
        assert [str(each.exception()) for each in [pool.submit(run), pool.submit(run)]] == ["'trained'"] * 2
    assert len(set(drawn)) == 1
