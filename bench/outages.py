"""What callers see while Redis is killed, hangs, or comes back empty, under each policy of ``on_store_error``.

Two processes with 20 callers each ask one limit without a pause of their own. After a second Redis goes away, after
another second and a half it is back. The last line is the same load on a Redis that stays.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import quantiles
from typing import Any, Literal

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from tests.redis_server import RedisServer, redis_server

from bench.asgi import Post
from bench.report import Grid
from mlguard import RateLimit, RedisStore, harden

_LIMIT = 300
_PROCESSES = 2
_CALLERS = 20
_PAUSE = 0.01  # seconds between two requests of one caller
_AWAY = 1.0  # seconds after which Redis goes away
_BACK = 2.5
_END = 4.0

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
    return "everybody"


async def _answer() -> None:
    return None


def _nothing(server: RedisServer) -> None:
    del server


_FAILURES: dict[str, tuple[Callable[[RedisServer], Any], Callable[[RedisServer], Any]]] = {
    "killed, back empty": (RedisServer.kill, RedisServer.start),
    "hangs, back": (RedisServer.pause, RedisServer.resume),
    "stays": (_nothing, _nothing),
}


def _play(failure: str, policy: Policy, pool: ProcessPoolExecutor, scale: float) -> list[str]:
    leave, come_back = _FAILURES[failure]
    with redis_server() as server:
        begin = time.time() + 1.0
        tasks = [pool.submit(ask, server.url, policy, begin, _END * scale) for _ in range(_PROCESSES)]
        time.sleep(max(0.0, begin + _AWAY * scale - time.time()))
        leave(server)
        time.sleep(max(0.0, begin + _BACK * scale - time.time()))
        come_back(server)
        seen = [task.result() for task in tasks]
    statuses = sum((one.statuses for one in seen), Counter[int]())
    errors = sum(number for status, number in statuses.items() if status not in {200, 429, 503})
    assert not errors, statuses
    if policy == "refuse":
        most = 2 * _LIMIT if failure == "killed, back empty" else _LIMIT
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
        for failure, policy in plays:
            rows.append(await asyncio.to_thread(_play, failure, policy, pool, 0.5 if short else 1.0))
    head = ["Redis", "policy", "admitted", "429", "503", "errors", "p50 ms", "p99 ms", "p99.9 ms"]
    notes = [f'The limit is {_LIMIT}. With "local", each process admits a tenth of it by itself.']
    return Grid("A Redis that goes away under load", head, rows, notes)
