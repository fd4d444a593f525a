"""How many requests run at once, and that every place comes back."""

import asyncio
import math
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Form, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection
from starlette.types import Message
from tests.asgi import acall, call, make_scope
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server
from tests.servers import program, serving, wait_until
from websockets.sync.client import connect

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConcurrencyLimit,
    ConfigurationError,
    Features,
    Lease,
    OverloadedError,
    RateLimit,
    RedisStore,
    UnavailableError,
    _fastapi,
    harden,
    truncate_output,
)
from mlguard.memory_store import MemoryStore
from mlguard.traffic import _leases
from mlguard.traffic._leases import Leases

RECORDS = {name: APIKey.generate(name) for name in ("alice", "bob")}
JSON = (b"content-type", b"application/json")
FOUR = b'{"features": [1, 2, 3, 4]}'
LONG = 30.0


def key(name: str) -> tuple[bytes, bytes]:
    return (b"x-api-key", RECORDS[name][1].encode())


def caller() -> APIKeyAuth:
    return APIKeyAuth(APIKeys([record for record, _ in RECORDS.values()]))


class Crowd:
    """An endpoint that runs until it is told to end, and how many of it have run at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.entered = asyncio.Semaphore(0)
        self.leave = asyncio.Event()

    async def __call__(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.entered.release()
        try:
            await self.leave.wait()
        finally:
            self.running -= 1


def app_with(limit: ConcurrencyLimit, work: Callable[[], Any]) -> FastAPI:
    app = FastAPI()
    harden(app)

    @app.post("/predict", dependencies=[Depends(limit)])
    async def predict() -> None:
        await work()

    return app


def taken(limit: ConcurrencyLimit) -> int:
    """Places that are held."""
    store = limit.store
    assert isinstance(store, MemoryStore)
    return sum(map(len, store._leases.values()))


async def settled(limit: ConcurrencyLimit, number: int = 0) -> None:
    """Wait until so many places are held: giving back takes a turn of the event loop."""
    for _ in range(1_000):
        if taken(limit) == number:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{taken(limit)} places are held, not {number}")


async def post(app: FastAPI, *headers: tuple[bytes, bytes], path: str = "/predict") -> int:
    return (await acall(app, path, headers=headers)).status


# How many -------------------------------------------------------------------------------------------------------------


def test_exactly_so_many_run_at_once() -> None:
    """Those beyond them wait as long as there are places to wait in, and the others are refused at once."""

    async def main() -> None:
        crowd = Crowd()
        limit = ConcurrencyLimit(3, wait=LONG, store=MemoryStore())
        app = app_with(limit, crowd)
        tasks = [asyncio.create_task(post(app)) for _ in range(20)]
        for _ in range(3):
            await crowd.entered.acquire()
        refused = [status for task in tasks if task.done() or not await _still(task) for status in [task.result()]]
        assert refused == [503] * 14
        crowd.leave.set()
        statuses = await asyncio.gather(*tasks)
        assert (statuses.count(200), statuses.count(503), crowd.most) == (6, 14, 3)
        await settled(limit)

    asyncio.run(main())


async def _still(task: "asyncio.Task[int]") -> bool:
    """Whether it waits, after everything that can go on has gone on."""
    for _ in range(100):
        await asyncio.sleep(0)
    return not task.done()


def test_a_refusal_says_whose_fault_it_is() -> None:
    """The service's, for all together, or the caller's, for a caller's own places; another caller has its own."""

    async def main() -> None:
        crowd = Crowd()
        for by, status, rule in ((None, 503, "overloaded"), (caller(), 429, "concurrency-limited")):
            limit = ConcurrencyLimit(1, by=by, wait=0, store=MemoryStore())
            app = app_with(limit, crowd)
            first = asyncio.create_task(post(app, key("alice")))
            await crowd.entered.acquire()
            answer = await acall(app, headers=[key("alice")])
            assert (answer.status, answer.json["type"].rpartition(":")[2]) == (status, rule)
            assert answer.headers["retry-after"] == "1"
            others = asyncio.create_task(post(app, key("bob")))
            crowd.leave.set()
            assert await others == (503 if by is None else 200)
            assert await first == 200
            crowd.leave.clear()

    asyncio.run(main())


