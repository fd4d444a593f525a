"""What a key looks like: found by secret scanners, and checked for typing errors without a look-up.

``mlg_live_<key id>_<secret><checksum>``, or ``mlg_test_...`` for environments that are not production. The key id is
random and public: it says which record to revoke when the key turns up somewhere. The checksum lets a scanner or a
client tell a key from a string that looks like one, as GitHub's tokens do.
"""

import re
import secrets
import string
import zlib
from typing import Literal, NamedTuple, get_args

Environment = Literal["live", "test"]

ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)
#: What scanners look for.
PATTERN = r"mlg_(?:live|test)_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}"

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KEY_ID = 8  # characters: 100 000 keys in one file share one with a probability of 1 in 40 000, and none is reused
_SECRET = 43  # characters: 62**43 > 2**256
_CHECKSUM = 6  # characters: 62**6 > 2**32
_FORM = re.compile(PATTERN.encode())
_PREFIXES = tuple(f"mlg_{environment}_".encode() for environment in ENVIRONMENTS)
_TEST_PREFIX = b"mlg_test_"
# What APIKey.generate made first. One in half a billion of them begins like the form above.
_OLDER = re.compile(rb"mlg_[0-9A-Za-z_-]{43}")
_OLDER_LENGTH = 47
# Two digits at a time, because every request with a key comes by here.
_PAIRS = [(high + low).encode() for high in _ALPHABET for low in _ALPHABET]


class KeyForm(NamedTuple):
    """What can be read off a key without knowing any."""

    environment: str
    key_id: str


def make_key(environment: Environment) -> tuple[str, str]:
    """A new key.

    Returns:
        Its id, and the key as a whole, with 256 random bits.
    """
    key_id = _random(_KEY_ID)
    body = f"mlg_{environment}_{key_id}_{_random(_SECRET)}"
    return key_id, body + _checksum(body.encode()).decode()


def read_form(key: bytes) -> KeyForm | None:
    """The parts of a key in this form whose checksum holds; None for anything else."""
    if not is_whole(key):
        return None
    _, environment, key_id, _ = key.decode().split("_")
    return KeyForm(environment, key_id)


def is_whole(key: bytes) -> bool:
    """Whether a key has this form, and its checksum holds."""
    return _FORM.fullmatch(key) is not None and key.endswith(_checksum(key[:-_CHECKSUM]))


def claims_form(key: bytes) -> bool:
    """Whether it begins as keys in this form do, and so must have it whole."""
    return key.startswith(_PREFIXES) and not (len(key) == _OLDER_LENGTH and _OLDER.fullmatch(key))


def is_test_key(key: bytes) -> bool:
    """Whether it was made for an environment that is not production."""
    return key.startswith(_TEST_PREFIX)


def find_keys(text: bytes) -> list[int]:
    """Where keys stand in a text that should hold none."""
    return [match.start() for match in _FORM.finditer(text) if is_whole(match[0])]


def _random(length: int) -> str:
    return "".join([secrets.choice(_ALPHABET) for _ in range(length)])


def _checksum(body: bytes) -> bytes:
    """CRC-32 in base 62, always of the same length."""
    rest, low = divmod(zlib.crc32(body), len(_PAIRS))
    high, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]
