"""Images out of picture files, PNG, JPEG, TIFF and BMP, and into PNG."""

import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anomaly_detection.data.formats.window import Window, WindowChoice
from anomaly_detection.system.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp")
CONVERT = "save it as PNG with 8 or 16 bits, by ImageJ for example"
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS, PHOTOMETRIC, ORIENTATION, PLANAR, SAMPLE_FORMAT, SUBSAMPLING = 258, 262, 274, 284, 339, 530  # tags of TIFF, and of EXIF
TURNING_CHUNKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # of a PNG, which may hold an orientation
WHITE_IS_ZERO, YCBCR = 0, 6
SIGNED = 2


class Stored(NamedTuple):
    """What a picture file holds.

    Attributes:
        image: upright, in whatever mode Pillow reads it.
        top: the value that is white where no window says otherwise.
        lossy: whether values are only nearly those that were meant, as in a JPEG.
        doubt: why a value of `image` that is 0, or is not, need not have been so in the file; "" where it was.
    """

    image: Image.Image
    top: int
    lossy: bool = False
    doubt: str = ""


def is_picture(name: str) -> bool:
    """Whether its suffix says so."""
    return name.lower().endswith(PICTURES)


def read_picture(path: Path, window: WindowChoice) -> np.ndarray:
    """A PNG, JPEG, TIFF or BMP file as (H, W) uint8, or (H, W, 3) where it has colours, turned as its EXIF orientation says; see `shown`.

    Raises:
        UserError: the file is missing, damaged, no image, of a kind that is not read, holds several images, or has values out of range.
    """
    stored = decode(path)
    return shown(stored.image, window, path, stored.top)


def shown(image: Image.Image, window: WindowChoice, where: Path | str, top: int | None = None) -> np.ndarray:
    """An opened picture as (H, W) or (H, W, 3) uint8.

    With 8 bits its values stay as they are; alpha lies over black. More bits are shown through `window`; where that is None, by one fixed rule
    for all images: grey 0..65535 (of a TIFF that packs 12 bits 0..4095) to 0..255 by rounding, floating point 0..1 to 0..255 by rounding. Of 16-bit
    colour Pillow keeps the upper 8 bits.

    Args:
        image: in any mode.
        window: see `WindowChoice`.
        where: what errors name.
        top: the value that is white without a window, if it is not the one of that rule.

    Raises:
        UserError: without a window, values out of range; or colours that cannot be turned into red, green and blue.
    """
    if window is not None and image.mode[0] in "IF":
        values = np.asarray(image)
        return (Window.covering(values) if window == "auto" else window).grey(values)
    return np.asarray(_eight_bit(image, where, top))


def opened(image: Image.Image) -> Stored:
    """An image that Pillow has opened, as `decode` would read its file; raises UserError where its pixels would be wrong."""
    if unread := _misread(image):
        raise UserError(f"image: {unread}")
    return _stored(image)


