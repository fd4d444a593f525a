"""What the audit log costs the request that hands an event over, and how many events a second one process keeps.

Handing over is timed alone, while the thread that writes is at work on a file with its syncs: what the two do to each
other is in it. The rate is that of a burst, put as fast as the queue takes it, until all of it is on the
disk. Beside it, the same bytes written in the same batches and synced, with nothing else done: the disk's own limit.
"""

import asyncio
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from bench.report import Extra, Grid, Table
from bench.timing import take_turns
from mlguard.monitoring.audit_log import AuditLog
from mlguard.monitoring.audit_verification import verify_audit_log

_KEY = "audit-Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"
_BATCH = 1_024  # events of one sync at most, as the log has it
_TARGET = 20_000  # events a second


async def measure(*, short: bool) -> Table:
    """Handing over, the rate, and waiting for the disk."""
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(folder, key=_KEY, max_queue=1_000_000)
        event = _event()

        async def bare() -> None: ...

        async def guarded() -> None:
            log.put(event)

        posts = {"bare": bare, "guarded": guarded}
        timing = await take_turns(posts, rounds=2 if short else 61, calls=10 if short else 1_000)
        if not log.close(60):
            raise AssertionError("not all was written")
    return Table(
        "The audit log: an event of a request",
        [Extra("put, while the thread writes", timing, 12e-6)],
        [str(_rates(short=short)), str(await _waits(short=short))],
    )


def _event() -> dict[str, Any]:
    """What the middleware puts for a request with three guards."""
    return {
        "event": "request",
        "request_id": secrets.token_hex(8),
        "trace_id": secrets.token_hex(16),
        "principal": {"method": "api-key", "issuer": "", "id": "alice"},
        "address": "192.0.2.7",
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "guards": ["APIKeyAuth", "RateLimit", "Features"],
        "refused_by": None,
        "rule": None,
        "reason": None,
        "rows": 1,
        "budget_left": {"iris": 49_999},
        "model": {"name": "iris", "version": 3, "digest": f"sha256:{'a' * 64}"},
        "input": f"hmac-sha256:{secrets.token_hex(32)}",
        "output": {"labels": {"setosa": 1}, "confidence": {"0.9": 1}},
        "latency_ms": 1.234,
    }


def _rates(*, short: bool) -> Grid:
    count, rounds = (1_000, 1) if short else (100_000, 5)
    events = [_event() for _ in range(count)]
    kept, disk, verified, busy = [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            before = process_time()
            kept.append(_seconds(lambda: _keep(folder, events)))  # called here
            busy.append(process_time() - before)
            verified.append(_seconds(lambda: _verify(folder, count)))
            disk.append(_seconds(lambda: _write(folder)))
    rows = [
        ("events kept, batched syncs", f"{count / median(kept):,.0f}", f">= {_TARGET:,}", _met(count / median(kept))),
        ("the same, in time of the processor", f"{count / median(busy):,.0f}", "", ""),
        ("the disk alone, same bytes and syncs", f"{count / median(disk):,.0f}", "", ""),
        ("records verified", f"{count / median(verified):,.0f}", "", ""),
    ]
    return Grid("Events a second, one process", ["work", "a second", "target", "met"], rows)


def _keep(folder: str, events: list[dict[str, Any]]) -> None:
    log = AuditLog(folder, key=_KEY, max_queue=1_000_000)
    for event in events:
        log.put(event)
    if not log.close(600):
        raise AssertionError("not all was written")


def _verify(folder: str, count: int) -> None:
    result = verify_audit_log(folder, key=_KEY)
    if not result.is_intact or result.chains[0].records < count:
        raise AssertionError("a log that is not intact")


def _write(folder: str) -> None:
    lines = [line for path in sorted(Path(folder).iterdir()) for line in path.read_bytes().splitlines(keepends=True)]
    with Path(folder, "plain").open("ab", buffering=0) as file:
        for start in range(0, len(lines), _BATCH):
            file.write(b"".join(lines[start : start + _BATCH]))
            os.fdatasync(file.fileno())


async def _waits(*, short: bool) -> Grid:
    """How long ``written()`` takes, alone and for many at once."""
    rounds = 2 if short else 101
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(folder, key=_KEY, durability="request")

        async def one() -> None:
            log.put(_event())
            await log.written()

        for together in (1, 16, 128):
            times = []
            for _ in range(rounds):
                start = perf_counter()
                await asyncio.gather(*(one() for _ in range(together)))
                times.append(perf_counter() - start)
            rows.append((f"{together} at once", f"{median(times) * 1e6:,.0f} us"))
        log.close()
    return Grid('durability="request": put, and wait for the disk', ["requests", "until all are told"], rows)


def _seconds(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def _met(rate: float) -> str:
    return "yes" if rate >= _TARGET else "NO"
