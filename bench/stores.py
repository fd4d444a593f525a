"""What three windows in Redis cost, beside one window of the limits package on the same server.

One caller at a time, and then 50 at once. limits counts in one fixed window; mlguard slides, and decides three as one.
"""

import asyncio
import secrets
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.asyncio import ConnectionPool
from tests.redis_server import redis_server

from bench.report import Line, Table
from bench.timing import Call, take_turns
from mlguard import RedisStore, Window
from mlguard.store import store_key

_MANY = 10**9  # nothing is refused
_AT_ONCE = 50
_WINDOWS = (Window(_MANY, 1), Window(_MANY, 60), Window(_MANY, 86_400))


async def measure(*, short: bool) -> Table:
    """Three windows of RedisStore, one of limits."""
    with redis_server() as server:
        pool = ConnectionPool.from_url(server.url)
        # Its types say that options are plain values; its documentation, that a pool may be given.
        options: dict[str, Any] = {"connection_pool": pool}
        storage = RedisStorage(f"async+{server.url}", **options, implementation="redispy")
        limiter, item = FixedWindowRateLimiter(storage), RateLimitItemPerMinute(_MANY)
        store, caller = RedisStore(server.url, timeout=30), store_key("bench")

        async def one_window() -> None:
            assert await limiter.hit(item, "bench")

        async def three_windows() -> None:
            assert (await store.hit("bench", caller, _WINDOWS, 1)).admitted

        async def all_three() -> None:
            await three_windows()
            assert await store.add_nonce(secrets.token_bytes(16), 1, owner=caller)
            assert (await store.spend(caller, 1, limit=_MANY, ttl=60)).admitted

        calls: dict[str, Call] = {"bare": one_window, "guarded": three_windows}
        crowds: dict[str, Call] = {name: _crowd(call) for name, call in calls.items()}
        alone = await take_turns(calls, rounds=2 if short else 31, calls=1 if short else 300)
        whole = await take_turns(
            {"bare": one_window, "guarded": all_three}, rounds=2 if short else 31, calls=1 if short else 100
        )
        at_once = await take_turns(crowds, rounds=2 if short else 15, calls=1 if short else 6)
        await pool.disconnect()
    return Table(
        "Three windows in Redis",
        [
            Line("one at a time", alone, 1.15),
            Line(f"{_AT_ONCE} at once", at_once, 1.15),
            Line("three windows, a nonce, a budget", whole, 3.4),
        ],
        ["bare: one fixed window of the limits package, on the same server."],
    )


def _crowd(call: Call) -> Call:
    async def crowd() -> None:
        await asyncio.gather(*[call() for _ in range(_AT_ONCE)])

    return crowd
