"""From an image file to what a network takes, and back, as one value that `prepare`, training, `predict` and `export` share."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from scipy.sparse import csr_array

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

    def back(self, anomaly_map: np.ndarray, shape: tuple[int, int], at: tuple[int, int] | None = None) -> np.ndarray:
        """What a network says of its image, laid on the pixels of the image as it was read.

        Args:
            anomaly_map: (image_size, image_size), a value for each pixel of `apply`'s image.
            shape: (H, W) of the image that `apply` was given.
            at: (h, w), how finely the whole of that image is sampled; None: `shape`.

        Returns:
            (h, w) float32. Where the network saw nothing, outside a crop, it is 0, as where nothing is unusual; not NaN,
            which some viewers take for the end of their scale.
        """
        rows, columns = (
            _sampling(*self._seen(shape)[axis], shape[axis], shape[axis] if at is None else at[axis], anomaly_map.shape[axis]) for axis in (0, 1)
        )
        return rows @ (columns @ np.asarray(anomaly_map, np.float32).T).T

    def _seen(self, shape: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where the edges of the network's image lie in an image (H, W), in its pixels, of which the first begins at 0: from top to bottom, from left
        to right. Beyond 0 and H or W are the black bars of padding."""
        stored = _fitted(shape[::-1], self.size, self.aspect) if self.size is not None else tuple((0, side, side) for side in shape[::-1])
        edges = []
        for length, (offset, inner, side) in zip(shape, stored[::-1], strict=True):
            first = 0 if self.crop_size is None else _margin(side, self.crop_size)
            last = side if self.crop_size is None else first + self.crop_size
            edges.append(((first - offset) * length / inner, (last - offset) * length / inner))
        return edges[0], edges[1]

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
    left, top = (_margin(length, side) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _margin(length: int, side: int) -> int:
    """Where the middle `side` pixels of a line of `length` begin; below 0 where it is shorter."""
    # a margin that is odd goes to even numbers in a crop and to the right in a padding, as torchvision has it
    return round((length - side) / 2) if length >= side else -((side - length) // 2)


def _resize_mask(mask: np.ndarray, size: int, aspect: Aspect) -> np.ndarray:
    share = np.asarray(_resize(Image.fromarray(mask.astype(np.float32)), size, aspect))
    most = float(share.max())
    return share >= min(0.5, most / 2) if most > 0 else np.zeros((size, size), bool)


def _resize(image: Image.Image, size: int, aspect: Aspect) -> Image.Image:
    (left, width, _), (top, height, _) = _fitted(image.size, size, aspect)
    # Rows first, in a call of their own: where both are asked for at once, Pillow 13 begins with the columns of some images, Pillow 12 never does.
    rows = image.resize((width, image.height), Image.Resampling.BILINEAR)
    inner = rows.resize((width, height), Image.Resampling.BILINEAR)
    if (width, height) == (size, size):
        return inner
    fitted = Image.new(image.mode, (size, size))
    fitted.paste(inner, (left, top))
    return fitted


def _fitted(lengths: tuple[int, int], size: int, aspect: Aspect) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Of each side of an image on its way to (size, size): where it begins there, how long it is there, and `size`."""
    scale = size / max(lengths)
    inner = [size if aspect == "stretch" else max(1, round(length * scale)) for length in lengths]
    first, second = (((size - each) // 2, each, size) for each in inner)
    return first, second


@functools.lru_cache(maxsize=32)
def _sampling(start: float, stop: float, length: int, count: int, cells: int) -> csr_array:
    """Weights (count, cells) float32, few of them above 0, that lay `cells` values between two edges on a line of `count` pixels.

    They are bilinear, with antialiasing where the values are finer than the pixels. A pixel whose middle is beyond the edges has none.

    Args:
        start, stop: the edges, in pixels of an image whose side has `length` of them.
        length: of the line, before it is sampled by `count` pixels.
        count: of these.
        cells: how many values there are.
    """
    middles = ((np.arange(count) + 0.5) * length / count - start) / (stop - start) * cells
    reach = max(1.0, length / count / (stop - start) * cells)
    weights = np.maximum(0, 1 - np.abs(np.arange(cells) + 0.5 - middles[:, None]) / reach)
    seen = (middles >= 0) & (middles <= cells)
    weights = np.where(seen[:, None], weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12), 0)
    return csr_array(weights.astype(np.float32))
