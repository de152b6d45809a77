"""Which of the stored values are shown: from CT in Hounsfield units, MRI without a unit or 16-bit pictures to 8-bit grey."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anomaly_detection.system.errors import UserError

AUTO_PERCENTILES = (0.5, 99.5)
HOW = "--window LEVEL WIDTH, in Python window=(level, width), in Hounsfield units for CT; or auto"
NO_WINDOW = f"the file states no window; give one: {HOW}"


@dataclass(frozen=True)
class Window:
    """The values that are shown: black below level - width / 2, white above level + width / 2; of CT in Hounsfield units."""

    level: float
    width: float

    def __post_init__(self):
        if not (np.isfinite(self.level) and np.isfinite(self.width) and self.width > 0):
            raise ValueError(f"a window needs a level and a width above 0, both finite, not {self.level:g} and {self.width:g}")

    @classmethod
    def covering(cls, values: np.ndarray, overwrite: bool = False) -> "Window":
        """The window from the 0.5th to the 99.5th percentile of the finite values, as is usual for MRI, whose values have no unit.

        Args:
            values: of any shape.
            overwrite: they may be left in another order, which saves a copy of them.
        """
        finite = np.isfinite(values)
        values = values if finite.all() else values[finite]
        low, high = np.percentile(values, AUTO_PERCENTILES, overwrite_input=overwrite) if values.size else (0, 0)
        low, high = float(low), float(high)  # of float32 the sum may be beyond its range
        return cls((low + high) / 2, max(high - low, 1e-6))

    def share(self, values: np.ndarray) -> np.ndarray:
        """How bright values are, float32 of the same shape: 0 black, 1 white, and beyond that out of the window."""
        return (np.asarray(values, np.float32) - np.float32(self.level)) / np.float32(self.width) + np.float32(0.5)

    def grey(self, values: np.ndarray) -> np.ndarray:
        """uint8 of the same shape; what is not a number is black."""
        return grey_of(self.share(values))


def grey_of(share: np.ndarray) -> np.ndarray:
    """uint8 of brightness from 0 to 1, which is cut off beyond; what is not a number is black."""
    grey = np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0)  # a copy, on which the rest is done in place
    np.clip(grey, 0, 1, out=grey)
    grey *= 255
    return np.rint(grey, out=grey).astype(np.uint8)


WindowChoice = Window | Literal["auto"] | None  # "auto": `Window.covering` what the file holds; None: what the file says


def plain_window(window: WindowChoice) -> list[float] | str | None:
    """As files hold it: [level, width], "auto" or None."""
    return [window.level, window.width] if isinstance(window, Window) else window


def window_from(values: Sequence[float] | str | None) -> WindowChoice:
    """The inverse of `plain_window`.

    Raises:
        ValueError: anything else.
    """
    if values is None or (isinstance(values, str) and values == "auto"):
        return values
    try:
        level, width = () if isinstance(values, str | Mapping) else map(float, values)
    except (TypeError, ValueError):  # no sequence, not two, no numbers
        raise ValueError(f"window must be (level, width), auto or None, not {values!r}") from None
    return Window(level, width)


def parse_window(words: list[str] | None) -> WindowChoice:
    """What follows --window: LEVEL WIDTH, auto, or nothing.

    Raises:
        UserError: anything else.
    """
    if words is None:
        return None
    if words == ["auto"]:
        return "auto"
    try:
        level, width = map(float, words)
        return Window(level, width)
    except ValueError:
        raise UserError(f"--window {' '.join(words)}: expected LEVEL WIDTH, such as 40 400, with a width above 0, or auto") from None


def telling(count: int, most: int) -> list[int]:
    """Which of `count` slices or frames, at most `most` of them, tell an automatic window: the first, the last, and others evenly between.

    Not those of `thinning.spread`: networks that were trained on automatic windows would then be shown other pixels of the same files.
    """
    return list(range(count)) if count <= most else np.rint(np.linspace(0, count - 1, most)).astype(int).tolist()
