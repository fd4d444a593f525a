"""A million different callers, and what each hit costs in memory: beside the limits package, and in Redis.

Every caller is new, as in a flood from a botnet or from the addresses of one IPv6 network.
"""

import asyncio
import ctypes
import gc
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from tests.redis_server import redis_server

from bench.report import Grid, Line, Table
from bench.timing import Call, take_turns
from mlguard import MemoryStore, RedisStore, Store, Window
from mlguard.store import store_key

_WINDOWS = (Window(10**9, 1), Window(10**9, 60), Window(10**9, 86_400))
_ONE = (Window(10**9, 86_400),)


async def measure_hits(*, short: bool) -> Table:
    """Three windows of ``MemoryStore`` against one of limits, one caller."""
    limiter, item = FixedWindowRateLimiter(MemoryStorage()), RateLimitItemPerMinute(10**9)
    store, caller = MemoryStore(), store_key("bench")

    async def one_window() -> None:
        assert await limiter.hit(item, "bench")

    async def three_windows() -> None:
        assert (await store.hit("bench", caller, _WINDOWS, 1)).admitted

    calls: dict[str, Call] = {"bare": one_window, "guarded": three_windows}
    timing = await take_turns(calls, rounds=2 if short else 31, calls=10 if short else 2_000)
    return Table(
        "Three windows in memory", [Line("a hit", timing, 2.0)], ["bare: one fixed window of the limits package."]
    )


async def measure(*, short: bool) -> Grid:
    """The flood, in a process of its own for each store."""
    number = 10_000 if short else 1_000_000
    rows = [
        ["memory, room for a tenth", *_flood(number, number // 10)],
        ["memory, all of them", *_flood(number, number)],
        ["Redis", *await _redis_flood(number)],
    ]
    head = ["store", "callers", "bytes each", "growth MiB", "p50 us", "p99 us"]
    return Grid("A flood of callers, each of them new, one window", head, rows)


def _flood(number: int, room: int) -> list[str]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_memory, args=(theirs, number, room))
    process.start()
    growth, median, slow = ours.recv()
    process.join()
    kept = min(number, room)
    return [
        f"{number:,}",
        f"{growth / kept:,.0f}",
        f"{growth / 2**20:,.0f}",
        f"{median * 1e6:.1f}",
        f"{slow * 1e6:.1f}",
    ]


def _in_memory(answer: Connection, number: int, room: int) -> None:
    store = MemoryStore(max_counters=room)
    before = _resident()
    cuts = asyncio.run(_hit_all(store, number))
    answer.send((_resident() - before, cuts[49], cuts[98]))


async def _hit_all(store: Store, number: int) -> list[float]:
    """Hit once for each caller, and say how long that took, in hundredths of the calls."""
    times: Any = (ctypes.c_double * number)()  # that takes no memory of its own kind
    gc.collect()
    for caller in range(number):
        key = store_key(str(caller))
        began = time.perf_counter()
        await store.hit("bench", key, _ONE, 1)
        times[caller] = time.perf_counter() - began
    return quantiles(times, n=100)


async def _redis_flood(number: int) -> list[str]:
    with redis_server() as server:
        store = RedisStore(server.url, timeout=30)
        await store.hit("bench", store_key("first"), _ONE, 1)
        before = _used(server.lines("INFO", "memory"))
        cuts = await _hit_all(store, number)
        growth = _used(server.lines("INFO", "memory")) - before
    return [
        f"{number:,}", f"{growth / number:,.0f}", f"{growth / 2**20:,.0f}", f"{cuts[49] * 1e6:.1f}",
        f"{cuts[98] * 1e6:.1f}",
    ]  # fmt: skip


def _used(lines: list[str]) -> int:
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("used_memory:"))


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4_096
