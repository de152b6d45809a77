"""A feature autoencoder as a baseline: it reconstructs frozen features of an image, not its pixels.

Source: Shi et al., Unsupervised anomaly segmentation via deep feature reconstruction, Neurocomputing 2021; Meissen et al., Unsupervised Anomaly
Localization with Structural Feature-Autoencoders, 2022; dropout before the bottleneck after Guo et al., Dinomaly, CVPR 2025. The score of residuals
by their density is this project's.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Optimizer

from anomaly_detection.baseline import Assessment, Baseline, Batch, Phase, minimise
from anomaly_detection.components.backbones import told
from anomaly_detection.components.density import DomainDensities, mean_of_highest
from anomaly_detection.components.feature_cache import TargetCache
from anomaly_detection.components.features import ChannelSums, FrozenFeatures, doubled
from anomaly_detection.feature_ae.networks import Decoder, Encoder

# The learning rate's cycle, as `torch.optim.lr_scheduler.OneCycleLR` has it: the share that rises, and how far below the top it begins and ends.
RISE, BEGINNING, END = 0.3, 25.0, 25.0e4

SHRINKAGE, CERTAINTY = 0.01, 0.5  # of the densities of residuals; see configs/gaussian/base.yaml


@dataclass(frozen=True)
class FeatureAESettings:
    """What the feature autoencoder alone is configured by; each key is commented in configs/feature_ae/base.yaml."""

    latent_dim: int = 128
    width: int = 128
    backbone: str = "efficientnet_lite0"
    backbone_weights: str = "pretrained"
    layers: list[str] | None = None
    grid: int = 8
    dropout: float = 0.3
    mse_weight: float = 0.5
    weight_decay: float = 0.0001
    score: Literal["angle", "residual_density"] = "angle"
    score_share: float = 1.0

    def __post_init__(self):
        for key, least in (("latent_dim", 1), ("width", 1), ("grid", 2)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} must be at least {least}, not {getattr(self, key)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not 0 < self.score_share <= 1:
            raise ValueError(f"score_share must be above 0 and at most 1, not {self.score_share}")
        for key in ("mse_weight", "weight_decay"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")


class FeatureAE(Baseline):
    """The feature autoencoder. Its anomaly score is the mean over positions of 1 - cos of the angle between features f and their reconstruction g.

    The training loss is ``mean (1 - cos(f, g)) + mse_weight mean (f - g)^2``; MADDR constrains the latent. The learning rate follows one cycle: up to
    ``settings.lr``, then down to almost nothing.

    With ``score: residual_density`` the anomaly score is instead how unlike the residuals ``f / |f| - g / |g|`` of normal images those of an image
    are: their squared Mahalanobis distance, mean over positions, under a Gaussian of the residuals of training images, that of the domain which is
    named (see `DomainDensities`). With ``score_share`` below 1 the mean is over so many of the positions, those with the highest values: a small
    lesion is in few. Training is the same.

    Args:
        settings: of the experiment; ``settings.baseline`` is a `FeatureAESettings`.

    Raises:
        ValueError: settings that no network can have.
        BackboneError: the backbone, its weights or a layer cannot be had.
    """

    Settings = FeatureAESettings
    paper = "Shi et al., Unsupervised anomaly segmentation via deep feature reconstruction, Neurocomputing 2021; Meissen et al., 2022"

    def __init__(self, settings: Any):
        super().__init__(settings)
        options = self.options = settings.baseline
        if settings.lr_step is not None:
            raise ValueError("lr_step must be null: the learning rate of this model follows one cycle")
        self.latent_dim = options.latent_dim
        frozen = options.backbone, options.backbone_weights, options.layers, options.grid
        self.frozen = FrozenFeatures(*frozen, settings.image_size, settings.channels)
        shape = self.frozen.channels, options.grid, options.width, options.latent_dim
        self.encoder = Encoder(*shape, options.dropout)
        self.decoder = Decoder(*shape)
        self.densities: DomainDensities | None = None
        if options.score == "residual_density":
            self.densities = DomainDensities(self.frozen.channels, CERTAINTY, options.score_share)
        self.targets: TargetCache | None = None

    def expect_domains(self, organs: int, modalities: int) -> None:
        if self.densities is not None:
            self.densities.expect_domains(organs, modalities)

    # --- training

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Take the statistics that features are standardised by."""
        sums = ChannelSums()
        for batch in batches:
            sums.add(self.frozen.raw(batch.image))
        self.frozen.standardise_by(sums)

    def phases(self) -> list[Phase]:
        return [Phase("feature_ae", self.settings.iterations, self.settings.batch_size)]

    def begin_phase(self, phase: Phase, batches: Iterable[Batch], count: int) -> None:
        """Take the features of the training images once."""
        images = (batch.image for batch in batches)
        self.targets = TargetCache.fill(lambda x: {"grid": self.frozen(x)}, images, count, self.settings.feature_cache_mib * 2**20)

    @property
    def looks_at_images(self) -> bool:
        return self.targets is None

    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        parameters = [*self.encoder.parameters(), *self.decoder.parameters(), *self.heads()]
        return {"autoencoder": AdamW(parameters, self.settings.lr, weight_decay=self.options.weight_decay, fused=True)}

    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        optimizer = optimizers["autoencoder"]
        step = round(self.progress * self.phase.iterations) - 1
        for group in optimizer.param_groups:
            group["lr"] = self.settings.lr * one_cycle(step, self.phase.iterations)
        known = self.targets is not None and batch.index is not None
        features = self.targets.at(batch.index)["grid"] if known else self.frozen(batch.image)
        with self.autocast():
            z = self.encoder(features)
            made = self.decoder(z).float()
        angle, mse = _angle(features, made).mean(), F.mse_loss(made, features)
        constraint, log = self.constraint(z, batch)
        loss = angle + self.options.mse_weight * mse + constraint
        minimise(loss, optimizer)
        return {"loss": loss.detach(), "angle": angle.detach(), "mse": mse.detach(), **log}

    @torch.no_grad()
    def conclude(self, batches: Iterable[Batch]) -> None:
        """Take the densities of the residuals, if the score is of these."""
        if self.densities is None:
            return
        moments = self.densities.moments()
        for batch in batches:
            features = self.frozen(batch.image)
            moments.add(doubled(_residual(features, self.decoder(self.encoder(features)))), batch.organ, batch.modality)
        self.densities.fit(moments, SHRINKAGE)

    def validation_loss(self, x: Tensor, assessment: Assessment) -> Tensor:
        """1 - cos, mean over all positions, whatever the score is."""
        if self.densities is None and self.options.score_share == 1:
            return assessment.score
        return _angle(features := self.frozen(x), self.decoder(self.encoder(features))).mean(dim=(1, 2))

    # --- use

    def assess(self, x: Tensor, with_map: bool) -> Assessment:
        """The map is 1 - cos of each position, or its squared distance, resized to the images; the score is its mean over the positions, or over the
        highest of them."""
        features = self.frozen(x)
        z = self.encoder(features)
        made = self.decoder(z)
        if self.densities is None:
            positions, by_domain = _angle(features, made), None
            score = mean_of_highest(positions.flatten(1), self.options.score_share)
        else:
            positions, score, by_domain = self.densities(_residual(features, made), z, self.namer if self.names_domains else None)
        pixels = F.interpolate(positions[:, None], x.shape[2:], mode="bilinear", align_corners=False) if with_map else None
        return Assessment(z, score, pixels, by_domain=by_domain)

    def describe(self) -> dict[str, Any]:
        features = f"{told(self.options.backbone, self.options.backbone_weights)} {' '.join(self.frozen.layers)}"
        options = self.options
        score = options.score if options.score_share == 1 else f"{options.score} of the highest {options.score_share:g} of the positions"
        return {"features": features, "grid": options.grid, "width": options.width, "dropout": options.dropout, "score": score}


def _angle(features: Tensor, made: Tensor) -> Tensor:
    """1 - cos, (B, H, W), of vectors (B, C, H, W)."""
    return 1 - F.cosine_similarity(features, made, dim=1)


def _residual(features: Tensor, made: Tensor) -> Tensor:
    """The difference of directions, (B, C, H, W), of vectors (B, C, H, W)."""
    return F.normalize(features, dim=1) - F.normalize(made, dim=1)


def one_cycle(step: int, steps: int) -> float:
    """The learning rate of a step, from 0 on, as a part of the highest: cosines up and down.

    Source: Smith and Topin, Super-Convergence, 2019, as torch has it.
    """
    top = RISE * steps - 1
    if step <= top:
        return _between(1 / BEGINNING, 1.0, step / top)
    return _between(1.0, 1 / END, (step - top) / (steps - 1 - top))


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))
