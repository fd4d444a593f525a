"""Units that are counted before it is known how many it will be: settled exactly once, however a stream ends."""

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection
from tests.asgi import call, make_scope
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server
from tests.servers import serving, wait_until

from mlguard import ConfigurationError, Decision, RateLimit, RateLimitedError, RedisStore, Window, harden
from mlguard.memory_store import MemoryStore
from mlguard.store import store_key


def conn(host: str = "192.0.2.1") -> HTTPConnection:
    return HTTPConnection(make_scope("GET", "/", client=(host, 1)))


async def room(limit: RateLimit, host: str = "192.0.2.1") -> int:
    """Units left, found out by a hit that counts nothing."""
    return (await limit.store.hit(limit._bucket, store_key("name", host), limit.windows, 0)).remaining[0]


def left(limit: RateLimit, host: str = "192.0.2.1") -> int:
    return asyncio.run(room(limit, host))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.mark.parametrize("kind", ["memory", "redis"])
@pytest.mark.parametrize("strategy", ["sliding", "fixed", "gcra"])
@pytest.mark.parametrize(("used", "remaining"), [(0, 100), (30, 70), (60, 40), (90, 10), (150, 0)])
def test_a_reservation_is_settled(strategy: Any, kind: str, used: int, remaining: int, redis: RedisServer) -> None:
    """What was not used is given back, and what was used beyond it is counted, even above the limit."""
    store = MemoryStore(clock=Clock(600.0)) if kind == "memory" else RedisStore(redis.url, prefix=f"{strategy}{used}")
    limit = RateLimit("100/90000 days", strategy=strategy, store=store)

    async def stream() -> None:
        async with limit.reserve(conn(), 60) as reservation:
            assert reservation.reserved == 60
            reservation.used += used

    asyncio.run(stream())
    assert left(limit) == remaining


def test_a_reservation_that_has_no_room() -> None:
    """The stream does not begin, and nothing is settled."""
    limit = RateLimit("100/minute", store=MemoryStore(clock=Clock()))

    async def streams() -> None:
        async with limit.reserve(conn(), 60) as first:
            first.used = 60
            with pytest.raises(RateLimitedError):
                async with limit.reserve(conn(), 60):
                    raise AssertionError
            with pytest.raises(RateLimitedError):
                async with limit.reserve(conn(), 101):
                    raise AssertionError

    asyncio.run(streams())
    assert left(limit) == 40


@pytest.mark.parametrize("how", ["error", "cancelled"])
def test_a_stream_that_breaks_off_pays_what_it_used(how: str) -> None:
    """Also when the task that ran it is cancelled, as servers do when the client has gone."""
    limit = RateLimit("100/minute", store=MemoryStore(clock=Clock()))

    async def stream(started: asyncio.Event) -> None:
        async with limit.reserve(conn(), 60) as reservation:
            reservation.used = 7
            started.set()
            if how == "error":
                raise ZeroDivisionError
            await asyncio.Event().wait()

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(stream(started))
        await started.wait()
        task.cancel()
        with pytest.raises((ZeroDivisionError, asyncio.CancelledError)):
            await task

    asyncio.run(main())
    assert left(limit) == 93


def test_nobody_gets_back_units_of_somebody_else() -> None:
    """A stream that is longer than the window gives nothing back: its units have left the window by themselves."""
    clock = Clock(600.0)
    limit = RateLimit("100/minute", store=MemoryStore(clock=clock))

    async def main() -> None:
        async with limit.reserve(conn(), 60):
            clock.now += 120
            await limit.hit(conn(), cost=50)

    asyncio.run(main())
    assert left(limit) == 50


@pytest.mark.parametrize("used", [-1, 1.5, None, True])
def test_what_was_used_is_a_number(used: Any) -> None:
    """Anything else is an error where it is written."""

    async def main() -> None:
        async with RateLimit("3/minute", store=MemoryStore()).reserve(conn(), 1) as reservation:
            reservation.used = used

    with pytest.raises(ConfigurationError, match=r"reservation\.used"):
        asyncio.run(main())