def test_who_waits_is_served_in_turn() -> None:
    """First come, first served; and who has waited for as long as is allowed is refused."""

    async def main() -> list[int]:
        order: list[int] = []
        leave: list[asyncio.Event] = [asyncio.Event() for _ in range(4)]
        limit = ConcurrencyLimit(3, wait=LONG, store=MemoryStore())
        app = FastAPI()
        harden(app)

        @app.post("/{number}", dependencies=[Depends(limit)])
        async def predict(number: int) -> None:
            order.append(number)
            await leave[min(number, 3)].wait()

        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(post(app, path=f"/{number}")))
            await _still(tasks[-1])
        assert order == [0, 1, 2]
        for number in (1, 0, 2):
            leave[number].set()
            await _still(tasks[-1])
        leave[3].set()
        assert await asyncio.gather(*tasks) == [200] * 6
        return order

    assert asyncio.run(main()) == [0, 1, 2, 3, 4, 5]


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``wait`` seconds without a place, it is a refusal."""

    async def main() -> int:
        crowd = Crowd()
        app = app_with(ConcurrencyLimit(1, wait=0.01, store=MemoryStore()), crowd)
        first = asyncio.create_task(post(app))
        await crowd.entered.acquire()
        status = await post(app)
        crowd.leave.set()
        await first
        return status

    assert asyncio.run(main()) == 503


@pytest.mark.parametrize("kind", ["async", "sync", "direct"])
def test_exactly_so_many_run_at_once_over_real_sockets(kind: str) -> None:
    """Of fifty that come together, whether they run in the event loop or in threads, and however they are called."""
    lock, leave = threading.Lock(), threading.Event()
    running = most = 0

    def work() -> dict[str, float]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        leave.wait(LONG)
        with lock:
            running -= 1
        return {"score": 0.5}

    async def work_apart() -> dict[str, float]:
        return await asyncio.to_thread(work)

    limit = ConcurrencyLimit(4, wait=LONG, store=MemoryStore())
    app = FastAPI()
    harden(app)
    endpoint: Any = work_apart if kind == "async" else work
    if kind == "direct":
        endpoint = truncate_output(decimals=1)(endpoint)
    app.post("/predict", dependencies=[Depends(limit)])(endpoint)
    statuses: Counter[int] = Counter()

    def ask(url: str) -> None:
        status = httpx.post(url + "/predict", json=[1], trust_env=False, timeout=LONG).status_code
        with lock:
            statuses[status] += 1

    with serving(app) as url:
        threads = [threading.Thread(target=ask, args=(url,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        wait_until(lambda: statuses[503] == 42)  # four run, and four wait
        assert [running, taken(limit)] == [4, 4]
        leave.set()
        for thread in threads:
            thread.join(LONG)
        assert (statuses, most) == ({200: 8, 503: 42}, 4)
        wait_until(lambda: taken(limit) == 0)


def test_who_waits_for_a_place_of_its_own_holds_none_of_all() -> None:
    """Or one caller would take twice as many of everybody's places as it may; whichever is listed first."""

    def who(conn: HTTPConnection) -> str:
        return conn.headers["who"]

    async def main(*, shared_first: bool) -> None:
        crowd = Crowd()
        shared = ConcurrencyLimit(3, wait=0, store=MemoryStore())
        own = ConcurrencyLimit(2, by=who, wait=LONG, store=MemoryStore())
        app = FastAPI()
        harden(app)
        guards = [Depends(shared), Depends(own)]

        @app.post("/predict", dependencies=guards if shared_first else guards[::-1])
        async def predict() -> None:
            await crowd()

        tasks = [asyncio.create_task(post(app, (b"who", b"a"))) for _ in range(4)]
        for task in tasks:
            assert await _still(task)
        assert [crowd.running, taken(shared)] == [2, 2]
        other = asyncio.create_task(post(app, (b"who", b"b")))
        assert await _still(other)
        assert crowd.running == 3
        crowd.leave.set()
        assert await asyncio.gather(*tasks, other) == [200] * 5

    asyncio.run(main(shared_first=True))
    asyncio.run(main(shared_first=False))


def test_one_object_on_two_endpoints_shares_its_places() -> None:
    """And two objects do not; one request takes one place, however often the guard is listed."""

    async def main() -> None:
        crowd = Crowd()
        limit, other = (ConcurrencyLimit(1, wait=0, store=MemoryStore()) for _ in range(2))
        app = FastAPI()
        harden(app)
        for path, guards in (("/a", [limit, limit]), ("/b", [limit]), ("/c", [other])):

            @app.post(path, dependencies=[Depends(guard) for guard in guards])
            async def predict() -> None:
                await crowd()

        first = asyncio.create_task(post(app, path="/a"))
        await crowd.entered.acquire()
        assert await post(app, path="/b") == 503
        third = asyncio.create_task(post(app, path="/c"))
        await crowd.entered.acquire()
        crowd.leave.set()
        assert [await first, await third] == [200, 200]

    asyncio.run(main())


# When it is taken -----------------------------------------------------------------------------------------------------


