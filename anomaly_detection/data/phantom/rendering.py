"""Images of a phantom: axial CT slices under a window, and posterior-anterior chest radiographs.

Both see the same body (`phantom_body`). A slice is painted on its own plane at the resolution of the image. A radiograph is a sum of the
attenuation along parallel rays through a stack of sheets (Beer-Lambert law), then scatter, noise, logarithm and a display curve.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from anomaly_detection.data.phantom.body import paint_body
from anomaly_detection.data.phantom.lesions import Lesion, apply_lesions
from anomaly_detection.data.phantom.patient import Patient
from anomaly_detection.data.phantom.shapes import AIR, Canvas, Tubes

LIVER_WINDOW, LUNG_WINDOW = (50.0, 400.0), (-600.0, 1500.0)  # level, width in HU
WATER_PER_MM = 0.02  # attenuation of water at the mean energy of a chest radiograph, 1/mm


def window_hu(hu: np.ndarray, level: float, width: float) -> np.ndarray:
    """8-bit grey of HU values: black below level - width/2, white above level + width/2."""
    return np.rint(np.clip((hu - level) / width + 0.5, 0, 1) * 255).astype(np.uint8)


# ---- CT


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
    tubes = tubes[np.abs(tubes.points[:, 2] - level) < tubes.radii + scan.thickness / 2 + np.abs(tubes.axes[:, 2]) / 2]
    points = _from_reference(patient, tubes.points) - [0, 0, level * patient.scale[2]]
    (x, y, z), (along_x, along_y, along_z) = _turn(points, scan.tilt).T, _turn(tubes.axes * patient.scale, scan.tilt).T[..., None, None]
    column, row = ((axis - middle) / scan.pixel + (size - 1) / 2 for axis, middle in zip((x, y), scan.centre, strict=True))
    reach = int(np.ceil((tubes.radii.max(initial=0) + np.abs(tubes.axes).max(initial=0) / 2) / scan.pixel + 1))
    columns, rows = _footprint(column, row, reach)
    dx, dy = (columns - column[:, None, None]) * scan.pixel, (rows - row[:, None, None]) * scan.pixel
    dz = -np.sign(z) * np.maximum(np.abs(z) - scan.thickness / 4, 0)
    dz = dz[:, None, None]
    part = (dx * along_x + dy * along_y + dz * along_z) / (along_x**2 + along_y**2 + along_z**2)
    part = np.clip(part, -0.5, 0.5)  # where on the piece the pixel is nearest
    away = np.sqrt((dx - part * along_x) ** 2 + (dy - part * along_y) ** 2 + (dz - part * along_z) ** 2)
    radii = tubes.radii[:, None, None]
    share = np.clip((radii - away) / scan.pixel + 0.5, 0, 1) * np.minimum(1, 2.2 * radii / scan.pixel)  # thin ones fill no pixel
    seen = (share > 0) & (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    filled = np.zeros(size * size, np.float32)
    np.maximum.at(filled, (rows * size + columns)[seen], share[seen].astype(np.float32))
    return filled.reshape(size, size)


def _turn(vectors: np.ndarray, angle: float) -> np.ndarray:
    """Vectors (n, 3) as the scanner sees them: rotated about the body axis."""
    c, s = np.cos(angle), np.sin(angle)
    x, y, z = vectors.T
    return np.stack([c * x + s * y, c * y - s * x, z], axis=1)


def _footprint(column: np.ndarray, row: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the pixels within `reach` of image points (n,), as (n, 1, 2 reach + 1) and (n, 2 reach + 1, 1)."""
    steps = np.arange(-reach, reach + 1)
    columns = np.rint(column).astype(np.intp)[:, None, None] + steps
    rows = np.rint(row).astype(np.intp)[:, None, None] + steps[:, None]
    return columns, rows


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Noise (size, size) of unit variance at its grid points, `cells` across."""
    grid = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _quantum_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """CT noise of unit variance, correlated over about a pixel as after reconstruction."""
    white = rng.standard_normal((size + 2, size + 2), np.float32)
    rows = 0.25 * white[:-2] + 0.5 * white[1:-1] + 0.25 * white[2:]
    both = 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]
    mixed = both + np.float32(0.3) * white[1:-1, 1:-1]
    return mixed / np.float32(0.58)  # the standard deviation of the mixture


def _add_table(hu: np.ndarray, scan: Scan) -> None:
    """Draw the table (two thin curved shells) below the lowest point of the body, in place."""
    size = len(hu)
    bottom = np.flatnonzero((hu > -300).any(axis=1))[-1]
    across = (np.arange(size) - (size - 1) / 2) * scan.pixel + scan.centre[0]
    down = (np.arange(size)[:, None] - bottom) * scan.pixel - scan.table
    for height, curve, half_width in ((2, 0.0016, 215), (26, 0.0004, 150)):
        shell = np.clip((2 - np.abs(down - height + curve * across**2)) / scan.pixel + 0.5, 0, 1) * (np.abs(across) < half_width)
        hu += np.where(hu < -500, shell * (150 - hu), 0)


def _texture(canvas: Canvas, organ: str, rng: np.random.Generator) -> np.ndarray:
    """Deviation of the tissue from its mean, in HU: lung is denser where it lies lowest (gravity), and both tissues are grainy."""
    size = canvas.hu.shape[-1]
    if organ == "lung":
        return 0.4 * canvas.y + 18 * _smooth_noise(rng, size, size // 3) + 12 * _smooth_noise(rng, size, 12)
    return 4 * _smooth_noise(rng, size, size // 4) + 2.5 * _smooth_noise(rng, size, 8) + np.zeros_like(canvas.hu)


def _parenchyma(canvas: Canvas, patient: Patient, organ: str, vessels: np.ndarray, lesions: Sequence[Lesion], rng: np.random.Generator):
    """HU of the organ's tissue with texture, vessels and lesions, and the share of each point that is lesion."""
    tissue = patient.tissue[organ] + _texture(canvas, organ, rng)
    if organ == "lung":  # vessels stay visible in ground glass
        coverage = apply_lesions(canvas, lesions, organ, tissue)
        tissue += vessels * np.maximum(45 - tissue, 0)
    else:  # a tumour of the liver takes their place
        tissue += vessels * (patient.tissue["vein"] - tissue)
        coverage = apply_lesions(canvas, lesions, organ, tissue)
    return tissue, coverage


