"""What limits do while their store does not answer, on a real Redis that is killed, hung and brought back."""

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from tests.asgi import acall, make_scope
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    Decision,
    JWTAuth,
    OverloadedError,
    RateLimit,
    RateLimitedError,
    RedisStore,
    Spending,
    UnavailableError,
    Window,
    harden,
)
from mlguard.auth._failures import checked_failures
from mlguard.memory_store import MemoryStore
from mlguard.traffic.outages import counts_of, decided_without_store

SECRET = "zK8w-Qm3xTfRp7Yc_VbN2LsHd9JgUe4A"


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

    async def main() -> None:
        assert await ask(app, 3) == [200] * 3
        getattr(redis, how)()
        assert await ask(app, 5) == meanwhile
        redis.start() if how == "kill" else redis.resume()
        await _until_back(limit)
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


@pytest.mark.parametrize("policy", ["refuse", "allow", "local"])
def test_under_load_there_are_only_answers(policy: Any, redis: RedisServer) -> None:
    """Redis hangs, goes on, is killed and comes back empty while 40 callers ask: no 500, and it counts again after.

    Under ``refuse``, never more than the limit while Redis keeps what it knows, and one limit more once that is lost.
    """
    limit = RateLimit("50/hour", store=RedisStore(redis.url, timeout=0.1), on_store_error=policy, name="limit")
    app = service(limit)
    answers: list[int] = []

    async def caller(over: asyncio.Event) -> None:
        while not over.is_set():
            answers.append((await acall(app, method="GET")).status)

    async def seen(number: int) -> None:
        """Until so many more were answered."""
        enough = len(answers) + number
        while len(answers) < enough:  # noqa: ASYNC110  # what is waited for are answers, from many tasks
            await asyncio.sleep(0.01)

    async def main() -> int:
        over = asyncio.Event()
        callers = [asyncio.create_task(caller(over)) for _ in range(40)]
        await seen(200)
        redis.pause()
        await seen(200)
        redis.resume()
        await _until_back(limit)
        await seen(200)
        before_loss = answers.count(200)
        redis.kill()
        await seen(200)
        redis.start()
        await _until_back(limit)
        await seen(200)
        over.set()
        await asyncio.gather(*callers)
        return before_loss

    before_loss = asyncio.run(main())
    assert set(answers) <= {200, 429, 503}
    if policy == "refuse":
        assert 0 < before_loss <= 50 < answers.count(200) <= 100
    elif policy == "local":
        assert answers.count(503) == 0
        assert before_loss <= 55
        assert answers.count(200) <= 105
    assert asyncio.run(ask(app, 2)) == [429, 429]


async def _until_back(limit: RateLimit) -> None:
    while True:
        try:
            await limit.store.get(b"any")
        except UnavailableError:
            await asyncio.sleep(0.05)
        else:
            return


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
    """It begins and ends without a store."""
    redis.kill()
    limit = limit_in(redis, policy, local_share=0.5)

    async def main() -> int:
        async with limit.reserve(_conn(), 9) as reservation:
            reservation.used = 2
        async with limit.reserve(_conn(), 8) as reservation:
            reservation.used = 8
        return limit.decided_without_store

    assert asyncio.run(main()) == 2


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
        with pytest.raises(UnavailableError):  # it may be held in the store: who gives it back tries again
            await counts.end_lease(b"k", b"1")
        answers.append((await counts.take_lease(b"k", b"3", limit=4, ttl=60)).held)
        assert decided_without_store(counts) == 8
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
    """A limit that decides by itself refuses nobody for its store; ``allow`` does where too many wait for it."""
    assert limit_in(redis, "refuse").statuses == limit_in(redis, "allow").statuses == (429, 503)
    assert limit_in(redis, "local").statuses == (429,)
    keys = APIKeys([APIKey.generate("alice")[0]])
    assert APIKeyAuth(keys, failures=limit_in(redis, "refuse")).statuses == (401, 403, 429, 503)
    assert APIKeyAuth(keys, failures=limit_in(redis, "local")).statuses == (401, 403, 429)
    assert JWTAuth(SECRET, algorithms=["HS256"], failures=limit_in(redis, "refuse")).statuses == (401, 403, 429, 503)
    assert JWTAuth(SECRET, algorithms=["HS256"], failures=limit_in(redis, "local")).statuses == (401, 403, 429)


