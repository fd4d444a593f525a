"""The rules of numeric rows: how many, how wide, and which numbers.

One implementation for every way in: the body that :class:`~mlguard.Features` reads, and the pydantic types.

Arrays of doubles are judged as they are, and everything else is made doubles first; for an integer dtype, whole numbers
are judged as whole numbers, so that no digit is lost. :meth:`RowRules.fault` says the same of a single number in plain
Python. It names the rule that is broken, and judges what does not fit into an array.
"""

import math
from collections.abc import Collection, Sequence, Sized
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mlguard._numbers import whole
from mlguard.errors import ConfigurationError
from mlguard.inputs.broken_rules import broken
from mlguard.inputs.row_settings import (
    Categories,
    Columns,
    OutOfRange,
    as_double,
    check_bound,
    check_categories,
    check_columns,
    check_dtype,
    check_flag,
    check_missing,
    check_out_of_range,
)
from mlguard.inputs.tensor_shape import check_shape, flat_bound, flatten
from mlguard.inputs.whole_numbers import EXACT, as_doubles, place

Rows = NDArray[Any]

_MANY = 4096  # numbers from which their extremes are found faster than each is compared
_PLAIN_NUMBERS = frozenset({float, int})


class RowRules:
    """What rows of features must be, so that a model can take them.

    Args:
        columns: The number of columns, or their names. None where there is a shape.
        low: The smallest value allowed, one number or one per column.
        high: The largest value allowed, one number or one per column.
        max_rows: How many rows are allowed.
        dtype: ``float64``, ``float32``, or a signed or unsigned integer.
        shape: The shape of one row, where rows are tensors. Their values are the columns, in C order.
        missing: Columns in which a value may be missing, by name or index, or True for all.
        categories: What categorical columns take, by name or index: texts, or numbers.
        out_of_range: ``"reject"``, or ``"clip"`` to move finite numbers to the nearer bound.
        publish_bounds: Whether the schema may tell bounds, and give an example.

    Attributes:
        columns: The number of columns.
        names: Their names, if they were given.
        shape: The shape of one row.
        low: The smallest value allowed of each column.
        high: The largest value allowed of each column.
        missing: The indices of the columns in which a value may be missing.
        categories: What each categorical column takes, by index.
        clips: Whether numbers out of range are clipped.
        publishes_bounds: Whether the schema may tell bounds.

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
        missing: Columns = (),
        categories: Categories | None = None,
        out_of_range: OutOfRange = "reject",
        publish_bounds: bool = True,
    ) -> None:
        if shape is None:
            self.names, self.columns = check_columns(columns)
            self.shape: tuple[int, ...] = (self.columns,)
        else:
            if columns is not None:
                raise ConfigurationError("columns and shape exclude each other: a shape says how many values a row has")
            self.names, self.shape = None, check_shape(shape)
            self.columns = math.prod(self.shape)
            low, high = flat_bound(low, self.shape), flat_bound(high, self.shape)
        self.max_rows = whole("max_rows", max_rows, least=1)
        self.dtype = check_dtype(dtype)
        self.missing = check_missing(missing, self.names, self.columns, self.dtype)
        self.categories = check_categories(categories, self.names, self.columns, self.dtype)
        self.clips = check_out_of_range(out_of_range)
        self.publishes_bounds = check_flag("publish_bounds", publish_bounds)
        self.low = check_bound("low", low, self.columns, self.dtype)
        self.high = check_bound("high", high, self.columns, self.dtype)
        if np.any(self.low > self.high):
            raise ConfigurationError("low must not be above high, in any column; swap the two bounds")
        self._whole = self.dtype.kind != "f"
        self._codes = {index: allowed.codes for index, allowed in self.categories.items() if allowed.codes is not None}
        self._may_miss = np.isin(np.arange(self.columns), [*self.missing])
        lows, highs = self._effective_bounds()
        self._limits = [*zip(lows.tolist(), highs.tolist(), strict=True)]  # in Python, which compares exactly
        # Comparing with one number is twice as fast as with one per column.
        self._low = lows[0].item() if np.all(lows == lows[0]) else lows
        self._high = highs[0].item() if np.all(highs == highs[0]) else highs

    def _effective_bounds(self) -> tuple[Rows, Rows]:
        """The bounds, where categorical columns have none."""
        lows, highs = self.low.copy(), self.high.copy()
        if self.categories:
            categorical = [*self.categories]
            limits = np.iinfo(lows.dtype) if self._whole else None
            lows[categorical] = limits.min if limits else -math.inf
            highs[categorical] = limits.max if limits else math.inf
        return lows, highs

    @property
    def text_columns(self) -> Collection[int]:
        """The columns that take texts, so that an array of numbers cannot hold their values."""
        return self._codes.keys()

    # Arrays ---------------------------------------------------------------------------------------------------------

    def judge(self, values: NDArray[Any]) -> Rows:
        """The same numbers in the dtype asked for, when there are not too many and each obeys the rules.

        Each is made a double first, the nearest one, but for an integer dtype whole numbers stay whole numbers. NaN is
        a missing value where one may be missing. A column that takes texts refuses all numbers.

        Args:
            values: Shape ``(rows, columns)``, of any real dtype: floating-point or integers, in any byte order.

        Returns:
            A C-contiguous, writable array, of shape ``(rows, *shape)`` where rows are tensors. Where nothing has to be
            changed it is made of ``values`` itself.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        shape = values.shape
        if len(shape) != 2 or shape[1] != self.columns or values.dtype.kind not in "fiu" or self._codes:
            self._refuse_array(values)
        self._check_count(values)
        return self._judge(values)

    def _refuse_array(self, values: NDArray[Any]) -> NoReturn:
        """Name the rule that every array of this kind breaks, as lists of the same would."""
        if values.ndim == 0:
            raise broken("array")
        self._check_count(values)
        if values.ndim == 1:
            raise broken("array", 0)
        if values.shape[1] != self.columns:
            raise broken("columns" if values.shape[1] else "empty", 0)
        if values.ndim > 2:
            raise broken("nested", 0, 0)
        if values.dtype.kind not in "fiu":
            raise broken("category" if 0 in self.categories else "number", 0, 0)
        raise broken("category", 0, min(self._codes))

    def _judge(self, values: NDArray[Any]) -> Rows:
        """Judge numbers, among which texts are their indices."""
        fitting = self._judge_whole(values) if self._whole else self._judge_doubles(as_doubles(values))
        if fitting.dtype != self.dtype:
            with np.errstate(all="ignore"):  # the bounds are finite in this dtype, so these values are too
                fitting = fitting.astype(self.dtype)
        return self._shaped(fitting if fitting.flags.carray else fitting.copy())

    def _shaped(self, rows: Rows) -> Rows:
        return rows if len(self.shape) == 1 else rows.reshape(-1, *self.shape)

    def _are_within(self, values: NDArray[np.float64]) -> bool:
        """Whether many numbers are within one range, which their extremes tell faster than a look at each."""
        one_range = isinstance(self._low, float) and isinstance(self._high, float) and not self.categories
        return bool(one_range and values.size > _MANY and values.min() >= self._low and values.max() <= self._high)

    def _judge_doubles(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._are_within(values):
            return values
        fits = (values >= self._low) & (values <= self._high)  # NaN is never within bounds
        self._mark_categories(values, fits)
        if self.missing:
            fits |= np.isnan(values) & self._may_miss
        if np.count_nonzero(fits) == values.size:
            return values
        if self.clips:
            clipped = self._clippable(~fits & np.isfinite(values))
            values = np.where(clipped, np.where(values < self.low, self.low, self.high), values)
            fits |= clipped
        self._refuse_first(values, fits)
        return values

    def _judge_whole(self, values: NDArray[Any]) -> Rows:
        held, below, above, whole, readable, exact = place(values, self._low, self._high, self.low.dtype)
        fits = ~(below | above) & readable
        self._mark_categories(held, fits)
        if np.count_nonzero(fits) == values.size:
            return held
        if self.clips:
            clipped = self._clippable((below | above) & whole)
            held = np.where(clipped, np.where(below, self.low, self.high), held)
            fits |= clipped
        self._refuse_first(values, fits, exact)
        return held

    def _mark_categories(self, values: NDArray[Any], fits: NDArray[np.bool_]) -> None:
        for column, allowed in self.categories.items():
            cells = values[:, column]
            nearest = allowed.in_order.take(allowed.in_order.searchsorted(cells), mode="clip")
            fits[:, column] &= nearest == cells

    def _clippable(self, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.categories:
            cells[:, [*self.categories]] = False
        return cells

    def _refuse_first(self, values: NDArray[Any], fits: NDArray[np.bool_], exact: int = EXACT) -> None:
        if np.count_nonzero(fits) == values.size:
            return
        row, column = divmod(int(np.argmin(fits)), self.columns)
        value = values[row, column]
        rule = self.fault(float(value) if values.dtype.kind == "f" else int(value), column, exact)
        raise broken(rule or "range", row, column)

    # Single numbers -------------------------------------------------------------------------------------------------

    def fault(self, value: float, column: int, exact: int = EXACT) -> str | None:
        """The rule that one number breaks, if any.

        Args:
            value: A float, or an int of any size.
            column: Where it stands.
            exact: The number below which a whole float cannot have been rounded.
        """
        number = value if self._whole else as_double(value)
        if column in self.missing and _is_nan(number):
            return None
        rounded = self._whole and isinstance(number, float) and abs(number) >= exact
        if column in self.categories:
            return None if not rounded and number in self.categories[column].numbers else "category"
        if not self._is_finite(number):
            return "finite"
        if self._whole and number != int(number):
            return "integer"
        low, high = self._limits[column]
        if not low <= number <= high:
            return "range"
        return "integer" if rounded else None

    def _is_finite(self, number: float) -> bool:
        if self._whole or self.clips:
            return isinstance(number, int) or math.isfinite(number)
        with np.errstate(over="ignore"):
            return math.isfinite(self.dtype.type(number))

    # Python lists ---------------------------------------------------------------------------------------------------

    def matrix(self, rows: object) -> Rows:
        """Python lists as an array: shape before numbers, each in reading order.

        None is a missing value where one may be missing, and a text becomes its index in a column that takes it.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        if not isinstance(rows, list | tuple):
            raise broken("array")
        self._check_count(rows)
        if len(self.shape) > 1:
            rows = [self._flat(index, row) for index, row in enumerate(rows)]
        numbers = [self._numbers(index, row) for index, row in enumerate(rows)]
        try:
            values = np.array(numbers, dtype=np.float64)
        except OverflowError:  # an int beyond every double
            values = np.array([[as_double(value) for value in row] for row in numbers], dtype=np.float64)
        if self._whole and not np.all(np.abs(values) < EXACT):
            return self._judge_one_by_one(numbers)
        return self._judge(values)

    def _judge_one_by_one(self, rows: Sequence[Sequence[float]]) -> Rows:
        """Judge numbers for an integer dtype, of which doubles cannot hold all."""
        judged = np.empty((len(rows), self.columns), self.dtype)
        for row, values in enumerate(rows):
            for column, value in enumerate(values):
                rule = self.fault(value, column)
                if rule == "range" and self.clips:
                    low, high = self._limits[column]
                    judged[row, column] = low if value < low else high
                elif rule is not None:
                    raise broken(rule, row, column)
                else:
                    judged[row, column] = int(value)
        return self._shaped(judged)

    def _check_count(self, rows: Sized) -> None:
        if not 0 < len(rows) <= self.max_rows:
            raise broken("rows" if len(rows) else "empty")

    def _flat(self, index: int, row: object) -> list[Any]:
        cells = flatten(row, self.shape)
        if isinstance(cells, str):
            raise broken(cells, index)
        return cells

    def _numbers(self, index: int, row: object) -> Sequence[float]:
        """A row, with NaN for what is missing, and for each text its index."""
        if not isinstance(row, list | tuple):
            raise broken("array", index)
        if not row:
            raise broken("empty", index)
        if len(row) != self.columns:
            raise broken("columns", index)
        if not self._codes and _PLAIN_NUMBERS.issuperset(map(type, row)):
            return row
        return [
            value if type(value) in _PLAIN_NUMBERS and column not in self._codes else self._number(value, index, column)
            for column, value in enumerate(row)
        ]

    def _number(self, value: object, row: int, column: int) -> float:
        if isinstance(value, list | tuple | dict):
            raise broken("nested", row, column)
        if column in self.missing and (value is None or _is_nan(value)):
            return math.nan
        codes = self._codes.get(column)
        if codes is None:
            number = value if isinstance(value, float | int) and not isinstance(value, bool) else None
        else:
            number = codes.get(value) if isinstance(value, str) else None
        if number is None:
            raise broken("category" if column in self.categories else "number", row, column)
        return number

    # Documentation --------------------------------------------------------------------------------------------------

    @property
    def example(self) -> list[float] | None:
        """A row that is accepted, or None where it would tell a text, or bounds that are not to be told."""
        if self._codes or not self.publishes_bounds:
            return None
        return [
            self.categories[column].in_order[0].item() if column in self.categories else _middle(low, high)
            for column, (low, high) in enumerate(self._limits)
        ]

    def row_schema(self) -> dict[str, Any]:
        """The JSON schema of one row. It tells bounds that all columns share, and no text."""
        kinds = ["integer" if self._whole else "number"] if len(self._codes) < self.columns else []
        kinds += ["string"] * bool(self._codes) + ["null"] * bool(self.missing)
        item: dict[str, Any] = {"type": kinds if len(kinds) > 1 else kinds[0]}
        if self.publishes_bounds and not self.clips and not self.categories:
            if not isinstance(self._low, np.ndarray):
                item["minimum"] = self._low
            if not isinstance(self._high, np.ndarray):
                item["maximum"] = self._high
        schema = item
        for size in reversed(self.shape):
            schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
        return schema

    def rows_schema(self) -> dict[str, Any]:
        """The JSON schema of an array of rows."""
        return {"type": "array", "items": self.row_schema(), "minItems": 1, "maxItems": self.max_rows}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _middle(low: float, high: float) -> float:
    if isinstance(low, int):
        return (low + high) // 2
    return min(max(low / 2 + high / 2, low), high)
