"""Whatever an endpoint may return, as plain data in which every float is rounded."""

import copy
import dataclasses
import math
from collections.abc import Callable
from decimal import Context, Decimal
from enum import Enum
from functools import partial
from operator import is_
from typing import Any

import numpy as np
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel

from mlguard.errors import UnsafeOutputError
from mlguard.outputs.rounding import FloatArray, round_float, round_floats

#: How the answer as a whole is called in errors; a field of it is called by its name.
ANSWER = "the answer"

# orjson writes these as they are. None of them is a subclass that could hide a float, such as an Enum.
_AS_IS = {str, int, bool, type(None), np.datetime64}
_ITEMS = _AS_IS | {float}


def plain(value: Any, decimals: int) -> Any:
    """One step towards plain data: the dict that a model or dataclass stands for, the value of an Enum.

    Raises:
        UnsafeOutputError: It stands for nothing that JSON has (500).
    """
    if type(value) in _ITEMS or isinstance(value, dict | list | tuple | np.ndarray):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic) and not isinstance(value, np.complexfloating):
        return float(value) if isinstance(value, np.floating) else value.item()
    try:
        return jsonable_encoder(value, custom_encoder={BaseModel: partial(_dump, decimals=decimals), np.ndarray: _keep})
    except UnsafeOutputError:
        raise
    except Exception as error:
        raise UnsafeOutputError(f"a {type(value).__name__} cannot be written as JSON") from error


def _dump(model: BaseModel, decimals: int) -> Any:
    return settle(model, decimals).model_dump(mode="json", by_alias=True)


def _keep(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array


def round_answer(value: Any, decimals: int, where: str) -> Any:
    """A copy of plain data, arrays, models and what they hold, with every float rounded.

    Args:
        value: What to round.
        decimals: How many decimals stay.
        where: What it is called in an error.

    Raises:
        UnsafeOutputError: It holds NaN or an infinity, or something that JSON does not have (500).
    """
    if type(value) in _AS_IS:
        return value
    if isinstance(value, float | np.floating):
        return round_float(_finite_float(float(value), where), decimals)
    if isinstance(value, dict):
        return round_fields(value, decimals, where, lambda _, item: round_answer(item, decimals, where))
    if isinstance(value, list | tuple):
        return _round_items(value, decimals, where)
    if isinstance(value, np.ndarray):
        return _round_array(value, decimals, where)
    if isinstance(value, str | int) and not isinstance(value, Enum):
        return value
    return round_answer(plain(value, decimals), decimals, where)


def round_fields(
    fields: dict[Any, Any], decimals: int, where: str, truncate: Callable[[Any, Any], Any]
) -> dict[Any, Any]:
    """The fields of a dict, each truncated by ``truncate(key, value)``. Keys are data too, so they are rounded."""
    rounded = {}
    for field, value in fields.items():
        key = field if type(field) is str else _round_key(field, decimals)
        rounded[key] = truncate(key, value)
    if len(rounded) < len(fields):
        raise UnsafeOutputError(f"{where} has keys that are the same once they are rounded")
    return rounded


def _round_key(key: Any, decimals: int) -> Any:
    rounded = round_answer(key, decimals, "a key of the answer")
    if rounded is not None and not isinstance(rounded, str | int | float):
        raise UnsafeOutputError("a key of the answer is neither text nor a number")
    return rounded


def _round_items(items: list[Any] | tuple[Any, ...], decimals: int, where: str) -> list[Any] | tuple[Any, ...]:
    types = set(map(type, items))
    if types <= _AS_IS:
        return items
    if types == {float}:
        rounded: list[Any] = round_floats(finite(np.array(items), where), decimals).tolist()
        return rounded
    return [round_answer(item, decimals, where) for item in items]


def _round_array(array: np.ndarray[Any, Any], decimals: int, where: str) -> Any:
    kind = array.dtype.kind
    if isinstance(array, np.ma.MaskedArray):
        raise UnsafeOutputError(f"{where} is a masked array: send what may be seen of it")
    if array.ndim and kind == "f":
        return round_floats(finite(as_float64(array), where), decimals)
    if array.ndim and kind in "biuM":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))  # all that orjson takes
    return round_answer(array.tolist(), decimals, where)


