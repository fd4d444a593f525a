"""What callers see while Redis is killed, hangs, or comes back empty, under each policy of ``on_store_error``.

Two processes with 20 callers each ask one limit without a pause of their own. After a second Redis goes away, after
another second and a half it is back. Then the same load on a Redis that stays, and on a Cluster one of whose masters
dies and is replaced by its replica.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import quantiles
from typing import Any, Literal

from fastapi import Depends, FastAPI
from redis.crc import key_slot
from starlette.requests import HTTPConnection
from tests.redis_server import RedisServer, redis_cluster, redis_server

from bench.asgi import Post
from bench.exactness import rest
from bench.report import Grid
from mlguard import RateLimit, RedisStore, harden
from mlguard.store import store_key

_LIMIT = 300
_PROCESSES = 2
_CALLERS = 20
_PAUSE = 0.01  # seconds between two requests of one caller
_AWAY = 1.0  # seconds after which Redis goes away
_BACK = 2.5
_END = 4.0
_FAILOVER = "a Cluster's master dies"
# One whose key is on the first master, which has a replica.
_CALLER = next(
    name for name in map(str, itertools.count()) if key_slot(store_key("name", name).hex().encode()) * 3 < 16_384
)

Policy = Literal["refuse", "allow", "local"]


@dataclass(frozen=True)
class Seen:
    """What the callers of one process have seen: statuses, and how long each answer took in seconds."""

    statuses: Counter[int]
    seconds: list[float]


def ask(url: str, policy: Policy, begin: float, length: float) -> Seen:
    """Ask from one process.

    Args:
        url: Of the Redis.
        policy: Of the limit.
        begin: When, by ``time.time``.
        length: For how many seconds.
    """
    logging.getLogger("mlguard").setLevel(logging.CRITICAL)  # refusals are the point here
    app = FastAPI()
    harden(app)
    limit = RateLimit(f"{_LIMIT}/hour", by=_everybody, name="one", store=RedisStore(url), on_store_error=policy)
    app.post("/predict", dependencies=[Depends(limit)])(_answer)
    seen = Seen(Counter(), [])

    async def caller() -> None:
        post = Post(app, "/predict", b"{}", {})
        while time.time() < begin + length:
            began = time.perf_counter()
            status, _ = await post()
            seen.seconds.append(time.perf_counter() - began)
            seen.statuses[status] += 1
            await asyncio.sleep(_PAUSE)

    async def main() -> None:
        await asyncio.sleep(max(0.0, begin - time.time()))
        await asyncio.gather(*[caller() for _ in range(_CALLERS)])

    asyncio.run(main())
    return seen


def _everybody(conn: HTTPConnection) -> str:  # noqa: ARG001  # one bucket for all
    return _CALLER


async def _answer() -> None:
    return None


def _nothing(server: RedisServer) -> None:
    del server


_FAILURES: dict[str, tuple[Callable[[RedisServer], Any], Callable[[RedisServer], Any]]] = {
    "killed, back empty": (RedisServer.kill, RedisServer.start),
    "hangs, back": (RedisServer.pause, RedisServer.resume),
    "stays": (_nothing, _nothing),
    _FAILOVER: (RedisServer.kill, _nothing),
}


@contextlib.contextmanager
def _redis(failure: str) -> Iterator[tuple[str, RedisServer]]:
    """Where to count, and the server that goes away: in a Cluster, the master of the caller's key."""
    if failure == _FAILOVER:
        with redis_cluster() as cluster:
            yield cluster.url, cluster.masters[0]
    else:
        with redis_server() as server:
            yield server.url, server


def _play(failure: str, policy: Policy, pool: ProcessPoolExecutor, scale: float) -> list[str]:
    leave, come_back = _FAILURES[failure]
    with _redis(failure) as (url, server):
        begin = time.time() + 1.0
        length = _END * scale * (2 if failure == _FAILOVER else 1)
        tasks = [pool.submit(ask, url, policy, begin, length) for _ in range(_PROCESSES)]
        time.sleep(max(0.0, begin + _AWAY * scale - time.time()))
        leave(server)
        time.sleep(max(0.0, begin + _BACK * scale - time.time()))
        come_back(server)
        seen = [task.result() for task in tasks]
    statuses = sum((one.statuses for one in seen), Counter[int]())
    errors = sum(number for status, number in statuses.items() if status not in {200, 429, 503})
    assert not errors, statuses
    if policy == "refuse":
        most = 2 * _LIMIT if failure in {"killed, back empty", _FAILOVER} else _LIMIT
        assert statuses[200] <= most, f"{statuses[200]} were admitted, and there were {most}"
    cuts = quantiles([seconds for one in seen for seconds in one.seconds], n=1_000)
    times = [f"{cuts[place] * 1e3:.1f}" for place in (499, 989, 998)]
    return [failure, policy, *(f"{statuses[status]:,}" for status in (200, 429, 503)), str(errors), *times]


async def measure(*, short: bool) -> Grid:
    """Each failure under each policy."""
    policies: tuple[Policy, ...] = ("refuse", "allow", "local")
    plays = [(failure, policy) for failure in _FAILURES for policy in policies][: 2 if short else None]
    rows = []
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        await asyncio.to_thread(lambda: [*pool.map(rest, range(_PROCESSES))])  # until all of them have started
        for failure, policy in plays:
            rows.append(await asyncio.to_thread(_play, failure, policy, pool, 0.5 if short else 1.0))
    head = ["Redis", "policy", "admitted", "429", "503", "errors", "p50 ms", "p99 ms", "p99.9 ms"]
    notes = [f'The limit is {_LIMIT}. With "local", each process admits a tenth of it by itself.']
    return Grid("A Redis that goes away under load", head, rows, notes)
