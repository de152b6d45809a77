"""Images of a phantom: axial CT slices under a window, and posterior-anterior chest radiographs.

Both see the same body (`phantom_body`). A slice is painted on its own plane at the resolution of the image. A radiograph is a sum of the
attenuation along parallel rays through a stack of sheets (Beer-Lambert law), then scatter, noise, logarithm and a display curve.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from anomaly_detection.data.phantom_body import paint_body
from anomaly_detection.data.phantom_lesions import Lesion, apply_lesions
from anomaly_detection.data.phantom_patient import Patient
from anomaly_detection.data.phantom_shapes import AIR, Canvas, Tubes

LIVER_WINDOW, LUNG_WINDOW = (50.0, 400.0), (-600.0, 1500.0)  # level, width in HU
WATER_PER_MM = 0.02  # attenuation of water at the mean energy of a chest radiograph, 1/mm


def window_hu(hu: np.ndarray, level: float, width: float) -> np.ndarray:
    """8-bit grey of HU values: black below level - width/2, white above level + width/2."""
    return np.rint(np.clip((hu - level) / width + 0.5, 0, 1) * 255).astype(np.uint8)


# ---- CT ------------------------------------------------------------------------------------------------------------------------------------


class Scan(NamedTuple):
    """How a patient lies in a CT scanner, and how it sees: lengths in mm, noise in HU."""

    pixel: float
    centre: tuple[float, float]
    tilt: float  # radians about the body axis
    thickness: float
    noise: float
    table: float | None  # gap between the back and the table; None where the table was masked out


def sample_scan(rng: np.random.Generator, size: int, organ: str) -> Scan:
    """A scanner setting: liver scans show the whole trunk and often the table, lung scans are zoomed to the chest."""
    view = rng.uniform(340, 440) if organ == "liver" else rng.uniform(280, 370)
    noise = rng.uniform(8, 18) if organ == "liver" else rng.uniform(12, 32)
    table = rng.uniform(0, 8) if organ == "liver" and rng.random() < 0.6 else None
    return Scan(view / size, tuple(rng.normal(0, [7, 9]).tolist()), rng.normal(0, 0.035), rng.uniform(1.5, 5), noise, table)


def _wave(patient: Patient, rows: slice, across: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Smooth displacement in mm that makes one body less regular than the next."""
    total = np.float32(0)
    for amplitude, k_across, k_z, phase_across, phase_z in patient.waves[rows]:
        total = total + amplitude * np.sin(k_across * across + phase_across) * np.sin(k_z * z + phase_z)
    return total


def _to_reference(patient: Patient, x: np.ndarray, y: np.ndarray, z: np.ndarray):
    """From patient mm to the mm of the reference body."""
    x, y, z = (axis / s for axis, s in zip((x, y, z), patient.scale, strict=True))
    return x + _wave(patient, slice(0, 2), y, z), y + _wave(patient, slice(2, 4), x, z), z


def _from_reference(patient: Patient, points: np.ndarray) -> np.ndarray:
    """Inverse of `_to_reference` for points (n, 3), to first order: the waves are long."""
    x, y, z = points.T
    moved = np.stack([x - _wave(patient, slice(0, 2), y, z), y - _wave(patient, slice(2, 4), x, z), z], axis=1)
    return moved * patient.scale


def slice_canvas(patient: Patient, scan: Scan, level: float, size: int) -> Canvas:
    """The canvas of an axial slice at `level` (reference mm), seen from the feet: the patient's right is left in the image."""
    pixels = ((np.arange(size) - (size - 1) / 2) * scan.pixel).astype(np.float32)
    x, y = pixels.reshape(1, 1, -1) + np.float32(scan.centre[0]), pixels.reshape(1, -1, 1) + np.float32(scan.centre[1])
    c, s = np.float32(np.cos(scan.tilt)), np.float32(np.sin(scan.tilt))
    z = np.float32(level * patient.scale[2]).reshape(1, 1, 1)
    return Canvas(*_to_reference(patient, c * x - s * y, s * x + c * y, z), soft=scan.pixel)