class Slice(NamedTuple):
    """An axial slice, each (size, size): its HU, and the share of each pixel that is the organ (lesions included), and that is lesion of it."""

    hu: np.ndarray
    organ: np.ndarray
    lesion: np.ndarray


def render_slice(patient: Patient, scan: Scan, level: float, organ: str, seed: Sequence[int], size: int, lesions: Sequence[Lesion] = ()) -> Slice:
    """An axial slice at `level` (reference mm).

    Texture and noise depend on `seed` alone: without lesions, the same call gives the same image but for them.
    """
    rng = np.random.default_rng(seed)
    canvas = slice_canvas(patient, scan, level, size)
    paint_body(canvas, patient, erect=False)
    tubes = patient.lung_vessels if organ == "lung" else patient.liver_vessels
    tissue, coverage = _parenchyma(canvas, patient, organ, _stamp(patient, scan, level, tubes, size), lesions, rng)
    hu = (canvas.hu + getattr(canvas, organ) * (tissue - patient.tissue[organ]))[0]
    if scan.table is not None:
        _add_table(hu, scan)
    grain = 7 * _smooth_noise(rng, size, size // 3) + 2.5 * _smooth_noise(rng, size, size // 9)
    hu += grain * np.clip((canvas.hu[0] + 400) / 200, 0, 1)  # of soft tissue
    hu += scan.noise * _quantum_noise(rng, size)
    return Slice(np.maximum(hu, AIR - 24), getattr(canvas, organ)[0], coverage[0])  # a scanner stores no less than -1024 HU


# ---- radiograph


class Exposure(NamedTuple):
    """How a radiograph is taken: lengths in mm, angles in radians."""

    view: float  # side of the detector
    centre: tuple[float, float]  # x and z of its middle
    turn: float  # rotation of the patient about the body axis
    lean: float  # sideways: a shear in the plane of the image
    scatter: float  # share of the primary light
    noise: float  # share of the light, standard deviation
    gamma: float  # of the display curve
    black: float  # how far the ends of the grey scale are off, as a share
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
    """HU to mm of water per mm; bone counts double, as at the lower energy of a radiograph and for its contrast after processing."""
    return (1 + hu / 1000) + 0.001 * np.maximum(hu - 100, 0)


class Projection:
    """A body along parallel rays from back to front, ready for any lesions to be laid into its lungs.

    Attributes:
        plain: (size, size) water-equivalent thickness in mm, lung vessels left out.
        lung_mm: (size, size) how much of each ray is lung.
    """

    def __init__(self, patient: Patient, exposure: Exposure, size: int):
        self._patient, self._exposure = patient, exposure
        pixel = exposure.view / size
        pixels = ((np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)
        y, self._steps = ((SHEETS[1:] + SHEETS[:-1]) / 2).reshape(1, -1, 1), np.diff(SHEETS)
        column = pixels.reshape(1, 1, -1) + np.float32(exposure.centre[0])
        turn, lean = np.float32(np.tan(exposure.turn)), np.float32(np.tan(exposure.lean))
        self._blocks: list[Canvas] = []
        rows = 20  # at a time, so that the block stays in the cache
        for first in range(0, size, rows):
            row = -pixels[first : first + rows][::-1].reshape(-1, 1, 1)
            x, z = column + y * turn - row * lean, row + np.float32(exposure.centre[1])
            canvas = Canvas(*_to_reference(patient, x, y, z), soft=1.1 * pixel)
            paint_body(canvas, patient, erect=True)
            self._blocks.append(canvas)
        self.plain = self._sum(_attenuation(canvas.hu) for canvas in self._blocks)
        self.lung_mm = self._sum(canvas.lung for canvas in self._blocks)

    def _sum(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """Sum over sheets (z, y, x), head up. No matrix product: its threads would fight over the processors."""
        return np.concatenate([np.einsum("y,zyx->zx", self._steps, block)[::-1] for block in blocks])

    def added(self, lesions: Sequence[Lesion]) -> np.ndarray:
        """(size, size) what lesions of the lungs add, in mm of water."""
        return self._sum(self._rise(canvas, lesions) for canvas in self._blocks)

    def _rise(self, canvas: Canvas, lesions: Sequence[Lesion]) -> np.ndarray:
        lung = self._patient.tissue["lung"]
        tissue = np.full_like(canvas.hu, lung)
        apply_lesions(canvas, lesions, "lung", tissue)
        return canvas.lung * (tissue - lung) / 1000

    def picture(self, seed: Sequence[int], added: np.ndarray) -> np.ndarray:
        """The radiograph (size, size), 8-bit; but for what is added, the same seed gives the same picture."""
        whole = self.plain + _project_vessels(self._patient, self._exposure, len(self.plain))
        return develop(whole + added, self._exposure, whole, [*seed, 1])


def _project_vessels(patient: Patient, exposure: Exposure, size: int) -> np.ndarray:
    """Water-equivalent thickness in mm (size, size) of the lung vessels, splat by volume, so that no voxel need resolve them."""
    pixel, tubes = exposure.view / size, patient.lung_vessels
    x, y, z = _from_reference(patient, tubes.points).T
    z = z - exposure.centre[1]
    x = x - y * np.tan(exposure.turn) + z * np.tan(exposure.lean) - exposure.centre[0]
    column, row = (size - 1) / 2 + x / pixel, (size - 1) / 2 - z / pixel
    columns, rows = _footprint(column, row, 2)
    apart = (columns - column[:, None, None]) ** 2 + (rows - row[:, None, None]) ** 2
    spread = np.maximum(tubes.radii * 0.6 / pixel, 0.45)[:, None, None]
    weight = np.exp(-0.5 * apart / spread**2)
    volume = np.pi * tubes.radii**2 * np.linalg.norm(tubes.axes, axis=1) * float(patient.scale.prod())
    weight *= (0.85 * volume / pixel**2)[:, None, None] / weight.sum(axis=(1, 2), keepdims=True)  # 0.85: lung is no vacuum
    seen = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    total = np.bincount((rows * size + columns)[seen], weight[seen], minlength=size * size)
    return total.reshape(size, size).astype(np.float32)


def _blur(image: np.ndarray, cells: int) -> np.ndarray:
    """The image as seen through a grid of `cells` by `cells`."""
    small = Image.fromarray(image).resize((cells, cells), Image.Resampling.BOX)
    return np.asarray(small.resize(image.shape[::-1], Image.Resampling.BICUBIC))


def develop(thickness: np.ndarray, exposure: Exposure, reference: np.ndarray, seed: Sequence[int]) -> np.ndarray:
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


def _furnish(grey: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Add what the room adds, in place: a side marker and the shadow of the collimator."""
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


def render_radiograph(
    patient: Patient, exposure: Exposure, seed: Sequence[int], size: int, lesions: Sequence[Lesion] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """A posterior-anterior radiograph (size, size), 8-bit, patient's right on the left, and what lesions add, in mm of water."""
    projection = Projection(patient, exposure, size)
    added = projection.added(lesions)
    return _furnish(projection.picture(seed, added), [*seed, 2]), added
