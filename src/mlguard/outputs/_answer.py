"""Whatever an endpoint may return, as plain data in which no float has more digits than may leave."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from types import GeneratorType, ModuleType
from typing import Any

import numpy as np
from fastapi.encoders import ENCODERS_BY_TYPE, jsonable_encoder
from pydantic import BaseModel

from mlguard.errors import UnsafeOutputError
from mlguard.outputs.digits import AsTheyAre, Digits, finite_text
from mlguard.outputs.rounding import FloatArray

#: How the answer as a whole is called in errors; a field of it is called by its name.
ANSWER = "the answer"

# orjson writes these as they are. None of them is a subclass that could hide a float, such as an Enum.
_AS_IS = {str, int, bool, type(None), np.datetime64}
_ITEMS = _AS_IS | {float}

_COLLECTIONS = (set, frozenset, deque, GeneratorType)
_LEAVES = tuple(kind for kind in ENCODERS_BY_TYPE if kind not in _COLLECTIONS)  # what FastAPI writes as text or number
_METHODS_OF_MODELS = ("fit", "predict", "run")  # of scikit-learn and all that follow it, and of ONNX Runtime


def plain(value: Any, digits: Digits) -> Any:
    """One step towards plain data, as FastAPI goes: the dict that an object stands for, the value of an Enum.

    Raises:
        UnsafeOutputError: It stands for nothing that JSON has, or is the model itself, a class or a function (500).
    """
    if type(value) in _ITEMS or isinstance(value, dict | list | tuple | np.ndarray):
        return value
    if isinstance(value, BaseModel):
        return _dump(value, digits)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        _refuse_inside(value)
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic) and not isinstance(value, np.complexfloating):
        return float(value) if isinstance(value, np.floating) else value.item()
    if isinstance(value, _COLLECTIONS):
        return [*value]
    try:
        if isinstance(value, _LEAVES):
            return jsonable_encoder(value)
        _refuse_inside(value)
        return _members(value)
    except UnsafeOutputError:
        raise
    except Exception as error:
        raise UnsafeOutputError(f"a {type(value).__name__} cannot be written as JSON") from error


def _dump(model: BaseModel, digits: Digits) -> Any:
    try:
        # Without warnings: they repeat what a field holds, and end up in a log.
        exact = model.model_dump(by_alias=True, warnings=False)
        written = model.model_dump(mode="json", by_alias=True, warnings=False)
    except Exception as error:
        raise UnsafeOutputError(f"a {type(model).__name__} cannot be written as JSON") from error
    return reconcile(exact, written, digits)


def _refuse_inside(value: Any) -> None:
    """Refuse what is no data: its attributes are the weights and settings of the model, or the names of the code."""
    methods = (getattr(type(value), name, None) for name in _METHODS_OF_MODELS)  # data may have a field of that name
    if callable(value) or isinstance(value, ModuleType) or any(map(callable, methods)):
        raise UnsafeOutputError(f"{ANSWER} holds a {type(value).__name__}, which is the model or code, and no data")


def _members(value: Any) -> dict[Any, Any]:
    try:
        return dict(value)
    except Exception:
        return {name: member for name, member in vars(value).items() if not name.startswith("_sa")}  # SQLAlchemy's own


def round_answer(value: Any, digits: Digits, where: str) -> Any:
    """A copy of plain data, arrays, models and what they hold, with no more digits of every float than may leave.

    Args:
        value: What to round.
        digits: How many digits stay.
        where: What it is called in an error.

    Raises:
        UnsafeOutputError: It holds NaN or an infinity, or something that JSON does not have (500).
    """
    if type(value) in _AS_IS:
        return value
    if isinstance(value, float | np.floating):
        return digits.number(_finite_float(float(value), where))
    if isinstance(value, dict):
        return round_fields(value, digits, where, lambda _, item: round_answer(item, digits, where))
    if isinstance(value, list | tuple):
        return _round_items(value, digits, where)
    if isinstance(value, np.ndarray):
        return _round_array(value, digits, where)
    if isinstance(value, str | int) and not isinstance(value, Enum):
        return value
    return round_answer(plain(value, digits), digits, where)


def round_fields(
    fields: dict[Any, Any], digits: Digits, where: str, truncate: Callable[[Any, Any], Any]
) -> dict[Any, Any]:
    """The fields of a dict, each truncated by ``truncate(key, value)``. Keys are data too, so they are rounded."""
    rounded = {}
    for field, value in fields.items():
        key = field if type(field) is str else _round_key(field, digits)
        rounded[key] = truncate(key, value)
    if len(rounded) < len(fields) or (
        set(map(type, rounded)) > {str} and len(set(map(json_key, rounded))) < len(rounded)
    ):
        raise UnsafeOutputError(f"{where} has keys that are the same once they are rounded")
    return rounded


def json_key(key: Any) -> str:
    """A key as JSON has it."""
    if key is None:
        return "null"
    return str(key).lower() if isinstance(key, bool) else str(key)


def _round_key(key: Any, digits: Digits) -> Any:
    rounded = round_answer(key, digits, "a key of the answer")
    if rounded is not None and not isinstance(rounded, str | int | float):
        raise UnsafeOutputError("a key of the answer is neither text nor a number")
    return rounded


def _round_items(items: list[Any] | tuple[Any, ...], digits: Digits, where: str) -> list[Any] | tuple[Any, ...]:
    types = set(map(type, items))
    if types <= _AS_IS:
        return items
    if types == {float}:
        rounded: list[Any] = digits.numbers(finite(np.array(items), where)).tolist()
        return rounded
    return [round_answer(item, digits, where) for item in items]


def _round_array(array: np.ndarray[Any, Any], digits: Digits, where: str) -> Any:
    kind = array.dtype.kind
    if isinstance(array, np.ma.MaskedArray):
        raise UnsafeOutputError(f"{where} is a masked array: send what may be seen of it")
    if array.ndim and array.dtype == np.float32 and isinstance(digits, AsTheyAre):  # longer as a double
        finite(array, where)
        return np.ascontiguousarray(array, dtype=np.float32)
    if array.ndim and kind == "f":
        return digits.numbers(finite(as_float64(array), where))
    if array.ndim and kind in "biuM":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))  # all that orjson takes
    return round_answer(array.tolist(), digits, where)


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


def reconcile(exact: Any, written: Any, digits: Digits) -> Any:
    """What pydantic writes as JSON, with the numbers that it hides in text rounded.

    In JSON, pydantic writes a ``Decimal`` and a float that is a key as text of all their digits, and an
    infinity under ``Any`` as null. What a serializer of the developer's own makes of a number stays as it is.

    Args:
        exact: The dump of a value in Python mode.
        written: The dump of the same value in JSON mode.
        digits: How many digits stay of a number in text.

    Raises:
        UnsafeOutputError: It holds NaN, an infinity or a complex number, or something that can be read only once (500).
    """
    if isinstance(exact, dict):
        if not isinstance(written, dict) or len(exact) != len(written):
            return written
        pairs = zip(exact.items(), written.items(), strict=True)
        reconciled = {_reconcile_key(key, name, digits): reconcile(v, w, digits) for (key, v), (name, w) in pairs}
        if len(reconciled) < len(exact):
            raise UnsafeOutputError(f"{ANSWER} has keys that are the same once they are rounded")
        return reconciled
    if isinstance(exact, list | tuple | deque):
        if not isinstance(written, list) or len(exact) != len(written):
            return written
        return [reconcile(value, text, digits) for value, text in zip(exact, written, strict=True)]
    if isinstance(exact, set | frozenset) and isinstance(written, list):  # in no order that could be compared
        numbers = any(map(_holds_fraction, exact))
        return [reconcile(item, _as_written(item), digits) for item in exact] if numbers else written
    return _reconcile_one(exact, written, digits)


def _reconcile_key(key: Any, name: Any, digits: Digits) -> Any:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, float):
        return digits.number(_finite_float(key, "a key of the answer"))
    if isinstance(key, Decimal):
        return _reconcile_one(key, name, digits)
    if _holds_fraction(key):  # a tuple, written as one text
        raise UnsafeOutputError("a key of the answer is neither text nor a number")
    return name


def _holds_fraction(item: Any) -> bool:
    if isinstance(item, tuple | frozenset):
        return any(map(_holds_fraction, item))
    return isinstance(item.value if isinstance(item, Enum) else item, float | Decimal | complex)


def _as_written(item: Any) -> Any:
    if isinstance(item, tuple | frozenset):
        return [*map(_as_written, item)]
    return str(item) if isinstance(item, Decimal) else item


def _reconcile_one(exact: Any, written: Any, digits: Digits) -> Any:
    if isinstance(exact, float):
        _finite_float(exact, ANSWER)
    elif isinstance(exact, Decimal):
        return finite_text(exact, digits, ANSWER) if written == str(exact) else written
    elif isinstance(exact, complex):
        raise UnsafeOutputError(f"{ANSWER} holds a complex number, which JSON does not have")
    elif isinstance(exact, Iterator):
        raise UnsafeOutputError(f"{ANSWER} holds a {type(exact).__name__}, which can be read only once: use a list")
    return written
