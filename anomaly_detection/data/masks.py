"""Lesion masks of test images, where there are any: `masks/` beside the folders of the images, the same file name in it."""

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from filelock import FileLock
from PIL import Image

from anomaly_detection.data.arrays import PIPELINE_VERSION, cache_folder, file_status
from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.formats.pictures import decode, picture_shape
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import delete_partials, whole_file
from anomaly_detection.system.progress import progress_bar

MASKS = "masks"  # the folder of a dataset's masks
REDRAW = "save it as PNG, black where there is no lesion"


def mask_path(image: str) -> str:
    """Where in the dataset's folder the mask of an image would be: of `abnormal/a/1.jpg` it is `masks/a/1.png`."""
    path = PurePosixPath(image)
    return str(PurePosixPath(MASKS, *path.parts[1:] or path.parts).with_suffix(".png"))


def shared_masks(images: Iterable[str]) -> Iterator[str]:
    """A line for each image whose mask would be that of another one, such as of `tumour/1.png` and `stroke/1.png`.

    Args:
        images: abnormal ones that have a mask file, as paths in the dataset's folder.
    """
    first: dict[str, str] = {}
    for image in images:
        path = mask_path(image)
        other = first.setdefault(path, image)
        if other != image:
            yield f"{other} and {image} are two abnormal images with one mask, {path}; give one of them another name, and a mask of that name"


def unclaimed_masks(folder: Path, images: Iterable[str]) -> str | None:
    """A line on files in `masks/` that are the mask of no image, as where a name has other letters; None where each is of one.

    Args:
        folder: of the dataset.
        images: those that may have masks, as paths in it, the first an abnormal one.
    """
    images = list(images)
    claimed = {path.casefold() for path in map(mask_path, images) if (folder / path).is_file()}  # some file systems know one case alone
    files = [path.relative_to(folder).as_posix() for path in (folder / MASKS).rglob("*") if path.is_file() and not path.name.startswith(".")]
    unclaimed = sorted(path for path in files if path.casefold() not in claimed)
    if not unclaimed or not images:
        return None
    more = f" and {len(unclaimed) - 1} more" if len(unclaimed) > 1 else ""
    return f"masks of no abnormal image that is listed: {unclaimed[0]}{more}; that of {images[0]} would be {mask_path(images[0])}"


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
    """(H, W), the greatest of the stored values of each pixel, 0 of one that is transparent."""
    if image.mode == "P":
        _check_palette(image, path)
    elif image.mode not in ("1", "L", "LA", "La", "RGB", "RGBA") and image.mode[0] not in "IF":
        image = image.convert("RGB")
    values, opaque = np.asarray(image), True
    if image.mode in ("LA", "La", "RGBA"):
        values, opaque = values[..., :-1], values[..., -1] > 0
    elif image.has_transparency_data:  # a PNG may name the values that are transparent
        opaque = np.asarray(image.convert("RGBA"))[..., 3] > 0
    return np.where(opaque, values.max(axis=2) if values.ndim == 3 else values, 0)


def _check_palette(image: Image.Image, path: Path) -> None:
    """A palette whose first colour is not black or transparent while another is was sorted by a program: the index says nothing then."""
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    hidden = image.info.get("transparency", b"")
    hidden = [index for index, alpha in enumerate(hidden) if not alpha] if isinstance(hidden, bytes) else [hidden]
    colours[[index for index in hidden if index < len(colours)]] = 0
    used = np.unique(np.asarray(image))
    if colours[0].any() and any(not colours[index].any() for index in used if 0 < index < len(colours)):
        raise UserError(f"{path}: is a mask with a palette in which black, or what is transparent, is not the first colour; {REDRAW}")


@dataclass(frozen=True, eq=False)
class LesionMasks(Sequence[np.ndarray]):
    """Masks of M images, as a sequence of theirs: (H, W) bool of one, (n, H, W) of a slice. A bit is kept of each pixel.

    Attributes:
        places: (M,) of the images in their set.
        packed: (M, bytes) uint8, the bits of each mask.
        size: H and W.
        digest: a hash of the bits and of the images that have a file, by which the same masks are known on any machine.
    """

    places: np.ndarray
    packed: np.ndarray
    size: int
    digest: str

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        bits = np.unpackbits(self.packed[index], axis=-1, count=self.size**2)
        return bits.astype(bool).reshape(*bits.shape[:-1], self.size, self.size)


