"""Keys by id, of which the first writes and all are tried: what rotation needs."""

import re
from collections.abc import Mapping
from itertools import combinations

from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


def key_ring(keys: object, *, where: str) -> dict[str, bytes]:
    """The keys with their ids, checked, in their order.

    Args:
        keys: Secrets by key id.
        where: Whose they are, for errors.

    Raises:
        ConfigurationError: There is none; an id is not 1 to 32 letters, digits, ``-`` and ``_`` of ASCII; a secret can
            be guessed; two ids have one secret.
    """
    if not isinstance(keys, Mapping) or not keys:
        raise ConfigurationError(f"{where}(keys=...) is a mapping of key ids to secrets, such as {{'2026-11': secret}}")
    for key_id in keys:
        if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
            raise ConfigurationError(
                f"{where}(keys=...): a key id has 1 to 32 letters, digits, '-' and '_', such as '2026-11'"
            )
    ring = {key_id: secret_bytes(secret, where=f"{where}(keys={{{key_id!r}: ...}})") for key_id, secret in keys.items()}
    for (one, first), (other, second) in combinations(ring.items(), 2):
        if first == second:
            raise ConfigurationError(
                f"{where}(keys=...): {one!r} and {other!r} have the same secret; each needs its own"
            )
    return ring


def purpose_bytes(purpose: object, *, where: str) -> bytes:
    """A purpose in bytes.

    Raises:
        ConfigurationError: It is no text, or an empty one.
    """
    if not isinstance(purpose, str) or not purpose:
        raise ConfigurationError(f"{where}(purpose=...) is a text that is not empty, such as 'billing'")
    return text_bytes(purpose)


def text_bytes(value: object) -> bytes:
    """A value in bytes. A text and its UTF-8 are the same value.

    Raises:
        TypeError: It is neither a text nor bytes.
        ValueError: The text has halves of surrogate pairs.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a value is str or bytes, and not {type(value).__name__}: say how it is written")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has halves of surrogate pairs, which UTF-8 cannot write") from None
