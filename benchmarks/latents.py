"""What a network does with the parts of its latent: how they vary, what its decoder makes of each, which way each loss pulls the encoder.

Works with every baseline that has an `encoder` of what is to be reconstructed, and decodes a latent of one vector for each image. What the encoder is
shown and what the decoder answers may be pixels or, of `feature_ae`, features.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anomaly_detection.baseline import Baseline, Phase
from anomaly_detection.components.probe import Probe
from anomaly_detection.data.dataset import Batch, ImageSet
from anomaly_detection.evaluation.scores import BATCH, assess
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.system.errors import UserError

PARTS = ("organ", "modality", "content")
BASE = "reconstruction"  # all of a baseline's loss but MADDR's terms


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network makes of N images, each of D numbers in and out.

    Attributes:
        code: (N, latent) that the encoder gives: with MADDR on another latent, such as the answer of a memory, not what it constrains.
        target, made: (N, D) what the encoder is shown, and what is decoded; None of a baseline whose score decodes nothing.
        score: (N,) anomaly scores.
    """

    code: Tensor
    target: Tensor | None
    made: Tensor | None
    score: Tensor


def domains_of(images: ImageSet) -> Tensor:
    """(N,), which organ and modality each image shows, as one number."""
    return images.organ * (int(images.modality.max()) + 1) + images.modality


@torch.inference_mode()
def seen(baseline: Baseline, images: ImageSet, code: Tensor | None = None) -> Seen:
    """Images as a trained network sees them; with `code` (N, latent), its encoder answers that, whatever it is shown.

    Raises:
        UserError: the latent is no vector, or several passes through the encoder make a score.
    """
    baseline.eval()
    parts = []
    for batch in images.batches(BATCH):
        with _watched(baseline, None if code is None else code[batch.index]) as answers:
            score = assess(baseline, batch.image, with_map=False).score
        parts.append((*answers(), score))
    columns = [None if any(part[place] is None for part in parts) else torch.cat([part[place].float() for part in parts]) for place in range(4)]
    return Seen(*columns)


@contextmanager
def _watched(baseline: Baseline, code: Tensor | None) -> Iterator:
    """Yields what tells, after a pass, the encoder's answer, what it was shown and what was decoded, (B, ...) each."""
    shown, coded, made = [], [], []
    kind = type(baseline).__name__

    def encoded(_module: nn.Module, arguments: tuple, answer: Tensor) -> Tensor:
        if answer[0].numel() != baseline.latent_dim:
            raise UserError(f"{kind}: its encoder gives {answer[0].numel()} numbers for a latent of {baseline.latent_dim}; choose one without places")
        answer = answer if code is None else code.to(answer).reshape(answer.shape)
        shown.append(arguments[0].flatten(1))
        coded.append(answer.flatten(1))
        return answer

    decoder = getattr(baseline, "decoder", None) or baseline.generator
    hooks = [
        baseline.encoder.register_forward_hook(encoded),
        decoder.register_forward_hook(lambda _module, _arguments, answer: made.append(answer.flatten(1))),
    ]
    try:
        yield lambda: (coded[0], shown[0] if made else None, made[0] if made else None)
    finally:
        for hook in hooks:
            hook.remove()


# --- how the parts vary


def variances(part: Tensor, domain: Tensor) -> tuple[float, float]:
    """The summed variance of the k numbers of a part (N, k), and how much of it lies between the means of the domains (N,)."""
    part = part.double()
    total = (part - part.mean(dim=0)).square().sum(dim=1).mean()
    within = (part - domain_means(part, domain, domain)).square().sum(dim=1).mean()
    return total.item(), (total - within).item()


def domain_means(part: Tensor, domain: Tensor, wanted: Tensor) -> Tensor:
    """(M, k): the mean of a part (N, k) over the images of each wanted domain (M,)."""
    means = {number: part[domain == number].mean(dim=0) for number in domain.unique().tolist()}
    return torch.stack([means[number] for number in wanted.tolist()])


