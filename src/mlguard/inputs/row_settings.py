"""The settings of row rules, checked when they are built and brought into the form that judging needs."""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mlguard._numbers import whole
from mlguard.errors import ConfigurationError

#: Columns by name or by index, counted from 0.
Column = str | int
Columns = Iterable[Column] | Literal[True]
Categories = Mapping[Any, Iterable[str | float]]  # by Column; Any, because a mapping's keys are invariant
OutOfRange = Literal["reject", "clip"]

_FLOATS = ("float64", "float32")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")


class Allowed(NamedTuple):
    """What one categorical column takes.

    Attributes:
        values: As they were given: all texts, or all numbers.
        codes: The number that the model gets for each text, or None where numbers stay as they are.
        numbers: All numbers that the model may get.
        in_order: The same, sorted.
    """

    values: tuple[str, ...] | tuple[float, ...]
    codes: dict[str, int] | None
    numbers: frozenset[float]
    in_order: NDArray[Any]


def check_columns(columns: object) -> tuple[tuple[str, ...] | None, int]:
    """The names of the columns, if there are any, and their number."""
    if isinstance(columns, int):
        return None, whole("columns", columns, least=1)
    # An iterable, because the names often come as numpy or pandas objects: ``model.feature_names_in_``.
    names = tuple(columns) if isinstance(columns, Iterable) and not isinstance(columns, str) else ()
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ConfigurationError("columns must be a positive number, or the names of the columns, each one once")
    return tuple(map(str, names)), len(names)


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """A dtype in which rows can be delivered, in this machine's byte order."""
    try:
        wanted: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):  # whatever numpy makes of a name
        wanted = np.dtype(object)
    if dtype is None or wanted not in {np.dtype(name) for name in (*_FLOATS, *_INTEGERS)}:
        raise ConfigurationError(f"dtype must be numpy.float64, numpy.float32 or one of {', '.join(_INTEGERS)}")
    return wanted


def check_out_of_range(out_of_range: object) -> bool:
    """Whether numbers out of range are clipped."""
    if not isinstance(out_of_range, str) or out_of_range not in {"reject", "clip"}:
        raise ConfigurationError('out_of_range must be "reject" or "clip"')
    return out_of_range == "clip"


def check_flag(setting: str, flag: object) -> bool:
    """True or False."""
    if not isinstance(flag, bool):
        raise ConfigurationError(f"{setting} must be True or False")
    return flag


def check_bound(setting: str, bound: ArrayLike, columns: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """One bound per column: float64, or for an integer dtype the widest integer of its kind.

    Each must be finite as the dtype has it, so that no value within them overflows.
    """
    cells = np.asarray(bound, dtype=object)
    if cells.shape not in {(), (columns,)}:
        raise ConfigurationError(f"{setting} must be one number, or one for each of the {columns} columns")
    numbers = [_as_dtype_holds(cell, dtype) for cell in cells.flat]
    if None in numbers:
        kind = "finite" if dtype.kind == "f" else "whole"
        raise ConfigurationError(f"{setting} must be made of {kind} numbers that a {dtype} can hold")
    bounds = np.empty(columns, dtype=wide(dtype))
    bounds[:] = numbers
    return bounds


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The widest dtype of the same kind, in which values are judged."""
    return np.dtype(f"{dtype.kind}8")


def check_missing(missing: object, names: Sequence[str] | None, columns: int, dtype: np.dtype[Any]) -> frozenset[int]:
    """The columns in which a value may be missing."""
    declared = frozenset(range(columns) if missing is True else column_indices("missing", missing, names, columns))
    if declared and dtype.kind != "f":
        raise ConfigurationError(f"missing needs a floating-point dtype: there is no NaN in {dtype}")
    return declared


def check_categories(
    categories: object, names: Sequence[str] | None, columns: int, dtype: np.dtype[Any]
) -> dict[int, Allowed]:
    """What each categorical column takes, by index."""
    if categories is None:
        return {}
    if not isinstance(categories, Mapping):
        raise ConfigurationError("categories must be a mapping: each categorical column to what it takes")
    indices = column_indices("categories", categories, names, columns)
    return {index: _allowed(values, dtype) for index, values in zip(indices, categories.values(), strict=True)}


def _allowed(values: object, dtype: np.dtype[Any]) -> Allowed:
    # A set has another order in each process, and the order says which number stands for which text.
    given = (
        tuple(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes | Set | Mapping) else ()
    )
    if given and all(isinstance(value, str) for value in given):
        texts = tuple(map(str, given))
        codes = {text: code for code, text in enumerate(texts)}
        if len(codes) == len(texts) and all(map(_is_utf_8, texts)) and _as_dtype_holds(len(texts), dtype):
            return Allowed(texts, codes, frozenset(codes.values()), np.arange(len(texts), dtype=wide(dtype)))
    numbers = [_as_dtype_holds(value, dtype) for value in given]
    if not numbers or None in numbers or len(set(numbers)) != len(numbers):
        raise ConfigurationError(
            f"categories must be, for each column, different texts, or different numbers that a {dtype} can hold"
        )
    allowed: Any = tuple(numbers)  # without None
    return Allowed(allowed, None, frozenset(allowed), np.sort(np.array(allowed, dtype=wide(dtype))))


def _is_utf_8(text: str) -> bool:
    return not any(unicodedata.category(c) == "Cs" for c in text)


def column_indices(setting: str, declared: object, names: Sequence[str] | None, columns: int) -> list[int]:
    """Columns by index. Each may be named once, in one way.

    Raises:
        ConfigurationError: There is no such column, or one comes twice.
    """
    given = list(declared) if isinstance(declared, Iterable) and not isinstance(declared, str) else [None]
    indices = [_index(column, names, columns) for column in given]
    if None in indices or len(set(indices)) != len(indices):
        raise ConfigurationError(
            f"{setting} must name columns that there are, each one once: by name, or by index from 0 to {columns - 1}"
        )
    return indices  # type: ignore[return-value]  # no None


def _index(column: object, names: Sequence[str] | None, columns: int) -> int | None:
    if isinstance(column, str):
        return names.index(column) if names and column in names else None
    if isinstance(column, bool) or not isinstance(column, int | np.integer) or not 0 <= column < columns:
        return None
    return int(column)


def _as_dtype_holds(number: Any, dtype: np.dtype[Any]) -> float | None:
    """A real number, exact for an integer dtype, or None if the dtype cannot hold it."""
    if not is_real(number):
        return None
    if dtype.kind == "f":
        value = as_double(number)
        with np.errstate(over="ignore"):
            return value if np.isfinite(dtype.type(value)) else None
    limits = np.iinfo(dtype)
    try:
        whole = int(number)
    except (ValueError, OverflowError):  # NaN, and infinities
        return None
    return whole if whole == number and limits.min <= whole <= limits.max else None


def is_real(number: object) -> bool:
    """Whether it is a real number, and no boolean."""
    return isinstance(number, Real) and not isinstance(number, bool)


def as_double(number: Any) -> float:
    """The nearest double, which is infinite beyond the largest."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def check_field(field: object) -> str:
    """The member of the body that holds the rows, if it can be one.

    Raises:
        ConfigurationError: The name is empty, or holds what a name may not.
    """
    # One "[" in the name would be counted as an array, see json_rows. The rest has no place in a name.
    if (
        not isinstance(field, str)
        or not field
        or any(c in "[]," or unicodedata.category(c) in {"Cc", "Cs"} for c in field)
    ):
        raise ConfigurationError("field must be a non-empty name without brackets, commas and control characters")
    return field
