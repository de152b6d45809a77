"""GANomaly as a baseline: an encoder-decoder-encoder trained against a discriminator, scored by the distance of its two latents.

Source: Akcay et al., GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training, ACCV 2018, and its published code.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam, Optimizer

from anomaly_detection.baseline import Assessment, Baseline, Batch, Phase, minimise
from anomaly_detection.ganomaly.networks import Decoder, Discriminator, Encoder
from anomaly_detection.system.distributed import averaged, broadcast

logger = logging.getLogger(__name__)

# A discriminator whose loss is below this tells all images apart and has nothing left to teach: it is drawn anew.
COLLAPSED_LOSS = 1e-5


@dataclass(frozen=True)
class GANomalySettings:
    """What GANomaly alone is configured by; each key is commented in configs/ganomaly/base.yaml."""

    latent_dim: int = 128
    width: int = 16
    extra_layers: int = 0
    adversarial_weight: float = 1.0
    context_weight: float = 50.0
    latent_weight: float = 1.0
    score: Literal["squared", "absolute"] = "squared"
    score_of: Literal["latent", "content"] = "latent"

    def __post_init__(self):
        for key in ("latent_dim", "width"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")
        for key in ("extra_layers", "adversarial_weight", "context_weight", "latent_weight"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")


class GANomaly(Baseline):
    """``z = E1(x)``, ``y = Dec(z)``, ``z' = E2(y)``; the anomaly score is the distance of z and z'. MADDR constrains z alone.

    The score is not scaled. The published code maps the scores of a test set to [0, 1] by their least and greatest: then the score of an image
    depends on the others, anomalies among them, and a single image has none. Networks are in evaluation mode when they score, for the same
    reason: with the statistics of the batch at hand, which the published code uses, the score would depend on the company.

    Args:
        settings: of the experiment; ``settings.baseline`` is a `GANomalySettings`.

    Raises:
        ValueError: settings that no network can have.
    """

    Settings = GANomalySettings
    paper = "Akcay et al., GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training, ACCV 2018"

    def __init__(self, settings: Any):
        super().__init__(settings)
        options = self.options = settings.baseline
        self.latent_dim = options.latent_dim
        shape = (settings.image_size, settings.channels, options.width)
        self.skipped = settings.maddr.organ_dim + settings.maddr.modality_dim if options.score_of == "content" else 0
        if self.skipped >= options.latent_dim:
            raise ValueError(f"score_of: content leaves nothing of a latent of {options.latent_dim} numbers without the first {self.skipped}")
        self.encoder = Encoder(*shape, options.latent_dim, options.extra_layers)
        self.decoder = Decoder(*shape, options.latent_dim, options.extra_layers)
        self.second_encoder = Encoder(*shape, options.latent_dim, options.extra_layers)
        self.discriminator = Discriminator(*shape, options.extra_layers)
        self.to(memory_format=torch.channels_last)

    def phases(self) -> list[Phase]:
        return [Phase("ganomaly", self.settings.iterations, self.settings.batch_size, replayable=True)]

    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        generator = [*self.encoder.parameters(), *self.decoder.parameters(), *self.second_encoder.parameters(), *self.heads()]
        networks = {"generator": generator, "discriminator": self.discriminator.parameters()}
        return {name: Adam(parameters, self.settings.lr, betas=(0.5, 0.999), fused=True) for name, parameters in networks.items()}

    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Both steps start from the same networks: the discriminator judges the reconstructions from before the generator's step."""
        x = batch.image
        with self.autocast():
            z, y, second_z = self._pass(x)
            real_logits, real_features = self.discriminator(x)
            fake_features = self.discriminator(y)[1]
            fake_logits = self.discriminator(y.detach())[0]
        losses = self.generator_losses(x, y, z, second_z, real_features.detach(), fake_features)
        constraint, log = self.constraint(z, batch)
        loss = sum(weight * losses[name] for name, weight in self.weights.items())
        discriminator_loss = (F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()) / 2
        minimise(loss + constraint, optimizers["generator"])
        minimise(discriminator_loss, optimizers["discriminator"])
        return {
            "loss": (loss + constraint).detach(),
            **{name: value.detach() for name, value in losses.items()},
            "discriminator": discriminator_loss.detach(),
            **log,
        }

    def after_step(self, losses: Mapping[str, Tensor], optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
        """A discriminator that has collapsed is drawn anew, before the next step meets it."""
        loss = losses["discriminator"]
        collapsed = averaged({"loss": loss})["loss"] < COLLAPSED_LOSS
        if collapsed:
            logger.warning("the discriminator's loss fell below %g: it is drawn anew (a run where this happens often has failed)", COLLAPSED_LOSS)
            self.discriminator.initialise()
            broadcast(self.discriminator)
            for state in optimizers["discriminator"].state.values():
                for value in state.values():
                    value.zero_()
        return {"discriminator_resets": torch.full_like(loss, float(collapsed))}

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms of the generator's loss."""
        return {"adversarial": self.options.adversarial_weight, "context": self.options.context_weight, "latent": self.options.latent_weight}

    @staticmethod
    def generator_losses(x: Tensor, y: Tensor, z: Tensor, second_z: Tensor, real_features: Tensor, fake_features: Tensor) -> dict[str, Tensor]:
        """``adversarial`` = mean (f(x) - f(y))^2, ``context`` = mean |x - y|, ``latent`` = mean (z - z')^2, unweighted float32 scalars."""
        return {
            "adversarial": F.mse_loss(fake_features.float(), real_features.float()),
            "context": F.l1_loss(y.float(), x.float()),
            "latent": F.mse_loss(second_z.float(), z.float()),
        }

    def assess(self, x: Tensor, with_map: bool) -> Assessment:
        """The score is ``mean_j (z_j - z'_j)^2`` as the published code has it, or ``mean_j |z_j - z'_j|`` as the paper's text has it (`score`).
        It is over all of the latent, or over its content, without the numbers for organ and modality (`score_of`): these must vary, and may
        outweigh the rest.

        The map is |x - y|, mean over the channels; the score itself has no places.
        """
        z, y, second_z = self._pass(x)
        difference = (z - second_z)[:, self.skipped :].float()
        score = (difference.square() if self.options.score == "squared" else difference.abs()).flatten(1).mean(dim=1)
        return Assessment(z.flatten(1), score, (x - y).abs().mean(dim=1, keepdim=True) if with_map else None, y)

    def validation_loss(self, x: Tensor, assessment: Assessment) -> Tensor:
        """The weighted context and latent losses: the latent distance alone is least where the latent says nothing."""
        y = assessment.reconstruction
        context = (x - y).abs().flatten(1).mean(dim=1)
        latent = (assessment.latent - self.second_encoder(y).flatten(1)).square().mean(dim=1)
        return self.options.context_weight * context + self.options.latent_weight * latent

    def describe(self) -> dict[str, Any]:
        return {"width": self.options.width, "score": f"{self.options.score} {self.options.score_of} distance"}

    def _pass(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.encoder(x)
        y = self.decoder(z)
        return z, y, self.second_encoder(y)
