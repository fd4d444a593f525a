"""The secrets that chain an audit log: the current one, and older ones that verify what they have chained."""

import hmac
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from pydantic import SecretStr

from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError, KeysUnavailableError
from mlguard.secrets.rotating import Rotating, Values

#: One secret, several with the current one first, or one that changes while the service runs.
AuditKey: TypeAlias = str | bytes | SecretStr | Sequence[str | bytes | SecretStr] | Rotating

_MAX_KEYS = 16
_ID = b"mlguard audit key id"  # nothing that is chained begins like it


class ChainKey(NamedTuple):
    """A secret, and what names it in a log."""

    id: str
    secret: bytes


ChainKeys = tuple[ChainKey, ...]


def audit_keys(key: object, *, where: str) -> Callable[[], ChainKeys]:
    """What returns the keys that hold now, the current one first.

    A key is named by a keyed digest of itself, so that nobody has to keep ids.

    Args:
        key: As ``AuditLog(key=...)`` takes it.
        where: The setting it comes from, for errors.

    Raises:
        ConfigurationError: There is none, there are too many, or one can be guessed.
    """
    if isinstance(key, Rotating):
        return _Changing(key, where)
    keys = _named(key if isinstance(key, Sequence) and not isinstance(key, str | bytes) else [key], where)
    return lambda: keys


def _named(secrets: Sequence[object], where: str) -> ChainKeys:
    if not 1 <= len(secrets) <= _MAX_KEYS:
        raise ConfigurationError(f"{where} is one secret, or a list of 1 to {_MAX_KEYS}, the current one first")
    plain = [one.get_secret_value() if isinstance(one, SecretStr) else one for one in secrets]
    named = [secret_bytes(one, where=where) for one in plain]
    if len({*named}) < len(named):
        raise ConfigurationError(f"{where} has the same secret twice")
    return tuple([ChainKey(hmac.digest(one, _ID, "sha256")[:8].hex(), one) for one in named])


class _Changing:
    """The keys of a secret that changes. While its source is lost, the last ones go on: a log does not stop for it."""

    def __init__(self, secret: Rotating, where: str) -> None:
        self._where = where
        self._derived = secret.derive(self._made)
        self._last = self._derived.value

    def _made(self, values: Values) -> ChainKeys:
        return _named(values, self._where)

    def __call__(self) -> ChainKeys:
        with suppress(KeysUnavailableError):
            self._last = self._derived.value
        return self._last