# Before the answer begins --------------------------------------------------------------------------------------------


def streaming(limit: RateLimit, *, hardened: bool = True, begins: bool = True) -> FastAPI:
    """Twenty tokens, for which 50 are reserved before the answer begins."""
    app = FastAPI()
    if hardened:
        harden(app)

    @app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        reservation = await limit.reserve(request, 50)

        async def tokens() -> AsyncIterator[bytes]:
            async with reservation:
                for _ in range(20):
                    reservation.used += 1
                    yield b"token\n"

        async def nothing() -> AsyncIterator[bytes]:
            yield b""

        return StreamingResponse(tokens() if begins else nothing())

    return app


@pytest.mark.parametrize("hardened", [False, True])
def test_a_stream_without_room_is_refused_as_any_request(*, hardened: bool) -> None:
    """With its own status and headers, because the reservation is awaited before the answer begins."""
    limit = RateLimit("100/minute", store=MemoryStore(clock=Clock(600.0)))
    app = streaming(limit, hardened=hardened)
    answers = [call(app, "/stream", method="GET", client=("192.0.2.1", 1)) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[0].body == b"token\n" * 20
    assert answers[3].headers["retry-after"] == "64"
    assert left(limit) == 40


def test_a_stream_that_never_begins_is_given_back() -> None:
    """A reservation whose block was not entered is settled at the end of the request; without ``harden`` it is not."""
    limit = RateLimit("100/minute", store=MemoryStore(clock=Clock(600.0)))
    for hardened, remaining in ((True, 100), (False, 50)):
        app = streaming(limit, hardened=hardened, begins=False)
        assert call(app, "/stream", method="GET", client=("192.0.2.1", 1)).status == 200
        assert left(limit) == remaining


def test_one_reservation_is_counted_once() -> None:
    """It can be neither awaited nor entered again."""
    limit = RateLimit("100/minute", store=MemoryStore(clock=Clock(600.0)))

    async def main() -> None:
        reservation = await limit.reserve(conn(), 10)
        with pytest.raises(ConfigurationError, match="once"):
            await reservation
        async with reservation:
            reservation.used = 4
        assert reservation.used == 4
        with pytest.raises(ConfigurationError, match="one block"):
            async with reservation:
                pass

    asyncio.run(main())
    assert left(limit) == 96


def test_a_forgotten_await_is_told() -> None:
    """As Python tells of a coroutine that nobody awaits: it would be no limit at all."""
    limit = RateLimit("100/minute", store=MemoryStore(clock=Clock(600.0)))
    with pytest.warns(RuntimeWarning, match="never awaited"):
        limit.reserve(conn(), 10)
    assert left(limit) == 100


def test_many_reservations_of_one_connection_leave_nothing_behind() -> None:
    """A WebSocket that lives for days does not collect them."""
    limit = RateLimit("100/minute", store=MemoryStore(clock=Clock(600.0)))
    connection = conn()

    async def main() -> None:
        for _ in range(5):
            async with await limit.reserve(connection, 10):
                pass

    asyncio.run(main())
    assert connection.scope["mlguard"].at_end == []


# Clients that leave --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_a_client_that_leaves_pays_for_what_was_made(kind: str, redis: RedisServer) -> None:
    """On a real server: the client closes after two tokens of an endless stream."""
    store = MemoryStore() if kind == "memory" else RedisStore(redis.url)
    limit = RateLimit("100/minute", store=store)
    app = FastAPI()
    harden(app)
    ended = threading.Event()
    settled: list[int] = []

    @app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        reservation = await limit.reserve(request, 50)
        gone = asyncio.Event()

        async def tokens() -> AsyncIterator[bytes]:
            try:
                async with reservation:
                    for _ in range(2):
                        reservation.used += 1
                        yield b"token\n"
                    await gone.wait()
            finally:
                ended.set()

        return StreamingResponse(tokens())

    @app.get("/left")
    async def units_left() -> int:
        return await room(limit, "127.0.0.1")

    def is_settled() -> bool:
        settled.append(httpx.get(url + "/left", trust_env=False).json())
        return settled[-1] == 98

    with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            seen = b""
            while seen.count(b"token") < 2:
                seen += client.recv(4096)
            assert httpx.get(url + "/left", trust_env=False).json() == 50
        assert ended.wait(5)
        wait_until(is_settled, seconds=5)
        assert httpx.get(url + "/left", trust_env=False).json() == 98


class Hesitant(MemoryStore):
    """A store that waits when it is told to."""

    suspends = True

    def __init__(self) -> None:
        super().__init__(clock=Clock(600.0))
        self.waits: dict[str, asyncio.Event] = {}
        self.asked = asyncio.Event()
        self.failure: Exception | None = None

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        decision = await super().hit(bucket, caller, windows, cost)
        await self._wait("hit")
        return decision

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        await self._wait("settle")
        if self.failure is not None:
            raise self.failure
        await super().settle(bucket, caller, windows, units, at=at)

    async def _wait(self, method: str) -> None:
        if method in self.waits:
            self.asked.set()
            await self.waits[method].wait()


async def others() -> None:
    """Wait for all tasks but this one, and for those that they begin."""
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks)


