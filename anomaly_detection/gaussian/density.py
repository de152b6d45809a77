"""Gaussians of feature vectors: moments summed up batch by batch, and the squared Mahalanobis distance."""

import torch
from torch import Tensor, nn

from anomaly_detection.system.errors import UserError


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
