"""What training asks of a baseline, and what its author is told who forgot some of it: the class, the method, what came and what is needed."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anomaly_detection.baseline import Assessment, Baseline, Phase
from anomaly_detection.data.dataset import ImageSet
from anomaly_detection.system.distributed import all_gather_object, processes
from anomaly_detection.system.errors import UserError
from anomaly_detection.training.seed import random_state, set_random_state

# How many images are assessed before training: with one alone a number for each image cannot be told from a mean over them.
IMAGES = 2

# Steps that may pass before the constraint has a part in one: where networks take turns, the encoder is not trained in each.
PATIENCE = 25

MENDS = {
    "latent": "flatten it to one vector for each image, or set latent_dim to its length",
    "score": "give each image a number of its own, such as error.flatten(1).mean(dim=1)",
    "map": "make one where with_map is true, of one channel, resized to the height and width of the images by F.interpolate",
    "reconstruction": "give it the channels of the images, or None where the baseline makes none",
    "validation_loss": "give each image a loss of its own, such as error.flatten(1).mean(dim=1)",
}


def check_latent_dim(baseline: Baseline) -> None:
    """See that a baseline says how long its latent is.

    Raises:
        UserError: it does not.
    """
    length = getattr(baseline, "latent_dim", None)
    if not isinstance(length, Integral) or length < 1:
        told = "set it in the class or in __init__" if length is None else f"it is {length!r}"
        raise UserError(f"{_name(baseline)}.latent_dim must be the length of the latent that MADDR splits, a whole number from 1 on; {told}")


def check_assessment(baseline: Baseline, images: ImageSet) -> None:
    """See that what a baseline says of the first images, map included, is what `Assessment` asks for.

    To be called before training, which it leaves as it was: generators, modes and gradients.

    Raises:
        UserError: it is not; which part of it.
    """
    check_latent_dim(baseline)
    x = images.batch(torch.arange(min(IMAGES, len(images)), device=images.device)).image
    with _left_as_it_was(baseline, x.device), torch.no_grad():  # not inference_mode: what a baseline keeps from here may be trained on
        baseline.eval()
        assessment = baseline.assess(x, with_map=True)
    place = f"{_name(baseline)}.assess"
    if not isinstance(assessment, Assessment):
        raise UserError(f"{place} must return an Assessment(latent, score, map, reconstruction), not {_told(assessment)}")
    count, channels, *size = x.shape
    shapes = {"latent": (count, baseline.latent_dim), "score": (count,), "map": (count, 1, *size)}
    if assessment.reconstruction is not None:
        shapes["reconstruction"] = (count, channels, None, None)
    for part, shape in shapes.items():
        value = getattr(assessment, part)
        _check_shape(f"{place}, called with images {tuple(x.shape)} and with_map=True: {part}", part, value, shape)
        if not value.isfinite().all() and not (part in ("score", "map") and _concludes(baseline)):
            raise UserError(f"{place}: {part} holds numbers that are not finite, before any training; images are in [-1, 1]")


def check_validation_loss(baseline: Baseline, loss: Any, count: int) -> None:
    """See that `Baseline.validation_loss` gives each of `count` images a number.

    Raises:
        UserError: it does not.
    """
    _check_shape(f"{_name(baseline)}.validation_loss of {count} images", "validation_loss", loss, (count,))


def check_losses(baseline: Baseline, method: str, losses: Any) -> None:
    """See that what a method returns is losses by name.

    Raises:
        UserError: it is not.
    """
    place = f"{_name(baseline)}.{method}"
    if not isinstance(losses, dict):
        raise UserError(f"{place} must return a dict of losses by name, such as {{'rec': loss.detach()}}, not {_told(losses)}")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.ndim > 0:
            advice = "give their mean, such as loss.mean().detach()" if isinstance(value, Tensor) else "leave out float() and item(): loss.detach()"
            raise UserError(f"{place}: the loss {name!r} must be a tensor of no dimensions, not {_told(value)}; {advice}")


def _name(baseline: Baseline) -> str:
    return type(baseline).__name__


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _check_shape(place: str, part: str, value: Any, shape: Sequence[int | None]) -> None:
    """Raise a UserError unless a value is a tensor of a shape, of which None is any length."""
    fits = isinstance(value, Tensor) and value.ndim == len(shape)
    if not fits or any(length not in (None, got) for length, got in zip(shape, value.shape, strict=True)):
        needed = ", ".join("any" if length is None else str(length) for length in shape) + ("," if len(shape) == 1 else "")
        raise UserError(f"{place} must be a tensor of shape ({needed}), not {_told(value)}; {MENDS[part]}")


def _concludes(baseline: Baseline) -> bool:
    """Whether its scores may need what is known only when training has ended."""
    return type(baseline).conclude is not Baseline.conclude


def check_processes(baseline: Baseline, phase: Phase, optimizers: dict[str, Optimizer], done: int, last: bool) -> None:
    """See that several processes hold the same weights, bit for bit: after some first steps of a phase and its last one.

    Buffers may differ: batch norms take the statistics of each share of a batch. To be called by every process, after each step.

    Args:
        optimizers: of the phase, whose parameters are compared.
        done: steps of the phase that these processes have done.
        last: whether the phase has no more.

    Raises:
        UserError: they do not, in every process.
    """
    if processes() == 1 or not (done in (1, PATIENCE) or last):
        return
    of_all = all_gather_object({name: _digest(optimizer) for name, optimizer in optimizers.items()})
    apart = [name for name, digest in of_all[0].items() if any(each[name] != digest for each in of_all)]
    if apart:
        raise UserError(
            f"{_name(baseline)}: by step {done} of the phase {phase.name} the {len(of_all)} processes hold different weights in the optimizer "
            f"{', '.join(apart)}; step it by minimise(loss, optimizer) of anomaly_detection.baseline, which averages the gradients of the processes"
        )


def _digest(optimizer: Optimizer) -> str:
    """Of the bits of its parameters."""
    digest = hashlib.sha256()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def _left_as_it_was(baseline: Baseline, device: torch.device) -> Iterator[None]:
    """Inside, a baseline may be used: the generators of its device and the mode of each of its modules are put back."""
    random, modes = random_state(device), [(module, module.training) for module in baseline.modules()]
    try:
        yield
    finally:
        set_random_state(random, device)
        for module, training in modes:
            module.training = training


class ConstraintWatch:
    """Looks for a gradient through each term of the constraint in the first steps of a phase that trains with it.

    Without one the network is trained as without MADDR, its heads stay as they were drawn, and results would be reported as those of MADDR. Watched
    are the terms, not the gradients of the heads: these may be set back by the end of a step, and the center alone has no heads.

    Args:
        baseline: with or without a constraint.
        phase: that begins, or is gone on with.
        optimizers: of the phase.
    """

    def __init__(self, baseline: Baseline, phase: Phase, optimizers: dict[str, Optimizer]):
        self._name, self._phase = _name(baseline), phase
        self._called, self._steps, self._hook = False, 0, None
        if _trains_constrained(baseline, phase, optimizers):
            self._missing = {name for name, weight in baseline.maddr.weights.items() if weight > 0}
            self._hook = baseline.maddr.register_forward_hook(self._see)

    def _see(self, _constraint: object, _inputs: object, terms: dict[str, Tensor]) -> None:
        self._called = True
        for name in self._missing & terms.keys():
            if terms[name].requires_grad:
                terms[name].register_hook(lambda _, name=name: self._missing.discard(name))

    def after_step(self) -> None:
        """To be called after each step.

        Raises:
            UserError: the constraint had no part in the steps so far, and these were enough to tell.
        """
        if self._hook is None:
            return
        self._steps += 1
        enough = self._steps == min(PATIENCE, self._phase.iterations)
        if enough or not self._missing:
            self._hook.remove()
            self._hook = None
        if enough and self._missing:
            raise UserError(self._mistake())

    def _mistake(self) -> str:
        place = f"{self._name}: in {self._steps} steps of the phase {self._phase.name}"
        mend = "add the first of the two values that self.constraint(z, batch) returns to the loss that trains the encoder"
        apart = "(a phase that is to train without MADDR holds self.heads() in none of its optimizers)"
        if not self._called:
            return f"{place} training_step never called self.constraint, so that MADDR has no effect; {mend} {apart}"
        terms = ", ".join(sorted(self._missing))
        return f"{place} no gradient passed through {terms} of MADDR; in training_step {mend}, with a z that is not detached {apart}"


def _trains_constrained(baseline: Baseline, phase: Phase, optimizers: dict[str, Optimizer]) -> bool:
    """Whether an optimizer of the phase holds the heads; of a constraint that has none (the center alone), whether the phase is the last."""
    if baseline.maddr is None or phase.shared or not any(baseline.maddr.weights.values()):
        return False
    heads = {id(parameter) for parameter in baseline.maddr.parameters()}
    if not heads:
        return phase == baseline.phases()[-1]
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    return any(id(parameter) in heads for group in groups for parameter in group["params"])
