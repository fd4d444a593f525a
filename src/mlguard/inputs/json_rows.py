"""Numbers straight from a JSON body into an array.

The fast path lets simdjson write the numbers into the array, and takes only documents that it can prove to be right.
All others go to the exact path, plain Python, which finds what is wrong and where. It also accepts the few documents
that only simdjson cannot read, such as an integer of thirty digits.
"""

import json
import math
import threading
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simdjson import Array, Object, Parser

from mlguard.inputs.row_rules import RowRules, Rows, broken, check_field
from mlguard.inputs.whole_numbers import EXACT

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # simdjson reads over it
_PIECE = 32_768  # bytes
_COUNT_WITH_NUMPY = 4096  # bytes from which numpy counts faster than bytes.count
_NULL, _MISSING = b" 9e99 ", 9e99  # what simdjson is given for null; the spaces keep it apart from what is beside it
_EXACT_DIGITS = 400  # of an integer; a longer one is beyond every dtype, and so are its first digits
_KEEP = 1 << 21  # bytes of a body up to which a thread keeps its parser, which holds up to 13 times as much


class _Kept(threading.local):
    """One parser a thread, because getting its memory from the system each time may double the cost of a large body.

    It refuses to parse again while anything refers to its last document, so nothing that does may outlive ``fast``.
    """

    def __init__(self) -> None:
        self.parser = Parser()


_kept = _Kept()


class JSONRows:
    """Reads ``{"<field>": rows}`` or, for a single row, ``{"<field>": row}``.

    Args:
        rules: What the rows must be.
        field: The only member that the body may have.

    Raises:
        ConfigurationError: ``field`` is no name that a body can be read by.
    """

    def __init__(self, rules: RowRules, field: str) -> None:
        self.rules = rules
        self.field = check_field(field)
        # A null in a name that is wrong must not make it the right one.
        self._reads_nulls = bool(rules.missing) and _NULL.decode() not in field

    def read(self, body: bytes) -> Rows:
        """The rows in a body.

        Returns:
            A C-contiguous, writable array of shape ``(rows, columns)`` that nothing else refers to.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        values = self.fast(body)
        return self.exact(body) if values is None else self.rules.judge(values)

    def fast(self, body: bytes) -> NDArray[Any] | None:
        """The numbers, not yet judged, or None where they are not proved to stand in rows of the right length.

        ``as_buffer`` copies all numbers below an array and fails on any other leaf, but it flattens what is nested. So
        the shape is proved by two counts. There are no strings in the body but the one key, and that holds no bracket:
        the number of ``[`` is the number of arrays. With only one, it is a row of numbers. With n + 1 of them, n
        elements that each have the length of a row are n arrays, and leave none to be nested deeper.

        Where values may be missing, simdjson reads a number in the place of each null. If as many numbers as there were
        nulls are that number, none of them was sent, and no null stood anywhere else.
        """
        if body.startswith(_BYTE_ORDER_MARK) or self.rules.takes_texts:
            return None
        nulls = body.count(b"null") if self._reads_nulls else 0
        if nulls:
            body = body.replace(b"null", _NULL)
        try:
            parser = _kept.parser if len(body) <= _KEEP else Parser()
            document = parser.parse(body)
            if not isinstance(document, Object) or len(document) != 1:  # a name that comes twice counts twice
                return None
            found = document[self.field]
            if not isinstance(found, Array):
                return None
            values = self._numbers(found)
            rows = _arrays_in(body) - 1
            if rows and list(map(len, found)) != [self.rules.columns] * rows:  # type: ignore[arg-type]  # may be a float
                return None
            if nulls:
                missing = values == _MISSING
                if np.count_nonzero(missing) != nulls:
                    return None
                values[missing] = np.nan
            return values.reshape(rows or 1, self.rules.columns)
        except (ValueError, TypeError, KeyError, RuntimeError):  # all that simdjson raises, and a wrong size
            return None

    def _numbers(self, found: Array) -> NDArray[Any]:
        """The numbers below an array, none of them rounded more than to the nearest double.

        Raises:
            TypeError, ValueError: Something else is there, or a number that an integer dtype needs to be read exactly.
        """
        kind = self.rules.dtype.kind
        if kind != "f":
            with suppress(TypeError, ValueError):
                return np.frombuffer(found.as_buffer(of_type=kind), f"{kind}8")  # type: ignore[arg-type]  # "i" or "u"
        # Fractions, exponents and what is beyond the dtype.
        values = np.frombuffer(found.as_buffer(of_type="d"))
        if kind != "f" and not np.all(np.abs(values) < EXACT):
            raise ValueError
        return values

    def exact(self, body: bytes) -> Rows:
        """The same rows as the fast path gives, or the rule that is broken.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        document = _strict_json(body)
        if not isinstance(document, dict):
            raise broken("object")
        if set(document) != {self.field}:
            raise broken("field")
        found = document[self.field]
        is_row = isinstance(found, list) and found and not isinstance(found[0], list)
        return self.rules.matrix([found] if is_row else found)


def _arrays_in(body: bytes) -> int:
    if len(body) < _COUNT_WITH_NUMPY:
        return body.count(b"[")
    # In pieces: one comparison of everything would need as much memory again, which costs more than the counting.
    octets = np.frombuffer(body, np.uint8)
    return sum(int(np.count_nonzero(octets[at : at + _PIECE] == ord("["))) for at in range(0, len(body), _PIECE))


def _strict_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it, but for NaN and Infinity: they are read, to be refused with their place."""
    try:
        text = body.decode("utf-8").strip(" \t\r\n")
        document, end = _DECODER.raw_decode(text)
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
    return int(digits[:_EXACT_DIGITS])


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_int=_integer,
    # Infinity even for NaN, which is not JSON, and would be a missing value where one may be missing.
    parse_constant=lambda _: math.inf,
)
