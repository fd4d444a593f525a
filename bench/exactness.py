"""How exact a limit is when several processes ask at once: in one fresh window, and in any stretch of its length.

Four processes with ten callers each ask one limit in Redis without pause. In a fresh window exactly the limit is
admitted. Over many windows never more than the limit in any stretch of that length, and a little less than it, because
the oldest part of a sliding window counts whole.
"""

import asyncio
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context

from tests.redis_server import redis_server

from bench.report import Grid
from mlguard import RedisStore, Window
from mlguard.store import store_key

_PROCESSES = 4
_CALLERS = 10


def admitted(url: str, window: Window, begin: float, length: float) -> list[float]:
    """When this process was admitted, in seconds by the store's clock."""
    times: list[float] = []

    async def caller(store: RedisStore) -> None:
        while time.time() < begin + length:
            decision = await store.hit("exact", store_key("everybody"), (window,), 1)
            if decision.admitted:
                times.append(decision.at)

    async def main() -> None:
        store = RedisStore(url, timeout=30)
        await asyncio.sleep(max(0.0, begin - time.time()))
        await asyncio.gather(*[caller(store) for _ in range(_CALLERS)])

    asyncio.run(main())
    return times


def rest(number: int) -> int:
    """Take a worker of the pool for a moment, so that each of them is started."""
    time.sleep(0.5)
    return number


def most_in_any(times: list[float], seconds: float) -> int:
    """The most that were admitted in any stretch of so many seconds: the fullest ones begin with one of them."""
    first = most = 0
    for last, moment in enumerate(times):
        while times[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def _ask(pool: ProcessPoolExecutor, window: Window, length: float) -> list[float]:
    with redis_server() as server:
        begin = time.time() + 0.5
        tasks = [pool.submit(admitted, server.url, window, begin, length) for _ in range(_PROCESSES)]
        return sorted(chain.from_iterable(task.result() for task in tasks))


async def measure(*, short: bool) -> Grid:
    """One fresh window, several times, and ten windows on end."""
    rows = []
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        await asyncio.to_thread(lambda: [*pool.map(rest, range(_PROCESSES))])  # until all of them have started
        fresh = Window(500, 3_600)
        for turn in range(1 if short else 3):
            number = len(await asyncio.to_thread(_ask, pool, fresh, 0.5 if short else 1.5))
            assert number == fresh.limit, number
            rows.append([f"a fresh window, {turn + 1}", f"{fresh.limit}", f"{number}", f"{number / fresh.limit:.1%}"])
        window, windows = Window(200, 1), 2 if short else 10
        times = await asyncio.to_thread(_ask, pool, window, float(windows))
        most = most_in_any(times, window.seconds)
        assert most <= window.limit, most
        rows.append(["the fullest second of ten", f"{window.limit}", f"{most}", f"{most / window.limit:.1%}"])
        mean = len(times) / (times[-1] - times[0] + window.seconds)
        rows.append(["a second on average", f"{window.limit}", f"{mean:.0f}", f"{mean / window.limit:.1%}"])
    head = ["what", "limit", "admitted", "of the limit"]
    return Grid(f"{_PROCESSES} processes with {_CALLERS} callers each, one limit in Redis", head, rows)
