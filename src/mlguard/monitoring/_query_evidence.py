"""How much one query speaks for an attack, in nats: logarithms of likelihood ratios, which are summed up (Page, 1954).

A measure of a query is compared with those of usual ones by its rank, and the rank is made a normal number: whatever
the model and the data, usual queries give independent numbers of mean 0 and variance 1.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeVar

import numpy as np

from mlguard.monitoring.query_reference import Floats
from mlguard.outputs.rounding import FEW

_STILL = 1 / 3  # of the usual spread: what measures differ by from one query to the next in an attack
_NEAR = 0.5  # of an attack's queries are near-duplicates of earlier ones

_normal = NormalDist().inv_cdf


Number = TypeVar("Number", float, Floats)


def shift_step(z: Number) -> Number:
    """For a mean of 1 against one of 0."""
    return z - 0.5


def still_step(z: Number, last: Number) -> Number:
    """For measures that hardly differ from the last one against those that do as usual."""
    return math.log(1 / _STILL) - (z - last) ** 2 / 4 * (1 / _STILL**2 - 1)


def near_step(chance: float) -> float:
    """For a near-duplicate, where so many queries of the honest are some."""
    return math.log(_NEAR / chance)


def apart_step(chance: float) -> float:
    """For a query that is none."""
    return math.log((1 - _NEAR) / (1 - chance))


def chance_among(chance: float, others: int) -> float:
    """How likely a query is a near-duplicate of one of so many others, if of each one with this chance."""
    return min(0.45, max(0.01, -math.expm1(others * math.log1p(-chance))))


class Ranks:
    """Turns a measure into a normal number.

    Args:
        quantiles: Of the measure, ascending.
    """

    __slots__ = ("_ascending", "_parts")

    def __init__(self, quantiles: Sequence[float] | Floats) -> None:
        self._ascending = [float(value) for value in quantiles]
        self._parts = len(self._ascending) + 1

    def normal(self, value: float) -> float:
        """Its rank as a normal number.

        Among equal ones it is drawn, or a model of few different scores would seem to stand still.
        """
        ascending, parts = self._ascending, self._parts
        low = bisect_left(ascending, value)
        high = bisect_right(ascending, value, low)
        if high > low:
            place = low + 0.5 + random.random() * (high - low)  # noqa: S311  # no secret
        elif 0 < low < parts - 1:
            below = ascending[low - 1]
            place = low + (value - below) / (ascending[low] - below)
        else:
            place = 0.5 if low == 0 else parts - 0.5
        return _normal(place / parts)


def margins_of(scores: Floats, output_centre: float | None) -> list[float]:
    """How sure the model is of each row.

    Args:
        scores: Shape ``(rows, classes)``, or ``(rows,)`` for one number as answer.
        output_centre: The usual one of these: it stands for the margin how close to it an answer is.

    Returns:
        Of each row, the best score less the second, or that closeness.
    """
    if scores.ndim == 1 or scores.shape[1] == 1:
        closeness: list[float] = (-np.abs(scores.reshape(-1) - (output_centre or 0.0))).tolist()
        return closeness
    if scores.size <= FEW:  # a fifth of the time, and numpy would let go of the interpreter's lock
        return [best - second for second, best in (sorted(row)[-2:] for row in scores.tolist())]
    parted = np.partition(scores, -2, axis=1)
    margins: list[float] = (parted[:, -1] - parted[:, -2]).tolist()
    return margins
