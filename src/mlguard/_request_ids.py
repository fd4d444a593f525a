"""Ids of requests: at random, and drawn many at a time.

Each draw lets go of the interpreter's lock, and where another thread waits for it, such as the one that writes an audit
log, the request goes on when that has had its turn.
"""

import os
import secrets

_DIGITS = 16
_AT_ONCE = 256

_drawn: list[str] = []


def new_request_id() -> str:
    """An id that no other request has: 64 random bits in hexadecimal digits."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:  # of this thread or of another one, which has taken the last
            digits = secrets.token_hex(_AT_ONCE * _DIGITS // 2)
            _drawn.extend(digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS))


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows cannot fork
    os.register_at_fork(after_in_child=_drawn.clear)  # or both would give the same ids
