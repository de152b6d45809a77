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
