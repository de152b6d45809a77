"""Training steps as one CUDA graph: the hundreds of kernels of a small network's step take longer to launch, one after the other, than to run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from anomaly_detection.baseline import Baseline, Phase
from anomaly_detection.data.dataset import Batch
from anomaly_detection.system.distributed import processes

Step = Callable[[Batch, dict[str, Optimizer]], dict[str, Tensor]]

# Steps done one kernel at a time before they are captured: by then libraries have chosen their algorithms and optimizers have their state.
WARM_UP = 3


def step_of(baseline: Baseline, phase: Phase, device: torch.device) -> Step:
    """`training_step` of a phase of training, replayed where the phase lets it and one process trains on a GPU."""
    return ReplayedStep(baseline) if phase.replayable and device.type == "cuda" and processes() == 1 else baseline.training_step


class ReplayedStep:
    """`Baseline.training_step` on a GPU: captured as a graph after some steps, and replayed from then on with the images of each batch copied in.

    It gives the same weights: the same kernels run on the same values. What the graph holds fast are the shapes of a batch and the options of the
    optimizers, as their learning rates; where they change it is captured anew, and mixtures, whose share is another in each step, are done without.
    """

    def __init__(self, baseline: Baseline):
        self.baseline = baseline
        self._stream = torch.cuda.Stream(baseline.device)  # which need not be the first GPU
        self._restart(None)

    def __call__(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """As `Baseline.training_step`."""
        if batch.partner is not None:
            return self._on_a_stream_beside(batch, optimizers)
        held = _held_fast(batch, optimizers)
        if held != self._held:
            self._restart(held)
        if self._warm < WARM_UP:
            self._warm += 1
            return self._on_a_stream_beside(batch, optimizers)
        if self._graph is None:
            self._capture(batch, optimizers)
        for name, place in _tensors(self._batch).items():
            place.copy_(getattr(batch, name))
        self._graph.replay()
        return dict(zip(self._names, self._losses.clone().unbind(), strict=True))

    def _restart(self, held: tuple | None) -> None:
        self._held, self._warm, self._graph = held, 0, None

    def _on_a_stream_beside(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Gradients remember the stream of their first step, and none of the default one can be captured."""
        present = torch.cuda.current_stream(self.baseline.device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            losses = self.baseline.training_step(batch, optimizers)
        present.wait_stream(self._stream)
        return losses

    def _capture(self, batch: Batch, optimizers: dict[str, Optimizer]) -> None:
        self._batch = replace(batch, **{name: value.clone() for name, value in _tensors(batch).items()})
        graph = torch.cuda.CUDAGraph()
        with _capturable(optimizers), torch.cuda.graph(graph, stream=self._stream):
            losses = self.baseline.training_step(self._batch, optimizers)
            self._names, self._losses = list(losses), torch.stack([value.float() for value in losses.values()])
        self._graph = graph  # only now: what was not captured whole is not replayed


@contextmanager
def _capturable(optimizers: dict[str, Optimizer]) -> Iterator[None]:
    """Inside, optimizers say what torch asks for; the step of a fused one is the same either way. Steps are counted on the GPU from now on."""
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    before = [{key: group[key] for key in ("capturable",) if key in group} for group in groups]
    for group in groups:
        group["capturable"] = True
    for optimizer in optimizers.values():
        for parameter, state in optimizer.state.items():
            state["step"] = state["step"].to(parameter.device)
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            del group["capturable"]
            group.update(value)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {each.name: value for each in fields(batch) if isinstance(value := getattr(batch, each.name), Tensor)}


def _held_fast(batch: Batch, optimizers: dict[str, Optimizer]) -> tuple:
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    options = [tuple((key, value) for key, value in group.items() if key != "params") for group in groups]
    return tuple((name, value.shape) for name, value in _tensors(batch).items()), tuple(options)
