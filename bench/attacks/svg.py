"""A line chart as SVG: readable without colours, in light and dark, and by programs that read aloud."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 500, 50, 345  # of the plot
_ROLE = 'role="img" aria-labelledby="title description"'
_LIGHT = ("#0b62a8", "#b84a00", "#00775a", "#8a3d87", "#8a6a00", "#3d3d3d", "#c2185b", "#00838f")
_DARK = ("#6fb7f2", "#ff9b57", "#4fd1ac", "#d99ad6", "#e6c84f", "#d0d0d0", "#ff8fb5", "#6fe0ea")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Attributes:
        label: What it shows.
        ticks: Where it is marked. The first and the last are its ends.
        log: Whether equal factors are equal lengths.
        percent: Whether numbers are written as percentages.
    """

    label: str
    ticks: Sequence[float]
    log: bool = False
    percent: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two ends. What lies beyond is drawn on the edge."""
        low, high = self._scale(self.ticks[0]), self._scale(self.ticks[-1])
        share = (self._scale(value) - low) / (high - low)
        return start + min(max(share, 0.0), 1.0) * (end - start)

    def spell(self, value: float) -> str:
        """As it stands at a tick."""
        if self.percent:
            return f"{value * 100:g} %"
        if value and abs(math.log10(abs(value))) >= 5:
            return f"{value:.0e}".replace("e-0", "e-")
        return f"{value:,.10g}".replace(",", " ")

    def _scale(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


@dataclass(frozen=True)
class Line:
    """What is drawn, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


def chart(title: str, description: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """The text of an SVG file. Of lines that lie upon each other, each marks its points differently."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_ROLE}>',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        f"<style>{_style()}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        f'<text class="title" x="{_LEFT}" y="20">{escape(title)}</text>',
        *_axes(x, y),
    ]
    for number, line in enumerate(lines):
        parts += _line(number, line, x, y)
    return "\n".join([*parts, "</svg>", ""])


def _style() -> str:
    def colours(palette: Sequence[str], paper: str, ink: str, grid: str) -> str:
        lines = "".join(
            f".l{n}{{stroke:{colour}}}.m{n}{{fill:{colour};stroke:{colour}}}" for n, colour in enumerate(palette)
        )
        return f".paper{{fill:{paper}}}text{{fill:{ink}}}.grid{{stroke:{grid}}}{lines}"

    fixed = "text{font:13px sans-serif}.title{font-size:15px;font-weight:bold}.line{fill:none;stroke-width:2}"
    light = colours(_LIGHT, "#ffffff", "#1f1f1f", "#d9d9d9")
    dark = colours(_DARK, "#16191d", "#ececec", "#3b4046")
    return f"{fixed}{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _axes(x: Axis, y: Axis) -> list[str]:
    parts = []
    for value in x.ticks:
        at = x.place(value, _LEFT, _RIGHT)
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{_BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{x.spell(value)}</text>')
    for value in y.ticks:
        at = y.place(value, _BOTTOM, _TOP)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{y.spell(value)}</text>')
    middle = (_LEFT + _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 14}" text-anchor="middle">{escape(x.label)}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 6}">{escape(y.label)}</text>')
    return parts


def _line(number: int, line: Line, x: Axis, y: Axis) -> list[str]:
    style = number % len(_LIGHT)
    places = [(x.place(a, _LEFT, _RIGHT), y.place(b, _BOTTOM, _TOP)) for a, b in line.points]
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    dash = f' stroke-dasharray="{_DASHES[style]}"' if _DASHES[style] else ""
    row = _TOP + 12 + 24 * number
    legend = (
        f'<path class="line l{style}"{dash} d="M{_RIGHT + 16} {row}h34"/>',
        _mark(style, _RIGHT + 33, row),
        f'<text x="{_RIGHT + 58}" y="{row + 4}">{escape(line.name)}</text>',
    )
    return [f'<path class="line l{style}"{dash} d="M{path}"/>', *(_mark(style, a, b) for a, b in places), *legend]


def _mark(style: int, x: float, y: float) -> str:
    """A circle, a square, a triangle or a cross, larger for the first ones so that what covers them shows a rim."""
    size = (5.0, 4.2, 4.4, 3.6, 3.2, 3.0, 2.8, 2.4)[style]
    kind = f'class="m{style}"'
    if style % 4 == 0:
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    if style % 4 == 1:
        return f'<rect {kind} x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}"/>'
    if style % 4 == 2:
        return f'<path {kind} d="M{x:.1f} {y - size:.1f}l{size} {1.8 * size:.1f}h{-2 * size}z"/>'
    corner = f"{x - size:.1f} {y - size:.1f}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}"
    return f'<path {kind} d="M{corner}"/>'
