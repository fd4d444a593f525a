"""Tokens in the place of values, from which whoever has the key gets the values back."""

from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mlguard._base64url import decode, encode
from mlguard.privacy._key_rings import key_ring, purpose_bytes, text_bytes

_FORM = b"mlguard reversible token 1"
_AES_SIV_256 = 64  # bytes of key: one AES-256 for the authenticator, one for the cipher (RFC 5297)
_NOT_OURS = "this is no token of these keys and this purpose, or it was altered"


class ReversibleTokens:
    """Puts tokens in the place of values, and gets the values back: encryption, by AES-SIV (RFC 5297).

    For what must be had back, such as an address to write to. Where nobody needs the value again, use
    ``Pseudonymiser``: what cannot be turned back cannot be stolen with the key.

    The same value under the same key and purpose has the same token, so that tokens can be joined, and be unique in a
    table. That is why it is AES-SIV, which needs no nonce, and not AES-GCM, which loses everything with one that is
    used twice. It shows which values are equal, and how long they are: a token is 17 bytes longer, in base64url.

    To the GDPR it is pseudonymisation (article 4(5)): a token is still a personal datum.

    A token is ``t1.<key id>.<base64url>``. It opens under its own purpose only.

    Args:
        keys: Secrets by key id, at least 128 bits each, such as ``{"2026-11": secret}``. The first one makes tokens,
            all of them open. To rotate, put a new one first. An id is public.

    Raises:
        ConfigurationError: No key, an id that cannot be written, a secret that can be guessed or that is there twice.
    """

    def __init__(self, keys: Mapping[str, str | bytes]) -> None:
        ring = key_ring(keys, where="ReversibleTokens")
        self._ciphers = {key_id: AESSIV(_derived(secret)) for key_id, secret in ring.items()}

    def token(self, value: str, *, purpose: str) -> str:
        """The value's token under the newest key.

        Args:
            value: What to hide, as it shall come back.
            purpose: What it is for, such as ``"billing"``: needed again to get the value back.

        Raises:
            ConfigurationError: The purpose is no text, or empty.
            TypeError: The value is no str.
            ValueError: It has halves of surrogate pairs.
        """
        if not isinstance(value, str):
            raise TypeError(f"a value is a str, and not {type(value).__name__}")
        key_id, cipher = next(iter(self._ciphers.items()))
        # With a byte before it, because older releases of cryptography do not encrypt an empty text.
        sealed = cipher.encrypt(b"\0" + text_bytes(value), _bound(key_id, purpose))
        return f"t1.{key_id}.{encode(sealed)}"

    def value(self, token: str, *, purpose: str) -> str:
        """The value that a token stands for.

        Raises:
            ConfigurationError: The purpose is no text, or empty.
            ValueError: It is no token, one of another key or purpose, or altered. The error does not tell which.
        """
        form, _, rest = str(token).partition(".")
        key_id, _, sealed = rest.partition(".")
        bound = _bound(key_id, purpose)
        cipher, content = self._ciphers.get(key_id), decode(sealed)
        if form != "t1" or cipher is None or content is None:
            raise ValueError(_NOT_OURS)
        try:
            opened = cipher.decrypt(content, bound)
        except (InvalidTag, ValueError):
            raise ValueError(_NOT_OURS) from None
        return opened[1:].decode()

    def __repr__(self) -> str:
        return f"ReversibleTokens(keys={list(self._ciphers)})"


def _derived(secret: bytes) -> bytes:
    """A key of the length that AES-SIV takes, and of no use elsewhere."""
    return HKDF(SHA256(), _AES_SIV_256, salt=None, info=_FORM).derive(secret)


def _bound(key_id: str, purpose: str) -> list[bytes]:
    """What a token is bound to. AES-SIV keeps the parts of associated data apart by itself."""
    return [_FORM, text_bytes(key_id), purpose_bytes(purpose, where="ReversibleTokens")]
