"""DPA as a baseline: an autoencoder grown from low to full resolution, trained and scored by a perceptual loss.

Source: Shvetsova et al., Anomaly Detection in Medical Imaging with Deep Perceptual Autoencoders, IEEE Access 2021.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_detection.adversarial import AdversarialSettings, adversarial_loss
from anomaly_detection.baseline import Baseline, Batch, Phase, minimise
from anomaly_detection.MADDR_dpa.growing import Stage, growing_stages, mix_resolution
from anomaly_detection.MADDR_dpa.networks import Decoder, DecoderSettings, Encoder, EncoderSettings
from anomaly_detection.MADDR_dpa.rec_losses import (
    DEFAULT_FEATURE_WEIGHTS,
    RECONSTRUCTION_LOSSES,
    ComposeLoss,
    MADDRConstraint,
    PerceptualLoss,
    ReconstructionLossType,
)
from anomaly_detection.target_cache import TargetCache

LossName = Literal["relative_perceptual_L1", "perceptual", "l1", "l2"]


@dataclass(frozen=True)
class FeatureWeights:
    """Weights of the image term and of the feature layers in a perceptual loss; None takes the backbone's own choice of layers."""

    img_weight: float = 0.0
    feature_weights: dict[str, float] | None = None


@dataclass(frozen=True)
class DiscriminatorSettings:
    """The adversarial option: a discriminator beside the autoencoder."""

    loss: AdversarialSettings
    ddis: EncoderSettings
    weight: float = 1.0
    n_dis: int = 1

    def __post_init__(self):
        if self.n_dis < 1:
            raise ValueError(f"n_dis must be at least 1, not {self.n_dis}")


@dataclass(frozen=True)
class DPASettings:
    """What DPA alone is configured by; each key is commented in configs/MADDR_dpa/base.yaml."""

    enc: EncoderSettings = field(default_factory=lambda: EncoderSettings(type="residual18", inner_dims=[16, 16, 16, 32, 32, 32, 64]))
    dec: DecoderSettings = field(default_factory=lambda: DecoderSettings(type="residual18", inner_dims=[64, 32, 32, 32, 16, 16, 16]))
    latent_dim: int = 128
    latent_res: int = 1
    initial_image_res: int | None = None
    trns_iter: int = 4000
    iters_per_res: dict[int, dict[str, int]] = field(default_factory=dict)
    batch_sizes: dict[int, int] = field(default_factory=dict)
    rec_loss: dict[LossName, float] = field(default_factory=lambda: {"relative_perceptual_L1": 1.0, "l1": 0.1})
    rec_weight: float = 1.0
    backbone: str = "efficientnet_lite0"
    backbone_weights: str = "pretrained"
    feature_statistics: str = "fit"
    features: FeatureWeights = field(default_factory=FeatureWeights)
    features_per_resolution: dict[int, FeatureWeights] = field(default_factory=dict)
    use_smooth_pg: bool = False
    adversarial: DiscriminatorSettings | None = None

    def __post_init__(self):
        if not self.rec_loss or min(self.rec_loss.values()) <= 0:
            raise ValueError("rec_loss must name at least one loss, each with a weight above 0")
        if min(self.batch_sizes.values(), default=1) < 1:
            raise ValueError(f"batch_sizes must be at least 1, got {self.batch_sizes}")


