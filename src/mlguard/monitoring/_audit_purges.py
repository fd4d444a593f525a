"""What explains that a file of an audit log is missing: retention has deleted it, and a record that holds says so."""

from collections.abc import Iterable

from mlguard.monitoring._audit_records import Record
from mlguard.monitoring._audit_sinks import chain_and_number, file_name


class Purges:
    """Which files there were, and which of them retention has deleted, as records that hold say it.

    Args:
        anchors: Digests of last lines, or names of files, that were given from elsewhere.

    Attributes:
        mentioned: Files that were there when others were begun.
    """

    def __init__(self, anchors: Iterable[str]) -> None:
        self.mentioned: set[tuple[str, int]] = set()
        self._anchors = frozenset(anchors)
        self._lines: dict[tuple[str, int], str] = {}
        self._last_records: dict[str, int] = {}
        self._last_files: dict[str, int] = {}

    def mention(self, names: object) -> None:
        """Names of files that were there when another one was begun."""
        places = [chain_and_number(str(name)) for name in names] if isinstance(names, list) else []
        self.mentioned.update(filter(None, places))

    def note(self, record: Record) -> None:
        """A record of the event ``log.purged``."""
        facts = record.get("facts")
        if not isinstance(facts, dict):
            return
        place = chain_and_number(str(facts.get("file")))
        if place is not None:
            self._lines[place] = str(facts.get("last_line_sha256"))
            self._has_deleted(*place)
            last = facts.get("last_seq")
            if isinstance(last, int):
                self._last_records[place[0]] = max(last, self._last_records.get(place[0], -1))

    def explain(self, chain: str, number: int, line: object) -> bool:
        """Whether the file with this number, which ended with this line, was deleted by retention."""
        if isinstance(line, str) and (line in self._anchors or self._lines.get((chain, number)) == line):
            self._has_deleted(chain, number)
            return True
        return False

    def has_deleted(self, chain: str, number: int) -> bool:
        """Whether retention has deleted this file, or a later one of its chain, or somebody has said so."""
        return number <= self._last_files.get(chain, 0) or self.is_anchor(file_name(chain, number))

    def is_anchor(self, name: str) -> bool:
        """Whether somebody has said that the file with this name was deleted."""
        return name in self._anchors

    def _has_deleted(self, chain: str, number: int) -> None:
        self._last_files[chain] = max(number, self._last_files.get(chain, 0))

    def last_record(self, chain: str) -> int:
        """Number of the last record of a chain that retention has deleted, or -1."""
        return self._last_records.get(chain, -1)
