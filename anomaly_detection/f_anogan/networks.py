"""The networks of f-AnoGAN: residual ones as in WGAN-GP, pre-activated, from 4 x 4 to the image and back.

Source: Schlegl et al., f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks, Medical Image Analysis 54, 2019, and
its published code; sizes other than 64 x 64 have a stage more or less at the 4 x 4 end.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_detection.components.dcgan import halvings_to_4


def _widths(image_size: int, width: int) -> list[int]:
    """Channels at full resolution and after each halving until 4 x 4 is left."""
    count = halvings_to_4(image_size)
    return [width * min(8, 2**stage) for stage in range(count)] + [width * min(8, 2 ** (count - 1))]


def batch_norm(channels: int, momentum: float) -> nn.Module:
    """As TensorFlow has it; momentum is the share of the new batch in the running averages."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=momentum)


def layer_norm(channels: int) -> nn.Module:
    """Over channels and places of one image, with weights per channel: a critic under a gradient penalty must not mix images."""
    return nn.GroupNorm(1, channels, eps=1e-5)


def _he(layer: nn.Conv2d) -> nn.Conv2d:
    """Uniform with deviation sqrt(4 / (fan_in + fan_out)); bias 0."""
    nn.init.xavier_uniform_(layer.weight, gain=2**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _glorot(layer: nn.Module) -> nn.Module:
    """Uniform with deviation sqrt(2 / (fan_in + fan_out)); bias 0."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ResidualUp(nn.Module):
    """(B, channels, H, W) -> (B, out, 2H, 2W)."""

    def __init__(self, channels: int, out: int, momentum: float):
        super().__init__()
        self.norm1, self.norm2 = batch_norm(channels, momentum), batch_norm(out, momentum)
        self.conv1 = _he(nn.Conv2d(channels, out, 3, padding=1, bias=False))
        self.conv2 = _he(nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = _glorot(nn.Conv2d(channels, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2))
        # A 1 x 1 convolution gives the same before and after nearest upsampling, at a quarter of the work before.
        return F.interpolate(self.shortcut(x), scale_factor=2) + self.conv2(F.relu(self.norm2(y)))


class ResidualDown(nn.Module):
    """(B, channels, H, W) -> (B, out, H/2, W/2); momentum None: layer norm, else batch norm."""

    def __init__(self, channels: int, out: int, momentum: float | None):
        super().__init__()
        self.norm1, self.norm2 = (layer_norm(channels) if momentum is None else batch_norm(channels, momentum) for _ in range(2))
        self.conv1 = _he(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.conv2 = _he(nn.Conv2d(channels, out, 3, padding=1))
        self.shortcut = _glorot(nn.Conv2d(channels, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        y = F.avg_pool2d(self.conv2(F.relu(self.norm2(y))), 2)
        return self.shortcut(F.avg_pool2d(x, 2)) + y


class Generator(nn.Module):
    """Latents (B, latent_dim) -> images (B, channels, image_size, image_size) in [-1, 1]."""

    def __init__(self, image_size: int, channels: int, width: int, latent_dim: int, momentum: float):
        super().__init__()
        widths = _widths(image_size, width)[::-1]
        self.start = _glorot(nn.Linear(latent_dim, widths[0] * 16))
        self.blocks = nn.Sequential(*(ResidualUp(a, b, momentum) for a, b in zip(widths[:-1], widths[1:], strict=True)))
        self.norm = batch_norm(widths[-1], momentum)
        self.image = _he(nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        x = self.start(z).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        return torch.tanh(self.image(F.relu(self.norm(self.blocks(x)))))


class _Down(nn.Module):
    """Images -> features (B, F) -> (B, out)."""

    def __init__(self, image_size: int, channels: int, width: int, out: int, momentum: float | None):
        super().__init__()
        widths = _widths(image_size, width)
        self.image = _glorot(nn.Conv2d(channels, widths[0], 3, padding=1))
        self.blocks = nn.Sequential(*(ResidualDown(a, b, momentum) for a, b in zip(widths[:-1], widths[1:], strict=True)))
        self.top = _glorot(nn.Linear(widths[-1] * 16, out))

    def features(self, x: Tensor) -> Tensor:
        """(B, F), channels first, as the last linear layer reads them."""
        return self.blocks(self.image(x)).flatten(1)


class Critic(_Down):
    """Images (B, channels, image_size, image_size) -> values (B,), higher for real ones. No image sees another."""

    def __init__(self, image_size: int, channels: int, width: int):
        super().__init__(image_size, channels, width, 1, None)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.features(x))[:, 0]


class Encoder(_Down):
    """Images (B, channels, image_size, image_size) -> latents (B, latent_dim) in (-1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.top(self.features(x)))
