"""The contract that a baseline meets: a published anomaly detector with a latent, trained on normal images only.

A new baseline is one folder with one class that fills in this contract, one YAML file under configs/, and one line in registry.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anomaly_detection.distributed import average_gradients, gathered
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own optimizers.

    Attributes:
        name: stands in the log and in the file names of samples.
        iterations: calls of `training_step`.
        batch_size: images that each call is given.
    """

    name: str
    iterations: int
    batch_size: int


@dataclass(frozen=True)
class Batch:
    """Normal images to train on.

    Attributes:
        image: (B, C, H, W) float32 in [-1, 1].
        organ, modality: (B,) int64 class numbers.
        index: (B,) int64, the images' places in the training set; None for mixtures, of which nothing was taken beforehand.
        partner: of a mixture, the images mixed in, with their labels.
        share: of a mixture, the part that is not its partner's.
    """

    image: Tensor
    organ: Tensor
    modality: Tensor
    index: Tensor | None
    partner: "Batch | None" = None
    share: float = 1.0

    def mixed(self, partner: "Batch", share: float) -> "Batch":
        """The batch of ``share * image + (1 - share) * partner.image``; `Baseline.constraint` weighs both labels likewise."""
        return replace(self, image=torch.lerp(partner.image, self.image, share), index=None, partner=partner, share=share)

    def chunks(self, count: int) -> list["Batch"]:
        """The batch cut into `count` equal ones, for a baseline whose step needs several."""
        tensors = [tensor.chunk(count) for tensor in (self.image, self.organ, self.modality)]
        index = [None] * count if self.index is None else self.index.chunk(count)
        partner = [None] * count if self.partner is None else self.partner.chunks(count)
        return [Batch(*fields, self.share) for fields in zip(*tensors, index, partner, strict=True)]


class Baseline(nn.Module, ABC):
    """An anomaly detector.

    It is constructed as ``cls(settings, maddr)``: the checked settings of the experiment, of which ``settings.baseline`` is an instance of the
    class's own `Settings`, and the constraint to add to the loss that trains the encoder, or None.

    Attributes:
        Settings: frozen dataclass of what this baseline alone is configured by.
        latent_dim: length of the latent that MADDR splits.
        maddr: the constraint, a submodule, so that its heads are saved with the networks; None without MADDR.
        bf16: forward passes run in bfloat16 where `autocast` surrounds them; whoever trains or scores sets it, see `runs_in_bf16`.
    """

    Settings: ClassVar[type]
    latent_dim: int

    def __init__(self, maddr: MADDRConstraint | None):
        super().__init__()
        self.maddr = maddr
        self.bf16 = False

    @abstractmethod
    def phases(self) -> list[Phase]:
        """What training consists of, in order."""

    @abstractmethod
    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        """Fresh optimizers of a phase by name; the heads of `maddr` belong to that of the encoder."""

    @abstractmethod
    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Do one step, backward and optimizers included; return the losses by name, detached scalars."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """(B, latent_dim): the latent that MADDR splits, of images (B, C, H, W) in [-1, 1]."""

    @abstractmethod
    def reconstruct(self, x: Tensor) -> Tensor:
        """Reconstructions (B, C, H, W), nominally in [-1, 1]."""

    @abstractmethod
    def anomaly_score(self, x: Tensor) -> Tensor:
        """(B,), higher is more anomalous; that of an image never depends on the other images of the batch."""

    @abstractmethod
    def anomaly_map(self, x: Tensor) -> Tensor:
        """(B, 1, H, W), higher is more anomalous."""

    def assess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`encode(x)` and `anomaly_score(x)`, for a baseline whose score passes through its latent in one go."""
        return self.encode(x), self.anomaly_score(x)

    def prepare(self, images: Iterable[Tensor]) -> None:
        """Called once before training with all training images in batches (B, C, H, W), for statistics that are fixed from then on."""

    def begin_phase(self, phase: Phase, images: Iterable[Tensor], count: int) -> None:
        """Called before the first step of a phase, and again where a run continues in it, with all `count` training images in order.

        What is taken of them here is found by `Batch.index` later, where it is not None.
        """

    def begin_step(self, phase: Phase, iteration: int) -> None:
        """Called before each step, with its number from 1 in the phase, for what changes along a phase (DPA fades resolutions in)."""

    def validation_loss(self, x: Tensor) -> Tensor:
        """(B,), the loss by which the last phase keeps its best weights; labels and constraint have no part in it."""
        return self.anomaly_score(x)

    def sample(self, x: Tensor) -> Tensor:
        """What stands below the images x in the sample pictures: (B, C, H, W), their reconstructions unless a phase has others to show."""
        return self.reconstruct(x)

    def describe(self) -> dict[str, Any]:
        """What a table must say beside the numbers, such as the features that a loss is taken over."""
        return {}

    def autocast(self) -> AbstractContextManager:
        """Surrounds forward passes, not backward ones."""
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16, enabled=self.bf16)

    def constraint(self, z: Tensor, batch: Batch) -> tuple[Tensor | float, dict[str, Tensor]]:
        """What to add to the encoder's loss for the latents z of a batch, and the terms and head accuracies to log; (0, {}) without MADDR."""
        if self.maddr is None:
            return 0.0, {}
        value, log = self._constraint(z, batch)
        if batch.partner is None:
            return value, log
        # The center has no label and is the same in both.
        other_value, other_log = self._constraint(z, batch.partner)
        weighted = {name: torch.lerp(other_log[name], value, batch.share) for name, value in log.items()}
        return torch.lerp(other_value, value, batch.share), weighted

    def _constraint(self, z: Tensor, labels: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        # The center is that of the whole batch, also where several processes share it.
        z, organ, modality = gathered(z, labels.organ, labels.modality)
        terms = self.maddr(z, organ, modality)
        accuracy = self.maddr.accuracy(z, organ, modality)
        log = {f"maddr_{name}": term.detach() for name, term in terms.items()}
        return terms["total"], {**log, **{f"{name}_accuracy": value for name, value in accuracy.items()}}


def minimise(loss: Tensor, optimizer: Optimizer) -> None:
    """One step of an optimizer. Only the gradients of its own parameters are computed: those of an adversary are neither needed nor touched."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    average_gradients(parameters)
    optimizer.step()
