"""Same seed, same machine, same result."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

KEPT = ("cuda", "mps")  # kinds of devices whose generators' states are kept beside the CPU's
_LOCK = RLock()  # a training may load a network


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Of several threads one is inside, the others wait: torch has one set of generators for all of them, and draws from seeding to the end of a
    training must be nobody else's. Inside, new tensors are float32, whatever `torch.set_default_dtype` said, which holds for all threads, too."""
    with _LOCK:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def seed_everything(seed: int, device: torch.device | None = None) -> None:
    """Seed every generator that training on a device draws from, and no other GPU's (None: those of all devices), and let cuDNN choose deterministic
    algorithms."""
    if device is None or device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators that training on a device draws from, for a checkpoint: "cpu", and the kind of the device where it is another.

    No other device is looked at: to ask a GPU for its state takes memory on it, and fails in a process that was forked from one that uses it.
    """
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the generators of a device back where `random_state` found them.

    Those of a GPU can only be put back on one: a warning says so where training goes on on a device of another kind.
    """
    torch.set_rng_state(state["cpu"].cpu())
    own = _of_device(state, device)
    if own is not None and device.type == "cuda":
        torch.cuda.set_rng_state(own.cpu(), device)
    elif own is not None:
        torch.mps.set_rng_state(own.cpu())
    elif device.type in KEPT or any(isinstance(state.get(kind), Tensor) for kind in KEPT):
        before = next((kind for kind in KEPT if len(state.get(kind, ()))), "cpu")
        told = f"this run was saved on {before} and continues on {device.type}"
        logger.warning("%s: its random numbers are others from here on, so it will not end exactly as an uninterrupted run", told)


def _of_device(state: dict[str, Any], device: torch.device) -> Tensor | None:
    """What a state holds of a device beside the CPU; older versions kept a list of all GPUs, whatever was trained on."""
    own = state.get(device.type) if device.type in KEPT else None
    if isinstance(own, list):
        return own[(device.index or 0) % len(own)] if own else None
    return own
