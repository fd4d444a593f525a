"""Requests a second through a limit in Redis: mlguard's, limits', slowapi's and fastapi-limiter's, on one server.

One process, an app with one endpoint each, 50 requests at once. Every limiter counts in one window, mlguard in three
too.
"""

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from redis.asyncio import Redis
from tests.redis_server import redis_server

from bench.asgi import Post
from bench.report import Grid
from bench.timing import Call, take_turns
from mlguard import RateLimit, RedisStore, harden

_MANY = 10**9  # nothing is refused
_AT_ONCE = 50


def _app(*, hardened: bool = False) -> FastAPI:
    app = FastAPI()
    if hardened:
        harden(app)
    return app


def _with(dependency: Any, *, hardened: bool = False) -> FastAPI:
    app = _app(hardened=hardened)
    app.post("/predict", dependencies=[Depends(dependency)])(_answer)
    return app


async def _answer() -> None:
    return None


def _name(request: Request) -> str:
    return str(request.client.host) if request.client else ""


def _of_limits(url: str, kind: Callable[[Any], Any], item: RateLimitItem) -> FastAPI:
    limiter = kind(RedisStorage(f"async+{url}", implementation="redispy"))

    async def limited(request: Request) -> None:
        assert await limiter.hit(item, _name(request))

    return _with(limited)


def _of_slowapi(url: str) -> FastAPI:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # slowapi uses what newer Pythons deprecate
        from slowapi import Limiter  # noqa: PLC0415  # as above

    limiter = Limiter(key_func=_name, storage_uri=url)
    app = _app()
    app.state.limiter = limiter

    @app.post("/predict")
    @limiter.limit(f"{_MANY}/minute")
    async def predict(request: Request) -> None:
        """What is limited."""

    return app


async def _of_fastapi_limiter(client: Any) -> FastAPI:
    from fastapi_limiter.depends import RateLimiter  # noqa: PLC0415  # beside the other one
    from pyrate_limiter import Duration, Limiter, Rate, RedisBucket  # noqa: PLC0415  # as above

    bucket = await RedisBucket.init([Rate(_MANY, Duration.MINUTE)], client, "bench")
    return _with(RateLimiter(limiter=Limiter(bucket)))


@contextlib.asynccontextmanager
async def _apps(url: str) -> AsyncIterator[dict[str, FastAPI]]:
    client = Redis.from_url(url)
    store = RedisStore(url, timeout=30)
    three = (f"{_MANY}/second", f"{_MANY}/minute", f"{_MANY}/day")
    yield {
        "mlguard, one window": _with(RateLimit(f"{_MANY}/minute", name="one", store=store)),
        "mlguard, three windows": _with(RateLimit(*three, name="three", store=store)),
        "mlguard, three windows, harden": _with(RateLimit(*three, name="hard", store=store), hardened=True),
        "limits, fixed window": _of_limits(url, FixedWindowRateLimiter, RateLimitItemPerMinute(_MANY)),
        "limits, moving window": _of_limits(url, MovingWindowRateLimiter, RateLimitItemPerMinute(10**6)),
        "slowapi, fixed window": _of_slowapi(url),
        "fastapi-limiter": await _of_fastapi_limiter(client),
    }
    await client.aclose()


async def measure(*, short: bool) -> Grid:
    """All of them in turns."""
    with redis_server() as server:
        async with _apps(server.url) as apps:
            calls = {name: _crowd(Post(app, "/predict", b"{}", {})) for name, app in apps.items()}
            if short:
                calls = {name: calls[name] for name in list(calls)[:3]}
            timing = await take_turns(calls, rounds=2 if short else 9, calls=1 if short else 4)
    first = next(iter(calls))
    rows = [[name, f"{_AT_ONCE / timing.of(name):,.0f}", f"{timing.ratio(name, first):.2f}x"] for name in calls]
    return Grid("Throughput of a limit in Redis", ["limiter", "requests/s", "time of the first"], rows)


def _crowd(post: Post) -> Call:
    async def crowd() -> None:
        answers = await asyncio.gather(*[post() for _ in range(_AT_ONCE)])
        assert {status for status, _ in answers} == {200}, answers[0]

    return crowd
