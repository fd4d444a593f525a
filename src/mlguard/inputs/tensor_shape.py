"""Rows that are tensors: a fixed shape below the rows, such as ``(28, 28)``, and lists nested to it."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from mlguard.errors import ConfigurationError

_MOST_DIMENSIONS = 31  # numpy 1.26 has no more than 32, and one is the rows


class _Sized(Protocol):
    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


def check_shape(shape: object) -> tuple[int, ...]:
    """A shape of at least one dimension, none of them empty.

    Raises:
        ConfigurationError: It is no such shape.
    """
    sizes = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, str | bytes) else ()
    whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) and size >= 1 for size in sizes)
    if not 1 <= len(sizes) <= _MOST_DIMENSIONS or not whole:
        raise ConfigurationError("shape must be a sequence of whole numbers of at least 1, such as (28, 28)")
    return tuple(map(int, sizes))


def flat_bound(bound: ArrayLike, shape: tuple[int, ...]) -> Any:
    """A bound that has the shape, as one number per value of a row; any other as it is."""
    cells = np.asarray(bound, dtype=object)
    return cells.reshape(-1) if cells.shape == shape else bound


def flatten(row: object, shape: Sequence[int]) -> list[Any] | str:
    """The values of one nested row in reading order, or the name of the rule that its form breaks."""
    level: list[Any] = [row]
    for size in shape:
        for part in level:
            if not isinstance(part, list | tuple):
                return "array"
            if len(part) != size:
                return "columns" if part else "empty"
        level = [cell for part in level for cell in part]
    return level


def nest(cells: list[Any], shape: Sequence[int]) -> list[Any]:
    """Rows of the shape, from all their values in reading order."""
    for size in reversed(shape):
        cells = [cells[at : at + size] for at in range(0, len(cells), size)]
    return cells


def arrays_per_row(shape: Sequence[int]) -> int:
    """How many lists make one row of the shape, all levels together."""
    return sum(math.prod(shape[:depth]) for depth in range(len(shape)))


def is_nested(found: _Sized, shape: Sequence[int]) -> bool:
    """Whether something that has only numbers and lists in it is nested to the shape, down to the lengths of the lists.

    Raises:
        TypeError: A number stands where a list would have to be.
    """
    if len(shape) == 1:
        return len(found) == shape[0]
    if len(shape) == 2:
        return list(map(len, found)) == [shape[1]] * shape[0]
    return len(found) == shape[0] and all(is_nested(part, shape[1:]) for part in found)
