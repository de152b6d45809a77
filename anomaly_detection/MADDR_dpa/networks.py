"""Encoder, decoder and discriminator of the Deep Perceptual Autoencoder (DPA): one network for all resolutions that it is grown through.

Parameters have the names of the authors' checkpoints; the number in a name is the size of the feature maps there.

Sources: DPA: Shvetsova et al., Anomaly Detection in Medical Imaging with Deep Perceptual Autoencoders, IEEE Access 2021. Residual blocks:
He et al., Identity Mappings in Deep Residual Networks, ECCV 2016. `regular`, fade-in, weight scale, minibatch stddev: Karras et al.,
Progressive Growing of GANs, ICLR 2018.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_detection.MADDR_dpa.blocks import BLOCKS, NetworkSettings
from anomaly_detection.system.errors import UserError


@dataclass(frozen=True)
class EncoderSettings(NetworkSettings):
    """What an encoder, or a discriminator, is made of.

    Attributes:
        type: pre-activation residual blocks, two (residual18) or one (residual9) a resolution; or plain convolutions (regular).
        inner_dims: channels, from large maps to small: the last entry is that of the smallest, the one before of those twice as large.
        norm: batch, instance or pixel norm, inside residual blocks, or after the hidden convolutions of `regular`.
        pad_type: of the 3 x 3 convolutions.
        use_wscale: keep weights at unit size and scale the output (`regular` alone; the residual types take no notice).
        pool: how `regular` halves maps; the residual types average.
        use_mbstddev: tell `regular` how much the images of a batch differ.

    Raises:
        ValueError: a channel number below 1, or minibatch stddev in a residual network.
    """

    pool: Literal["avg", "max"] = "avg"
    use_mbstddev: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.use_mbstddev and self.type != "regular":
            raise ValueError(f"use_mbstddev needs the type regular, not {self.type}")


@dataclass(frozen=True)
class DecoderSettings(NetworkSettings):
    """What a decoder is made of; as `EncoderSettings`, but inner_dims goes from small maps to large: the first is that of the smallest.

    Attributes:
        normalize_latents: pixel norm of the latent (`regular` alone; the residual types take no notice).
        upsample_mode: how `regular` doubles maps (residual blocks repeat pixels), and any type the low-resolution image of a fade-in.

    Raises:
        ValueError: a channel number below 1.
    """

    normalize_latents: bool = False
    upsample_mode: Literal["nearest", "bilinear"] = "nearest"


class Encoder(nn.Module):
    """Images to latents: in at a resolution, halve down to the smallest maps, to the latent. With a latent of 1 x 1 x 1, a discriminator.

    Args:
        settings: what it is made of.
        image_dim: channels of the images.
        latent_dim, latent_res: the latent is (B, latent_dim, latent_res, latent_res); latent_res is 1 or a power of two from 4 on.
        max_resolution: that of the fully grown network, a power of two; inner_dims reaches to it.
        resolutions: those at which images enter, powers of two up to max_resolution; blocks exist up to the largest.

    Raises:
        ValueError: settings that no network can have; the message starts with the name of one.
    """

    def __init__(self, settings: EncoderSettings, image_dim: int, latent_dim: int, latent_res: int, max_resolution: int, resolutions: Sequence[int]):
        super().__init__()
        channels = _channels(settings.inner_dims[::-1], latent_res, max_resolution)
        if settings.type == "regular" and settings.norm == "in" and latent_res == 1:
            raise ValueError("norm in needs a latent_res above 1 in a regular encoder, a 1 x 1 map has no spread to normalise")
        self.image_dim = image_dim
        self.smallest = min(channels)
        self.resolutions = _check_resolutions(resolutions, channels)
        blocks = BLOCKS[settings.type](settings, channels, image_dim, latent_dim, latent_res)
        self.model = nn.ModuleDict({f"preprocess_res_{r}": blocks.from_image(r) for r in self.resolutions})
        for r in reversed(_resolutions(2 * self.smallest, self.resolutions[-1])):
            self.model[f"res_{r}"] = blocks.down(r)
        self.model[f"res_{self.smallest}"] = blocks.to_latent()
        self.register_load_state_dict_pre_hook(_accept_earlier_names)

    def forward(self, x: Tensor, resolution: int | None = None, fade: float = 1.0) -> Tensor:
        """Latents (B, latent_dim, latent_res, latent_res) of images.

        Args:
            x: (B, image_dim, R, R).
            resolution: R, one of `resolutions`; None for the largest.
            fade: in [0, 1], the weight of the path from R; the rest, if any, is that of the path from the image averaged to R/2.

        Raises:
            ValueError: images of another shape, or a resolution or fade that the network does not have.
        """
        resolution = _check_stage(self.resolutions, resolution, fade)
        _check_shape("images", x, (self.image_dim, resolution, resolution))
        h = self.model[f"preprocess_res_{resolution}"](x)
        for r in reversed(_resolutions(self.smallest, resolution)):
            h = self.model[f"res_{r}"](h)
            if r == resolution and fade < 1:
                h = _mix(self.model[f"preprocess_res_{r // 2}"](F.avg_pool2d(x, 2)), h, fade)
        return h


class Decoder(nn.Module):
    """Latents to images: from the latent, double up to a resolution, out without an activation.

    Args:
        settings, image_dim, latent_dim, latent_res, max_resolution: as in `Encoder`.
        resolutions: those at which images leave.

    Raises:
        ValueError: settings that no network can have; the message starts with the name of one.
    """

    def __init__(self, settings: DecoderSettings, image_dim: int, latent_dim: int, latent_res: int, max_resolution: int, resolutions: Sequence[int]):
        super().__init__()
        channels = _channels(settings.inner_dims, latent_res, max_resolution)
        first = settings.inner_dims[0]
        if settings.type != "regular" and latent_res > 1 and latent_dim != first:
            raise ValueError(f"latent_dim {latent_dim} must equal inner_dims[0], {first}, in a residual decoder of latent_res {latent_res}")
        self.latent_shape = (latent_dim, latent_res, latent_res)
        self.smallest = min(channels)
        self.resolutions = _check_resolutions(resolutions, channels)
        self.upsample_mode = settings.upsample_mode
        blocks = BLOCKS[settings.type](settings, channels, image_dim, latent_dim, latent_res)
        self.model = nn.ModuleDict({f"res_{self.smallest}": blocks.from_latent()})
        for r in _resolutions(2 * self.smallest, self.resolutions[-1]):
            self.model[f"res_{r}"] = blocks.up(r)
        for r in self.resolutions:
            self.model[f"postprocess_res_{r}"] = blocks.to_image(r)
        self.register_load_state_dict_pre_hook(_accept_earlier_names)

    def forward(self, z: Tensor, resolution: int | None = None, fade: float = 1.0) -> Tensor:
        """Images (B, image_dim, R, R) of latents.

        Args:
            z: (B, latent_dim, latent_res, latent_res).
            resolution: R, one of `resolutions`; None for the largest.
            fade: in [0, 1], the weight of the image at R; the rest, if any, is that of the image at R/2, doubled.

        Raises:
            ValueError: latents of another shape, or a resolution or fade that the network does not have.
        """
        resolution = _check_stage(self.resolutions, resolution, fade)
        _check_shape("latents", z, self.latent_shape)
        below, h = None, z
        for r in _resolutions(self.smallest, resolution):
            below, h = h, self.model[f"res_{r}"](h)
        image = self.model[f"postprocess_res_{resolution}"](h)
        if fade < 1:
            low = self.model[f"postprocess_res_{resolution // 2}"](below)
            image = _mix(F.interpolate(low, scale_factor=2, mode=self.upsample_mode), image, fade)
        return image


def translate_original(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """The state dict of an authors' encoder or decoder as one of ours, and its fade: 1 where it was not fading a resolution in.

    Theirs names the paths that a fade-in mixes, and holds the weights of scaled convolutions twice.
    """
    translated = {}
    for key, value in state.items():
        path = next((path for path in ("model.concat.layer1.", "model.concat.layer2.") if key.startswith(path)), "model.")
        if not key.endswith(".incoming.weight"):
            translated["model." + key.removeprefix(path)] = value
    fade = translated.pop("model.fadein._alpha", torch.ones(1))
    return translated, fade.item()


def _accept_earlier_names(network: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded: name as now what earlier versions wrote, or say in a line that it does not fit.

    They left out the number of the one block beside a latent of several places: res_4.model where the authors have res_4.0.model.
    """
    for key in list(state):
        state[re.sub(rf"^({re.escape(prefix)}model\.res_\d+)\.(?=model|skipcon)", r"\1.0.", key)] = state.pop(key)
    missing = next((name for name in network.state_dict(prefix=prefix) if name not in state), None)
    if missing is not None:
        raise UserError(
            f"the checkpoint has no {missing}: it is of a network with other settings, or an earlier version wrote it, "
            "which had other names with use_wscale and pad_type reflect; train again"
        )