@pytest.mark.parametrize("admits", [True, False])
def test_who_leaves_while_it_is_counted_gets_it_back(*, admits: bool) -> None:
    """The store has counted, and nobody is there any more to be told so."""
    store = Hesitant()
    limit = RateLimit("100/minute", store=store)

    async def main() -> None:
        if not admits:
            await limit.hit(conn(), cost=90)
        store.waits["hit"] = asyncio.Event()
        task = asyncio.ensure_future(limit.reserve(conn(), 60).__aenter__())
        await store.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        store.waits.pop("hit").set()
        await others()

    asyncio.run(main())
    assert left(limit) == (100 if admits else 10)


def test_who_leaves_while_it_is_settled_has_it_settled() -> None:
    """Cancelling a task that waits for the settlement does not stop that."""
    store = Hesitant()
    limit = RateLimit("100/minute", store=store)

    async def stream() -> None:
        async with limit.reserve(conn(), 60) as reservation:
            reservation.used = 5

    async def main() -> None:
        store.waits["settle"] = asyncio.Event()
        task = asyncio.ensure_future(stream())
        await store.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        store.waits["settle"].set()
        await others()

    asyncio.run(main())
    assert left(limit) == 95


def test_a_store_that_crashes_takes_nothing_from_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    """How the stream has ended is what its caller sees; the log has the rest."""
    store = Hesitant()
    limit = RateLimit("100/minute", store=store)
    store.failure = ZeroDivisionError("secret inside")

    async def stream(error: Exception | None = None) -> str:
        async with limit.reserve(conn(), 10):
            if error is not None:
                raise error
        return "whole"

    with caplog.at_level(logging.WARNING, "mlguard"):
        assert asyncio.run(stream()) == "whole"
        with pytest.raises(KeyError):
            asyncio.run(stream(KeyError()))
    assert [record.getMessage() for record in caplog.records] == [
        "RateLimit '100/minute by address': a reservation was not settled"
    ] * 2


def test_reservations_race_for_exactly_the_limit() -> None:
    """Of many streams at once, as many begin as have room, and all of it comes back."""
    limit = RateLimit("100/minute", store=MemoryStore(clock=Clock(600.0)))

    async def stream(all_asked: asyncio.Barrier) -> int:
        try:
            async with limit.reserve(conn(), 30):
                await all_asked.wait()
        except RateLimitedError:
            await all_asked.wait()
            return 0
        return 1

    async def main() -> int:
        all_asked = asyncio.Barrier(20)
        return sum(await asyncio.gather(*[stream(all_asked) for _ in range(20)]))

    assert asyncio.run(main()) == 3
    assert left(limit) == 100
