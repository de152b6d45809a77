"""Charts of values with intervals as SVG: a panel for each dataset, a band of lines for each model, a mark for each regime.

Shapes tell the regimes apart, so that the charts are read without colours; each mark says its numbers where a pointer rests on it.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from anomaly_detection.study.page.terms import shortened

# by regime: a path round (0, 0), and a colour (Okabe and Ito's, which the colour-blind tell apart)
SHAPES = {
    "separate": ("M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z", "#0072b2"),
    "united": ("M-3-3h6v6h-6z", "#d55e00"),
    "united_probe": ("M0-4L4 3H-4z", "#8a5a00"),
    "maddr": ("M0-4.6L4.6 0L0 4.6L-4.6 0z", "#000000"),
    "maddr_organ": ("M0 4L4-3H-4z", "#007a5e"),
    "maddr_modality": ("M-3-3L3 3M-3 3L3-3", "#a0417a"),
    "maddr_center": ("M-4 0H4M0-4V4", "#2a7ab0"),
    "maddr_organ_modality": ("M-4-1.5H4V1.5H-4z", "#555555"),
}
LABELS, GAP, TITLE, AXIS, COLUMNS = 92, 16, 18, 31, 4
CHARACTER, TICK = 6.3, 32  # pixels of a letter of a title, and of a tick's number with the room round it
INNER = 200  # what the lines of all models may take together, where they are many


@dataclass(frozen=True)
class Mark:
    """A value with its interval.

    Attributes:
        regime: one of `SHAPES`.
        value, low, high: without an interval the ends are the value.
        tip: what it says in words.
        hollow: drawn as an outline.
    """

    regime: str
    value: float
    low: float
    high: float
    tip: str
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """One dataset: its title and by model its marks; a model without marks keeps its place."""

    title: str
    marks: dict[str, Sequence[Mark]]


@dataclass(frozen=True)
class Scale:
    """The horizontal axis: its ends, its label, where a dashed line stands, what that is called, and whether values are told in percent."""

    low: float
    high: float
    label: str
    reference: float
    reference_label: str
    percent: bool = False

    def told(self, value: float) -> str:
        return f"{100 * value:.0f}" if self.percent else f"{value:.1f}"

    def ticks(self, most: float) -> list[float]:
        """Round values, so many at most but the two ends."""
        step = next((step for step in (0.05, 0.1, 0.2) if (self.high - self.low) / step <= most), 0.5)
        return [round(step * number, 3) for number in range(math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6) + 1)]


def chart(panels: Sequence[Panel], scale: Scale, width: int, name: str, description: str) -> str:
    """The SVG of some panels, at most four side by side.

    Args:
        panels: at least one, of the same models.
        scale: of all of them.
        width: in pixels.
        name, description: what it is called and says, for who does not see it.
    """
    columns = min(COLUMNS, len(panels))
    across = min(340.0, (width - LABELS) / columns - GAP)
    line = _line_height(panels)
    heights = {model: line * max(max(len(panel.marks.get(model, ())) for panel in panels), 1) + 6 for model in panels[0].marks}
    inner = sum(heights.values())
    height = TITLE + inner + AXIS
    parts = []
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = LABELS + column * (across + GAP), row * height
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{_panel(panel, scale, across, heights, line, column == 0)}</g>')
        if column == 0:  # the panels beside it have the same axis
            middle = LABELS + (min(columns, len(panels) - number) * (across + GAP) - GAP) / 2
            parts.append(f'<text class="label" x="{middle:.1f}" y="{y + height - 3:.1f}">{html.escape(scale.label)}</text>')
    tall = height * -(-len(panels) // columns)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tall:.0f}" width="{width}" height="{tall:.0f}" role="img"'
    return f'{head} aria-label="{html.escape(name)}"><title>{html.escape(name)}</title><desc>{html.escape(description)}</desc>{"".join(parts)}</svg>'


def _line_height(panels: Sequence[Panel]) -> float:
    lines = sum(max(max(len(panel.marks.get(model, ())) for panel in panels), 1) for model in panels[0].marks)
    return min(18.0, max(8.0, INNER / lines))


def _panel(panel: Panel, scale: Scale, across: float, heights: dict[str, float], line: float, first: bool) -> str:
    inner = sum(heights.values())

    def x(value: float) -> float:
        return across * (min(max(value, scale.low), scale.high) - scale.low) / (scale.high - scale.low)

    parts = [f'<text class="title" x="0" y="12">{_fitting(panel.title, across)}</text>']
    top = float(TITLE)
    for number, (model, height) in enumerate(heights.items()):
        if number % 2 == 0:
            parts.append(f'<rect class="band" x="0" y="{top:.1f}" width="{across:.1f}" height="{height:.1f}"/>')
        if first:
            parts.append(f'<text class="model" x="-8" y="{top + height / 2 + 4:.1f}">{_fitting(model, LABELS - 8)}</text>')
        for place, mark in enumerate(panel.marks.get(model, ())):
            parts.append(_mark(mark, x, top + 3 + line * (place + 0.5)))
        top += height
    base = TITLE + inner
    if not any(panel.marks.values()):
        parts.append(f'<text class="none" x="{x(scale.reference) + 6:.1f}" y="{TITLE + inner / 2 + 4:.1f}">not measured</text>')
    for tick in scale.ticks(across / TICK):
        anchor = "start" if x(tick) < 4 else "end" if x(tick) > across - 4 else "middle"
        parts.append(f'<path class="tick" d="M{x(tick):.1f} {base:.1f}v4"/>')
        parts.append(f'<text class="tick" text-anchor="{anchor}" x="{x(tick):.1f}" y="{base + 15:.1f}">{scale.told(tick)}</text>')
    parts.append(f'<path class="axis" d="M0 {base:.1f}H{across:.1f}"/>')
    told = f"<title>{html.escape(scale.reference_label)}</title>"
    parts.append(f'<path class="reference" d="M{x(scale.reference):.1f} {TITLE}V{base:.1f}">{told}</path>')
    return "".join(parts)


def _fitting(name: str, pixels: float) -> str:
    """As much of a name as there is room for; all of it where a pointer rests on it."""
    return f"{html.escape(shortened(name, int(pixels / CHARACTER)))}<title>{html.escape(name)}</title>"


def _mark(mark: Mark, x, y: float) -> str:
    shape, colour = SHAPES[mark.regime]
    fill = "#fff" if mark.hollow else colour
    text = f'<path d="M{x(mark.low):.1f} {y:.1f}H{x(mark.high):.1f}" stroke="{colour}"/>'
    return f'<g class="mark">{text}{_shape(shape, colour, fill, x(mark.value), y)}<title>{html.escape(mark.tip)}</title></g>'


def _shape(shape: str, colour: str, fill: str, x: float, y: float) -> str:
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{shape}" stroke="{colour}" fill="{fill}"/>'


def legend(regimes: Sequence[str], others: Sequence[str] = ()) -> str:
    """In HTML, which shape is which regime, and other words about the marks."""
    head = '<svg width="14" height="12" viewBox="-7 -6 14 12" aria-hidden="true">'
    items = [f"<span>{head}{_shape(*SHAPES[name], SHAPES[name][1], 0, 0)}</svg>{name}</span>" for name in regimes]
    return f'<p class="legend">{"".join([*items, *(f"<span>{html.escape(text)}</span>" for text in others)])}</p>'
