"""The images with the highest and the lowest scores, kept while all are looked at: what a gallery shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anomaly_detection.baseline import Assessment
from anomaly_detection.data.dataset import to_bytes

EXTREMES = 3  # of each kind: so many of the highest and so many of the lowest


@dataclass(frozen=True)
class _Picture:
    score: float
    place: int
    image: Tensor
    reconstruction: Tensor | None
    map: Tensor


class Gallery:
    """Of every group of images those with the highest and the lowest scores. No more than these and one batch are in memory."""

    def __init__(self):
        self._groups: dict[object, list[_Picture]] = {}

    def add(self, places: Sequence[int], groups: Sequence[object], x: Tensor, assessment: Assessment) -> None:
        """Look at a batch.

        Args:
            places: (B,) numbers of the images.
            groups: (B,) the group of each.
            x: (B, C, H, W) in [-1, 1].
            assessment: of x, with the map.
        """
        scores = assessment.score.tolist()
        reconstruction = assessment.reconstruction
        if reconstruction is not None:
            reconstruction = torch.nn.functional.interpolate(reconstruction.float(), x.shape[2:], mode="nearest")
        touched = {}
        for i, (place, group) in enumerate(zip(places, groups, strict=True)):
            made = None if reconstruction is None else reconstruction[i]
            touched.setdefault(group, []).append(_Picture(scores[i], place, x[i], made, assessment.map[i, 0]))
        for group, pictures in touched.items():
            pictures = _extremes([*self._groups.get(group, ()), *pictures])
            self._groups[group] = [_kept(picture) for picture in pictures]

    def arrays(self) -> dict[str, np.ndarray]:
        """gallery_row (n,), the places; gallery_image and gallery_reconstruction (n, C, H, W) uint8; gallery_map (n, H, W) float32.

        Group after group, the highest scores first, then the lowest. gallery_reconstruction is missing where none are made.
        """
        pictures = [picture for group in self._groups.values() for picture in _in_order(group)]
        columns = {"image": [p.image for p in pictures], "reconstruction": [p.reconstruction for p in pictures], "map": [p.map for p in pictures]}
        found = {"gallery_row": np.array([p.place for p in pictures])}
        return found | {f"gallery_{name}": torch.stack(each).numpy() for name, each in columns.items() if each[0] is not None}


def _extremes(pictures: list[_Picture]) -> list[_Picture]:
    pictures = sorted(pictures, key=lambda picture: (picture.score, picture.place))
    return pictures if len(pictures) <= 2 * EXTREMES else [*pictures[:EXTREMES], *pictures[-EXTREMES:]]


def _in_order(pictures: list[_Picture]) -> list[_Picture]:
    chosen = [*reversed(pictures[-EXTREMES:]), *pictures[:EXTREMES]]
    return list({picture.place: picture for picture in chosen}.values())


def _kept(picture: _Picture) -> _Picture:
    """On the CPU, in the form in which it is shown, and no longer a view of its batch."""
    if picture.image.dtype == torch.uint8:
        return picture
    made = None if picture.reconstruction is None else to_bytes(picture.reconstruction).cpu()
    return _Picture(picture.score, picture.place, to_bytes(picture.image).cpu(), made, picture.map.float().cpu().clone())
