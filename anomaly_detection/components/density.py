"""Gaussians of vectors at the positions of images: moments summed up batch by batch, squared Mahalanobis distances, and whose domain's speaks."""

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomaly_detection.baseline import ByDomain
from anomaly_detection.components.probe import Probe
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.system.errors import UserError

EVERYTHING = 0  # the place of the Gaussian of all images; behind it stand those of the pairs of organ and modality


class Moments:
    """Number, sum and sum of outer products of vectors, in float64: as much memory for a million as for one."""

    def __init__(self):
        self.count = 0
        self._total: Tensor | float = 0.0
        self._square: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """rows: (n, C) float64."""
        self.count += len(rows)
        self._total = self._total + rows.sum(dim=0)
        self._square = self._square + rows.T @ rows

    def __add__(self, other: "Moments") -> "Moments":
        both = Moments()
        both.count = self.count + other.count
        both._total, both._square = self._total + other._total, self._square + other._square
        return both

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and covariance (C, C), divided by the number of vectors."""
        mean = self._total / self.count
        return mean, self._square / self.count - torch.outer(mean, mean)


def standardised(gaussian: tuple[Tensor, Tensor], mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of ``(f - mean) / deviation``, of those of f."""
    return (gaussian[0] - mean) / deviation, gaussian[1] / torch.outer(deviation, deviation)


def shrunk(covariance: Tensor, shrinkage: float) -> Tensor:
    """``(1 - e) S + e tr(S) / C I``: as if vectors spread a little into every direction."""
    channels = len(covariance)
    sphere = covariance.trace() / channels * torch.eye(channels, dtype=covariance.dtype, device=covariance.device)
    return (1 - shrinkage) * covariance + shrinkage * sphere


class Densities(nn.Module):
    """K Gaussians in C dimensions, of which some may not be known.

    Buffers: mean (K, C); whitening (K, C, C), the inverse of the covariance's Cholesky factor, zero of one that is not known.
    """

    def __init__(self, count: int, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(count, channels))
        self.register_buffer("whitening", torch.zeros(count, channels, channels))
        self.register_buffer("known", torch.zeros(count, dtype=torch.bool))
        self._places: list[int] = []

    def fit(self, place: int, mean: Tensor, covariance: Tensor) -> None:
        """Take one Gaussian (C,), (C, C) in float64.

        Raises:
            UserError: the covariance has no inverse.
        """
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed or not factor.isfinite().all():
            raise UserError("the features of the training images do not vary, so no density of them can be told; give more images, or a finer grid")
        identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        self.mean[place] = mean
        self.whitening[place] = torch.linalg.solve_triangular(factor, identity, upper=False)
        self.known[place] = True
        self._places = self.known.nonzero().flatten().tolist()

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._places = self.known.nonzero().flatten().tolist()

    def distances(self, rows: Tensor) -> Tensor:
        """(B, K, P): ``(f - mu)^T S^-1 (f - mu)`` of vectors (B, P, C) under each Gaussian; 0 under one that is not known."""
        columns = [rows.new_zeros(rows.shape[:2])] * len(self.mean)
        for place in self._places:
            columns[place] = ((rows - self.mean[place]) @ self.whitening[place].T).square().sum(dim=2)
        return torch.stack(columns, dim=1)


class DomainMoments:
    """Moments of the vectors of images, those of each pair of organ and modality apart.

    Args:
        modalities: how many there are.
    """

    def __init__(self, modalities: int):
        self._modalities = modalities
        self._pairs: defaultdict[int, Moments] = defaultdict(Moments)

    def add(self, vectors: Tensor, organ: Tensor, modality: Tensor) -> None:
        """vectors: (B, C, H, W) float64; organ, modality: (B,) class numbers."""
        places = pair_place(organ, modality, self._modalities).to(vectors.device)
        for place in places.unique().tolist():
            self._pairs[place].add(rows_of(vectors[places == place]).flatten(0, 1))

    def by_place(self) -> dict[int, Moments]:
        """Those of each pair that was met, and at `EVERYTHING` those of all images."""
        return {**self._pairs, EVERYTHING: sum(self._pairs.values(), Moments())}


class Said(NamedTuple):
    """What densities say of B images.

    Attributes:
        map: (B, g, g), the squared distance of each position, under the Gaussian that speaks.
        score: (B,), its mean, or that of the highest.
        by_domain: the score under each Gaussian; None where there is only one domain.
    """

    map: Tensor
    score: Tensor
    by_domain: ByDomain | None