# Brakes on guessing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "meanwhile"), [("refuse", [503] * 4), ("local", [401, 401, 429, 429])])
def test_a_brake_stays_on(policy: Any, meanwhile: list[int], redis: RedisServer) -> None:
    """While Redis is away, secrets cannot be guessed without a limit."""
    redis.kill()
    app = FastAPI()
    harden(app)
    caller = APIKeyAuth(APIKeys([APIKey.generate("alice")[0]]), failures=limit_in(redis, policy))
    app.get("/predict", dependencies=[Depends(caller)])(lambda: None)
    assert asyncio.run(ask(app, 4)) == meanwhile


def test_a_brake_that_an_outage_opens_is_no_brake() -> None:
    """It stops the start, for keys, tokens, signatures and logins."""
    limit = RateLimit("5/minute", on_store_error="allow", store=MemoryStore())
    with pytest.raises(ConfigurationError, match="on_store_error='allow'"):
        checked_failures(limit, where="APIKeyAuth")


# What happens in between ----------------------------------------------------------------------------------------------


class Moody(MemoryStore):
    """A store that fails when it is told to."""

    suspends = True

    def __init__(self) -> None:
        super().__init__(clock=Clock(600.0))
        self.failure: Exception | None = None
        self.waiting: asyncio.Event | None = None

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        if self.waiting is not None:
            await self.waiting.wait()
        elif self.failure is not None:
            raise self.failure
        return await super().hit(bucket, caller, windows, cost)

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        if self.failure is not None:
            raise self.failure
        await super().settle(bucket, caller, windows, units, at=at)

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
        if self.failure is not None:
            raise self.failure
        return await super().spend(key, units, limit=limit, ttl=ttl)


AWAY = UnavailableError("away", retry_after=1)


@pytest.mark.parametrize(
    ("policy", "answers"), [("refuse", [503] * 3), ("allow", [503] * 3), ("local", [200, 200, 429])]
)
def test_a_flood_opens_no_limit(policy: Any, answers: list[int]) -> None:
    """Who sends so much that requests find no place in the line for the store is not admitted for that."""
    store = Moody()
    store.failure = OverloadedError("too many wait", retry_after=1)
    assert asyncio.run(ask(service(RateLimit("20/hour", store=store, on_store_error=policy)), 3)) == answers


def test_a_store_that_sees_no_end_of_it() -> None:
    """Where a store says that waiting does not help, nobody is told to wait."""

    class Never(MemoryStore):
        async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
            return (await super().hit(bucket, caller, windows, cost))._replace(admitted=False, retry_after=math.inf)

    answer = asyncio.run(acall(service(RateLimit("20/hour", store=Never())), method="GET"))
    assert answer.status == 429
    assert "retry-after" not in answer.headers


def test_more_than_the_share_at_once() -> None:
    """A batch that only the whole limit has room for is told to come back, and is no crash."""
    store = Moody()
    store.failure = AWAY
    app = service(RateLimit("20/hour", cost=5, store=store, on_store_error="local"))
    answer = asyncio.run(acall(app, method="GET"))
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")


@pytest.mark.parametrize(("burst", "admitted"), [(1, 1), (15, 1), (100, 10)])
def test_a_share_of_a_rate_is_a_rate(burst: int, admitted: int) -> None:
    """Also where the burst is too small to be shared: one unit, and the next one at a tenth of one a second."""
    store = Moody()
    store.failure = AWAY
    counts = counts_of(store, "local", 0.1, where="test")

    async def main() -> list[Decision]:
        return [await counts.hit("b", b"k", [Window(burst, burst, "gcra")], 1) for _ in range(admitted + 1)]

    *first, last = asyncio.run(main())
    assert [decision.admitted for decision in first] == [True] * admitted
    assert last.retry_after == pytest.approx(10, abs=0.1)


