"""JSON documents with numbers in them: parsed once, and handed to the format that claims them.

The fast path lets simdjson write the numbers into an array, and takes only documents that it can prove to be right.
All others go to the exact path, plain Python, which finds what is wrong and where. It also accepts the few documents
that only simdjson cannot read, such as an integer of thirty digits.
"""

import json
import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from simdjson import Array, Object, Parser

from mlguard.errors import InvalidInputError
from mlguard.inputs.broken_rules import broken
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.sent_rows import SentRows
from mlguard.inputs.tensor_shape import arrays_per_row, is_nested
from mlguard.inputs.whole_numbers import EXACT

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # simdjson reads over it
_PIECE = 32_768  # bytes
_COUNT_WITH_NUMPY = 4096  # bytes from which numpy counts faster than bytes.count
_KEEP = 1 << 21  # bytes of a body up to which a thread keeps its parser, which holds up to 13 times as much
_LONGEST_EXAMPLE = 1_000  # numbers in OpenAPI's example of a row
#: Of an integer; a longer one is beyond every dtype, and so are its first digits.
EXACT_DIGITS = 400

#: What simdjson is given for null; the spaces keep it apart from what is beside it.
NULL, _MISSING = b" 9e99 ", 9e99

#: How simdjson and numpy call the buffer of each kind of numbers.
_BUFFERS: dict[str, tuple[Literal["d", "i", "u"], type[Any]]] = {
    "f": ("d", np.float64),
    "i": ("i", np.int64),
    "u": ("u", np.uint64),
}

#: All that simdjson raises, and what a document raises that is not of the form that is looked for. Refusals too: the
#: exact path comes to the same, and its errors hold on to no document.
NOT_PROVED = (ValueError, TypeError, KeyError, IndexError, RuntimeError, InvalidInputError)


class JSONFormat(Protocol):
    """One form of document."""

    rules: RowRules
    reads_nulls: bool  # whether the fast path takes documents with a number in the place of each null
    reads_nan: bool  # whether its clients write NaN, which is not JSON, for a value that is missing

    def claims(self, document: Mapping[str, Any]) -> bool:
        """Whether a document means to be of this form, right or wrong. It is a dictionary, or simdjson's object."""

    def fast(self, document: Object, body: bytes) -> SentRows | None:
        """What the document holds, or None where that is not proved. May raise what is in ``NOT_PROVED``."""

    def exact(self, document: dict[str, Any]) -> SentRows:
        """The same as the fast path gives, or the rule that is broken.

        Raises:
            InvalidInputError: A rule is broken (422).
        """

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the documents."""

    def example(self, row: list[float]) -> dict[str, Any]:
        """A document with one row."""


class _Kept(threading.local):
    """One parser a thread, because getting its memory from the system each time may double the cost of a large body.

    It refuses to parse again while anything refers to its last document, so nothing that does may outlive ``fast``.
    """

    def __init__(self) -> None:
        self.parser = Parser()


_kept = _Kept()


def parser_for(body: bytes) -> Parser:
    """A parser whose documents must not outlive the caller's own call."""
    return _kept.parser if len(body) <= _KEEP else Parser()


