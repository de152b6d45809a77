"""Lesion masks of test images, where there are any: `masks/` beside the folders of the images, the same file name in it."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from anomaly_detection.data.formats.pictures import decode
from anomaly_detection.data.preprocessing import Preprocessing

LOSSY = (".jpg", ".jpeg")  # whose zeros are not all 0


def mask_path(image: str) -> str:
    """Where in the dataset's folder the mask of an image would be: of `abnormal/a/1.jpg` it is `masks/a/1.png`."""
    path = PurePosixPath(image)
    return str(PurePosixPath("masks", *path.parts[1:] or path.parts).with_suffix(".png"))


def read_mask(path: Path) -> np.ndarray:
    """A mask as (H, W) bool: True where the stored value is above 0, in a JPEG above half of the brightest.

    Raises:
        UserError: it cannot be read.
    """
    image = decode(path)
    values = np.asarray(image if image.mode[0] in "IF" else image.convert("L"))
    return values > (values.max() / 2 if path.suffix.lower() in LOSSY else 0)


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
        UserError: a mask cannot be read.
    """
    places, masks = [], []
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / mask_path(image)
        if label == 0:
            masks.append(np.zeros((preprocessing.image_size, preprocessing.image_size), bool))
        elif path.is_file():
            masks.append(preprocessing.apply_mask(read_mask(path)))
        else:
            continue
        places.append(place)
    known = np.array(places), np.array(masks)
    return known if len(masks) and known[1].any() else None
