"""Logs are kept for so long and no longer: ``purge_older_than``."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlguard._numbers import is_number
from mlguard.errors import ConfigurationError
from mlguard.monitoring.events import record_event
from mlguard.privacy._json_lines import UNREADABLE, ends_within_a_line, read_lines

_AHEAD = 86_400.0  # seconds by which a clock may be; what is of a later time than that lies


@dataclass(frozen=True, slots=True)
class PurgedFile:
    """A file that was deleted.

    Attributes:
        path: Where it was.
        records: How many it had.
        newest: The time of the newest one.
        last_line_sha256: SHA-256 of its last line, in hex. Where each line has the hash of the one before, the first
            line of the next file has this one: keep it, to verify what is left of the chain.
        last_seq: What its last record has as ``seq``, if that is a whole number.
    """

    path: Path
    records: int
    newest: datetime
    last_line_sha256: str
    last_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Purge:
    """What :func:`purge_older_than` has done.

    Attributes:
        purged: Files that were deleted, in the order in which they were given.
        kept: Files in which something is not that old.
        unclear: Files that were kept because their age cannot be told, or because they cannot be deleted, and why.
    """

    purged: list[PurgedFile] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    unclear: dict[Path, str] = field(default_factory=dict)


def purge_older_than(
    age: timedelta,
    files: Iterable[str | os.PathLike[str]],
    *,
    time_field: str = "time",
    clock: Callable[[], float] = time.time,
) -> Purge:
    """Delete log files all of whose records are older than an age.

    Whole files, such as a rotation leaves behind. No line is taken out of a file, because that would break a chain of
    hashes through it: so a record may outlive the age by as long as its file was written to. Rotate daily, and it is a
    day. Give it the files of a log that are no longer written to; one that was written to within the age is kept in any
    case, and so is one whose age cannot be told, which is reported and needs somebody to look. A last line that is cut
    short keeps no file: a process that is killed leaves one behind.

    What a file system, a disk or a backup still has of a deleted file is not reached.

    Args:
        age: How old a record must be. More than nothing.
        files: JSON lines, packed by gzip or not. They are read to the end before they are deleted.
        time_field: Which member has the time of a record: seconds since 1970, or a text of ISO 8601 with a zone.
        clock: Seconds since 1970.

    Returns:
        What was deleted, and what was not.

    Raises:
        ConfigurationError: The age is none.
    """
    if not isinstance(age, timedelta) or age <= timedelta(0):
        raise ConfigurationError("purge_older_than(age) is a timedelta above 0, such as timedelta(days=90)")
    now = clock()
    limit = now - age.total_seconds()
    purge = Purge()
    for path in map(Path, files):
        try:
            judged = _judge(path, time_field, limit, latest=now + _AHEAD)
            if judged is None:
                purge.kept.append(path)
                continue
            _delete(path)
        except _UnclearError as error:
            purge.unclear[path] = str(error)
            continue
        purge.purged.append(judged)
        record_event(
            "log.purged",
            file=path.name,
            records=judged.records,
            newest=judged.newest.isoformat(),
            last_line_sha256=judged.last_line_sha256,
            last_seq=judged.last_seq,
        )
    return purge


class _UnclearError(Exception):
    """The age of a file cannot be told."""


def _delete(path: Path) -> None:
    """Delete a file. That it cannot be is no exception, with which the hashes of those before it would be lost."""
    try:
        path.unlink()
    except OSError as error:
        wrong = type(error).__name__
    else:
        return
    raise _UnclearError(f"it is old, and cannot be deleted ({wrong})")


def _judge(path: Path, time_field: str, limit: float, latest: float) -> PurgedFile | None:
    """What is to be deleted; None if something in it is not older than the limit."""
    try:
        before = path.lstat()
        if before.st_mtime > latest:  # or it would be kept in silence for as long as that
            raise _UnclearError("it says that it was written to in the future")
        if before.st_mtime >= limit:  # somebody may be writing to it still
            return None
        judged = _read(path, time_field, limit, latest)
        return judged if _version(path.lstat()) == _version(before) else None
    except UNREADABLE as error:
        wrong = type(error).__name__
    raise _UnclearError(f"it cannot be read ({wrong})")


def _read(path: Path, time_field: str, limit: float, latest: float) -> PurgedFile | None:
    newest, records, last, seq = -math.inf, 0, b"", None
    lines = read_lines(path)
    for line, record in lines:
        if record is None and records and ends_within_a_line(path) and next(lines, None) is None:
            break  # whoever wrote it was killed, and it was last written to before the limit
        records += 1
        at = None if record is None else _seconds(record.get(time_field))
        if at is None:
            raise _UnclearError(f"record {records} has no time that can be read")
        if at > latest:
            raise _UnclearError(f"record {records} has a time in the future")
        if at >= limit:
            return None
        newest, last, seq = max(newest, at), line, record.get("seq") if record is not None else None
    if not records:
        raise _UnclearError("it is empty")
    last_seq = seq if isinstance(seq, int) and not isinstance(seq, bool) else None
    return PurgedFile(path, records, datetime.fromtimestamp(newest, UTC), hashlib.sha256(last).hexdigest(), last_seq)


def _version(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_ino, state.st_size, state.st_mtime_ns


def _seconds(value: object) -> float | None:
    """A time in seconds since 1970; None for one of no zone, and for what is none."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            value = moment.timestamp() if moment.tzinfo is not None else None
        return datetime.fromtimestamp(value, UTC).timestamp() if is_number(value) else None
    except (ValueError, OverflowError, OSError):
        return None
