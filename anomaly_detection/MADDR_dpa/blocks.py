"""The layers of DPA's networks, and what stands where in its two families: pre-activation residual blocks, and plain convolutions (`regular`).

Submodules have the names of the authors' checkpoints. Sources: see networks.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

SLOPE = 0.2  # of every leaky ReLU


@dataclass(frozen=True)
class NetworkSettings:
    """What encoder and decoder have in common; see `EncoderSettings`."""

    type: Literal["residual18", "residual9", "regular"]
    inner_dims: list[int]
    norm: Literal["none", "bn", "in", "pixel"] = "none"
    pad_type: Literal["zero", "reflect"] = "zero"
    use_wscale: bool = False

    def __post_init__(self):
        if not self.inner_dims or min(self.inner_dims) < 1:
            raise ValueError(f"inner_dims must be numbers of channels, each at least 1, not {self.inner_dims}")


class _PixelNorm(nn.Module):
    """Each pixel's channels to root mean square 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


class _MinibatchStddev(nn.Module):
    """Adds a channel with the mean over channels and pixels of the standard deviation over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        # In eval mode an image is a batch of its own, without spread: its score must not depend on the images it is scored with.
        variance = x.var(dim=0, correction=0) if self.training else x.new_zeros(x.shape[1:])
        spread = (variance + 1e-8).sqrt().mean()
        return torch.cat([x, spread.expand(x.shape[0], 1, *x.shape[2:])], dim=1)


class _WeightScale(nn.Module):
    """Takes the size of a convolution's weights, so that they have root mean square 1, and its bias; scales its outputs, then adds the bias.

    So Adam changes the weights of all layers by the same share.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.bias, conv.bias = conv.bias, None
        self.register_buffer("scale", conv.weight.detach().square().mean().sqrt()[None])
        with torch.no_grad():
            conv.weight.div_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.to(x.dtype).view(1, -1, 1, 1), x, self.scale.to(x.dtype))


_NORMS = {"bn": nn.BatchNorm2d, "in": nn.InstanceNorm2d, "pixel": lambda channels: _PixelNorm()}


def _norm(settings: NetworkSettings, channels: int) -> list[nn.Module]:
    return [] if settings.norm == "none" else [_NORMS[settings.norm](channels)]


class _Conv(nn.Module):
    """[padding], convolution, [weight scale], [norm], [leaky ReLU]; biases start as PyTorch has them."""

    def __init__(self, settings: NetworkSettings, in_dim: int, out_dim: int, kernel: int, padding: int, active: bool = False, normed: bool = False):
        super().__init__()
        regular = settings.type == "regular"
        reflects = settings.pad_type == "reflect" and _reflects(kernel, padding, regular)
        conv = nn.Conv2d(in_dim, out_dim, kernel, padding=0 if reflects else padding)
        if regular:
            nn.init.xavier_uniform_(conv.weight, nn.init.calculate_gain("leaky_relu", SLOPE) if active else 1)
        else:
            nn.init.kaiming_normal_(conv.weight, SLOPE, "fan_out", "leaky_relu")
        # Where there is nothing to pad, the padding has a place all the same: the authors' names count it.
        pads = [nn.ReflectionPad2d(padding) if padding else nn.Identity()] if reflects else []
        scales = [_WeightScale(conv)] if regular and settings.use_wscale else []
        norms = _norm(settings, out_dim) if normed else []
        self.model = nn.Sequential(*pads, conv, *scales, *norms, *([nn.LeakyReLU(SLOPE)] if active else []))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _reflects(kernel: int, padding: int, regular: bool) -> bool:
    """Whether the authors pad by reflection there: neither for the 1 x 1 convolutions of `regular`, nor around a latent of one pixel."""
    return padding < 3 and not (regular and kernel == 1)


class _UpShortcut(nn.Sequential):
    """Nearest upsampling, then a 1 x 1 convolution: the other way round gives the same at a quarter of the work."""

    def forward(self, x: Tensor) -> Tensor:
        upsample, conv = self
        return upsample(conv(x))


