"""Rounding of model scores on whole arrays.

Every result is ``k / 10**decimals`` for an integer ``k``, a double whose shortest text has no more decimals than that:
JSON shows 0.34 and not 0.34000000000000002. Nothing loops over rows in Python, and everything is deterministic.
"""

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: From here on, doubles are at least one unit apart, so a number shows no more decimals than asked for as it is.
_EXACT = 2.0**53

#: Rows up to this length are done by hand when they come alone.
FEW = 32

#: Decimals of a sum that are more than the noise of adding up in another order.
_NOISE = 9


def round_float(value: float, decimals: int) -> float:
    """Round one finite number, as ``round_floats`` does."""
    unit = 10.0**decimals
    units = value * unit
    return round(units) / unit + 0.0 if abs(units) < _EXACT else value


def round_floats(values: FloatArray, decimals: int) -> FloatArray:
    """Round each number by itself, half to even.

    Args:
        values: Finite numbers, in any shape.
        decimals: How many decimals stay, 0 to 15.

    Returns:
        A new array of the same shape, without negative zeros. Numbers too large to have that many decimals stay.
    """
    unit = 10.0**decimals
    if _largest(values) * unit < _EXACT:
        rounded: FloatArray = np.rint(values * unit) / unit + 0.0  # + 0.0: a -0.0 would tell the sign of what is hidden
        return rounded
    with np.errstate(over="ignore"):
        units = values * unit
    return np.where(np.abs(units) < _EXACT, np.rint(units) / unit + 0.0, values)


def round_scores(scores: FloatArray, decimals: int) -> FloatArray:
    """Round the scores of each row together, so that they still add up and the best class stays the best.

    By the largest remainder method: every entry is rounded down, then the units that are missing from the row's rounded
    sum go to the entries that lost most (the lower index first). Where that ties the best class with a lower index, one
    unit moves over. Each entry ends less than two units from where it was, and nearly always less than one.

    Args:
        scores: Finite scores, shape (rows, classes).
        decimals: How many decimals stay, 0 to 15.

    Returns:
        A new C-contiguous array of the same shape. ``argmax`` of a row is what it was, unless the row has so many
        classes that all of its scores round to zero. A row of fewer than two classes, or of numbers too large to have
        that many decimals, is rounded number by number.
    """
    rows, classes = scores.shape
    unit = 10.0**decimals
    if rows == 0 or classes < 2:
        return round_floats(scores, decimals)
    if rows == 1 and classes <= FEW:
        row = scores[0].tolist()
        if max(*row, *[-score for score in row]) * unit < _EXACT:
            return np.array([_round_row(row, unit)])
    if not _largest(scores) * unit < _EXACT:
        return _round_large(scores, decimals)

    scores = np.ascontiguousarray(scores)  # one order of summation, so that a batch rounds as its rows do
    units = scores * unit
    rounded = np.floor(units)
    units -= rounded
    rounded += _fullest(units, np.rint(np.round(units.sum(axis=1), _NOISE)).astype(np.intp))

    _keep_argmax(rounded, scores)
    rounded /= unit
    rounded += 0.0
    return rounded


def _fullest(lost: FloatArray, missing: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which entries of each row get one of the units that are missing: those that lost most, the lower index first."""
    rows, classes = lost.shape
    # Sorting values is much faster than sorting positions, which are needed only where equal ones compete.
    limits = np.full((rows, classes + 1), np.inf)
    limits[:, :classes] = np.sort(lost, axis=1)
    given: NDArray[np.bool_] = lost >= limits[np.arange(rows), classes - missing][:, np.newaxis]
    if np.count_nonzero(given) != missing.sum():
        tied = np.flatnonzero(np.count_nonzero(given, axis=1) != missing)
        fullest = np.argsort(-lost[tied], axis=1, kind="stable")
        winners = np.zeros(fullest.shape, dtype=np.bool_)
        np.put_along_axis(winners, fullest, np.arange(classes) < missing[tied, np.newaxis], axis=1)
        given[tied] = winners
    return given


def round_row(scores: object, decimals: int) -> list[float] | None:
    """:func:`round_scores` for a short list of floats, which it is not worth making an array of; None for all else."""
    if type(scores) is not list or not 2 <= len(scores) <= FEW or set(map(type, scores)) != {float}:
        return None
    unit = 10.0**decimals
    limit = _EXACT / unit
    if not all(-limit < score < limit for score in scores):  # nor NaN
        return None
    return _round_row(scores, unit)


def _round_row(scores: list[float], unit: float) -> list[float]:
    """The same for one short row, by hand: numpy would spend most of its time on getting started."""
    exact = [score * unit for score in scores]
    units = [math.floor(value) for value in exact]
    lost = [value - whole for value, whole in zip(exact, units, strict=True)]
    fullest = sorted(range(len(scores)), key=lost.__getitem__, reverse=True)  # stable: the lower index first
    for column in fullest[: round(round(sum(lost), _NOISE))]:
        units[column] += 1
    best = scores.index(max(scores))
    for _ in range(2):
        found = units.index(max(units))
        if found == best or (units[found] == 0 and min(scores) >= 0):
            break
        units[found] -= 1
        units[best] += 1
    return [whole / unit for whole in units]


def _keep_argmax(units: FloatArray, scores: FloatArray) -> None:
    """Move single units to the best class in the rows where another one has come to be the argmax, in place."""
    best = scores.argmax(axis=1)
    # Once is enough, except where two scores are so close that they fell together when they were scaled.
    for _ in range(2):
        found = units.argmax(axis=1)
        rows = np.flatnonzero(found != best)
        if not rows.size:
            return
        negative = scores[rows].min(axis=1) < 0.0  # where none is negative, none may become so
        rows = rows[(units[rows, found[rows]] != 0.0) | negative]
        units[rows, found[rows]] -= 1.0
        units[rows, best[rows]] += 1.0


def _round_large(scores: FloatArray, decimals: int) -> FloatArray:
    """Rows that hold a number with no room for ``decimals``: number by number. The others: as ever."""
    rounded = round_floats(scores, decimals)
    with np.errstate(over="ignore"):
        small = np.abs(scores).max(axis=1) * 10.0**decimals < _EXACT
    rounded[small] = round_scores(scores[small], decimals)
    return rounded


def _largest(values: FloatArray) -> float:
    """The largest magnitude, as a Python float: it overflows without a warning."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0
