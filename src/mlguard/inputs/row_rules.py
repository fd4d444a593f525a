"""The rules of numeric rows: how many, how wide, and which numbers.

One implementation for every way in: the body that :class:`~mlguard.Features` reads, and the pydantic types.
"""

import math
import unicodedata
from collections.abc import Iterable, Sequence, Sized
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mlguard.errors import ConfigurationError, InvalidInputError
from mlguard.inputs.tensor_shape import check_shape, flat_bound, flatten

Rows = NDArray[np.floating[Any]]

#: What the caller is told about each rule. Neither a value nor a name that is the service's own may stand here.
_BROKEN = {
    "json": "The body is not JSON encoded as UTF-8",
    "trailing": "The body goes on after its JSON value",
    "depth": "The body is nested too deeply",
    "duplicate": "An object in the body names a member twice",
    "object": "The body is not a JSON object",
    "field": "An object must hold the members that are expected, and no others",
    "array": "An array is expected",
    "empty": "An array is empty",
    "rows": "There are too many rows",
    "columns": "A row does not hold the expected number of values",
    "nested": "An array or object stands where a number is expected",
    "number": "A value is not a number",
    "finite": "A number is not finite",
    "range": "A number is out of range",
    "record": "An object with one value for each column is expected",
    "names": "The columns are not named as expected, each of them once",
    "index": "The index does not have one entry for each row",
    "shape": "The shape is not that of the rows, or not that of the data",
    "datatype": "A datatype is not one that is read, or cannot hold a value",
    "binary": "Data outside the JSON document is not read",
    "npy": "The body is not a .npy file",
    "length": "The data is shorter or longer than its header says",
    "csv": "The body is not CSV encoded as UTF-8",
    "header": "The first line must name the columns",
}

_MANY = 4096  # numbers from which their extremes are found faster than each is compared
_PLAIN_NUMBERS = frozenset({float, int})


def broken(rule: str, row: int | None = None, column: int | None = None) -> InvalidInputError:
    """The refusal for one broken rule, with the place where it is known, counted from 0."""
    place: dict[str, Any] = {name: index for name, index in (("row", row), ("column", column)) if index is not None}
    where = ", ".join(f"{name} {index}" for name, index in place.items())
    return InvalidInputError(
        f"input rule {rule!r} is broken" + (f" at {where}" if where else ""),
        detail=_BROKEN[rule] + (f" ({where}, counted from 0)." if where else "."),
        broken=rule,
        **place,
    )