# --- Settings and stages --------------------------------------------------------------------------------------------------------------


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _resolutions(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, ... up to last."""
    return [first << i for i in range((last // first).bit_length())]


def _channels(inner_dims: Sequence[int], latent_res: int, max_resolution: int) -> dict[int, int]:
    """{resolution: channels} from the smallest maps to those of max_resolution; inner_dims starts with the smallest."""
    if latent_res != 1 and not (_is_power_of_two(latent_res) and latent_res >= 4):
        raise ValueError(f"latent_res must be 1 or a power of two from 4 on, not {latent_res}")
    smallest = max(4, latent_res)
    if not _is_power_of_two(max_resolution) or max_resolution < smallest:
        raise ValueError(f"max_resolution must be a power of two from {smallest} on, not {max_resolution}")
    resolutions = _resolutions(smallest, max_resolution)
    if len(inner_dims) < len(resolutions):
        raise ValueError(f"inner_dims needs {len(resolutions)} entries from {smallest} to {max_resolution} pixels, has {len(inner_dims)}")
    return dict(zip(resolutions, inner_dims, strict=False))


def _check_resolutions(resolutions: Sequence[int], channels: Mapping[int, int]) -> list[int]:
    if not resolutions or not set(resolutions) <= set(channels):
        raise ValueError(f"resolutions must be some of {', '.join(map(str, channels))}, not {list(resolutions)}")
    return sorted(set(resolutions))


def _check_stage(resolutions: Sequence[int], resolution: int | None, fade: float) -> int:
    """The resolution to work at; images can enter or leave there, and in a fade-in at half of it."""
    resolution = resolutions[-1] if resolution is None else resolution
    if not 0 <= fade <= 1:
        raise ValueError(f"fade must be in [0, 1], not {fade}")
    for needed in [resolution] if fade == 1 else [resolution, resolution // 2]:
        if needed not in resolutions:
            raise ValueError(f"resolution {needed} is not one of those of this network, {', '.join(map(str, resolutions))}")
    return resolution


def _check_shape(what: str, x: Tensor, expected: tuple[int, ...]) -> None:
    if x.ndim != 4 or x.shape[1:] != expected:
        raise ValueError(f"{what} must be (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}")


def _mix(low: Tensor, high: Tensor, fade: float) -> Tensor:
    return (1 - fade) * low + fade * high
