"""A random human trunk as a function from points (mm) to Hounsfield units (HU): the organs of a patient, painted in order.

Axes as in `phantom_patient`. The same body is painted on the plane of a CT slice and on the sheets that a radiograph sums over.
"""

from dataclasses import replace

import numpy as np

from anomaly_detection.data.phantom.patient import Patient, draw_patient
from anomaly_detection.data.phantom.shapes import AIR, EVERYWHERE, Box, Canvas, Column, Ellipsoid, Rod

# HU, where it does not differ between patients
FAT, MARROW, CORTEX, CARTILAGE = -100.0, 180.0, 650.0, 90.0
VERTEBRA_MM = 26.0  # height of a vertebra with its disc
T1_MM = 208.0  # level of the first thoracic vertebra

# Half width, half depth and centre (y) of the cavity that holds lungs and abdominal organs, and of the muscle wall around it, by level.
_CAVITY = Column(
    (
        (-260, 0, 0, 114, 86),
        (-160, 0, 1, 126, 94),
        (-60, 0, 3, 131, 98),
        (0, 0, 4, 131, 98),
        (50, 0, 5, 127, 95),
        (100, 0, 7, 119, 87),
        (150, 0, 11, 107, 75),
        (185, 0, 14, 91, 62),
        (205, 0, 16, 76, 51),
        (222, 0, 18, 55, 37),
        (233, 0, 18, 32, 22),
        (240, 0, 18, 4, 4),
        (320, 0, 18, 4, 4),
    )
)
_WALL = Column(
    (
        (-260, 0, 12, 128, 106),
        (-100, 0, 11, 144, 110),
        (0, 0, 11, 149, 109),
        (60, 0, 12, 152, 107),
        (110, 0, 14, 160, 100),
        (150, 0, 16, 174, 90),
        (180, 0, 18, 178, 78),
        (200, 0, 18, 165, 68),
        (218, 0, 14, 118, 60),
        (232, 0, 10, 70, 56),
        (250, 0, 6, 58, 56),
        (320, 0, 0, 58, 60),
    )
)
_SPINE = Column(((-260, 0, 42, 23, 17), (-100, 0, 50, 21, 16), (0, 0, 60, 19, 15), (100, 0, 66, 17, 14), (180, 0, 58, 15, 12), (300, 0, 34, 13, 10)))


def sample_patient(rng: np.random.Generator) -> Patient:
    """Draw a body and keep those of its vessels that lie within their organ."""
    patient = draw_patient(rng)
    lung, liver = patient.lung_vessels, patient.liver_vessels
    found = probe(patient, np.concatenate([lung.points, liver.points]))
    count = len(lung.radii)
    return replace(patient, lung_vessels=lung[found.lung[0, 0, :count] > 0.5], liver_vessels=liver[found.liver[0, 0, count:] > 0.5])


def paint_body(canvas: Canvas, patient: Patient, erect: bool) -> None:
    """Paint the whole body, standing with arms down (`erect`) or lying with arms up; lung and liver stay without vessels and texture.

    What a chest radiograph does not show (bowel, fat between muscles, the outline of the liver) is left out when erect.
    """
    organs, tissue = patient.organs, patient.tissue
    wall = _paint_wall(canvas, patient)
    if erect:
        for side in ("right", "left"):
            _paint_arm(canvas, organs[f"{side} arm"], tissue["muscle"])
    else:
        _paint_fascia(canvas, patient, wall)
    cavity, cosine = _cavity(canvas)
    thorax, belly = _paint_cavity(canvas, patient, cavity)
    canvas.lung, canvas.liver = thorax.copy(), None if erect else np.zeros_like(thorax)
    _paint_ribs(canvas, patient, cavity, cosine)
    _paint_scapulae(canvas, wall, cosine, erect)
    _paint_bone(canvas, organs["sternum"], 2.5)
    _paint_mediastinum(canvas, patient, thorax)
    if belly is not None:
        _paint_belly(canvas, patient, belly, erect)
    _paint_back(canvas, patient)
    canvas.paint(organs["descending aorta"], tissue["blood"])
    canvas.paint(organs["esophagus"], tissue["muscle"])
    for side in ("right", "left"):
        _paint_bone(canvas, organs[f"{side} clavicle"], 2.5)


