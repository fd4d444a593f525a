"""How long ``audit_report`` takes for a large log, and how much memory, by the number of callers in it."""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

from bench.report import Grid
from mlguard import audit_report

_START = datetime(2026, 11, 1, tzinfo=UTC)
_DAYS = 7
_MEGABYTE = 1_000_000


async def measure(*, short: bool) -> Grid:
    """The same number of records, of few callers and of as many as there are records."""
    records = 20_000 if short else 1_000_000
    rows = [await asyncio.to_thread(_row, records, callers) for callers in (10, 1_000, records)]
    head = ["log", "of one core", "a record", "memory beyond the start", "page"]
    return Grid("One page of an audit log", head, rows)


def _row(records: int, callers: int) -> list[str]:
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh,  # memory is measured by its peak
    ):
        log = Path(folder, "log.jsonl")
        with log.open("w") as file:
            file.writelines(_lines(records, callers))
        seconds, grown, page = fresh.submit(_report, log).result()
        return [
            f"{records:,} records of {callers:,} callers, {log.stat().st_size / _MEGABYTE:,.0f} MB",
            f"{seconds:.1f} s",
            f"{seconds / records * 1e6:.1f} us",
            f"{grown / 1e3:.1f} MB",
            f"{page / _MEGABYTE:.1f} MB",
        ]


def _report(log: Path) -> tuple[float, int, int]:
    """Seconds of this process, kilobytes that its memory has grown by at most, and bytes of the page."""
    small = log.with_name("small.jsonl")
    with log.open() as file:
        small.write_text(next(file))
    audit_report(small)  # whatever has to be loaded is loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, see proc(5)
    before, begin = _kilobytes("VmRSS"), time.process_time()
    page = audit_report(log)
    return time.process_time() - begin, _kilobytes("VmHWM") - before, len(page.encode())


def _kilobytes(member: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(member))


def _lines(records: int, callers: int) -> Iterator[str]:
    for number in range(records):
        at = _START + timedelta(days=_DAYS * number / records)
        record = {
            "v": 1, "chain": "0123456789abcdef", "seq": number, "time": f"{at:%Y-%m-%dT%H:%M:%S.%f}Z",
            "event": "request", "request_id": f"{number:016x}",
            "principal": {"method": "api-key", "issuer": "", "id": f"c{number % callers}"},
            "address": f"10.0.{number % 200}.1", "method": "POST", "route": "/predict", "status": 200,
            "guards": ["APIKeyAuth", "RateLimit", "Features", "QueryBudget"], "refused_by": None, "rule": None,
            "reason": None, "rows": 1 + number % 7, "budget_left": {"QueryBudget": 4_000},
            "model": {"name": "iris", "version": 3, "digest": "sha256:" + "0" * 64}, "input": "hmac-sha256:" + "0" * 64,
            "output": {"labels": {f"l{number % 3}": 1}, "confidence": {f"0.{number % 10}": 1}},
            "latency_ms": 1 + number % 1_000 / 100, "mac": "0" * 64,
        }  # fmt: skip
        yield json.dumps(record, separators=(",", ":")) + "\n"
