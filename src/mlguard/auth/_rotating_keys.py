"""Secrets that change, as the keys of guards: what each guard makes of the values that are accepted now."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from joserfc.jwk import Key

from mlguard.auth._issuer_keys import IssuerKeys, is_slow
from mlguard.auth._jwt_keys import Engine, KeyHealth, Keys, Model, Verifiers, checked_algorithms
from mlguard.auth._key_forms import attempt
from mlguard.auth._key_table import KeyTable
from mlguard.auth.key_records import APIKey, refuse_quotes
from mlguard.errors import ConfigurationError, KeysUnavailableError
from mlguard.secrets.rotating import Rotating, Values

# API keys -------------------------------------------------------------------------------------------------------------


def api_keys_of(values: Values, *, where: str) -> KeyTable:
    """The keys in a secret, and what is still accepted of its value before.

    Raises:
        ConfigurationError: An entry cannot work, or is there twice. No value is quoted.
    """
    table = KeyTable()
    for number, key in enumerate(_entries(values[0].get_secret_value(), where), 1):
        if not table.add(key):
            raise ConfigurationError(f"{where}, entry {number}, has the same secret or key id as an earlier one")
    listed = [*table]
    for value in values[1:]:
        for key in _replaced([*_entries(value.get_secret_value(), where)], listed):
            table.add(key)
    return table


def _entries(text: str, where: str) -> Iterator[APIKey]:
    refuse_quotes(text, where)
    for number, entry in enumerate(re.split(r"\s*[,\n]\s*", text), 1):
        yield APIKey.parse(entry, where=f"{where}, entry {number}")


def _replaced(before: Sequence[APIKey], now: Sequence[APIKey]) -> Iterator[APIKey]:
    """The old secret of each id whose one secret was replaced by one other. It gives what the new one gives."""
    had, has = _by_id(before), _by_id(now)
    for id_, old in had.items():
        new = has.get(id_, ())
        if len(old) == len(new) == 1 and not old[0].disabled:
            ends = [date for date in (old[0].expires_at, new[0].expires_at) if date is not None]
            # No key may end before it begins: of such a pair the old one has ended.
            begins = old[0].not_before
            if begins is None or not ends or begins < min(ends):
                yield replace(
                    new[0],
                    digest=old[0].digest,
                    key_id="" if old[0].key_id == new[0].key_id else old[0].key_id,
                    not_before=begins,
                    expires_at=min(ends, default=None),
                )


def _by_id(keys: Sequence[APIKey]) -> dict[str, list[APIKey]]:
    found: dict[str, list[APIKey]] = {}
    for key in keys:
        found.setdefault(key.id, []).append(key)
    return found


# Tokens ---------------------------------------------------------------------------------------------------------------


class RotatingKeys:
    """The keys of a ``JWTAuth``: a secret or a PEM that changes.

    Args:
        secret: The secret.
        algorithms: Which algorithms are used.
        engine: What checks signatures in the place of joserfc.

    Raises:
        ConfigurationError: The value cannot be read as a key, is weak or fits no algorithm.
    """

    def __init__(self, secret: Rotating, algorithms: object, engine: Engine | None) -> None:
        self._algorithms = checked_algorithms(algorithms)
        self._secret = secret
        self._keys = secret.derive(partial(_verifying, algorithms=self._algorithms, engine=engine))

    def __repr__(self) -> str:
        return f"keys of {self._secret} for {', '.join(self._algorithms)}"

    @property
    def health(self) -> KeyHealth:
        """Whether tokens can be verified at the moment."""
        return KeyHealth(int(self._secret.is_usable), self._secret.age, self._secret.health.error)

    def check(self) -> None:
        """Have the secret looked after."""
        self._secret.watch()

    def fresh(self) -> Keys | None:
        """The keys, if they may be used."""
        try:
            return self._keys.value
        except KeysUnavailableError:
            return None

    async def newer_than(self, seen: Keys | None) -> Keys:  # noqa: ARG002  # a request waits for no secret
        """The keys that there are.

        Raises:
            KeysUnavailableError: The secret was not read for too long (503).
        """
        return self._keys.value


def _verifying(values: Values, *, algorithms: Collection[str], engine: Engine | None) -> Keys:
    """Keys that verify what was signed with any of these values."""
    found: list[Verifiers] = [Keys(value.get_secret_value(), algorithms, engine).find({}) or {} for value in values]
    if len(found) == 1:
        [only] = found
    else:
        only = {name: (_Either([one[name] for one in found]), found[0][name][1]) for name in algorithms}
    return Keys.from_set({}, [only], tuple(algorithms))


class _Either:
    """Several keys of one algorithm in the place of one, as joserfc's model of it."""

    def __init__(self, ways: Sequence[tuple[Model, Key]]) -> None:
        self._ways = ways

    def verify(self, msg: bytes, sig: bytes, key: object, /) -> bool:  # noqa: ARG002  # it has its own
        """Whether the signature holds by any of the keys. One that joserfc stumbles over holds by none."""
        return any(attempt(model.verify, msg, sig, one) is True for model, one in self._ways)


class RotatingIssuerKeys:
    """The keys of a ``TokenIssuer``: a secret or a private key that changes.

    It signs with the current value once other processes have had the time to read it, and verifies with what is
    accepted.

    Args:
        secret: The secret.
        algorithm: What is signed with.
    """

    def __init__(self, secret: Rotating, algorithm: str) -> None:
        self._secret = secret
        self._keys = secret.derive(lambda values: [IssuerKeys(value.get_secret_value(), algorithm) for value in values])
        self.algorithm = algorithm
        self.is_slow = is_slow(algorithm)

    def sign(self, kind: str, claims: Mapping[str, Any]) -> str:
        """A token of this kind. See :meth:`IssuerKeys.sign`.

        Raises:
            KeysUnavailableError: The secret was not read for too long (503).
        """
        keys = self._keys.value
        return (keys[0] if self._secret.is_settled else keys[-1]).sign(kind, claims)

    def read(self, token: str) -> tuple[str, dict[str, Any]] | None:
        """The kind and the claims of a token that was signed here. See :meth:`IssuerKeys.read`."""
        return next(filter(None, (keys.read(token) for keys in self._keys.value)), None)
