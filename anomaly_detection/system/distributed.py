"""Training in several processes, as `torchrun` starts them: each computes its share of every batch, and all hold the same weights.

Steps of adversarial baselines go through several networks and optimizers, each with a backward pass of its own, so there is no one forward pass
for DistributedDataParallel to wrap: `minimise` averages the gradients of the optimizer's parameters instead, in one reduction.
Without `torchrun` there is one process, and everything here does nothing; nor does it in a program that has formed a group for work of its own.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather as gather_with_gradients

from anomaly_detection.system.errors import UserError

_joined = False  # whether `process_group` has; a group that a program of the user's has formed is for work of its own


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _joined else 1


def rank() -> int:
    """The number of this one; only number 0 validates, and writes files."""
    return dist.get_rank() if _joined else 0


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun has started (NCCL between GPUs, else gloo); gives the device of this one.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(f"--nproc-per-node is more than the {torch.cuda.device_count()} GPUs of this machine")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    global _joined
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    _joined = True
    try:
        yield device
    finally:
        _joined = False
        dist.destroy_process_group()


def check_share(batch_size: int) -> None:
    """See that the images of a batch can be shared out evenly.

    Raises:
        UserError: they cannot.
    """
    count = processes()
    if batch_size % count:
        near = f"{batch_size + -batch_size % count}" if batch_size < count else f"{batch_size // count * count} or {batch_size + -batch_size % count}"
        raise UserError(f"a batch_size of {batch_size} cannot be shared out evenly to {count} processes; choose {near}")


def share(index: Tensor) -> Tensor:
    """This process's part of the places of a batch, which `check_share` has let through."""
    return index[rank() :: processes()]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean of the gradients of all."""
    if processes() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def all_gather(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors (B, ...) of all processes as (processes * B, ...); gradients find their way back.

    A loss of what is gathered, computed by every process, gets from `average_gradients` the gradient that one process with the whole batch has.
    """
    if processes() == 1:
        return tensors
    return tuple(torch.cat(gather_with_gradients(tensor.contiguous())) for tensor in tensors)


def averaged(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars of this process by name -> the means over all processes."""
    if processes() == 1:
        return {name: value.item() for name, value in values.items()}
    means = torch.stack([value.float() for value in values.values()])  # MPS has no float64
    dist.all_reduce(means)
    return dict(zip(values, (means / processes()).tolist(), strict=True))


def broadcast_object(value: Any) -> Any:
    """What process 0 passes, in every process."""
    if processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def all_gather_object(value: Any) -> Sequence[Any]:
    """What each process passes, in every process."""
    if processes() == 1:
        return [value]
    box = [None] * processes()
    dist.all_gather_object(box, value)
    return box


def broadcast(module: nn.Module) -> None:
    """Give every process the weights and running averages of process 0."""
    if processes() > 1:
        for value in module.state_dict().values():
            dist.broadcast(value, 0)
