"""DPA's networks as plain functions of a flat state dict under the authors' parameter names: what the tests compare with.

Written from the published description; nothing of the package is used here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def halve(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean(dim=(3, 5))


def halve_by_largest(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).amax(dim=(3, 5))


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def double_smoothly(x: Tensor) -> Tensor:
    """Bilinear: the new pixels stand a quarter of a pixel from the old ones, and the border is repeated."""
    for dim in (2, 3):
        n = x.shape[dim]
        padded = torch.cat([x.narrow(dim, 0, 1), x, x.narrow(dim, n - 1, 1)], dim)
        before, after = padded.narrow(dim, 0, n), padded.narrow(dim, 2, n)
        x = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim=dim + 1).flatten(dim, dim + 1)
    return x


@dataclass
class Plain:
    """An encoder or a decoder.

    Attributes:
        kind: residual18, residual9 or regular.
        channels: {resolution: channels} of all maps.
        latent_res: 1 where the smallest maps become one pixel.
        state: its parameters. One that is missing is drawn when it is used, if `random` is given: one pass makes a whole state dict.
        norm, reflect, wscale, spread, halve, normalize, double: as configured; `spread` is what minibatch stddev adds, or None.
        paths: how the authors name the two paths that a fade-in mixes; ours have no name.
        used: the names that were asked for.
    """

    kind: str
    channels: dict[int, int]
    latent_res: int = 1
    state: dict[str, Tensor] = field(default_factory=dict)
    random: torch.Generator | None = None
    norm: str = "none"
    reflect: bool = False
    wscale: bool = False
    spread: float | None = None
    halve: Callable[[Tensor], Tensor] = halve
    normalize: bool = False
    double: Callable[[Tensor], Tensor] = double
    paths: tuple[str, str] = ("model.", "model.")
    used: set[str] = field(default_factory=set)

    def encode(self, x: Tensor, latent_dim: int, fade: float | None = None) -> Tensor:
        """Images at any resolution to latents; `fade` is the share of the path from the full resolution in a fade-in."""
        r = x.shape[-1]
        if fade is None:
            h = self.from_image("model.", x, r)
        else:
            low, high = self.paths
            h = fade * self.down(high, self.from_image(high, x, r), r)
            r //= 2
            h = h + (1 - fade) * self.from_image(low, halve(x), r)
        while r > min(self.channels):
            h = self.down("model.", h, r)
            r //= 2
        return self.to_latent(h, latent_dim)

    def decode(self, z: Tensor, resolution: int, image_dim: int, fade: float | None = None) -> Tensor:
        """Latents to images at a resolution."""
        h, r = self.from_latent(z), min(self.channels)
        while r < (resolution if fade is None else resolution // 2):
            r *= 2
            h = self.up("model.", h, r)
        if fade is None:
            return self.to_image("model.", h, r, image_dim)
        low, high = self.paths
        sharp = self.to_image(high, self.up(high, h, resolution), resolution, image_dim)
        return (1 - fade) * self.double(self.to_image(low, h, r, image_dim)) + fade * sharp

    # --- the places

    def from_image(self, path: str, x: Tensor, r: int) -> Tensor:
        place = f"{path}preprocess_res_{r}"
        if self.kind == "regular":
            return leaky(self.conv(place, x, self._above(r), 1, 0))
        h = self.conv(f"{place}.0", x, self.channels[r], 3, 1)
        for i in range(2 if self.kind == "residual18" else 1):
            h = self.block(f"{place}.{i + 1}", h, self.channels[r])
        return h

    def down(self, path: str, h: Tensor, r: int) -> Tensor:
        place = f"{path}res_{r}"
        if self.kind == "regular":
            return self.halve(self.hidden(f"{place}.1", self.hidden(f"{place}.0", h, self.channels[r]), self.channels[r]))
        return self._resized(place, h, self.channels[r // 2], halve)

    def to_latent(self, h: Tensor, latent_dim: int) -> Tensor:
        smallest = min(self.channels)
        place, inner = f"model.res_{smallest}", self.channels[smallest]
        if self.kind != "regular":
            return self.conv(f"{place}.1", leaky(h), latent_dim, 4, 0) if self.latent_res == 1 else self.block(f"{place}.0", h, latent_dim)
        first = 0
        if self.spread is not None:
            h, first = torch.cat([h, torch.full_like(h[:, :1], self.spread)], dim=1), 1
        h = self.hidden(f"{place}.{first + 1}", self.hidden(f"{place}.{first}", h, inner), inner, *((4, 0) if self.latent_res == 1 else (3, 1)))
        return self.conv(f"{place}.{first + 2}", h, latent_dim, 1, 0)

    def from_latent(self, z: Tensor) -> Tensor:
        smallest = min(self.channels)
        place, inner = f"model.res_{smallest}", self.channels[smallest]
        if self.kind != "regular":
            return self.conv(f"{place}.1", leaky(z), inner, 4, 3) if self.latent_res == 1 else self.block(f"{place}.0", z, inner)
        first = 0
        if self.normalize:
            z, first = z / ((z**2).mean(1, keepdim=True) + 1e-8).sqrt(), 1
        h = self.hidden(f"{place}.{first}", z, inner, *((4, 3) if self.latent_res == 1 else (3, 1)))
        return self.hidden(f"{place}.{first + 1}", h, inner)

    def up(self, path: str, h: Tensor, r: int) -> Tensor:
        place = f"{path}res_{r}"
        if self.kind == "regular":
            return self.hidden(f"{place}.2", self.hidden(f"{place}.1", self.double(h), self.channels[r]), self.channels[r])
        return self._resized(place, h, self.channels[r], double)

    def to_image(self, path: str, h: Tensor, r: int, image_dim: int) -> Tensor:
        place = f"{path}postprocess_res_{r}"
        return self.conv(place, h, image_dim, 1, 0) if self.kind == "regular" else self.conv(f"{place}.1", leaky(h), image_dim, 3, 1)

    # --- their parts

    def _above(self, r: int) -> int:
        return self.channels[min(2 * r, max(self.channels))]

    def _resized(self, place: str, h: Tensor, out: int, resize: Callable[[Tensor], Tensor]) -> Tensor:
        h = self.block(f"{place}.0", h, out, resize)
        return self.block(f"{place}.1", h, out) if self.kind == "residual18" else h

    def block(self, place: str, x: Tensor, out: int, resize: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Pre-activation: norm, leaky ReLU, resize, 3 x 3, norm, leaky ReLU, 3 x 3; beside it resize, 1 x 1 where channels change."""
        place_of_conv = (self.norm != "none") + 1 + (resize is not None)
        h = leaky(self.normalise(f"{place}.model.0", x))
        if resize is not None:
            h, x = resize(h), resize(x)
        h = leaky(self.conv(f"{place}.model.{place_of_conv}", h, out, 3, 1, normed=True))
        h = self.conv(f"{place}.model.{place_of_conv + 1}", h, out, 3, 1)
        skip = f"{place}.skipcon" if resize is None else f"{place}.skipcon.1"
        return h + (x if x.shape[1] == out else self.conv(skip, x, out, 1, 0))

    def hidden(self, place: str, x: Tensor, out: int, kernel: int = 3, padding: int = 1) -> Tensor:
        return leaky(self.conv(place, x, out, kernel, padding, normed=True))

    def conv(self, place: str, x: Tensor, out: int, kernel: int, padding: int, normed: bool = False) -> Tensor:
        """[padding], convolution, [weight scale], [norm] are the submodules 0, 1, ... of `place`.model."""
        regular = self.kind == "regular"
        number = 0
        if self.reflect and padding < 3 and not (regular and kernel == 1):
            number, padding, x = 1, 0, F.pad(x, [padding] * 4, mode="reflect") if padding else x
        weight = self.parameter(f"{place}.model.{number}.weight", out, x.shape[1], kernel, kernel)
        y = F.conv2d(x, weight, padding=padding)
        if regular and self.wscale:
            number += 1
            y = y * self.parameter(f"{place}.model.{number}.scale", 1)
            if self.random is not None:  # the authors' layer also holds the convolution that it scales
                self.state[f"{place}.model.{number}.incoming.weight"] = weight
        y = y + self.parameter(f"{place}.model.{number}.bias", out).view(1, -1, 1, 1)
        return self.normalise(f"{place}.model.{number + 1}", y) if normed else y

    def normalise(self, place: str, x: Tensor) -> Tensor:
        if self.norm == "none":
            return x
        if self.norm == "pixel":
            return x * torch.rsqrt((x**2).mean(1, keepdim=True) + 1e-8)
        if self.norm == "in":
            centred = x - x.mean((2, 3), keepdim=True)
            return centred / ((centred**2).mean((2, 3), keepdim=True) + 1e-5).sqrt()
        self.parameter(f"{place}.num_batches_tracked")
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (self.parameter(f"{place}.{name}", x.shape[1]).view(1, -1, 1, 1) for name in names)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def parameter(self, name: str, *shape: int) -> Tensor:
        if name not in self.state and self.random is not None:
            self.state[name] = self._drawn(name, shape)
        self.used.add(name)
        assert self.state[name].shape == shape, name
        return self.state[name]

    def _drawn(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(3)
        if len(shape) == 4 or name.endswith("bias"):
            return torch.randn(shape, generator=self.random) / torch.Size(shape[1:]).numel() ** 0.5
        return torch.rand(shape, generator=self.random) + 0.5  # scales and variances are positive
