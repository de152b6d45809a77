"""How conspicuous a lesion is in a picture, and three strata of it, by limits that were set before any detector was run on such pictures.

A lesion is measured against its healthy twin, the same picture of the same body with the same noise but without it. A is the visible area in pixels,
C the contrast, the mean difference to the twin over A, and S the noise, the standard deviation of the twin over A and the organ's pixels within
`RIM` of it. S holds quantum noise and anatomy alike: in a chest radiograph it is the anatomy that hides lesions (Samei, Flynn and Eyler, Radiology
1999;213:727-734), and vessels and graininess do so in CT. Rose's signal-to-noise ratio is

    k = |C| / S * sqrt(A)            (Rose, J Opt Soc Am 1948;38:196-208)

An object is detected with near certainty from k = 5 on, if the noise is white and its place and shape are known; neither holds here, so that a
stratum asks for more. The area is a share of the picture, so that the strata mean the same in pictures of any size: 0.2 % is a disc of 11 pixels
across in a picture of 224 pixels, 0.75 % one of 22, and 36 mm of a field of view of 370 mm.

    obvious    k >= 30 and A >= 0.75 %    whoever looks sees it
    typical    k >= 10 and A >= 0.2 %     seen when looked for
    subtle     what is less

Which region speaks for a picture of several, that of the highest stratum rather than of the highest k, was settled after the first detectors had been
run.

On contact sheets the strata are cautious where S is mostly anatomy: vessels in CT of the lung are far brighter than an opacity, and a quarter of what
is typical there strikes a reader at once. What is obvious does so nearly everywhere.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, label

RIM = 2  # pixels
# the least k and the least share of the picture, from the highest stratum down
LIMITS = {"obvious": (30.0, 0.0075), "typical": (10.0, 0.002), "subtle": (0.0, 0.0)}
STRATA = tuple(LIMITS)


class Conspicuity(NamedTuple):
    """Of the region of a picture that is of the highest stratum, and among those of one stratum of the one with the highest k.

    Attributes:
        lesions: how many regions (8 neighbours) the visible lesions of the picture have.
        diameter_mm: of the disc that is as large as the region.
        contrast: mean difference to the twin, in HU of CT and in grey (0..255) of a radiograph; negative where the lesion is darker.
        noise: standard deviation of the twin there, in the same unit.
        cnr: |contrast| / noise.
        area_px: pixels of the region.
        visible_px: pixels of all regions.
        rose_snr: cnr * sqrt(area_px).
        stratum: one of `STRATA`.
    """

    lesions: int
    diameter_mm: float
    contrast: float
    noise: float
    cnr: float
    area_px: int
    visible_px: int
    rose_snr: float
    stratum: str


def stratum_of(rose_snr: float, share: float) -> str:
    """The highest stratum whose limits a Rose ratio and a share of the picture reach."""
    return next(name for name, (least_snr, least_share) in LIMITS.items() if rose_snr >= least_snr and share >= least_share)


def measure(picture: np.ndarray, twin: np.ndarray, visible: np.ndarray, organ: np.ndarray, pixel_mm: float) -> Conspicuity:
    """How conspicuous the lesions of a picture are.

    Args:
        picture, twin: (H, W), with and without lesions, in HU or grey.
        visible: (H, W) bool, where lesions are visible; somewhere they must be.
        organ: (H, W) bool, the organ that they are in.
        pixel_mm: side of a pixel.
    """
    numbers, count = label(visible, np.ones((3, 3)))
    regions = [_region(picture, twin, numbers == number, organ) for number in range(1, count + 1)]
    # a small and strong lesion hides none beside it that whoever looks sees
    rank, rose, (contrast, noise, area) = max((-STRATA.index(_stratum(region, visible.size)), _rose(*region), region) for region in regions)
    return Conspicuity(
        lesions=count,
        diameter_mm=2 * np.sqrt(area / np.pi) * pixel_mm,
        contrast=contrast,
        noise=noise,
        cnr=abs(contrast) / noise,
        area_px=area,
        visible_px=int(visible.sum()),
        rose_snr=rose,
        stratum=STRATA[-rank],
    )


def _region(picture: np.ndarray, twin: np.ndarray, region: np.ndarray, organ: np.ndarray) -> tuple[float, float, int]:
    """Contrast, noise and area of one region."""
    around = region | (binary_dilation(region, iterations=RIM) & organ)
    # a step of grey is as fine as a picture can be: no noise is less than that of rounding
    noise = max(float(np.std(twin[around], dtype=float)), 1 / np.sqrt(12))
    return float(np.mean(picture[region] - twin[region].astype(float))), noise, int(region.sum())


def _stratum(region: tuple[float, float, int], pixels: int) -> str:
    return stratum_of(_rose(*region), region[2] / pixels)


def _rose(contrast: float, noise: float, area: int) -> float:
    return float(abs(contrast) / noise * np.sqrt(area))
