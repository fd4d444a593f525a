"""Audit logs for tests: written by the real thing, and looked into."""

import json
import secrets
from pathlib import Path
from typing import Any

from mlguard import AuditLog

KEY = secrets.token_urlsafe(32)


def events(count: int, **more: Any) -> list[dict[str, Any]]:
    """Events of requests, one like the other but for their number."""
    return [{"event": "request", "number": number, "status": 200, **more} for number in range(count)]


def write(folder: Path, *batches: list[dict[str, Any]], **options: Any) -> None:
    """Write a log of one chain. Each batch is on the disk before the next one."""
    log = AuditLog(folder, **{"key": KEY, **options})
    for batch in batches:
        for event in batch:
            log.put(event)
        assert log.flush()
    assert log.close()


def files(folder: Path) -> list[Path]:
    """The files of a log."""
    return sorted(folder.glob("audit-*.jsonl"))


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a log, file by file, those about the log itself included."""
    return [json.loads(line) for file in files(folder) for line in file.read_bytes().splitlines()]


def requests(folder: Path) -> list[dict[str, Any]]:
    """Those that are about requests."""
    return [record for record in records(folder) if record["event"] == "request"]
