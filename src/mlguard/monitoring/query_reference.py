"""What a model is usually asked: measured on the owner's data, and kept beside the model."""

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlguard._files import open_regular, replace_file
from mlguard._numbers import is_number
from mlguard._strict_json import strict_json
from mlguard.errors import ConfigurationError

Floats = NDArray[np.float64]

#: Sums of evidence, in this order: near-duplicates; margins that are low, and that stand still; distances that are
#: large, and that stand still.
SUMS = 5
QUANTILES = 199  # of a distribution: each step is half a percent
MAX_COLUMNS = 65_536
MAX_CENTRES = 32

_FORMAT = "mlguard query reference 1"
_MAX_FILE = 64 * 1_048_576  # bytes
_LEAST_SCALE = 1e-20
_LEAST_REACH = 1e-7
_LARGEST = 1e30  # of a number in the file: what is counted with it stays finite


@dataclass(frozen=True, eq=False)
class QueryReference:
    """What usual queries look like, for :class:`QueryMonitor`: made by :meth:`QueryMonitor.calibrate`.

    It holds no row of the data: a mean and a spread of each column, up to 32 centres of at least 10 rows each,
    quantiles, and a few numbers. That is no differential privacy. Keep it in the model's folder, so that
    :func:`sign_model` covers it: who can alter it can blind the monitor.

    Attributes:
        centre: Mean of each column, shape ``(columns,)``.
        scale: Spread of each column, shape ``(columns,)``, above 0.
        centres: Of the groups that rows fall into, in units of the spread, shape ``(groups, columns)``.
        distances: Quantiles of the distance of a row to the nearest of them, ascending, shape ``(199,)``.
        margins: Quantiles of the best score less the second, shape ``(199,)``; None: no scores were given.
        output_centre: Of a model with one number as answer, the median of it; None: there are classes, or no scores.
        reach: How far apart two rows are that count as near-duplicates, about, in units of the spread.
        chance: How likely two rows of two honest queries look like near-duplicates.
        limits: What each of the five sums may come to, in nats.
    """

    centre: Floats
    scale: Floats
    centres: Floats
    distances: Floats
    margins: Floats | None
    output_centre: float | None
    reach: float
    chance: float
    limits: tuple[float, ...]

    @property
    def columns(self) -> int:
        """How many numbers a row has."""
        return len(self.centre)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that differ where a reference does: what was counted by another says nothing here."""
        return hashlib.sha256(self._text()).hexdigest()[:16]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a JSON file, in one step.

        Args:
            path: The file. One that is there is replaced, and keeps its mode.

        Raises:
            OSError: It cannot be written. One that was there is as it was.
        """
        replace_file(Path(path), self._text(), new_mode=0o644)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "QueryReference":
        """Read what :meth:`save` has written, the same to the last bit. Nothing in the file is ever run.

        Args:
            path: The file, of at most 64 MiB.

        Raises:
            ConfigurationError: There is no such file, or it holds anything else than a reference.
        """
        try:
            with open_regular(path) as file:
                data = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise ConfigurationError(f"{os.fspath(path)}: no reference can be read ({type(error).__name__})") from None
        try:
            if len(data) > _MAX_FILE:
                raise ValueError("it is too large")
            return _read(strict_json(data))
        except ValueError as error:
            reason = "it is no JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
        raise ConfigurationError(f"{os.fspath(path)} holds no reference of queries: {reason}")

    def __repr__(self) -> str:
        judged = "near-duplicates, distances" if self.margins is None else "near-duplicates, margins, distances"
        return f"QueryReference({self.columns} columns, {judged})"

    def _text(self) -> bytes:
        values = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        }
        return json.dumps({"format": _FORMAT, **values}).encode()


def _read(members: Any) -> QueryReference:
    """The reference that a file's members make.

    Raises:
        ValueError: They make none.
    """
    names = {field.name for field in dataclasses.fields(QueryReference)}
    if not isinstance(members, dict) or members.get("format") != _FORMAT or members.keys() != names | {"format"}:
        raise ValueError("it has other members")
    centre = _numbers("centre", members["centre"])
    columns = len(centre)
    if not 1 <= columns <= MAX_COLUMNS:
        raise ValueError("centre has too few numbers, or too many")
    scale = _numbers("scale", members["scale"], columns, above=_LEAST_SCALE)
    groups = members["centres"]
    if not isinstance(groups, list) or not 1 <= len(groups) <= MAX_CENTRES:
        raise ValueError("centres has too few rows, or too many")
    centres = np.array([_numbers("centres", row, columns) for row in groups])
    margins = None if members["margins"] is None else _quantiles("margins", members["margins"])
    output_centre = None if members["output_centre"] is None else _number("output_centre", members["output_centre"])
    chance = _number("chance", members["chance"])
    if not 0 < chance < 1:
        raise ValueError("chance is no probability")
    limits = _numbers("limits", members["limits"], SUMS, above=0.0)
    return QueryReference(
        centre,
        scale,
        centres,
        _quantiles("distances", members["distances"]),
        margins,
        output_centre,
        float(_numbers("reach", [members["reach"]], 1, above=_LEAST_REACH)[0]),
        chance,
        tuple(limits.tolist()),
    )


def _quantiles(name: str, values: Any) -> Floats:
    numbers = _numbers(name, values, QUANTILES)
    if np.any(np.diff(numbers) < 0):
        raise ValueError(f"{name} does not ascend")
    return numbers


def _numbers(name: str, values: Any, count: int | None = None, *, above: float = -math.inf) -> Floats:
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise ValueError(f"{name} has another length")
    numbers = [_number(name, value) for value in values]
    if any(number <= above for number in numbers):
        raise ValueError(f"{name} is not above {above:g}")
    return np.array(numbers)


def _number(name: str, value: Any) -> float:
    if not is_number(value) or not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"{name} has something else than finite numbers")
    return float(value)