async def slow_upload(app: FastAPI, path: str, *headers: tuple[bytes, bytes]) -> tuple[asyncio.Event, Any]:
    """A request whose body hangs after the first piece, until the event."""
    rest, messages = asyncio.Event(), []
    pieces = iter([FOUR[:5], FOUR[5:]])

    async def receive() -> Message:
        piece = next(pieces, None)
        if piece is None:
            return {"type": "http.disconnect"}
        if piece != FOUR[:5]:
            await rest.wait()
        return {"type": "http.request", "body": piece, "more_body": piece == FOUR[:5]}

    async def send(message: Message) -> None:
        messages.append(message)

    scope = make_scope("POST", path, [JSON, (b"content-length", str(len(FOUR)).encode()), *headers])
    task = asyncio.create_task(app(scope, receive, send))
    await asyncio.sleep(0)
    return rest, (task, messages)


@pytest.mark.parametrize("kind", ["features", "direct", "model", "stream", "nothing"])
def test_a_slow_upload_holds_no_place(kind: str) -> None:
    """However the endpoint reads the body, or if it reads none, the place is taken when all of it is there."""
    iris = Features(columns=4, low=0, high=10, max_rows=10)
    limit = ConcurrencyLimit(1, wait=0, store=MemoryStore())
    app = FastAPI()
    harden(app)

    async def features(x: Annotated[np.ndarray, Depends(iris)]) -> Any:
        return {"rows": len(x)}

    async def model(body: dict[str, list[float]]) -> Any:
        return {"rows": len(body)}

    async def stream(request: Request) -> Any:
        return {"rows": len([piece async for piece in request.stream() if piece])}

    async def nothing() -> Any:
        return {"rows": 1}

    endpoints: dict[str, Any] = {"direct": features, "features": features, "model": model, "stream": stream}
    endpoint = endpoints.get(kind, nothing)
    if kind == "direct":
        endpoint = truncate_output(decimals=1)(endpoint)
    app.post("/predict", dependencies=[Depends(limit)])(endpoint)

    async def main() -> None:
        rest, (task, messages) = await slow_upload(app, "/predict")
        assert taken(limit) == 0
        answer = await acall(app, headers=[JSON], chunks=[FOUR])
        assert (answer.status, answer.json) == (200, {"rows": 1})
        rest.set()
        await task
        assert messages[0]["status"] == 200
        await settled(limit)

    asyncio.run(main())


def test_a_form_is_there_already() -> None:
    """FastAPI has read it before any dependency runs."""
    limit = ConcurrencyLimit(1, wait=0, store=MemoryStore())
    app = FastAPI()
    harden(app)

    @app.post("/predict", dependencies=[Depends(limit)])
    async def predict(name: Annotated[str, Form()]) -> str:
        return f"{name} {taken(limit)}"

    form = (b"content-type", b"application/x-www-form-urlencoded")
    assert call(app, headers=[form], chunks=[b"name=a"]).json == "a 1"


def test_who_is_refused_takes_no_place() -> None:
    """Neither who is nobody, nor who has asked too often; and both are refused before the body."""
    who = caller()
    limit = ConcurrencyLimit(1, by=who, wait=0, store=MemoryStore())
    steady = RateLimit("1/minute", by=who, store=MemoryStore())
    app = FastAPI()
    harden(app)
    app.post("/predict", dependencies=[Depends(limit), Depends(steady)])(lambda: None)
    answers = [call(app, headers=[JSON, *who], chunks=[FOUR]) for who in ([], [key("alice")], [key("alice")])]
    assert [(answer.status, answer.reads) for answer in answers] == [(401, 0), (200, 1), (429, 0)]


def test_rows_are_charged_only_with_a_place() -> None:
    """A request that finds no place costs nothing, in whatever order the guards are listed."""
    iris = Features(columns=4, low=0, high=10, max_rows=10)

    async def main(*, limit_first: bool) -> None:
        crowd = Crowd()
        limit = ConcurrencyLimit(1, wait=0, store=MemoryStore())
        by_rows = RateLimit("2/minute", cost=iris, store=MemoryStore())
        app = FastAPI()
        harden(app)
        guards = [Depends(limit), Depends(by_rows)]

        @app.post("/predict", dependencies=guards if limit_first else guards[::-1])
        async def predict() -> None:
            await crowd()

        first = asyncio.create_task(acall(app, headers=[JSON], chunks=[FOUR]))
        await crowd.entered.acquire()
        refused = [(await acall(app, headers=[JSON], chunks=[FOUR])).status for _ in range(3)]
        assert refused == [503] * 3
        crowd.leave.set()
        assert (await first).status == 200
        await settled(limit)
        assert (await acall(app, headers=[JSON], chunks=[FOUR])).status == 200

    asyncio.run(main(limit_first=True))
    asyncio.run(main(limit_first=False))


# That it comes back ---------------------------------------------------------------------------------------------------


