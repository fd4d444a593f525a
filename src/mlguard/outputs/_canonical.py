"""Values as bytes: the same for equal values, never the same for two that differ.

It is what answers are remembered by and noise is drawn from, so two questions must not be mistaken for one another:
each value is written with its kind, and whatever has no end of its own with its length. ``-0.0`` is written as ``0.0``,
which no model should tell apart and JSON need not.
"""

import dataclasses
import inspect
import struct
import types
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

import numpy as np
from pydantic import BaseModel

#: What is written as the text that it is, under the name of its class.
_TEXTS = (Decimal, Fraction, UUID, datetime, date, time, timedelta)
_COLLECTIONS = (list, tuple, dict, set, frozenset, types.MappingProxyType)
_KNOWN = (str, int, float, complex, bytes, np.ndarray, np.generic, Enum, BaseModel, *_TEXTS, *_COLLECTIONS)
_COUNT = struct.Struct(">Q")
_FLOAT = struct.Struct(">d")
_NAN = _FLOAT.pack(float("nan"))


class NotCanonicalError(TypeError):
    """A value that cannot be told from others by what it holds. For the log, not for callers."""


def canonical(value: Any) -> bytes:
    """A value as bytes.

    Args:
        value: Numbers, texts, dates, arrays, and dicts, lists, sets, dataclasses and pydantic models of them.

    Raises:
        NotCanonicalError: It is, or holds, something else.
    """
    parts: list[bytes] = []
    try:
        _write(value, parts)
    except RecursionError:
        raise NotCanonicalError("it is nested too deeply") from None
    return b"".join(parts)


def framed(*texts: str) -> bytes:
    """Several texts as one: ``("a", "bc")`` and ``("ab", "c")`` differ."""
    return "".join([f"{len(text)}:{text}" for text in texts]).encode("utf-8", "surrogatepass")


def _write(value: Any, parts: list[bytes]) -> None:
    kind = type(value)
    if kind is np.ndarray:
        _write_array(value, parts)
    elif kind is float:
        parts.append(b"f" + _float(value))
    elif kind is str:
        _write_bytes(b"s", value.encode("utf-8", "surrogatepass"), parts)
    elif kind is bool or value is None:
        parts.append(b"1" if value else b"0" if value is False else b"n")
    elif kind is int:
        # Long ones in hexadecimal: Python turns them into decimal text slowly, and beyond a length not at all.
        _write_bytes(b"i", hex(value).encode(), parts)
    elif kind is bytes:
        _write_bytes(b"b", value, parts)
    elif kind is list or kind is tuple:
        _write_items(value, parts)
    elif kind is dict:
        _write_mapping(b"d", value, parts)
    else:
        _write_object(value, parts)


def _float(value: float) -> bytes:
    return _FLOAT.pack(value + 0.0) if value == value else _NAN  # noqa: PLR0124  # but a NaN


def _write_bytes(kind: bytes, content: bytes, parts: list[bytes]) -> None:
    parts += (kind, _COUNT.pack(len(content)), content)


def _write_items(items: list[Any] | tuple[Any, ...], parts: list[bytes]) -> None:
    if set(map(type, items)) == {float}:
        numbers = np.array(items) + 0.0
        if not np.isnan(numbers).any():
            _write_bytes(b"F", numbers.astype(">f8").tobytes(), parts)
            return
    parts += (b"l", _COUNT.pack(len(items)))
    for item in items:
        _write(item, parts)


def _write_mapping(kind: bytes, fields: Mapping[Any, Any], parts: list[bytes]) -> None:
    parts += (kind, _COUNT.pack(len(fields)))
    for key, item in sorted([(canonical(key), item) for key, item in fields.items()], key=lambda pair: pair[0]):
        parts.append(key)
        _write(item, parts)


def _write_array(array: np.ndarray[Any, Any], parts: list[bytes]) -> None:
    if array.dtype.kind in "SU":  # as long as the longest text in it, which is nothing of the others
        parts.append(f"x{array.dtype.kind}{array.shape}:".encode())
        _write_items(array.ravel().tolist(), parts)
    else:
        same = _one_of_equals(array)
        parts += (f"a{same.dtype.str}{same.shape}:".encode(), same.tobytes())


