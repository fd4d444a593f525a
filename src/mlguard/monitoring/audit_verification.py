"""Whether an audit log is as it was written: ``verify_audit_log``."""

import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlguard.errors import ConfigurationError
from mlguard.monitoring._audit_chain import Point
from mlguard.monitoring._audit_files import Line, LogFile, files_by_chain, lines_of
from mlguard.monitoring._audit_keys import AuditKey, ChainKey, audit_keys
from mlguard.monitoring._audit_purges import Purges
from mlguard.monitoring._audit_records import CLOSED, NOTHING_BEFORE, OPENED, Record, mac_of, parsed, parts_of
from mlguard.monitoring._audit_sinks import file_name, has_first_line
from mlguard.monitoring.audit_heads import HeadPublicKey, HeadSource, read_heads

_MOST_PROBLEMS = 20  # of one chain that are told; the rest is counted
_PURGED = b'"event":"log.purged"'
_CLOSED = b'"event":"audit.closed"'

#: How a chain ends: it was closed; or it goes on, its process was killed, or its end was cut off; or so within a line.
Ending = Literal["closed", "open", "torn"]


@dataclass(slots=True)
class ChainReport:
    """What was found of one chain.

    Attributes:
        chain: Its id.
        files: How many files there are.
        records: How many records hold.
        first: Number of the first record that is there. More than 0: those before were purged, or are missing.
        last: Number of the last record that holds, or -1.
        since: Time of the first record, as it is written there.
        until: Time of the last one.
        ending: ``"closed"``; ``"open"``: it is being written, or its process was killed, or its end was cut off;
            ``"torn"``: so too, and in the middle of a line.
        head: Number of the record up to which a signed head proves it, if there is one.
        was_purged: Whether records before ``first`` were deleted by retention, and the log says so.
        problems: What is wrong, each in one line. The first ones, where there are many.
        more_problems: How many more there are.
    """

    chain: str
    files: int = 0
    records: int = 0
    first: int = 0
    last: int = -1
    since: str = ""
    until: str = ""
    ending: Ending = "open"
    head: int | None = None
    was_purged: bool = False
    problems: list[str] = field(default_factory=list)
    more_problems: int = 0

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def complain(self, problem: str) -> None:
        """Note something that is wrong."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more_problems += 1


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """What was found of an audit log.

    Attributes:
        chains: Each chain, also those of which only a head is left.
        problems: What is wrong with none of them in particular.
    """

    chains: list[ChainReport]
    problems: list[str]

    @property
    def is_intact(self) -> bool:
        """Whether nothing was edited, moved or removed, as far as keys and heads can prove it.

        A chain that has no end, or a torn one, is intact: processes are killed. Look at ``ending``, and at ``head``.
        It is not if nothing is left of a file that had records when another one was begun.
        """
        return not self.problems and all(chain.is_intact for chain in self.chains)


def verify_audit_log(
    directory: str | os.PathLike[str],
    *,
    key: AuditKey,
    heads: HeadSource | None = None,
    head_key: HeadPublicKey | Sequence[HeadPublicKey] | None = None,
    anchors: Iterable[str] = (),
) -> AuditVerification:
    """Verify an audit log: is every record as it was written, in its place, and none missing?

    Reads all files, a line at a time, some hundred thousand records a second. The service may go on writing.

    A missing file is accepted if the log itself, in a record that holds, says that retention has deleted it
    (``purge_older_than`` in a process whose ``AuditLog`` is attached), and what is left goes on from its last line.

    Args:
        directory: Where the log is.
        key: As for ``AuditLog``: all keys that have chained what is there. An old key that has leaked can forge what
            it could have chained: leave it out, once its files are gone.
        heads: Signed heads: the folder, or lines. Without them, nobody can tell whether the end of a chain was cut off,
            or the latest files removed, or all of it written anew by who has the key.
        head_key: The public keys of heads.
        anchors: What else explains that files are missing: SHA-256 of the last line that was deleted of a chain, as
            ``PurgedFile.last_line_sha256`` has it, and names of files of which nothing is left to go on from. Heads of
            a chain that is gone need it once the record of its purge is gone too.

    Raises:
        ConfigurationError: No such folder, or a key that is none.
        OSError: The folder cannot be read.
    """
    keys = {one.id: one for one in audit_keys(key, where="verify_audit_log(key=...)")()}
    if (heads is None) != (head_key is None):
        raise ConfigurationError("verify_audit_log(heads=..., head_key=...): both or none")
    problems = []
    known: dict[str, Point] = {}
    if heads is not None and head_key is not None:
        read = read_heads(heads, head_key)
        known = read.last
        if read.refused:
            problems.append(f"heads: {read.refused} lines are no heads, or not signed with this key")
    purges = Purges(anchors)
    checks = []
    found = files_by_chain(directory)
    for chain, files in found.items():
        checks.append(_ChainCheck(chain, keys, purges, known.pop(chain, None)))
        checks[-1].read(files)
    for check in checks:  # by now all that was purged is known
        check.judge_gaps()
    there = _places(found) | _places(files_by_chain(directory))
    problems += [
        f"{file_name(*place)}: it was there when other files were begun, and {wrong}"
        for place in sorted(purges.mentioned)
        if not purges.has_deleted(*place) and (wrong := _lost(there.get(place)))
    ]
    lost = [_only_head(point, purges) for point in known.values()]
    return AuditVerification([check.report for check in checks] + lost, problems)


def _places(files: dict[str, list[LogFile]]) -> dict[tuple[str, int], Path]:
    return {(chain, file.number): file.path for chain, those in files.items() for file in those}


def _lost(path: Path | None) -> str:
    """What has become of a file that had records, if none of them is left. To empty it is to remove it."""
    if path is None:
        return "is missing"
    return "" if has_first_line(path) else "has not one whole line left"


def _only_head(point: Point, purges: Purges) -> ChainReport:
    """The report of a chain of which no file is left."""
    report = ChainReport(point.chain, head=point.seq)
    name = file_name(point.chain, point.file)
    if purges.last_record(point.chain) >= point.seq or purges.is_anchor(name):
        report.was_purged = True
        report.first = point.seq + 1
    else:
        report.complain(f"all its files are missing, {name} is the last: a head proves records up to {point.seq}")
    return report


@dataclass(frozen=True, slots=True)
class _Gap:
    """Files are missing before this one, with the records from ``first`` to before ``end``."""

    name: str
    number: int
    previous_line: object
    is_first: bool
    first: int
    end: int


class _ChainCheck:
    """Verifies one chain.

    Args:
        chain: Its id.
        keys: By id.
        purges: Learns what was purged.
        head: The last signed head.

    Attributes:
        report: What was found.
    """

    def __init__(self, chain: str, keys: dict[str, ChainKey], purges: Purges, head: Point | None) -> None:
        self.report = ChainReport(chain, head=head.seq if head is not None else None)
        self._keys = keys
        self._purges = purges
        self._head = head
        self._gaps: list[_Gap] = []
        self._mac = NOTHING_BEFORE
        self._seq = -1
        self._key: ChainKey | None = None
        self._last_line = b""
        self._has_head = False
        self._was_closed = False
        self._is_unsure = False  # of the number of the next record, which a record that holds says itself

    def read(self, files: Sequence[LogFile]) -> None:
        """Read its files."""
        self.report.files = len(files)
        before = 0
        for file in files:
            is_last = file is files[-1]
            try:
                self._read(file, before, is_last)
            except OSError as error:
                self.report.complain(f"{file.path.name}: it cannot be read ({type(error).__name__})")
                self._key = None
            before = file.number
        if self._was_closed and self.report.ending != "torn":
            self.report.ending = "closed"
        self.report.until = str((parsed(self._last_line) or {}).get("time", ""))
        self._judge_head()

    def _judge_head(self) -> None:
        """Whether the record that a head was signed for is there."""
        head = self._head
        if head is None or self._has_head or any(gap.first <= head.seq < gap.end for gap in self._gaps):
            return
        if head.seq > self._seq:
            self.report.complain(f"its end is missing: a head proves records up to {head.seq}")
        else:
            self.report.complain(f"record {head.seq} is not the one that its head was signed for")

    def judge_gaps(self) -> None:
        """Whether what is missing was purged."""
        for gap in self._gaps:
            if self._purges.explain(self.report.chain, gap.number - 1, gap.previous_line):
                self.report.was_purged = True
            else:
                where = "the files before it are" if gap.is_first else "a file before it is"
                self.report.complain(f"{gap.name}: {where} missing, and no record says that retention has deleted them")

    def _read(self, file: LogFile, before: int, is_last: bool) -> None:
        name = file.path.name
        number = 0
        for number, line in enumerate(lines_of(file.path), 1):
            where = f"{name}, line {number}"
            if not line.is_whole and line.is_last and is_last:
                self._end_unfinished(name, "torn")
                return
            if number == 1 and not self._open(file, line, before):
                return  # without what it begins with, nothing of it can be told
            if number > 1:
                self._check(line, where)
        if number == 0:
            if is_last:
                self._end_unfinished(name, "open")
            else:
                self.report.complain(f"{name}: it is empty")

    def _end_unfinished(self, name: str, ending: Ending) -> None:
        """What is at the end is no record: its process was killed, unless it had said that it ends."""
        if self._was_closed:
            self.report.complain(f"{name}: something was added behind the record with which it was closed")
        self.report.ending = ending

    def _open(self, file: LogFile, line: Line, before: int) -> bool:
        """Look at the line that a file begins with."""
        name = file.path.name
        parts = parts_of(line.text) if line.is_whole else None
        record = parsed(line.text) if parts is not None else None
        facts: Any = record.get("facts") if record is not None else None
        if parts is None or record is None or record.get("event") != OPENED or not isinstance(facts, dict):
            self.report.complain(f"{name}: it does not begin as a file of an audit log does")
            return False
        self._key = self._keys.get(str(facts.get("key")))
        if self._key is None:
            self.report.complain(
                f"{name}: it is chained with another key than was given (key {facts.get('key')!a:.40})"
            )
            return False
        previous = _mac(facts.get("previous"))
        if not hmac.compare_digest(mac_of(self._key.secret, previous, parts.body), parts.mac):
            self.report.complain(f"{name}, line 1: it was altered")
            return False
        if record.get("chain") != self.report.chain or facts.get("file") != file.number:
            self.report.complain(f"{name}: it is another file, which was renamed")
            return False
        self._is_unsure = False
        self._purges.mention(facts.get("others"))
        self._join(file, before, previous, facts, record)
        self._accept(line.text, parts.mac, int(record["seq"]))
        return True

    def _join(self, file: LogFile, before: int, previous: bytes, facts: Record, record: Record) -> None:
        """Whether the file goes on from the one before."""
        seq = int(record["seq"])
        if file.number == 1:
            if previous != NOTHING_BEFORE or seq != 0:  # pragma: no cover  # only who has the key can write that
                self.report.complain(f"{file.path.name}: it is no beginning")
        elif file.number != before + 1:
            if before == 0:
                self.report.first = seq
            line = facts.get("previous_line_sha256")
            self._gaps.append(_Gap(file.path.name, file.number, line, before == 0, self._seq + 1, seq))
        elif previous != self._mac or seq != self._seq + 1:
            self.report.complain(f"{file.path.name}: it does not go on from the file before: records are missing there")
        if not self.report.since:
            self.report.since = str(record.get("time", ""))

    def _check(self, line: Line, where: str) -> None:
        """Look at another line."""
        if not line.is_whole or (parts := parts_of(line.text)) is None or self._key is None:
            self.report.complain(f"{where}: it is no record, or was altered")
            self._is_unsure = True
            return
        if not hmac.compare_digest(mac_of(self._key.secret, self._mac, parts.body), parts.mac):
            self.report.complain(f"{where}: it was altered, or records before it are missing or in another order")
            self._mac = parts.mac  # whether those after it hold, is seen from here
            self._is_unsure = True
            return
        seq = self._seq + 1
        if self._is_unsure:
            seq, self._is_unsure = _number(line.text, seq), False
        self._accept(line.text, parts.mac, seq)
        if _PURGED in line.text:
            record = parsed(line.text)
            if record is not None and record.get("event") == "log.purged":
                self._purges.note(record)

    def _accept(self, text: bytes, mac: bytes, seq: int) -> None:
        report = self.report
        self._mac, self._seq, self._last_line = mac, seq, text
        report.records += 1
        report.last = seq
        self._was_closed = _CLOSED in text and (parsed(text) or {}).get("event") == CLOSED
        if self._head is not None and self._head.seq == seq:
            self._has_head = hmac.compare_digest(self._head.mac, mac.hex())


def _mac(text: object) -> bytes:
    """A MAC in hex; no bytes where it is none."""
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _number(line: bytes, default: int) -> int:
    """What a line says its number is."""
    seq = (parsed(line) or {}).get("seq")
    return seq if isinstance(seq, int) else default
