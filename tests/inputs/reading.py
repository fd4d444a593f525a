"""Readers of bodies as the tests ask them: both paths of one, and the array that comes out."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from hypothesis import strategies as st

from mlguard.errors import InvalidInputError
from mlguard.inputs.features import Features
from mlguard.inputs.row_rules import RowRules, Rows
from mlguard.inputs.sent_rows import SentRows


class _TwoPaths(Protocol):
    def sent(self, body: bytes) -> SentRows: ...
    def fast(self, body: bytes) -> SentRows | None: ...
    def exact(self, body: bytes) -> SentRows: ...


class Reading:
    """A reader with a fast and an exact path, and the rules for what they find."""

    def __init__(self, reader: _TwoPaths, rules: RowRules) -> None:
        self.reader = reader
        self.rules = rules

    def fast(self, body: bytes) -> Any:
        """What the fast path finds, or None."""
        sent = self.reader.fast(body)
        return None if sent is None else sent.rows

    def fast_or_exact(self, body: bytes) -> Rows:
        """As it is read, but for the order in which the paths are asked."""
        return (self.reader.fast(body) or self.reader.exact(body)).judged(self.rules)

    def exact(self, body: bytes) -> Rows:
        """The rows of the exact path."""
        return self.reader.exact(body).judged(self.rules)

    def read(self, body: bytes) -> Rows:
        """The rows."""
        return self.reader.sent(body).judged(self.rules)


def rows_of(guard: Features, body: bytes, content_type: str = "application/json") -> Rows:
    """What a guard makes of a body, without an app around it."""
    reader = guard._formats.reader_for([(b"content-type", content_type.encode())])
    return reader.sent(body).judged(guard._rules)


def outcome(read: Callable[[], Rows]) -> Any:
    """What a path makes of a body: the array bit for bit, or the rule that it says is broken, and where."""
    try:
        rows = read()
    except InvalidInputError as refusal:
        return refusal.members
    assert rows.flags.c_contiguous
    assert rows.flags.writeable
    return rows.shape, rows.dtype, rows.tobytes()


def agreed(reading: Reading, body: bytes) -> Any:
    """The outcome on which all paths agree."""
    outcomes = [outcome(partial(path, body)) for path in (reading.exact, reading.fast_or_exact, reading.read)]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    return outcomes[0]


def refused(reading: Reading, body: bytes) -> tuple[Any, ...]:
    """Rule, row and column of the refusal."""
    members = agreed(reading, body)
    assert isinstance(members, dict), members
    return members["broken"], members.get("row"), members.get("column")


@st.composite
def damaged(draw: st.DrawFn, bodies: st.SearchStrategy[bytes], pieces: list[bytes]) -> bytes:
    """A body with some bytes put in, taken out or changed."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 2))] = draw(st.one_of(st.sampled_from(pieces), st.binary(max_size=2)))
    return bytes(body)
