"""The keys of ``JWTAuth``: each is bound to the algorithms that fit it, once, when the guard is built.

A public key that is taken for a shared secret lets anybody sign (RFC 8725, section 2.1). So what a key is decides which
algorithms it may be used with, and never what a token says.
"""

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import Key, OctKey, import_key
from joserfc.jws import JWSRegistry

from mlguard.auth._key_forms import attempt, is_key
from mlguard.auth._published import has_private_key_in_print
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError

#: A secret, or a public key.
_Material = bytes | PublicKeyTypes

#: Another library in the place of joserfc. Given an algorithm and a key (the bytes of a secret, or a public key in
#: PEM), it returns what says whether a signature holds: ``(signing_input, signature) -> bool``.
Engine = Callable[[str, bytes], Callable[[bytes, bytes], bool]]


class Model(Protocol):
    """What is needed of joserfc's model of an algorithm."""

    def verify(self, msg: bytes, sig: bytes, key: Any, /) -> bool: ...


class _EngineModel:
    """One algorithm and one key of an engine, in the place of joserfc's model."""

    def __init__(self, engine: Engine, algorithm: str, key: bytes, where: str) -> None:
        verify = attempt(engine, algorithm, key)
        if not callable(verify):
            raise ConfigurationError(
                f"{where}: the engine cannot check {algorithm}; take it out of algorithms, or leave engine out"
            )
        self._verify = verify

    def verify(self, msg: bytes, sig: bytes, key: object, /) -> bool:  # noqa: ARG002  # the engine has its key
        """Whether the signature holds. Nothing but a plain yes is one."""
        return attempt(self._verify, msg, sig) is True


#: How one key checks signatures, by the name of the algorithm.
Verifiers = Mapping[str, tuple[Model, Key]]

#: What a key must be for each algorithm that may be used: the least bytes of a secret (RFC 7518, section 3.2), or the
#: kind of a public key.
_NEEDS: dict[str, int | str] = {
    "HS256": 32,
    "HS384": 48,
    "HS512": 64,
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "ES256": "P-256",
    "ES384": "P-384",
    "EdDSA": "Ed25519",
    "Ed25519": "Ed25519",  # the same algorithm under its fully specified name, RFC 9864
}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384"}
_KEY_TYPES: dict[str, Literal["RSA", "EC", "OKP"]] = {"RSA": "RSA", "P-256": "EC", "P-384": "EC", "Ed25519": "OKP"}
_MIN_RSA_BITS = 2048  # RFC 7518, section 3.3


@dataclass(frozen=True, slots=True)
class KeyHealth:
    """Whether tokens can be verified at the moment, and with what.

    Attributes:
        keys: How many keys there are; 0 if no token can be verified.
        age: Seconds since they were loaded; None for keys that were never loaded, or are no file and no URL.
        failure: Why they could not be loaded the last time; None if they could.
    """

    keys: int
    age: float | None
    failure: str | None