class _ResidualBlock(nn.Module):
    """[norm], LReLU, [resize], 3 x 3, [norm], LReLU, 3 x 3; added to it the raw input, [resized], [by 1 x 1 to out_dim]."""

    def __init__(self, settings: NetworkSettings, in_dim: int, out_dim: int, *resize: nn.Module):
        super().__init__()
        convs = _Conv(settings, in_dim, out_dim, 3, 1, active=True, normed=True), _Conv(settings, out_dim, out_dim, 3, 1)
        self.model = nn.Sequential(*_norm(settings, in_dim), nn.LeakyReLU(SLOPE), *resize, *convs)
        shortcut = [*resize] if in_dim == out_dim else [*resize, _Conv(settings, in_dim, out_dim, 1, 0)]
        sequence = _UpShortcut if any(isinstance(module, nn.Upsample) for module in resize) else nn.Sequential
        self.skipcon = shortcut[0] if len(shortcut) == 1 else sequence(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.skipcon(x) + self.model(x)


@dataclass(frozen=True)
class _Blocks:
    """What stands at the places of a network; `innermost` is the number of channels of the smallest maps."""

    settings: Any
    channels: Mapping[int, int]
    image_dim: int
    latent_dim: int
    latent_res: int

    @property
    def innermost(self) -> int:
        return self.channels[min(self.channels)]


class _ResidualBlocks(_Blocks):
    def _and_same(self, first: nn.Module, channels: int, count: int) -> nn.Module:
        """The first, and then `count` blocks of the same size; residual9 has one less."""
        if self.settings.type == "residual9":
            count -= 1
        return nn.Sequential(first, *(_ResidualBlock(self.settings, channels, channels) for _ in range(count)))

    def _at_latent(self, in_dim: int, out_dim: int, padding: int) -> nn.Module:
        if self.latent_res > 1:
            return nn.Sequential(_ResidualBlock(self.settings, in_dim, out_dim))
        return nn.Sequential(nn.LeakyReLU(SLOPE), _Conv(self.settings, in_dim, out_dim, 4, padding))

    def from_image(self, resolution: int) -> nn.Module:
        channels = self.channels[resolution]
        return self._and_same(_Conv(self.settings, self.image_dim, channels, 3, 1), channels, count=2)

    def down(self, resolution: int) -> nn.Module:
        above, channels = self.channels[resolution], self.channels[resolution // 2]
        return self._and_same(_ResidualBlock(self.settings, above, channels, nn.AvgPool2d(2)), channels, count=1)

    def to_latent(self) -> nn.Module:
        return self._at_latent(self.innermost, self.latent_dim, padding=0)

    def from_latent(self) -> nn.Module:
        return self._at_latent(self.latent_dim, self.innermost, padding=3)

    def up(self, resolution: int) -> nn.Module:
        below, channels = self.channels[resolution // 2], self.channels[resolution]
        return self._and_same(_ResidualBlock(self.settings, below, channels, nn.Upsample(scale_factor=2)), channels, count=1)

    def to_image(self, resolution: int) -> nn.Module:
        return nn.Sequential(nn.LeakyReLU(SLOPE), _Conv(self.settings, self.channels[resolution], self.image_dim, 3, 1))


class _RegularBlocks(_Blocks):
    def _hidden(self, in_dim: int, out_dim: int, kernel: int = 3, padding: int = 1) -> nn.Module:
        return _Conv(self.settings, in_dim, out_dim, kernel, padding, active=True, normed=True)

    def _above(self, resolution: int) -> int:
        """Channels that maps come to a resolution with: those of the resolution above, where there is one."""
        return self.channels[min(2 * resolution, max(self.channels))]

    def from_image(self, resolution: int) -> nn.Module:
        return _Conv(self.settings, self.image_dim, self._above(resolution), 1, 0, active=True)

    def down(self, resolution: int) -> nn.Module:
        channels = self.channels[resolution]
        pool = nn.AvgPool2d(2) if self.settings.pool == "avg" else nn.MaxPool2d(2)
        return nn.Sequential(self._hidden(self._above(resolution), channels), self._hidden(channels, channels), pool)

    def to_latent(self) -> nn.Module:
        statistics = [_MinibatchStddev()] if self.settings.use_mbstddev else []
        first = self._hidden(self._above(min(self.channels)) + len(statistics), self.innermost)
        second = self._hidden(self.innermost, self.innermost, *((4, 0) if self.latent_res == 1 else (3, 1)))
        return nn.Sequential(*statistics, first, second, _Conv(self.settings, self.innermost, self.latent_dim, 1, 0))

    def from_latent(self) -> nn.Module:
        normalize = [_PixelNorm()] if self.settings.normalize_latents else []
        first = self._hidden(self.latent_dim, self.innermost, *((4, 3) if self.latent_res == 1 else (3, 1)))
        return nn.Sequential(*normalize, first, self._hidden(self.innermost, self.innermost))

    def up(self, resolution: int) -> nn.Module:
        channels = self.channels[resolution]
        upsample = nn.Upsample(scale_factor=2, mode=self.settings.upsample_mode)
        return nn.Sequential(upsample, self._hidden(self.channels[resolution // 2], channels), self._hidden(channels, channels))

    def to_image(self, resolution: int) -> nn.Module:
        return _Conv(self.settings, self.channels[resolution], self.image_dim, 1, 0)


BLOCKS = {"residual18": _ResidualBlocks, "residual9": _ResidualBlocks, "regular": _RegularBlocks}