def _ending(kind: str, limit: ConcurrencyLimit, seen: list[int]) -> FastAPI:
    """An endpoint that ends in one of many ways, and says how many places were held meanwhile."""
    app = FastAPI()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        seen.append(taken(limit))
        if kind == "broken stream":
            raise ZeroDivisionError
        yield b"second"

    async def later() -> None:
        await asyncio.sleep(0)
        seen.append(taken(limit))

    @app.post("/predict", dependencies=[Depends(limit)])
    async def predict(tasks: BackgroundTasks) -> Any:
        seen.append(taken(limit))
        if kind == "error":
            raise ZeroDivisionError
        if kind.endswith("stream"):
            return StreamingResponse(pieces())
        if kind == "background":
            tasks.add_task(later)
        return None

    return app


@pytest.mark.parametrize("hardened", [True, False])
@pytest.mark.parametrize("middleware", [True, False])
@pytest.mark.parametrize("kind", ["answer", "error", "stream", "broken stream", "background"])
def test_a_place_comes_back_however_a_request_ends(kind: str, *, middleware: bool, hardened: bool) -> None:
    """It is held to the very end of the answer, and free after it, once."""
    limit = ConcurrencyLimit(2, wait=0, store=MemoryStore())
    seen: list[int] = []
    app = _ending(kind, limit, seen)
    if middleware:

        async def pass_on(request: Request, call_next: Any) -> Any:
            return await call_next(request)

        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    if hardened:
        harden(app)
    elif "fastapi_middleware_astack" not in _stacks():
        pytest.skip("this FastAPI needs harden for it")

    async def main() -> None:
        try:
            await acall(app)
        except ZeroDivisionError:
            assert not hardened
        await settled(limit)

    asyncio.run(main())
    assert set(seen) == {1}
    assert len(seen) == (2 if kind in {"stream", "broken stream", "background"} else 1)


def _stacks() -> frozenset[str]:
    """What FastAPI puts into a scope."""
    found: set[str] = set()
    app = FastAPI()

    @app.get("/")
    async def look(request: Request) -> None:
        found.update(request.scope)

    call(app, "/", method="GET")
    return frozenset(found)