class JSONBodies:
    """Reads documents of one or several forms.

    Args:
        forms: The forms, each with the name of its example. The last one takes what no other claims.
    """

    def __init__(self, forms: Mapping[str, JSONFormat]) -> None:
        self.forms = forms
        self._reads_nulls = any(form.reads_nulls for form in forms.values())
        *self._choices, self._last = forms.values()

    def sent(self, body: bytes) -> SentRows:
        """The rows in a body.

        Raises:
            InvalidInputError: A rule of the form is broken (422).
        """
        return self.fast(body) or self.exact(body)

    def fast(self, body: bytes) -> SentRows | None:
        """The rows, or None where they are not proved to be right.

        Where values may be missing, simdjson reads a number in the place of each null. If as many numbers as there were
        nulls are that number, none of them was sent, and no null stood anywhere else.
        """
        if body.startswith(_BYTE_ORDER_MARK) or self._last.rules.text_columns:
            return None
        nulls = body.count(b"null") if self._reads_nulls else 0
        if nulls:
            body = body.replace(b"null", NULL)
        try:
            document = parser_for(body).parse(body)
            if not isinstance(document, Object):
                return None
            form = self._form_of(document)
            if not nulls:
                return form.fast(document, body)
            return _with_nulls(form.fast(document, body), nulls) if form.reads_nulls else None
        except NOT_PROVED:
            return None

    def exact(self, body: bytes) -> SentRows:
        """The same rows as the fast path gives, or the rule that is broken.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        document = strict_json(body)
        if not isinstance(document, dict):
            raise broken("object")
        form = self._form_of(document)
        if form.reads_nan and b"NaN" in body:
            document = strict_json(body, reads_nan=True)
        return form.exact(document)

    def _form_of(self, document: Mapping[str, Any]) -> JSONFormat:
        for form in self._choices:
            if form.claims(document):
                return form
        return self._last

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI media type object."""
        schemas = [form.schema() for form in self.forms.values()]
        described: dict[str, Any] = {"schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas}}
        row = self._last.rules.example
        if row is None or len(row) > _LONGEST_EXAMPLE:
            return described
        if len(schemas) == 1:
            return {**described, "example": self._last.example(row)}
        return {**described, "examples": {name: {"value": form.example(row)} for name, form in self.forms.items()}}


def _with_nulls(sent: SentRows | None, nulls: int) -> SentRows | None:
    if sent is None or not isinstance(sent.rows, np.ndarray):
        return None
    missing = sent.rows == _MISSING
    if np.count_nonzero(missing) != nulls:
        return None
    sent.rows[missing] = np.nan
    return sent


# Proofs of the fast path --------------------------------------------------------------------------------------------


def arrays_in(body: bytes) -> int:
    """How many arrays the document has, or more: a bracket in a string counts too."""
    if len(body) < _COUNT_WITH_NUMPY:
        return body.count(b"[")
    # In pieces: one comparison of everything would need as much memory again, which costs more than the counting.
    octets = np.frombuffer(body, np.uint8)
    return sum(int(np.count_nonzero(octets[at : at + _PIECE] == ord("["))) for at in range(0, len(body), _PIECE))


def numbers_of_kind(found: Array, kind: str) -> NDArray[Any]:
    """All numbers below an array, in reading order.

    Args:
        found: simdjson's array.
        kind: Of the dtype: ``"f"`` takes integers too; ``"i"`` and ``"u"`` take nothing else, and all of 64 bits.

    Raises:
        ValueError: There are none, or there is something else than numbers and arrays, or a number of another kind.
    """
    of_type, dtype = _BUFFERS[kind]
    values = np.frombuffer(found.as_buffer(of_type=of_type), dtype)
    if not values.size:
        raise ValueError
    return values


def numbers_in(found: Array, kind: str) -> NDArray[Any]:
    """All numbers below an array, in reading order, none of them rounded more than to the nearest double.

    Args:
        found: simdjson's array.
        kind: Of the dtype that is wanted. Integers are read exactly where it is one.

    Raises:
        ValueError: There is something else, or a number that cannot be read exactly enough.
    """
    if kind == "f":
        return numbers_of_kind(found, "f")
    with suppress(ValueError, TypeError):
        return numbers_of_kind(found, kind)
    values = numbers_of_kind(found, "f")  # fractions, exponents, and what is beyond the dtype
    if not np.all(np.abs(values) < EXACT):
        raise ValueError
    return values


def rows_in(found: Array, rules: RowRules, below: int) -> NDArray[Any] | None:
    """The numbers of an array of rows, not yet judged, or None where they are not proved to stand in rows.

    ``numbers_in`` flattens what is nested, and fails on any leaf that is not a number. So the form is proved by two
    counts. Elements that have the lengths of rows, with all that makes rows inside, are a certain number of arrays. If
    there are no more arrays than these, then none is nested deeper in the place of a number. A bracket in a string of
    the document counts as an array more, so it leads to the exact path and to no false proof.

    Args:
        found: The array.
        rules: How many values a row has.
        below: How many arrays there are inside it, if no string has a bracket.
    """
    values = numbers_in(found, rules.dtype.kind)
    rows, rest = divmod(below, arrays_per_row(rules.shape))
    return values.reshape(rows, rules.columns) if not rest and is_nested(found, (rows, *rules.shape)) else None


def row_in(found: Array, rules: RowRules) -> NDArray[Any] | None:
    """The numbers of an array that is a single row, in a document that has no more arrays than that."""
    values = numbers_in(found, rules.dtype.kind)
    return values.reshape(1, rules.columns) if is_nested(found, rules.shape) else None


# The exact path -----------------------------------------------------------------------------------------------------


def strict_json(body: bytes, *, reads_nan: bool = False) -> Any:
    """JSON as RFC 8259 has it, but for NaN and Infinity: they are read, to be refused with their place.

    Args:
        body: The document.
        reads_nan: Whether NaN may pass for a value that is missing. If not, it is read as an infinity.
    """
    decoder = _DECODER_WITH_NAN if reads_nan else _DECODER
    try:
        text = body.decode("utf-8").strip(" \t\r\n")
        document, end = decoder.raw_decode(text)
    except RecursionError:
        rule = "depth"
    except ValueError:
        rule = "json"
    else:
        if end == len(text):
            return document
        rule = "trailing"
    raise broken(rule)  # not above, because those errors hold the body and would come along as its context


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise broken("duplicate")
    return members


def _integer(digits: str) -> int:
    """An integer of any length, in bounded time and without Python's limit on digits. ``-0`` is 0, as for simdjson."""
    return int(digits[:EXACT_DIGITS])


def _decoder(constants: Mapping[str, float]) -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_unique_members, parse_int=_integer, parse_constant=constants.__getitem__)


_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}
_DECODER = _decoder({**_INFINITIES, "NaN": math.inf})
_DECODER_WITH_NAN = _decoder({**_INFINITIES, "NaN": math.nan})


def require_members(document: dict[str, Any], needed: frozenset[str], optional: frozenset[str] = frozenset()) -> None:
    """Refuse an object that lacks a member, or has one that nobody expects.

    Raises:
        InvalidInputError: It does (422).
    """
    if not needed <= document.keys() <= needed | optional:
        raise broken("field")


def has_members(document: Object, needed: frozenset[str], optional: frozenset[str] = frozenset()) -> bool:
    """The same question about simdjson's object, where a name that comes twice counts twice."""
    names = [*document]
    found = set(names)
    return len(names) == len(found) and needed <= found <= needed | optional
