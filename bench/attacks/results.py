"""What the runs found: put together over seeds, and written as text and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan, sqrt
from statistics import mean, median, stdev
from typing import Literal

from bench.report import Grid

#: What one run measured: by what was attacked how, the value of each measure.
Measures = dict[tuple[str, ...], dict[str, float]]


@dataclass(frozen=True)
class Columns:
    """The head of a table.

    Attributes:
        keys: What was attacked how.
        measures: What is measured.
        over: How seeds are put together: as mean and standard error, or as median, lowest and highest. ``once``: there
            is one run.
        title: Of the printed table.
    """

    title: str
    keys: tuple[str, ...]
    measures: tuple[str, ...]
    over: Literal["mean", "median", "once"] = "mean"

    @property
    def head(self) -> list[str]:
        """The names of all columns of the CSV."""
        if self.over == "once":
            return [*self.keys, *self.measures]
        parts = ["", " se"] if self.over == "mean" else ["", " lowest", " highest"]
        return [*self.keys, *(f"{measure}{part}" for measure in self.measures for part in parts), "runs"]


def summarise(columns: Columns, runs: Sequence[Measures]) -> list[list[str]]:
    """One row for each key, in the order of the first run."""
    rows = []
    for key in runs[0]:
        cells = list(key)
        for measure in columns.measures:
            cells += [spell(float(value)) for value in _over(columns.over, [run[key][measure] for run in runs])]
        rows.append([*cells, str(len(runs))])
    return rows


def _over(how: str, values: list[float]) -> list[float]:
    if how == "median":
        return [median(values), min(values), max(values)]
    if not all(map(isfinite, values)):  # no scores to be calibrated, or half of the images were never misread
        return [median(values), nan]
    return [mean(values), stdev(values) / sqrt(len(values)) if len(values) > 1 else nan]


def spell(value: float) -> str:
    """Four significant digits, and nothing for what was not measured."""
    if isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def as_csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As the file holds it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def read_csv(text: str) -> list[dict[str, str]]:
    """The rows of a file, by column."""
    return list(csv.DictReader(io.StringIO(text)))


def as_grid(columns: Columns, rows: Sequence[Sequence[str]]) -> Grid:
    """As it is printed."""
    return Grid(columns.title, columns.head, rows)
