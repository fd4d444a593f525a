"""Histograms of columns: how they are cut, how rows are counted into them, and how far two of them are apart."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_AT_ONCE = 1 << 20  # comparisons
_MOST_AT_ONCE = 255  # rows, which a byte can count
#: What is added to each bin, so that an empty one has a logarithm (half a row, after Jeffreys).
_HALF = 0.5


class Counts(NamedTuple):
    """Rows that were counted.

    Attributes:
        above: Shape (edges + 1, columns): how many values are at least each edge; last, how many are missing.
        rows: How many rows.
    """

    above: Ints
    rows: int


class Distances(NamedTuple):
    """How far columns are from the reference, each of shape (columns,).

    Attributes:
        psi: The population stability index: 0 where the shares of all bins agree.
        ks: The statistic of Kolmogorov and Smirnov, at the edges: the largest difference of the shares below.
    """

    psi: Floats
    ks: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Histograms:
    """One histogram for each column, of the rows of a reference.

    Attributes:
        edges: Shape (edges, columns), ascending, NaN behind the last one of a column that has fewer. A bin holds its
            lower edge.
        counts: Shape (edges + 2, columns): rows in each bin, and in the last row, rows in which the value is missing.
        missing: Whether values may be missing.
    """

    edges: Floats
    counts: Ints
    missing: bool

    @property
    def rows(self) -> int:
        """How many rows the reference has."""
        return int(self.counts[:, 0].sum())

    @property
    def columns(self) -> int:
        """How many columns there are."""
        return int(self.edges.shape[1])

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which bins there are, of the shape of ``counts``."""
        first = np.ones((1, self.columns), bool)
        return np.concatenate([first, ~np.isnan(self.edges), first & self.missing])

    @property
    def bins(self) -> Ints:
        """How many bins each column has."""
        bins: Ints = self.real.sum(axis=0)
        return bins

    def empty(self) -> Ints:
        """Counts of no rows, to be added to."""
        return np.zeros((len(self.edges) + 1, self.columns), np.int64)

    def count(self, rows: NDArray[Any], into: Ints) -> None:
        """Count rows, of shape (rows, columns), in constant memory."""
        above, missing = into[:-1], into[-1]
        if len(rows) == 1:
            above += rows[0] >= self.edges
        else:
            step = max(1, min(_MOST_AT_ONCE, _AT_ONCE // self.edges.size))
            for start in range(0, len(rows), step):
                part = rows[start : start + step, None, :] >= self.edges
                above += part.view(np.uint8).sum(axis=0, dtype=np.uint8)
        if self.missing:
            missing += np.isnan(rows).sum(axis=0)

    def distances(self, counts: Counts) -> Distances:
        """How far rows that were counted are from the reference."""
        return distances(self.counts, self.rows, in_bins(counts), counts.rows, self.real)


def in_bins(counts: Counts) -> Ints:
    """How many rows are in each bin, of the shape of ``Histograms.counts``."""
    above, missing = counts.above[:-1], counts.above[-1:]
    present = counts.rows - missing
    reached = np.concatenate([present, above])
    return np.concatenate([reached[:-1] - reached[1:], reached[-1:], missing])


def distances(before: Ints, rows_before: int, now: Ints, rows_now: int, real: NDArray[np.bool_]) -> Distances:
    """How far two histograms are apart, along their first axis."""
    bins = real.sum(axis=0)
    expected = np.where(real, (before + _HALF) / (rows_before + _HALF * bins), 1.0)
    found = np.where(real, (now + _HALF) / (rows_now + _HALF * bins), 1.0)
    psi = ((found - expected) * np.log(found / expected)).sum(axis=0)
    below = np.cumsum(now, axis=0) / rows_now - np.cumsum(before, axis=0) / rows_before
    return Distances(psi, np.abs(below).max(axis=0))


def cut(rows: Floats, bins: int) -> Histograms:
    """Histograms whose bins have about as many rows each.

    A value that many rows have is a bin of its own, so that whole numbers, flags and constants are told from what is
    just beside them.

    Args:
        rows: Shape (rows, columns), no infinities.
        bins: How many bins a column has whose values are all different.
    """
    columns = [_edges(np.sort(column[~np.isnan(column)]), bins) for column in rows.T]
    longest = max(map(len, columns))
    edges = np.full((longest, len(columns)), np.nan)
    for place, column in enumerate(columns):
        edges[: len(column), place] = column
    return with_counts(edges, rows)


def with_counts(edges: Floats, rows: Floats) -> Histograms:
    """Histograms of rows with these edges."""
    missing = bool(np.isnan(rows).any())
    empty = Histograms(edges, np.zeros((len(edges) + 2, edges.shape[1]), np.int64), missing)
    above = empty.empty()
    empty.count(rows, above)
    return Histograms(edges, in_bins(Counts(above, len(rows))), missing)


def _edges(values: Floats, bins: int) -> Floats:
    """Where one column is cut. Its values are sorted, none is missing, and there may be none at all."""
    if not len(values):
        return np.zeros(1)
    cuts = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    first, behind = np.searchsorted(values, cuts, "left"), np.searchsorted(values, cuts, "right")
    heavy = (behind - first) * bins >= len(values)
    return np.unique(np.concatenate([cuts, np.nextafter(cuts[heavy], np.inf)]))
