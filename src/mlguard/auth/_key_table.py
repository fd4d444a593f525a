"""Many keys by digest, without an object for each one that nobody has used yet."""

import re
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from mlguard.auth.key_records import DIGEST, ID, KEY_ID, APIKey, known_scopes
from mlguard.errors import ConfigurationError

#: A key with nothing special about it, checked, as it waits for its first use: id, digest, scopes, key id.
_Waiting = tuple[str, bytes, frozenset[str], str]

_PLAIN = re.compile(f"{ID.pattern} {KEY_ID.pattern} {DIGEST.pattern}", re.ASCII)
_parts = itemgetter("id", "key_id", "digest", "scopes")


class KeyTable:
    """Keys by digest. Each digest and each key id is there once.

    Attributes:
        used: The keys that callers have come with. Of these it is known that the secret has the form that it should.
    """

    __slots__ = ("_by_digest", "_key_ids", "used")

    def __init__(self) -> None:
        self.used: dict[bytes, APIKey] = {}
        self._by_digest: dict[bytes, APIKey | _Waiting] = {}
        self._key_ids: set[str] = set()

    def add(self, key: APIKey) -> bool:
        """Add a key. False if its digest or its key id is there already."""
        return self._add(key.digest, key.key_id, key)

    def add_plain(self, entry: Any) -> bool:
        """Add the key of a file's entry if it has just the usual members and all is well with them.

        Of 100 000 keys nearly all are like this, and making a record of each takes most of the time.
        """
        try:
            name, key_id, digest_text, scopes = _parts(entry)
            if len(entry) > 4 + ("created" in entry) or type(scopes) is not list:
                return False
            if _PLAIN.fullmatch(" ".join((name, key_id, digest_text))) is None:
                return False
            digest = bytes.fromhex(digest_text[7:])
            waiting = (name, digest, known_scopes(frozenset(scopes)), key_id)
        except (KeyError, TypeError, ConfigurationError):  # whoever looks closer says what is wrong
            return False
        return self._add(digest, key_id, waiting)

    def _add(self, digest: bytes, key_id: str, key: APIKey | _Waiting) -> bool:
        if digest in self._by_digest or key_id in self._key_ids:
            return False
        self._by_digest[digest] = key
        self._key_ids.add(key_id)
        return True

    def get(self, digest: bytes) -> APIKey | None:
        """The key with this digest."""
        key = self._by_digest.get(digest)
        return _made(key) if type(key) is tuple else key  # type: ignore[return-value]  # mypy knows no exact types

    def __contains__(self, digest: object) -> bool:
        return digest in self._by_digest

    def __iter__(self) -> Iterator[APIKey]:
        for key in list(self._by_digest.values()):
            yield key if isinstance(key, APIKey) else _made(key)

    def named(self, name: str) -> list[APIKey]:
        """The keys with this id or key id."""
        return [key for key in self if name in {key.id, key.key_id}]

    def __len__(self) -> int:
        return len(self._by_digest)


def _made(waiting: _Waiting) -> APIKey:
    name, digest, scopes, key_id = waiting
    return APIKey(name, digest, scopes, key_id=key_id)
