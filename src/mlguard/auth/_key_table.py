"""Many keys by digest, without an object for each one that nobody has used yet."""

import re
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from mlguard.auth.key_records import DIGEST, ID, KEY_ID, APIKey, known_scopes
from mlguard.errors import ConfigurationError

#: A key with nothing special about it, checked, as it waits for its first use: id, key id, number of its scopes. The
#: garbage collector does not look into tuples of these, of which a table may have many.
_Waiting = tuple[str, str, int]

_PLAIN = re.compile(f"{ID.pattern} {KEY_ID.pattern} {DIGEST.pattern}", re.ASCII)
_parts = itemgetter("id", "key_id", "digest", "scopes")


class KeyTable:
    """Keys by digest. Each digest and each key id is there once.

    Attributes:
        used: The keys that callers have come with. Of these it is known that the secret has the form that it should.
    """

    __slots__ = ("_by_digest", "_key_ids", "_numbers", "_scopes", "used")

    def __init__(self) -> None:
        self._scopes: list[frozenset[str]] = []
        self._numbers: dict[frozenset[str], int] = {}  # where in the list a set of scopes is
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
            allowed = known_scopes(frozenset(scopes))
        except (KeyError, TypeError, ConfigurationError):  # whoever looks closer says what is wrong
            return False
        number = self._numbers.setdefault(allowed, len(self._scopes))
        if number == len(self._scopes):
            self._scopes.append(allowed)
        return self._add(digest, key_id, (name, key_id, number))

    def _add(self, digest: bytes, key_id: str, key: APIKey | _Waiting) -> bool:
        if digest in self._by_digest or key_id in self._key_ids:
            return False
        self._by_digest[digest] = key
        self._key_ids.add(key_id)
        return True

    def get(self, digest: bytes) -> APIKey | None:
        """The key with this digest."""
        key = self._by_digest.get(digest)
        return self._made(digest, key) if isinstance(key, tuple) else key

    def __contains__(self, digest: object) -> bool:
        return digest in self._by_digest

    def __iter__(self) -> Iterator[APIKey]:
        for digest, key in list(self._by_digest.items()):
            yield self._made(digest, key) if isinstance(key, tuple) else key

    def named(self, name: str) -> list[APIKey]:
        """The keys with this id or key id."""
        return [key for key in self if name in {key.id, key.key_id}]

    def __len__(self) -> int:
        return len(self._by_digest)

    def _made(self, digest: bytes, waiting: _Waiting) -> APIKey:
        name, key_id, number = waiting
        return APIKey(name, digest, self._scopes[number], key_id=key_id)
