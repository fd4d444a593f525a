"""Keys that encrypt keys: each model has a data key of its own, and these wrap it."""

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from joserfc.jwk import OctKey
from pydantic import SecretBytes, SecretStr

from mlguard.artifacts._tink import aes_256_gcm, load_tink
from mlguard.auth.secrets import check_strength, secret_bytes
from mlguard.errors import ConfigurationError

#: Bytes of a key: AES-256.
KEY_BYTES = 32
#: Characters of a key's id: 96 bits of a digest, so that two keys never share one by chance.
ID_LENGTH = 16

_MOST_KEYS = 32
_PRINTABLE = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\r\n")
_WHERE = "the key for models"
_FIX = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


class ModelKey:
    """A key-encryption key: it encrypts the data keys of model files, and nothing else.

    Its id stands in every file that was encrypted under it, so that the right key is found among several, and told when
    it is missing. It is the beginning of the key's RFC 7638 thumbprint, from which nobody gets the key.

    Args:
        secret: 32 random bytes; or these in base64 or base64url, with or without padding. Use it for nothing else.

    Attributes:
        id: Sixteen characters.

    Raises:
        ConfigurationError: It is something else, or it can be guessed.
    """

    __slots__ = ("_secret", "id")

    def __init__(self, secret: str | bytes | SecretStr | SecretBytes) -> None:
        self._secret = _key_bytes(secret)
        self.id: str = OctKey.import_key(self._secret).thumbprint()[:ID_LENGTH]

    def __repr__(self) -> str:
        return f"ModelKey(id={self.id!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a ModelKey is not written anywhere")

    def wrap(self, data_key: bytes, bound: bytes) -> bytes:
        """Encrypt a data key by AES-256-GCM.

        Args:
            data_key: What is encrypted.
            bound: Associated data: without exactly this it cannot be decrypted.
        """
        wrapped: bytes = aes_256_gcm(self._secret).encrypt(data_key, bound)
        return wrapped

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes | None:
        """Decrypt a data key. None: it, or what it is bound to, is not what was wrapped with this key."""
        try:
            data_key: bytes = aes_256_gcm(self._secret).decrypt(wrapped, bound)
        except load_tink().TinkError:
            return None
        return data_key


OneKey: TypeAlias = ModelKey | str | bytes | SecretStr | SecretBytes
#: One key, or several of which the first encrypts and all decrypt; or a function that returns them, called at each use.
KeySource: TypeAlias = OneKey | Sequence[OneKey] | Callable[[], OneKey | Sequence[OneKey]]


def model_keys(source: KeySource) -> list[ModelKey]:
    """The keys of a source, the one that encrypts first.

    Raises:
        ConfigurationError: There is none, one is none, or there are more than 32.
    """
    keys: Any = source() if callable(source) else source
    if isinstance(keys, ModelKey | str | bytes | SecretStr | SecretBytes):
        keys = [keys]
    if not isinstance(keys, Iterable):
        raise ConfigurationError(f"{_WHERE} is a ModelKey, str or bytes, or a sequence of them; {_FIX}")
    found = [key if isinstance(key, ModelKey) else ModelKey(key) for key in keys]
    if not 0 < len(found) <= _MOST_KEYS:
        raise ConfigurationError(f"{_WHERE}: there are {len(found)} keys, and 1 to {_MOST_KEYS} can be used; {_FIX}")
    return found


def _key_bytes(secret: object) -> bytes:
    if isinstance(secret, SecretStr | SecretBytes):
        secret = secret.get_secret_value()
    if isinstance(secret, str):
        key = _from_base64(secret_bytes(secret, where=_WHERE))
    elif isinstance(secret, bytes):
        key = b"" if _PRINTABLE.issuperset(secret) else secret
    else:
        raise ConfigurationError(f"{_WHERE} is a ModelKey, str or bytes, and set; {_FIX}")
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{_WHERE} is not {KEY_BYTES} random bytes, as bytes, or in base64 as str: a password is no key; {_FIX}"
        )
    check_strength(key, where=_WHERE)
    return key


def _from_base64(text: bytes) -> bytes:
    """What a text is the base64 of, in either alphabet; nothing if it is of none, or written in an unusual way."""
    plain = text.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        key = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return b""
    return key if base64.b64encode(key).rstrip(b"=") == plain else b""