class Keys:
    """The keys of one guard, by key id or a single one without.

    Raises:
        ConfigurationError: A key that cannot be read, is weak or fits no algorithm; an algorithm that no key fits.
    """

    def __init__(self, key: object, algorithms: object, engine: Engine | None = None) -> None:
        if engine is not None and not callable(engine):
            raise ConfigurationError("engine must be a function, such as mlguard.compat.jose.jose_engine, or left out")
        self._algorithms = checked_algorithms(algorithms)
        self._named: dict[str, Verifiers] = {}
        if isinstance(key, Mapping) and "kty" not in key:
            for number, (kid, one) in enumerate(key.items(), 1):
                if not isinstance(kid, str) or not kid:
                    raise ConfigurationError("key as a mapping must be {kid: key}, each kid a string that is not empty")
                # Named by its place, not by its kid: the two may have been swapped.
                self._named[kid] = _bind(one, self._algorithms, f"entry {number} of the key mapping", engine)
            loaded = list(self._named.values())
        else:
            loaded = [_bind(key, self._algorithms, "key", engine)]
        #: For tokens that name no key.
        self._only = loaded[0] if len(loaded) == 1 else None
        unused = [name for name in self._algorithms if not any(name in verifiers for verifiers in loaded)]
        if unused:
            raise ConfigurationError(
                f"algorithms lists what no key fits: {', '.join(map(_describe_need, unused))}; "
                "add such a key, or take it out of algorithms"
            )

    @classmethod
    def from_set(
        cls, named: Mapping[str, Verifiers], unnamed: Collection[Verifiers], algorithms: tuple[str, ...]
    ) -> Self:
        """The keys of a JWK Set, each bound already.

        Args:
            named: Those with a key id.
            unnamed: Those without. One can serve only if it is the only key.
            algorithms: Which are used.
        """
        keys = cls.__new__(cls)
        keys._algorithms = algorithms
        keys._named = {**named}
        loaded = [*named.values(), *unnamed]
        keys._only = loaded[0] if len(loaded) == 1 else None
        return keys

    def __len__(self) -> int:
        return len(self._named) or 1

    def __repr__(self) -> str:
        return f"{len(self)} keys for {', '.join(self._algorithms)}"

    @property
    def health(self) -> KeyHealth:
        """Keys from the configuration are always there."""
        return KeyHealth(len(self), None, None)

    def check(self) -> None:
        """There is nothing left to check."""

    def fresh(self) -> Self:
        """These keys never change."""
        return self

    async def newer_than(self, seen: object) -> Self:  # noqa: ARG002  # as keys that do change
        """There are no newer ones."""
        return self

    def find(self, header: Mapping[str, Any]) -> Verifiers | None:
        """The key for a token with this header. Its ``kid`` is compared, and used for nothing else."""
        if "kid" not in header:
            return self._only
        kid = header["kid"]
        if not isinstance(kid, str):
            return None
        return self._named.get(kid) if self._named else self._only


def checked_algorithms(algorithms: object) -> tuple[str, ...]:
    """The algorithms, each once.

    Raises:
        ConfigurationError: None at all, or one that is not allowed.
    """
    if isinstance(algorithms, str) or not isinstance(algorithms, Collection) or not algorithms:
        raise ConfigurationError('algorithms must list at least one algorithm, such as algorithms=["RS256"]')
    for number, name in enumerate(algorithms, 1):
        if not isinstance(name, str) or name not in _NEEDS:
            # Not quoted: arguments get swapped, and then it is a secret.
            raise ConfigurationError(f"algorithms, entry {number}, is not one of {', '.join(_NEEDS)}")
    return tuple(dict.fromkeys(algorithms))


def _describe_need(algorithm: str) -> str:
    need = _NEEDS[algorithm]
    wanted = f"a secret of at least {need} bytes" if isinstance(need, int) else f"a {need} key"
    return f"{algorithm} ({wanted})"


def _bind(key: object, algorithms: Collection[str], where: str, engine: Engine | None) -> Verifiers:
    """Bind a key to those of the algorithms that fit it."""
    with warnings.catch_warnings():
        # What joserfc and cryptography warn of is refused here, in words that name the setting.
        warnings.simplefilter("ignore")
        material, designed = _material(key, where)
        verifiers = _bound(material, designed, algorithms, engine, where)
    if not verifiers:
        kind = f"a secret of {len(material)} bytes" if isinstance(material, bytes) else f"a {_kind(material)} key"
        raise ConfigurationError(
            f"{where} is {kind}{f' made for {designed}' if designed in _NEEDS else ''}, "
            f"which fits none of algorithms: {', '.join(map(_describe_need, algorithms))}"
        )
    return verifiers


