"""The protocol of an examination: at which level a body is cut, how the field of view is laid round it, and how it is exposed.

A technologist sets the first two by landmarks of the patient, the automatic exposure control keeps the noise, the display curve is that of the
department, and what the collimator covers is cut off, so that pictures of one examination differ by the patient and little else. `sample_scan`,
`sample_exposure` and `render_radiograph` are those of many departments. Ranges are our choice.
"""

from collections.abc import Sequence

import numpy as np

from anomaly_detection.data.phantom.body import paint_body
from anomaly_detection.data.phantom.lesions import Lesion, points_in
from anomaly_detection.data.phantom.patient import Patient
from anomaly_detection.data.phantom.rendering import Exposure, Projection, Scan, slice_canvas

STEP_MM = 0.5  # no two slices of a patient are closer, and the step of the slice number in a file name
# mean and standard deviation of the level in reference mm: the largest section of the liver, from the dome of its diaphragm; below the hila
LIVER_LEVEL, LUNG_LEVEL = (-58.0, 5.0), (72.0, 5.0)
MARGIN, LUNG_MARGIN = (1.04, 1.12), (1.12, 1.2)  # the field of view, of what it is to hold: of a slice, of a radiograph
LUNG_MM = 20.0  # of a ray, from which a pixel of a radiograph counts as lung
_SURVEY_MM, _SURVEY, _LUNG_SURVEY = 600.0, 96, 48  # side of the survey from which the field of view is read, its pixels: of a slice, of a radiograph


def draw_level(patient: Patient, organ: str, rng: np.random.Generator) -> float:
    """The level (reference mm) at which "liver" or "lung" is cut."""
    if organ == "liver":
        return patient.domes[0] + rng.normal(*LIVER_LEVEL)
    return rng.normal(*LUNG_LEVEL)


def fit_scan(patient: Patient, organ: str, level: float, size: int, rng: np.random.Generator) -> Scan:
    """A scanner setting whose field of view holds the whole body at this level, or the chest without arms and much of the wall for the lungs."""
    noise, table = (rng.normal(12, 1), rng.uniform(1, 4)) if organ == "liver" else (rng.normal(20, 1.5), None)
    scan = Scan(_SURVEY_MM / _SURVEY, (0.0, 0.0), rng.normal(0, 0.02), rng.uniform(2.5, 3.5), noise, table)
    survey = slice_canvas(patient, scan, level, _SURVEY)
    paint_body(survey, patient, erect=False)
    middle, extent = _extent(survey.hu[0] > -400 if organ == "liver" else survey.lung[0] > 0.5)
    view = extent * rng.uniform(*MARGIN) + (0 if organ == "liver" else 20)
    centre = middle + rng.normal(0, 3, 2)
    return scan._replace(pixel=view / size, centre=(float(centre[0]), float(centre[1])))


def fit_exposure(patient: Patient, rng: np.random.Generator) -> Exposure:
    """A setting of tube, detector and display for a chest radiograph whose field of view is laid round the lungs."""
    exposure = Exposure(
        view=_SURVEY_MM,
        centre=(0.0, 80.0),
        turn=rng.normal(0, 0.02),
        lean=rng.normal(0, 0.012),
        scatter=rng.uniform(0.13, 0.19),
        noise=rng.uniform(0.010, 0.013),
        gamma=rng.uniform(0.93, 1.03),
        black=rng.normal(0, 0.015),
        white=rng.normal(0, 0.015),
    )
    (x, row), extent = _extent(Projection(patient, exposure, _LUNG_SURVEY).lung_mm > LUNG_MM)
    x, z = np.array([x, exposure.centre[1] - row]) + rng.normal(0, 3, 2)
    return exposure._replace(view=extent * rng.uniform(*LUNG_MARGIN), centre=(float(x), float(z)))


def _extent(held: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle (to the right, down) of what a survey holds, from its own middle, and the longer side of the box around it; in mm."""
    pixel = _SURVEY_MM / len(held)
    low, high = np.array([np.flatnonzero(held.any(axis=axis))[[0, -1]] for axis in (0, 1)]).T  # of columns and rows
    return ((low + high + 1 - len(held)) / 2) * pixel, float((high - low + 1).max()) * pixel


def _spaced_levels(candidates: np.ndarray, count: int) -> list[float]:
    """`count` of the candidate levels (mm), in their order, as far apart as 12 mm or, if that is not to be had, less."""
    for space in (12.0, 8.0, 5.0, 3.0, 1.5, STEP_MM):
        chosen: list[float] = []
        for level in candidates:
            if len(chosen) < count and all(abs(level - other) >= space for other in chosen):
                chosen.append(float(level))
        if len(chosen) == count:
            return chosen
    raise ValueError(f"{count} levels wanted of {len(candidates)}")


def draw_levels(patient: Patient, organ: str, lesions: Sequence[Lesion], count: int, rng: np.random.Generator) -> list[float]:
    """Levels (reference mm) anywhere at which an organ, or a lesion in it, is cut; frequent where it is large. Of a scan without a protocol."""
    points = points_in(patient, organ, rng)
    if not lesions:
        return _spaced_levels(points[:, 2], count)
    inside = np.max([lesion.depth(*points.T) for lesion in lesions], axis=0) > 0
    centre, reach = np.array([(lesion.body.centre[2], max(0.6 * lesion.body.axes[2], 4 * STEP_MM)) for lesion in lesions]).T
    through = centre + np.linspace(-1, 1, 9)[:, None] * reach  # for lesions that no point hits
    return _spaced_levels(np.concatenate([points[inside, 2], rng.permutation(through.reshape(-1))]), count)
