"""Gaussians of patch features as a baseline: how far the frozen features of each patch lie from those of normal images.

Source: Rippel et al., Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly Detection, ICPR 2020; Defard et al., PaDiM,
2020. PaDiM has a Gaussian for each position; here all positions share one: medical images are not aligned, and so many more vectors estimate it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_detection.baseline import Assessment, Baseline, Batch, Phase, minimise
from anomaly_detection.components.backbones import told
from anomaly_detection.components.density import DomainDensities, Moments, standardised
from anomaly_detection.components.feature_cache import TargetCache
from anomaly_detection.components.features import ChannelSums, FrozenFeatures, doubled


@dataclass(frozen=True)
class GaussianSettings:
    """What the Gaussians alone are configured by; each key is commented in configs/gaussian/base.yaml."""

    latent_dim: int = 128
    backbone: str = "efficientnet_lite0"
    backbone_weights: str = "pretrained"
    layers: list[str] | None = None
    grid: int = 7
    shrinkage: float = 0.01
    certainty: float = 0.5

    def __post_init__(self):
        for key in ("latent_dim", "grid"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")
        if not 0 < self.shrinkage <= 1:
            raise ValueError(f"shrinkage must be above 0 and at most 1, not {self.shrinkage}")
        if not 0 <= self.certainty <= 1:
            raise ValueError(f"certainty must be between 0 and 1, not {self.certainty}")


class GaussianOfFeatures(Baseline):
    """One Gaussian of the features of all patches; its anomaly score is the mean squared Mahalanobis distance of an image's patches.

    The latent is a linear map of the features' mean over an image. Without MADDR it is their principal components, and nothing is trained. With
    MADDR it begins there and is trained as a linear autoencoder with the constraint. There is a Gaussian for each pair of organ and modality that
    was trained on, too: **who names the domain of an image chooses it**, the heads of the constraint or a probe. Where they are not sure, or name a
    pair that was not trained on, or where nobody names domains, the Gaussian of all images speaks.

    Args:
        settings: of the experiment; ``settings.baseline`` is a `GaussianSettings`.

    Raises:
        ValueError: settings that no network can have.
        BackboneError: the backbone, its weights or a layer cannot be had.
    """

    Settings = GaussianSettings
    paper = "Rippel et al., Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly Detection, ICPR 2020"

    def __init__(self, settings: Any):
        super().__init__(settings)
        options = self.options = settings.baseline
        self.latent_dim = options.latent_dim
        frozen = options.backbone, options.backbone_weights, options.layers, options.grid
        self.frozen = FrozenFeatures(*frozen, settings.image_size, settings.channels)
        channels = self.frozen.channels
        if options.latent_dim > channels:
            raise ValueError(f"latent_dim {options.latent_dim} must not be above the {channels} channels of {' '.join(self.frozen.layers)}")
        self.encoder = nn.Linear(channels, options.latent_dim)
        self.decoder = nn.Linear(options.latent_dim, channels)
        self.densities = DomainDensities(channels, options.certainty)
        self.targets: TargetCache | None = None

    def expect_domains(self, organs: int, modalities: int) -> None:
        self.densities.expect_domains(organs, modalities)

    # --- training

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Take the statistics, the Gaussians and the principal components, in one pass."""
        sums, pooled, moments = ChannelSums(), Moments(), self.densities.moments()
        for batch in batches:
            features = self.frozen.raw(batch.image)
            sums.add(features)
            grid = doubled(self.frozen.on_grid(features))
            pooled.add(grid.mean(dim=(2, 3)))
            moments.add(grid, batch.organ, batch.modality)
        self.frozen.standardise_by(sums)
        mean, deviation = sums.statistics()
        self.densities.fit(moments, self.options.shrinkage, mean, deviation)
        self._project(*standardised(pooled.gaussian(), mean, deviation))

    def _project(self, mean: Tensor, covariance: Tensor) -> None:
        """Begin with the principal components: no linear autoencoder reconstructs better."""
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : self.latent_dim]
        self.encoder.weight.copy_(axes.T)
        self.encoder.bias.copy_(-mean @ axes)
        self.decoder.weight.copy_(axes)
        self.decoder.bias.copy_(mean)

    def phases(self) -> list[Phase]:
        """None without MADDR: then `prepare` is all."""
        return [] if self.maddr is None else [Phase("linear", self.settings.iterations, self.settings.batch_size)]

    def begin_phase(self, phase: Phase, batches: Iterable[Batch], count: int) -> None:
        """Take the means of the training images' features once."""
        images = (batch.image for batch in batches)
        self.targets = TargetCache.fill(lambda x: {"pooled": self._pooled(self.frozen(x))}, images, count, self.settings.feature_cache_mib * 2**20)

    @property
    def looks_at_images(self) -> bool:
        return self.targets is None

    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        return {"autoencoder": Adam([*self.encoder.parameters(), *self.decoder.parameters(), *self.heads()], self.settings.lr, fused=True)}

    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        known = self.targets is not None and batch.index is not None
        pooled = self.targets.at(batch.index)["pooled"] if known else self._pooled(self.frozen(batch.image))
        with self.autocast():
            z = self.encoder(pooled)
            rec = F.mse_loss(self.decoder(z).float(), pooled)
        constraint, log = self.constraint(z, batch)
        loss = rec + constraint
        minimise(loss, optimizers["autoencoder"])
        return {"loss": loss.detach(), "rec": rec.detach(), **log}

    def validation_loss(self, x: Tensor, assessment: Assessment) -> Tensor:
        """The squared error of the linear autoencoder."""
        return (self.decoder(assessment.latent) - self._pooled(self.frozen(x))).square().mean(dim=1)

    # --- use

    def assess(self, x: Tensor, with_map: bool) -> Assessment:
        """The map is the squared distance of each patch, resized to the images; the score is its mean over the patches."""
        features = self.frozen(x)
        z = self.encoder(self._pooled(features))
        said = self.densities(features, z, self.namer if self.names_domains else None)
        pixels = F.interpolate(said.map[:, None], x.shape[2:], mode="bilinear", align_corners=False) if with_map else None
        return Assessment(z, said.score, pixels, by_domain=said.by_domain)

    def describe(self) -> dict[str, Any]:
        features = f"{told(self.options.backbone, self.options.backbone_weights)} {' '.join(self.frozen.layers)}"
        return {"features": features, "grid": self.options.grid, "shrinkage": self.options.shrinkage}

    def _pooled(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))