def decode(path: Path) -> Stored:
    """The pixels of an image file; raises UserError as `read_picture` does."""
    try:
        with open(path, "rb") as content, Image.open(content) as file:  # by its path Pillow mixes rows and columns of a TIFF that lies on its side
            frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # MPO: a camera's JPEG with a preview behind it
            unread = f"holds {frames} images; save each as a file of its own" if frames > 1 else _misread(file)
            stored = None if unread else _stored(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except Exception as error:  # a damaged file makes Pillow raise OSError, SyntaxError, ValueError, TypeError and more
        if isinstance(error, UnidentifiedImageError) and _is_tiff(path):
            raise UserError(f"{path}: a TIFF with a kind of samples that is not read; {CONVERT}") from None
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its content is not that of an image" if unknown else " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as an image ({reason}); replace it or leave it out") from error
    if unread:
        raise UserError(f"{path}: {unread}")
    return stored


def picture_shape(path: Path) -> tuple[int, int]:
    """(H, W) of what `read_picture` gives, without decoding it; raises UserError where it cannot be told."""
    try:
        with open(path, "rb") as content, Image.open(content) as file:
            width, height = file.size
            on_its_side = _may_be_turned(file, content) and file.getexif().get(ORIENTATION, 1) >= 5
    except Exception:
        return decode(path).image.size[::-1]  # says what is wrong
    return (width, height) if on_its_side else (height, width)


def _may_be_turned(file: Image.Image, content: IO[bytes]) -> bool:
    """Whether it is worth asking for the EXIF orientation: of a PNG Pillow decodes the image to look behind it."""
    if file.format == "TIFF":  # of which Pillow tells the size of the upright image
        return False
    if file.format != "PNG":
        return True
    content.seek(0)
    data = content.read()
    return any(word in data for word in TURNING_CHUNKS)


def write_png(pixels: np.ndarray, file: Path | IO[bytes]) -> None:
    """Write (H, W) or (H, W, 3) uint8 as PNG, whatever the suffix of the file.

    zlib looks for runs alone, not for repetitions, of which images of scanners have few: files of about the same size in half to a fifth of the time.
    """
    Image.fromarray(pixels).save(file, "png", compress_type=zlib.Z_RLE)


def _is_tiff(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) in TIFF_MARKS


def _misread(file: Image.Image) -> str | None:
    """Why Pillow's pixels of a file would be wrong, and what to do; None where they are right."""
    tags = getattr(file, "tag_v2", {})
    bits = max(tags.get(BITS, (1,)))
    if tags.get(PLANAR) == 2 and bits > 8:
        return f"a TIFF whose colours of {bits} bits lie in planes of their own; {CONVERT}"
    if tags.get(PHOTOMETRIC) == YCBCR and file.info.get("compression") == "raw" and tags.get(SUBSAMPLING, (2, 2)) != (1, 1):
        return f"a TIFF with subsampled colours that are not compressed; {CONVERT}"
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO and file.mode == "F":
        return f"a TIFF of floating point values with 0 for white, which says not what black is; {CONVERT}"
    if "LA;16" in str(getattr(file, "tile", "")) or (file.mode[0] in "IF" and "transparency" in file.info):
        return "grey values of 16 bits with transparency; save it without the alpha channel"
    return None


def _stored(file: Image.Image) -> Stored:
    tags = getattr(file, "tag_v2", {})
    white_is_zero = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    signed, bits = tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED, tags.get(BITS, (1,))[0]
    lossy = file.format in ("JPEG", "MPO") or "jpeg" in str(file.info.get("compression"))
    doubt = "in which 0 is white" if white_is_zero and file.mode != "1" else ""
    if ";16" in str(getattr(file, "tile", "")) and file.mode[0] not in "IF":
        doubt = "of 16-bit colours, of which only the upper 8 bits are read"
    file.load()  # which turns a TIFF upright: asked before, it would be turned twice
    image, top = ImageOps.exif_transpose(file), 255
    if signed and bits == 8:  # Pillow takes them for unsigned ones
        image = Image.fromarray(np.asarray(image).view(np.int8).astype(np.int32))
    elif image.mode[0] in "IF":
        top = 1 if image.mode == "F" else 4095 if tags and bits == 12 else 65535  # Pillow keeps the values of 12 bits as they are
        if tags and image.mode == "I" and not signed and np.asarray(image).min() < 0:
            raise ValueError(f"its values of 32 bits reach beyond {2**31 - 1}")
        if white_is_zero:  # which Pillow minds with 8 bits alone
            image = Image.fromarray(top - np.asarray(image))
    return Stored(image, top, lossy, doubt)


def _eight_bit(image: Image.Image, where: Path | str, top: int | None) -> Image.Image:
    """The image in mode L or RGB, by the fixed rule of `shown`."""
    if image.mode[0] in "IF":  # I;16, I;16B, I: integers; F: floating point
        top = top or (1 if image.mode == "F" else 65535)
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= top):  # also where they are NaN
            advice = "give a window, or rescale it to 8-bit grey first"
            raise UserError(f"{where}: its values are {low:g} to {high:g}, but must lie in 0 to {top}; {advice}")
        return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
    try:
        if image.has_transparency_data:
            # Pillow turns La, whose grey is multiplied by alpha already, into nothing but LA
            image = image.convert("LA") if image.mode == "La" else image
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except ValueError:
        raise UserError(f"{where}: its colours ({image.mode}) cannot be turned into red, green and blue; {CONVERT}") from None
