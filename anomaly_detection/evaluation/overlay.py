"""An anomaly map laid over its image, with a colour bar: the same colours for the same values in all images of a detector.

A map is measured in multiples of what it seldom exceeds in normal images, the detector's `map_scale`. Up to 1 the image stays as it is; beyond, it is
tinted, so strongly that the first step is seen, and brighter up to `TOP`. The colours are few enough for pictures with a palette: these are written
several times as fast as true colours, of which four times the pixels would cost more than the network does.
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomaly_detection.data.preprocessing import Preprocessing

TOP = 2.0  # multiples of the usual; what detectors of all kinds mark in abnormal images lies between 1 and 2 nearly always
LABEL = ("anomaly map, in multiples of the", "99.5th percentile of normal images")
LONGEST, SHORTEST = 1024, 256  # of the longer side of a picture, in pixels

GREYS = 128  # of an image where it is not tinted: the first colours of the palette
HEATS, SHADES = 16, 8  # steps from 1 to TOP, and of the grey that shines through each
COLOURS = "inferno", 0.45  # a perceptually ordered colour map of matplotlib, without its dark beginning, which would be lost on dark images
OPACITY = 0.65, 0.9  # at 1 and at TOP


class Backdrop(NamedTuple):
    """An image to lay its map over.

    Attributes:
        grey: (h, w) uint8, at the size of the picture.
        shape: (H, W) of the image as it was read.
    """

    grey: np.ndarray
    shape: tuple[int, int]


class Overlay(NamedTuple):
    """A picture of an image with its map.

    Attributes:
        picture: of mode P; the image in the upper left corner, the colour bar right of it.
        shape: (h, w) of the image in it.
    """

    picture: Image.Image
    shape: tuple[int, int]


def backdrop(pixels: np.ndarray) -> Backdrop:
    """An image (H, W) or (H, W, 3) uint8 in grey, at its size, unless that is beyond 1024 pixels or too small to be looked at."""
    grey = Image.fromarray(pixels).convert("L")
    longest = max(grey.size)
    factor = min(1, LONGEST / longest) * -(-SHORTEST // longest)
    if factor != 1:
        resample = Image.Resampling.BILINEAR if factor < 1 else Image.Resampling.BICUBIC
        grey = grey.resize(tuple(max(1, round(side * factor)) for side in grey.size), resample)
    return Backdrop(np.asarray(grey), pixels.shape[:2])


def draw_overlay(image: Backdrop, anomaly_map: np.ndarray, preprocessing: Preprocessing, scale: float) -> Overlay:
    """An image with its map and the colour bar.

    Args:
        image: as `backdrop` makes it.
        anomaly_map: (image_size, image_size) of the network.
        preprocessing: how the image came to the network.
        scale: what the detector's maps seldom exceed in normal images.
    """
    shape = image.grey.shape
    bar = _colour_bar(shape[0], float(scale))
    canvas = np.zeros((bar.shape[0], shape[1] + bar.shape[1]), np.uint8)
    canvas[: shape[0], : shape[1]] = tint(image.grey, preprocessing.back(anomaly_map, image.shape, shape), scale)
    canvas[:, shape[1] :] = bar
    picture = Image.fromarray(canvas)
    picture.putpalette(palette().tobytes())
    return Overlay(picture, shape)


def overlay(image: np.ndarray, anomaly_map: np.ndarray, scale: float) -> np.ndarray:
    """An image of the network's size with its map, without a bar.

    Args:
        image: (C, H, W) uint8, C 1 or 3.
        anomaly_map: (H, W).
        scale: what the detector's maps seldom exceed in normal images.

    Returns:
        (H, W, 3) uint8.
    """
    grey = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).convert("L")
    return palette()[tint(np.asarray(grey), anomaly_map, scale)]


def tint(grey: np.ndarray, anomaly_map: np.ndarray, scale: float) -> np.ndarray:
    """The numbers in `palette` of the colours of an image (H, W) uint8 with its map (H, W): (H, W) uint8."""
    numbers = grey // (256 // GREYS)
    marked = anomaly_map > scale
    share = (anomaly_map[marked] / max(scale, 1e-12) - 1) / (TOP - 1)
    heat = np.clip(share * HEATS, 0, HEATS - 1).astype(np.uint8)
    numbers[marked] = GREYS + heat * SHADES + grey[marked] // (256 // SHADES)
    return numbers


@functools.cache
def palette() -> np.ndarray:
    """(256, 3) uint8: first the greys, then of every step from 1 to `TOP` what it makes of dark to bright pixels."""
    import matplotlib  # here, as drawing is the only use of it in `predict`

    name, first = COLOURS
    heats = matplotlib.colormaps[name](np.linspace(first, 1, HEATS))[:, None, :3] * 255
    opacity = np.linspace(*OPACITY, HEATS)[:, None, None]
    greys, shades = (np.repeat(np.linspace(0, 255, count)[:, None], 3, axis=1) for count in (GREYS, SHADES))
    tinted = opacity * heats + (1 - opacity) * shades
    return np.rint(np.concatenate([greys, tinted.reshape(-1, 3)])).astype(np.uint8)


def heat_colours() -> np.ndarray:
    """(HEATS, 3) from 0 to 1, the colours of the steps from 1 to `TOP` over a middle grey."""
    return palette()[GREYS:].reshape(HEATS, SHADES, 3)[:, SHADES // 2] / 255


@functools.lru_cache(maxsize=64)
def _colour_bar(height: int, scale: float) -> np.ndarray:
    """The bar for pictures of a height, as numbers in `palette`, (at least `height`, w) uint8; from left to right it lies over black to white."""
    height = max(height, 200)
    font = ImageFont.load_default(min(max(height // 24, 11), 22))
    size = round(font.size)
    words = Image.new("L", (7 * size, height))
    draw = ImageDraw.Draw(words)
    top, bottom, left, right = size, height - size, size // 2, 2 * size
    for share in (0, 0.5, 1):
        y = bottom + (top - bottom) * share
        draw.line((right, y, right + size // 3, y), fill=255)
        draw.text((right + size // 2, y), f"{1 + (TOP - 1) * share:g}{'+' if share == 1 else ''}", fill=255, font=font, anchor="lm")
    draw.rectangle((left - 1, top - 1, right, bottom), outline=255)
    label = Image.new("L", (height, 3 * size))
    small = ImageFont.load_default(min(font.size, height / 20))
    lines = "\n".join((LABEL[0], f"{LABEL[1]} ({scale:.3g})"))
    ImageDraw.Draw(label).multiline_text((height / 2, 1.5 * size), lines, fill=255, font=small, anchor="mm", align="center", spacing=2)
    words.paste(label.rotate(90, expand=True), (words.width - 3 * size, 0))
    bar = np.asarray(words) // (256 // GREYS)
    heat = np.arange(bottom - top)[::-1, None] * HEATS // (bottom - top)
    shade = np.arange(right - left)[None] * SHADES // (right - left)
    bar[top:bottom, left:right] = GREYS + heat * SHADES + shade
    return bar
