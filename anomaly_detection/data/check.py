"""What is wrong with the data, before anything is trained on it: counts, missing and damaged files, leaks between splits, and how it looks."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.formats.pictures import read_picture
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.data.leaks import Listed, leaks, listed_images
from anomaly_detection.data.manifest import MANIFEST, pixels_hash
from anomaly_detection.data.masks import mask_path, read_mask, shared_masks, unclaimed_masks
from anomaly_detection.data.patients import patients_of
from anomaly_detection.data.record import made_otherwise
from anomaly_detection.data.splits import NEEDED, NO_ABNORMAL, Kind, Part, SplitEntry, aliases, missing_images
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.processes import map_jobs

BINS = 16
BARS = " ▁▂▃▄▅▆▇█"
COLUMNS, SIDE = 12, 96  # of a contact sheet: images in a row, and pixels of each


class Facts(NamedTuple):
    """What one image file says of itself.

    Attributes:
        size: width and height in pixels.
        content: a hash of its grey pixels; None of an image of one grey, which is like any other.
        written: the hash of its pixels that `prepare` notes in the manifest; None likewise.
        histogram: (256,) how many pixels have each grey value.
        masked: whether there is a mask of it.
        error: why it, or its mask, cannot be read; then the others are None.
    """

    size: tuple[int, int] | None
    content: str | None
    written: str | None
    histogram: np.ndarray | None
    masked: bool | None
    error: str | None


@dataclass(frozen=True)
class Group:
    """The images of a dataset in one split file."""

    kind: Kind
    part: Part
    entries: list[SplitEntry]
    facts: list[Facts]

    def line(self) -> str:
        """Counts, sizes and grey values in one line."""
        good = [fact for fact in self.facts if fact.error is None]
        if not good:
            return f"{self.kind} {self.part}: {len(self.entries)} images, none of them readable"
        sizes = sorted({fact.size for fact in good}, key=np.prod)
        span = "x".join(map(str, sizes[0])) + ("" if len(sizes) == 1 else f" to {'x'.join(map(str, sizes[-1]))}")
        histogram = np.sum([fact.histogram / fact.histogram.sum() for fact in good], axis=0) / len(good)
        mean = float(histogram @ np.arange(256))
        spread = float(np.sqrt(histogram @ (np.arange(256) - mean) ** 2))
        bins = histogram.reshape(BINS, -1).sum(axis=1)
        bars = "".join(BARS[int(np.ceil(share / bins.max() * (len(BARS) - 1)))] for share in bins)
        masks = sum(fact.masked for fact in good)
        count = f"{len(self.entries)} images" + (f", {masks} with a mask" if masks else "")
        return f"{self.kind} {self.part}: {count}, {span} pixels, grey {mean:.0f} ± {spread:.0f}, 0 |{bars}| 255"


def inspect(spec: DatasetSpec, data_root: Path, entries: Sequence[SplitEntry], workers: int | None) -> list[Group]:
    """Read every image of a dataset that the split files list; a file that cannot be read is noted, not raised."""
    folder = data_root / spec.root
    paths = [(folder / entry.image, folder / mask_path(entry.image) if entry.kind == "anomaly" else None) for entry in entries]
    read = functools.partial(_facts, window=spec.preprocessing.window)
    facts = list(map_jobs(read, paths, workers, f"checking {spec.name}", "image"))
    groups: dict[tuple[Kind, Part], tuple[list, list]] = defaultdict(lambda: ([], []))
    for entry, fact in zip(entries, facts, strict=True):
        for column, value in zip(groups[entry.kind, entry.part], (entry, fact), strict=True):
            column.append(value)
    return [Group(kind, part, *columns) for (kind, part), columns in groups.items()]


def shown(groups: Sequence[Group]) -> Iterator[str]:
    """What is there: a line for each split."""
    yield from (group.line() for group in groups)
    if groups and not any(group.kind == "anomaly" for group in groups):
        yield NO_ABNORMAL


def known_of(spec: DatasetSpec, data_root: Path, groups: Sequence[Group]) -> list[Listed]:
    """What tells whose the images are, and which of them are one; raises UserError where the manifest is damaged."""
    entries = [entry for group in groups for entry in group.entries]
    return listed_images(spec, data_root, entries, [fact.content for group in groups for fact in group.facts])


def unknown(spec: DatasetSpec, data_root: Path, images: Sequence[Listed]) -> Iterator[str]:
    """Of which images it is not known whose they are, and of which masks, of what image."""
    if count := sum(image.patient is None for image in images):
        yield f"whose {count} images are is not known (no manifest.csv names them): see to it that no patient is on two sides"
    folder = data_root / spec.root
    # masks of those whom `prepare` has given to training are nobody's in the lists
    abnormal = {image.entry.image: None for image in images if image.entry.kind == "anomaly"} | patients_of(folder)
    if line := unclaimed_masks(folder, abnormal):
        yield line


def problems(spec: DatasetSpec, data_root: Path, groups: Sequence[Group], images: Sequence[Listed]) -> Iterator[str]:
    """A line for each thing that makes results on these images wrong or impossible."""
    for kind, part in NEEDED:
        if not any((group.kind, group.part) == (kind, part) for group in groups):
            yield f"no image is listed in {kind}/{part}"
    if line := made_otherwise(spec, data_root):
        yield line
    missing = [image.entry for image in images if image.file is None]
    if missing:
        yield missing_images(missing, len(images), spec, data_root)
    for image, fact in zip(images, (fact for group in groups for fact in group.facts), strict=True):
        if fact.error and image.file is not None:
            yield f"{image.entry.where}: {fact.error}"
    for entry, other in aliases([image.entry for image in images], {spec.name: spec}, data_root):
        if (entry.kind, entry.part) == (other.kind, other.part):
            yield f"{entry.where}: {entry.image} is the same file as {other.image} ({other.where}); take one line out"
    yield from shared_masks(entry.image for group in groups for entry, fact in zip(group.entries, group.facts, strict=True) if fact.masked)
    yield from leaks(images)


def remade(groups: Sequence[Group], images: Sequence[Listed]) -> Iterator[str]:
    """A line where images are not those that `prepare` wrote."""
    facts = (fact for group in groups for fact in group.facts)
    told = [(image, fact.written) for image, fact in zip(images, facts, strict=True) if fact.written and image.row and image.row.pixels_sha256]
    changed = [image for image, written in told if written != image.row.pixels_sha256]
    if changed:
        yield f"{len(changed)} images are not those that {MANIFEST} tells of, the first: {changed[0].entry.image}; were they changed by hand?"


def _facts(paths: tuple[Path, Path | None], window: WindowChoice) -> Facts:
    path, mask = paths
    try:
        stored = read_picture(path, window)
        pixels = np.asarray(Image.fromarray(stored).convert("L"))
        masked = mask is not None and mask.is_file()
        if masked:
            read_mask(mask, pixels.shape)
    except UserError as error:
        return Facts(None, None, None, None, None, str(error))
    content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest() if pixels.min() < pixels.max() else None
    written = content and pixels_hash(stored)
    return Facts(pixels.shape[::-1], content, written, np.bincount(pixels.reshape(-1), minlength=256), masked, None)


def contact_sheet(spec: DatasetSpec, data_root: Path, groups: Sequence[Group]) -> Image.Image:
    """A row of images for each split, spread over its file, in the order of the report; lesions are tinted red where there is a mask."""
    rows = []
    for group in groups:
        readable = [entry for entry, fact in zip(group.entries, group.facts, strict=True) if fact.error is None]
        chosen = [readable[place] for place in np.rint(np.linspace(0, len(readable) - 1, min(COLUMNS, len(readable)))).astype(int)]
        rows.append([_thumbnail(data_root / spec.root, entry, spec.preprocessing.window) for entry in chosen])
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 2), len(rows) * (SIDE + 2)), "black")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * (SIDE + 2), y * (SIDE + 2)))
    return sheet


def _thumbnail(folder: Path, entry: SplitEntry, window: WindowChoice) -> Image.Image:
    resize = functools.partial(Image.Image.resize, size=(SIDE, SIDE), resample=Image.Resampling.BILINEAR)
    path, mask = folder / entry.image, folder / mask_path(entry.image)
    pixels = read_picture(path, window)
    picture = resize(Image.fromarray(pixels).convert("RGB"))
    if entry.kind == "normal" or not mask.is_file():
        return picture
    lesion = resize(Image.fromarray(read_mask(mask, pixels.shape[:2]).astype(np.uint8) * (255 // 2)))
    return Image.composite(Image.new("RGB", picture.size, "red"), picture, lesion)