class DomainDensities(nn.Module):
    """A Gaussian of all images, and one for each pair of organ and modality that was trained on: **who names the domain of an image chooses it**.

    Where they are not sure, or name a pair that was not trained on, or where nobody names domains, the Gaussian of all images speaks.

    Args:
        channels: C, length of the vectors.
        certainty: the probability of organ and modality below which nobody is sure.
        share: of the positions, whose mean a score is, see `mean_of_highest`.
    """

    def __init__(self, channels: int, certainty: float, share: float = 1.0):
        super().__init__()
        self.channels, self.certainty, self.share = channels, certainty, share
        self.classes = 1, 1
        self.everything = Densities(1, channels)
        self.pairs: Densities | None = None

    def expect_domains(self, organs: int, modalities: int) -> None:
        """How many there are of either; once, before anything else."""
        self.classes = organs, modalities
        if organs * modalities > 1:
            self.pairs = Densities(organs * modalities, self.channels)

    def moments(self) -> DomainMoments:
        """Empty ones, for `fit`."""
        return DomainMoments(self.classes[1])

    def fit(self, moments: DomainMoments, shrinkage: float, mean: Tensor | float = 0.0, deviation: Tensor | None = None) -> None:
        """Take the Gaussians.

        Args:
            moments: of the vectors of all training images.
            shrinkage: see `shrunk`.
            mean, deviation: (C,) float64; where given, the vectors are ``(f - mean) / deviation`` of those that were summed up.

        Raises:
            UserError: they do not vary.
        """
        for place, each in moments.by_place().items():
            gaussian = each.gaussian()
            center, covariance = gaussian if deviation is None else standardised(gaussian, mean, deviation)
            if place == EVERYTHING:
                self.everything.fit(0, center, shrunk(covariance, shrinkage))
            elif self.pairs is not None:
                self.pairs.fit(place - 1, center, shrunk(covariance, shrinkage))

    def forward(self, vectors: Tensor, z: Tensor, namer: MADDRConstraint | Probe | None) -> Said:
        """vectors (B, C, g, g) of images with the latents z (B, latent_dim); namer: who names domains, both organ and modality; None: nobody."""
        distances = self._distances(rows_of(vectors))
        place = torch.zeros_like(distances[:, 0, 0], dtype=torch.int64) if self.pairs is None or namer is None else self._named(z, namer)
        scores = mean_of_highest(distances, self.share)
        distance = distances.gather(1, place[:, None, None].expand(-1, 1, distances.shape[2]))[:, 0]
        by_domain = None if self.pairs is None else ByDomain(scores[:, EVERYTHING], scores[:, 1:].unflatten(1, self.classes))
        return Said(distance.unflatten(1, vectors.shape[2:]), scores.gather(1, place[:, None])[:, 0], by_domain)

    def _distances(self, rows: Tensor) -> Tensor:
        """(B, 1 + pairs, P) of vectors (B, P, C), under the Gaussian of all images and those of the pairs; that of all images for an unknown pair."""
        everything = self.everything.distances(rows)
        if self.pairs is None:
            return everything
        known = self.pairs.known[None, :, None]
        return torch.cat([everything, torch.where(known, self.pairs.distances(rows), everything)], dim=1)

    def _named(self, z: Tensor, namer: MADDRConstraint | Probe) -> Tensor:
        """(B,), the place of the Gaussian of the pair that is named."""
        heads = namer.predict(z)
        (organ_p, organ), (modality_p, modality) = (heads[name].max(dim=1) for name in ("organ", "modality"))
        place = pair_place(organ, modality, self.classes[1])
        sure = (organ_p * modality_p >= self.certainty) & self.pairs.known[place - 1]
        return torch.where(sure, place, torch.full_like(place, EVERYTHING))


def mean_of_highest(values: Tensor, share: float) -> Tensor:
    """(...): of P values (..., P), the mean of the highest ``share P`` of them, rounded, and one at least; of all for a share of 1."""
    count = max(1, round(share * values.shape[-1]))
    return values.mean(dim=-1) if count == values.shape[-1] else values.topk(count, dim=-1).values.mean(dim=-1)


def pair_place(organ: Tensor, modality: Tensor, modalities: int) -> Tensor:
    """(B,), the places of the Gaussians of pairs of class numbers (B,)."""
    return 1 + organ * modalities + modality


def rows_of(vectors: Tensor) -> Tensor:
    """(B, C, g, g) -> (B, positions, C)."""
    return vectors.flatten(2).transpose(1, 2)