class GrowingPerceptualLoss(nn.Module):
    """A perceptual loss whose feature weights follow the resolution, and (smooth) are faded in with it.

    In the fade-in stage at resolution R and progress p < 1 the smooth form is ``p loss_R(x, y) + (1 - p) loss_{R/2}(x', y')``, x' and y' halved.
    """

    takes_target = True

    def __init__(self, loss: PerceptualLoss, default: FeatureWeights, per_resolution: Mapping[int, FeatureWeights], smooth: bool):
        super().__init__()
        self.loss = loss
        self.default = default
        self.per_resolution = per_resolution
        self.smooth = smooth
        self.stage: Stage | None = None
        self.progress = 1.0

    def set_reduction(self, reduction: str) -> None:
        self.loss.set_reduction(reduction)

    def at(self, resolution: int) -> PerceptualLoss:
        """The loss with the feature weights of a resolution."""
        weights = self.per_resolution.get(resolution, self.default)
        self.loss.set_new_weights(weights.img_weight, _layers(weights, self.loss.backbone.default_weights))
        return self.loss

    def forward(self, x: Tensor, y: Tensor, target: Mapping[str, Tensor] | None = None) -> Tensor:
        """x, y (B, C, R, R) at the resolution R of the stage; target: what `at(R).target(x)` said."""
        resolution = x.shape[-1]
        value = self.at(resolution)(x, y, target)
        if not (self.smooth and self.stage is not None and self.stage.kind == "trns" and self.progress < 1):
            return value
        low = self.at(resolution // 2)(*(F.interpolate(each, scale_factor=0.5, mode="bilinear", align_corners=False) for each in (x, y)))
        if low.ndim == 4:
            low = F.interpolate(low, x.shape[2:], mode="bilinear", align_corners=False)
        return self.progress * value + (1 - self.progress) * low


class DPA(Baseline):
    """The deep perceptual autoencoder. Its anomaly score is the reconstruction loss of the image.

    Images of any size are brought to the resolution of the stage; after training that is ``settings.image_size``.

    Args:
        settings: of the experiment; ``settings.baseline`` is a `DPASettings`.
        maddr: the constraint on the latent, or None. A latent of several places (latent_res > 1) is averaged over them first.
        resolutions: those at which images enter and leave the networks; None for all that growing passes through.

    Raises:
        ValueError: settings that no network can have.
        BackboneError: the backbone of the perceptual loss is not to be had.
    """

    Settings = DPASettings

    def __init__(self, settings: Any, maddr: MADDRConstraint | None = None, resolutions: list[int] | None = None):
        super().__init__(maddr)
        own: DPASettings = settings.baseline
        self.own = own
        self.lr = settings.lr
        self.batch_size = settings.batch_size
        self.latent_dim = own.latent_dim
        self.max_resolution = settings.image_size
        if settings.image_size < 8 or settings.image_size & (settings.image_size - 1):
            raise ValueError(f"image_size must be a power of two from 8 on, not {settings.image_size}")
        initial = own.initial_image_res or settings.image_size
        self.stages = growing_stages(initial, settings.image_size, settings.iterations, own.trns_iter, own.iters_per_res)
        self.stage, self.progress = self.stages[-1], 1.0
        self.cache_budget = settings.feature_cache_mib * 2**20
        self.targets: TargetCache | None = None
        resolutions = resolutions or sorted({stage.resolution for stage in self.stages})
        image = {"image_dim": settings.channels, "max_resolution": settings.image_size, "resolutions": resolutions}
        latent = {"latent_dim": own.latent_dim, "latent_res": own.latent_res}
        self.encoder = Encoder(own.enc, **image, **latent)
        self.decoder = Decoder(own.dec, **image, **latent)
        self.rec_loss = build_rec_loss(own)
        if own.adversarial is not None:
            self.discriminator = Encoder(own.adversarial.ddis, **image, latent_dim=1, latent_res=1)
            self.adversarial = adversarial_loss(own.adversarial.loss)
        # Convolutions are fastest with the channels innermost, on CPUs and on GPUs.
        self.to(memory_format=torch.channels_last)

    # --- training

    def phases(self) -> list[Phase]:
        """One per stage; with a discriminator each step is given a batch for it and one for the autoencoder."""
        batches = 1 if self.own.adversarial is None else 1 + self.own.adversarial.n_dis
        return [
            Phase(f"{stage.kind}_{stage.resolution}", stage.iterations, self.own.batch_sizes.get(stage.resolution, self.batch_size) * batches)
            for stage in self.stages
        ]

    def prepare(self, images: Iterable[Tensor]) -> None:
        """Take the feature statistics, unless a file gave them."""
        for loss in self._perceptual_losses():
            if loss.loss.statistics is not None and loss.loss.statistics.unknown:
                loss.loss.fit_feature_statistics(images)

    def begin_phase(self, phase: Phase, images: Iterable[Tensor], count: int) -> None:
        """Take the features of the originals once, unless a fade-in changes them from step to step."""
        self.set_stage(self._stage_of(phase), 1.0)
        self.targets = None
        if self._perceptual_losses() and self.stage.kind == "stab":
            self.targets = TargetCache.fill(self._target, images, count, self.cache_budget)

    def begin_step(self, phase: Phase, iteration: int) -> None:
        stage = self._stage_of(phase)
        self.set_stage(stage, iteration / stage.iterations)

    def _stage_of(self, phase: Phase) -> Stage:
        return next(stage for stage in self.stages if f"{stage.kind}_{stage.resolution}" == phase.name)

    def set_stage(self, stage: Stage, progress: float) -> None:
        """Work at the resolution of a stage; progress in (0, 1] is how far its resolution is faded in."""
        self.stage, self.progress = stage, progress
        for loss in self._perceptual_losses():
            loss.stage, loss.progress = stage, progress

    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        heads = [] if self.maddr is None else list(self.maddr.parameters())
        optimizers: dict[str, Optimizer] = {
            "autoencoder": Adam([*self.encoder.parameters(), *self.decoder.parameters(), *heads], self.lr, fused=True)
        }
        if self.own.adversarial is not None:
            optimizers["discriminator"] = Adam(self.discriminator.parameters(), self.lr, fused=True)
        return optimizers

    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        if self.own.adversarial is None:
            return self._autoencoder_step(batch, optimizers["autoencoder"])
        *for_discriminator, for_autoencoder = batch.chunks(1 + self.own.adversarial.n_dis)
        log = {}
        for part in for_discriminator:
            log = self._discriminator_step(part, optimizers["discriminator"])
        return log | self._autoencoder_step(for_autoencoder, optimizers["autoencoder"])

    def _discriminator_step(self, batch: Batch, optimizer: Optimizer) -> dict[str, Tensor]:
        x = self._at_stage(batch.image)
        with torch.no_grad(), self.autocast():
            fake = self._decode(self._encode(x))
        with self.autocast():
            loss = self.adversarial.discriminator_loss(self._discriminate, x, fake.float())
        minimise(loss, optimizer)
        return {"discriminator": loss.detach()}

    def _autoencoder_step(self, batch: Batch, optimizer: Optimizer) -> dict[str, Tensor]:
        x = self._at_stage(batch.image)
        with self.autocast():
            z = self._encode(x)
            y = self._decode(z)
            target = None if self.targets is None or batch.index is None else self.targets.at(batch.index)
            rec = self._reconstruction_loss(x, y, "mean", target)
            generator = 0.0 if self.own.adversarial is None else self.adversarial.generator_loss(self._discriminate(y))
        constraint, log = self.constraint(_pooled(z), batch)
        loss = self.own.rec_weight * rec + constraint
        if self.own.adversarial is not None:
            loss = loss + self.own.adversarial.weight * generator
            log["generator"] = generator.detach()
        minimise(loss, optimizer)
        return {"loss": loss.detach(), "rec": rec.detach(), **log}

    # --- use

    def encode(self, x: Tensor) -> Tensor:
        with self.autocast():
            return _pooled(self._encode(self._at_stage(x))).float()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Reconstructions at the resolution of the stage."""
        return self._decode(self._encode(self._at_stage(x)))

    def anomaly_score(self, x: Tensor) -> Tensor:
        return self.assess(x)[1]

    def assess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._assess(x, "none")

    def anomaly_map(self, x: Tensor) -> Tensor:
        """The reconstruction loss of each pixel, resized to the images where the stage is smaller."""
        return F.interpolate(self._assess(x, "pixelwise")[1], x.shape[2:], mode="bilinear", align_corners=False)

    def describe(self) -> dict[str, Any]:
        terms = " + ".join(f"{weight:g} {name}" for name, weight in self.own.rec_loss.items())
        perceptual = [loss.loss for loss in self._perceptual_losses()]
        if not perceptual:
            return {"loss": terms}
        layers = " ".join(perceptual[0].feature_weights)
        return {"loss": terms, "features": f"{self.own.backbone} ({self.own.backbone_weights}) {layers}, statistics: {self.own.feature_statistics}"}

    # --- parts

    def _at_stage(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.max_resolution:
            x = F.interpolate(x, (self.max_resolution, self.max_resolution), mode="bilinear", align_corners=False)
        return mix_resolution(x, self.stage, self.max_resolution, self.progress).contiguous(memory_format=torch.channels_last)

    def _fade(self) -> float:
        return self.progress if self.stage.kind == "trns" else 1.0

    def _encode(self, x: Tensor) -> Tensor:
        return self.encoder(x, self.stage.resolution, self._fade())

    def _decode(self, z: Tensor) -> Tensor:
        return self.decoder(z, self.stage.resolution, self._fade())

    def _discriminate(self, x: Tensor) -> Tensor:
        return self.discriminator(x, self.stage.resolution, self._fade())

    def _perceptual_losses(self) -> list[GrowingPerceptualLoss]:
        return [module for module in self.rec_loss.modules() if isinstance(module, GrowingPerceptualLoss)]

    def _target(self, x: Tensor) -> dict[str, Tensor]:
        """{layer: features} of images, as the perceptual losses compare them at the resolution of the stage."""
        x = self._at_stage(x)
        with self.autocast():
            return {layer: features for loss in self._perceptual_losses() for layer, features in loss.at(x.shape[-1]).target(x).items()}

    def _reconstruction_loss(self, x: Tensor, y: Tensor, reduction: str, target: Mapping[str, Tensor] | None = None) -> Tensor:
        self.rec_loss.set_reduction(reduction)
        return self.rec_loss(x, y, target=target)

    def _assess(self, x: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
        """The latents, and the reconstruction loss so reduced."""
        x = self._at_stage(x)
        # Averages over thousands of features: bfloat16 moves them by less than a hundredth, whatever the company of the image.
        with self.autocast():
            z = self._encode(x)
            return _pooled(z).float(), self._reconstruction_loss(x, self._decode(z), reduction).float()


def _pooled(z: Tensor) -> Tensor:
    """(B, latent_dim, latent_res, latent_res) -> (B, latent_dim)."""
    return z.mean(dim=(2, 3))


def build_rec_loss(own: DPASettings) -> ComposeLoss:
    """The weighted sum of reconstruction losses of `rec_loss`.

    Raises:
        BackboneError: the backbone, a layer, its weights or the file of statistics is not to be had.
    """
    losses = []
    for name, weight in own.rec_loss.items():
        kind = RECONSTRUCTION_LOSSES[ReconstructionLossType[name]]
        if not issubclass(kind, PerceptualLoss):
            losses.append((weight, kind()))
            continue
        every = [own.features, *own.features_per_resolution.values()]
        default = DEFAULT_FEATURE_WEIGHTS.get(own.backbone, {})
        layers = {layer: 1.0 for each in every for layer in _layers(each, default)}
        loss = kind(
            img_weight=max(each.img_weight for each in every),
            feature_weights=layers,
            backbone=own.backbone,
            weights=own.backbone_weights,
            feature_statistics=own.feature_statistics,
        )
        losses.append((weight, GrowingPerceptualLoss(loss, own.features, own.features_per_resolution, own.use_smooth_pg)))
    return ComposeLoss(losses)


def _layers(weights: FeatureWeights, default: Mapping[str, float]) -> Mapping[str, float]:
    return default if weights.feature_weights is None else weights.feature_weights