class RowRules:
    """What rows of features must be, so that a model can take them.

    Args:
        columns: The number of columns, or their names. None where there is a shape.
        low: The smallest value allowed, one number or one per column.
        high: The largest value allowed, one number or one per column.
        max_rows: How many rows are allowed.
        dtype: ``float64`` or ``float32``.
        shape: The shape of one row, where rows are tensors. Their values are the columns, in C order.

    Raises:
        ConfigurationError: A rule that cannot work.
    """

    def __init__(
        self,
        *,
        columns: int | Sequence[str] | None,
        low: ArrayLike,
        high: ArrayLike,
        max_rows: int,
        dtype: DTypeLike,
        shape: Sequence[int] | None = None,
    ) -> None:
        if shape is None:
            self.names, self.columns = _columns(columns)
            self.shape: tuple[int, ...] = (self.columns,)
        else:
            if columns is not None:
                raise ConfigurationError("columns and shape exclude each other: a shape says how many values a row has")
            self.names, self.shape = None, check_shape(shape)
            self.columns = math.prod(self.shape)
            low, high = flat_bound(low, self.shape), flat_bound(high, self.shape)
        self.max_rows = _positive("max_rows", max_rows)
        self.dtype = _dtype(dtype)
        lows = _bound("low", low, self.columns, self.dtype)
        highs = _bound("high", high, self.columns, self.dtype)
        if np.any(lows > highs):
            raise ConfigurationError("low must not be above high, in any column; swap the two bounds")
        self.example: list[float] = np.clip(lows / 2 + highs / 2, lows, highs).tolist()
        # Comparing with one number is twice as fast as with one per column.
        self._low: float | Rows = float(lows[0]) if np.all(lows == lows[0]) else lows
        self._high: float | Rows = float(highs[0]) if np.all(highs == highs[0]) else highs

    def judge(self, values: NDArray[Any]) -> Rows:
        """The same values in the dtype asked for, when there are not too many, and each is finite and in range.

        Args:
            values: Shape ``(rows, columns)``, any real dtype.

        Returns:
            Shape ``(rows, columns)``, or ``(rows, *shape)``.

        Raises:
            InvalidInputError: There are too many rows, or a number is not finite or out of range (422).
        """
        self._check_count(values)
        values = values.astype(np.float64, copy=False)
        if not self._are_within(values):
            self._refuse_first(values)
        # The bounds are finite in this dtype, so these values are too.
        values = values.astype(self.dtype, copy=False)
        return values if len(self.shape) == 1 else values.reshape(-1, *self.shape)

    def _are_within(self, values: NDArray[np.float64]) -> bool:
        """Whether many numbers are within one range, which their extremes tell faster than a look at each."""
        one_range = isinstance(self._low, float) and isinstance(self._high, float)
        return bool(one_range and values.size > _MANY and values.min() >= self._low and values.max() <= self._high)

    def _refuse_first(self, values: NDArray[np.float64]) -> None:
        fits = (values >= self._low) & (values <= self._high)  # NaN is never within bounds
        if np.count_nonzero(fits) != values.size:
            row, column = divmod(int(np.argmin(fits)), self.columns)
            with np.errstate(over="ignore"):
                finite = np.isfinite(self.dtype.type(values[row, column]))
            raise broken("range" if finite else "finite", row, column)

    def matrix(self, rows: object) -> Rows:
        """Python lists of numbers as an array: shape before numbers, each in reading order.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        if not isinstance(rows, list | tuple):
            raise broken("array")
        if not rows:
            raise broken("empty")
        self._check_count(rows)
        if len(self.shape) > 1:
            rows = [self._flat(index, row) for index, row in enumerate(rows)]
        for index, row in enumerate(rows):
            self._check_row(index, row)
        try:
            values = np.array(rows, dtype=np.float64)
        except OverflowError:  # an int beyond every double
            values = np.array([[_double(value) for value in row] for row in rows], dtype=np.float64)
        return self.judge(values)

    def _check_count(self, rows: Sized) -> None:
        if len(rows) > self.max_rows:
            raise broken("rows")

    def _flat(self, index: int, row: object) -> list[Any]:
        cells = flatten(row, self.shape)
        if isinstance(cells, str):
            raise broken(cells, index)
        return cells

    def _check_row(self, index: int, row: object) -> None:
        if not isinstance(row, list | tuple):
            raise broken("array", index)
        if not row:
            raise broken("empty", index)
        if len(row) != self.columns:
            raise broken("columns", index)
        if _PLAIN_NUMBERS.issuperset(map(type, row)):
            return
        for column, value in enumerate(row):
            if isinstance(value, list | tuple | dict):
                raise broken("nested", index, column)
            if isinstance(value, bool) or not isinstance(value, float | int):
                raise broken("number", index, column)

    def row_schema(self) -> dict[str, Any]:
        """The JSON schema of one row."""
        number: dict[str, Any] = {"type": "number"}
        if isinstance(self._low, float):
            number["minimum"] = self._low
        if isinstance(self._high, float):
            number["maximum"] = self._high
        schema = number
        for size in reversed(self.shape):
            schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
        return schema

    def rows_schema(self) -> dict[str, Any]:
        """The JSON schema of an array of rows."""
        return {"type": "array", "items": self.row_schema(), "minItems": 1, "maxItems": self.max_rows}


def _double(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf")


# Configuration ------------------------------------------------------------------------------------------------------


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


def _columns(columns: object) -> tuple[tuple[str, ...] | None, int]:
    if isinstance(columns, int):
        return None, _positive("columns", columns)
    # An iterable, because the names often come as numpy or pandas objects: ``model.feature_names_in_``.
    names = tuple(columns) if isinstance(columns, Iterable) and not isinstance(columns, str) else ()
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ConfigurationError("columns must be a positive number, or the names of the columns, each one once")
    return tuple(map(str, names)), len(names)


def _positive(setting: str, number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigurationError(f"{setting} must be a whole number of at least 1")
    return number


def _dtype(dtype: Any) -> np.dtype[Any]:
    try:
        wanted: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    if dtype is None or wanted not in {np.dtype(np.float64), np.dtype(np.float32)}:
        raise ConfigurationError("dtype must be numpy.float64 or numpy.float32")
    return wanted


def _bound(setting: str, bound: ArrayLike, columns: int, dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """One bound per column. Each must be finite as the dtype has it, so that no value within them overflows."""
    cells = np.asarray(bound, dtype=object)
    if cells.shape not in {(), (columns,)}:
        raise ConfigurationError(f"{setting} must be one number, or one for each of the {columns} columns")
    numbers = [np.nan if isinstance(cell, bool) or not isinstance(cell, Real) else _double(cell) for cell in cells.flat]
    with np.errstate(over="ignore"):
        if not np.isfinite(np.array(numbers, dtype=np.float64).astype(dtype)).all():
            raise ConfigurationError(f"{setting} must be made of finite numbers that a {dtype} can hold")
    bounds = np.empty(columns)
    bounds[:] = numbers
    bounds.flags.writeable = False
    return bounds
