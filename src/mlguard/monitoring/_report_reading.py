"""The records of audit logs as a report needs them: one after another, and whatever is wrong with one is counted."""

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlguard.errors import ConfigurationError
from mlguard.privacy._json_lines import UNREADABLE, Record, read_lines

_ENDINGS = (".jsonl", ".jsonl.gz")
_CHAIN = re.compile(r"audit-([0-9a-f]{16})-[0-9]{6,12}\.jsonl", re.ASCII)
_VERSION = 1
_MOST_FILES = 20  # that are named
_LONGEST = 200  # characters of a name by which things are counted
_KEPT = 40  # of one that is longer, with a digest of all of it
_LONGEST_TIME = 40
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
_LATEST = datetime(2200, 1, 1, tzinfo=UTC).timestamp()  # whatever the clock of who reads says
_A_DAY = 86_400.0
_LARGEST = 2**53


@dataclass
class Reading:
    """What was read, and what could not be.

    Attributes:
        files: How many files.
        lines: How many lines that have something in them.
        broken: Those that are no record: torn, no JSON, of another version, without a name of an event.
        untimed: Records without a time, or with one that cannot be: before 2000, or in the future.
        outside: Records before or after what was asked for.
        unproved: Files that belong to no chain that was verified, and so were not read.
        unproved_lines: Lines after those of a chain that was verified: written since, or torn.
        unreadable: Names of files that could not be read to their end, the first ones.
        more_unreadable: How many more there are.
    """

    files: int = 0
    lines: int = 0
    broken: int = 0
    untimed: int = 0
    outside: int = 0
    unproved: int = 0
    unproved_lines: int = 0
    unreadable: list[str] = field(default_factory=list)
    more_unreadable: int = 0

    def records(
        self,
        files: Iterable[Path],
        *,
        since: float,
        until: float,
        now: float,
        proved: Mapping[str, float] = MappingProxyType({}),
    ) -> Iterator[tuple[float, str, Record]]:
        """The records of files: time in seconds since 1970, event, record.

        Args:
            files: Those of one chain in their order.
            since: Not before.
            until: Before when.
            now: The present.
            proved: How many lines of a chain were verified. Those after them are left out.
        """
        left = dict(proved)
        for path in files:
            self.files += 1
            chain = chain_of(path) or ""
            try:
                for _, record in read_lines(path):
                    self.lines += 1
                    if chain in left:
                        left[chain] -= 1
                        if left[chain] < 0:
                            self.unproved_lines += 1
                            continue
                    event = record.get("event") if record is not None else None
                    if record is None or not isinstance(event, str) or record.get("v", _VERSION) != _VERSION:
                        self.broken += 1
                        continue
                    at = moment(record.get("time"))
                    if at is None or not _EARLIEST <= at <= min(now + _A_DAY, _LATEST):
                        self.untimed += 1
                    elif not since <= at < until:
                        self.outside += 1
                    else:
                        yield at, event, record
            except UNREADABLE:
                if len(self.unreadable) < _MOST_FILES:
                    self.unreadable.append(path.name)
                else:
                    self.more_unreadable += 1


def log_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that these paths name: files, and folders of files of JSON lines.

    Raises:
        ConfigurationError: One is not there, or a folder has none.
        OSError: A folder cannot be read.
    """
    found: dict[Path, None] = {}
    for one in paths:
        path = Path(one)
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.name.endswith(_ENDINGS))
            if not inside:
                raise ConfigurationError(f"{os.fspath(one)!r} has no file of JSON lines (*.jsonl, *.jsonl.gz)")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path.resolve()] = None
        else:
            raise ConfigurationError(f"{os.fspath(one)!r}: there is no such audit log")
    return list(found)


def chain_of(path: Path) -> str | None:
    """The chain that a file of an ``AuditLog`` belongs to, as its name says; None for any other file."""
    named = _CHAIN.fullmatch(path.name)
    return named[1] if named is not None else None


def moment(value: object) -> float | None:
    """A time as records have it, in seconds since 1970. One that says no zone is of UTC."""
    if not isinstance(value, str) or len(value) > _LONGEST_TIME:
        return None
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def name(value: object) -> str | None:
    """A name as things are counted by: of bounded length, and different ones stay different."""
    if not isinstance(value, str):
        return None
    if len(value) <= _LONGEST:
        return value
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{value[:_KEPT]}… ({len(value)} characters, {digest})"


def count(value: object) -> int:
    """A number of things; 0 where it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST:
        return value
    return 0


def amount(value: object) -> float | None:
    """A finite number of at least 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    return None


def members(value: object) -> dict[str, Any]:
    """An object of JSON; an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}
