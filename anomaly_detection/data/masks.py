"""Lesion masks of test images, where there are any: `masks/` beside the folders of the images, the same file name in it."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.formats.pictures import decode
from anomaly_detection.data.preprocessing import crop_center, resize_mask

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


def load_masks(images: Sequence[str], labels: Sequence[int], spec: DatasetSpec, data_root: Path, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Masks at the size of the network's images, cropped as these are.

    Args:
        images, labels: paths in the dataset's folder, and 1 for abnormal ones.
        spec: their dataset.
        data_root: the folder that holds the folders of the datasets.
        size: height and width of the result.

    Returns:
        The places (M,) of the images whose lesions are known (normal ones have none), and (M, size, size) bool; None where no abnormal image
        has a mask.

    Raises:
        UserError: a mask cannot be read.
    """
    places, masks = [], []
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = data_root / spec.root / mask_path(image)
        if label == 0:
            masks.append(np.zeros((size, size), bool))
        elif path.is_file():
            masks.append(_fitted(read_mask(path), spec, size))
        else:
            continue
        places.append(place)
    known = np.array(places), np.array(masks)
    return known if len(masks) and known[1].any() else None


def _fitted(mask: np.ndarray, spec: DatasetSpec, size: int) -> np.ndarray:
    image = Image.fromarray(mask.astype(np.uint8))
    if spec.crop_size is not None:
        image = crop_center(image, spec.crop_size)
    return resize_mask(np.asarray(image) > 0, size, "stretch") > 0
