"""A walk through data of any shape: what is found in it, and a copy in which that is masked."""

import copy
import dataclasses
import datetime
import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from pydantic import BaseModel, SecretBytes, SecretStr

from mlguard.privacy._ip_addresses import names_a_machine
from mlguard.privacy._masked_text import masked_text, masked_value
from mlguard.privacy._spans import Span
from mlguard.privacy.masks import Mask, label
from mlguard.privacy.pii_search import PIISearch

#: The kind of what was not looked into: too deep, in a circle, too much, or of a type that nobody here can read.
UNREAD = "unread"

_MAX_DEPTH = 64
_MAX_VALUES = 5_000_000
_LEAST_NUMBER = 10**6  # smaller ones are counts
_MOST_BITS = 128  # larger ones are no number of anybody
_PAIR = 2
_HEADER = re.compile(r"[\w.-]+")
_TIMES = (datetime.date, datetime.time, datetime.timedelta, UUID)

Step = str | int


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Where a datum is, and what kind of datum. Not the datum itself.

    Attributes:
        kind: Such as ``"email"``; ``"unread"`` for what was not looked into.
        path: The keys, names and positions that lead to it. A key that is a datum stands as its kind: ``"[email]"``.
        start: Its first character within the text there. None: the whole value is the datum.
        end: The character behind its last one.
        in_key: Whether it is in the last key of the path, and not in the value.
    """

    kind: str
    path: tuple[Step, ...] = ()
    start: int | None = None
    end: int | None = None
    in_key: bool = False


class _Place(NamedTuple):
    path: tuple[Step, ...]
    kind: str | None  # what the name of a field above has told

    def below(self, step: Step, kind: str | None = None) -> "_Place":
        return _Place((*self.path, step), kind or self.kind)


class DataWalk:
    """One walk through some data.

    Args:
        search: What is looked for.
        mask: What stands in its place in the copy. None: nobody wants the copy.

    Attributes:
        findings: What was found.
    """

    def __init__(self, search: PIISearch, mask: Mask | None) -> None:
        self.findings: list[Finding] = []
        self._search = search
        self._mask = mask
        self._above: set[int] = set()
        self._left = _MAX_VALUES

    def copied(self, data: Any) -> Any:
        """A copy of the data with everything masked that is found in it."""
        return self._visit(data, _Place((), None))

    def _visit(self, value: Any, place: _Place) -> Any:
        self._left -= 1
        if isinstance(value, str):
            return self._text(value, place)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float | complex | Decimal):
            return self._number(value, place)
        read = _reader(value)
        if read is not None:
            return self._within(value, place, read)
        return self._leaf(value, place)

    def _text(self, text: str, place: _Place) -> str:
        if place.kind is not None:
            return self._whole(text, place.kind, place) if text.strip() and text != f"[{place.kind}]" else text
        spans = self._search.spans(text)
        self._note(spans, place)
        return masked_text(text, spans, self._search, self._mask) if spans and self._mask else text

    def _note(self, spans: list[Span], place: _Place, *, in_key: bool = False) -> None:
        self.findings += [Finding(span.kind, place.path, span.start, span.end, in_key) for span in spans]

    def _whole(self, text: str, kind: str, place: _Place) -> str:
        self.findings.append(Finding(kind, place.path))
        return masked_value(kind, text, self._mask) if self._mask else text

    def _number(self, value: float | complex | Decimal, place: _Place) -> Any:
        if place.kind is not None:
            return self._whole(_written(value), place.kind, place)
        whole = _whole_number(value)
        if _LEAST_NUMBER <= whole < 2**_MOST_BITS:
            text = str(whole)
            for start, end, kind in self._search.spans(text):
                if (start, end) == (0, len(text)):
                    return self._whole(text, kind, place)
        return value

    def _leaf(self, value: Any, place: _Place) -> Any:
        if isinstance(value, bytes | bytearray):
            return self._bytes(value, place)
        if isinstance(value, np.generic):
            return self._numpy_scalar(value, place)
        if isinstance(value, SecretStr | SecretBytes):
            return self._whole("", "secret", place)
        if isinstance(value, IPv4Address | IPv6Address):
            kind = "ip" if "ip" in self._search.kinds and names_a_machine(value) else place.kind
            return self._whole(str(value), kind, place) if kind else value
        if isinstance(value, PurePath | enum.Enum):
            inner = value.value if isinstance(value, enum.Enum) else str(value)
            masked = self._visit(inner, place)
            return value if masked is inner else masked
        if isinstance(value, _TIMES):
            return self._whole(str(value), place.kind, place) if place.kind else value
        return self._whole("", UNREAD, place)

    def _bytes(self, value: bytes | bytearray, place: _Place) -> bytes:
        """Bytes as the text that they are in UTF-8, or else as one character each."""
        try:
            return self._text(value.decode(), place).encode()
        except UnicodeDecodeError:
            return self._text(value.decode("latin-1"), place).encode("latin-1", "replace")

    def _numpy_scalar(self, value: "np.generic[Any]", place: _Place) -> Any:
        plain = value.item()
        if type(plain) is type(value) or value.dtype.kind in "bfcmM":  # what is no text, and no number of anybody
            return self._whole(str(value), place.kind, place) if place.kind else value
        masked = self._visit(plain, place)
        return value if masked is plain else masked

    def _array(self, value: "np.ndarray[Any, Any]", place: _Place) -> Any:
        """Arrays of numbers hold measurements, and are not looked into; arrays of texts become lists."""
        if value.dtype.kind in "biufcmM":
            return self._whole("", place.kind, place) if place.kind else value.copy()
        return self._visit(value.tolist(), place)

    def _within(self, value: Any, place: _Place, read: "Callable[[DataWalk, Any, _Place], Any]") -> Any:
        """What is in a container, unless it is in itself, too deep, or there was too much."""
        if id(value) in self._above or len(place.path) >= _MAX_DEPTH or self._left <= 0:
            return self._whole("", UNREAD, place)
        self._above.add(id(value))
        try:
            return read(self, value, place)
        finally:
            self._above.discard(id(value))

    def _items(self, values: Iterable[Any], place: _Place) -> list[Any]:
        return [self._visit(value, place.below(index)) for index, value in enumerate(values)]

    def _mapping(self, value: Mapping[Any, Any], place: _Place) -> dict[Any, Any]:
        copied: dict[Any, Any] = {}
        counts: dict[Any, int] = {}
        for position, (key, inner) in enumerate(value.items()):
            shown, step = self._key(key, position, place)
            name = step if isinstance(step, str) else _header(key)
            kind = self._search.kind_of_field(name) if name else None
            copied[_free(shown, copied, counts)] = self._visit(inner, place.below(step, kind))
        return copied

    def _list(self, values: Sequence[Any], place: _Place) -> list[Any]:
        """Its values. Behind the name of a secret, as in a list of headers, the other one of two is the secret."""
        name = _header(values[0]) if len(values) == _PAIR else None
        if name and self._search.kind_of_field(name) == "secret":
            return [self._visit(values[0], place.below(0)), self._visit(values[1], place.below(1, "secret"))]
        return self._items(values, place)

    def _key(self, key: Any, position: int, place: _Place) -> tuple[Any, Step]:
        """A key as the copy has it, and as a path shows it."""
        if isinstance(key, str):
            spans = self._search.spans(key)
            if not spans:
                return key, key
            step = masked_text(key, spans, self._search, label)
            self._note(spans, place.below(step), in_key=True)
            return masked_text(key, spans, self._search, self._mask or label), step
        before = len(self.findings)
        shown = self._visit(key, _Place((*place.path, position), None))
        self.findings[before:] = [dataclasses.replace(one, in_key=True) for one in self.findings[before:]]
        return shown, position

    def _fields(self, values: Mapping[str, Any], place: _Place, aliases: Mapping[str, str]) -> dict[str, Any]:
        """The values of named fields, masked."""
        return {
            name: self._visit(value, place.below(name, self._kind_of(name, aliases.get(name))))
            for name, value in values.items()
        }

    def _kind_of(self, name: str, alias: str | None) -> str | None:
        kind = self._search.kind_of_field(name)
        return kind if kind or alias is None else self._search.kind_of_field(alias)

    def _tuple(self, value: tuple[Any, ...], place: _Place) -> Any:
        names = getattr(value, "_fields", None)
        if names is None:
            return tuple(self._list(value, place))
        return type(value)(*self._fields(dict(zip(names, value, strict=True)), place, {}).values())

    def _model(self, value: BaseModel, place: _Place) -> BaseModel:
        aliases = {name: field.alias for name, field in type(value).model_fields.items() if field.alias}
        masked = self._fields({**value.__dict__, **(value.model_extra or {})}, place, aliases)
        return value.model_copy(update=masked)

    def _dataclass(self, value: Any, place: _Place) -> Any:
        values = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        values |= getattr(value, "__dict__", {})  # also what is no field
        copied = copy.copy(value)
        for name, masked in self._fields(values, place, {}).items():
            object.__setattr__(copied, name, masked)  # a frozen one too
        return copied


_READERS: tuple[tuple[type | tuple[type, ...], Callable[[DataWalk, Any, _Place], Any]], ...] = (
    (Mapping, DataWalk._mapping),
    (list, DataWalk._list),
    (tuple, DataWalk._tuple),
    (frozenset, lambda walk, value, place: frozenset(walk._items(value, place))),
    (set, lambda walk, value, place: set(walk._items(value, place))),
    (BaseModel, DataWalk._model),
    (np.ndarray, DataWalk._array),
)


def _reader(value: Any) -> Callable[[DataWalk, Any, _Place], Any] | None:
    for kind, read in _READERS:
        if isinstance(value, kind):
            return read
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return DataWalk._dataclass
    return None


def _header(key: Any) -> str | None:
    """What may be the name of a header, in a text or in bytes, as ASGI has them. None: it is none."""
    name = key.decode("latin-1") if isinstance(key, bytes) else key
    return name if isinstance(name, str) and _HEADER.fullmatch(name) else None


def _whole_number(value: float | complex | Decimal) -> int:
    """The value, if it is a whole number; else 0. A column of whole numbers in which one is missing has floats."""
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else 0
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() < _MOST_BITS:
        return int(value) if value == value.to_integral_value() else 0
    return 0


def _written(value: float | complex | Decimal) -> str:
    """A number as a text; one with thousands of digits is none of anybody's."""
    return str(value) if not isinstance(value, int) or value.bit_length() <= _MOST_BITS else ""


def _free(key: Any, taken: Mapping[Any, Any], counts: dict[Any, int]) -> Any:
    """The key, or if others became the same, with a number: nothing gets lost, and none is tried twice."""
    free = key
    while free in taken:
        counts[key] = counts.get(key, 1) + 1
        free = f"{key} {counts[key]}"
    return free
