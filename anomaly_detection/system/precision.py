"""Float32 that is float32: GPUs round what they multiply to TensorFloat-32, in convolutions by default, in products where they are told to, and what
surrounds a call may cast."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """Inside, convolutions, recurrent layers and matrix products of float32 on a GPU are computed in it; on any other device nothing is done.

    What says so to torch says it for the whole process: of several threads, and of blocks within each other, the first to enter switches
    TensorFloat-32 off, and the last to leave puts back what was there before. Nothing else is touched.
    """
    if device.type != "cuda":
        yield
        return
    _SWITCH.off()
    try:
        yield
    finally:
        _SWITCH.back()


@contextmanager
def training_alone() -> Iterator[None]:
    """Inside, gradients are kept and nothing is cast but what the block itself casts, whatever surrounds it."""
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        for device_type in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


class _Flag(NamedTuple):
    """One of torch's: how it is read and set, and what it says where float32 is float32."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    exact: Any


class _Switch:
    """Counts who wants TensorFloat-32 off."""

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._before: list[tuple[_Flag, Any]] = []  # and what each said

    def off(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = _flags()
                for flag, _ in self._before:
                    flag.write(flag.exact)
            self._inside += 1

    def back(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for flag, value in self._before:
                    flag.write(value)


_SWITCH = _Switch()


def _flags() -> list[tuple[_Flag, Any]]:
    """Those of convolutions, recurrent layers and matrix products, in the order to set them in, and what each says."""
    cudnn = torch.backends.cudnn
    convolutions = _attribute(cudnn, "allow_tf32", False)
    if not _by_operation():
        products = _Flag(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
        return [(flag, flag.read()) for flag in (convolutions, products)]
    flags = [_attribute(place, "fp32_precision", "ieee") for place in (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)]
    told = list(zip(flags, _own_values(flags), strict=True))
    try:  # the older one is set, too, so that it may be read inside, as torch.backends.cudnn.flags reads it
        return [(convolutions, convolutions.read()), *told]
    except RuntimeError:  # it may not be read outside either
        return told


def _by_operation() -> bool:
    """Whether this torch, from 2.9 on, has a flag for each operation; where the older ones say otherwise, it refuses to read them."""
    return hasattr(torch.backends.cudnn, "conv")


def _own_values(flags: Sequence[_Flag]) -> list[Any]:
    """What flags of operations say themselves: one that says nothing reads as the flag of all of cuDNN does, and that as the one of all backends."""
    above = [_attribute(place, "fp32_precision", "none") for place in (torch.backends, torch.backends.cudnn)]
    inherited = []
    for flag in above:  # from the top, so that each reads as it says itself
        inherited.append(flag.read())
        flag.write("none")
    own = [flag.read() for flag in flags]
    for flag, value in zip(above, inherited, strict=True):
        flag.write(value)
    return own


def _attribute(owner: Any, name: str, exact: Any) -> _Flag:
    return _Flag(partial(getattr, owner, name), partial(setattr, owner, name), exact)
