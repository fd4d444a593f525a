"""JWK Sets (RFC 7517): which keys of one can verify tokens, and what is wrong with the others."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from mlguard.auth._jwt_form import RefusedError, json_object
from mlguard.auth._jwt_keys import Keys, Verifiers, bind_jwk
from mlguard.errors import ConfigurationError

#: Bytes of the largest set, or discovery document, that is read. Those of large providers have 20 000.
MAX_DOCUMENT = 262_144
_MAX_KEYS = 100


class KeySetError(Exception):
    """Why keys could not be had, in words for the log: nothing of the document is in it."""


class KeySet(NamedTuple):
    """The usable keys of a set.

    Attributes:
        keys: The keys.
        faults: What is wrong with other keys, which are left out. Keys that are merely for something else, such as
            encryption or another algorithm, are no fault.
    """

    keys: Keys
    faults: tuple[str, ...]


def read_document(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object that can be read in one way only.

    Raises:
        KeySetError: It is none, or it is too large.
    """
    if len(data) > MAX_DOCUMENT:
        raise KeySetError(f"{what} is larger than {MAX_DOCUMENT} bytes")
    try:
        return json_object(data, what)
    except RefusedError as refusal:
        reason = str(refusal)
    raise KeySetError(reason)


def read_key_set(data: bytes, algorithms: tuple[str, ...]) -> KeySet:
    """Bind the keys of a JWK Set to those of the algorithms that fit them.

    A public set holds public keys: a symmetric key or a private one in it is known to everybody, and left out.

    Raises:
        KeySetError: It is no JWK Set, it has too many keys, or none that can be used.
    """
    listed = read_document(data, "JWK Set").get("keys")
    if not isinstance(listed, list):
        raise KeySetError("the document has no list of keys, so it is no JWK Set")
    if len(listed) > _MAX_KEYS:
        raise KeySetError(f"the JWK Set has more than {_MAX_KEYS} keys")
    reading = _Reading(algorithms)
    for number, jwk in enumerate(listed, 1):
        if jwk not in listed[: number - 1]:  # not the same once more
            reading.take(jwk, f"key {number} of the JWK Set")
    return reading.key_set()


class _Reading:
    """The keys of a set, as far as it was read."""

    def __init__(self, algorithms: tuple[str, ...]) -> None:
        self._algorithms = algorithms
        self._named: dict[str, Verifiers] = {}
        self._ambiguous: set[str] = set()
        self._unnamed: list[Verifiers] = []
        self._faults: list[str] = []

    def take(self, jwk: object, where: str) -> None:
        """Read one more key."""
        try:
            kid, verifiers = _read_jwk(jwk, self._algorithms, where)
        except ConfigurationError as error:
            self._faults.append(str(error))
            return
        if not verifiers:
            return
        if kid is None:
            self._unnamed.append(verifiers)
        elif kid not in self._named:
            self._named[kid] = verifiers
        elif self._named[kid].keys().isdisjoint(verifiers):  # one kid for two algorithms: RFC 7517, section 4.5
            self._named[kid] = {**self._named[kid], **verifiers}
        else:
            self._ambiguous.add(kid)
            self._faults.append(f"{where} has the kid of another key, so neither is used")

    def key_set(self) -> KeySet:
        """What can be used of it."""
        usable = {kid: verifiers for kid, verifiers in self._named.items() if kid not in self._ambiguous}
        unnamed = self._unnamed
        if unnamed and len(unnamed) + len(usable) > 1:
            self._faults.append("keys without a kid are left out, because there are others")
            unnamed = []
        if not usable and not unnamed:
            names = ", ".join(self._algorithms)
            raise KeySetError("; ".join([f"the JWK Set has no usable key for {names}", *self._faults]))
        return KeySet(Keys.from_set(usable, unnamed, self._algorithms), tuple(self._faults))


def _read_jwk(jwk: object, algorithms: Collection[str], where: str) -> tuple[str | None, Verifiers]:
    """A key's id, and how it is used; not at all if it is meant for something else.

    Raises:
        ConfigurationError: It should not be in a public set, or cannot be read, or is weak.
    """
    if not isinstance(jwk, Mapping) or not isinstance(jwk.get("kid", ""), str):
        raise ConfigurationError(f"{where} is no JWK")
    if jwk.get("kty") == "oct" or "d" in jwk or "k" in jwk:
        raise ConfigurationError(f"{where} is a secret or a private key, which has no place in a public set")
    operations = jwk.get("key_ops", ["verify"])
    is_for_signatures = jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    # Tuples are searched by comparison: what stands in the set may not be hashable.
    is_of_use = jwk.get("kty") in ("RSA", "EC", "OKP") and ("alg" not in jwk or jwk["alg"] in tuple(algorithms))
    return jwk.get("kid"), bind_jwk(jwk, algorithms, where) if is_for_signatures and is_of_use else {}
