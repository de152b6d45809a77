"""The networks of MemAE for images: an encoder, a decoder, and the memory between them.

Source: Gong et al., Memorizing Normality to Detect Anomaly: Memory-augmented Deep Autoencoder, ICCV 2019, section 3, and its published code.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_detection.components.dcgan import halvings_to_4, initialise_dcgan


def _widths(image_size: int, width: int) -> list[int]:
    """Channels after each halving until 4 x 4 is left."""
    count = halvings_to_4(image_size)
    return [width * factor for factor in ([1, 2, 2] + [4] * count)[:count]]


def _normed(layer: nn.Module, width: int) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]


class Encoder(nn.Sequential):
    """Images (B, channels, image_size, image_size) -> queries (B, latent_dim, 1, 1), or (B, latent_dim, 4, 4) if spatial."""

    def __init__(self, image_size: int, channels: int, width: int, latent_dim: int, spatial: bool = False):
        widths = _widths(image_size, width)
        if spatial:
            widths[-1] = latent_dim
        layers = [
            layer for narrow, wide in zip([channels, *widths[:-1]], widths, strict=True) for layer in _normed(nn.Conv2d(narrow, wide, 3, 2, 1), wide)
        ]
        super().__init__(*layers, *([] if spatial else [nn.Conv2d(widths[-1], latent_dim, 4, 1, 0)]))
        initialise_dcgan(self)


class Decoder(nn.Sequential):
    """Memory read-outs (B, latent_dim, 1, 1), or (B, latent_dim, 4, 4) if spatial -> images, linear at the end."""

    def __init__(self, image_size: int, channels: int, width: int, latent_dim: int, spatial: bool = False):
        widths = _widths(image_size, width)[::-1]
        layers = [] if spatial else _normed(nn.ConvTranspose2d(latent_dim, widths[0], 4, 1, 0), widths[0])
        if spatial:
            widths[0] = latent_dim
        for wide, narrow in zip(widths[:-1], widths[1:], strict=True):
            layers += _normed(nn.ConvTranspose2d(wide, narrow, 3, 2, 1, output_padding=1), narrow)
        super().__init__(*layers, nn.ConvTranspose2d(widths[-1], channels, 3, 2, 1, output_padding=1))
        initialise_dcgan(self)


@dataclass(frozen=True)
class Reading:
    """What the memory answers to queries.

    Attributes:
        output: the read-outs, shaped as the queries.
        weights: (Q, slots) addressing weights, each row >= 0 with sum 1, one row per query (image, or place of an image).
        dead: (Q,) whether shrinkage would have left the row without a weight; it holds the weights before shrinkage.
    """

    output: Tensor
    weights: Tensor
    dead: Tensor

    def entropy(self) -> Tensor:
        """``- sum_i w_i log w_i``, mean over the queries."""
        return -(self.weights * (self.weights + 1e-12).log()).sum(dim=1).mean()

    def slots_used(self) -> Tensor:
        """How many slots have a mean weight above a tenth of an even share."""
        return (self.weights.mean(dim=0) > 0.1 / self.weights.shape[1]).sum()


class Memory(nn.Module):
    """Items (slots, dim) of which a query is answered by a sparse convex combination (Gong et al., eqs. 3 to 7).

    Args:
        slots, dim: items and their length.
        shrinkage: addressing weights up to this many even shares 1/slots are set to 0; 0 leaves all.
        temperature: None: the similarity is the dot product, as in the published code. A number: the cosine, as in the paper, divided by it;
            without a low temperature the softmax of cosines is too even for shrinkage.

    A query of which no weight would survive is read without shrinkage. A row of zeros would read nothing; its largest weight alone would be 1 after
    normalisation whatever the query is, a constant. Either way no gradient would reach the encoder, and the query would stay dead.
    """

    def __init__(self, slots: int, dim: int, shrinkage: float = 0.0, temperature: float | None = None):
        super().__init__()
        self.shrinkage = shrinkage
        self.temperature = temperature
        bound = 1 / math.sqrt(dim)
        self.items = nn.Parameter(torch.empty(slots, dim).uniform_(-bound, bound))

    def forward(self, queries: Tensor) -> Reading:
        """queries (B, dim, ...): one per image and place."""
        # Weights near 1/slots and their shrinkage have too few digits in half precision.
        with torch.autocast(queries.device.type, enabled=False):
            rows = queries.float().movedim(1, -1).reshape(-1, queries.shape[1])
            if self.temperature is None:
                similarity = rows @ self.items.T
            else:
                similarity = F.normalize(rows, dim=1) @ F.normalize(self.items, dim=1).T / self.temperature
            weights, dead = self._shrink(similarity.softmax(dim=1))
            output = (weights @ self.items).view(*queries.movedim(1, -1).shape).movedim(-1, 1)
        return Reading(output, weights, dead)

    def _shrink(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        if self.shrinkage == 0:
            return weights, weights.new_zeros(len(weights), dtype=torch.bool)
        threshold = self.shrinkage / weights.shape[1]
        above = weights - threshold
        kept = above.relu() * weights / (above.abs() + 1e-12)
        dead = (above <= 0).all(dim=1)
        return F.normalize(torch.where(dead[:, None], weights, kept), p=1, dim=1), dead