def canonical_rows(array: np.ndarray[Any, Any]) -> list[bytes]:
    """What :func:`canonical` writes of each ``array[row]``, at a fraction of the time."""
    if array.dtype.kind in "SU":
        return [canonical(np.asarray(row)) for row in array]
    same = _one_of_equals(array)
    head = f"a{same.dtype.str}{same.shape[1:]}:".encode()
    content = same.tobytes()
    length = len(content) // max(1, len(same))
    return [head + content[row * length : (row + 1) * length] for row in range(len(same))]


def _one_of_equals(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The one array that stands for all that are equal to it: in native order, without -0.0, with one kind of NaN."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "fiubcMm" or (kind in "fc" and size > 8 * (1 + (kind == "c"))):  # longer ones have gaps
        raise NotCanonicalError(f"an array of dtype {array.dtype} holds more than its numbers")
    if kind in "fc":
        array = np.asarray(array + 0.0)  # of no dimension, numpy makes a number
        missing = np.isnan(array)
        if 1 in missing.tobytes():
            array[missing] = np.nan  # there are many, and no model tells them apart
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _write_object(value: Any, parts: list[bytes]) -> None:
    kind = type(value)
    if isinstance(value, np.ndarray):
        raise NotCanonicalError(f"a {kind.__name__} is more than its numbers")
    if isinstance(value, np.generic):
        _write_array(np.asarray(value), parts)
    elif kind is complex:
        parts += (b"z", _float(value.real), _float(value.imag))
    elif kind in {set, frozenset}:
        items = sorted(map(canonical, value))
        parts += (b"S", _COUNT.pack(len(items)), *items)
    elif kind is types.MappingProxyType:
        _write_mapping(b"d", value, parts)
    else:
        _write_named(value, f"{kind.__module__}.{kind.__qualname__}", parts)


def _write_named(value: Any, name: str, parts: list[bytes]) -> None:
    """What has a class of its own: that is written too, as two of them may mean different things by the same fields."""
    _write_bytes(b"c", name.encode(), parts)
    if isinstance(value, Enum):
        _write(value.value if isinstance(value, Flag) else value.name, parts)
    elif isinstance(value, BaseModel):
        for fields in (value.__dict__, value.__pydantic_extra__ or {}, value.__pydantic_private__ or {}):
            _write_mapping(b"d", fields, parts)
        _write(value.model_fields_set, parts)  # what was left out may be told from what was sent
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _write_mapping(b"d", members(value), parts)
    elif type(value) in _TEXTS:
        _write_bytes(b"s", str(value).encode(), parts)
    else:
        raise NotCanonicalError(f"a {name} is told by more than what it holds")


def members(value: Any) -> dict[str, Any]:
    """What a dataclass holds: its fields, and what was set on it besides."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return fields | getattr(value, "__dict__", {})


# Annotations ---------------------------------------------------------------------------------------------------------


def is_foreign(annotation: Any) -> bool:
    """Whether an annotation already shows that its values are nothing that :func:`canonical` takes.

    ``Any`` and type variables show nothing: there, only the values do.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return is_foreign(get_args(annotation)[0])
    if origin is Literal:
        return False
    if origin is Union or origin is types.UnionType:
        return _any_foreign(get_args(annotation))
    if origin is np.ndarray or any(annotation is silent for silent in _SILENT):
        return False
    if isinstance(origin, type):
        return is_foreign(origin) or (_is_collection(origin) and _any_foreign(get_args(annotation)))
    if not isinstance(annotation, type) or dataclasses.is_dataclass(annotation):
        return False
    # What pydantic's own types stand for is told by their values: an EmailStr is a str.
    is_known = issubclass(annotation, _KNOWN) or _is_collection(annotation)
    return not is_known and annotation.__module__.partition(".")[0] != "pydantic"


_SILENT = (Any, None, type(None), object, ..., inspect.Parameter.empty)


def _is_collection(kind: type) -> bool:
    return issubclass(kind, _COLLECTIONS) or kind.__module__ == "collections.abc"


def _any_foreign(annotations: Iterable[Any]) -> bool:
    return any(map(is_foreign, annotations))
