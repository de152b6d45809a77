"""Who a phantom is: the size, shape, tissue, organs and vessels of one random body.

Axes, in mm, of a reference adult (a patient is this body scaled): x to the patient's left, y to the back, z to the head;
z = 0 is the top of the right diaphragm dome.

Attenuation is taken from textbook ranges, in HU: fat -100, muscle 50..65, blood 40 (150 and more with contrast), normal lung about -850,
liver 95..125 in the portal venous phase and less in steatosis, spleen 110..135, renal cortex 150..200.
Shapes, positions and their spread are our own approximation of axial anatomy, not a registered atlas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomaly_detection.data.phantom.shapes import Column, Ellipsoid, Rod, Tubes


@dataclass(frozen=True)
class Patient:
    """What distinguishes one body from another. Lengths in mm, attenuation in HU."""

    scale: np.ndarray  # patient / reference body, along x, y, z
    fat: float  # subcutaneous fat at the flank
    wall: float  # thickness of the muscle wall relative to the reference
    female: bool
    waves: np.ndarray  # (4, 5): smooth deformation: amplitude, wave numbers along y (or x) and z, two phases
    domes: tuple[float, float]  # level of the right and the left diaphragm dome
    dome_drop: float  # how far the diaphragm falls towards the flanks
    chest_drop: float  # how far a rib falls from spine to sternum
    rib_shift: float
    tissue: dict[str, float]  # HU of liver, spleen, blood, vein, kidney, muscle, lung
    organs: dict[str, Ellipsoid | Column | Rod]
    bowel: list[tuple[Ellipsoid, float]]  # loops with the HU of their contents
    stomach_level: float  # share of the stomach below its fluid level, 0..1
    lung_vessels: Tubes
    liver_vessels: Tubes
    fascia: np.ndarray  # phases of the fat planes between muscles


_ORGANS: dict[str, Ellipsoid | Column | Rod] = {
    "liver right": Ellipsoid((-66, 4, -72), (92, 104, 98)),
    "liver left": Ellipsoid((2, -44, -44), (78, 40, 46), 0.2),
    "porta hepatis": Ellipsoid((-14, 14, -88), (28, 15, 24), -0.5),
    "gallbladder": Ellipsoid((-24, -46, -122), (15, 24, 30), 0.5),
    "spleen": Ellipsoid((94, 46, -56), (32, 54, 54), 0.6),
    "stomach": Ellipsoid((60, -30, -56), (48, 40, 54), 0.4),
    "left kidney": Ellipsoid((64, 50, -118), (29, 25, 54), 0.5),
    "right kidney": Ellipsoid((-62, 50, -134), (29, 25, 54), -0.5),
    "pancreas": Rod((-14, -8, -112), (68, 22, -84), 12),
    "duodenum": Rod((-34, -6, -104), (-38, 4, -160), 14),
    "heart": Ellipsoid((16, -28, 30), (56, 45, 54), 0.5),
    "left ventricle": Ellipsoid((43, -32, 4), (53, 40, 46), 0.5),
    "left atrium": Ellipsoid((4, 12, 62), (36, 20, 24)),
    "right atrium": Ellipsoid((-24, -20, 34), (28, 34, 42)),
    "ascending aorta": Rod((-2, -14, 64), (-16, -16, 128), 16),
    "aortic arch": Rod((-12, -12, 134), (20, 34, 132), 14),
    "descending aorta": Column(((-260, 4, 22, 9, 9), (-60, 8, 32, 11, 11), (0, 16, 40, 12, 12), (138, 24, 42, 13, 13))),
    "pulmonary trunk": Rod((18, -36, 66), (20, -8, 104), 14),
    "right pulmonary artery": Rod((16, 0, 100), (-46, 10, 92), 10),
    "left pulmonary artery": Rod((18, 0, 104), (46, 22, 100), 10),
    "superior vena cava": Column(((50, -26, -10, 9, 9), (165, -26, -6, 8, 9))),
    "inferior vena cava": Column(((-260, -20, 26, 12, 9), (-90, -22, 24, 14, 11), (0, -24, 10, 13, 12), (30, -24, -4, 12, 12))),
    "great vessels right": Rod((-10, -8, 146), (-26, 2, 214), 7),
    "great vessels left": Rod((14, 16, 146), (24, 8, 214), 6),
    "left carotid": Rod((4, 4, 146), (8, 0, 214), 5),
    "brachiocephalic vein": Rod((-24, -14, 150), (22, -18, 168), 7),
    "esophagus": Column(((-20, 10, 26, 8, 7), (100, 6, 34, 8, 6), (220, 3, 32, 8, 6))),
    "mediastinum": Column(((60, 0, 4, 32, 40), (100, 0, 4, 34, 46), (150, 0, 8, 27, 48), (200, 0, 12, 25, 40), (234, 0, 12, 28, 40))),
    "pericardial fat": Ellipsoid((16, -32, -24), (78, 46, 24)),
    "anterior junction": Column(((-30, 8, -64, 17, 36), (20, 6, -66, 15, 38), (60, 2, -68, 6, 34), (110, 1, -60, 4, 34), (150, 0, -46, 8, 34))),
    "trachea": Column(((110, 0, 18, 9, 8), (170, 0, 14, 9, 9), (290, 0, -8, 8, 9))),
    "right bronchus": Rod((-3, 18, 112), (-44, 20, 84), 6),
    "left bronchus": Rod((3, 18, 112), (46, 24, 88), 5.5),
    "right clavicle": Rod((-20, -50, 178), (-150, 4, 204), 7.5),
    "left clavicle": Rod((20, -50, 178), (150, 4, 204), 7.5),
    "right arm": Rod((-172, 10, 172), (-222, 10, 10), 40),
    "left arm": Rod((172, 10, 172), (222, 10, 10), 40),
    "sternum": Column(((12, 0, -96, 17, 7), (60, 0, -95, 17, 7), (110, 0, -86, 18, 7), (150, 0, -70, 24, 8), (176, 0, -56, 26, 8))),
    "right psoas": Column(((-260, -44, 44, 24, 22), (-150, -36, 48, 14, 14), (-90, -30, 50, 5, 6))),
    "left psoas": Column(((-260, 44, 44, 24, 22), (-150, 36, 48, 14, 14), (-90, 30, 50, 5, 6))),
    "right crus": Column(((-130, -12, 34, 7, 8), (-60, -13, 34, 7, 13), (-8, -12, 34, 5, 9))),
    "left crus": Column(((-130, 16, 36, 6, 8), (-60, 18, 36, 6, 12), (-8, 18, 38, 4, 8))),
    "right back muscle": Column(((-260, -36, 84, 32, 24), (0, -32, 100, 29, 18), (120, -30, 104, 26, 15), (220, -24, 84, 24, 18))),
    "left back muscle": Column(((-260, 36, 84, 32, 24), (0, 32, 100, 29, 18), (120, 30, 104, 26, 15), (220, 24, 84, 24, 18))),
    "right breast": Ellipsoid((-76, -92, 24), (62, 40, 48)),
    "left breast": Ellipsoid((76, -92, 24), (62, 40, 48)),
}


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a body; its vessels may still leave their organs.

    The spreads are our choice, wide enough that normal images differ as those of a clinic do.
    """
    female = bool(rng.random() < 0.5)
    size = rng.normal(0.95 if female else 1.03, 0.04)
    patient = {
        "scale": (size * rng.normal(1, [0.035, 0.05, 0.05])).astype(np.float32),
        "fat": float(np.clip(rng.lognormal(np.log(15), 0.5), 4, 48)),
        "wall": rng.normal(1.0, 0.12),
        "female": female,
        "waves": _sample_waves(rng),
        "domes": (rng.normal(0, 9), rng.normal(-14, 9)),
        "dome_drop": rng.normal(62, 9),
        "chest_drop": rng.normal(96, 10),
        "rib_shift": rng.uniform(-6, 6),
        "tissue": _sample_tissue(rng),
        "organs": {name: _jitter(organ, rng) for name, organ in _ORGANS.items()},
        "bowel": _sample_bowel(rng),
        "stomach_level": rng.uniform(0.45, 1.0),
        "fascia": rng.uniform(0, 6.28, 4).astype(np.float32),
    }
    return Patient(**patient, lung_vessels=_grow_lung_vessels(rng), liver_vessels=_grow_liver_vessels(rng))


