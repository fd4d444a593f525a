"""One line of an audit log: canonical JSON from which nothing breaks out, and the MAC that chains it to the one before.

A line is the record in the canonical form of RFC 8785, with ``"mac"`` behind its last member. Of the values that RFC
8785 allows, a record has only those of which no two writers could disagree: names of ASCII, texts that can be printed,
whole numbers of up to 53 bits, and other numbers from 0.00001 to 10^15. Everything else becomes text, or is left out
with a note.

``mac`` = HMAC-SHA-256(key, MAC of the record before, 32 bytes || the record without ``mac``), in hex.
"""

import hmac
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Set
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson

from mlguard.privacy.redactor import Redactor

VERSION = 1
#: What stands before the first record of a chain.
NOTHING_BEFORE = bytes(32)
#: No line is longer: what is, was not written by this.
MAX_LINE = 131_072  # bytes

OPENED = "audit.opened"
CLOSED = "audit.closed"
DROPPED = "audit.dropped"
UNWRITABLE = "audit.unwritable"

Record = dict[str, Any]

_MAX_TEXT = 1_000  # characters of one text
_MAX_READ = 4 * _MAX_TEXT  # of which are looked at, so that a secret across the cut is found
_MAX_NAME = 100
_MAX_IN_ALL = 16_000  # characters of a record
_PER_VALUE = 16  # that each value counts, whatever it is
_MAX_MEMBERS = 64
_DEEPEST = 8
_MAX_WHOLE = 2**53 - 1  # RFC 7493, section 2.2
_MAX_DIGITS = 256  # bits of an integer that is written out
_KEPT_TEXTS = 4_096
_MAX_KEPT = 200
#: Set by the log itself, whatever an event says.
_OWN = frozenset({"v", "chain", "seq", "time", "mac"})
#: Members that say which request it was, who asked and who acted on whom, which is what the log is for.
_AS_IT_IS = frozenset(
    {"request_id", "trace_id", "input", "principal", "caller", "subject", "user", "address", "network", "by", "what"}
)
#: What a record says of a file that retention has deleted. It explains that file only as it is: digits that could be
#: those of a card or of an account are in one of 30 000 names.
_OF_A_PURGE = {
    "file": re.compile(r"audit-[0-9a-f]{16}-[0-9]{6,12}\.jsonl", re.ASCII),
    "last_line_sha256": re.compile(r"[0-9a-f]{64}", re.ASCII),
}
_END = re.compile(rb',"mac":"([0-9a-f]{64})"\}')
_END_SIZE = len(b',"mac":""}') + 64
_MAPPINGS = (dict, Mapping)  # the first is nearly all, and quickly told
_MORE = "..."
_UNREDACTED = "[a text that could not be redacted]"


class Parts(NamedTuple):
    """A line as a verifier needs it: what was chained, and the MAC that it says it has."""

    body: bytes
    mac: bytes


def signed_line(secret: bytes, previous: bytes, record: Record) -> tuple[bytes, bytes]:
    """The line of a record, and its MAC.

    Args:
        secret: The key.
        previous: The MAC of the record before.
        record: Of values as :class:`RecordForm` makes them.
    """
    body = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    mac = mac_of(secret, previous, body)
    return b'%b,"mac":"%b"}\n' % (body[:-1], mac.hex().encode()), mac


def mac_of(secret: bytes, previous: bytes, body: bytes) -> bytes:
    """The MAC of a record."""
    mac = _keyed(secret).copy()
    mac.update(previous + body)
    return mac.digest()


@lru_cache(16)
def _keyed(secret: bytes) -> hmac.HMAC:
    """An HMAC that was given nothing yet.

    A copy of it has its key schedule, and keeps the interpreter's lock over texts as short as records. ``hmac.digest``
    lets go of it each time: where an event loop is busy, a thread has it back after 5 ms, and would write 200 records
    a second.
    """
    return hmac.new(secret, digestmod="sha256")


def parts_of(line: bytes) -> Parts | None:
    """The parts of a line without its end; None if it was not written by this."""
    end = _END.fullmatch(line, max(len(line) - _END_SIZE, 0))
    if end is None or not line.startswith(b"{"):
        return None
    return Parts(line[: end.start()] + b"}", bytes.fromhex(end[1].decode()))


def parsed(line: bytes) -> Record | None:
    """The record of a line; None where it is no JSON object."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def written_time(seconds: float) -> str:
    """A time as records have it: ``2026-11-26T21:00:00.123456Z``. Of what no calendar has, the beginning of time."""
    try:
        whole, micros = divmod(int(seconds * 1e6), 1_000_000)
        return f"{_second(whole)}.{micros:06d}Z"
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00.000000Z"


@lru_cache(16)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def printable(text: str) -> str:
    """A text with everything that is not to be seen written out: what shows it obeys no escape, and breaks no line."""
    if text.isprintable():
        return text
    return "".join([one if one.isprintable() else ascii(one)[1:-1] for one in text])


class RecordForm:
    """Brings events into the form of records: bounded, printable, and redacted.

    Args:
        redactor: Takes secrets and personal data out of texts.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._kept = lru_cache(_KEPT_TEXTS)(self._made)  # routes, guards and rules are always the same few
        self._names = lru_cache(_KEPT_TEXTS)(self._made_name)

    def record(self, event: Mapping[str, Any]) -> Record:
        """The record of an event, without what chains it. Whatever is wrong with the event, there is a record."""
        try:
            record = _Copy(self._text, self._names).members(event)
            if isinstance(record.get("facts"), dict):  # names of facts say what they are
                record["facts"] = self._facts({**record["facts"], **_of_a_purge(event["facts"])})
            if not isinstance(record.get("event"), str):
                record["event"] = "unknown"
        except Exception as error:  # such as one that is changed at this moment
            return {"event": UNWRITABLE, "facts": {"error": type(error).__name__}}
        return record

    def _facts(self, facts: Record) -> Record:
        kept = {name: facts[name] for name in _AS_IT_IS & facts.keys()} | _of_a_purge(facts)
        return _Copy(printable, _name).members(
            {**self._redactor.data(facts), **kept}
        )  # what stands in the place of a datum is somebody's own

    def _text(self, text: str) -> str:
        return self._kept(text) if len(text) <= _MAX_KEPT else self._made(text)

    def _made(self, text: str) -> str:
        return printable(self._without_secrets(text))

    def _made_name(self, name: str) -> str:
        return _name(self._without_secrets(name))

    def _without_secrets(self, text: str) -> str:
        try:
            return self._redactor.text(text)
        except Exception:  # whatever it is, nothing unredacted is written
            return _UNREDACTED