def _stamp(patient: Patient, scan: Scan, level: float, tubes: Tubes, size: int) -> np.ndarray:
    """Share (size, size) of each pixel of a slice that is filled by a vessel tree."""
    near = np.abs(tubes.points[:, 2] - level) < tubes.radii + scan.thickness / 2
    tubes = tubes[near]
    x, y, z = (_from_reference(patient, tubes.points) - [0, 0, level * patient.scale[2]]).T
    c, s = np.cos(scan.tilt), np.sin(scan.tilt)
    column = (c * x + s * y - scan.centre[0]) / scan.pixel + (size - 1) / 2
    row = (c * y - s * x - scan.centre[1]) / scan.pixel + (size - 1) / 2
    reach = int(np.ceil((tubes.radii.max(initial=0) / scan.pixel) + 1))
    steps = np.arange(-reach, reach + 1)
    columns, rows = np.rint(column)[:, None, None] + steps, np.rint(row)[:, None, None] + steps[:, None]
    off_plane = np.maximum(np.abs(z) - scan.thickness / 4, 0)[:, None, None]
    across = (columns - column[:, None, None]) ** 2 + (rows - row[:, None, None]) ** 2
    away = np.sqrt(across * scan.pixel**2 + off_plane**2)
    radii = tubes.radii[:, None, None]
    share = np.clip((radii - away) / scan.pixel + 0.5, 0, 1) * np.minimum(1, 2.2 * radii / scan.pixel)
    filled = np.zeros((size, size), np.float32)
    seen = (share > 0) & (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    at = np.broadcast_to(rows * size + columns, share.shape)[seen].astype(np.intp)
    np.maximum.at(filled.reshape(-1), at, share[seen].astype(np.float32))
    return filled


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Noise (size, size) of unit variance at its grid points, `cells` across."""
    grid = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _quantum_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """CT noise of unit variance, correlated over about a pixel as after reconstruction."""
    white = rng.standard_normal((size + 2, size + 2), np.float32)
    rows = 0.25 * white[:-2] + 0.5 * white[1:-1] + 0.25 * white[2:]
    both = 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]
    return both / np.float32(0.375) * np.float32(0.8) + white[1:-1, 1:-1] * np.float32(0.6)


def _add_table(hu: np.ndarray, scan: Scan) -> None:
    """Draw the table (two thin curved shells) below the lowest point of the body, in place."""
    size = len(hu)
    bottom = np.flatnonzero((hu > -300).any(axis=1))[-1]
    across = (np.arange(size) - (size - 1) / 2) * scan.pixel + scan.centre[0]
    down = (np.arange(size)[:, None] - bottom) * scan.pixel - scan.table
    for height, curve, half_width in ((2, 0.0016, 215), (26, 0.0004, 150)):
        shell = np.clip((2 - np.abs(down - height + curve * across**2)) / scan.pixel + 0.5, 0, 1) * (np.abs(across) < half_width)
        hu += np.where(hu < -500, shell * (150 - hu), 0)


def render_slice(patient: Patient, scan: Scan, level: float, organ: str, seed, size: int, lesions: list[Lesion] = ()):
    """An axial slice (size, size) in HU, and the share of each pixel that is lesion.

    The noise depends on `seed` alone, so the same call without lesions gives the same image but for them.
    """
    rng = np.random.default_rng(seed)
    canvas = slice_canvas(patient, scan, level, size)
    paint_body(canvas, patient, erect=False)
    plain = patient.tissue[organ]
    if organ == "lung":
        change = 0.4 * canvas.y + 18 * _smooth_noise(rng, size, max(size // 3, 2)) + 12 * _smooth_noise(rng, size, 12)
        tubes, blood = patient.lung_vessels, 45.0
    else:
        change = 4 * _smooth_noise(rng, size, max(size // 4, 2)) + 2.5 * _smooth_noise(rng, size, 8)
        tubes, blood = patient.liver_vessels, patient.tissue["vein"]
    tissue = np.broadcast_to(plain + change, canvas.hu.shape).astype(np.float32)
    vessels = _stamp(patient, scan, level, tubes, size)
    if organ == "lung":  # vessels stay visible in ground glass; a tumour of the liver pushes them aside
        coverage = apply_lesions(canvas, lesions, organ, tissue)
        tissue += vessels * np.maximum(blood - tissue, 0)
    else:
        tissue += vessels * (blood - tissue)
        coverage = apply_lesions(canvas, lesions, organ, tissue)
    hu = canvas.hu + getattr(canvas, organ) * (tissue - plain)
    if scan.table is not None:
        _add_table(hu[0], scan)
    solid = np.clip((hu + 400) / 200, 0, 1)
    hu = hu + solid * (7 * _smooth_noise(rng, size, max(size // 3, 2)) + 2.5 * _smooth_noise(rng, size, max(size // 9, 2)))
    hu = hu + scan.noise * _quantum_noise(rng, size)
    return np.maximum(hu[0], AIR - 24), coverage[0]  # a scanner stores no less than -1024


# ---- radiograph ----------------------------------------------------------------------------------------------------------------------------


class Exposure(NamedTuple):
    """How a radiograph is taken: lengths in mm, angles in radians."""

    view: float  # side of the detector
    centre: tuple[float, float]  # x and z of its middle
    turn: float  # rotation of the patient about the body axis
    tilt: float  # in the plane of the image
    scatter: float
    noise: float
    gamma: float
    black: float
    white: float


def sample_exposure(rng: np.random.Generator) -> Exposure:
    """A setting of tube, detector and display."""
    return Exposure(
        rng.uniform(330, 410),
        (rng.normal(0, 8), rng.normal(88, 10)),
        rng.normal(0, 0.04),
        rng.normal(0, 0.025),
        rng.uniform(0.05, 0.3),
        rng.uniform(0.006, 0.02),
        rng.uniform(0.75, 1.2),
        rng.uniform(-0.1, 0.1),
        rng.uniform(-0.1, 0.1),
    )


# Borders (mm) of the sheets that a ray is summed over, front to back: thin where ribs are crossed, thick in the middle.
SHEETS = np.concatenate([np.arange(-165, -45, 6), np.arange(-45, 45, 7.5), np.arange(45, 178, 5.5)]).astype(np.float32)


def _attenuation(hu: np.ndarray) -> np.ndarray:
    """HU to water-equivalent thickness per mm; bone counts for more at the lower energy of a radiograph."""
    return (1 + hu / 1000) + 0.001 * np.maximum(hu - 100, 0)


def project(patient: Patient, exposure: Exposure, size: int, lesions: list[Lesion] = ()):
    """Water-equivalent thickness in mm (size, size) along parallel rays from back to front, and what lesions add to it."""
    pixel = exposure.view / size
    pixels = ((np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)
    y, steps = ((SHEETS[1:] + SHEETS[:-1]) / 2).reshape(1, -1, 1), np.diff(SHEETS)
    column = pixels.reshape(1, 1, -1) + np.float32(exposure.centre[0])
    turn, tilt = np.float32(np.tan(exposure.turn)), np.float32(np.tan(exposure.tilt))
    plain, added = np.empty((size, size), np.float32), np.zeros((size, size), np.float32)
    rows = 20
    for first in range(0, size, rows):
        row = -pixels[first : first + rows][::-1].reshape(-1, 1, 1)
        x, z = column + y * turn - row * tilt, row + np.float32(exposure.centre[1]) + column * tilt
        canvas = Canvas(*_to_reference(patient, x, y, z), soft=1.1 * pixel)
        paint_body(canvas, patient, erect=True)
        plain[first : first + rows] = (steps @ _attenuation(canvas.hu))[::-1]
        if lesions:
            tissue = np.full_like(canvas.hu, patient.tissue["lung"])
            apply_lesions(canvas, lesions, "lung", tissue)
            rise = canvas.lung * (tissue - patient.tissue["lung"]) / 1000
            added[first : first + rows] = (steps @ rise)[::-1]
    return plain, added


def _project_vessels(patient: Patient, exposure: Exposure, size: int) -> np.ndarray:
    """Water-equivalent thickness in mm (size, size) of the lung vessels, splat by volume, so that no voxel need resolve them."""
    pixel, tubes = exposure.view / size, patient.lung_vessels
    x, y, z = _from_reference(patient, tubes.points).T
    x, z = x - y * np.tan(exposure.turn), z - exposure.centre[1]
    tilt = np.tan(exposure.tilt)
    z = (z - x * tilt) / (1 + tilt**2)
    column, row = (x + z * tilt - exposure.centre[0]) / pixel + (size - 1) / 2, (size - 1) / 2 - z / pixel
    steps = np.arange(-2, 3)
    columns, rows = np.rint(column)[:, None, None] + steps, np.rint(row)[:, None, None] + steps[:, None]
    spread = np.maximum(tubes.radii * 0.6 / pixel, 0.45)[:, None, None]
    weight = np.exp(-((columns - column[:, None, None]) ** 2 + (rows - row[:, None, None]) ** 2) / (2 * spread**2))
    volume = np.pi * tubes.radii**2 * tubes.lengths * float(patient.scale.prod())
    weight *= (0.85 * volume / pixel**2)[:, None, None] / weight.sum(axis=(1, 2), keepdims=True)
    seen = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    at = (rows * size + columns)[seen].astype(np.intp)
    return np.bincount(at, weight[seen], minlength=size * size).reshape(size, size).astype(np.float32)


def _blur(image: np.ndarray, cells: int) -> np.ndarray:
    """The image as seen through a grid of `cells` by `cells`."""
    small = Image.fromarray(image).resize((cells, cells), Image.Resampling.BOX)
    return np.asarray(small.resize(image.shape[::-1], Image.Resampling.BICUBIC))


def develop(thickness: np.ndarray, exposure: Exposure, reference: np.ndarray, seed) -> np.ndarray:
    """From water-equivalent thickness in mm to 8-bit grey, bright where much was absorbed.

    Beer-Lambert law with scatter and noise, logarithm, edge enhancement, and a grey scale that is fitted to `reference`, the thickness
    without lesions, as the automatic exposure would be.
    """
    rng = np.random.default_rng(seed)
    light = np.exp(-WATER_PER_MM * thickness)
    light = light + exposure.scatter * np.maximum(_blur(light, 6), 0)
    signal = -np.log(np.maximum(light, 1e-4) * (1 + exposure.noise * rng.standard_normal(light.shape, np.float32)))
    signal = signal + 0.7 * (signal - _blur(signal, 16))
    low, high = np.percentile(-np.log(np.exp(-WATER_PER_MM * reference) * (1 + exposure.scatter)), [3, 93])
    grey = (signal - low * (1 + exposure.black)) / ((high - low) * (1.08 + exposure.white)) + 0.04
    return np.rint(np.clip(grey, 0, 1) ** exposure.gamma * 255).astype(np.uint8)


def _furnish(grey: np.ndarray, seed) -> np.ndarray:
    """Add what the room adds: a side marker and the shadow of the collimator."""
    rng = np.random.default_rng(seed)
    size = len(grey)
    if rng.random() < 0.6:
        top, left, length = int(rng.uniform(0.03, 0.1) * size), int(rng.uniform(0.84, 0.92) * size), max(size // 24, 3)
        grey[top : top + length, left : left + 1] = 245
        grey[top + length - 1 : top + length, left : left + length // 2 + 1] = 245
    if rng.random() < 0.35:
        border = int(rng.uniform(0.01, 0.05) * size) + 1
        side = rng.integers(4)
        np.rot90(grey, side)[:border] = rng.choice([0, 12, 250])
    return grey


def render_radiograph(patient: Patient, exposure: Exposure, seed, size: int, lesions: list[Lesion] = ()) -> tuple[np.ndarray, np.ndarray]:
    """A posterior-anterior radiograph (size, size), 8-bit, patient's right on the left, and the thickness that lesions add, mm of water."""
    plain, added = project(patient, exposure, size, lesions)
    plain += _project_vessels(patient, exposure, size)
    return _furnish(develop(plain + added, exposure, plain, [*seed, 0]), [*seed, 1]), added