def load_masks(images: Sequence[str], labels: Sequence[int], spec: DatasetSpec, data_root: Path, preprocessing: Preprocessing) -> LesionMasks | None:
    """Masks of what the network sees of images, where it is known what lesions are in them: normal ones have none.

    Mask files are read once and kept as bits beside the arrays of images, until one of them or its image changes; see `load_images`.

    Args:
        images, labels: paths in the dataset's folder, and 1 for abnormal ones.
        spec: their dataset.
        data_root: the folder that holds the folders of the datasets.
        preprocessing: of the images.

    Returns:
        Those of all normal images and of the abnormal ones that have a file, their places among those asked for; None where no lesion is in any.

    Raises:
        UserError: a mask cannot be read, is of another size than its image, or would be that of two images; or the bits cannot be written.
    """
    folder = Path(data_root) / spec.root
    if not (folder / MASKS).is_dir():  # one look instead of one for each image
        return None
    marked = [place for place, (image, label) in enumerate(zip(images, labels, strict=True)) if label and (folder / mask_path(image)).is_file()]
    if not marked:
        return None
    named = [images[place] for place in marked]
    for line in shared_masks(named):
        raise UserError(f"{folder}: {line}")
    lesions = _kept(named, spec, Path(data_root), preprocessing)
    if not lesions.any():
        return None
    places = np.array(sorted([*marked, *(place for place, label in enumerate(labels) if not label)]))
    packed = np.zeros((len(places), lesions.shape[1]), np.uint8)
    packed[np.searchsorted(places, marked)] = lesions
    return LesionMasks(places, packed, preprocessing.image_size, _digest(named, lesions))


def _digest(images: Sequence[str], lesions: np.ndarray) -> str:
    """Of images that have a mask, and its bits (N, bytes)."""
    digest = hashlib.sha256(json.dumps(images).encode())
    digest.update(lesions.ravel())
    return digest.hexdigest()


def _kept(images: Sequence[str], spec: DatasetSpec, data_root: Path, preprocessing: Preprocessing) -> np.ndarray:
    """(N, bytes) uint8, the bits of the masks of images that have one; where they are not kept, one process reads the files and others wait."""
    stem = f"{spec.name}-masks-{preprocessing.image_size}"
    key, shape = _key(images, spec, data_root, preprocessing), (len(images), -(-(preprocessing.image_size**2) // 8))
    kept = _find(data_root / ".cache" / f"{stem}-{key}.npy", shape)
    if kept is not None:
        return kept
    folder = cache_folder(data_root.resolve())
    path = folder / f"{stem}-{key}.npy"
    try:
        with FileLock(folder / f"{stem}.lock"):
            kept = _find(path, shape)  # another process may have made it meanwhile
            if kept is None:
                for stale in folder.glob(f"{glob.escape(stem)}-*.npy"):
                    stale.unlink()
                delete_partials(folder, f"{glob.escape(stem)}-*", alone=True)
                kept = _read(images, spec, data_root, preprocessing)
                if key != _key(images, spec, data_root, preprocessing):
                    raise UserError(f"{data_root / spec.root}: masks changed while they were read; run the same command again")
                with whole_file(path) as partial, open(partial, "wb") as file:
                    np.save(file, kept)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); masks are kept there") from None
    return kept


def _key(images: Sequence[str], spec: DatasetSpec, data_root: Path, preprocessing: Preprocessing) -> str:
    """A hash of all that decides what the bits are: of the images their size does, which the masks must have."""
    root = data_root / spec.root
    files = [(image, file_status(root / image), file_status(root / mask_path(image))) for image in images]
    return hashlib.sha256(json.dumps([PIPELINE_VERSION, preprocessing.to_plain(), files]).encode()).hexdigest()[:16]


def _find(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """What is kept in a file; None where there is none or it is damaged."""
    try:
        packed = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return packed if packed.shape == shape and packed.dtype == np.uint8 else None


def _read(images: Sequence[str], spec: DatasetSpec, data_root: Path, preprocessing: Preprocessing) -> np.ndarray:
    """The bits of mask files."""
    folder = data_root / spec.root

    def packed(image: str) -> np.ndarray:
        return np.packbits(preprocessing.apply_mask(read_mask(folder / mask_path(image), picture_shape(folder / image))))

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        bar = progress_bar(pool.map(packed, images), desc=f"reading {spec.name} masks", total=len(images), unit="mask", leave=False)
        return np.array(list(bar))
