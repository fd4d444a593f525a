"""Columns of the data that a model was trained on: arrays, lists of rows, and data frames, none of them imported."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlguard.errors import ConfigurationError
from mlguard.inputs.row_settings import as_double, is_real


class TableColumn(NamedTuple):
    """One column.

    Attributes:
        label: What it is called in errors.
        cells: Its values, without those that are missing.
        missing: How many are missing: NaN, None, or what the data frame takes for missing.
    """

    label: str
    cells: NDArray[Any]
    missing: int

    def numbers(self) -> NDArray[np.float64]:
        """Its values as finite numbers, in which a boolean is 0 or 1.

        Raises:
            ConfigurationError: Something else is there.
        """
        if self.cells.dtype.kind in "biuf":
            numbers = self.cells.astype(np.float64)
        elif self.cells.dtype == object and all(is_real(cell) or isinstance(cell, bool) for cell in self.cells):
            numbers = np.array([as_double(cell) for cell in self.cells], dtype=np.float64)
        else:
            raise ConfigurationError(f"{self.label} holds what is no number; list it in categories if that is meant")
        if not np.isfinite(numbers).all():
            raise ConfigurationError(f"{self.label} holds an infinity; take it out of the data")
        return numbers


def read_table(data: Any) -> tuple[tuple[str, ...] | None, list[TableColumn]]:
    """The names of the columns, if they have any, and the columns.

    Args:
        data: A data frame of pandas, polars or the like: something with ``columns`` that gives each by its name. Or an
            array, or a list of rows, of shape ``(rows, columns)``.

    Raises:
        ConfigurationError: It is something else, or its columns cannot be told apart.
    """
    if hasattr(data, "columns"):
        keys = [*data.columns]
        named = all(isinstance(key, str) and key for key in keys)
        if len(set(keys)) != len(keys) or (not named and any(isinstance(key, str) for key in keys)):
            raise ConfigurationError("the columns of the data must have different names, all of them texts or none")
        series = [data[key] for key in keys]
        names = tuple(map(str, keys)) if named and keys else None
    else:
        series, names = [*_array(data).T], None
    labels = [f"column {name!r}" for name in names] if names else [f"column {index}" for index in range(len(series))]
    return names, [_column(label, values) for label, values in zip(labels, series, strict=True)]


def _array(data: Any) -> NDArray[Any]:
    try:  # as objects, or numpy would make texts of numbers that stand beside texts
        array = data if isinstance(data, np.ndarray) else np.array(data, dtype=object)
    except ValueError:
        array = np.empty(0)
    if array.ndim != 2:
        raise ConfigurationError("the data must be a data frame, or an array or list of rows that are equally long")
    return array


def _column(label: str, values: Any) -> TableColumn:
    is_missing = getattr(values, "isna", None)  # pandas has values of its own for what is missing
    cells = np.asarray(values)
    if is_missing is not None:
        missing = np.asarray(is_missing(), dtype=bool)
    elif cells.dtype.kind == "f":
        missing = np.isnan(cells)
    elif cells.dtype == object:
        missing = np.array([cell is None or (isinstance(cell, float) and np.isnan(cell)) for cell in cells], dtype=bool)
    else:
        missing = np.zeros(len(cells), dtype=bool)
    return TableColumn(label, cells[~missing], int(np.count_nonzero(missing)))
