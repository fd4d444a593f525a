"""The records of an audit log in the order of their time, and those that come. They are read, and not verified."""

import heapq
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlguard.monitoring._audit_files import LogFile, files_by_chain, last_lines, lines_of
from mlguard.monitoring._audit_records import MAX_LINE, Record, parsed

_MOST_CHAINS = 256  # of which a tail looks at the end, the latest ones


class AuditReader:
    """Reads the records of a log, in memory that depends on how many processes wrote at once, and not on how much.

    Args:
        folder: Where the log is.

    Attributes:
        unread: How many lines or files could not be read.

    Raises:
        ConfigurationError: There is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.unread = 0
        self._folder = folder
        self._chains = files_by_chain(folder)

    def records(self, *, since: datetime | None = None) -> Iterator[Record]:
        """The records by time, the oldest first. Within a chain, in the order of the chain, whatever clocks say.

        Args:
            since: Files that were not written to since then are left out.
        """
        waiting = []
        for chain, files in self._chains.items():
            recent = [file for file in files if since is None or _is_since(file.path, since)]
            first = self._first_time(recent)
            if first is not None:
                waiting.append((first, chain, recent))
        waiting.sort(reverse=True)
        running: list[tuple[str, str, Record, Iterator[Record]]] = []
        while waiting or running:
            # A chain is opened when its time has come: a log of a year has thousands, one for each start of a process.
            if waiting and (not running or waiting[-1][0] <= running[0][0]):
                _, chain, files = waiting.pop()
                _go_on(running, chain, self._of(files))
                continue
            _, chain, record, rest = heapq.heappop(running)
            yield record
            _go_on(running, chain, rest)

    def last(self, count: int) -> list[Record]:
        """The last records of all chains together, read from the ends of their files."""
        latest = sorted(self._chains.values(), key=lambda files: _written_at(files[-1].path), reverse=True)
        last: list[Record] = []
        for files in latest[:_MOST_CHAINS]:
            found: list[Record] = []
            for file in reversed(files):
                try:
                    lines = last_lines(file.path, count - len(found))
                except OSError:
                    self.unread += 1
                    continue
                found = [*filter(None, map(parsed, lines)), *found]
                if len(found) >= count:
                    break
            last = [*heapq.merge(last, found, key=time_of)][-count:]  # never more than of two chains
        return last

    def _first_time(self, files: list[LogFile]) -> str | None:
        for record in self._of(files):
            return time_of(record)
        return None

    def _of(self, files: list[LogFile]) -> Iterator[Record]:
        for file in files:
            try:
                for line in lines_of(file.path):
                    record = parsed(line.text) if line.is_whole else None
                    if record is None:
                        self.unread += 1
                    else:
                        yield record
            except OSError:
                self.unread += 1


class AuditFollower:
    """Finds the records that are added to a log.

    Args:
        folder: Where the log is. What it has by now is not found.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        for file in self._files():
            self._read[file.path] = _end_of_lines(file.path)

    def new(self) -> list[Record]:
        """What was added since the last look, by time."""
        found: list[Record] = []
        there = set()
        for file in self._files():
            there.add(file.path)
            found += self._of(file.path)
        for path in self._read.keys() - there:  # purged
            del self._read[path]
        return sorted(found, key=time_of)

    def _files(self) -> list[LogFile]:
        return [file for files in files_by_chain(self._folder).values() for file in files]

    def _of(self, path: Path) -> Iterator[Record]:
        start = self._read.setdefault(path, 0)
        try:
            if path.lstat().st_size <= start:
                return
            for line in lines_of(path, start=start):
                if line.is_last:  # it is being written
                    return
                self._read[path] += line.size
                record = parsed(line.text) if line.is_whole else None
                if record is not None:
                    yield record
        except OSError:  # it was purged at this moment
            return


def time_of(record: Record) -> str:
    """When something was recorded: such texts sort by time."""
    return str(record.get("time", ""))


def _go_on(running: list[tuple[str, str, Record, Iterator[Record]]], chain: str, rest: Iterator[Record]) -> None:
    for record in rest:
        heapq.heappush(running, (time_of(record), chain, record, rest))
        return


def _is_since(path: Path, since: datetime) -> bool:
    return datetime.fromtimestamp(_written_at(path), UTC) >= since


def _written_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _end_of_lines(path: Path) -> int:
    """Where the next line begins."""
    try:
        size = path.lstat().st_size
        start = max(0, size - 2 * MAX_LINE)
        return start + sum(line.size for line in lines_of(path, start=start) if not line.is_last)
    except OSError:
        return 0


def member(record: Record, *names: str) -> Any:
    """A member of a member of a record; None where there is none."""
    value: Any = record
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
