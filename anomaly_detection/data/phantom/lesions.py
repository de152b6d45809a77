"""Lesions of liver and lung as solids with a soft, irregular edge, and the distributions they are drawn from.

Liver: hypodense tumours in the portal venous phase (metastases, hepatocellular carcinoma).
  Reported: LiTS holds "varied sizes and appearances with various lesion-to-background levels" (Bilic et al., Med Image Anal 2023,
  arXiv:1901.04056). Metastases of up to 15 mm measure 9.3 +- 2.7 mm (helical CT of 1133 patients, PMID 12439304); larger ones may fill a
  lobe. A rim is seen in 73 % of colorectal metastases and enhances in most (Ann Acad Med Singapore 2003;32:191-195). Textbook: enhanced
  liver about 110 HU, hypovascular tumour 50..90 HU.
  Drawn: diameter log-normal, median 20 mm, sigma 0.55, within 7..80 mm; 1 + Poisson(1.6) tumours, at most 7; 15..65 HU below the liver
  (triangular, mode 35; less in a fatty liver: no tumour is below 25 HU, none's core below 12 HU); in a third a rim as bright as the liver
  around a dark centre, in a quarter a necrotic core.
Lung, CT: COVID-19 pneumonia.
  Reported: ground glass does not hide the vessels, consolidation does (Hansell et al., Fleischner glossary, Radiology 2008). Bilateral in
  28 / 76 / 88 % of early / intermediate / late scans, peripheral (Bernheim et al., Radiology 2020). Peripheral in 82 %, posterior in
  82 %, ground glass in 87 % of 552 patients (PMC7355135). Mean density of the opacities -462 +- 99 HU early and -430 +- 80 HU late, with
  a histogram peak at -700..-500 HU (quantitative CT of 52 patients, 2020).
  Drawn: 2 + Poisson(4) patches; radius log-normal, median 18 mm, sigma 0.4, within 8..55 mm; ground glass of N(-530, 92) HU within
  -750..-320; a consolidated core of -120..20 HU in a quarter; both lungs in 80 % of patients; likelier behind, low and near the pleura.
Lung, radiograph.
  Reported: ground glass the main pattern in 51 % of first, consolidation in 51 % of follow-up radiographs; lower zones in 90 %, multifocal
  bilateral, central and peripheral in 63 %; 57 % of patients have a normal first one (96 patients of Singapore, Singapore Med J).
  Drawn: as for CT, but radius of median 30 mm, N(-460, 92) HU, a consolidated core in half of the patches, both lungs in 63 %, less bound
  to the pleura: an opacity that a radiograph shows is large and dense.
Where no report is named, and for number, shape and edge throughout, the figure is our choice.

Contrast and detail: those distributions say what a clinic sees, not what a detector can see. `draw_detail` draws diameter and contrast apart from
each other and evenly on a logarithmic scale, beyond what is clinically likely at either end, so that every cell of a contrast-detail table is filled.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anomaly_detection.data.phantom.body import cavity_depth, probe
from anomaly_detection.data.phantom.patient import Patient
from anomaly_detection.data.phantom.shapes import Box, Canvas, Ellipsoid


class Lesion(NamedTuple):
    """An ellipsoid with a wavy surface.

    `edge` (mm) is the width of its border; the tissue inside takes `hu`, its inner `core_share` (of the radius) takes `core_hu`.
    """

    body: Ellipsoid
    wave: tuple[float, float, float]
    roughness: float
    edge: float
    hu: float
    core_share: float
    core_hu: float

    def box(self) -> Box:
        low, high = np.array(self.body.box())
        margin = self.roughness * (high - low) / 2 + self.edge
        return Box(tuple(low - margin), tuple(high + margin))

    def depth(self, x, y, z):
        """Approximate distance below the wavy surface in mm; negative outside."""
        k = 4.0 / float(np.mean(self.body.axes))
        a, b, c = self.wave
        ripple = np.sin(k * (0.9 * x + 0.5 * y) + a) * np.sin(k * (0.7 * y - 0.6 * z) + b)
        ripple = ripple + np.sin(k * (1.1 * z + 0.4 * x) + c) * np.sin(k * (0.6 * x - 0.8 * y) + a)
        ripple = ripple + 0.5 * np.sin(2 * k * (x + 0.7 * y - 0.6 * z) + c)
        return self.body.depth(x, y, z) + np.float32(0.5 * self.roughness * min(self.body.axes)) * ripple


def draw_liver_lesions(patient: Patient, rng: np.random.Generator) -> list[Lesion]:
    """Hypodense tumours at random points of the liver."""
    count = min(1 + rng.poisson(1.6), 7)
    places = points_in(patient, "liver", rng)
    return [_liver_lesion(place, patient.tissue["liver"], rng) for place in places[rng.permutation(len(places))[:count]]]


def _liver_lesion(place: np.ndarray, liver: float, rng: np.random.Generator) -> Lesion:
    axes = 0.5 * np.clip(rng.lognormal(np.log(20), 0.55), 7, 80) * rng.uniform(0.8, 1.2, 3)
    return _tumour(place, liver, axes, max(liver - rng.triangular(15, 35, 65), 25.0), rng)


def _tumour(place: np.ndarray, liver: float, axes: np.ndarray, hu: float, rng: np.random.Generator) -> Lesion:
    core_share, core_hu = 0.0, hu
    kind = rng.random()
    if kind < 0.33:  # the rim is about as bright as the liver, the centre is what shows
        core_share, core_hu, hu = 0.75, hu, liver + rng.uniform(-12, 12)
    elif kind < 0.58:
        core_share, core_hu = 0.5, max(hu - rng.uniform(5, 20), 12.0)
    body = Ellipsoid(tuple(place.tolist()), tuple(axes.tolist()), rng.uniform(0, 3.14))
    return Lesion(body, _phases(rng), 0.16, rng.uniform(1.5, 5), hu, core_share, core_hu)


def draw_lung_lesions(patient: Patient, rng: np.random.Generator, projected: bool = False) -> list[Lesion]:
    """Patches of ground glass, some with a consolidated core, mostly peripheral, posterior and low; larger when meant for a radiograph."""
    places = points_in(patient, "lung", rng)
    liking = _liking(places, projected)
    if rng.random() > (0.63 if projected else 0.8):
        liking = liking * (places[:, 0] * rng.choice([-1, 1]) > 0)
    count = 2 + rng.poisson(4.0)
    places = places[rng.choice(len(places), count, p=liking / liking.sum())]
    severity = rng.normal(0, 45)
    return [_patch(place, severity, projected, rng) for place in places]


def _liking(places: np.ndarray, projected: bool) -> np.ndarray:
    """How much likelier an opacity is at each of some places (n, 3): behind, low and near the pleura."""
    return np.exp(-np.maximum(cavity_depth(places) - 8, 0) / (28 if projected else 16)) * np.exp(places[:, 1] / 45 - places[:, 2] / 120)


def _patch(place: np.ndarray, severity: float, projected: bool, rng: np.random.Generator) -> Lesion:
    radius = float(np.clip(rng.lognormal(np.log(30 if projected else 18), 0.4), 8, 55))
    hu = float(np.clip(rng.normal(-460 if projected else -530, 80) + severity, -750, -320))
    return _opacity(place, radius, hu, projected, rng)


def _opacity(place: np.ndarray, radius: float, hu: float, projected: bool, rng: np.random.Generator) -> Lesion:
    core = (0.0, hu)
    if rng.random() < (0.5 if projected else 0.25):
        core = (rng.uniform(0.6, 0.95) if projected else rng.uniform(0.4, 0.75), max(rng.uniform(-120, 20), hu))
    axes = radius * np.array([0.65, 1.0, 1.0]) * rng.uniform(0.75, 1.3, 3)
    outward = np.arctan2(place[1], place[0])  # the short axis points to the chest wall, so that the patch hugs the pleura
    return Lesion(Ellipsoid(tuple(place.tolist()), tuple(axes.tolist()), float(outward)), _phases(rng), 0.35, rng.uniform(5, 12), hu, *core)


# of `draw_detail`, in mm and in HU of difference to the healthy organ
LIVER_DIAMETERS, LIVER_CONTRASTS = (8.0, 80.0), (15.0, 90.0)
LUNG_DIAMETERS, LUNG_CONTRASTS = (14.0, 110.0), (70.0, 870.0)
NO_DARKER, NO_BRIGHTER = 12.0, 20.0  # HU of a tumour of the liver, of an opacity of the lung


def draw_detail(patient: Patient, organ: str, level: float | None, rng: np.random.Generator, places: np.ndarray) -> list[Lesion]:
    """One lesion of a wide range of diameters and contrasts, and a few more at times.

    Args:
        patient: whose organ it is in.
        organ: "liver" or "lung".
        level: of the slice (reference mm) that cuts each of them; None of a radiograph, which sees all.
        rng: what it is drawn with.
        places: (n, 3) points of the organ, as `points_in` gives them.
    """
    diameters, contrasts = (LIVER_DIAMETERS, LIVER_CONTRASTS) if organ == "liver" else (LUNG_DIAMETERS, LUNG_CONTRASTS)
    lesions = []
    for _ in range(1 + min(rng.poisson(0.8), 3)):
        diameter, contrast = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (diameters, contrasts))
        near = places if level is None else places[np.abs(places[:, 2] - level) < max(0.2 * diameter, 3)]
        if organ == "liver":
            hu = max(patient.tissue["liver"] - contrast, NO_DARKER)
            lesions.append(_tumour(rng.choice(near), patient.tissue["liver"], 0.5 * diameter * rng.uniform(0.8, 1.2, 3), hu, rng))
        else:
            liking = _liking(near, level is None)
            hu = min(patient.tissue["lung"] + contrast, NO_BRIGHTER)
            lesions.append(_opacity(near[rng.choice(len(near), p=liking / liking.sum())], diameter / 2, hu, level is None, rng))
    return lesions


def _phases(rng: np.random.Generator) -> tuple[float, float, float]:
    return tuple(rng.uniform(0, 6.28, 3).tolist())


def points_in(patient: Patient, organ: str, rng: np.random.Generator) -> np.ndarray:
    """Random points (n, 3), reference mm, that lie wholly within an organ."""
    low, high = ([-130, -90, -130], [90, 95, 5]) if organ == "liver" else ([-125, -85, -50], [125, 95, 215])
    points = rng.uniform(low, high, (3000, 3)).astype(np.float32)
    return points[getattr(probe(patient, points), organ)[0, 0] > 0.99]


def apply_lesions(canvas: Canvas, lesions: Sequence[Lesion], organ: str, parenchyma: np.ndarray) -> np.ndarray:
    """Change the HU `parenchyma` (in place) of "lung" or "liver" by lesions; returns the share of each point that is lesion, 0..1.

    An opacity of the lung only ever adds attenuation; a tumour of the liver replaces the tissue.
    """
    coverage = np.zeros_like(parenchyma)
    for lesion in lesions:
        cut = canvas.window(lesion.box())
        if cut is None:
            continue
        depth = lesion.depth(*canvas.points(cut))
        inside = np.clip(depth / np.float32(max(lesion.edge, canvas.soft)) + np.float32(0.5), 0, 1)
        hu = lesion.hu
        if lesion.core_share:
            reach = min(lesion.body.axes) * 0.5 * (1 - lesion.core_share**2)
            hu = hu + np.clip((depth - reach) / lesion.edge + 0.5, 0, 1) * (lesion.core_hu - lesion.hu)
        rise = hu - parenchyma[cut]
        parenchyma[cut] += inside * (np.maximum(rise, 0) if organ == "lung" else rise)
        coverage[cut] = np.maximum(coverage[cut], inside)
    return coverage * getattr(canvas, organ)
