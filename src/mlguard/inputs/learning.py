"""Bounds and categories learnt from data, so that what is refused does not tell the data.

Whoever may ask can find a bound by halving: a number on its one side is accepted, on the other refused. A bound that is
the largest value of a column would tell that value, which is somebody's. So a bound is made of values that at least
five others lie beyond, moved outwards, and rounded. Who has found both bounds of a column knows the two values that
they are made of to a hundredth of their distance, at best. It is no differential privacy.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlguard.errors import ConfigurationError
from mlguard.inputs.row_settings import Column, check_dtype, check_missing, column_indices, is_real
from mlguard.inputs.tables import TableColumn, read_table

FEWEST_ROWS = 100
"""Values that a column must have. Fewer say too little about what is usual."""

LEFT_OUT = 5
"""So many values on each side never move a bound, and a learnt category must be that of so many rows."""

MOST_CATEGORIES = 1_000
"""A column with more of them holds names or identifiers, which are somebody's."""

Bounds = tuple[float, float]


def learn(
    data: Any,
    *,
    margin: float,
    quantiles: tuple[float, float],
    low: Mapping[Any, float] | None,
    high: Mapping[Any, float] | None,
    missing: Iterable[Column] | Literal[True],
    categories: Mapping[Any, Iterable[str | float]] | Iterable[Column] | None,
    dtype: DTypeLike,
) -> dict[str, Any]:
    """The settings of ``Features`` that data tell: columns, bounds and categories.

    The arguments are those of ``Features.from_data``.

    Raises:
        ConfigurationError: Data that nothing can be learnt from safely, or a setting that cannot work.
    """
    names, columns = read_table(data)
    held = check_dtype(dtype)
    may_miss = check_missing(missing, names, len(columns), held)
    allowed = _by_column("categories", categories, names, len(columns))
    lows, highs = (_by_column(side, given, names, len(columns)) for side, given in (("low", low), ("high", high)))
    _check_statistics(margin, quantiles)
    for index, column in enumerate(columns):
        _check_amount(column, may_miss=index in may_miss)
        learnt: Bounds = (0, 0)  # a categorical column has no bounds
        if index not in allowed:
            learnt = _bounds(column, margin, quantiles, held)
        elif allowed[index] is None:
            allowed[index] = _categories(column)
        lows.setdefault(index, learnt[0])
        highs.setdefault(index, learnt[1])
    return {
        "columns": names or len(columns),
        "low": [lows[index] for index in range(len(columns))],
        "high": [highs[index] for index in range(len(columns))],
        "missing": may_miss,
        "categories": allowed,
        "dtype": held,
    }


def _by_column(setting: str, given: object, names: tuple[str, ...] | None, columns: int) -> dict[int, Any]:
    """What is said about columns, by index. None where a column is only named."""
    if given is None:
        return {}
    if setting != "categories" and not isinstance(given, Mapping):
        example = repr(names[0]) if names else "0"
        raise ConfigurationError(
            f"{setting} must be a mapping of columns to what is known of them, such as {{{example}: 0}}"
        )
    indices = column_indices(setting, given, names, columns)
    if isinstance(given, Mapping):
        return dict(zip(indices, given.values(), strict=True))
    return dict.fromkeys(indices)


def _check_statistics(margin: object, quantiles: object) -> None:
    if not is_real(margin) or not 0 <= margin <= 1_000:  # type: ignore[operator]  # it is real
        raise ConfigurationError("margin must be a number from 0 to 1000: distances between the quantiles")
    pair = tuple(quantiles) if isinstance(quantiles, Iterable) else ()
    if len(pair) != 2 or not all(map(is_real, pair)) or not 0 < pair[0] < 0.5 < pair[1] < 1:
        raise ConfigurationError("quantiles must be two numbers between 0 and 1, one below 0.5 and one above it")


def _check_amount(column: TableColumn, *, may_miss: bool) -> None:
    if column.missing and not may_miss:
        raise ConfigurationError(f"{column.label} has missing values; list it in missing, or fill them in")
    if len(column.cells) < FEWEST_ROWS:
        raise ConfigurationError(
            f"{column.label} has fewer than {FEWEST_ROWS} values, too few to learn from; state what is allowed yourself"
        )


def _categories(column: TableColumn) -> list[Any]:
    """What stands in a column, sorted, as scikit-learn's OrdinalEncoder numbers it."""
    cells = column.cells.tolist()
    if not all(isinstance(cell, str) for cell in cells) and not all(map(is_real, cells)):
        raise ConfigurationError(f"{column.label} must hold either texts or numbers, to be learnt as categories")
    counts = Counter(cells)
    if len(counts) > MOST_CATEGORIES:
        raise ConfigurationError(
            f"{column.label} has more than {MOST_CATEGORIES} categories; list those that are allowed"
        )
    if min(counts.values()) < LEFT_OUT:
        # Left out, it would shift the index of all that follow.
        raise ConfigurationError(
            f"{column.label} has a category with fewer than {LEFT_OUT} rows, and to accept it would tell that it is in "
            "the data; list those that are allowed, as categories={column: [...]}"
        )
    return sorted(counts)


def _bounds(column: TableColumn, margin: float, quantiles: tuple[float, float], dtype: np.dtype[Any]) -> Bounds:
    """The quantiles of a column, moved outwards by the margin and rounded outwards, as far as the dtype reaches."""
    numbers = np.sort(column.numbers())
    lowest, highest = _usual(numbers, quantiles)
    distance = min(highest - lowest, sys.float_info.max) or max(abs(lowest), 1.0)  # where there is one value only
    low = _rounded(lowest - margin * distance, distance, math.floor)
    high = _rounded(highest + margin * distance, distance, math.ceil)
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return max(low, -largest), min(high, largest)
    limits = np.iinfo(dtype)
    least, most = float(limits.min), float(limits.max)  # of 64 bits it is rounded up, by 1
    if not np.all((numbers == np.trunc(numbers)) & (numbers >= least) & (numbers <= most)):
        raise ConfigurationError(f"{column.label} holds numbers that a {dtype} cannot hold; choose another dtype")
    return math.floor(max(low, least)), min(math.ceil(min(high, most)), int(limits.max))


def _usual(numbers: NDArray[np.float64], quantiles: tuple[float, float]) -> Bounds:
    """The values of sorted numbers that stand at the quantiles, and never among the outermost.

    Values, not numbers between two of them: one of the two could be an outermost.
    """
    last = len(numbers) - 1
    below, above = (max(LEFT_OUT, math.ceil(share * len(numbers))) for share in (quantiles[0], 1 - quantiles[1]))
    lowest, highest = numbers[min(below, last // 2)].item(), numbers[max(last - above, last // 2)].item()
    if lowest == highest:  # nearly all are the same: look further out
        lowest, highest = numbers[LEFT_OUT].item(), numbers[last - LEFT_OUT].item()
    return lowest, highest


def _rounded(bound: float, distance: float, outwards: Callable[[float], int]) -> float:
    """A bound with two digits of the distance, so that no digit of a value shows in it."""
    if not math.isfinite(bound):
        return bound
    digits = 1 - math.floor(math.log10(distance))
    step = max(10.0**-digits, sys.float_info.min)
    return round(outwards(bound / step) * step, digits)
