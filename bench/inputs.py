"""A body as a guard reads it, without an app around it."""

from mlguard.inputs.features import Features
from mlguard.inputs.row_rules import Rows

_JSON = [(b"content-type", b"application/json")]


def rows_of(guard: Features, body: bytes) -> Rows:
    """The rows in a body of JSON."""
    return guard._formats.reader_for(_JSON).sent(body).judged(guard._rules)
