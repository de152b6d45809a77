"""Images out of picture files: PNG, JPEG, TIFF and BMP."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from anomaly_detection.data.formats.window import Window, WindowChoice
from anomaly_detection.system.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def is_picture(name: str) -> bool:
    """Whether its suffix says so."""
    return name.lower().endswith(PICTURES)


def read_picture(path: Path, window: WindowChoice) -> np.ndarray:
    """A PNG, JPEG, TIFF or BMP file as (H, W) uint8, or (H, W, 3) where it has colours, turned as its EXIF orientation says; see `shown`.

    Raises:
        UserError: the file is missing, damaged, no image, holds several, or has values out of range.
    """
    return shown(decode(path), window, path)


def shown(image: Image.Image, window: WindowChoice, where: Path | str) -> np.ndarray:
    """An opened picture as (H, W) or (H, W, 3) uint8.

    With 8 bits its values stay as they are; alpha lies over black. More bits are shown through `window`; where that is None, by one fixed rule
    for all images: grey 0..65535 to 0..255 by rounding, floating point 0..1 to 0..255 by rounding. Of 16-bit colour Pillow keeps the upper 8 bits.

    Raises:
        UserError: without a window, values out of range; it names `where`.
    """
    if window is not None and image.mode[0] in "IF":
        values = np.asarray(image)
        return (Window.covering(values) if window == "auto" else window).grey(values)
    return np.asarray(_eight_bit(image, where))


def decode(path: Path) -> Image.Image:
    """The pixels of an image file, upright, in whatever mode they are stored; raises UserError as `read_picture` does."""
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


def _eight_bit(image: Image.Image, where: Path | str) -> Image.Image:
    """The image in mode L or RGB, by the fixed rule of `shown`."""
    if image.mode[0] in "IF":  # I;16, I;16B, I: integers; F: floating point
        top = 1 if image.mode == "F" else 65535
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= top):  # also where they are NaN
            advice = "give a window, or rescale it to 8-bit grey first"
            raise UserError(f"{where}: its values are {low:g} to {high:g}, but must lie in 0 to {top}; {advice}")
        return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
