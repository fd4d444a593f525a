"""Which records of logs are about a person, and what was sealed for them in these."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlguard.privacy._json_lines import UNREADABLE, Record, read_lines
from mlguard.privacy.subject_keys import SubjectKeys

_DEEPEST = 100  # levels of a record


class _TooDeepError(Exception):
    """A record has more levels than anybody writes."""


class About:
    """Finds the records that are about one person.

    Args:
        subject: Who, as what is sealed is sealed for.
        keys: Opens it.
        names: What stands for them in records.
        fields: Which members of records name a person.

    Attributes:
        records: Those that were found, with what was sealed for them opened.
        unread: What could not be read or opened.
    """

    def __init__(
        self, subject: str, *, keys: SubjectKeys | None, names: frozenset[str], fields: frozenset[str]
    ) -> None:
        self.records: list[Record] = []
        self.unread: list[str] = []
        self._keys = keys
        self._names = names
        self._fields = fields
        key_id = keys.key_id(subject) if keys is not None else None
        self._sealed = None if key_id is None else re.compile(rf"s1\.{key_id}\.[A-Za-z0-9_-]+")
        self._is_about = False
        self._unopened = 0

    def look_into(self, logs: Iterable[str | os.PathLike[str] | Mapping[str, Any]]) -> None:
        """Find what is in these logs: files of JSON lines, or records."""
        for log in logs:
            if isinstance(log, Mapping):
                self._look_through("a record", [log])
            else:
                self._look_through(Path(log).name, self._records_of(Path(log)))
        if self._unopened:
            self.unread.append(f"{self._unopened} sealed texts: altered, or sealed for another context")

    def _look_through(self, name: str, records: Iterable[Mapping[str, Any] | None]) -> None:
        bad, first = 0, 0
        for number, record in enumerate(records, 1):
            if record is None or not self._look_at(record):
                bad, first = bad + 1, first or number
        if bad:
            self.unread.append(f"{name}: {bad} are no JSON objects, too long or too deep; the first is number {first}")

    def _records_of(self, path: Path) -> Iterator[Record | None]:
        try:
            for _, record in read_lines(path):
                yield record
        except UNREADABLE as error:
            self.unread.append(f"{path.name}: it could not be read to its end ({type(error).__name__})")

    def _look_at(self, record: Mapping[str, Any]) -> bool:
        """Keep a record if it is about them. False if it could not be looked through."""
        self._is_about = False
        try:
            opened = self._opened(record, "", _DEEPEST)
        except _TooDeepError:
            return False
        if self._is_about:
            self.records.append(opened)
        return True

    def _opened(self, value: Any, member: str, levels: int) -> Any:
        """A value with what is sealed for them opened."""
        if levels == 0:
            raise _TooDeepError
        if isinstance(value, Mapping):
            if member in self._fields and str(value.get("id")) in self._names:  # a principal, as the audit log has it
                self._is_about = True
            return {name: self._opened(part, str(name), levels - 1) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._opened(part, member, levels - 1) for part in value]
        if member in self._fields and not isinstance(value, bool) and str(value) in self._names:
            self._is_about = True
        if self._sealed is not None and isinstance(value, str):
            return self._sealed.sub(lambda match: self._open(match[0], member), value)
        return value

    def _open(self, sealed: str, member: str) -> str:
        self._is_about = True
        try:
            return self._keys.open(sealed, context=member) if self._keys is not None else sealed
        except ValueError:  # altered, of another context, or of a member without a name
            self._unopened += 1
            return sealed