def named_by(train: Tensor, val: Tensor, train_set: ImageSet, val_set: ImageSet) -> float:
    """Share of the validation images whose organ and modality are both named by a logistic regression on a part of the latent."""
    organs, modalities = (int(each.max()) + 1 for each in (train_set.organ, train_set.modality))
    probe = Probe(train.shape[1], organs, modalities)
    probe.fit(train, train_set.organ, train_set.modality)
    named = probe.predict(val.float())
    right = [named[name].argmax(dim=1) == label for name, label in (("organ", val_set.organ), ("modality", val_set.modality))]
    return (right[0] & right[1]).double().mean().item()


# --- what the decoder uses


def partners(domain: Tensor, same: bool, generator: torch.Generator) -> Tensor:
    """(N,): another image of the same domain for each, or one of another domain, drawn; itself where there is none."""
    numbers = torch.arange(len(domain))
    chosen = numbers.clone()
    for number in numbers.tolist():
        among = numbers[((domain == domain[number]) == same) & (numbers != number)]
        if len(among):
            chosen[number] = among[torch.randint(len(among), (), generator=generator)]
    return chosen


def exchanged(code: Tensor, other: Tensor, part: str, sizes: Sequence[int]) -> Tensor:
    """Codes (N, latent) with one part of PARTS, or with "all" of it, taken from others."""
    if part == "all":
        return other
    pieces = dict(zip(PARTS, code.split(list(sizes), dim=1), strict=True))
    return torch.cat([*(pieces | {part: dict(zip(PARTS, other.split(list(sizes), dim=1), strict=True))[part]}).values()], dim=1)


# --- which way the losses pull


def pulls(baseline: Baseline, constraint: MADDRConstraint, batch: Batch, phase: Phase, seed: int) -> dict[str, Tensor]:
    """The gradient of each MADDR term, weighted, and of all the rest of the loss, in the parameters of the encoder; the network stays as it is.

    Args:
        baseline: trained with the constraint or without.
        constraint: its own, or another.
        batch: of training images, as `phase` takes them.
        phase: of training.
        seed: of what the step draws, such as dropout.

    Returns:
        Vectors by name: "reconstruction", and those of "organ", "modality" and "center" that have a weight.
    """
    attached, baseline.maddr = baseline.maddr, constraint
    before = {name: value.clone() for name, value in baseline.state_dict().items()}
    parameters = list(baseline.encoder.parameters())
    gradients: dict[str, Tensor] = {}

    def watch(z: Tensor, batch: Batch) -> tuple[float, dict[str, Tensor]]:
        terms = constraint(z, batch.organ, batch.modality)
        for name, weight in constraint.weights.items():
            if name in terms:
                parts = torch.autograd.grad(weight * terms[name], parameters, retain_graph=True, allow_unused=True)
                gradients[name] = _flat(parts, parameters)
        return 0.0, {}

    baseline.train()
    baseline.phase, baseline.progress = phase, 1.0
    baseline.constraint = watch
    torch.manual_seed(seed)
    try:
        baseline.training_step(batch, {name: _Standstill(each) for name, each in baseline.optimizers(phase).items()})
        gradients[BASE] = _flat([parameter.grad for parameter in parameters], parameters)
    finally:
        del baseline.constraint
        baseline.load_state_dict(before)
        baseline.zero_grad()
        baseline.eval()
        baseline.phase, baseline.maddr = None, attached
    return gradients


class _Standstill(Optimizer):
    """Has the parameters of another, and moves none: gradients stay in them."""

    def __init__(self, other: Optimizer):
        super().__init__([{**group, "params": list(group["params"])} for group in other.param_groups], {})

    def step(self, closure=None) -> None:
        """Nothing."""


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(parameter) if gradient is None else gradient).flatten() for gradient, parameter in pairs]).double()


def compared(gradients: Sequence[Mapping[str, Tensor]], one: str, other: str) -> tuple[float, float]:
    """Mean over batches of the cosine of two gradients, and of the ratio of their norms; the cosine with nothing is nan."""
    pairs = [(each[one], each[other]) for each in gradients]
    cosines = torch.stack([a @ b / (a.norm() * b.norm()) for a, b in pairs])
    return cosines.mean().item(), torch.stack([a.norm() / b.norm() for a, b in pairs]).mean().item()