async def _refused(limit: RateLimit, cost: int) -> None:
    with pytest.raises(RateLimitedError):
        await limit.hit(_conn(), cost=cost)


@pytest.mark.parametrize("strategy", ["sliding", "fixed", "gcra"])
def test_nothing_is_given_back_where_it_was_not_counted(strategy: Any) -> None:
    """A reservation that begins with the store and ends without it, or the other way round, makes nobody richer."""
    store = Moody()
    limit = RateLimit("100/hour", strategy=strategy, store=store, on_store_error="local", local_share=1)

    async def streams() -> None:
        async with limit.reserve(_conn(), 30):
            store.failure = AWAY
            await limit.hit(_conn(), cost=50)
        await _refused(limit, 51)  # here
        async with limit.reserve(_conn(), 40):
            store.failure = None
            await limit.hit(_conn(), cost=20)
        await _refused(limit, 51)  # in the store, where 30 and 20 are counted
        store.failure = AWAY
        await limit.hit(_conn(), cost=50)
        await _refused(limit, 1)

    asyncio.run(streams())


def test_what_was_used_beyond_a_reservation_counts_where_it_can() -> None:
    """In this process while the store is away, in the store once it is back."""
    store = Moody()
    limit = RateLimit("100/hour", store=store, on_store_error="local", local_share=1)

    async def streams() -> None:
        async with limit.reserve(_conn(), 30) as reservation:
            store.failure = AWAY
            reservation.used = 90
        await _refused(limit, 41)
        await limit.hit(_conn(), cost=40)
        async with limit.reserve(_conn(), 0) as reservation:
            store.failure = None
            reservation.used = 70
        await _refused(limit, 1)

    asyncio.run(streams())


def test_a_budget_gives_back_here_what_it_has_spent_here() -> None:
    """Units that the store has charged are no room in this process."""
    store = Moody()
    store.failure = AWAY
    counts = counts_of(store, "local", 1, where="test")

    async def main() -> list[int]:
        return [(await counts.spend(b"k", units, limit=10, ttl=60)).used for units in (-5, 3, -2, -9, 10)]

    assert asyncio.run(main()) == [0, 3, 1, 0, 10]


def test_an_answer_from_before_a_failure_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """Requests under way when the store goes make one line, not one for each change of luck."""
    store = Moody()
    limit = RateLimit("100/hour", store=store, on_store_error="allow", name="limit")

    async def answered_after_a_failure() -> None:
        waiting = store.waiting = asyncio.Event()
        before = asyncio.ensure_future(limit.hit(_conn()))
        await asyncio.sleep(0)
        store.waiting, store.failure = None, AWAY
        await limit.hit(_conn())
        waiting.set()
        await before

    async def main() -> None:
        await answered_after_a_failure()
        await answered_after_a_failure()
        store.failure = None
        await limit.hit(_conn())
        await limit.hit(_conn())

    with caplog.at_level(logging.WARNING, "mlguard"):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "RateLimit 'limit' goes on without its store: everybody is admitted",
        "RateLimit 'limit' counts in its store again, after 2 decisions without it",
    ]


def test_threads_count_as_one(caplog: pytest.LogCaptureFixture) -> None:
    """Event loops in several threads lose no decision, and make one line."""
    store = Moody()
    store.failure = AWAY
    limit = RateLimit("20/hour", store=store, on_store_error="local", local_share=1)
    admitted: list[int] = []

    async def hits() -> int:
        number = 0
        for _ in range(50):
            with contextlib.suppress(RateLimitedError):
                await limit.hit(_conn())
                number += 1
        return number

    threads = [threading.Thread(target=lambda: admitted.append(asyncio.run(hits()))) for _ in range(8)]
    with caplog.at_level(logging.WARNING, "mlguard"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(admitted) == 20
    assert limit.decided_without_store == 400
    assert len(caplog.records) == 1
