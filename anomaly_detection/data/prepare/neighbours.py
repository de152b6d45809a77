"""Whether images that follow one another in the order of their names look as if they were slices of one patient."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_detection.data.formats.sources import natural
from anomaly_detection.data.manifest import Row
from anomaly_detection.data.thinning import spread

PAIRS = 120  # that are looked at, of neighbours and of others: a second or so, however many images there are
SIDE = 16  # pixels of the thumbnails that are compared
ALIKE = 0.7  # from here on neighbours are too much alike for patients: slices of real CT series have 0.74 to 0.97, single images 0.50 to 0.68


def neighbours_warning(folder: Path, rows: Sequence[Row]) -> str | None:
    """What to add to a warning of files that count as patients, where neighbours look alike; None where they do not, or cannot be compared."""
    share = alikeness(folder, [row for row in rows if row.patient_from == "file"])
    if share is None or share < ALIKE:
        return None
    return f"neighbours in the order of names look like slices of one patient (more alike than {share:.0%} of other pairs)"


def alikeness(folder: Path, rows: Sequence[Row]) -> float | None:
    """How often two neighbours of different patients correlate more than two others do: 0.5 where names have nothing to do with how images look.

    Args:
        folder: of the dataset.
        rows: of its manifest; None is returned where there are too few of them to tell.
    """
    neighbours, others = [], []
    rng = np.random.default_rng(0)
    for kind in (0, 1):
        ordered = sorted((row for row in rows if row.abnormal == kind), key=lambda row: natural(row.source))
        patients = {row.patient: row for row in reversed(ordered)}  # one image of each
        ordered = [row for row in ordered if patients[row.patient] is row]
        places = spread(list(range(len(ordered) - 1)), PAIRS // 2)
        neighbours += [(ordered[place], ordered[place + 1]) for place in places]
        others += [tuple(ordered[place] for place in rng.choice(len(ordered), 2, replace=False)) for _ in places]
    if len(neighbours) < 10:
        return None
    images = {row.image for pair in (*neighbours, *others) for row in pair}
    thumbnails = {image: _thumbnail(folder / image) for image in images}
    mean = np.mean(list(thumbnails.values()), axis=0)  # what all have in common is no likeness
    near, far = (np.array([_correlation(thumbnails[a.image] - mean, thumbnails[b.image] - mean) for a, b in pairs]) for pairs in (neighbours, others))
    return float((near[:, None] > far).mean() + (near[:, None] == far).mean() / 2)


def _thumbnail(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / size) if size > 0 else 0.0
