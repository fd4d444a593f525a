"""Plots as inline SVG that need no script and no style attribute: colours are classes, tooltips are titles.

The plot itself is stretched to whatever width there is, and lines keep theirs; texts stand at shares of the width and
are never stretched. So one picture is right on a telephone and on paper.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlguard.monitoring._report_html import Html, element, isolated, joined, shown
from mlguard.monitoring._report_numbers import stretch, time_ticks

COLOURS = 7  # of series; the one after is for the rest
_TOP, _HEIGHT, _FOOT = 8, 190, 22  # pixels
_NAME = 14  # of what is marked
_TALL = 1_000  # the height of a plot in its own units
_GAP = 0.12  # of a bar, unless there are so many that it flickers
_FLICKERS = 100
_SHADES = 8
_ROW = 30  # pixels


@dataclass(frozen=True)
class Series:
    """What is drawn.

    Attributes:
        name: What it is called, as a text. Somebody else may have chosen it.
        values: One for each slot of time; None where there is none.
        colour: Number of its colour.
        is_ours: Whether we have named it.
        legend: How it stands in the legend. None: its name.
    """

    name: str
    values: Sequence[float | None]
    colour: int
    is_ours: bool = False
    legend: Html | None = None

    @property
    def spoken(self) -> str:
        """The name in a text."""
        return self.name if self.is_ours else isolated(self.name)


@dataclass(frozen=True)
class Axis:
    """The vertical axis.

    Attributes:
        ticks: Where it is marked. The first and the last are its ends.
        spell: How values are written.
        scale: What is proportional to length, such as a logarithm.
    """

    ticks: Sequence[float]
    spell: Callable[[float], str]
    scale: Callable[[float], float] = float

    def height(self, value: float) -> float:
        """How high a value lies, from 0 to 1."""
        low, high = self.scale(self.ticks[0]), self.scale(self.ticks[-1])
        return min(max((self.scale(value) - low) / (high - low), 0.0), 1.0)


@dataclass(frozen=True)
class Times:
    """The horizontal axis: slots of time.

    Attributes:
        numbers: Which, since 1970.
        width: Length of one, in seconds.
        marks: What else happened, and when, in seconds since 1970: a few that explain what is drawn.
    """

    numbers: range
    width: int
    marks: tuple[tuple[float, str], ...] = ()

    def spell(self, index: int) -> str:
        """A slot."""
        return stretch(self.numbers[index] * self.width, self.width)

    def share(self, at: float) -> float:
        """Where a time is on the axis, from 0 to 1."""
        return (at / self.width - self.numbers[0]) / len(self.numbers)


def bars(times: Times, axis: Axis, series: Sequence[Series], label: str) -> Html:
    """Bars upon each other, the first series at the bottom."""
    shapes, floors = [], [0.0] * len(times.numbers)
    gap = _GAP if len(times.numbers) <= _FLICKERS else 0.0
    for one in series:
        steps = []
        for index, value in enumerate(one.values):
            if value:
                low, high = axis.height(floors[index]), axis.height(floors[index] + value)
                floors[index] += value
                left, bar = index + gap / 2, 1 - gap
                steps.append(f"M{left:.2f} {_y(low)}h{bar:.2f}V{_y(high)}h{-bar:.2f}z")
        shapes.append(element("path", d="".join(steps), class_=f"c{one.colour}"))
    return _plot(times, axis, joined(shapes), series, label)


def lines(times: Times, axis: Axis, series: Sequence[Series], label: str) -> Html:
    """Lines, with gaps where there is nothing; a value between two gaps is a short one."""
    shapes = []
    for one in series:
        steps, is_on = [], False
        for index, value in enumerate(one.values):
            if value is None:
                is_on = False
                continue
            height = _y(axis.height(value))
            alone = not is_on and (index + 1 == len(one.values) or one.values[index + 1] is None)
            steps.append(
                f"M{index + 0.2:.1f} {height}h.6" if alone else f"{'L' if is_on else 'M'}{index + 0.5} {height}"
            )
            is_on = True
        shapes.append(element("path", d="".join(steps), class_=f"line s{one.colour}"))
    return _plot(times, axis, joined(shapes), series, label)


def shades(times: Times, rows: Sequence[Series], axis: Axis, line: Series, label: str) -> Html:
    """Rows of cells, the first at the bottom, darker where the value is a larger share of its column; and a line."""
    totals = [sum(row.values[index] or 0 for row in rows) for index in range(len(times.numbers))]
    cells: list[list[str]] = [[] for _ in range(_SHADES)]
    tall = _TALL / len(rows)
    for place, row in enumerate(rows, 1):
        top = f"{_TALL - place * tall:.0f}"
        for index, value in enumerate(row.values):
            if value:
                shade = min(int((value / totals[index]) ** 0.6 * _SHADES), _SHADES - 1)
                cells[shade].append(f"M{index} {top}h1v{tall:.0f}h-1z")
    shapes = [element("path", d="".join(steps), class_=f"h{shade}") for shade, steps in enumerate(cells) if steps]
    points = [f"{index + 0.5} {_y(axis.height(value))}" for index, value in enumerate(line.values) if value is not None]
    shapes += [element("path", d="M" + "L".join(points), class_=kind) for kind in ("line halo", "line ink")]
    return _plot(times, axis, joined(shapes), [line, *reversed(rows)], label)


def dots(times: Times, rows: Sequence[Series], label: str) -> Html:
    """A row for each series, with a dot where something happened, larger where more did."""
    height, parts = len(rows) * _ROW, []
    for place, row in enumerate(rows):
        middle = place * _ROW + 20
        parts.append(element("line", x1="0", x2="100%", y1=middle, y2=middle, class_="grid"))
        for index, value in enumerate(row.values):
            if value:
                told = element("title", f"{times.spell(index)} UTC\n{row.spoken}: {value:g}")
                radius = min(4 + value**0.4, 10)
                share = f"{100 * (index + 0.5) / len(times.numbers):.2f}%"
                parts.append(element("circle", told, cx=share, cy=middle, r=radius, class_=f"dot c{row.colour}"))
        parts.append(element("text", row.name if row.is_ours else shown(row.name), x="0", y=middle - 7, class_="row"))
    parts += _time_labels(times, height + _FOOT)
    inner = _canvas(joined(parts), height + _FOOT + 6)
    return element("div", inner, class_="chart wide", role="img", aria_label=label)


def share_bar(share: float, colour: int, parts: Sequence[float] = ()) -> Html:
    """A bar in a cell of a table. Part of it may be of the colour of refusals."""
    shapes = [element("rect", width=_share(share), height="100%", class_=f"c{colour}")]
    shapes += [element("rect", width=_share(part), height="100%", class_="c3") for part in parts if part]
    return element("svg", *shapes, width="100%", height=10, class_="bar", aria_hidden="true")


def legend(series: Sequence[Series], kind: Literal["box", "dash"] = "box") -> Html:
    """What the colours mean."""
    items = [
        element(
            "li",
            element("svg", _key(one.colour, kind), width=14, height=12, aria_hidden="true"),
            element("span", one.legend if one.legend is not None else one.name),
        )
        for one in series
    ]
    return element("ul", *items, class_="legend")


def _key(colour: int, kind: str) -> Html:
    if kind == "dash":
        return element("path", d="M0 6h14", class_=f"line s{colour}")
    return element("rect", y=1, width=11, height=11, rx=2, class_=f"c{colour}")


def _plot(times: Times, axis: Axis, shapes: Html, series: Sequence[Series], label: str) -> Html:
    marks = [(times.share(at), text) for at, text in sorted(times.marks) if 0 <= times.share(at) <= 1]
    top = _TOP + _NAME * len(marks)
    low = top + _HEIGHT
    grid, scale = [], []
    for tick in axis.ticks:
        at = low - _HEIGHT * axis.height(tick)
        grid.append(element("line", x1="0", x2="100%", y1=at, y2=at, class_="grid"))
        scale.append(element("text", axis.spell(tick), x="100%", y=at + 4, text_anchor="end"))
    area = element(
        "svg",
        shapes,
        *_columns(times, axis, series),
        y=top,
        width="100%",
        height=_HEIGHT,
        viewBox=f"0 0 {len(times.numbers)} {_TALL}",
        preserveAspectRatio="none",
    )
    inner = _canvas(joined([*grid, area, *_marks(marks, low), *_time_labels(times, low + 17)]), low + _FOOT)
    side = element("svg", *scale, class_="scale", width=48, height=low + _FOOT, aria_hidden="true")
    return element("div", side, inner, class_="chart", role="img", aria_label=label)


def _marks(marks: Sequence[tuple[float, str]], low: int) -> list[Html]:
    """Lines where something else happened, with their names above the plot, each lower than the one before."""
    drawn = []
    for place, (share, text) in enumerate(marks):
        x, middle = f"{100 * share:.2f}%", _NAME * place + 6
        side, away = ("end", -5) if share > 0.5 else ("start", 5)
        drawn.append(element("line", x1=x, x2=x, y1=middle - 6, y2=low, class_="mark"))
        drawn.append(element("text", text, x=x, y=middle + 4, dx=away, text_anchor=side, class_="mark-name"))
    return drawn


def _canvas(inside: Html, height: float) -> Html:
    return element("svg", inside, class_="plot", width="100%", height=height)


def _columns(times: Times, axis: Axis, series: Sequence[Series]) -> list[Html]:
    """What a pointer finds: a column for each slot, which says what is drawn there."""
    columns = []
    for index in range(len(times.numbers)):
        told = [f"{one.spoken}: {axis.spell(one.values[index] or 0)}" for one in series if one.values[index]]
        text = "\n".join([f"{times.spell(index)} UTC", *(told or ["nothing"])])
        columns.append(element("rect", element("title", text), x=index, width=1, height=_TALL, class_="hit"))
    return columns


def _time_labels(times: Times, y: float) -> list[Html]:
    labels = []
    for number, (share, text) in enumerate(time_ticks(times.numbers, times.width)):
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        kind = "minor" if number % 2 else None  # left out where there is little room
        labels.append(element("text", text, x=f"{100 * share:.2f}%", y=y, text_anchor=anchor, class_=kind))
    return labels


def _y(height: float) -> str:
    return f"{_TALL * (1 - height):.0f}"


def _share(share: float) -> str:
    return f"{100 * min(share, 1.0):.1f}%"
