"""From an image file to pixels of one size and form."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from anomaly_detection.data.formats.pictures import decode, eight_bit

Aspect = Literal["stretch", "pad"]


def read_image(path: Path, size: int, channels: Literal[1, 3], crop_size: int | None = None, equalize_hist: bool = False) -> np.ndarray:
    """Read an image, then crop its centre, equalise its histogram and resize it, in this order: DPA's preprocessing.

    Any file that Pillow reads, turned as its EXIF orientation says. Alpha lies over black. More than 8 bits become 8 by one fixed rule,
    the same for all images: grey 0..65535 to 0..255 by rounding, floating point 0..1 to 0..255 by rounding; of 16-bit colour Pillow keeps
    the upper 8 bits. Nothing is stretched to an image's own minimum and maximum, since brightness may tell normal from abnormal.

    Args:
        path: the file; it holds one image.
        size: height and width of the result, in pixels. The resize is bilinear with antialiasing and does not keep the aspect ratio.
        channels: 1 for grey, 3 for RGB.
        crop_size: side of the centre crop; a smaller image is padded with 0. None: the whole image.
        equalize_hist: equalise the histogram, of each channel on its own.

    Returns:
        (channels, size, size) uint8.

    Raises:
        UserError: the file is missing, damaged, not an image, holds several images, or has values out of range.
    """
    return fit_image(eight_bit(decode(Path(path)), path), size, channels, crop_size, equalize_hist)


def fit_image(image: Image.Image, size: int, channels: Literal[1, 3], crop_size: int | None = None, equalize_hist: bool = False) -> np.ndarray:
    """What `read_image` does once the file is read: (channels, size, size) uint8 of an image of 8 bits."""
    image = image.convert("L" if channels == 1 else "RGB")
    if crop_size is not None:
        image = crop_center(image, crop_size)
    if equalize_hist:
        image = ImageOps.equalize(image)
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def crop_center(image: Image.Image, side: int) -> Image.Image:
    """The middle of an image, (side, side); where the image is smaller there is 0 around it."""
    # a margin that is odd goes to even numbers in a crop and to the right in a padding, as torchvision has it
    left, top = (round((length - side) / 2) if length >= side else -((side - length) // 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def resize_grey(pixels: np.ndarray, size: int, aspect: Aspect) -> np.ndarray:
    """An image (H, W) or (H, W, 3) uint8 as grey (size, size): bilinear with antialiasing, stretched or between black bars."""
    return np.asarray(_fit(Image.fromarray(pixels).convert("L"), size, aspect))


def resize_mask(mask: np.ndarray, size: int, aspect: Aspect) -> np.ndarray:
    """A mask (H, W) bool as (size, size) uint8, 255 where it covers half of a pixel; a small lesion keeps the pixels that it covers most."""
    share = np.asarray(_fit(Image.fromarray(mask.astype(np.float32)), size, aspect))
    most = float(share.max())
    return np.where(share >= min(0.5, most / 2), 255, 0).astype(np.uint8) if most > 0 else np.zeros((size, size), np.uint8)


def _fit(image: Image.Image, size: int, aspect: Aspect) -> Image.Image:
    if aspect == "stretch":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    scale = size / max(image.size)
    inner = image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.BILINEAR)
    fitted = Image.new(image.mode, (size, size))
    fitted.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return fitted
