"""Numbers of any dtype beside bounds that are whole numbers, with no digit lost on the way.

numpy compares int64 with uint64, and integers with doubles, by making doubles of both: 2**53 + 1 would be no more than
2**53. And it turns 3.7 into the integer 3, and 1e30 into anything.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

EXACT = 2**53
"""Below it every whole number has a double of its own. From it on, a double may stand for a number that was rounded."""


class Placed(NamedTuple):
    """Numbers, and where each is beside its bounds.

    Attributes:
        held: The numbers as integers, where they are within bounds.
        below: Which are lower than their bound.
        above: Which are higher than theirs.
        whole: Which are whole numbers at all.
        readable: Which are whole, and so small that they cannot have been rounded.
        exact: Up to which number that is.
    """

    held: NDArray[Any]
    below: NDArray[np.bool_]
    above: NDArray[np.bool_]
    whole: NDArray[np.bool_] | bool = True
    readable: NDArray[np.bool_] | bool = True
    exact: int = EXACT


def place(values: NDArray[Any], low: Any, high: Any, dtype: np.dtype[Any]) -> Placed:
    """Put numbers beside their bounds.

    Args:
        values: Integers or floats of any size and byte order.
        low: The bounds, in ``dtype`` or as ints: one, or one per column.
        high: As ``low``.
        dtype: ``int64`` or ``uint64``.
    """
    if values.dtype.kind == "f":
        return _place_floats(values, low, high, dtype)
    held = values.astype(dtype, copy=False)
    below, above = held < low, held > high
    if values.dtype.kind != dtype.kind:
        negative = values < 0
        lost = negative != (held < 0)  # what one of int64 and uint64 cannot hold comes out with another sign
        below, above = np.where(lost, negative, below), np.where(lost, ~negative, above)
    return Placed(held, below, above)


def _place_floats(values: NDArray[Any], low: Any, high: Any, dtype: np.dtype[Any]) -> Placed:
    exact = 2 ** min(np.finfo(values.dtype).nmant + 1, 53)
    doubles = as_doubles(values)
    limits = np.iinfo(dtype)
    holds = (doubles >= float(limits.min)) & (doubles < float(limits.max))  # which is rounded up, to 2**63 or 2**64
    held = np.where(holds, doubles, 0).astype(dtype)
    below, above = np.where(holds, held < low, doubles < 0), np.where(holds, held > high, doubles > 0)
    whole = np.isfinite(doubles) & (np.trunc(doubles) == doubles)
    return Placed(held, below, above, whole, whole & (np.abs(doubles) < exact), exact)


def as_doubles(values: NDArray[Any]) -> NDArray[np.float64]:
    """The nearest double of each number, in this machine's byte order."""
    if values.dtype == np.float64:
        return values
    with np.errstate(all="ignore"):
        return values.astype(np.float64)
