"""Gaussians of patch features as a baseline: how far the frozen features of each patch lie from those of normal images.

Source: Rippel et al., Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly Detection, ICPR 2020; Defard et al., PaDiM,
2020. PaDiM has a Gaussian for each position; here all positions share one: medical images are not aligned, and so many more vectors estimate it.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_detection.baseline import Assessment, Baseline, Batch, ByDomain, Phase, minimise
from anomaly_detection.components.backbones import told
from anomaly_detection.components.feature_cache import TargetCache
from anomaly_detection.components.features import ChannelSums, FrozenFeatures, doubled
from anomaly_detection.gaussian.density import Densities, Moments, shrunk, standardised

EVERYTHING = 0  # the place of the Gaussian of all images among the distances; behind it stand those of the pairs of organ and modality


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
        self.density = Densities(1, channels)
        self.domains: Densities | None = None
        self.targets: TargetCache | None = None

    def expect_domains(self, organs: int, modalities: int) -> None:
        self.classes = organs, modalities
        if organs * modalities > 1:
            self.domains = Densities(organs * modalities, self.frozen.channels)

    # --- training

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Take the statistics, the Gaussians and the principal components, in one pass."""
        sums, pooled, pairs = ChannelSums(), Moments(), defaultdict(Moments)
        for batch in batches:
            features = self.frozen.raw(batch.image)
            sums.add(features)
            grid = doubled(self.frozen.on_grid(features))
            pooled.add(grid.mean(dim=(2, 3)))
            places = self._places(batch.organ, batch.modality).to(grid.device) if self.domains else torch.full((len(grid),), EVERYTHING)
            for place in places.unique().tolist():
                pairs[place].add(_rows(grid[places == place]).flatten(0, 1))
        self.frozen.standardise_by(sums)
        mean, deviation = sums.statistics()
        for place, moments in {**pairs, EVERYTHING: sum(pairs.values(), Moments())}.items():
            center, covariance = standardised(moments.gaussian(), mean, deviation)
            densities, number = (self.density, 0) if place == EVERYTHING else (self.domains, place - 1)
            densities.fit(number, center, shrunk(covariance, self.options.shrinkage))
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
        distances = self._distances(_rows(features))
        place = torch.zeros_like(distances[:, 0, 0], dtype=torch.int64) if self.domains is None or not self.names_domains else self._named(z)
        distance = distances.gather(1, place[:, None, None].expand(-1, 1, distances.shape[2]))[:, 0]
        pixels = None
        if with_map:
            pixels = distance.unflatten(1, (self.options.grid, self.options.grid))[:, None]
            pixels = F.interpolate(pixels, x.shape[2:], mode="bilinear", align_corners=False)
        scores = distances.mean(dim=2)
        by_domain = None if self.domains is None else ByDomain(scores[:, EVERYTHING], scores[:, 1:].unflatten(1, self.classes))
        return Assessment(z, scores.gather(1, place[:, None])[:, 0], pixels, by_domain=by_domain)

    def describe(self) -> dict[str, Any]:
        features = f"{told(self.options.backbone, self.options.backbone_weights)} {' '.join(self.frozen.layers)}"
        return {"features": features, "grid": self.options.grid, "shrinkage": self.options.shrinkage}

    # --- parts

    def _places(self, organ: Tensor, modality: Tensor) -> Tensor:
        """(B,), of the Gaussians of pairs of organ and modality."""
        return 1 + organ * self.classes[1] + modality

    def _distances(self, rows: Tensor) -> Tensor:
        """(B, 1 + pairs, P) of vectors (B, P, C), under the Gaussian of all images and those of the pairs; that of all images for an unknown pair."""
        everything = self.density.distances(rows)
        if self.domains is None:
            return everything
        known = self.domains.known[None, :, None]
        return torch.cat([everything, torch.where(known, self.domains.distances(rows), everything)], dim=1)

    def _named(self, z: Tensor) -> Tensor:
        """(B,), the place of the Gaussian of the pair that is named."""
        heads = self.namer.predict(z)
        (organ_p, organ), (modality_p, modality) = (heads[name].max(dim=1) for name in ("organ", "modality"))
        place = self._places(organ, modality)
        sure = (organ_p * modality_p >= self.options.certainty) & self.domains.known[place - 1]
        return torch.where(sure, place, torch.full_like(place, EVERYTHING))

    def _pooled(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


def _rows(features: Tensor) -> Tensor:
    """(B, C, g, g) -> (B, positions, C)."""
    return features.flatten(2).transpose(1, 2)
