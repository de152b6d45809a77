"""The contract that a baseline meets: a published anomaly detector with a latent, trained on normal images only.

A new baseline is one class that fills in this contract; see examples/.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anomaly_detection.components.features import FrozenFeatures
from anomaly_detection.components.probe import Probe
from anomaly_detection.data.dataset import Batch
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.system.distributed import all_gather, average_gradients


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own optimizers.

    Attributes:
        name: stands in the log and in the file names of samples.
        iterations: calls of `training_step`.
        batch_size: images that each call is given.
        chunks: into how many batches each call cuts its images, see `Batch.chunks`.
        shared: neither the constraint nor its heads have a part in it. A first phase like this is the same with and without MADDR: of the
            experiments that differ in MADDR alone one trains it, and the others go on from there.
        replayable: each `training_step` does the same work whatever the values: it reads none of them, and `Baseline.progress` has no part in it. A
            GPU then replays it, see `training.replay`.
    """

    name: str
    iterations: int
    batch_size: int
    chunks: int = 1
    shared: bool = False
    replayable: bool = False


@dataclass(frozen=True)
class Assessment:
    """What a baseline says of B images, each of them alone: it never depends on the others.

    Attributes:
        latent: (B, latent_dim), the latent that MADDR splits.
        score: (B,), higher is more anomalous.
        map: (B, 1, H, W) at the size of the images, higher is more anomalous; None where it was not asked for.
        reconstruction: (B, C, h, w), nominally in [-1, 1]; None of a baseline that makes none.
        by_domain: of a baseline whose score depends on the domain of an image, what it is whoever names the domain; None of all others.
    """

    latent: Tensor
    score: Tensor
    map: Tensor | None = None
    reconstruction: Tensor | None = None
    by_domain: "ByDomain | None" = None


@dataclass(frozen=True)
class ByDomain:
    """Scores of B images by what is told of their domains.

    Attributes:
        unused: (B,), of each where its domain is not used.
        told: (B, organs, modalities), of each in every domain; where a domain was not trained on, as `unused`.
    """

    unused: Tensor
    told: Tensor


@dataclass(frozen=True)
class NoSettings:
    """Those of a baseline without keys of its own."""