def as_float64(array: np.ndarray[Any, Any]) -> FloatArray:
    """The array as C-contiguous native float64. What does not fit becomes an infinity."""
    if array.dtype == np.float64:  # the usual one, without the cost of errstate
        return np.ascontiguousarray(array, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float64)


def finite(array: FloatArray, where: str) -> FloatArray:
    """The array, if it holds nothing but finite numbers.

    Raises:
        UnsafeOutputError: It holds NaN or an infinity, which JSON does not have (500).
    """
    if not np.isfinite(array).all():
        raise UnsafeOutputError(f"{where} holds NaN or an infinity")
    return array


def _finite_float(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise UnsafeOutputError(f"{where} holds NaN or an infinity")
    return value


# For pydantic --------------------------------------------------------------------------------------------------------


def without_arrays(value: Any) -> Any:
    """A copy of plain data in which arrays are lists, which is what response models are declared with."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {key: without_arrays(item) for key, item in value.items()}
    if isinstance(value, list) and not set(map(type, value)) <= _ITEMS:
        return [without_arrays(item) for item in value]
    return value


def settle(value: Any, decimals: int) -> Any:
    """What pydantic can dump without hiding anything from ``round_answer``.

    In JSON, pydantic writes a ``Decimal`` and a float that is a key as text of all their digits, and an infinity under
    ``Any`` as null. So they are rounded, and refused, before.

    Args:
        value: A validated value. It is not changed; what must differ is copied.
        decimals: How many decimals stay.

    Raises:
        UnsafeOutputError: It holds NaN or an infinity (500).
    """
    if isinstance(value, float):
        return _finite_float(value, ANSWER)
    if isinstance(value, Decimal):
        return _round_decimal(value, decimals)
    if isinstance(value, np.ndarray):
        return finite(value, ANSWER) if value.dtype.kind == "f" else value
    if isinstance(value, dict):
        return _settle_dict(value, decimals)
    if isinstance(value, list | tuple | set | frozenset):
        return _settle_items(value, decimals)
    if isinstance(value, BaseModel):
        return _settle_fields(value, [*vars(value), "__pydantic_extra__"], decimals)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _settle_fields(value, [field.name for field in dataclasses.fields(value)], decimals)
    return value


def _settle_fields(value: Any, names: list[str], decimals: int) -> Any:
    before = {name: getattr(value, name) for name in names}
    after = {name: settle(item, decimals) for name, item in before.items()}
    changed = [name for name in names if after[name] is not before[name]]
    if changed:
        value = copy.copy(value)
        for name in changed:
            object.__setattr__(value, name, after[name])  # frozen ones too; and it must not count as set by the user
    return value


def _settle_dict(value: dict[Any, Any], decimals: int) -> dict[Any, Any]:
    if set(map(type, value)) == {str}:
        settled = {key: settle(item, decimals) for key, item in value.items()}
    else:
        settled = round_fields(value, decimals, ANSWER, lambda _, item: settle(item, decimals))
    return settled


def _settle_items(items: Any, decimals: int) -> Any:
    types = set(map(type, items))
    if types <= _ITEMS:
        if not all(map(math.isfinite, (item for item in items if type(item) is float))):
            raise UnsafeOutputError(f"{ANSWER} holds NaN or an infinity")
        return items
    settled = [settle(item, decimals) for item in items]
    if all(map(is_, settled, items)):
        return items
    return items._make(settled) if hasattr(items, "_make") else type(items)(settled)


def _round_decimal(value: Decimal, decimals: int) -> Decimal:
    if not value.is_finite():
        raise UnsafeOutputError(f"{ANSWER} holds NaN or an infinity")
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent >= -decimals:
        return value
    rounded = value.quantize(Decimal(1).scaleb(-decimals), context=Context(prec=len(digits) + 1))
    return rounded or abs(rounded)
