"""What people's values are counted as: numbers, categories and bins. What is refused is not repeated."""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mlguard._numbers import is_number
from mlguard.errors import ConfigurationError

MOST_BINS = 10_000

Missing = Literal["refuse", "drop"]
#: The place of each value among some labels; the number of labels for a value that is none of them.
Placing = Callable[[Any], NDArray[np.int64]]


def is_nan(value: Any) -> bool:
    """Whether it is not even equal to itself."""
    return bool(value != value)  # noqa: PLR0124  # NaN is not itself


def is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a number that a float can be."""
    return is_number(value) and -sys.float_info.max <= value <= sys.float_info.max


def numbers_of(values: Any, missing: Missing) -> NDArray[np.float64]:
    """The values as numbers; NaN for those that are missing."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            values = np.ma.filled(values.astype(np.float64), math.nan)
        array = np.asarray(values)
        numbers = array.astype(np.float64) if array.dtype.kind in "biufO" else None
    except (TypeError, ValueError, OverflowError):
        numbers = None
    if numbers is None or numbers.ndim != 1:  # said outside of except: the exception quotes a value
        raise ValueError("the values are not numbers in one dimension")
    if missing == "refuse" and np.isnan(numbers).any():
        raise ValueError('values are missing; missing="drop" leaves them out')
    return numbers


def by_category(categories: Any) -> tuple[list[Any], Placing]:
    labels = list(categories) if isinstance(categories, Sequence) and not isinstance(categories, str | bytes) else []
    try:
        places = {label: place for place, label in enumerate(labels)}
    except TypeError:
        places = {}
    if not 1 <= len(labels) <= MOST_BINS or len(places) != len(labels) or any(map(is_nan, labels)):
        raise ConfigurationError(
            f"PrivateAggregates.histogram(categories=...) is a list of 1 to {MOST_BINS} different values"
        )

    def place(value: Any) -> int:
        try:
            return places.get(value, len(labels))
        except TypeError:  # it cannot be a category
            return len(labels)

    return labels, lambda values: np.fromiter(
        map(place, values.tolist() if isinstance(values, np.ndarray) else values), np.int64
    )


def by_edges(edges: Any) -> tuple[list[Any], Placing]:
    is_list = isinstance(edges, Sequence) and 2 <= len(edges) <= MOST_BINS + 1
    bounds = list(edges) if is_list and all(map(is_finite, edges)) else []
    if not bounds or any(lower >= upper for lower, upper in itertools.pairwise(bounds)):
        raise ConfigurationError(
            f"PrivateAggregates.histogram(edges=...) is a list of 2 to {MOST_BINS + 1} finite numbers that grow"
        )
    labels = list(itertools.pairwise(bounds))

    def place(values: Any) -> NDArray[np.int64]:
        numbers = numbers_of(values, "drop")
        places = np.searchsorted(bounds, numbers, side="right") - 1
        places[numbers == bounds[-1]] = len(labels) - 1
        places[~((numbers >= bounds[0]) & (numbers <= bounds[-1]))] = len(labels)
        return places.astype(np.int64)

    return labels, place
