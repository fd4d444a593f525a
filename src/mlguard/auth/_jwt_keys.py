"""The keys of ``JWTAuth``: each is bound to the algorithms that fit it, once, when the guard is built.

A public key that is taken for a shared secret lets anybody sign (RFC 8725, section 2.1). So what a key is decides which
algorithms it may be used with, and never what a token says.
"""

import base64
import json
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import load_der_x509_certificate
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import Key, OctKey, import_key
from joserfc.jws import JWSRegistry

from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError

T = TypeVar("T")

#: A secret, or a public key.
_Material = bytes | PublicKeyTypes

#: How one key checks signatures, by the name of the algorithm.
Verifiers = Mapping[str, tuple[JWSAlgModel, Key]]

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
_SSH_PREFIXES = (b"ssh-", b"ecdsa-sha2-", b"sk-ssh-", b"sk-ecdsa-")
_DER_LOADERS: tuple[Callable[[bytes], object], ...] = (
    load_der_public_key,
    load_der_x509_certificate,
    lambda form: load_der_private_key(form, None),
)
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

    def __init__(self, key: object, algorithms: object) -> None:
        self._algorithms = checked_algorithms(algorithms)
        self._named: dict[str, Verifiers] = {}
        if isinstance(key, Mapping) and "kty" not in key:
            for number, (kid, one) in enumerate(key.items(), 1):
                if not isinstance(kid, str) or not kid:
                    raise ConfigurationError("key as a mapping must be {kid: key}, each kid a string that is not empty")
                # Named by its place, not by its kid: the two may have been swapped.
                self._named[kid] = _bind(one, self._algorithms, f"entry {number} of the key mapping")
            loaded = list(self._named.values())
        else:
            loaded = [_bind(key, self._algorithms, "key")]
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


def _bind(key: object, algorithms: Collection[str], where: str) -> Verifiers:
    """Bind a key to those of the algorithms that fit it."""
    with warnings.catch_warnings():
        # What joserfc and cryptography warn of is refused here, in words that name the setting.
        warnings.simplefilter("ignore")
        material, designed = _material(key, where)
        verifiers = _bound(material, designed, algorithms)
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
        return _bound(*_material(jwk, where), algorithms)


def _bound(material: _Material, designed: str | None, algorithms: Collection[str]) -> Verifiers:
    fitting = [name for name in algorithms if _fits(material, name) and designed in {None, name}]
    if not fitting:
        return {}
    loaded = _for_joserfc(material)
    # joserfc 1.4 knows Ed25519 by its older name only.
    models = {name: JWSRegistry.algorithms["EdDSA" if name == "Ed25519" else name] for name in fitting}
    return {name: (model, loaded) for name, model in models.items()}


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
    pem = material.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return import_key(pem, _KEY_TYPES[_kind(material)])


def _material(key: object, where: str) -> tuple[_Material, str | None]:
    """The secret or the public key, and the algorithm that a JWK says it is for."""
    designed = None
    if isinstance(key, Mapping):
        key = _attempt(import_key, dict(key))
    if isinstance(key, str | bytes):
        material = _from_text(key, where)
    elif isinstance(key, Key) and _attempt(key.as_dict) is not None:  # on a curve that joserfc does not know it fails
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
    return material, designed


def _from_text(text: str | bytes, where: str) -> _Material:
    """The public key if there is one in it, else the secret that it is. A key in another form is not taken for one."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    public_key = _attempt(load_pem_public_key, data)
    if public_key is None:
        private_key = _attempt(load_pem_private_key, data, None)
        public_key = private_key.public_key() if private_key is not None else None
    if public_key is not None:
        return public_key
    if _is_key_in_another_form(data):
        raise ConfigurationError(
            f"{where} looks like a key that is no secret and no readable PEM: "
            "pass a public key as PEM with its line breaks (of a certificate: openssl x509 -pubkey), a JWK as a dict"
        )
    return secret_bytes(text, where=where)


def _is_key_in_another_form(data: bytes) -> bool:
    """Whether it is a public key, a certificate or a JWK all the same, as it is or as variables carry it.

    The bare bytes of an Ed25519 key or of a point on a curve look as random as a secret: they cannot be told.
    """
    return any(_is_key(form) for form in _decodings(data))


def _decodings(data: bytes) -> list[bytes]:
    """The data as it is, from UTF-16, from base64 in either alphabet with or without padding, and from hex."""
    text = b"".join(data.split()).strip(b"\"'").rstrip(b"=")
    return [
        data,
        data.replace(b"\0", b""),
        _attempt(base64.urlsafe_b64decode, text + b"=" * (-len(text) % 4)) or b"",
        _attempt(bytes.fromhex, text.decode("latin-1")) or b"",
    ]


def _is_key(form: bytes) -> bool:
    text = form.strip()
    if b"--BEGIN " in text or b"-- BEGIN " in text:
        return True
    if text.startswith(_SSH_PREFIXES) or text[4:].startswith(_SSH_PREFIXES):  # after its length, as base64 carries it
        return True
    return isinstance(_attempt(json.loads, text), dict | list) or any(
        _attempt(load, form) is not None for load in _DER_LOADERS
    )


def _attempt(load: Callable[..., T], *args: object) -> T | None:
    """What a loader returns, or None: its own exception could quote the key."""
    with suppress(Exception):
        return load(*args)
    return None
