"""Measures what usual queries look like, and how much evidence honest callers come to."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlguard.errors import ConfigurationError
from mlguard.monitoring._fingerprints import chances, scaled
from mlguard.monitoring._query_evidence import Ranks, margins_of, shift_step, still_step
from mlguard.monitoring.query_reference import MAX_CENTRES, MAX_COLUMNS, QUANTILES, Floats, QueryReference

_LEAST_ROWS = 100
_MOST_ROWS = 20_000  # that are looked at; drawn, if there are more
_PAIRED = 1_500  # rows whose distances from each other are measured
_BINS = 10_000  # that these distances are counted in
_GROUP = 10  # rows at least that a centre is of
_ROUNDS = 10  # of moving centres
_STREAM = 1_000  # queries of an honest caller
_STREAMS = 400  # honest callers that are played
_PLAYED = 5_000  # queries that theirs are drawn from
_ALARMS = 0.05  # of them may come to a limit; for a verdict two kinds must
_FAR_PAIRS = 1e-6  # how often two rows may look like near-duplicates, at most
_COPY = 0.01  # of the usual distance: two rows that are no further apart are one, measured or written down twice
_FEW_COPIES = 0.01  # as many pairs of these as this share of the rows


def calibrate(x: Any, scores: Any, *, same_units: bool) -> QueryReference:
    """As :meth:`QueryMonitor.calibrate` says."""
    rows = _rows(x)
    outputs = None if scores is None else _scores(scores, len(rows))
    drawn = np.random.default_rng(0)
    order = drawn.permutation(len(rows))[:_MOST_ROWS]
    rows = rows[order]
    margins, output_centre = None, None
    if outputs is not None:
        outputs = outputs[order]
        output_centre = float(np.median(outputs)) if outputs.ndim == 1 or outputs.shape[1] == 1 else None
        margins = _quantiles(np.array(margins_of(outputs, output_centre)))
    centre, scale = _spread(rows, same_units=same_units)
    near = np.unique(scaled(rows, centre, scale), axis=0)
    if len(near) < _LEAST_ROWS:
        raise ConfigurationError(f"QueryMonitor.calibrate(X) needs at least {_LEAST_ROWS} rows that differ")
    near = near[drawn.permutation(len(near))]
    half = len(near) // 2
    centres = _centres(near[:half], drawn)
    distances = _to_nearest(near[half:], centres)  # of rows that the centres were not made of
    reach, chance = _reach(near[:_PAIRED])
    usual = _quantiles(distances)
    measures = [distances]
    if outputs is not None:
        measures.insert(0, np.array(margins_of(outputs, output_centre)))
    limits = _limits([_normals(values, _quantiles(values), drawn) for values in measures])
    if margins is None:
        limits = [*limits[:1], limits[0], limits[0], *limits[1:]]  # of sums that nothing is added to
    return QueryReference(centre, scale, centres, usual, margins, output_centre, reach, chance, tuple(limits))


def _rows(x: Any) -> Floats:
    try:
        rows = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigurationError("QueryMonitor.calibrate(X): X is an array of numbers, shape (rows, columns)") from None
    if rows.ndim > 2:
        rows = rows.reshape(len(rows), -1)
    if rows.ndim != 2 or not 1 <= rows.shape[1] <= MAX_COLUMNS:
        raise ConfigurationError("QueryMonitor.calibrate(X): X is an array of numbers, shape (rows, columns)")
    if len(rows) < _LEAST_ROWS:
        raise ConfigurationError(f"QueryMonitor.calibrate(X) needs at least {_LEAST_ROWS} rows that differ")
    if np.isinf(rows).any() or np.abs(np.nan_to_num(rows)).max() > 1e30:
        raise ConfigurationError("QueryMonitor.calibrate(X): X holds numbers that are infinite, or beyond 1e30")
    return rows


def _scores(scores: Any, count: int) -> Floats:
    try:
        outputs = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        outputs = np.array(np.nan)
    if outputs.ndim not in {1, 2} or len(outputs) != count or not outputs.size or not np.isfinite(outputs).all():
        raise ConfigurationError(
            "QueryMonitor.calibrate(scores=...): what the model says of each row of X, finite numbers of shape "
            "(rows, classes) or (rows,)"
        )
    return outputs


def _spread(rows: Floats, *, same_units: bool) -> tuple[Floats, Floats]:
    if np.isnan(rows).all(axis=0).any():
        raise ConfigurationError("QueryMonitor.calibrate(X): a column has no values")
    centre, scale = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    if same_units:
        scale = np.full_like(scale, np.sqrt(np.mean(scale**2)))
    constant = scale <= 1e-9 * np.maximum(np.abs(centre), 1e-9)
    return centre, np.where(constant, np.maximum(np.abs(centre), 1.0) * 0.01, scale)


def _centres(near: Floats, drawn: np.random.Generator) -> Floats:
    """Of the groups that rows fall into (Lloyd, 1982), none of which is of a few rows only."""
    groups = max(1, min(MAX_CENTRES, len(near) // (3 * _GROUP)))
    centres = near[drawn.choice(len(near), groups, replace=False)]
    for _ in range(_ROUNDS):
        group = _squares(near, centres).argmin(axis=1)
        sizes = np.bincount(group, minlength=len(centres))
        kept = [near[group == one].mean(axis=0) for one in np.flatnonzero(sizes >= _GROUP)]
        centres = np.array(kept or [near.mean(axis=0)])
    return centres


def _squares(near: Floats, centres: Floats) -> Floats:
    squares: Floats = (near**2).sum(axis=1)[:, np.newaxis] - 2 * near @ centres.T + (centres**2).sum(axis=1)
    return np.maximum(squares, 0.0)


def _to_nearest(near: Floats, centres: Floats) -> Floats:
    distances: Floats = np.sqrt(_squares(near, centres).min(axis=1))
    return distances


def _reach(near: Floats) -> tuple[float, float]:
    """As far as near-duplicates may be apart without honest queries looking like some, and how often these do.

    A few copies among the rows do not make the reach as small as their noise, in which no attack is noticed any more.
    But they do count in how often honest queries look like near-duplicates.
    """
    distances = np.sqrt(_squares(near, near)[np.triu_indices(len(near), 1)])
    pairs, edges = np.histogram(distances, _BINS)
    usual = float(np.median(distances))
    copies = edges[1:] <= _COPY * usual
    few = pairs[copies].sum() <= _FEW_COPIES * len(near)
    others = np.where(copies & few, 0, pairs)

    def chance(reach: float, of: NDArray[np.int_]) -> float:
        return float(chances(edges[:-1], reach) @ of / len(distances))  # of the nearer edge, so not too low

    low, high = 1e-6, max(usual, 1e-5)
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if chance(middle, others) > _FAR_PAIRS else (middle, high)
    return low, max(chance(low, pairs), 1e-9)


def _quantiles(values: Floats) -> Floats:
    quantiles: Floats = np.quantile(values, np.arange(1, QUANTILES + 1) / (QUANTILES + 1))
    return quantiles


def _normals(values: Floats, quantiles: Floats, drawn: np.random.Generator) -> Floats:
    """Measures of the queries of honest callers, as normal numbers."""
    ranks = Ranks(quantiles)
    some = drawn.choice(values, _PLAYED)
    normals = np.array([ranks.normal(value) for value in some.tolist()])
    return drawn.choice(normals, (_STREAMS, _STREAM))


def _limits(played: list[Floats]) -> list[float]:
    """What honest callers come to in so many queries, but for one in twenty."""
    least = math.log(_STREAM / _ALARMS)  # enough for any sum of true likelihood ratios (Lorden, 1971)
    limits = [least]
    for number, z in enumerate(played):
        sign = 1.0 if number == len(played) - 1 else -1.0  # margins are low, distances large
        for steps in (shift_step(sign * z), still_step(z[:, 1:], z[:, :-1])):
            sums = np.cumsum(steps, axis=1)
            peaks = (sums - np.minimum(np.minimum.accumulate(sums, axis=1), 0.0)).max(axis=1)
            limits.append(max(least, float(np.quantile(peaks, 1 - _ALARMS))))
    return limits
