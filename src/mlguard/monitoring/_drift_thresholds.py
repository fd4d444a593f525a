"""From which distance on it is drift: found by drawing windows from the reference itself."""

import math
from typing import NamedTuple

import numpy as np

from mlguard.monitoring._histograms import Floats, Histograms, Ints, distances

_MOST_DRAWS = 20_000  # for one column and one size of windows
_ALL_DRAWS = 500_000  # together, if there are many
_FEWEST_DRAWS = 2_000
_MOST_DRAWN = 4_000_000  # counts at a time
_IN_TAIL = 200  # draws from which rarer ones are extrapolated
_TRIED = 8  # columns of each number of bins


class Thresholds(NamedTuple):
    """From which distance on it is drift, for a window of any size.

    A distance is compared after it has been multiplied with ``evenly(rows, reference)``, squared first for ``ks``.

    Attributes:
        psi: Of shape (columns,).
        ks: Of shape (columns,).
    """

    psi: Floats
    ks: Floats


def evenly(rows: int, reference: int) -> float:
    """How many rows two samples of the same size would have that tell as much as these two."""
    return rows * reference / (rows + reference)


def calibrated(histograms: Histograms, sizes: tuple[int, ...], rate: float) -> Thresholds:
    """Thresholds that rows like those of the reference pass rarely.

    For columns with the same number of bins, both the reference and a window are drawn anew from the reference's own
    shares, many times, so that it counts too that the reference is only a sample. Of what is too rare for that many
    draws, the exponential tail is drawn further; the true tails fall faster, and so less often than at this rate.

    Args:
        histograms: The reference.
        sizes: Rows of a window, all that come about.
        rate: How often any column may pass, in all measures together.
    """
    per_test = rate / (2 * histograms.columns)  # two measures (Bonferroni)
    random = np.random.default_rng(20_261_126)  # the same thresholds each time
    alike = [np.flatnonzero(histograms.bins == bins) for bins in np.unique(histograms.bins)]
    tried = [_spread(columns, histograms.counts) for columns in alike]
    draws = min(max(_ALL_DRAWS // sum(map(len, tried)), _FEWEST_DRAWS), _MOST_DRAWS)
    psi, ks = np.empty(histograms.columns), np.empty(histograms.columns)
    for columns, some in zip(alike, tried, strict=True):
        found = [
            _beyond(histograms.counts[histograms.real[:, column], column], size, per_test, draws, random)
            for column in some
            for size in sizes
        ]
        psi[columns], ks[columns] = np.max(found, axis=0)
    return Thresholds(psi, ks)


def _spread(columns: Ints, counts: Ints) -> Ints:
    """Some columns that stand for all: from the most even ones to those with the emptiest bins."""
    shares = np.round(counts[:, columns] / counts[:, 0].sum(), 2)
    columns = columns[np.unique(shares, axis=1, return_index=True)[1]]
    by_evenness = columns[np.argsort((counts[:, columns].astype(float) ** 2).sum(axis=0), kind="stable")]
    some: Ints = by_evenness[np.unique(np.linspace(0, len(columns) - 1, _TRIED).round().astype(int))]
    return some


def _beyond(counts: Ints, size: int, rate: float, draws: int, random: np.random.Generator) -> tuple[float, float]:
    """Values that are passed at this rate by windows of one column."""
    rows = int(counts.sum())
    shares = counts / rows
    draws = min(draws, max(_MOST_DRAWN // len(counts), _FEWEST_DRAWS))
    before = random.multinomial(rows, shares, draws).T
    now = random.multinomial(size, shares, draws).T
    found = distances(before, rows, now, size, np.ones((len(counts), 1), bool))
    scale = evenly(size, rows)
    return _quantile(scale * found.psi, rate), _quantile(scale * found.ks**2, rate)


def _quantile(values: Floats, rate: float) -> float:
    """The value that is passed at this rate."""
    tail = _IN_TAIL / len(values)
    if rate >= tail:
        return float(np.quantile(values, 1 - rate))
    begins = float(np.quantile(values, 1 - tail))
    beyond = values[values > begins] - begins
    return begins + (float(beyond.mean()) if len(beyond) else 0.0) * math.log(tail / rate)
