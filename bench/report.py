"""What is printed: one table a bench, with the target beside what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.timing import Timing


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement.

    Attributes:
        work: What was done.
        timing: Of the contenders ``bare``, ``guarded`` and, where there is one, ``usual``.
        target: The largest ratio of guarded to bare that is good enough.
    """

    work: str
    timing: Timing
    target: float

    def cells(self) -> list[str]:
        """As texts, in the order of the table's head."""
        ratio = self.timing.ratio("guarded", "bare")
        has_usual = "usual" in self.timing.seconds
        return [
            self.work,
            spell_seconds(self.timing.of("bare")),
            spell_seconds(self.timing.of("guarded")),
            spell_seconds(self.timing.of("usual")) if has_usual else "",
            f"{self.timing.ratio('usual', 'bare'):.2f}x" if has_usual else "",
            f"{ratio:.3f}x",
            f"<= {self.target:g}x",
            "yes" if ratio <= self.target else "NO",
        ]


@dataclass(frozen=True, slots=True)
class Extra(Line):
    """A measurement of the fastest turns. The target is what ``guarded`` may take longer than ``bare``, in seconds."""

    def cells(self) -> list[str]:
        """As texts, in the order of the table's head."""
        bare, guarded = (min(self.timing.seconds[name]) for name in ("bare", "guarded"))
        extra = guarded - bare
        return [
            self.work,
            f"{bare * 1e6:.1f} us",
            f"{guarded * 1e6:.1f} us",
            "",
            "",
            f"+{extra * 1e6:.1f} us",
            f"<= +{self.target * 1e6:g} us",
            "yes" if extra <= self.target else "NO",
        ]


@dataclass(frozen=True, slots=True)
class Table:
    """The measurements of one bench, and what else is to be said."""

    title: str
    lines: Sequence[Line]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        head = ["work", "bare", "guarded", "usual", "usual/bare", "guarded/bare", "target", "met"]
        return str(Grid(self.title, head, [line.cells() for line in self.lines], self.notes))


@dataclass(frozen=True, slots=True)
class Grid:
    """Measurements that have no target."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        rows = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        printed = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        return "\n".join([self.title, "", *printed, *self.notes])


def spell_seconds(seconds: float) -> str:
    """A time with three significant digits or so."""
    if seconds < 0.01:
        return f"{seconds * 1e6:,.0f} us"
    return f"{seconds * 1e3:,.0f} ms"
