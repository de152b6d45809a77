"""Lesion masks of test images, where there are any: `masks/` beside the folders of the images, the same file name in it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from anomaly_detection.data.formats.pictures import decode, picture_shape
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.progress import progress_bar

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


@dataclass(frozen=True, eq=False)
class LesionMasks(Sequence[np.ndarray]):
    """Masks of M images, as a sequence of theirs: (H, W) bool of one, (n, H, W) of a slice. A bit is kept of each pixel.

    Attributes:
        places: (M,) of the images in their set.
        packed: (M, bytes) uint8, the bits of each mask.
        size: H and W.
    """

    places: np.ndarray
    packed: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        bits = np.unpackbits(self.packed[index], axis=-1, count=self.size**2)
        return bits.astype(bool).reshape(*bits.shape[:-1], self.size, self.size)


def load_masks(images: Sequence[str], labels: Sequence[int], folder: Path, preprocessing: Preprocessing) -> LesionMasks | None:
    """Masks of what the network sees of images, where it is known what lesions are in them: normal ones have none.

    Args:
        images, labels: paths in the dataset's folder, and 1 for abnormal ones.
        folder: of the dataset.
        preprocessing: of its images.

    Returns:
        Those of all normal images and of the abnormal ones that have a file, their places among those asked for; None where no lesion is in any.

    Raises:
        UserError: a mask cannot be read, or is of another size than its image.
    """
    marked = [place for place, (image, label) in enumerate(zip(images, labels, strict=True)) if label and (folder / mask_path(image)).is_file()]

    def packed(place: int) -> np.ndarray:
        mask = read_mask(folder / mask_path(images[place]), picture_shape(folder / images[place]))
        return np.packbits(preprocessing.apply_mask(mask))

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        masks = progress_bar(pool.map(packed, marked), desc=f"reading masks of {folder.name}", total=len(marked), unit="mask", leave=False)
        lesions = dict(zip(marked, masks, strict=True))
    if not any(mask.any() for mask in lesions.values()):
        return None
    places = [place for place, label in enumerate(labels) if not label or place in lesions]
    none = np.zeros_like(lesions[marked[0]])
    return LesionMasks(np.array(places), np.array([lesions.get(place, none) for place in places]), preprocessing.image_size)