def bind_jwk(jwk: Mapping[str, Any], algorithms: Collection[str], where: str) -> Verifiers:
    """Bind a public key of a JWK Set to those of the algorithms that fit it, perhaps to none.

    Raises:
        ConfigurationError: It cannot be read, or is weak.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        return _bound(*_material(jwk, where), algorithms, None, where)


def _bound(
    material: _Material, designed: str | None, algorithms: Collection[str], engine: Engine | None, where: str
) -> Verifiers:
    fitting = [name for name in algorithms if _fits(material, name) and designed in {None, name}]
    if not fitting:
        return {}
    loaded = _for_joserfc(material)
    if engine is not None:
        data = material if isinstance(material, bytes) else _pem(material)
        return {name: (_EngineModel(engine, name, data, where), loaded) for name in fitting}
    return {name: (model_of(name), loaded) for name in fitting}


def model_of(algorithm: str) -> JWSAlgModel:
    """Joserfc's own model of an algorithm."""
    # joserfc 1.4 knows Ed25519 by its older name only.
    return JWSRegistry.algorithms["EdDSA" if algorithm == "Ed25519" else algorithm]


def _fits(material: _Material, algorithm: str) -> bool:
    need = _NEEDS[algorithm]
    if isinstance(material, bytes):
        return isinstance(need, int) and len(material) >= need
    return _kind(material) == need


def _kind(public_key: PublicKeyTypes) -> str:
    if isinstance(public_key, RSAPublicKey):
        return "RSA"
    if isinstance(public_key, EllipticCurvePublicKey):
        return _CURVES.get(public_key.curve.name, public_key.curve.name)
    return "Ed25519" if isinstance(public_key, Ed25519PublicKey) else "unsupported"


def _for_joserfc(material: _Material) -> Key:
    if isinstance(material, bytes):
        return OctKey.import_key(material)
    return import_key(_pem(material), _KEY_TYPES[_kind(material)])


def _pem(public_key: PublicKeyTypes) -> bytes:
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _material(key: object, where: str) -> tuple[_Material, str | None]:
    """The secret or the public key, and the algorithm that a JWK says it is for."""
    designed = None
    if isinstance(key, Mapping):
        key = attempt(import_key, dict(key))
    if isinstance(key, str | bytes):
        material = _from_text(key, where)
    elif isinstance(key, Key) and attempt(key.as_dict) is not None:  # on a curve that joserfc does not know it fails
        designed = key.alg
        uses = key.get("key_ops", ["verify"])
        if key.get("use", "sig") != "sig" or {"verify", "sign"}.isdisjoint(uses or ()):
            raise ConfigurationError(f"{where} is a JWK that is not for signatures: see its use and key_ops")
        material = _from_text(key.raw_value, where) if isinstance(key, OctKey) else key.public_key
    else:
        raise ConfigurationError(
            f"{where} must be a secret, a PEM public key, a joserfc Key or a valid JWK; "
            'for a JWK Set pass {jwk["kid"]: jwk for jwk in jwks["keys"]}'
        )
    if isinstance(material, RSAPublicKey) and material.key_size < _MIN_RSA_BITS:
        raise ConfigurationError(f"{where} is an RSA key of {material.key_size} bits: use at least {_MIN_RSA_BITS}")
    if not isinstance(material, bytes) and has_private_key_in_print(material):
        raise ConfigurationError(
            f"{where} belongs to a private key that is printed in documentation, so anybody can sign: make a new pair"
        )
    return material, designed


def _from_text(text: str | bytes, where: str) -> _Material:
    """The public key if there is one in it, else the secret that it is. A key in another form is not taken for one."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    public_key = attempt(load_pem_public_key, data)
    if public_key is None:
        private_key = attempt(load_pem_private_key, data, None)
        public_key = private_key.public_key() if private_key is not None else None
    if public_key is not None:
        return public_key
    if is_key(data):
        raise ConfigurationError(
            f"{where} looks like a key that is no secret and no readable PEM: "
            "pass a public key as PEM with its line breaks (of a certificate: openssl x509 -pubkey), a JWK as a dict"
        )
    return secret_bytes(text, where=where)
