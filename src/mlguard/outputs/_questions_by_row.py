"""What an endpoint was asked, row by row: a row is the same question alone and in any batch."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from mlguard.errors import UnsafeOutputError
from mlguard.outputs._canonical import NotCanonicalError, canonical, canonical_rows


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
                by_row.append(canonical_rows(value) if type(value) is np.ndarray else [*map(canonical, value)])
            else:
                shared[name] = value
        head = canonical(shared)
    except NotCanonicalError as error:
        raise UnsafeOutputError(f"add_noise cannot tell one input from another: {error}") from error
    if rows > 1 and not by_row:
        raise UnsafeOutputError(
            "add_noise cannot tell which input a row of scores belongs to: take as many rows as the answer has, in "
            "an array of two dimensions such as Features gives, or in a list of lists, texts or models"
        )
    return [head + b"".join(parts) for parts in zip(*by_row, strict=True)] if by_row else [head] * rows


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
    if isinstance(value, float | np.floating) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return (
            type(value)(np.round(value, decimals)) if not isinstance(value, np.ndarray) else np.round(value, decimals)
        )
    if isinstance(value, list | tuple):
        return type(value)([rounded(item, decimals) for item in value])
    if isinstance(value, dict):
        return {key: rounded(item, decimals) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return value.model_copy(update={field: rounded(part, decimals) for field, part in value})
    return value
