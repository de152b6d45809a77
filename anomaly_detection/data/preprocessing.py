"""From an image file to what a network takes, as one value that `prepare`, training, `predict` and `export` share."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from anomaly_detection.data.formats.pictures import read_picture
from anomaly_detection.data.formats.window import WindowChoice, plain_window, window_from
from anomaly_detection.system.errors import UserError

Aspect = Literal["stretch", "pad"]
TINT = 16  # by so much of 255 the channels of a grey image differ at most, as the noise of a JPEG makes them


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image on its way to a network, in the order of the attributes.

    The first four are the part of `prepare`, which stores what comes of them; what it has stored passes through them unchanged. All resizing is
    bilinear with antialiasing. Nothing is stretched to an image's own minimum and maximum unless `window` says so, since brightness may tell
    normal from abnormal.

    Attributes:
        window: the values that are shown of images with more than 8 bits; see `WindowChoice`.
        aspect: what becomes of images that are not square on their way to `size`: stretched, or between black bars.
        size: side in pixels of the images that `prepare` stores; None where it has not made them: they are taken as they are.
        stored_channels: what `prepare` leaves of colours on their way to `size`: 1 for grey, 3 for all.
        crop_size: side of the centre crop, with 0 around a smaller image; None: the whole image.
        equalize_hist: equalise the histogram, of each channel on its own.
        image_size: side of the network's images, to which these are stretched.
        channels: of these: 1 for grey, 3 for RGB, three times the same where only grey is stored.
    """

    window: WindowChoice = None
    aspect: Aspect = "stretch"
    size: int | None = None
    stored_channels: Literal[1, 3] = 1
    crop_size: int | None = None
    equalize_hist: bool = False
    image_size: int = 64
    channels: Literal[1, 3] = 1

    def store(self, pixels: np.ndarray) -> np.ndarray:
        """The part of `prepare`: of an image (H, W) or (H, W, 3) uint8, (size, size) uint8, with colours that are kept (size, size, 3).

        Where `size` is None it is the image itself.
        """
        if self.size is None:
            return pixels
        kept = self.stored_channels == 3 and colourfulness(pixels) > 0
        stored = np.asarray(_resize(Image.fromarray(pixels).convert("RGB" if kept else "L"), self.size, self.aspect))
        return stored if colourfulness(stored) > 0 or stored.ndim == 2 else stored[..., 0]

    def loses_colour(self, pixels: np.ndarray) -> bool:
        """Whether `store` makes grey of an image that is none."""
        return self.size is not None and self.stored_channels == 1 and colourfulness(pixels) > TINT

    def store_mask(self, mask: np.ndarray) -> np.ndarray:
        """The same of its mask (H, W) bool: where it covers half of a pixel; a small lesion keeps the pixels that it covers most."""
        return mask if self.size is None else _resize_mask(mask, self.size, self.aspect)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """An image (H, W) or (H, W, 3) uint8 as the network takes it: (channels, image_size, image_size) uint8."""
        image = Image.fromarray(self.store(pixels)).convert("L" if self.channels == 1 else "RGB")
        if self.crop_size is not None:
            image = _crop(image, self.crop_size)
        if self.equalize_hist:
            image = ImageOps.equalize(image)
        image = _resize(image, self.image_size, "stretch")
        return np.asarray(image).reshape(self.image_size, self.image_size, self.channels).transpose(2, 0, 1)

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """Where in the network's image the lesion of a mask (H, W) bool is: (image_size, image_size) bool."""
        image = Image.fromarray(self.store_mask(mask).astype(np.uint8))
        if self.crop_size is not None:
            image = _crop(image, self.crop_size)
        return _resize_mask(np.asarray(image) > 0, self.image_size, "stretch")

    def read(self, path: Path) -> np.ndarray:
        """A picture file as the network takes it, (channels, image_size, image_size) uint8; see `read_picture` for what is read and raised."""
        return self.apply(read_picture(Path(path), self.window))

    def to_plain(self) -> dict[str, Any]:
        """For a JSON or YAML file or a checkpoint."""
        return {**vars(self), "window": plain_window(self.window)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_plain`.

        Raises:
            ValueError: other keys.
        """
        names = [field.name for field in fields(cls)]
        values = {"stored_channels": 1, **values}  # what there was before colours could be kept
        if set(values) != set(names):
            raise ValueError(f"preprocessing has the keys {', '.join(values)}, not {', '.join(names)}")
        return cls(**{**values, "window": window_from(values["window"])})


def colourfulness(pixels: np.ndarray) -> int:
    """By how much the channels of a pixel of an image (H, W) or (H, W, 3) uint8 differ at most; 0 of a grey one."""
    return int(np.ptp(pixels, axis=2).max()) if pixels.ndim == 3 else 0


def differences(preprocessing: Mapping[str, Preprocessing]) -> dict[str, str]:
    """What some datasets differ in, by key, with the value of each: {"size": "lits: 300, brain: 256"}."""
    plain = {name: each.to_plain() for name, each in preprocessing.items()}
    first = next(iter(plain.values()))
    differing = [key for key in first if any(each[key] != first[key] for each in plain.values())]
    return {key: ", ".join(f"{name}: {each[key]}" for name, each in plain.items()) for key in differing}


def agreed(preprocessing: Mapping[str, Preprocessing], where: str) -> Preprocessing:
    """How an image of unknown origin is to be treated by a network that was trained on some datasets.

    Where they differ in their windows alone there is none: images of more than 8 bits are shown as their files say. Where some are stored in grey
    and others in colour, colours are kept: a grey image is the same either way.

    Args:
        preprocessing: of each dataset.
        where: what the message is about.

    Raises:
        UserError: the datasets differ in more than that.
    """
    unlike = differences(preprocessing)
    decisive = {key: values for key, values in unlike.items() if key not in ("window", "stored_channels")}
    if decisive:
        told = "; ".join(f"{key} ({values})" for key, values in decisive.items())
        raise UserError(f"{where}: trained on datasets with different {told}: how a new image is to be treated is not known")
    first = next(iter(preprocessing.values()))
    window = None if "window" in unlike else first.window
    return replace(first, window=window, stored_channels=max(each.stored_channels for each in preprocessing.values()))


def _crop(image: Image.Image, side: int) -> Image.Image:
    """The middle of an image, (side, side); where the image is smaller there is 0 around it."""
    # a margin that is odd goes to even numbers in a crop and to the right in a padding, as torchvision has it
    left, top = (round((length - side) / 2) if length >= side else -((side - length) // 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _resize_mask(mask: np.ndarray, size: int, aspect: Aspect) -> np.ndarray:
    share = np.asarray(_resize(Image.fromarray(mask.astype(np.float32)), size, aspect))
    most = float(share.max())
    return share >= min(0.5, most / 2) if most > 0 else np.zeros((size, size), bool)


def _resize(image: Image.Image, size: int, aspect: Aspect) -> Image.Image:
    if aspect == "stretch":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    scale = size / max(image.size)
    inner = image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.BILINEAR)
    fitted = Image.new(image.mode, (size, size))
    fitted.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return fitted