def test_without_harden_an_old_fastapi_admits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing says that a request is over, no place would come back: that is said, and none is taken."""
    monkeypatch.setattr(_fastapi, "exit_stack", lambda scope: None)
    limit = ConcurrencyLimit(1, store=MemoryStore())
    app = FastAPI()
    app.post("/predict", dependencies=[Depends(limit)])(lambda: None)
    with pytest.raises(ConfigurationError, match=r"needs harden\(app\)"):
        call(app)
    assert taken(limit) == 0


def test_a_client_that_leaves_gives_its_place_back() -> None:
    """In the middle of a stream, over a real socket, and while a sync endpoint runs in a thread."""
    limit = ConcurrencyLimit(1, wait=0, store=MemoryStore())
    app = FastAPI()
    harden(app)

    @app.get("/stream", dependencies=[Depends(limit)])
    async def stream() -> StreamingResponse:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65_536
                await asyncio.sleep(0)

        return StreamingResponse(endless())

    started, done = threading.Event(), threading.Event()

    @app.get("/sync", dependencies=[Depends(limit)])
    def sync() -> int:
        started.set()
        done.wait(LONG)
        return taken(limit)

    with serving(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        with client.stream("GET", "/stream") as answer:
            chunks = answer.iter_raw()  # named: when nothing refers to it any more, httpx hangs up
            next(chunks)
            assert taken(limit) == 1
        wait_until(lambda: taken(limit) == 0)
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=LONG) as connection:
            connection.sendall(b"GET /sync HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_until(started.is_set)
        assert taken(limit) == 1
        done.set()
        wait_until(lambda: taken(limit) == 0)


@pytest.mark.parametrize("kind", ["direct", "middleware", "form", "plain"])
def test_a_client_that_leaves_the_line_is_served_no_more(kind: str) -> None:
    """Its turn is had by who stands behind it, and the endpoint never runs for it."""
    limit = ConcurrencyLimit(2, wait=LONG, store=MemoryStore())
    app = FastAPI()
    harden(app)
    leave = threading.Event()
    ran: list[int] = []

    async def work(number: int) -> dict[str, int]:
        ran.append(number)
        await asyncio.to_thread(leave.wait, LONG)
        return {"number": number}

    async def predict(request: Request) -> Any:
        return await work(int(request.headers["number"]))

    async def predict_form(request: Request, name: Annotated[str, Form()]) -> Any:
        return await predict(request)

    endpoint: Any = predict_form if kind == "form" else predict
    if kind == "direct":
        endpoint = truncate_output(decimals=1)(endpoint)
    app.post("/predict", dependencies=[Depends(limit)])(endpoint)
    if kind == "middleware":

        async def pass_on(request: Request, call_next: Any) -> Any:
            return await call_next(request)

        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    def waiting() -> int:
        return sum(map(len, limit._places._lines.values()))

    with serving(app) as url:

        def ask(number: int) -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=LONG)
            head = f"POST /predict HTTP/1.1\r\nHost: a\r\nNumber: {number}\r\nContent-Length: 6\r\n"
            connection.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nname=a".encode())
            return connection

        first = [ask(number) for number in (0, 1)]
        wait_until(lambda: len(ran) == 2)
        gone = ask(2)
        wait_until(lambda: waiting() == 1)
        stays = ask(3)
        wait_until(lambda: waiting() == 2)
        gone.close()
        wait_until(lambda: waiting() == 1)
        leave.set()
        for connection in (*first, stays):
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.close()
        assert sorted(ran) == [0, 1, 3]
        wait_until(lambda: taken(limit) == 0)


def test_in_memory_a_place_is_free_when_the_request_has_ended() -> None:
    """At once, and not when the event loop comes to it: who asks one after the other finds it free each time."""
    limit = ConcurrencyLimit(1, wait=0, store=MemoryStore())
    app = app_with(limit, lambda: asyncio.sleep(0))

    async def main() -> None:
        for _ in range(5):
            assert await post(app) == 200
            assert taken(limit) == 0

    asyncio.run(main())


def test_a_websocket_holds_its_place_until_it_is_closed() -> None:
    """And the next one gets it then."""
    limit = ConcurrencyLimit(1, wait=0, store=MemoryStore())
    app = FastAPI()
    harden(app)

    @app.websocket("/ws")
    async def echo(websocket: WebSocket, _: Annotated[None, Depends(limit)]) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    with serving(app) as url:
        address = url.replace("http", "ws") + "/ws"
        with connect(address) as first:
            first.send("a")
            assert first.recv() == "a"
            with pytest.raises(Exception, match="503"):
                connect(address)
        wait_until(lambda: taken(limit) == 0)
        with connect(address) as second:
            second.send("b")
            assert second.recv() == "b"


def test_a_websocket_waits_in_the_line_too() -> None:
    """It is opened once the one before it is closed."""
    limit = ConcurrencyLimit(1, wait=LONG, store=MemoryStore())
    app = FastAPI()
    harden(app)

    @app.websocket("/ws")
    async def hold(websocket: WebSocket, _: Annotated[None, Depends(limit)]) -> None:
        await websocket.accept()
        await websocket.receive()

    with serving(app) as url:
        address = url.replace("http", "ws") + "/ws"
        opened = threading.Event()

        def wait() -> None:
            with connect(address, open_timeout=LONG):
                opened.set()

        with connect(address):
            thread = threading.Thread(target=wait)
            thread.start()
            wait_until(lambda: any(limit._places._lines.values()))
            assert not opened.is_set()
        assert opened.wait(LONG)
        thread.join(LONG)
        wait_until(lambda: taken(limit) == 0)


class Suspending(MemoryStore):
    """A store each call of which waits so many times before and after it has done its work."""

    suspends = True

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
        await self._wait()
        lease = await super().take_lease(key, holder, limit=limit, ttl=ttl)
        await self._wait()
        return lease

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        await self._wait()
        await super().end_lease(key, holder)

    async def _wait(self) -> None:
        for _ in range(self._times):
            await asyncio.sleep(0)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("steps", range(24))
def test_a_cancelled_request_leaves_no_place_behind(steps: int, *, waits: bool) -> None:
    """Wherever it is cut off: before, while and after it has asked for its place, and while it waits for one."""

    async def main() -> None:
        crowd = Crowd()
        limit = ConcurrencyLimit(1, wait=LONG, store=Suspending(3))
        app = app_with(limit, crowd)
        first = asyncio.create_task(post(app)) if waits else None
        if first is not None:
            await crowd.entered.acquire()
        task = asyncio.create_task(post(app))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await settled(limit, int(waits))
        crowd.leave.set()
        if first is not None:
            assert await first == 200
        assert await post(app) == 200  # nobody is left in the line either
        await settled(limit)

    asyncio.run(main())


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("steps", range(24))
def test_a_request_that_is_cancelled_as_it_gets_its_place_gives_it_back(steps: int, *, outside: bool) -> None:
    """Whoever stood behind it has it then, in whichever step it was cut off."""

    async def main() -> None:
        crowd = Crowd()
        limit = ConcurrencyLimit(2, wait=LONG, store=Suspending(2) if outside else MemoryStore())
        app = app_with(limit, crowd)
        tasks = [asyncio.create_task(post(app)) for _ in range(4)]
        for _ in range(2):
            await crowd.entered.acquire()
        for task in tasks[2:]:
            assert await _still(task)
        crowd.leave.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks[2].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [*answers[:2], answers[3]] == [200] * 3
        await settled(limit)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["repeats", "raises"])
def test_a_middleware_that_cannot_tell_who_leaves_takes_no_turn_away(kind: str) -> None:
    """One that repeats the body for ever, or fails when it is asked for more than that."""

    class Receiving:
        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            bodies = [b"x"] * (1_000 if kind == "repeats" else 1)

            async def receive_again() -> Message:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}

            await self._app(scope, receive_again if scope["type"] == "http" else receive, send)

    async def main() -> None:
        crowd = Crowd()
        limit = ConcurrencyLimit(1, wait=LONG, store=MemoryStore())
        app = app_with(limit, crowd)
        app.add_middleware(Receiving)
        first = asyncio.create_task(post(app))
        await crowd.entered.acquire()
        second = asyncio.create_task(post(app))
        assert await _still(second)
        crowd.leave.set()
        assert await asyncio.gather(*[first, second]) == [200, 200]

    asyncio.run(main())


def test_places_are_exact_when_many_come_and_go() -> None:
    """A thousand short requests, some of them cut off, never more at once than there are places, and none left."""

    async def main() -> None:
        running = most = 0

        async def work() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

        limit = ConcurrencyLimit(5, wait=LONG, store=Suspending(2))
        app = app_with(limit, work)
        tasks = [asyncio.create_task(post(app)) for _ in range(1_000)]
        for number, task in enumerate(tasks):
            if number % 7 == 0:
                task.cancel()
            await asyncio.sleep(0)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert {answer for answer in answers if isinstance(answer, int)} == {200, 503}
        assert most <= 5
        await settled(limit)

    asyncio.run(main())


def test_threads_with_event_loops_of_their_own_share_places() -> None:
    """A place that is given back in one is had by who waits in another."""
    limit = ConcurrencyLimit(1, wait=LONG, store=MemoryStore())
    entered, leave = threading.Event(), threading.Event()

    async def work() -> None:
        entered.set()
        await asyncio.to_thread(leave.wait)

    app = app_with(limit, work)
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(call(app).status)) for _ in range(2)]
    threads[0].start()
    assert entered.wait(LONG)
    threads[1].start()
    wait_until(lambda: any(limit._places._lines.values()))
    leave.set()
    for thread in threads:
        thread.join(LONG)
    assert statuses == [200, 200]


# A store that fails for a moment --------------------------------------------------------------------------------------


class Failing(MemoryStore):
    """A store that is away: it does not what it is asked, or it gives a place and cannot say so."""

    suspends = True

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock=clock or Clock())
        self.is_away = False
        self.gives = False  # while it is away
        self.asked = asyncio.Semaphore(0)

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
        self.asked.release()
        if self.is_away and not self.gives:
            raise UnavailableError("away", retry_after=1)
        lease = await super().take_lease(key, holder, limit=limit, ttl=ttl)
        if self.is_away:
            raise UnavailableError("away", retry_after=1)
        return lease

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        self.asked.release()
        if self.is_away:
            raise UnavailableError("away", retry_after=1)
        await super().end_lease(key, holder)

    def held(self) -> int:
        return sum(map(len, self._leases.values()))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that has failed is asked again at once."""
    monkeypatch.setattr(_leases, "_AGAIN", 0.0)


