"""The keys that sign models: ECDSA on the curve P-256, in PEM or ready, and nothing else."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from mlguard.errors import ConfigurationError

#: A public key: PEM, the path of a PEM file, or ready.
PublicKey: TypeAlias = str | bytes | os.PathLike[str] | EllipticCurvePublicKey
#: A private key, in the same forms.
PrivateKey: TypeAlias = str | bytes | os.PathLike[str] | EllipticCurvePrivateKey

_MAX_PEM = 16_384  # bytes; a key has a few hundred
_MAX_KEYS = 32
_MAKE_ONE = "make one with: openssl ecparam -name prime256v1 -genkey -noout -out model-key.pem"


def key_id(key: EllipticCurvePublicKey) -> str:
    """Names a public key: the SHA-256 of its PEM in hex, as ``sha256sum`` prints it and as ``model_signing`` hints."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def public_keys(keys: PublicKey | Sequence[PublicKey]) -> dict[str, EllipticCurvePublicKey]:
    """The keys by their ids, from one key or from several.

    Raises:
        ConfigurationError: One is no public P-256 key, cannot be read, or there is none.
    """
    several = isinstance(keys, Sequence) and not isinstance(keys, str | bytes)
    given: Sequence[object] = keys if several else [keys]  # type: ignore[assignment]  # not narrowed by the above
    if not 1 <= len(given) <= _MAX_KEYS:
        raise ConfigurationError(f"key is one public key, or a list of 1 to {_MAX_KEYS}")
    loaded = [_public_key(key, f"key, entry {number}," if several else "key") for number, key in enumerate(given, 1)]
    return {key_id(key): key for key in loaded}


def private_key(key: PrivateKey, password: str | bytes | None) -> EllipticCurvePrivateKey:
    """The key that signs.

    Raises:
        ConfigurationError: It is no private P-256 key, cannot be read, or the password does not open it.
    """
    if password is not None and (not isinstance(password, str | bytes) or not password):
        raise ConfigurationError("password is a text, or left out for a key that has none")
    loaded: object = key
    if isinstance(key, str | bytes | os.PathLike):
        pem = read_pem(key, "key")
        secret = password.encode() if isinstance(password, str) else password
        try:
            loaded = load_pem_private_key(pem, secret)
        except Exception:  # its text could quote the key
            raise ConfigurationError(
                f"key is no private key in PEM, or password does not open it; {_MAKE_ONE}"
            ) from None
    if not isinstance(loaded, EllipticCurvePrivateKey) or not isinstance(loaded.curve, SECP256R1):
        raise ConfigurationError(f"key must be a private EC key on the curve P-256, to sign models; {_MAKE_ONE}")
    return loaded


def _public_key(key: object, where: str) -> EllipticCurvePublicKey:
    loaded = key
    if isinstance(key, str | bytes | os.PathLike):
        pem = read_pem(key, where)
        if b"PRIVATE KEY" in pem:
            raise ConfigurationError(
                f"{where} is a private key: who verifies needs the public one only, and could sign with this one; "
                "take it out with: openssl ec -in model-key.pem -pubout"
            )
        if pem.count(b"-----BEGIN") > 1:
            raise ConfigurationError(f"{where} holds several keys in one PEM: pass a list of them")
        try:
            loaded = load_pem_public_key(pem)
        except Exception:
            raise ConfigurationError(f"{where} is no public key in PEM that can be read") from None
    if isinstance(loaded, EllipticCurvePrivateKey):
        raise ConfigurationError(f"{where} is a private key: pass its public_key()")
    if not isinstance(loaded, EllipticCurvePublicKey) or not isinstance(loaded.curve, SECP256R1):
        raise ConfigurationError(f"{where} must be a public EC key on the curve P-256: models are signed with no other")
    return loaded


def read_pem(key: str | bytes | os.PathLike[str], where: str) -> bytes:
    """The text of a key, from itself or from its file. A text that begins no PEM is the path of a file."""
    if isinstance(key, bytes):
        return key
    if isinstance(key, str) and "-----BEGIN" in key:
        return key.encode("utf-8", "replace")
    try:
        with Path(key).open("rb") as file:
            return file.read(_MAX_PEM)
    except (OSError, ValueError) as error:
        # Not quoted: it may be a mistyped key.
        raise ConfigurationError(
            f"{where} is neither PEM nor the path of a file that can be read ({type(error).__name__})"
        ) from None
