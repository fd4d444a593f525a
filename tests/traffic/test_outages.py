"""What limits do while their store does not answer, on a real Redis that is killed, hung and brought back."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from tests.asgi import acall, make_scope
from tests.redis_server import RedisServer, redis_server

from mlguard import ConfigurationError, RateLimit, RedisStore, UnavailableError, Window, harden
from mlguard.memory_store import MemoryStore
from mlguard.traffic.outages import counts_of, decided_without_store


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def service(limit: RateLimit) -> FastAPI:
    app = FastAPI()
    harden(app)
    app.get("/predict", dependencies=[Depends(limit)])(lambda: None)
    return app


async def ask(app: FastAPI, number: int) -> list[int]:
    return [(await acall(app, method="GET")).status for _ in range(number)]


def limit_in(redis: RedisServer, policy: Any, **options: Any) -> RateLimit:
    store = RedisStore(redis.url, timeout=0.25)
    return RateLimit("20/hour", store=store, on_store_error=policy, name="limit", **options)


@pytest.mark.parametrize(
    ("policy", "meanwhile"),
    [("refuse", [503] * 5), ("allow", [200] * 5), ("local", [200, 200, 429, 429, 429])],
)
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_each_policy_does_what_it_says(
    policy: Any, meanwhile: list[int], how: str, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """While Redis is gone or hangs, and again when it is back. No 500, and a line in the log for each change."""
    caplog.set_level(logging.WARNING, "mlguard")
    limit = limit_in(redis, policy)
    app = service(limit)

    async def until_back() -> None:
        while True:
            try:
                await limit.store.get(b"any")
            except UnavailableError:
                await asyncio.sleep(0.05)
            else:
                return

    async def main() -> None:
        assert await ask(app, 3) == [200] * 3
        getattr(redis, how)()
        assert await ask(app, 5) == meanwhile
        redis.start() if how == "kill" else redis.resume()
        await until_back()
        assert await ask(app, 3) == [200] * 3

    asyncio.run(main())
    assert limit.decided_without_store == (0 if policy == "refuse" else 5)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("RateLimit 'limit'")]
    if policy == "refuse":
        assert lines == []
    else:
        said = {"allow": "everybody is admitted", "local": "this process admits 0.1 of each limit by itself"}[policy]
        assert lines == [
            f"RateLimit 'limit' goes on without its store: {said}",
            "RateLimit 'limit' counts in its store again, after 5 decisions without it",
        ]


def test_a_reservation_survives_the_store(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that ends while the store is away ends as it would: what cannot be settled is a line in the log."""
    limit = limit_in(redis, "refuse")

    async def stream() -> str:
        async with limit.reserve(_conn(), 5) as reservation:
            redis.kill()
            reservation.used = 1
        return "whole"

    assert asyncio.run(stream()) == "whole"
    assert "a reservation was not settled" in caplog.text


@pytest.mark.parametrize("policy", ["allow", "local"])
def test_a_reservation_without_a_store(policy: Any, redis: RedisServer) -> None:
    """It begins and ends without a store, and gives nothing back that was counted elsewhere."""
    redis.kill()
    limit = limit_in(redis, policy, local_share=0.5)

    async def main() -> int:
        async with limit.reserve(_conn(), 9) as reservation:
            reservation.used = 2
        async with limit.reserve(_conn(), 8) as reservation:
            reservation.used = 8
        return limit.decided_without_store

    assert asyncio.run(main()) == 3


def _conn() -> HTTPConnection:
    return HTTPConnection(make_scope("GET", "/"))


def test_budgets_and_places_have_the_same_policies(redis: RedisServer) -> None:
    """Whatever is counted."""
    redis.kill()

    async def main(policy: Any) -> list[Any]:
        counts = counts_of(RedisStore(redis.url), policy, 0.5, where="test")
        answers: list[Any] = [(await counts.spend(b"k", units, limit=4, ttl=60)).admitted for units in (1, 1, 1)]
        answers.append((await counts.spend(b"k", 9, limit=None, ttl=60)).admitted)
        answers += [(await counts.take_lease(b"k", holder, limit=4, ttl=60)).held for holder in (b"1", b"2", b"3")]
        await counts.end_lease(b"k", b"1")
        answers.append((await counts.take_lease(b"k", b"3", limit=4, ttl=60)).held)
        assert decided_without_store(counts) == 9
        return answers

    assert asyncio.run(main("allow")) == [True] * 8
    assert asyncio.run(main("local")) == [True, True, False, True, True, True, False, True]


def test_a_share_is_one_unit_at_least(redis: RedisServer) -> None:
    """A small limit is not nothing."""
    redis.kill()
    counts = counts_of(RedisStore(redis.url), "local", 0.01, where="test")
    hits = [asyncio.run(counts.hit("b", b"k", [Window(5, 60)], 1)).admitted for _ in range(2)]
    assert hits == [True, False]


def test_refusing_needs_nothing_in_between() -> None:
    """The default is the store itself."""
    store = MemoryStore()
    assert counts_of(store, "refuse", 0.1, where="test") is store


@pytest.mark.parametrize("policy", ["open", "", None, True])
def test_a_policy_that_is_none(policy: Any) -> None:
    """It stops the start."""
    with pytest.raises(ConfigurationError, match=r"on_store_error=\.\.\."):
        RateLimit("1/minute", on_store_error=policy)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, True, "half", None, float("nan")])
def test_a_share_that_is_none(share: Any) -> None:
    """It stops the start."""
    with pytest.raises(ConfigurationError, match=r"local_share=\.\.\."):
        RateLimit("1/minute", on_store_error="local", local_share=share)


def test_openapi_shows_503_only_where_it_can_happen(redis: RedisServer) -> None:
    """A limit that goes on without its store refuses nobody for it."""
    assert limit_in(redis, "refuse").statuses == (429, 503)
    assert limit_in(redis, "allow").statuses == limit_in(redis, "local").statuses == (429,)