class Baseline(nn.Module, ABC):
    """An anomaly detector: `phases`, `optimizers`, `training_step` and `assess` are to be written, the rest has a default.

    It is constructed as ``cls(settings)``, from the checked settings of the experiment, of which ``settings.baseline`` is an instance of the class's
    own `Settings`. Whoever adds MADDR attaches the constraint afterwards. A baseline without phases is ready once `prepare` has seen the images.

    Attributes:
        Settings: frozen dataclass of what this baseline alone is configured by.
        paper: the publications that it follows, as a model card names them; "" where there is none.
        latent_dim: length of the latent that MADDR splits.
        settings: of the experiment.
        frozen: what looks at images with a frozen backbone, a submodule: an experiment gives it a store of the features of its images; None of a
            baseline without one.
        maddr: the constraint, a submodule, so that its heads are saved with the networks; None without MADDR.
        probe: what names domains instead of the constraint's heads, a submodule; None of most.
        bf16: forward passes run in bfloat16 where `autocast` surrounds them; training sets it, see `runs_in_bf16`. A trained network scores in
            float32.
        phase: that is being trained; None of a trained network.
        progress: how much of the phase is behind, in [0, 1], the step that is being done included; 1 of a trained network.
    """

    Settings: ClassVar[type] = NoSettings
    paper: ClassVar[str] = ""
    latent_dim: int

    def __init__(self, settings: Any):
        super().__init__()
        self.settings = settings
        self.frozen: FrozenFeatures | None = None
        self.maddr: MADDRConstraint | None = None
        self.probe: Probe | None = None
        self.bf16 = False
        self.phase: Phase | None = None
        self.progress = 1.0

    @classmethod
    def to_be_loaded(cls, settings: Any) -> "Baseline":
        """Constructed for the weights of a checkpoint, without files of which all that training took is among these."""
        return cls(settings)

    def expect_domains(self, organs: int, modalities: int) -> None:
        """Called once before anything else, for a baseline that looks at domains: how many classes the labels of images have."""

    @property
    def namer(self) -> MADDRConstraint | Probe | None:
        """What names organ and modality of a latent, the constraint or a probe; None where nothing does."""
        return self.probe if self.maddr is None else self.maddr

    @property
    def names_domains(self) -> bool:
        """Whether both are named, organ and modality."""
        return self.namer is not None and set(self.namer.heads) == set(self.namer.classes)

    def attach(self, constraint: MADDRConstraint) -> None:
        """Add the constraint to the loss that trains the encoder, from now on."""
        self.maddr = constraint

    def heads(self) -> list[nn.Parameter]:
        """The parameters of the constraint, for the optimizer of the encoder; none without MADDR."""
        return [] if self.maddr is None else list(self.maddr.parameters())

    @abstractmethod
    def phases(self) -> list[Phase]:
        """What training consists of, in order; none of a baseline that is not trained."""

    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        """Fresh optimizers of a phase by name; that of the encoder holds the `heads`, too."""
        raise NotImplementedError(f"{type(self).__name__} has phases, so it needs optimizers")

    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Do one step, backward and optimizers included; return the losses by name, detached scalars.

        Where an optimizer of the phase holds the `heads`, the loss that trains the encoder includes `constraint`. Optimizers are stepped by
        `minimise`: where several processes train, each sees its share of a batch, and `minimise` averages their gradients.
        """
        raise NotImplementedError(f"{type(self).__name__} has phases, so it needs training_step")

    def after_step(self, losses: Mapping[str, Tensor], optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
        """Called after each step with its losses, for what depends on their values; returns more of them to log.

        Reading a value waits for a GPU. What this changes it changes in place: a step that is replayed knows networks and optimizers by their memory.
        """
        return {}

    @abstractmethod
    def assess(self, x: Tensor, with_map: bool) -> Assessment:
        """All that is said of images (B, C, H, W) in [-1, 1], each of which passes through the encoder once.

        The map may cost more than the rest: it is made where `with_map` asks for it.
        """

    def encode(self, x: Tensor) -> Tensor:
        """(B, latent_dim): `Assessment.latent`."""
        return self.assess(x, with_map=False).latent

    def anomaly_score(self, x: Tensor) -> Tensor:
        """(B,): `Assessment.score`."""
        return self.assess(x, with_map=False).score

    def anomaly_map(self, x: Tensor) -> Tensor:
        """(B, 1, H, W): `Assessment.map`."""
        return self.assess(x, with_map=True).map

    def reconstruct(self, x: Tensor) -> Tensor | None:
        """(B, C, h, w) or None: `Assessment.reconstruction`."""
        return self.assess(x, with_map=False).reconstruction

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Called once before training with all training images in order, for statistics that are fixed from then on."""

    def begin_phase(self, phase: Phase, batches: Iterable[Batch], count: int) -> None:
        """Called before the first step of a phase, and again where a run continues in it, with all `count` training images in order.

        What is taken of them here is found by `Batch.index` later, where it is not None.
        """

    @property
    def looks_at_images(self) -> bool:
        """Whether the steps of this phase take `Batch.image`: False where `begin_phase` took all of it that they need. Mixtures always have one."""
        return True

    def conclude(self, batches: Iterable[Batch]) -> None:
        """Called once after training, in evaluation mode with the best weights, with all training images in order: for statistics of what it makes
        of them. Buffers that this fills are part of the trained network."""

    def validation_loss(self, x: Tensor, assessment: Assessment) -> Tensor:
        """(B,), the loss by which the last phase keeps its best weights; labels and constraint have no part in it.

        Args:
            x: (B, C, H, W).
            assessment: of x, without the map.
        """
        return assessment.score

    def sample(self, x: Tensor) -> Tensor | None:
        """What stands below the images x in the sample pictures: (B, C, h, w), their reconstructions unless a phase has others to show.

        None where there is nothing to show: then there are no sample pictures.
        """
        return self.reconstruct(x)

    def describe(self) -> dict[str, Any]:
        """What a table must say beside the numbers, such as the features that a loss is taken over."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def autocast(self) -> AbstractContextManager:
        """Surrounds forward passes, not backward ones."""
        if self.bf16 and not torch.is_autocast_enabled(self.device.type):
            torch.clear_autocast_cache()  # in somebody's block, even of enabled=False, torch keeps what it has cast of weights that are others now
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def constraint(self, z: Tensor, batch: Batch) -> tuple[Tensor | float, dict[str, Tensor]]:
        """What to add to the encoder's loss for the latents z of a batch, and the terms and head accuracies to log; (0, {}) without MADDR.

        Args:
            z: (B, latent_dim) or (B, latent_dim, 1, 1), not detached from the encoder.
            batch: whose images they are of.
        """
        if self.maddr is None:
            return 0.0, {}
        labels = [(each.organ, each.modality) for each in (batch, batch.partner) if each is not None]
        # The center is that of the whole batch, also where several processes share it.
        z, *gathered = all_gather(z, *chain.from_iterable(labels))
        own, partner = tuple(gathered[:2]), tuple(gathered[2:]) or None
        terms = self.maddr(z, *own, partner, batch.share)
        accuracy = self.maddr.accuracy(z, *own)
        if partner is not None:
            others = self.maddr.accuracy(z, *partner)
            accuracy = {name: torch.lerp(others[name], value, batch.share) for name, value in accuracy.items()}
        log = {f"maddr_{name}": term.detach() for name, term in terms.items()}
        return terms["total"], {**log, **{f"{name}_accuracy": value for name, value in accuracy.items()}}


def minimise(loss: Tensor | Sequence[Tensor], optimizer: Optimizer) -> None:
    """One step of an optimizer. Only the gradients of its own parameters are computed: those of an adversary are neither needed nor touched.

    Args:
        loss: scalar; or several, whose gradients are added in their order, and which share no part of a graph. A penalty of gradients is one of its
            own: of a sum with one, autograd on a GPU adds gradients in an order that depends on what the process has computed before.
        optimizer: of some parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad()
    for part in [loss] if isinstance(loss, Tensor) else loss:
        part.backward(inputs=parameters)
    average_gradients(parameters)
    optimizer.step()
