"""The images of one dataset in one split as one array: made once, kept beside the data, made again when something it came from changes."""

import contextlib
import functools
import glob
import hashlib
import json
import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.splits import SplitEntry, missing_images
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import delete_partials, whole_file
from anomaly_detection.system.progress import progress_bar

logger = logging.getLogger(__name__)

# raise it when `Preprocessing.read` comes to make other pixels of the same file
PIPELINE_VERSION = 2
HASH_BYTES = 16
HASHES = ".hashes"  # the suffix of the file beside an array that holds the hashes of its images
AHEAD = 64  # images that are read before they can be written
# a 12-bit image in a 16-bit file is no brighter than this
NEARLY_BLACK = 16


def pixel_hash(pixels: bytes) -> bytes:
    """16 bytes by which an image is known again, of its pixels in the order channels, rows, columns."""
    return hashlib.sha256(pixels).digest()[:HASH_BYTES]


class KeptImages(NamedTuple):
    """Images of one dataset from one split file.

    Attributes:
        array: (N, channels, image_size, image_size) uint8, memory-mapped: pages are read when they are used, and a change never reaches the file.
        digest: a hash of its pixels, which was taken when the images were read.
        hashes: (N, 16) uint8, of each image's pixels likewise; zeros of an image that is of one grey.
    """

    array: np.ndarray
    digest: str
    hashes: np.ndarray


def load_images(entries: Sequence[SplitEntry], spec: DatasetSpec, data_root: Path, preprocessing: Preprocessing) -> KeptImages:
    """The pixels of `entries`, in their order; read from the image files only where no array of them is kept.

    Files are known again by path, size, number, and times of the content and of the entry in the folder. Arrays are kept in `data_root`/.cache, or
    in the user's own cache folder where that cannot be written. Several processes may call this at once: one reads the images, the others wait.

    Args:
        entries: images of one dataset from one split file, at least one.
        spec: their dataset.
        data_root: the folder that holds the folders of the datasets.
        preprocessing: what is done to each image.

    Raises:
        UserError: images are missing or unreadable, or the array cannot be written.
    """
    data_root = Path(data_root)
    name = f"{spec.name}-{entries[0].kind}-{entries[0].part}-{preprocessing.image_size}x{preprocessing.channels}"
    stem = f"{name}-{_key(entries, spec, data_root, preprocessing)}"
    shape = (len(entries), preprocessing.channels, preprocessing.image_size, preprocessing.image_size)
    kept = _find(data_root / ".cache", stem, shape)
    if kept is not None:
        return kept
    folder = cache_folder(data_root.resolve())
    try:
        with FileLock(folder / f"{name}.lock"):
            kept = _find(folder, stem, shape)  # another process may have made it meanwhile
            if kept is None:
                for stale in [path for pattern in (f"{name}-*.npy", f"{name}-*{HASHES}") for path in folder.glob(pattern)]:
                    with contextlib.suppress(OSError):  # Windows keeps a file that is in use
                        stale.unlink()
                delete_partials(folder, f"{name}-*", alone=True)
                digest, hashes = _build(folder / f"{stem}.npy", shape, entries, spec, data_root, preprocessing)
                if not stem.endswith(_key(entries, spec, data_root, preprocessing)):
                    raise UserError(f"{data_root / spec.root}: images changed while they were read; run the same command again")
                with whole_file(folder / f"{stem}-{digest}{HASHES}") as partial, open(partial, "wb") as file:
                    np.save(file, hashes)
                os.replace(folder / f"{stem}.npy", folder / f"{stem}-{digest}.npy")
                kept = _find(folder, stem, shape)
    except OSError as error:
        need = f"{np.prod(shape) / 2**20:.1f} MiB"
        raise UserError(f"{folder / stem}: cannot be written ({error.strerror}); {need} of space and write access are needed") from None
    return kept


