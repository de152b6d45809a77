import pytest
import torch

from anomaly_detection.training.seed import random_state, seed_everything, set_random_state


def test_the_random_state_comes_back():
    seed_everything(1)
    torch.randn(3)
    state = random_state()
    expected = torch.randn(5)
    torch.randn(2)
    set_random_state(state)
    assert torch.equal(torch.randn(5), expected)


@pytest.mark.parametrize(
    ("saved", "there", "told"),
    [(2, 1, "with 2 CUDA devices and goes on with 1"), (0, 2, "with 0 CUDA"), (1, 0, "with 1 CUDA"), (1, 1, "")],
)
def test_generators_of_gpus_that_are_not_there_are_told(saved, there, told, monkeypatch, caplog):
    state, put_back = torch.get_rng_state(), []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", put_back.append)
    set_random_state({"cpu": state, "cuda": [state] * saved, "mps": []})
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)
    assert len(put_back) == int(saved == there)


def test_the_generator_of_mps_comes_back(monkeypatch):
    state, put_back = torch.get_rng_state(), []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state)
    monkeypatch.setattr(torch.mps, "set_rng_state", put_back.append)
    set_random_state(random_state())
    assert len(put_back) == 1
    assert torch.equal(put_back[0], state)
