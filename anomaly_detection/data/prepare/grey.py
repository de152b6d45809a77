"""From stored values to 8-bit grey of one size."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Aspect = Literal["stretch", "pad"]
AUTO_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Window:
    """The values that are shown: black below level - width / 2, white above level + width / 2; of CT in Hounsfield units."""

    level: float
    width: float

    def __post_init__(self):
        if not self.width > 0:
            raise ValueError(f"width of a window must be above 0, not {self.width:g}")

    @classmethod
    def covering(cls, values: np.ndarray) -> "Window":
        """The window from the 0.5th to the 99.5th percentile of the finite values, as is usual for MRI, whose values have no unit."""
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, AUTO_PERCENTILES) if finite.size else (0, 0)
        return cls(float(low + high) / 2, max(float(high - low), 1e-6))

    def grey(self, values: np.ndarray) -> np.ndarray:
        """uint8 of the same shape; what is not a number is black."""
        share = (np.asarray(values, np.float32) - np.float32(self.level)) / np.float32(self.width) + np.float32(0.5)
        return np.rint(np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1) * 255).astype(np.uint8)


def resize_grey(pixels: np.ndarray, size: int, aspect: Aspect) -> np.ndarray:
    """A grey image (H, W) uint8 as (size, size): bilinear with antialiasing, stretched, or with black bars beside or above and below."""
    return np.asarray(_fit(Image.fromarray(pixels), size, aspect))


def resize_mask(mask: np.ndarray, size: int, aspect: Aspect) -> np.ndarray:
    """A mask (H, W) bool as (size, size) uint8, 255 where it covers half of a pixel; a small lesion keeps the pixels that it covers most."""
    share = np.asarray(_fit(Image.fromarray(mask.astype(np.float32)), size, aspect))
    most = float(share.max())
    return np.where(share >= min(0.5, most / 2), 255, 0).astype(np.uint8) if most > 0 else np.zeros((size, size), np.uint8)


def _fit(image: Image.Image, size: int, aspect: Aspect) -> Image.Image:
    if aspect == "stretch":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    scale = size / max(image.size)
    inner = image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.BILINEAR)
    fitted = Image.new(image.mode, (size, size))
    fitted.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return fitted
