"""The networks of the feature autoencoder, on a grid of feature vectors."""

import torch.nn.functional as F
from torch import Tensor, nn


class Encoder(nn.Module):
    """Features (B, C, grid, grid) -> latent (B, latent_dim); whole channels are dropped out in training.

    Args:
        channels: C.
        grid: positions a side.
        width: channels inside.
        latent_dim: length of the latent.
        dropout: share of the channels.
    """

    def __init__(self, channels: int, grid: int, width: int, latent_dim: int, dropout: float):
        super().__init__()
        side = (grid + 1) // 2
        self.layers = nn.Sequential(
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, width, 1),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(width * side**2, latent_dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return self.layers(features)


class Decoder(nn.Module):
    """Latent (B, latent_dim) -> features (B, C, grid, grid); the arguments are those of `Encoder`."""

    def __init__(self, channels: int, grid: int, width: int, latent_dim: int):
        super().__init__()
        self.grid, self.side, self.width = grid, (grid + 1) // 2, width
        self.widen = nn.Linear(latent_dim, width * self.side**2)
        self.coarse, self.fine = _block(width), _block(width)
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        h = self.coarse(self.widen(z).unflatten(1, (self.width, self.side, self.side)))
        h = F.interpolate(h, (self.grid, self.grid), mode="bilinear", align_corners=False)
        return self.last(self.fine(h))


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU())