def _of_a_purge(facts: Mapping[Any, Any]) -> Record:
    """Those of these facts that explain why a file is missing, if they are what they are called."""
    named = {name: facts.get(name) for name in _OF_A_PURGE}
    return {name: fact for name, fact in named.items() if type(fact) is str and _OF_A_PURGE[name].fullmatch(fact)}


class _Copy:
    """A copy of one event in the form of a record.

    Args:
        redacted: Returns a text redacted and printable.
        names: The same for the name of a member of a member: those can be data, such as the name of a label.
    """

    __slots__ = ("_left", "_names", "_redacted")

    def __init__(self, redacted: Callable[[str], str], names: Callable[[str], str]) -> None:
        self._redacted = redacted
        self._names = names
        self._left = _MAX_IN_ALL

    def members(self, value: Mapping[Any, Any], as_it_is: bool = False, levels: int = _DEEPEST) -> Record:
        """A mapping with values of plain kinds."""
        copied: Record = {}
        shown_name = _name if as_it_is or levels == _DEEPEST else self._names
        for name, part in itertools.islice(value.items(), _MAX_MEMBERS):
            if self._left < 0:
                break
            shown = shown_name(name[:_MAX_NAME] if type(name) is str else f"[{type(name).__name__[:_MAX_NAME]}]")
            self._left -= len(shown) + _PER_VALUE
            if shown not in _OWN or levels < _DEEPEST:
                copied[shown] = self._plain(part, as_it_is or shown in _AS_IT_IS, levels)
        if len(value) > _MAX_MEMBERS or self._left < 0:
            copied[_MORE] = len(value)
        return copied

    def _items(self, value: Collection[Any], as_it_is: bool, levels: int) -> list[Any]:
        copied: list[Any] = []
        for part in itertools.islice(value, _MAX_MEMBERS):
            if self._left < 0:
                break
            self._left -= _PER_VALUE
            copied.append(self._plain(part, as_it_is, levels))
        if len(value) > len(copied):
            copied.append(f"{_MORE} [of {len(value)}]")
        return copied

    def _plain(self, value: Any, as_it_is: bool, levels: int) -> Any:
        kind = type(value)  # these are nearly all
        if kind is str:
            return self._shown(value, as_it_is)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -_MAX_WHOLE <= value <= _MAX_WHOLE else _whole(value)
        if kind is float:
            return _number(value)
        return self._parts(value, as_it_is, levels - 1)

    def _parts(self, value: Any, as_it_is: bool, levels: int) -> Any:
        if isinstance(value, str):  # of a kind of its own, such as an enum
            return self._shown(str.__str__(value), as_it_is)
        if levels == 0:
            return _MORE
        if isinstance(value, _MAPPINGS):
            return self.members(value, as_it_is, levels)
        if isinstance(value, list | tuple | Set):
            return self._items(value, as_it_is, levels)
        return _single(value.item() if isinstance(value, np.generic) else value)

    def _shown(self, text: str, as_it_is: bool) -> str:
        cut = text if len(text) <= _MAX_READ else text[:_MAX_READ]
        shown = printable(cut) if as_it_is else self._redacted(cut)
        if len(shown) > _MAX_TEXT or cut is not text:
            shown = f"{shown[:_MAX_TEXT]}{_MORE} [of {len(text)} characters]"
        self._left -= len(shown)
        return shown


@lru_cache(_KEPT_TEXTS)
def _name(name: str) -> str:
    """The name of a member: of ASCII, which everybody sorts in the same way."""
    return name if name.isascii() and name.isprintable() else ascii(name)[1:-1]


def _single(value: object) -> object:
    """A value that has no parts and is no text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _whole(int(value))
    if isinstance(value, float):
        return _number(float(value))
    if isinstance(value, bytes | bytearray):
        return f"[{len(value)} bytes]"
    if isinstance(value, date):  # and a datetime
        return value.isoformat()
    return f"[{type(value).__name__[:_MAX_NAME]}]"


def _whole(value: int) -> int | str:
    if -_MAX_WHOLE <= value <= _MAX_WHOLE:
        return value
    bits = value.bit_length()  # to write out a million digits would take minutes
    return str(value) if bits <= _MAX_DIGITS else f"[integer of {bits} bits]"


def _number(value: float) -> float | int | str:
    if value.is_integer() and -_MAX_WHOLE <= value <= _MAX_WHOLE:
        return int(value)
    # In between, everybody writes a number in the same way.
    return value if 1e-5 <= abs(value) < 1e15 else repr(value)
