"""Solids with soft edges, and the block of Hounsfield values (HU) that they are painted on. All lengths are in mm.

An organ is painted over what lies under it. Its edge is soft over about one grid step, so that a coarse grid shows partial volume instead
of stairs, and the same solids serve thin slices and projections.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

AIR = -1000.0
EVERYWHERE = (slice(None), slice(None), slice(None))


class Box(NamedTuple):
    """Lowest and highest x, y, z of a solid, in mm."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


class Ellipsoid(NamedTuple):
    """A solid ellipsoid; `turn` (radians) rotates it about the body axis."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    turn: float = 0.0

    def box(self) -> Box:
        c, s = abs(np.cos(self.turn)), abs(np.sin(self.turn))
        reach = (c * self.axes[0] + s * self.axes[1], s * self.axes[0] + c * self.axes[1], self.axes[2])
        return Box(*(tuple(m + side * r for m, r in zip(self.centre, reach, strict=True)) for side in (-1, 1)))

    def depth(self, x, y, z):
        """Approximate distance below the surface in mm; negative outside."""
        x, y, z = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        if self.turn:
            c, s = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
            x, y = c * x + s * y, c * y - s * x
        a, b, c = self.axes
        return (1 - ((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)) * np.float32(0.5 * min(self.axes))


class Rod(NamedTuple):
    """A cylinder with round ends."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float

    def box(self) -> Box:
        ends = np.array([self.start, self.end])
        return Box(tuple(ends.min(0) - self.radius), tuple(ends.max(0) + self.radius))

    def depth(self, x, y, z):
        """Distance below the surface in mm; negative outside."""
        a, axis = np.float32(self.start), np.float32(self.end) - np.float32(self.start)
        x, y, z = x - a[0], y - a[1], z - a[2]
        along = np.clip((x * axis[0] + y * axis[1] + z * axis[2]) / (axis @ axis), 0, 1)
        return self.radius - np.sqrt((x - along * axis[0]) ** 2 + (y - along * axis[1]) ** 2 + (z - along * axis[2]) ** 2)


class Column(NamedTuple):
    """An elliptic tube along the body: rows (z, x, y, half width, half depth), z rising, linear in between."""

    rows: tuple[tuple[float, float, float, float, float], ...]

    def at(self, z):
        """Centre and half axes at the levels `z`."""
        levels, *values = _knots(self.rows)
        return (np.interp(z, levels, value).astype(np.float32) for value in values)

    def box(self) -> Box:
        return _column_box(self.rows)

    def depth(self, x, y, z):
        """Approximate distance below the surface in mm; negative outside."""
        cx, cy, a, b = self.at(z)
        return (1 - ((x - cx) / a) ** 2 - ((y - cy) / b) ** 2) * (0.5 * np.minimum(a, b))


@lru_cache(1024)
def _knots(rows: tuple[tuple[float, ...], ...]) -> np.ndarray:
    return np.array(rows, float).T


@lru_cache(1024)
def _column_box(rows: tuple[tuple[float, ...], ...]) -> Box:
    z, x, y, a, b = _knots(rows)
    return Box(((x - a).min(), (y - b).min(), z[0]), ((x + a).max(), (y + b).max(), z[-1]))


class Tubes(NamedTuple):
    """A branching tree as short straight pieces, in mm: their middles (n, 3), radii (n,) and vectors from end to end (n, 3)."""

    points: np.ndarray
    radii: np.ndarray
    axes: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> "Tubes":
        return Tubes(self.points[keep], self.radii[keep], self.axes[keep])


class Canvas:
    """HU on a block of points (nz, ny, nx), painted organ after organ.

    x, y and z are arrays in reference mm that broadcast to the block, each rising along its own axis. An edge is soft over `soft` mm.
    `lung` and `liver`, once painted, hold the share of each point that is lung or liver tissue (0..1).
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, soft: float):
        self.x, self.y, self.z, self.soft = x, y, z, soft
        shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
        self.hu = np.full(shape, AIR, np.float32)
        self.lung: np.ndarray | None = None
        self.liver: np.ndarray | None = None
        self._spans = [_span(axis, own, shape[own]) for axis, own in ((x, 2), (y, 1), (z, 0))]

    def window(self, box: Box) -> tuple[slice, slice, slice] | None:
        """The part of the block (z, y, x) that can meet a box; None if there is none."""
        cut = []
        for (low, high), bottom, top in zip(self._spans[::-1], box.low[::-1], box.high[::-1], strict=True):
            first, last = int(high.searchsorted(bottom - self.soft)), int(low.searchsorted(top + self.soft, "right"))
            if first >= last:
                return None
            cut.append(slice(first, last))
        return tuple(cut)

    def points(self, cut: tuple[slice, slice, slice]):
        """x, y and z of a part of the block."""
        return tuple(axis[tuple(s if n > 1 else slice(None) for s, n in zip(cut, axis.shape, strict=True))] for axis in (self.x, self.y, self.z))

    def edge(self, depth: np.ndarray) -> np.ndarray:
        """Share of a point that lies inside a surface `depth` mm above it."""
        inside = depth * np.float32(1 / self.soft)
        inside += np.float32(0.5)
        return np.clip(inside, 0, 1, out=inside)

    def share(self, solid):
        """Part of the block that a solid may touch, and the share of each of its points that lies inside; None if it misses."""
        cut = self.window(solid.box())
        return None if cut is None else (cut, self.edge(solid.depth(*self.points(cut))))

    def fill(self, cut, inside: np.ndarray, hu) -> None:
        """Replace the share `inside` of the points by tissue of `hu`."""
        change = hu - self.hu[cut]
        change *= inside
        self.hu[cut] += change
        for organ in (self.lung, self.liver):
            if organ is not None:
                organ[cut] -= inside * organ[cut]

    def paint(self, solid, hu) -> None:
        """Paint a solid over what is there."""
        found = self.share(solid)
        if found is not None:
            self.fill(*found, hu)


def _span(axis: np.ndarray, own: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinate of the planes along one axis of a block; the whole range for each where they are in no order."""
    others = tuple({0, 1, 2} - {own})
    low, high = axis.min(axis=others), axis.max(axis=others)
    if len(low) != count or np.any(np.diff(low) < 0) or np.any(np.diff(high) < 0):
        low, high = np.full(count, low.min()), np.full(count, high.max())
    return low, high