def _sample_waves(rng: np.random.Generator) -> np.ndarray:
    """Four waves of up to 4 mm, 160..520 mm long."""
    amplitude = np.clip(rng.normal(0, 2.2, 4), -4, 4)
    return np.column_stack([amplitude, rng.uniform(0.012, 0.04, (4, 2)), rng.uniform(0, 2 * np.pi, (4, 2))]).astype(np.float32)


def _sample_tissue(rng: np.random.Generator) -> dict[str, float]:
    """HU of enhanced organs (portal venous phase); one in five livers is fatty, as in the general population (10..24 %)."""
    liver = rng.normal(78, 8) if rng.random() < 0.2 else rng.normal(108, 8)
    return {
        "liver": liver,
        "spleen": rng.normal(120, 8),
        "blood": rng.normal(155, 18),
        "vein": rng.normal(158, 12),
        "kidney": rng.normal(175, 15),
        "muscle": rng.normal(58, 4),
        "lung": rng.normal(-855, 22),
    }


def _jitter(organ: Ellipsoid | Column | Rod, rng: np.random.Generator) -> Ellipsoid | Column | Rod:
    """The organ moved by about 4 mm (long ones less) and scaled by about 7 %."""
    shift, stretch = rng.normal(0, 4, 3), np.clip(rng.normal(1, 0.07, 3), 0.8, 1.2)
    if isinstance(organ, Ellipsoid):
        return Ellipsoid(tuple((organ.centre + shift).tolist()), tuple((organ.axes * stretch).tolist()), organ.turn + rng.normal(0, 0.12))
    if isinstance(organ, Rod):
        return Rod(tuple((organ.start + 0.6 * shift).tolist()), tuple((organ.end + 0.6 * shift).tolist()), organ.radius * float(stretch[0]))
    rows = np.array(organ.rows, float)
    rows[:, 1:3] += 0.4 * shift[:2]
    rows[:, 3:] *= stretch[:2]
    return Column(tuple(map(tuple, rows.tolist())))


