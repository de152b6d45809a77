"""Images as users of Python have them, in files, arrays, tensors or pictures: every way leads to the 8-bit pixels that a file is read as."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anomaly_detection.data.formats.pictures import opened, shown
from anomaly_detection.data.formats.read import read_images
from anomaly_detection.data.formats.window import Window, WindowChoice, grey_of, plain_window
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError

BATCH = 64
IMAGES = "a path, a Pillow image, an array (H, W) or (H, W, 3), or a tensor (H, W), (1, H, W) or (3, H, W)"
BATCHES = "a list of images, an array (N, H, W) or (N, H, W, 3), or a tensor (N, H, W), (N, 1, H, W) or (N, 3, H, W)"


def pixels_of(image: Any, window: WindowChoice, where: str = "image") -> np.ndarray:
    """One image as (H, W) or (H, W, 3) uint8.

    Args:
        image: the path of a file with one image, see `read_images`; a Pillow image; an array (H, W) or (H, W, 3), or a tensor (H, W), (1, H, W) or
            (3, H, W). Of these uint8 stays as it is; other numbers are shown through the window; without one they are floating point from 0, black,
            to 1, white.
        window: what is shown of more than 8 bits; "auto" is of each image by itself; None: what a file says.
        where: what errors name.

    Raises:
        UserError: the file cannot be read, or holds several images.
        TypeError: something else, or an array of something else.
        ValueError: an array of another shape, or values that no window is given for.
    """
    if isinstance(image, str | Path):
        return _pixels_of_file(image, window)
    if isinstance(image, Image.Image):
        stored = opened(image)
        return shown(stored.image, window, where, stored.top)
    if isinstance(image, Tensor):
        return _eight_bit(_channels_last(image, where), window, where)
    if isinstance(image, np.ndarray):
        return _eight_bit(image, window, where)
    raise TypeError(f"{where}: expected {IMAGES}, got {type(image).__name__}")


def _pixels_of_file(path: str | Path, window: WindowChoice) -> np.ndarray:
    images = (pixels for _, pixels in read_images(path, plain_window(window)))
    pixels = next(images)
    if more := sum(1 for _ in images):
        raise UserError(f"{path}: holds {1 + more} images; `[pixels for _, pixels in read_images(path)]` is a list of them")
    return pixels


def _channels_last(image: Tensor, where: str) -> np.ndarray:
    if image.ndim not in (2, 3) or (image.ndim == 3 and len(image) not in (1, 3)):
        raise ValueError(f"{where}: expected a tensor (H, W), (1, H, W) or (3, H, W), got one of shape {tuple(image.shape)}")
    if image.layout != torch.strided or image.is_meta or image.is_quantized:
        kind = "quantized" if image.is_quantized else f"{image.layout} on {image.device}"
        raise TypeError(f"{where}: expected a tensor that holds its values one by one, got one that is {kind}")
    if image.is_floating_point():  # there are kinds that numpy does not know
        image = image.float()
    pixels = image.numpy(force=True)
    if pixels.ndim == 2:
        return pixels
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def _eight_bit(values: np.ndarray, window: WindowChoice, where: str) -> np.ndarray:
    if values.dtype.kind not in "uif":
        raise TypeError(f"{where}: expected whole numbers or floating point, got {values.dtype}")
    if values.ndim < 2 or values.shape[2:] not in ((), (3,)) or not values.size:
        raise ValueError(f"{where}: expected an image (H, W) or (H, W, 3), got {values.dtype} of shape {values.shape}")
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        values = values.astype(np.float32)  # as a file holds them
    if window is not None:
        return (Window.covering(values) if window == "auto" else window).grey(values)
    remedy = 'give window=(level, width), of CT in Hounsfield units, or window="auto"'
    if values.dtype.kind != "f":
        raise ValueError(f"{where}: {values.dtype} does not say which values are black and white; {remedy}")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also where they are NaN
        raise ValueError(f"{where}: floating point must lie in 0 to 1, got {low:g} to {high:g}; {remedy}, or divide by the greatest possible value")
    return grey_of(values)


def images_of(batch: Any) -> Sequence[Any]:
    """N images one by one, each as `pixels_of` takes it; nothing is read or copied.

    Args:
        batch: a list or another sequence of images, which may differ in size; an array (N, H, W) or (N, H, W, 3), or one of N paths; a tensor
            (N, H, W), (N, 1, H, W) or (N, 3, H, W).

    Raises:
        TypeError: something else.
        ValueError: an array of another shape, or no image.
    """
    if isinstance(batch, str | Path | Image.Image):
        raise TypeError(f"expected {BATCHES}, got one {type(batch).__name__}; of a single image make a list: [image]")
    if not isinstance(batch, Sequence | Tensor) and hasattr(batch, "__array__"):  # also a column of a table
        batch = np.asarray(batch)
    if isinstance(batch, np.ndarray | Tensor):
        _check_shape(batch)
        batch = list(batch)
    if not isinstance(batch, Sequence) or isinstance(batch, bytes):
        raise TypeError(f"expected {BATCHES}, got {type(batch).__name__}")
    if not len(batch):
        raise ValueError(f"expected {BATCHES}, got no image")
    return batch


def _check_shape(batch: np.ndarray | Tensor) -> None:
    shape, is_array = tuple(batch.shape), isinstance(batch, np.ndarray)
    if is_array and batch.dtype.kind in "OUT":  # of paths, or of images of several sizes
        fits = len(shape) == 1
    elif is_array:
        fits = (len(shape) == 3 and shape[2] != 3) or (len(shape) == 4 and shape[3] == 3)
    else:
        fits = len(shape) == 3 or (len(shape) == 4 and shape[1] in (1, 3))
    if not fits:
        raise ValueError(f"expected {BATCHES}, got {type(batch).__name__} of shape {shape}; of a single image make a list: [image]")


def preprocessed(images: Sequence[Any], preprocessing: Preprocessing, places: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """Images as a network takes them: (B, channels, image_size, image_size) uint8, at most `BATCH` at a time.

    Args:
        images: see `images_of`.
        preprocessing: what is done to each.
        places: of those that are wanted; None: all.

    Raises:
        UserError, TypeError, ValueError: as `pixels_of` does; which image it is.
    """
    places = range(len(images)) if places is None else places

    def prepare(place: int) -> np.ndarray:
        return preprocessing.apply(pixels_of(images[place], preprocessing.window, f"image {place}"))

    # threads suffice: Pillow decodes and resizes outside the interpreter's lock
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(places), BATCH):
            yield np.stack(list(pool.map(prepare, places[start : start + BATCH])))
