"""Windows of what is watched, each compared with the reference: is it drift, since when, and is it over?"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlguard._lookout import OwnLock
from mlguard.monitoring._drift_thresholds import Thresholds, evenly
from mlguard.monitoring._histograms import Counts, Distances, Floats, Histograms, in_bins

Pace = Literal["sudden", "slow"]
Measure = Literal["psi", "ks"]

#: Windows that are kept, together and for how a change came about.
KEPT = 8
_MOST_UNJUDGED = 16  # windows; then the current one goes on
_GATHERED = 64  # rows that came one by one, and are counted together: that takes little longer than to count one
_MOST_GATHERED = 65_536  # numbers in them
_CALM = 2  # windows after which it is over
_NOTHING = 1e-12  # of a psi
#: A small shift of a normal distribution by d standard deviations has a psi of d**2, and a ks of 0.4 d.
_KS_OF_SHIFT = 0.4


@dataclass(frozen=True, slots=True)
class Finding:
    """Columns that began to drift, or ended.

    Attributes:
        began: Whether they began.
        column: The index of the one that is furthest off.
        columns: How many there are.
        measure: By which it is furthest off.
        value: Its distance.
        threshold: The distance from which on it is drift.
        rows: In how many rows.
        pace: Whether the change came at once or little by little.
    """

    began: bool
    column: int
    columns: int
    measure: Measure
    value: float
    threshold: float
    rows: int
    pace: Pace


class Watch:
    """One kind of thing that is watched, such as the input's columns.

    Rows are counted in :meth:`add`, on the path of requests; windows are judged in :meth:`judge`, off it.

    Args:
        reference: What it is compared with.
        thresholds: From which distance on it is drift.
        window: Rows after which a window ends.
        seconds: Seconds after which it ends with fewer rows, if at least ``least``.
        least: Rows.
        smallest: The ``psi`` below which nothing is drift, however sure it is.
        now: The time.

    Attributes:
        windows: How many were judged.
        drifting: Which columns drift, of shape (columns,).
        last: The distances of the last window.
    """

    def __init__(
        self,
        reference: Histograms,
        thresholds: Thresholds,
        *,
        window: int,
        seconds: float,
        least: int,
        smallest: float,
        now: float,
    ) -> None:
        self._reference = reference
        self._thresholds = thresholds
        self._window = window
        self._seconds = seconds
        self._least = least
        self._smallest = smallest
        self._at_once = max(1, min(_GATHERED, _MOST_GATHERED // reference.columns))
        self._lock = OwnLock()
        self.windows = 0
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin anew, with no rows."""
        self._above = self._reference.empty()
        self._gathered: list[Floats] = []
        self._rows = 0
        self._began = now
        self._unjudged: deque[Counts] = deque()
        self._kept: deque[Counts] = deque(maxlen=KEPT)
        self._calm = np.zeros(self._reference.columns, np.int64)
        self.drifting = np.zeros(self._reference.columns, bool)
        self.last = Distances(np.zeros(self._reference.columns), np.zeros(self._reference.columns))

    def add(self, rows: NDArray[Any], now: float) -> None:
        """Count rows, of shape (rows, columns).

        Raises:
            TypeError: They are no real numbers.
        """
        if len(rows) == 1:
            row = rows.astype(np.float64, casting="same_kind")  # a copy, as the model may write into its input
            with self._lock:
                self._gathered.append(row)
                if len(self._gathered) >= self._at_once:
                    self._count_gathered()
                self._added(1, now)
            return
        above = self._reference.empty()
        self._reference.count(rows, above)
        with self._lock:
            self._above += above
            self._added(len(rows), now)

    def judge(self, now: float) -> Iterator[Finding]:
        """Judge the windows that have ended. Only one thread at a time."""
        with self._lock:
            self._began = min(self._began, now)  # of a clock that went backwards
            if now - self._began >= self._seconds and self._rows >= self._least:
                self._end(now)
        while self._unjudged:
            yield from self._judge(self._unjudged.popleft())

    def _added(self, rows: int, now: float) -> None:
        self._rows += rows
        if self._rows >= self._window and len(self._unjudged) < _MOST_UNJUDGED:
            self._end(now)

    def _count_gathered(self) -> None:
        if self._gathered:
            rows, self._gathered = np.concatenate(self._gathered), []
            self._reference.count(rows, self._above)

    def _end(self, now: float) -> None:
        self._count_gathered()
        self._unjudged.append(Counts(self._above, self._rows))
        self._above, self._rows, self._began = self._reference.empty(), 0, now

    def _judge(self, counts: Counts) -> Iterator[Finding]:
        self._kept.append(counts)
        self.windows += 1
        self.last = self._reference.distances(counts)
        measured = [(counts.rows, self.last)]
        if len(self._kept) > 1:  # and all that are kept together, for what is too small to be seen in one
            together = Counts(sum([one.above for one in self._kept]), sum(one.rows for one in self._kept))  # type: ignore[arg-type]  # arrays
            measured.append((together.rows, self._reference.distances(together)))
        tests = [
            (rows, measure, values, bounds)
            for rows, distances in measured
            for measure, values, bounds in zip(("psi", "ks"), distances, self._bounds(rows), strict=True)
        ]
        beyond = np.stack([values / bounds for _, _, values, bounds in tests])  # shape (tests, columns)
        is_off = (beyond > 1).any(axis=0)
        self._calm = np.where(is_off, 0, self._calm + 1)
        began = is_off & ~self.drifting
        over = self.drifting & (self._calm >= _CALM)
        self.drifting = (self.drifting | is_off) & ~over
        for columns, has_begun in ((began, True), (over, False)):
            if columns.any():
                column = int(np.where(columns, beyond.max(axis=0), -1.0).argmax())
                rows, measure, values, bounds = tests[int(beyond[:, column].argmax())]
                yield Finding(
                    has_begun,
                    column,
                    int(columns.sum()),
                    measure,  # type: ignore[arg-type]  # one of them
                    float(values[column]),
                    float(bounds[column]),
                    rows,
                    self._pace(column),
                )

    def _bounds(self, rows: int) -> tuple[Floats, Floats]:
        """From which distance on it is drift in so many rows."""
        scale = evenly(rows, self._reference.rows)
        # A constant's windows are at no distance by chance: any is drift then, and 0 is none.
        smallest = max(self._smallest, _NOTHING)
        return (
            np.maximum(self._thresholds.psi / scale, smallest),
            np.maximum(np.sqrt(self._thresholds.ks / scale), _KS_OF_SHIFT * np.sqrt(smallest)),
        )

    def _pace(self, column: int) -> Pace:
        """How the distance of one column came about, window by window: in the direction of the last one's."""
        reference = self._reference
        real = reference.real[:, column]
        before = reference.counts[real, column] + 0.5
        kept = np.stack([in_bins(each)[real, column] for each in self._kept])
        last = kept[-1] + 0.5
        direction = np.log((last / last.sum()) / (before / before.sum()))
        rows = kept.sum(axis=1)
        shifts = kept @ direction / rows
        mean = before @ direction / before.sum()
        noise = np.sqrt((before @ (direction - mean) ** 2) / before.sum() / rows)
        shifts[-1] -= (len(direction) - 1) / rows[-1]  # what it agrees with itself by chance
        return pace_of((shifts - shifts.mean()) / noise)


def pace_of(shifts: Floats) -> Pace:
    """Whether numbers, one a window, are more like one step, or like a slope of three windows and more.

    Each is fitted by least squares: a step in any window, which then has a number of its own, for it has rows of before
    and after; and a slope from any window to the last. The one with the smaller misfit is taken, after two were added
    for the further number (Akaike).

    Args:
        shifts: In standard deviations of what they are by chance.
    """
    number = len(shifts)
    if number < 4:
        return "sudden"
    at = np.arange(number)
    steps = [_misfit(np.delete(shifts, first), np.delete(at > first, first)) for first in range(number)]
    slopes = [_misfit(shifts, np.maximum(at - first, 0)) for first in range(number - 3)]
    return "slow" if min(slopes) < min(steps) + 2 else "sudden"


def _misfit(values: Floats, shape: NDArray[Any]) -> float:
    """What is left of the values when a level and so much of the shape as is best are taken off, squared."""
    values, centred = values - values.mean(), shape - shape.mean()
    size = float(centred @ centred)
    return float(values @ values) - (float(values @ centred) ** 2 / size if size else 0.0)