async def until(condition: Callable[[], object]) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to hold")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("policy", ["refuse", "allow", "local"])
def test_places_that_could_not_be_given_back_are_free_once_the_store_answers(policy: Any) -> None:
    """And not only when their leases end: an outage of a second must not become one of half a minute."""

    async def main() -> None:
        crowd, store = Crowd(), Failing()
        limit = ConcurrencyLimit(3, wait=0, store=store, on_store_error=policy)
        app = app_with(limit, crowd)
        tasks = [asyncio.create_task(post(app)) for _ in range(3)]
        for _ in range(3):
            await crowd.entered.acquire()
        store.is_away = True
        crowd.leave.set()
        assert await asyncio.gather(*tasks) == [200] * 3
        for _ in range(10):  # three to take, three to end, and again
            await store.asked.acquire()
        assert store.held() == 3
        store.is_away = False
        await until(lambda: store.held() == 0)
        assert await post(app) == 200

    asyncio.run(main())


@pytest.mark.usefixtures("quick")
def test_a_place_that_was_given_without_a_word_is_free_again() -> None:
    """The store has given it, and has not been able to say so: the request was refused, so nobody holds it."""

    async def main() -> None:
        crowd, store = Crowd(), Failing()
        app = app_with(ConcurrencyLimit(1, wait=0, store=store), crowd)
        crowd.leave.set()
        store.is_away = store.gives = True
        assert await post(app) == 503
        assert store.held() == 1
        store.is_away = False
        await until(lambda: store.held() == 0)
        assert await post(app) == 200

    asyncio.run(main())