def _paint_cavity(canvas: Canvas, patient: Patient, cavity: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Fill the cavity with lung above the diaphragm and fat below; returns the share of each point that is in chest and in belly.

    The belly is None where the whole canvas lies above the domes.
    """
    thorax, belly = canvas.edge(cavity), None
    canvas.fill(EVERYWHERE, thorax, FAT)
    if canvas.z.min() < max(patient.domes) + canvas.soft:
        above = canvas.edge(canvas.z - _diaphragm(canvas, patient))
        belly = canvas.edge(cavity - 3) * (1 - above)
        thorax *= above
    canvas.fill(EVERYWHERE, thorax, patient.tissue["lung"])
    return thorax, belly


def _level(x, y, column: Column, z, grow: float | np.ndarray = 0.0):
    """Squared radius of the points relative to a rounded-off section that is wider at the back, 1 on its surface; and its half depth."""
    cx, cy, a, b = column.at(z)
    v = (y - cy) * (1 / (b + 0.9 * grow))
    u = (x - cx) * (1 / (a + grow)) * (1 - np.float32(0.07) * v)
    u, v = u * u, v * v
    return u + v - np.float32(0.36) * np.minimum(u * v, 1), b


def _paint_wall(canvas: Canvas, patient: Patient) -> np.ndarray:
    """Skin, subcutaneous fat, breasts and the muscle of the trunk; returns the depth below the surface of the muscle."""
    furrow = 9 * np.exp(-((canvas.x / 20) ** 2)) * np.clip((canvas.y - 30) / 40, 0, 1)  # over the spinous processes
    y = canvas.y + furrow
    fat = patient.fat * np.interp(canvas.z, [-200, -60, 60, 150, 220], [1.15, 1.1, 0.8, 0.6, 0.3]).astype(np.float32)
    level, half = _level(canvas.x, y + 0.15 * fat, _WALL, canvas.z, fat)
    depth = (1 - level) * (0.5 * half)
    if patient.female:
        for side in ("right", "left"):
            _add_breast(canvas, depth, patient.organs[f"{side} breast"], patient.fat)
    canvas.hu += canvas.edge(depth) * (20 - canvas.hu)
    canvas.hu += canvas.edge(depth - 2) * (FAT - canvas.hu)
    if patient.female:
        for side in ("right", "left"):
            gland = patient.organs[f"{side} breast"]
            canvas.paint(Ellipsoid(gland.centre, tuple(0.55 * axis for axis in gland.axes)), -50)
    level, half = _level(canvas.x, y, _WALL, canvas.z, 16 * (patient.wall - 1))
    depth = (1 - level) * (0.5 * half)
    canvas.hu += canvas.edge(depth) * (patient.tissue["muscle"] - canvas.hu)
    return depth


def _add_breast(canvas: Canvas, depth: np.ndarray, breast: Ellipsoid, fat: float) -> None:
    """Bulge the body surface (its `depth`) by a breast, which tapers upwards."""
    size = 0.62 + 0.016 * fat
    breast = Ellipsoid(breast.centre, tuple(size * axis for axis in breast.axes))
    cut = canvas.window(Ellipsoid(breast.centre, (*breast.axes[:2], 2 * breast.axes[2])).box())
    if cut is not None:
        x, y, z = canvas.points(cut)
        z = z - breast.centre[2]
        depth[cut] = np.maximum(depth[cut], breast.depth(x, y, np.where(z > 0, 0.5 * z, z) + breast.centre[2]))


def _paint_fascia(canvas: Canvas, patient: Patient, depth: np.ndarray) -> None:
    """Fat planes between the muscles of the wall: thin sheets at wavy depths."""
    p = patient.fascia
    wave = 3.0 * np.sin(canvas.x / 31 + p[0]) * np.sin(canvas.z / 40 + p[2]) + 2.5 * np.sin(canvas.y / 23 + p[1])
    sheet = np.abs((depth + wave) % np.float32(13) - 6.5)
    inside = canvas.edge(1.1 - sheet) * np.clip((depth - 3) / 4, 0, 1) * np.float32(0.75)
    canvas.hu += inside * (FAT - canvas.hu)


def _cavity(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Depth (mm) below the wall of the trunk's cavity, and cosine of the angle seen from the axis (1 = back)."""
    level, _ = _level(canvas.x, canvas.y, _CAVITY, canvas.z)
    _, cy, a, b = _CAVITY.at(canvas.z)
    y = canvas.y - cy
    radial = np.sqrt(canvas.x**2 + y**2) + np.float32(1e-3)
    depth = radial / (np.sqrt(np.maximum(level, 0)) + np.float32(1e-5)) - radial
    cosine = (y / b) / np.sqrt((canvas.x / a) ** 2 + (y / b) ** 2 + np.float32(1e-6))
    return depth, cosine


def _diaphragm(canvas: Canvas, patient: Patient) -> np.ndarray:
    """Level (mm) of the diaphragm over each point of the plane: two domes that fall steeply to the flanks and to the back."""
    sheet = None
    for side, top in zip((-1, 1), patient.domes, strict=True):
        x, y = side * canvas.x - np.float32(64), canvas.y + np.float32(12)
        away = np.maximum(x / 66, x / -132) ** 2 + np.maximum(y / 105, y / -180) ** 2  # gentler to the middle and to the front
        dome = top - patient.dome_drop * (0.6 * away + 0.4 * away**2)
        sheet = dome if sheet is None else np.maximum(sheet, dome)
    return sheet


def _paint_arm(canvas: Canvas, arm: Rod, muscle: float) -> None:
    """An upper arm that hangs from the shoulder: skin and fat, muscle, humerus."""
    canvas.paint(arm, FAT + 30)
    canvas.paint(arm._replace(radius=arm.radius - 7), muscle)
    _paint_bone(canvas, arm._replace(radius=0.3 * arm.radius), 3.5)
    _paint_bone(canvas, Ellipsoid(arm.start, (23.0, 23.0, 25.0)), 2.5)


def _paint_bone(canvas: Canvas, solid, cortex_mm: float) -> None:
    """A bone: cortical shell around marrow."""
    cut = canvas.window(solid.box())
    if cut is not None:
        depth = solid.depth(*canvas.points(cut))
        canvas.fill(cut, canvas.edge(depth), CORTEX)
        canvas.fill(cut, canvas.edge(depth - cortex_mm), MARROW)


# Each rib: how far it reaches to the front, as the cosine of the angle at which its bone ends (1 = back, -1 = front).
_RIB_END = np.array([-0.75, -0.75, -0.75, -0.75, -0.72, -0.68, -0.6, -0.5, -0.35, -0.15, 0.2, 0.55], np.float32)


def _paint_ribs(canvas: Canvas, patient: Patient, cavity: np.ndarray, cosine: np.ndarray) -> None:
    """Twelve pairs of flattened rods in the wall around the cavity, falling from the spine to the front, where cartilage goes on."""
    shell = np.flatnonzero((cavity > -14) & (cavity < 1))
    if not len(shell):
        return
    cavity, cosine = cavity.reshape(-1)[shell], cosine.reshape(-1)[shell]
    x = np.abs(np.broadcast_to(canvas.x, canvas.hu.shape).reshape(-1)[shell])
    z = np.broadcast_to(canvas.z, canvas.hu.shape).reshape(-1)[shell]
    _, _, a, _ = _CAVITY.at(z)
    fall = patient.chest_drop * np.clip(a / 120, 0.35, 1) * (1 - cosine) / 2
    order = (T1_MM + patient.rib_shift - z - fall) / VERTEBRA_MM
    rib = np.clip(np.rint(order), 0, 11).astype(np.intp)
    away = (order - rib) * np.float32(VERTEBRA_MM)
    depth = (1 - (away / 8) ** 2 - ((cavity + 7) / 5.5) ** 2) * np.float32(3.0)
    end = _RIB_END[rib]
    bone = canvas.edge(depth) * np.clip((x - 16) / 5, 0, 1) * np.clip((cosine - end) / 0.08 + 0.5, 0, 1)
    gristle = canvas.edge(depth) * np.clip((end - cosine) / 0.08 + 0.5, 0, 1) * (rib < 7)
    hu = canvas.hu.reshape(-1)
    inner = canvas.edge(depth - 1.8)
    hu[shell] += gristle * (CARTILAGE - hu[shell])
    hu[shell] += bone * (CORTEX + inner * (MARROW - CORTEX) - hu[shell])
    canvas.lung.reshape(-1)[shell] *= 1 - bone


def _paint_scapulae(canvas: Canvas, wall: np.ndarray, cosine: np.ndarray, erect: bool) -> None:
    """Blade bones behind the ribs; with raised arms they lie further to the side."""
    if canvas.z.max() < 60 or canvas.z.min() > 195:
        return
    level = np.clip((canvas.z - 62) / 120, 0, 1)  # a triangle: narrow below
    medial, lateral = 118 - 30 * level, 128 + 24 * level
    x = np.abs(canvas.x) if erect else np.abs(canvas.x) + 6
    plate = 3.2 - np.abs(wall - 13 - 9 * np.clip((x - medial) / 60, 0, 1))
    across = np.minimum(x - medial, lateral - x)
    height = np.minimum(canvas.z - 62, 190 - canvas.z)
    inside = canvas.edge(np.minimum(np.minimum(plate, across), height)) * (cosine > 0.02)
    canvas.hu += inside * (260 - canvas.hu)


def _paint_mediastinum(canvas: Canvas, patient: Patient, thorax: np.ndarray) -> None:
    """Heart, great vessels, windpipe and the fat between them."""
    organs, tissue = patient.organs, patient.tissue

    def paint(name: str, hu: float) -> None:
        found = canvas.share(organs[name])
        if found is not None:
            cut, inside = found
            canvas.fill(cut, inside * thorax[cut], hu)

    for name in ("mediastinum", "anterior junction", "pericardial fat"):
        paint(name, -75)
    for name in (
        "inferior vena cava",
        "superior vena cava",
        "brachiocephalic vein",
        "great vessels right",
        "great vessels left",
        "left carotid",
    ):
        canvas.paint(organs[name], tissue["vein"])
    for name in ("heart", "left ventricle", "right atrium", "left atrium"):
        paint(name, 0.5 * (tissue["blood"] + tissue["muscle"]))
    for name in ("ascending aorta", "aortic arch", "pulmonary trunk", "right pulmonary artery", "left pulmonary artery"):
        paint(name, tissue["blood"])
    for name in ("trachea", "right bronchus", "left bronchus"):
        _paint_airway(canvas, organs[name])


def _paint_airway(canvas: Canvas, airway) -> None:
    cut = canvas.window(airway.box())
    if cut is not None:
        depth = airway.depth(*canvas.points(cut))
        canvas.fill(cut, canvas.edge(depth + 1.5), 30)
        canvas.fill(cut, canvas.edge(depth), AIR + 20)


def _paint_belly(canvas: Canvas, patient: Patient, belly: np.ndarray, erect: bool) -> None:
    """Abdominal organs, cut off by the diaphragm and the wall."""
    organs, tissue = patient.organs, patient.tissue

    def paint(solid, hu: float, wall_mm: float = 0.0, wall_hu: float = 0.0) -> None:
        cut = canvas.window(solid.box())
        if cut is None:
            return
        depth, region = solid.depth(*canvas.points(cut)), belly[cut]
        canvas.fill(cut, canvas.edge(depth) * region, wall_hu if wall_mm else hu)
        if wall_mm:
            canvas.fill(cut, canvas.edge(depth - wall_mm) * region, hu)

    if not erect:  # the belly is white in a chest radiograph, whatever it holds
        for loop, contents in patient.bowel:
            paint(loop, contents, 2.5, 75)
    paint(organs["duodenum"], 25, 3, 85)
    _paint_stomach(canvas, patient, belly, erect)
    paint(organs["pancreas"], 95)
    paint(organs["spleen"], tissue["spleen"])
    _paint_liver(canvas, patient, belly)
    paint(organs["porta hepatis"], FAT + 20)
    paint(organs["gallbladder"], 10, 1.5, 60)
    for side in ("right", "left"):
        kidney = organs[f"{side} kidney"]
        (x, y, z), (a, b, c) = kidney.centre, kidney.axes
        paint(Ellipsoid((x, y + 22, z), (a + 12, b + 18, c + 4), 0.4 * kidney.turn), FAT)
        _paint_kidney(canvas, kidney, tissue["kidney"])
        canvas.paint(organs[f"{side} psoas"], tissue["muscle"])
        canvas.paint(organs[f"{side} crus"], tissue["muscle"])
    canvas.paint(organs["inferior vena cava"], tissue["vein"])


def _paint_liver(canvas: Canvas, patient: Patient, belly: np.ndarray) -> None:
    """Both lobes as one organ under the diaphragm."""
    inside = np.zeros_like(belly)
    for name in ("liver right", "liver left"):
        found = canvas.share(patient.organs[name])
        if found is not None:
            cut, share = found
            inside[cut] = np.maximum(inside[cut], share * belly[cut])
    canvas.fill(EVERYWHERE, inside, patient.tissue["liver"])
    if canvas.liver is not None:
        canvas.liver = inside


def _paint_stomach(canvas: Canvas, patient: Patient, belly: np.ndarray, erect: bool) -> None:
    """Wall, fluid and, above its level, gas: in front when lying, under the dome when standing."""
    stomach = patient.organs["stomach"]
    cut = canvas.window(stomach.box())
    if cut is None:
        return
    x, y, z = canvas.points(cut)
    depth = stomach.depth(x, y, z)
    up = (z - stomach.centre[2], stomach.axes[2]) if erect else (stomach.centre[1] - y, stomach.axes[1])
    gas = canvas.edge(up[0] - (2 * patient.stomach_level - 1) * up[1])
    canvas.fill(cut, canvas.edge(depth) * belly[cut], 80)
    canvas.fill(cut, canvas.edge(depth - 3) * belly[cut], 20 + gas * (AIR - 20))


def _paint_kidney(canvas: Canvas, kidney: Ellipsoid, cortex: float) -> None:
    """Cortex, medulla, and the fat of the sinus on the inner side."""
    centre, axes = np.array(kidney.centre), np.array(kidney.axes)
    canvas.paint(kidney, cortex)
    canvas.paint(Ellipsoid(kidney.centre, tuple(axes - 8), kidney.turn), cortex - 45)
    inward = -np.sign(centre[0]) * np.array([0.62 * axes[0], 0, 0]) - np.array([0, 4, 0])
    canvas.paint(Ellipsoid(tuple(centre + inward), tuple(0.52 * axes), kidney.turn), FAT + 40)


def _paint_back(canvas: Canvas, patient: Patient) -> None:
    """The spine with the muscles beside it."""
    cut = canvas.window(Box((-60, 0, -260), (60, 140, 320)))
    if cut is None:
        return
    x, y, z = canvas.points(cut)
    _, cy, a, b = _SPINE.at(z)
    y = y - cy
    bed = (1 - (x / 33) ** 2 - ((y - 22) / 39) ** 2) * np.float32(17)  # soft tissue that carries the spine
    canvas.fill(cut, canvas.edge(bed), patient.tissue["muscle"] - 25)
    for side in ("right", "left"):
        canvas.paint(patient.organs[f"{side} back muscle"], patient.tissue["muscle"])
    order = (T1_MM - z) / np.float32(VERTEBRA_MM)
    away = (order - np.rint(order)) * np.float32(VERTEBRA_MM)  # from the middle of the vertebra, downwards
    body = (1 - (x / a) ** 2 - (y / b) ** 2) * (0.5 * b)
    bone = canvas.edge(body) * canvas.edge(10.5 - np.abs(away))
    canvas.fill(cut, canvas.edge(body), 85)  # disc
    canvas.fill(cut, bone, 350)
    canvas.fill(cut, canvas.edge(body - 1.8) * canvas.edge(9.2 - np.abs(away)), 140)
    arch = (1 - (x / 17) ** 2 - ((y - b - 9) / 15) ** 2) * np.float32(7)
    canvas.fill(cut, canvas.edge(arch) * canvas.edge(9 - np.abs(away)), 220)
    wing = np.minimum(np.minimum(38 - np.abs(x), 4.5 - np.abs(y - b - 12 - 0.12 * np.abs(x))), 5 - np.abs(away))
    canvas.fill(cut, canvas.edge(wing), 260)
    spine = np.minimum(np.minimum(3.2 - np.abs(x), 20 - np.abs(y - b - 34)), 7 - np.abs(away - 3))
    canvas.fill(cut, canvas.edge(spine), 280)
    canal = (1 - (x / 9.5) ** 2 - ((y - b - 7) / 7.5) ** 2) * np.float32(4)
    canvas.fill(cut, canvas.edge(canal), 25)


def cavity_depth(points: np.ndarray) -> np.ndarray:
    """Depth in mm of points (n, 3) below the wall of the trunk's cavity."""
    x, y, z = (column.reshape(1, 1, -1) for column in np.float32(points).T)
    return _cavity(Canvas(x, y, z, soft=1.0))[0][0, 0]


def probe(patient: Patient, points: np.ndarray) -> Canvas:
    """The body, lying, at single points (n, 3) in reference mm; what the canvas says of them stands along its last axis."""
    x, y, z = (column.reshape(1, 1, -1) for column in np.float32(points).T)
    canvas = Canvas(x, y, z, soft=1.0)
    paint_body(canvas, patient, erect=False)
    return canvas
