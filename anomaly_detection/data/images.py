"""From an image file to pixels of one size and form."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from anomaly_detection.errors import UserError


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
        image = F.center_crop(image, [crop_size, crop_size])
    if equalize_hist:
        image = F.equalize(image)
    image = F.resize(image, [size, size], InterpolationMode.BILINEAR, antialias=True)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def decode(path: Path) -> Image.Image:
    """The pixels of an image file, upright, in whatever mode they are stored; raises UserError as `read_image` does."""
    try:
        with Image.open(path) as file:
            frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # MPO: a camera's JPEG with a preview behind it
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except Exception as error:  # a damaged file makes Pillow raise OSError, SyntaxError, ValueError, TypeError and more
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as an image ({reason}); replace it or leave it out") from error
    if frames > 1:
        raise UserError(f"{path}: holds {frames} images; save each as a file of its own")
    return image


def eight_bit(image: Image.Image, path: Path) -> Image.Image:
    """The image in mode L or RGB, by the fixed rule of `read_image`."""
    if image.mode[0] in "IF":  # I;16, I;16B, I: integers; F: floating point
        top = 1 if image.mode == "F" else 65535
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= top):  # also where they are NaN
            raise UserError(f"{path}: its values are {low:g} to {high:g}, but must lie in 0 to {top}; rescale it to 8-bit grey first")
        return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