@pytest.mark.usefixtures("quick")
def test_what_ends_by_itself_is_no_longer_asked_for() -> None:
    """A store that stays away is asked only for as long as a lease holds, and for no more leases than are kept."""

    async def main(most: int) -> None:
        store = Failing()
        leases = Leases(store, 1, 0.01)
        store.is_away = True
        for number in range(5):
            await leases.end(b"places", b"%d" % number)
        assert len(leases._owed) == min(5, most)
        await asyncio.to_thread(wait_until, lambda: leases._repaying is None)
        assert not leases._owed

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(main(10_000))
        patch.setattr(_leases, "_MOST_OWED", 3)
        asyncio.run(main(3))


def test_a_store_that_is_too_busy_to_ask_owes_nothing() -> None:
    """It was never asked for a place, so it has given none."""

    class Busy(Failing):
        async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
            raise OverloadedError("too many wait", retry_after=1)

    async def main() -> None:
        leases = Leases(Busy(), 1, LONG)
        with pytest.raises(OverloadedError):
            await leases.take(b"places", b"a")
        assert not leases._owed

    asyncio.run(main())


def test_a_place_is_kept_through_an_outage() -> None:
    """The request goes on, and its lease is renewed as soon as the store answers again."""

    async def main() -> None:
        clock = Clock()
        store = Failing(clock)
        leases = Leases(store, 1, 0.03)
        assert (await leases.take(b"places", b"a")).held
        await store.asked.acquire()
        store.is_away = True
        for _ in range(2):
            await store.asked.acquire()
        clock.now = 1.0  # the lease has ended meanwhile
        store.is_away = False
        await store.asked.acquire()
        assert not (await store.take_lease(b"places", b"b", limit=1, ttl=LONG)).held
        await leases.end(b"places", b"a")
        assert store.held() == 0

    asyncio.run(main())


def test_a_place_that_is_given_back_while_others_are_renewed_is_not_taken_again() -> None:
    """A renewal that has begun goes first, and one that has not begun is left out."""

    class Slow(Failing):
        def __init__(self) -> None:
            super().__init__()
            self.gate = asyncio.Event()

        async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
            self.asked.release()
            await self.gate.wait()
            return await super().take_lease(key, holder, limit=limit, ttl=ttl)

    async def main() -> None:
        store = Slow()
        store.gate.set()
        leases = Leases(store, 2, 0.03)
        for holder in (b"a", b"b"):
            assert (await leases.take(b"places", holder)).held
        store.gate.clear()
        store.asked = asyncio.Semaphore(0)
        await store.asked.acquire()  # one of them is being renewed
        ends = [asyncio.create_task(leases.end(b"places", holder)) for holder in (b"a", b"b")]
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(*ends)
        await asyncio.to_thread(wait_until, lambda: leases._keeping is None)
        assert store.held() == 0

    asyncio.run(main())


# In Redis -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def test_processes_share_places(redis: RedisServer) -> None:
    """Here two stores: one has the place, the other waits, and has it soon after it was given back."""

    async def main() -> None:
        crowds = [Crowd(), Crowd()]
        apps = [
            app_with(ConcurrencyLimit(1, wait=LONG, store=RedisStore(redis.url, timeout=LONG)), crowd)
            for crowd in crowds
        ]
        first = asyncio.create_task(post(apps[0]))
        await crowds[0].entered.acquire()
        second = asyncio.create_task(post(apps[1]))
        crowds[0].leave.set()
        assert await first == 200
        crowds[1].leave.set()
        assert await second == 200

    asyncio.run(main())


def test_a_long_request_keeps_its_place(redis: RedisServer) -> None:
    """Longer than a lease holds, because it is renewed."""

    async def main() -> None:
        crowd = Crowd()
        limits = [ConcurrencyLimit(1, wait=0, lease=1, store=RedisStore(redis.url, timeout=LONG)) for _ in range(2)]
        app, other = (app_with(limit, crowd) for limit in limits)
        first = asyncio.create_task(post(app))
        await crowd.entered.acquire()
        ends_first = ends()
        await asyncio.to_thread(wait_until, lambda: ends() > ends_first)  # until it was renewed
        assert await post(other) == 503
        crowd.leave.set()
        assert await first == 200
        await asyncio.to_thread(wait_until, lambda: redis.command("DBSIZE") == ":0")

    def ends() -> float:
        """When the lease ends, by the store's clock."""
        (name,) = [line for line in redis.lines("KEYS", "*") if line.startswith("mlguard")]
        return max(float(line) for line in redis.lines("ZRANGE", name, "0", "0", "WITHSCORES") if line.isdigit())

    asyncio.run(main())