def _key(entries: Sequence[SplitEntry], spec: DatasetSpec, data_root: Path, preprocessing: Preprocessing) -> str:
    """A hash of all that decides what is in the array."""
    root = data_root / spec.root
    files, missing = [], []
    for entry in entries:
        try:
            files.append((entry.image, *file_status(root / entry.image)))
        except OSError:
            missing.append(entry)
    if missing:
        raise UserError(missing_images(missing, len(entries), spec, data_root))
    folder, base = root.resolve(), data_root.resolve()
    if folder.is_relative_to(base):  # so that a data root can be moved with its arrays
        folder = folder.relative_to(base)
    content = [PIPELINE_VERSION, preprocessing.to_plain(), folder.as_posix(), files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def file_status(path: Path) -> tuple[int, ...]:
    """Numbers by which a file is known again; raises OSError where there is none."""
    status = path.stat()
    # the second time is newer, or the number another, where a file was replaced by one with the first's time, as archives leave them
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _find(folder: Path, stem: str, shape: tuple[int, ...]) -> KeptImages | None:
    """The array of a key, with the digest that stands in the name of its file; None where there is none or it is damaged."""
    for path in folder.glob(f"{glob.escape(stem)}-*{HASHES}"):
        try:
            # copy-on-write rather than read-only, since torch takes only arrays that may be written to
            array = np.lib.format.open_memmap(path.with_suffix(".npy"), mode="c")
            hashes = np.load(path)
        except (OSError, ValueError, EOFError):  # ValueError, EOFError: not an array, or cut short
            continue
        if array.shape == shape and array.dtype == np.uint8 and hashes.shape == (shape[0], HASH_BYTES) and hashes.dtype == np.uint8:
            return KeptImages(array, path.stem.rpartition("-")[2], hashes)
    return None


@functools.cache  # so that it is said once
def cache_folder(data_root: Path) -> Path:
    """Where arrays of a data root are kept: in its .cache, or in the user's own cache folder where that cannot be written.

    Raises:
        UserError: neither can.
    """
    folder = data_root / ".cache"
    try:
        _check_writable(folder)
        return folder
    except OSError as error:
        reason = error.strerror
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        own = home / "anomaly_detection" / hashlib.sha256(os.fsencode(data_root)).hexdigest()[:16]
        _check_writable(own)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise UserError(f"{folder}: {reason}; set XDG_CACHE_HOME to a folder for the image arrays ({error})") from None
    logger.info("%s: %s; image arrays are kept in %s", folder, reason, own)
    return own


def _check_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def _build(
    path: Path, shape: tuple[int, ...], entries: Sequence[SplitEntry], spec: DatasetSpec, data_root: Path, preprocessing: Preprocessing
) -> tuple[str, np.ndarray]:
    """Write the array of some images to a file; the hash of their pixels, and those of each."""
    logger.debug("reading %d images into %s", len(entries), path)
    paths = [data_root / spec.root / entry.image for entry in entries]
    label = f"reading {spec.name} {entries[0].kind} {entries[0].part}"
    brightest, digest, hashes = 0, hashlib.sha256(), np.zeros((len(entries), HASH_BYTES), np.uint8)
    # threads suffice: Pillow decodes and resizes outside the interpreter's lock
    with whole_file(path) as partial, open(partial, "wb") as file, ThreadPoolExecutor() as pool:
        # written in order rather than through a memory map, on which a full disk would be a bus error
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        images = _in_order(pool, preprocessing.read, paths)
        bar = progress_bar(images, desc=label, total=len(paths), unit="image", leave=False)
        for place, image in enumerate(bar):
            pixels = image.tobytes()
            file.write(pixels)
            digest.update(pixels)
            brightest = max(brightest, int(image.max()))
            if image.min() < image.max():
                hashes[place] = np.frombuffer(pixel_hash(pixels), np.uint8)
    if brightest <= NEARLY_BLACK:
        advice = f"if these are 16-bit files that use a part of their range, give {spec.name} a window in datasets.yaml"
        logger.warning("%s: nearly black, no pixel above %d of 255; %s", label, brightest, advice)
    return digest.hexdigest()[:32], hashes


def _in_order(pool: Executor, function: Callable[[Path], np.ndarray], paths: Iterable[Path]) -> Iterator[np.ndarray]:
    """What a function makes of files, in their order, no further ahead than `AHEAD`: `pool.map` would keep all that it is faster with."""
    waiting: deque[Future[np.ndarray]] = deque()
    for path in paths:
        waiting.append(pool.submit(function, path))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
