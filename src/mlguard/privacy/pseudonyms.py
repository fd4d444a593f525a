"""Pseudonyms: the same person, the same text, and no way back without the key."""

import hmac
import re
from collections.abc import Mapping

from mlguard._base64url import encode
from mlguard.privacy._key_rings import key_ring, purpose_bytes, text_bytes

_CONTEXT = b"mlguard pseudonym 1\0"  # so that this key, used for something else, makes no pseudonym
_DIGEST = 43  # characters of 256 bits in base64url


class Pseudonymiser:
    """Gives persons pseudonyms: one for each value and purpose, the same every time, by HMAC-SHA-256 (RFC 2104).

    For joining and counting without knowing whom: logs, analytics, training data. Who has the pseudonyms and not the
    key cannot find a value by trying all; of a hash that is salted in the code, whoever has read the code can. The same
    person under two purposes has two pseudonyms, which nobody joins without the key.

    Who has the key finds values by trying them. To the GDPR that is pseudonymisation (article 4(5)): a pseudonym is
    still a personal datum. It shows, too, which records are of one person, and how many.

    A pseudonym is ``p1.<key id>.<43 characters of base64url>``.

    Args:
        keys: Secrets by key id, at least 128 bits each, such as ``{"2026-11": secret}``. The first one makes
            pseudonyms; :meth:`matches` and :meth:`all_pseudonyms` know all. To rotate, put a new one first. An id is
            public.

    Raises:
        ConfigurationError: No key, an id that cannot be written, a secret that can be guessed or that is there twice.
    """

    def __init__(self, keys: Mapping[str, str | bytes]) -> None:
        self._keys = key_ring(keys, where="Pseudonymiser")
        ids = "|".join(map(re.escape, self._keys))
        self._form = re.compile(rf"(?<![\w.-])p1\.(?:{ids})\.[\w-]{{{_DIGEST}}}(?![\w-])", re.ASCII)

    def pseudonym(self, value: str | bytes, *, purpose: str) -> str:
        """The value's pseudonym under the newest key.

        Args:
            value: Whatever names the person, written in one way: ``" Jane@X.org"`` and ``"jane@x.org"`` are two values
                here. A text and its UTF-8 are one.
            purpose: What it is for, such as ``"analytics"``.

        Raises:
            ConfigurationError: The purpose is no text, or empty.
            TypeError: The value is neither str nor bytes.
            ValueError: It has halves of surrogate pairs.
        """
        return self._make(next(iter(self._keys)), _message(value, purpose))

    def all_pseudonyms(self, value: str | bytes, *, purpose: str) -> list[str]:
        """The value's pseudonym under each key, newest first, to look it up where older ones are kept.

        Raises:
            ConfigurationError, TypeError, ValueError: As for :meth:`pseudonym`.
        """
        message = _message(value, purpose)
        return [self._make(key_id, message) for key_id in self._keys]

    def matches(self, value: str | bytes, pseudonym: str, *, purpose: str) -> bool:
        """Whether it is the value's pseudonym, under any of the keys. Takes as long for a wrong one as for a right one.

        Raises:
            ConfigurationError, TypeError, ValueError: As for :meth:`pseudonym`.
        """
        given = text_bytes(pseudonym)
        found = [hmac.compare_digest(one.encode(), given) for one in self.all_pseudonyms(value, purpose=purpose)]
        return any(found)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where a text has what looks like pseudonyms under these keys."""
        return [match.span() for match in self._form.finditer(text)] if "p1." in text else []

    def _make(self, key_id: str, message: bytes) -> str:
        digest = hmac.digest(self._keys[key_id], message, "sha256")
        return f"p1.{key_id}.{encode(digest)}"

    def __repr__(self) -> str:
        return f"Pseudonymiser(keys={list(self._keys)})"


def _message(value: str | bytes, purpose: str) -> bytes:
    """Purpose and value in one, so that no other two make the same: the purpose goes with its length."""
    name = purpose_bytes(purpose, where="Pseudonymiser.pseudonym")
    return _CONTEXT + len(name).to_bytes(8) + name + text_bytes(value)