def test_the_places_of_a_killed_worker_come_back(redis: RedisServer) -> None:
    """No later than its lease ends: until then it is not known that it will not answer."""
    arguments = ("-m", "uvicorn", "--port", "0", "tests.service_of_workers:app")
    environment = {"REDIS": redis.url, "KEY": RECORDS["bob"][1], "MLGUARD_API_KEYS": RECORDS["alice"][0].entry}
    with (
        program(*arguments, environment=environment) as crashing,
        program(*arguments, environment=environment) as other,
        httpx.Client(trust_env=False, timeout=LONG) as client,
    ):
        holder, url = crashing.url(), other.url()
        request = threading.Thread(target=_ask_and_forget, args=(holder + "/held?seconds=60",))
        request.start()
        wait_until(lambda: redis.command("DBSIZE") == ":1")
        assert client.get(url + "/held?seconds=0").status_code == 503
        crashing.stop(signal.SIGKILL)
        request.join(LONG)
        wait_until(lambda: client.get(url + "/held?seconds=0").status_code == 200, seconds=5)


def _ask_and_forget(url: str) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(url, trust_env=False, timeout=LONG)


def test_places_without_a_store(redis: RedisServer) -> None:
    """Refused, or admitted, or a share of them, as the policy says; what cannot be given back ends by itself."""

    async def main(policy: Any) -> list[int]:
        crowd = Crowd()
        limit = ConcurrencyLimit(
            4, wait=0, store=RedisStore(redis.url, timeout=0.25), on_store_error=policy, local_share=0.5
        )
        app = app_with(limit, crowd)
        before = asyncio.create_task(post(app))
        await crowd.entered.acquire()
        redis.kill()
        tasks = [asyncio.create_task(post(app)) for _ in range(3)]
        await asyncio.wait(tasks, timeout=None if policy == "refuse" else 1)
        crowd.leave.set()
        statuses = await asyncio.gather(*tasks)
        assert await before == 200
        assert (limit.decided_without_store > 0) == (policy != "refuse")
        redis.start()
        return sorted(statuses)

    assert asyncio.run(main("refuse")) == [503] * 3
    assert asyncio.run(main("allow")) == [200] * 3
    assert asyncio.run(main("local")) == [200, 200, 503]


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        *(((limit,), {}, r"ConcurrencyLimit\(limit\)") for limit in (0, -1, 1.5, True, "8", None, 2**53)),
        *(((1,), {"wait": wait}, r"wait=\.\.\.") for wait in (-1, 61, "1", True, math.nan, None)),
        *(((1,), {"lease": lease}, r"lease=\.\.\.") for lease in (0, 0.5, 3_601, "1", math.inf, None)),
        ((1,), {"name": ""}, r"name=\.\.\."),
        ((1,), {"store": "redis://"}, r"store=\.\.\."),
        ((1,), {"by": RateLimit("1/minute")}, r"by=\.\.\."),
        ((1,), {"on_store_error": "open"}, r"on_store_error=\.\.\."),
    ],
)
def test_a_setting_that_cannot_work(arguments: Sequence[Any], options: Any, message: str) -> None:
    """It stops the start, and is named."""
    with pytest.raises(ConfigurationError, match=message):
        ConcurrencyLimit(*arguments, **options)


def test_two_limits_that_would_share_their_places_stop_the_start() -> None:
    """In a store that several processes share, where two limits alike have the same places."""
    store = RedisStore("redis://127.0.0.1:1/0")
    app = FastAPI()
    harden(app)
    for path in ("/a", "/b"):
        app.get(path, dependencies=[Depends(ConcurrencyLimit(8, store=store))])(lambda: None)
    with pytest.raises(ConfigurationError, match=r"2 ConcurrencyLimits are called '8 at once'"):
        call(app, "/a", method="GET")
    assert repr(ConcurrencyLimit(8, store=store)) == "ConcurrencyLimit('8 at once')"


def test_the_document_shows_the_refusals() -> None:
    """503 for all together, 429 for a caller's own."""
    who = caller()
    app = FastAPI()
    harden(app, docs=True)
    app.post("/all", dependencies=[Depends(ConcurrencyLimit(1, store=MemoryStore()))])(lambda: None)
    app.post("/own", dependencies=[Depends(ConcurrencyLimit(1, by=who, store=MemoryStore()))])(lambda: None)
    paths = app.openapi()["paths"]
    assert {"503"} <= paths["/all"]["post"]["responses"].keys()
    assert {"401", "429"} <= paths["/own"]["post"]["responses"].keys()
