"""What a puzzle of ``ProofOfWork`` costs: the caller who solves it, and the service that makes and checks it."""

import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from starlette.requests import HTTPConnection

from bench.report import Grid, spell_seconds
from mlguard import MemoryStore, ProofOfWork, ProofOfWorkRequiredError
from mlguard.client import solve_challenge

_SECRET = b"\x93\x1f\xd5\x08\xa7\x6c\x3e\xf1\x44\xb2\x5a\xe9\x17\x80\xcd\x2b"


async def measure(*, short: bool) -> Grid:
    """With the default puzzle."""
    guard = ProofOfWork("1/day", secret=_SECRET, store=MemoryStore())
    conn = _request({})
    await guard(conn)
    refusing = await _timed(lambda: _refused(guard), 3 if short else 200)
    solving, checking = [], []
    for _ in range(1 if short else 15):
        began = time.perf_counter()
        solution = await asyncio.to_thread(solve_challenge, guard.challenge(conn))
        solving.append(time.perf_counter() - began)
        began = time.perf_counter()
        await guard(_request({"x-altcha": solution}))
        checking.append(time.perf_counter() - began)
    rows = [
        ["a caller solves it, one core", spell_seconds(median(solving))],
        ["the service refuses and makes a puzzle", spell_seconds(refusing)],
        ["the service checks a solution", spell_seconds(median(checking))],
    ]
    return Grid("A puzzle of ProofOfWork", ["work", "median"], rows)


async def _refused(guard: ProofOfWork) -> None:
    try:
        await guard(_request({}))
    except ProofOfWorkRequiredError:
        return
    raise AssertionError("it was not refused")


async def _timed(call: Callable[[], Any], number: int) -> float:
    times = []
    for _ in range(number):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return median(times)


def _request(headers: dict[str, str]) -> HTTPConnection:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "client": ("192.0.2.1", 1), "headers": raw})
