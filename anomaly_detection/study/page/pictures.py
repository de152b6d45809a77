"""The worst misses and the worst false alarms of a network as small pictures."""

import base64
import html
import io
import logging
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

from anomaly_detection.evaluation.gallery import EXTREMES
from anomaly_detection.evaluation.overlay import overlay
from anomaly_detection.study.page.operating import spread
from anomaly_detection.study.page.terms import shortened
from anomaly_detection.study.results import Result

logger = logging.getLogger(__name__)

SIDE = 104  # pixels of a picture
SHOWN = 6
NAME, DATASET = 26, 16  # characters on two lines below a picture, and on one
QUALITY = 72
LINE = 0, 255, 255


@dataclass(frozen=True)
class Picture:
    """A test image among the most wrongly scored ones of its dataset.

    Attributes:
        image, dataset: its file and where that lies.
        score, threshold: it is called abnormal above.
        distance: of the score from the threshold, in spreads of the validation normals; the farther on the wrong side, the worse.
        pixels: (C, H, W) uint8.
        overlay: (H, W, 3) uint8, with the anomaly map, and round the lesion where its mask is known a line.
    """

    image: str
    dataset: str
    score: float
    threshold: float
    distance: float
    pixels: np.ndarray
    overlay: np.ndarray

    @property
    def called(self) -> bool:
        """Whether it is called abnormal."""
        return self.score > self.threshold


def worst(results: Sequence[tuple[Result, Path]], label: int) -> list[Picture]:
    """Of one network, or of those of one regime for a dataset each: the abnormal test images (label 1) with the lowest scores, or the normal ones
    (label 0) with the highest; the worst of each dataset, then the second of each, until there are enough. Where none is called wrongly, those that
    come nearest to it.

    Args:
        results: each with the folder of its experiment, whose details.npz holds pictures of the extreme scores; a missing file is told, and no
            pictures are shown.
        label: of the images.
    """
    by_dataset: dict[str, list[Picture]] = {}
    for result, folder in results:
        for picture in _gallery(result, folder, label):
            by_dataset.setdefault(picture.dataset, []).append(picture)
    sign = 1 if label else -1
    turns = []
    for pictures in by_dataset.values():
        turns += enumerate(sorted(pictures, key=lambda picture: sign * picture.distance)[:EXTREMES])  # the others are extreme on the right side
    turns.sort(key=lambda turn: (turn[0], sign * turn[1].distance))
    pictures = [picture for _, picture in turns]
    return ([picture for picture in pictures if picture.called != bool(label)] or pictures)[:SHOWN]


def _gallery(result: Result, folder: Path, label: int) -> list[Picture]:
    try:
        with np.load(folder / "details.npz") as file:
            names = ("gallery_row", "gallery_image", "gallery_map", "map_scale", *({"gallery_mask"} & set(file)))
            details = {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        logger.warning("no pictures of %s: details.npz is missing or damaged; `evaluate` writes it anew", folder)
        return []
    units = {name: spread(result.rows.where(dataset=name, part="val").column("score")) for name in result.datasets}
    pictures = []
    masks = details.get("gallery_mask", [None] * len(details["gallery_row"]))
    for place, pixels, anomaly_map, mask in zip(details["gallery_row"], details["gallery_image"], details["gallery_map"], masks, strict=True):
        row = result.rows[place]
        if row["label"] == label:
            threshold = result.metrics["datasets"][row["dataset"]]["threshold"]
            distance = (row["score"] - threshold) / units[row["dataset"]]
            laid = outlined(overlay(pixels, anomaly_map, float(details["map_scale"])), mask)
            pictures.append(Picture(row["image"], row["dataset"], row["score"], threshold, distance, pixels, laid))
    return pictures


def outlined(pixels: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Pixels (H, W, 3) with a line round the lesions of a mask (H, W), as wide as a small picture can show."""
    if mask is None or not mask.any():
        return pixels
    line = binary_dilation(mask, iterations=max(1, round(len(mask) / SIDE))) & ~mask
    return np.where(line[..., None], np.array(LINE, np.uint8), pixels)


def shown(picture: Picture, label: int) -> str:
    """A picture, the same with its anomaly map, and its name and score, in HTML."""
    kind = "abnormal" if label else "normal"
    name, short = html.escape(picture.image), html.escape(shortened(picture.image.rpartition("/")[2], NAME))
    side, sign = ("above", "&gt;") if picture.called else ("below", "≤")
    score, threshold = told_apart(picture.score, picture.threshold)
    told = f"score {score}, {abs(picture.distance):.1f} spreads {side} the threshold {threshold}"
    alt = f"{kind} image {name} of {html.escape(picture.dataset)}"
    images = f'<img alt="{alt}" src="{jpeg(picture.pixels.transpose(1, 2, 0))}">'
    images += f'<img alt="the same with its anomaly map" src="{jpeg(picture.overlay)}">'
    dataset = html.escape(shortened(picture.dataset, DATASET))
    words = f"<b>{short}</b><span>{dataset}</span><span>{score} {sign} {threshold}</span>"
    return f'<figure title="{name} of {html.escape(picture.dataset)}: {told}">{images}<figcaption>{words}</figcaption></figure>'


def told_apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with three digits, or as many more as it takes to tell them apart."""
    texts = ((f"{one:.{digits}g}", f"{other:.{digits}g}") for digits in range(3, 18))
    return next((pair for pair in texts if pair[0] != pair[1]), (f"{one:.3g}", f"{other:.3g}"))


def jpeg(pixels: np.ndarray, side: int = SIDE) -> str:
    """A data URL of pixels (H, W, C) uint8, C 1 or 3, made smaller where a side is longer than `side`."""
    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
