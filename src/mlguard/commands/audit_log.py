"""``mlguard audit-log``: verify an audit log, and look into it.

The folder is the one that ``MLGUARD_AUDIT_LOG`` names, unless another is given. The service may go on writing. Only
what ``verify`` has verified, with the key, is proved: ``tail``, ``search`` and ``export`` show what is there. ``purge``
needs the key too, for what it does is in the log.
"""

import argparse
import contextlib
import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlguard._files import replacing
from mlguard.commands._auditing import recorded
from mlguard.commands._times import length, past
from mlguard.errors import ConfigurationError
from mlguard.monitoring._audit_files import files_by_chain
from mlguard.monitoring._audit_reading import AuditFollower, AuditReader, member, time_of
from mlguard.monitoring._audit_records import Record, printable
from mlguard.monitoring.audit_log import AuditLog, keys_from_settings
from mlguard.monitoring.audit_verification import ChainReport, verify_audit_log
from mlguard.privacy.retention import purge_older_than
from mlguard.secrets._files import read_secret_text
from mlguard.settings import load_settings

YES, NO = 0, 1

_STATUS = re.compile(r"[1-5](?:[0-9]{2}|xx)", re.ASCII)
_LOOK = 0.5  # seconds between two looks for what was added
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ENDINGS = {
    "closed": "closed",
    "open": "not closed: it is being written, its process was killed, or its end was cut off",
    "torn": "not closed, and torn in the middle of a line: its process was killed, or its end was cut off",
}
#: A column of a table, and where a record has it.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "time": ("time",),
    "event": ("event",),
    "request_id": ("request_id",),
    "trace_id": ("trace_id",),
    "principal": ("principal", "id"),
    "issuer": ("principal", "issuer"),
    "proved_by": ("principal", "method"),
    "address": ("address",),
    "method": ("method",),
    "route": ("route",),
    "status": ("status",),
    "guards": ("guards",),
    "refused_by": ("refused_by",),
    "rule": ("rule",),
    "reason": ("reason",),
    "rows": ("rows",),
    "budget_left": ("budget_left",),
    "model": ("model", "name"),
    "model_version": ("model", "version"),
    "model_digest": ("model", "digest"),
    "input": ("input",),
    "output": ("output",),
    "latency_ms": ("latency_ms",),
    "facts": ("facts",),
    "chain": ("chain",),
    "seq": ("seq",),
}


