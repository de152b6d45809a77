"""Features of the images of datasets, which never change, computed once and kept in files beside the images, for all trainings to come."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from anomaly_detection.data.arrays import HASH_BYTES, KeptImages, cache_folder, pixel_hash
from anomaly_detection.data.dataset import to_bytes, to_floats
from anomaly_detection.data.mapped import release, take
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import delete_partials, whole_file
from anomaly_detection.system.progress import progress_bar

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when other features come to be computed of the same images and weights
BATCH = 64
LARGEST = 65504.0  # that float16 holds
HASH = f"S{HASH_BYTES}"  # numpy sorts and compares these; the zeros at an end that it does not show count as equal


class FeatureStore:
    """Features of images, found by the images' pixels: rows of float16 in memory-mapped files, and 32 bytes in memory for each image."""

    def __init__(self):
        self._arrays: list[np.ndarray] = []
        self._hashes = np.empty(0, HASH)  # sorted
        self._places = np.empty((0, 2), np.int64)  # the array of each, and its row there

    @classmethod
    def of(
        cls, images: Iterable[KeptImages], data_root: Path, identity: Sequence, features_of: Callable[[Tensor], Tensor], device: torch.device
    ) -> "FeatureStore":
        """The features of images; what no file holds yet is computed. Several processes may call this at once: one computes, the others wait.

        Args:
            images: of one split file each.
            data_root: of the images, in whose .cache the files lie, or in the user's own cache folder.
            identity: plain values that tell these features from others.
            features_of: (B, numbers) of images (B, C, H, W) in [-1, 1].
            device: where they are computed.

        Raises:
            UserError: a file cannot be written.
        """
        store = cls()
        key = hashlib.sha256(json.dumps([VERSION, *identity]).encode()).hexdigest()[:16]
        for kept in images:
            store.add(kept, _features(kept, Path(data_root), key, features_of, device))
        return store

    def add(self, kept: KeptImages, features: np.ndarray) -> None:
        """Know the images, whose features are (N, numbers) float16."""
        hashes = kept.hashes.copy()
        for row in np.flatnonzero(~hashes.any(axis=1)):  # of one grey: such images have no hash there
            hashes[row] = np.frombuffer(pixel_hash(take(kept.array, np.array([row])).tobytes()), np.uint8)
        rows = np.arange(len(hashes))
        hashes = np.concatenate([self._hashes, hashes.view(HASH)[:, 0]])
        places = np.concatenate([self._places, np.stack([np.full_like(rows, len(self._arrays)), rows], axis=1)])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._places = hashes[order], places[order]
        self._arrays.append(features)

    def look_up(self, x: Tensor) -> Tensor | None:
        """(B, numbers) float16 on the CPU of images (B, C, H, W) in [-1, 1]; None unless all of them are known."""
        pixels = to_bytes(x)
        if not torch.equal(to_floats(pixels), x):  # mixtures
            return None
        hashes = np.array([pixel_hash(image.tobytes()) for image in pixels.cpu().numpy()], HASH)
        places = np.searchsorted(self._hashes, hashes)
        if places.max(initial=-1) >= len(self._hashes) or (self._hashes[places] != hashes).any():
            return None
        owners, rows = self._places[places].T
        features = np.empty((len(rows), self._arrays[0].shape[1]), np.float16)
        for owner in np.unique(owners):
            mine = owners == owner
            features[mine] = take(self._arrays[owner], rows[mine])
        return torch.from_numpy(features)


def _features(kept: KeptImages, data_root: Path, key: str, features_of: Callable[[Tensor], Tensor], device: torch.device) -> np.ndarray:
    """The file of the features of some images, memory-mapped, made where there is none that is whole."""
    beside = Path(kept.array.filename)
    name = f"{beside.stem}-{key}.npy"  # goes when the array of the images goes
    found = _find(beside.parent / name, len(kept.array))
    if found is not None:
        return found
    path = cache_folder(data_root.resolve()) / name
    split = beside.stem.rsplit("-", 2)[0]  # what stands before the key and the digest of the images
    try:
        with FileLock(path.with_name(f"{split}-{key}.lock")):
            found = _find(path, len(kept.array))  # another process may have made it meanwhile
            if found is None:
                delete_partials(path.parent, name, alone=True)
                _write(path, kept.array, features_of, device)
                found = _find(path, len(kept.array))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); space and write access are needed for the features of images") from None
    return found


def _find(path: Path, count: int) -> np.ndarray | None:
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except (OSError, ValueError, EOFError):  # ValueError, EOFError: not an array, or cut short
        return None
    return array if array.dtype == np.float16 and array.ndim == 2 and len(array) == count else None


def _write(path: Path, images: np.ndarray, features_of: Callable[[Tensor], Tensor], device: torch.device) -> None:
    logger.debug("computing the features of %d images into %s", len(images), path)
    label = "features of " + "-".join(path.name.split("-")[:3])
    with whole_file(path) as partial, open(partial, "wb") as file, torch.no_grad():
        for start in progress_bar(range(0, len(images), BATCH), desc=label, unit_scale=BATCH, unit="image", leave=False):
            x = to_floats(torch.from_numpy(np.array(images[start : start + BATCH])).to(device))
            rows = features_of(x).clamp(-LARGEST, LARGEST).half().cpu().numpy()
            if start == 0:
                # written in order rather than through a memory map, on which a full disk would be a bus error
                np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (len(images), rows.shape[1])})
            file.write(rows.tobytes())
            release(images)
