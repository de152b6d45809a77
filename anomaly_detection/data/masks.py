"""Lesion masks of test images, where there are any: `masks/` beside the folders of the images, the same file name in it."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from anomaly_detection.data.formats.pictures import decode, picture_shape
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError

REDRAW = "save it as PNG, black where there is no lesion"


def mask_path(image: str) -> str:
    """Where in the dataset's folder the mask of an image would be: of `abnormal/a/1.jpg` it is `masks/a/1.png`."""
    path = PurePosixPath(image)
    return str(PurePosixPath("masks", *path.parts[1:] or path.parts).with_suffix(".png"))


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The mask of an image.

    Args:
        path: a picture file; a stored value above 0 is lesion, whatever its type, of a palette the index and of colours any of them; in what is
            compressed like a JPEG, values above half of the greatest. What is transparent is none.
        shape: (H, W) of the image.

    Returns:
        (H, W) bool.

    Raises:
        UserError: it cannot be read, is of another size, or does not tell what of it is lesion.
    """
    stored = decode(path)
    if stored.image.size != shape[::-1]:
        raise UserError(f"{path}: is a mask of {stored.image.size[::-1]} pixels for an image of {tuple(shape)}; make them the same")
    if stored.doubt:
        raise UserError(f"{path}: is a mask {stored.doubt}, so that what of it is lesion cannot be known; {REDRAW}")
    values = _largest(stored.image, path)
    return values > (values.max() / 2 if stored.lossy else 0)


def _largest(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W), the greatest of the stored values of each pixel."""
    if image.mode == "P":
        _check_palette(image, path)
    if image.mode in ("P", "1", "L") or image.mode[0] in "IF":
        return np.asarray(image)
    if image.mode not in ("LA", "La", "RGB", "RGBA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "RGB":
        return values.max(axis=2)
    return np.where(values[..., -1] > 0, values[..., :-1].max(axis=2), 0)


def _check_palette(image: Image.Image, path: Path) -> None:
    """A palette whose first colour is not black while another is was sorted by a program: the index says nothing then."""
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    if colours[0].any() and any(not colours[index].any() for index in used if 0 < index < len(colours)):
        raise UserError(f"{path}: is a mask with a palette in which black is not the first colour; {REDRAW}")


def load_masks(images: Sequence[str], labels: Sequence[int], folder: Path, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray] | None:
    """Masks of what the network sees of images.

    Args:
        images, labels: paths in the dataset's folder, and 1 for abnormal ones.
        folder: of the dataset.
        preprocessing: of its images.

    Returns:
        The places (M,) of the images whose lesions are known (normal ones have none), and (M, image_size, image_size) bool; None where no
        abnormal image has a mask.

    Raises:
        UserError: a mask cannot be read, or is of another size than its image.
    """
    places, masks = [], []
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / mask_path(image)
        if label == 0:
            masks.append(np.zeros((preprocessing.image_size, preprocessing.image_size), bool))
        elif path.is_file():
            masks.append(preprocessing.apply_mask(read_mask(path, picture_shape(folder / image))))
        else:
            continue
        places.append(place)
    known = np.array(places), np.array(masks)
    return known if len(masks) and known[1].any() else None
