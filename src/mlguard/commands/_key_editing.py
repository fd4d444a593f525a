"""A file of API keys, changed as a whole or not at all, by one at a time."""

import contextlib
from collections.abc import Iterator, MutableMapping
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT

from mlguard._files import locked, replace_file
from mlguard.auth._key_table import KeyTable
from mlguard.auth.key_files import entries_of, file_format, read_entry, read_keys
from mlguard.auth.key_records import APIKey
from mlguard.errors import ConfigurationError
from mlguard.monitoring.events import record_event

Entry = MutableMapping[str, Any]


class KeyFile:
    """A file of API keys to be changed.

    Args:
        path: A ``.toml`` or ``.json`` file. What a symbolic link leads to is changed, and the link stays.

    Raises:
        ConfigurationError: Its name has another ending.
    """

    def __init__(self, path: str) -> None:
        self._suffix = file_format(path)
        self.path = Path(path).resolve()
        self._entries: Any = []
        self._document: Any = None
        self._before: dict[str, APIKey] = {}

    @contextlib.contextmanager
    def editing(self, *, create: bool = False) -> Iterator["KeyFile"]:
        """Hold the file while it is changed. Nothing is written but by :meth:`save`.

        Args:
            create: Whether it may be absent or empty.

        Raises:
            ConfigurationError: No service could use the file as it is.
            OSError: It cannot be read.
        """
        with locked(self.path.parent):
            self._open(self._read(create=create))
            self._before = self._by_key_id()
            yield self

    def save(self) -> None:
        """Write the file, and record for audits what has changed in it.

        Raises:
            ConfigurationError: No service could use the file as it would be. It is as it was.
            OSError: It cannot be written. It is as it was.
        """
        changed = self._spell()
        keys_in(changed, self._suffix, self.path)
        replace_file(self.path, changed, new_mode=0o600)
        before, self._before = self._before, self._by_key_id()
        for key_id, key in self._before.items():
            event = _change(before.get(key_id), key)
            if event is not None:
                record_event(event, key=key_id, principal=key.id, file=self.path.name)

    def _read(self, *, create: bool) -> bytes:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            if create:
                return b""
            raise
        if not create or content.strip():
            keys_in(content, self._suffix, self.path)
        return content

    def _open(self, content: bytes) -> None:
        if self._suffix == ".json":
            self._entries = [*chain.from_iterable(entries_of(content, ".json"))] if content.strip() else []
            return
        try:
            self._document = tomlkit.parse(content.decode())
        except TOMLKitError:
            self._document = None
        if self._document is None:  # said outside of except: the exception holds the text
            raise ConfigurationError(f"{self.path}: this TOML cannot be edited here; edit it by hand, or use JSON")
        self._entries = self._document.setdefault("keys", tomlkit.aot())

    def _spell(self) -> bytes:
        if self._suffix == ".json":
            lines = b",\n".join([orjson.dumps(entry) for entry in self._entries])
            return b'{"keys": [\n' + lines + b"\n]}\n"
        return tomlkit.dumps(self._document).encode()

    def _by_key_id(self) -> dict[str, APIKey]:
        return {key.key_id: key for key, _ in self.keys()}

    def keys(self) -> list[tuple[APIKey, Entry]]:
        """Each key, and its entry, which may be changed."""
        return [
            (read_entry(entry if self._document is None else entry.unwrap(), number), entry)
            for number, entry in enumerate(self._entries, 1)
        ]

    def add(self, key: APIKey, **more: Any) -> None:
        """Add a key.

        Args:
            key: Its record.
            **more: What people want to know beside: ``comment``, ``created``, ``env``.
        """
        entry = {
            "id": key.id,
            "key_id": key.key_id,
            "digest": f"sha256:{key.digest.hex()}",
            "scopes": sorted(key.scopes),
            "limits": list(key.limits),
            "not_before": key.not_before,
            "expires_at": key.expires_at,
            **more,
        }
        kept: Any = {name: self._value(value) for name, value in entry.items() if value or name == "scopes"}
        if self._document is not None and isinstance(self._entries, AoT):
            kept = tomlkit.item(kept, _parent=self._entries)
            kept.trivia.indent = "\n" if len(self._entries) else ""  # a line between two tables
        self._entries.append(kept)

    def let_expire(self, entry: Entry, at: datetime) -> None:
        """Set when a key expires."""
        entry["expires_at"] = self._value(at)

    def _value(self, value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime) and self._document is None else value


def keys_in(content: bytes, suffix: str, path: str | Path) -> KeyTable:
    """The keys that a file holds.

    Raises:
        ConfigurationError: No service could use them. The text names the file, and quotes nothing of it.
    """
    try:
        return read_keys(content, suffix)
    except ConfigurationError as error:
        problem = str(error)
    raise ConfigurationError(f"{path}: {problem}")


def _change(before: APIKey | None, now: APIKey) -> str | None:
    """The event that an audit wants to know of, if a key is another one than before."""
    if before is None:
        return "key.added"
    if now.disabled and not before.disabled:
        return "key.revoked"
    return "key.rotated" if now.expires_at != before.expires_at else None  # another one takes its place
