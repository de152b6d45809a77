"""DPA as a baseline: an autoencoder grown from low to full resolution, trained and scored by a perceptual loss.

Source: Shvetsova et al., Anomaly Detection in Medical Imaging with Deep Perceptual Autoencoders, IEEE Access 2021.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_detection.baseline import Assessment, Baseline, Batch, Phase, minimise
from anomaly_detection.components.adversarial import AdversarialSettings, adversarial_loss
from anomaly_detection.components.backbones import find_backbone, told
from anomaly_detection.components.feature_cache import TargetCache
from anomaly_detection.MADDR_dpa.growing import Stage, growing_stages, mix_resolution
from anomaly_detection.MADDR_dpa.networks import Decoder, DecoderSettings, Encoder, EncoderSettings
from anomaly_detection.MADDR_dpa.rec_losses import RECONSTRUCTION_LOSSES, ComposeLoss, PerceptualLoss, ReconstructionLossType

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
        value = self.at(x.shape[-1])(x, y, target)
        return self._faded(x, value, self.at(x.shape[-1] // 2)(*_halved(x, y))) if self._fades() else value

    def score_and_map(self, x: Tensor, y: Tensor, target: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """What the reductions none and pixelwise give, from one look at the images."""
        score, pixels = self.at(x.shape[-1]).score_and_map(x, y, target)
        if not self._fades():
            return score, pixels
        low_score, low_pixels = self.at(x.shape[-1] // 2).score_and_map(*_halved(x, y))
        return self._faded(x, score, low_score), self._faded(x, pixels, low_pixels)

    def _fades(self) -> bool:
        return self.smooth and self.stage is not None and self.stage.kind == "trns" and self.progress < 1

    def _faded(self, x: Tensor, value: Tensor, low: Tensor) -> Tensor:
        if low.ndim == 4:
            low = F.interpolate(low, x.shape[2:], mode="bilinear", align_corners=False)
        return self.progress * value + (1 - self.progress) * low


def _halved(*images: Tensor) -> list[Tensor]:
    return [F.interpolate(each, scale_factor=0.5, mode="bilinear", align_corners=False) for each in images]


class DPA(Baseline):
    """The deep perceptual autoencoder. Its anomaly score is the reconstruction loss of the image.

    Images of any size are brought to the resolution of the stage; after training that is ``settings.image_size``. MADDR constrains the latent;
    one of several places (latent_res > 1) is averaged over them first.

    Args:
        settings: of the experiment; ``settings.baseline`` is a `DPASettings`.
        resolutions: those at which images enter and leave the networks; None for all that growing passes through.

    Raises:
        ValueError: settings that no network can have.
        BackboneError: the backbone of the perceptual loss is not to be had.
    """

    Settings = DPASettings
    paper = "Shvetsova et al., Anomaly Detection in Medical Imaging with Deep Perceptual Autoencoders, IEEE Access 2021"

    def __init__(self, settings: Any, resolutions: list[int] | None = None):
        super().__init__(settings)
        options = self.options = settings.baseline
        self.latent_dim = options.latent_dim
        self.max_resolution = settings.image_size
        if settings.image_size < 8 or settings.image_size & (settings.image_size - 1):
            raise ValueError(f"image_size must be a power of two from 8 on, not {settings.image_size}")
        initial = options.initial_image_res or settings.image_size
        self.stages = growing_stages(initial, settings.image_size, settings.iterations, options.trns_iter, options.iters_per_res)
        self.targets: TargetCache | None = None
        resolutions = resolutions or sorted({stage.resolution for stage in self.stages})
        image = {"image_dim": settings.channels, "max_resolution": settings.image_size, "resolutions": resolutions}
        latent = {"latent_dim": options.latent_dim, "latent_res": options.latent_res}
        self.encoder = Encoder(options.enc, **image, **latent)
        self.decoder = Decoder(options.dec, **image, **latent)
        self.rec_loss = build_rec_loss(options)
        if options.adversarial is not None:
            self.discriminator = Encoder(options.adversarial.ddis, **image, latent_dim=1, latent_res=1)
            self.adversarial = adversarial_loss(options.adversarial.loss)
        # Convolutions are fastest with the channels innermost, on CPUs and on GPUs.
        self.to(memory_format=torch.channels_last)

    @classmethod
    def to_be_loaded(cls, settings: Any) -> "DPA":
        """Without the file of feature statistics, which are buffers."""
        baseline = cls(replace(settings, baseline=replace(settings.baseline, feature_statistics="fit")))
        baseline.settings, baseline.options = settings, settings.baseline
        return baseline

    # --- training

    def phases(self) -> list[Phase]:
        """One per stage; with a discriminator each step is given a batch for it and one for the autoencoder."""
        batches = 1 if self.options.adversarial is None else 1 + self.options.adversarial.n_dis
        sizes = {stage.resolution: self.options.batch_sizes.get(stage.resolution, self.settings.batch_size) for stage in self.stages}
        return [
            Phase(stage.name, stage.iterations, sizes[stage.resolution] * batches, batches, replayable=stage.kind == "stab" and batches == 1)
            for stage in self.stages
        ]

    @property
    def stage(self) -> Stage:
        """The stage at whose resolution it works: that of the phase, the last one of a trained network; `progress` is how far it is faded in."""
        return self.stages[-1] if self.phase is None else next(stage for stage in self.stages if stage.name == self.phase.name)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Take the feature statistics, unless a file gave them."""
        for loss in self._perceptual_losses():
            if loss.loss.statistics is not None and loss.loss.statistics.unknown:
                loss.loss.fit_feature_statistics(batch.image for batch in batches)

    def begin_phase(self, phase: Phase, batches: Iterable[Batch], count: int) -> None:
        """Take the features of the originals once, unless a fade-in changes them from step to step."""
        self.targets = None
        if self._perceptual_losses() and self.stage.kind == "stab":
            images = (batch.image for batch in batches)
            self.targets = TargetCache.fill(self._target, images, count, self.settings.feature_cache_mib * 2**20)

    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        networks = {"autoencoder": [*self.encoder.parameters(), *self.decoder.parameters(), *self.heads()]}
        if self.options.adversarial is not None:
            networks["discriminator"] = list(self.discriminator.parameters())
        return {name: Adam(parameters, self.settings.lr, fused=True) for name, parameters in networks.items()}

    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        if self.options.adversarial is None:
            return self._autoencoder_step(batch, optimizers["autoencoder"])
        *for_discriminator, for_autoencoder = batch.chunks(1 + self.options.adversarial.n_dis)
        log = {}
        for part in for_discriminator:
            log = self._discriminator_step(part, optimizers["discriminator"])
        return log | self._autoencoder_step(for_autoencoder, optimizers["autoencoder"])

    def _discriminator_step(self, batch: Batch, optimizer: Optimizer) -> dict[str, Tensor]:
        x = self._at_stage(batch.image)
        with torch.no_grad(), self.autocast():
            fake = self._decode(self._encode(x))
        with self.autocast():
            losses = self.adversarial.discriminator_losses(self._discriminate, x, fake.float())
        minimise(losses, optimizer)
        return {"discriminator": sum(losses).detach()}

    def _autoencoder_step(self, batch: Batch, optimizer: Optimizer) -> dict[str, Tensor]:
        x = self._at_stage(batch.image)
        with self.autocast():
            z = self._encode(x)
            y = self._decode(z)
            target = None if self.targets is None or batch.index is None else self.targets.at(batch.index)
            rec = self._reconstruction_loss(x, y, "mean", target)
            generator = 0.0 if self.options.adversarial is None else self.adversarial.generator_loss(self._discriminate(y))
        constraint, log = self.constraint(_pooled(z), batch)
        loss = self.options.rec_weight * rec + constraint
        if self.options.adversarial is not None:
            loss = loss + self.options.adversarial.weight * generator
            log["generator"] = generator.detach()
        minimise(loss, optimizer)
        return {"loss": loss.detach(), "rec": rec.detach(), **log}

    # --- use

    def encode(self, x: Tensor) -> Tensor:
        """As the assessment has it, without the backbone of the loss."""
        with self.autocast():
            return _pooled(self._encode(self._at_stage(x))).float()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Reconstructions at the resolution of the stage, without the backbone of the loss."""
        with self.autocast():
            return self._decode(self._encode(self._at_stage(x))).float()

    def assess(self, x: Tensor, with_map: bool) -> Assessment:
        """The map is the reconstruction loss of each pixel, resized to the images where the stage is smaller, as reconstructions are not."""
        seen = self._at_stage(x)
        with self.autocast():
            z = self._encode(seen)
            y = self._decode(z)
            if with_map:
                self._tell_stage()
                score, pixels = self.rec_loss.score_and_map(seen, y)
            else:
                score, pixels = self._reconstruction_loss(seen, y, "none"), None
        if pixels is not None:
            pixels = F.interpolate(pixels.float(), x.shape[2:], mode="bilinear", align_corners=False)
        return Assessment(_pooled(z).float(), score.float(), pixels, y.float())

    def describe(self) -> dict[str, Any]:
        terms = " + ".join(f"{weight:g} {name}" for name, weight in self.options.rec_loss.items())
        perceptual = [loss.loss for loss in self._perceptual_losses()]
        if not perceptual:
            return {"loss": terms}
        layers = " ".join(perceptual[0].feature_weights)
        return {
            "loss": terms,
            "features": f"{told(self.options.backbone, self.options.backbone_weights)} {layers}, statistics: {self.options.feature_statistics}",
        }

    # --- parts

    def _at_stage(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.max_resolution,) * 2:
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
        """{layer: features} of training images, as the perceptual losses compare them at the resolution of the stage."""
        with self.autocast():
            x = self._at_stage(x)
            return {layer: features for loss in self._perceptual_losses() for layer, features in loss.at(x.shape[-1]).target(x).items()}

    def _reconstruction_loss(self, x: Tensor, y: Tensor, reduction: str, target: Mapping[str, Tensor] | None = None) -> Tensor:
        self._tell_stage()
        self.rec_loss.set_reduction(reduction)
        return self.rec_loss(x, y, target=target)

    def _tell_stage(self) -> None:
        for loss in self._perceptual_losses():
            loss.stage, loss.progress = self.stage, self.progress


def _pooled(z: Tensor) -> Tensor:
    """(B, latent_dim, latent_res, latent_res) -> (B, latent_dim)."""
    return z.mean(dim=(2, 3))


def build_rec_loss(options: DPASettings) -> ComposeLoss:
    """The weighted sum of reconstruction losses of `rec_loss`.

    Raises:
        BackboneError: the backbone, a layer, its weights or the file of statistics is not to be had.
    """
    losses = []
    backbone = None
    for name, weight in options.rec_loss.items():
        kind = RECONSTRUCTION_LOSSES[ReconstructionLossType[name]]
        if not issubclass(kind, PerceptualLoss):
            losses.append((weight, kind()))
            continue
        every = [options.features, *options.features_per_resolution.values()]
        backbone = backbone or find_backbone(options.backbone, options.backbone_weights)
        layers = {layer: 1.0 for each in every for layer in _layers(each, backbone.default_weights)}
        loss = kind(
            img_weight=max(each.img_weight for each in every),
            feature_weights=layers,
            backbone=backbone,
            feature_statistics=options.feature_statistics,
        )
        losses.append((weight, GrowingPerceptualLoss(loss, options.features, options.features_per_resolution, options.use_smooth_pg)))
    return ComposeLoss(losses)


def _layers(weights: FeatureWeights, default: Mapping[str, float]) -> Mapping[str, float]:
    return default if weights.feature_weights is None else weights.feature_weights