def _sample_bowel(rng: np.random.Generator) -> list[tuple[Ellipsoid, float]]:
    """Loops of bowel: contents are gas, fluid or contrast-free chyme."""
    count = int(rng.integers(80, 120))
    centres = np.column_stack([rng.uniform(-100, 105, count), rng.uniform(-76, 22, count), rng.uniform(-230, -66, count)])
    axes = rng.uniform(9, 24, (count, 3)) * np.array([1.2, 0.9, 1.1])
    contents = rng.choice([-850.0, 15.0, 30.0, 45.0], count, p=[0.2, 0.3, 0.3, 0.2])
    loops = zip(centres.tolist(), axes.tolist(), rng.uniform(0, 3, count).tolist(), contents.tolist(), strict=True)
    return [(Ellipsoid(tuple(centre), tuple(half), turn), hu) for centre, half, turn, hu in loops]


# ---- vessels


def _grow_tree(rng, starts, directions, radii, lengths, generations: int, spread: float) -> Tubes:
    """Grow trees by repeated forking from stems: `starts` and `directions` (n, 3), `radii` and `lengths` (n,), in mm.

    The cubes of the daughters' radii sum to that of the mother (Murray's law); the daughters turn aside by about `spread` radians.
    """
    pieces = []
    for generation in range(generations):
        bend = rng.normal(0, 0.18, directions.shape)
        count = max(7 - generation, 3)
        knots = np.arange(count + 1)[:, None, None] / count
        path = starts + lengths[:, None] * knots * (directions + 2 * bend * (1 - knots) * knots)
        taper = radii * (1 - 0.12 * knots[:-1, :, 0])
        pieces.append(((path[1:] + path[:-1]) / 2, taper, path[1:] - path[:-1]))
        ends = starts + lengths[:, None] * directions
        share = rng.uniform(0.3, 0.7, len(radii))  # of the flow that the first daughter takes
        aside = np.cross(directions, rng.normal(size=directions.shape))
        aside /= np.linalg.norm(aside, axis=1, keepdims=True) + 1e-6
        shares = np.stack([share, 1 - share])
        turn = 2 * spread * rng.uniform(0.6, 1.4, shares.shape) * (1 - shares) * [[1], [-1]]  # the thinner daughter turns more
        directions = (directions + turn[..., None] * aside).reshape(-1, 3)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        radii = (radii * np.cbrt(shares)).reshape(-1)
        lengths = (lengths * rng.uniform(0.7, 1.0, (2, len(lengths)))).reshape(-1)
        starts = np.concatenate([ends, ends])
    points, sizes, axes = zip(*pieces, strict=True)
    radii = np.concatenate([size.reshape(-1) for size in sizes]).astype(np.float32)
    return Tubes(_rows(points), radii, _rows(axes))


def _rows(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of any shape (..., 3) as one (n, 3)."""
    return np.concatenate([part.reshape(-1, 3) for part in parts]).astype(np.float32)


def _grow_lung_vessels(rng: np.random.Generator) -> Tubes:
    """Arteries and veins of both lungs, from the hila outwards."""
    trees = []
    for side in (-1, 1):
        count = 20
        azimuth, height = rng.uniform(-1.3, 1.3, count), np.linspace(-0.92, 0.85, count) + rng.normal(0, 0.12, count)
        level = np.sqrt(np.clip(1 - height**2, 0.1, 1))
        directions = np.column_stack([side * level * np.cos(azimuth), level * np.sin(azimuth), height])
        starts = np.array([side * 40.0, 14.0, 88.0]) + np.column_stack([np.zeros(count), rng.normal(0, 7, count), height * 18])
        trees.append(_grow_tree(rng, starts, directions, rng.uniform(2.4, 4.4, count), rng.uniform(22, 36, count), 6, 0.5))
    return Tubes(*map(np.concatenate, zip(*trees, strict=True)))


def _grow_liver_vessels(rng: np.random.Generator) -> Tubes:
    """Portal vein from the hilum, hepatic veins from the cava below the diaphragm."""
    hilum, cava = np.array([-18.0, 10.0, -84.0]), np.array([-24.0, 12.0, -22.0])
    portal = np.array([[-0.9, 0.15, 0.1], [-0.6, -0.6, 0.25], [0.6, -0.75, 0.35], [-0.8, 0.3, -0.45]])
    hepatic = np.array([[-0.9, 0.2, -0.35], [-0.45, -0.8, -0.4], [0.5, -0.8, -0.3]])
    directions = np.concatenate([portal, hepatic]) + rng.normal(0, 0.12, (7, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    starts = np.concatenate([np.tile(hilum, (4, 1)), np.tile(cava, (3, 1))]) + rng.normal(0, 3, (7, 3))
    return _grow_tree(rng, starts, directions, rng.uniform(4.0, 6.0, 7), rng.uniform(26, 38, 7), 5, 0.55)