def add_to(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this command to the parser."""
    audit = subcommands.add_parser("audit-log", help="verify an audit log, and look into it", description=__doc__)
    actions = audit.add_subparsers(metavar="ACTION", required=True)

    verify = _add(actions, "verify", _verify, "tell whether records were edited, moved or removed")
    text = "with the key, instead of MLGUARD_AUDIT_KEY; repeatable, for older ones"
    verify.add_argument("--key-file", action="append", default=[], metavar="FILE", help=text)
    verify.add_argument("--heads", metavar="FOLDER", help="of signed heads")
    verify.add_argument("--head-key", action="append", default=[], metavar="PEM", help="public; repeatable")
    text = "last line (SHA-256) or name of a file that retention has deleted, if the log does not say it; repeatable"
    verify.add_argument("--anchor", action="append", default=[], metavar="TEXT", help=text)

    tail = _add(actions, "tail", _tail, "show the latest records")
    tail.add_argument("-n", type=_count, default=10, dest="count", metavar="COUNT", help="how many (default: 10)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what is added, until interrupted")
    tail.add_argument("--json", action="store_true", help="whole records, one JSON object a line")

    search = _add(actions, "search", _search, "show the records that match all of what is given")
    _add_filters(search)
    search.add_argument("--json", action="store_true", help="whole records, one JSON object a line")

    export = _add(actions, "export", _export, "write the records that match as a table or as JSON lines")
    _add_filters(export)
    export.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="(default: csv)")
    export.add_argument("--output", metavar="FILE", help="made for its owner only (default: standard output)")

    purge = _add(actions, "purge", _purge, "delete files that are old as a whole, and say so in the log")
    purge.add_argument("--older-than", type=length, required=True, metavar="TIME", help="such as 90d")


def _add(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.add_argument("--directory", metavar="FOLDER", help="of the log (default: MLGUARD_AUDIT_LOG)")
    parser.set_defaults(run=run, instead="the folder is named by --directory FOLDER")
    return parser


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--event", help="request, secret.read, ...; model.* for all of a kind")
    parser.add_argument("--principal", metavar="ID", help="who called")
    parser.add_argument("--address", help="from where")
    parser.add_argument("--route", help="as the service declares it")
    parser.add_argument("--status", type=_status, help="429, or 4xx")
    parser.add_argument("--request-id", metavar="ID", help="of one request")
    parser.add_argument("--since", type=past, metavar="WHEN", help="15m, 2h, 7d ago, or a date and time")
    parser.add_argument("--until", type=past, metavar="WHEN", help="before when")


# Actions -------------------------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    key = [read_secret_text(path, where="--key-file").strip() for path in options.key_file] or keys_from_settings()
    result = verify_audit_log(
        _folder(options),
        key=key,
        heads=options.heads,
        head_key=[Path(path) for path in options.head_key] or None,
        anchors=options.anchor,
    )
    for problem in result.problems:
        _say(f"PROBLEM: {problem}")
    for chain in result.chains:
        _say_of(chain)
    records = sum(chain.records for chain in result.chains)
    if result.is_intact and not records:
        _say("NOTHING: there is no record here to verify; is this the folder, and were there never any?")
        return NO
    verdict = "intact" if result.is_intact else "NOT INTACT"
    _say(f"{verdict}: {len(result.chains)} chains, {records} records that hold")
    return YES if result.is_intact else NO


def _say_of(chain: ChainReport) -> None:
    span = f", {chain.since} to {chain.until}" if chain.since else ""
    _say(f"chain {chain.chain}: {chain.files} files, {chain.records} records{span}")
    if chain.was_purged:
        _say("  older records were deleted by retention, as the log says")
    if chain.files:
        _say(f"  {_ENDINGS[chain.ending]}")
    if chain.head is not None:
        _say(f"  a signed head proves records up to {chain.head}")
    for problem in chain.problems:
        _say(f"  PROBLEM: {problem}")
    if chain.more_problems:
        _say(f"  and {chain.more_problems} more problems")


def _tail(options: argparse.Namespace) -> int:
    show = _as_json if options.json else _as_line
    folder = _folder(options)
    follower = AuditFollower(folder) if options.follow else None
    for record in AuditReader(folder).last(options.count):
        _say(show(record))
    with contextlib.suppress(KeyboardInterrupt):
        while follower is not None:
            for record in follower.new():
                _say(show(record))
            sys.stdout.flush()
            time.sleep(_LOOK)
    return YES


def _search(options: argparse.Namespace) -> int:
    show = _as_json if options.json else _as_line
    found = NO
    for record in _matching(options):
        found = YES
        _say(show(record))
    return found


def _export(options: argparse.Namespace) -> int:
    lines = _csv(_matching(options)) if options.format == "csv" else map(_as_json, _matching(options))
    if options.output is None:
        for line in lines:
            _say(line)
        return YES
    with replacing(Path(options.output), new_mode=0o600) as file:
        for line in lines:
            file.write(line.encode() + b"\n")
    return YES


def _purge(options: argparse.Namespace) -> int:
    folder = _folder(options)
    old = [file.path for files in files_by_chain(folder).values() for file in files]
    with recorded(AuditLog(folder, key=keys_from_settings()), "audit-log purge"):
        purge = purge_older_than(options.older_than, old)
    for file in purge.purged:
        _say(f"deleted {file.path.name}: {file.records} records, the last line is SHA-256 {file.last_line_sha256}")
    for path, reason in purge.unclear.items():
        _say(f"PROBLEM: {path.name}: {reason}")
    _say(f"{len(purge.purged)} files deleted, {len(purge.kept)} kept, {len(purge.unclear)} unclear")
    return NO if purge.unclear else YES


def _matching(options: argparse.Namespace) -> Iterator[Record]:
    reader = AuditReader(_folder(options))
    matches = _filter(options)
    yield from (record for record in reader.records(since=options.since) if matches(record))
    if reader.unread:
        sys.stderr.write(f"mlguard: {reader.unread} lines or files could not be read; see mlguard audit-log verify\n")


def _filter(options: argparse.Namespace) -> Callable[[Record], bool]:
    """What says whether a record matches all that was asked for."""
    wanted = {
        ("principal", "id"): options.principal,
        ("address",): options.address,
        ("route",): options.route,
        ("request_id",): options.request_id,
    }
    exact = [(names, value) for names, value in wanted.items() if value is not None]
    since, until = (_written(moment) for moment in (options.since, options.until))
    event, status = options.event, options.status
    kind = event.removesuffix("*") if event is not None and event.endswith(".*") else None

    def matches(record: Record) -> bool:
        name = str(record.get("event"))
        at = time_of(record)
        return (
            (since is None or at >= since)
            and (until is None or at < until)
            and (event is None or name == event or (kind is not None and name.startswith(kind)))
            and (status is None or _has_status(record, status))
            and all(member(record, *names) == value for names, value in exact)
        )

    return matches


def _has_status(record: Record, status: str) -> bool:
    given = str(record.get("status"))
    return given == status or (status.endswith("xx") and len(given) == len(status) and given[0] == status[0])


# What is shown -------------------------------------------------------------------------------------------------------


def _as_line(record: Record) -> str:
    """A record as one line for people."""
    at, event = time_of(record), str(record.get("event"))
    if event != "request":
        facts = record.get("facts")
        told = facts.items() if isinstance(facts, dict) else ()
        return " ".join([at, event, *(f"{name}={_cell(fact)}" for name, fact in told)])
    who = member(record, "principal", "id") or "-"
    refusal = (
        f"refused by {_cell(record['refused_by'])}: {_cell(record.get('rule'))}" if record.get("refused_by") else ""
    )
    shown = [who, record.get("address"), record.get("method"), record.get("route"), record.get("status"), refusal]
    return " ".join([at, event, *(_cell(value) for value in shown if value is not None and value != "")])


def _as_json(record: Record) -> str:
    return json.dumps(record, separators=(",", ":"))  # of ASCII alone: no terminal obeys it


def _csv(records: Iterable[Record]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="")
    writer.writerow(_COLUMNS)
    yield buffer.getvalue()
    for record in records:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow([_for_spreadsheets(_cell(member(record, *names))) for names in _COLUMNS.values()])
        yield buffer.getvalue()


def _for_spreadsheets(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _cell(value: object) -> str:
    if value is None:
        return ""
    return printable(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))


def _say(line: str) -> None:
    """Write a line to standard output, which may have fewer characters, and obeys none of them."""
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(printable(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")


# What is given -------------------------------------------------------------------------------------------------------


def _folder(options: argparse.Namespace) -> str:
    folder: str = options.directory or load_settings().audit_log
    if not folder:
        raise ConfigurationError("say where the audit log is: --directory FOLDER, or MLGUARD_AUDIT_LOG")
    return folder


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _status(text: str) -> str:
    if not _STATUS.fullmatch(text):
        raise argparse.ArgumentTypeError("a status, such as 429, or 4xx")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError("a whole number from 1 to 100000")
    return int(text)
