"""What an endpoint was asked, row by row: a row is the same question alone and in any batch."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
from pydantic import BaseModel

from mlguard.errors import UnsafeOutputError
from mlguard.outputs._canonical import NotCanonicalError, canonical, canonical_rows, members
from mlguard.outputs.digits import Decimals
from mlguard.outputs.rounding import round_float, round_floats

_ONE_SPELLING = {float, str}
_WHOLE = 2**53  # up to here, each whole number is a double


def rows_asked(arguments: Mapping[str, Any]) -> int:
    """How many rows the arguments hold: as many as the longest of those that hold rows, at least one."""
    return max([1, *(len(value) for _, value in _parts(arguments) if _holds_rows(value))])


def questions(arguments: Mapping[str, Any], rows: int) -> list[bytes]:
    """What was asked in each row.

    Args:
        arguments: Of the endpoint, those that the answer depends on. Arrays of two or more dimensions and lists of
            lists, texts or models hold rows, also as a field of a pydantic model. Anything else is for all rows.
        rows: How many rows the answer has.

    Raises:
        UnsafeOutputError: It cannot be told which part of the arguments a row of the answer belongs to (500).
    """
    shared: dict[str, Any] = {}
    by_row: list[list[bytes]] = []
    try:
        for name, value in _parts(arguments):
            if _holds_rows(value) and len(value) == rows:
                by_row.append([canonical(name)] * rows)
                by_row.append(
                    canonical_rows(value) if type(value) is np.ndarray else [canonical(_meant(row)) for row in value]
                )
            else:
                shared[name] = _meant(value)
        head = canonical(shared)
    except NotCanonicalError as error:
        raise UnsafeOutputError(f"add_noise cannot tell one input from another: {error}") from error
    if rows > 1 and not by_row:
        raise UnsafeOutputError(
            "add_noise cannot tell which input a row of scores belongs to: take as many rows as the answer has, in "
            "an array of two dimensions such as Features gives, or in a list of lists, texts or models"
        )
    return [head + b"".join(parts) for parts in zip(*by_row, strict=True)] if by_row else [head] * rows


def _meant(value: Any) -> Any:
    """What a model sees of an argument: a caller must not choose among many spellings of one input.

    1, 1.0 and true are one number, and so are ``"1.0"`` and ``"1.00"`` where they are read as fractions. A field that
    was left out is one that was sent with its default.
    """
    kind = type(value)
    if kind in {int, bool}:
        return float(value) if abs(value) <= _WHOLE else value
    if kind is Decimal:
        return float(value) if value.is_finite() else value
    if kind in {list, tuple}:
        return value if set(map(type, value)) <= _ONE_SPELLING else [*map(_meant, value)]
    if kind is dict:
        return {key: _meant(item) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return [_name(kind), _meant(dict(value)), _meant(value.__pydantic_private__ or {})]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [_name(kind), _meant(members(value))]
    return value


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _parts(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments, and in the place of a pydantic model its fields."""
    for name, value in arguments.items():
        if isinstance(value, BaseModel):
            for field, part in value:
                yield f"{name}.{field}", part
        else:
            yield name, value


def _holds_rows(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim >= 2 or (value.ndim == 1 and value.dtype.kind in "SU")
    return isinstance(value, list | tuple) and not any(isinstance(item, int | float | np.number) for item in value)


def rounded(value: Any, decimals: int) -> Any:
    """A copy of an argument with every float rounded: what it is for all of its neighbours."""
    if isinstance(value, float | np.floating):
        return type(value)(round_float(float(value), decimals))
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.asarray(round_floats(np.asarray(value, np.float64), decimals)).astype(value.dtype)
    if isinstance(value, Decimal) and value.is_finite():
        return Decimal(Decimals(decimals).text(value))
    if isinstance(value, tuple) and hasattr(value, "_make"):  # a NamedTuple takes its fields one by one
        return value._make([rounded(item, decimals) for item in value])
    if isinstance(value, list | tuple):
        return type(value)([rounded(item, decimals) for item in value])
    if isinstance(value, dict):
        return {key: rounded(item, decimals) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return value.model_copy(update={field: rounded(part, decimals) for field, part in value})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        same = copy.copy(value)
        for name, part in members(value).items():
            object.__setattr__(same, name, rounded(part, decimals))
        return same
    return value
