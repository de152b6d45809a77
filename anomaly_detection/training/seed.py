"""Same seed, same machine, same result."""

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


def seed_everything(seed: int) -> None:
    """Seed every generator that training draws from, and let cuDNN choose deterministic algorithms."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def random_state() -> dict[str, Any]:
    """The state of the generators, for a checkpoint."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back where `random_state` found them; the state may lie on any device.

    Those of GPUs can only be put back where there are as many as there were: a warning says so where there are not.
    """
    torch.set_rng_state(state["cpu"].cpu())
    _restore("CUDA", [each.cpu() for each in state["cuda"]], torch.cuda.device_count(), torch.cuda.set_rng_state_all)
    mps = state.get("mps", [])
    _restore("MPS", [each.cpu() for each in mps], int(torch.backends.mps.is_available()), lambda states: torch.mps.set_rng_state(*states))


def _restore(kind: str, states: list[torch.Tensor], devices: int, put_back: Callable[[list[torch.Tensor]], None]) -> None:
    if len(states) != devices:
        told = f"this run was saved with {len(states)} {kind} devices and goes on with {devices}"
        logger.warning("%s: their random numbers are others from here on, so it will not end exactly as an uninterrupted run", told)
    elif states:
        put_back(states)
