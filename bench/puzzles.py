"""What a puzzle of ``ProofOfWork`` costs: the caller who solves it, and the service that makes and checks it."""

import json
import time
from base64 import b64decode
from collections.abc import Callable
from functools import partial
from math import log
from statistics import median
from typing import Any

from starlette.requests import HTTPConnection

from bench.report import Grid, spell_seconds
from mlguard import MemoryStore, ProofOfWork, ProofOfWorkRequiredError
from mlguard.client import solve_challenge

_TRIES = 4_096  # of the default puzzle, on average
_SECRET = b"\x93\x1f\xd5\x08\xa7\x6c\x3e\xf1\x44\xb2\x5a\xe9\x17\x80\xcd\x2b"


async def measure(*, short: bool) -> Grid:
    """With the default puzzle. How many tries one takes is luck: what a try takes is measured, and the rest follows."""
    guard = ProofOfWork("1/day", secret=_SECRET, store=MemoryStore())
    conn = _request({})
    await guard(conn)
    refusing = await _timed(lambda: _refused(guard, {}), 3 if short else 200)
    seconds, tries, checking, again = 0.0, 0, [], []
    for _ in range(1 if short else 15):
        began = time.thread_time()  # of a core, whatever else the machine does
        solution = solve_challenge(guard.challenge(conn))
        seconds += time.thread_time() - began
        tries += 1 + json.loads(b64decode(solution))["solution"]["counter"]
        began = time.perf_counter()
        await guard(_request({"x-altcha": solution}))
        checking.append(time.perf_counter() - began)
        again.append(await _timed(partial(_refused, guard, {"x-altcha": solution}), 20))
    mean = _TRIES * seconds / tries
    rows = [
        ["a caller solves one of two puzzles within, on one core", spell_seconds(mean * log(2))],
        ["a caller solves nineteen of twenty within", spell_seconds(mean * log(20))],
        ["the service refuses and makes a puzzle", spell_seconds(refusing)],
        ["the service checks a solution", spell_seconds(median(checking))],
        ["the service refuses one that is sent again, and makes a puzzle", spell_seconds(median(again))],
    ]
    return Grid("A puzzle of ProofOfWork", ["work", "time"], rows)


async def _refused(guard: ProofOfWork, headers: dict[str, str]) -> None:
    try:
        await guard(_request(headers))
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
