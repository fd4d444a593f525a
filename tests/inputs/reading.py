"""Readers of bodies as the tests ask them: both paths of one, and the array that comes out."""

from typing import Any, Protocol

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
