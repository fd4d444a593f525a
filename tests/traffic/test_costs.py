"""What one request adds to a limit: costs, strategies, and hits within a request."""

import asyncio
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from tests.asgi import Answer, acall, call, make_scope
from tests.clock import Clock
from tests.servers import serving
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    Features,
    Principal,
    RateLimit,
    RateLimitedError,
    harden,
    truncate_output,
)
from mlguard.memory_store import MemoryStore
from mlguard.store import Window

RECORD, SECRET = APIKey.generate("alice")
KEY = (b"x-api-key", SECRET.encode())
JSON = (b"content-type", b"application/json")
ONE = b'{"features": [[1, 2]]}'


def conn(host: str = "192.0.2.1") -> HTTPConnection:
    return HTTPConnection(make_scope("GET", "/", client=(host, 1)))


def rows(number: int) -> bytes:
    return b'{"features": [' + b",".join([b"[1, 2]"] * number) + b"]}"


def service(limit: RateLimit, iris: Features, *, hardened: bool = True, direct: bool = False) -> FastAPI:
    """A prediction that is limited by its rows."""
    app = FastAPI()
    if hardened:
        harden(app)

    async def predict(x: Annotated[np.ndarray, Depends(iris)]) -> Any:
        return {"rows": len(x)}

    app.post("/predict", dependencies=[Depends(limit)])(truncate_output(decimals=1)(predict) if direct else predict)
    return app


def limited_by_rows(*limits: str, **options: Any) -> tuple[RateLimit, Features]:
    iris = Features(columns=2, low=0, high=10, max_rows=1_000)
    return RateLimit(*limits, cost=iris, store=MemoryStore(clock=Clock()), **options), iris


# Costs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("hardened", [False, True])
def test_rows_are_what_counts(*, hardened: bool, direct: bool) -> None:
    """A batch costs its rows, once, and what does not fit is refused whole and costs nothing."""
    limit, iris = limited_by_rows("10/minute")
    app = service(limit, iris, hardened=hardened, direct=direct)
    answers = [call(app, headers=[JSON], chunks=[rows(n)], client=("192.0.2.1", 1)) for n in (6, 5, 4, 1)]
    assert [answer.status for answer in answers] == [200, 429, 200, 429]
    if hardened:
        assert answers[2].headers["ratelimit"] == '"10/minute";r=0;t=64'


@pytest.mark.parametrize("direct", [False, True])
def test_a_refused_input_costs_one(*, direct: bool) -> None:
    """The bounds of the model cannot be probed for nothing; when nothing is left, they cannot be probed at all."""
    limit, iris = limited_by_rows("3/minute")
    app = service(limit, iris, direct=direct)
    wrong = b'{"features": [[1, 99]]}'
    bodies = [wrong, wrong, rows(2), rows(1), wrong]
    assert [call(app, headers=[JSON], chunks=[body]).status for body in bodies] == [422, 422, 429, 200, 429]


def test_a_refused_input_is_charged_to_its_caller() -> None:
    """By principal too, and only limits that count these rows."""
    caller = APIKeyAuth(APIKeys([RECORD]))
    iris, other = (Features(columns=2, low=0, high=10, max_rows=10) for _ in range(2))
    store = MemoryStore(clock=Clock())
    by_rows = RateLimit("3/minute", by=caller, cost=iris, store=store)
    by_other = RateLimit("1/minute", by=caller, cost=other, store=store)
    app = FastAPI()
    harden(app)

    @app.post("/predict", dependencies=[Depends(by_rows)])
    async def predict() -> None: ...

    @app.post("/other", dependencies=[Depends(by_other), Depends(iris)])
    async def other_endpoint() -> None: ...

    wrong = b'{"features": 1}'
    assert [call(app, headers=[JSON, KEY], chunks=[wrong]).status for _ in range(4)] == [422, 422, 422, 429]
    assert call(app, "/other", headers=[JSON, KEY], chunks=[ONE]).status == 200
    assert call(app, headers=[JSON], chunks=[wrong]).status == 401


def test_only_what_is_charged_by_it_pays_for_a_refused_input() -> None:
    """Of two readers on a route, the one that refuses has nobody pay for the other."""
    strict, lenient = (Features(columns=2, low=0, high=high, max_rows=10) for high in (10, 100))
    limit = RateLimit("2/minute", cost=lenient, store=MemoryStore(clock=Clock()))
    app = FastAPI()
    harden(app)
    app.post("/predict", dependencies=[Depends(limit), Depends(strict)])(lambda: None)
    bodies = [b'{"features": [[1, 99]]}', rows(1), rows(1)]
    assert [call(app, headers=[JSON], chunks=[body]).status for body in bodies] == [422, 200, 429]


def test_a_cost_is_counted_outside_of_any_route() -> None:
    """A middleware may ask a limit by itself, and say what the request costs."""
    limit, _ = limited_by_rows("5/minute")
    asyncio.run(limit(conn(), costing=[1, 2, 3]))
    with pytest.raises(RateLimitedError):
        asyncio.run(limit(conn(), costing=[1, 2, 3]))


def test_more_than_the_limit_is_never_admitted() -> None:
    """It is told so, without a time to wait for."""
    limit, iris = limited_by_rows("10/minute", "5/hour")
    answer = call(service(limit, iris), headers=[JSON], chunks=[rows(6)])
    assert (answer.status, answer.json["detail"]) == (
        429,
        "This request costs more than the limit ever admits. Ask for less at once.",
    )
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("cost", [lambda conn: 2, 2])
def test_numbers_and_functions(cost: Any) -> None:
    """A fixed cost and one that the connection says are counted before the body is read."""
    app = FastAPI()
    harden(app)
    limit = RateLimit("5/minute", cost=cost, store=MemoryStore(clock=Clock()))

    @app.post("/predict", dependencies=[Depends(limit)])
    async def predict(request: Request) -> None:
        await request.body()

    answers = [call(app, chunks=[b"{}"]) for _ in range(3)]
    assert [(answer.status, answer.reads) for answer in answers] == [(200, 1), (200, 1), (429, 0)]


class Prompt(BaseModel):
    """What a language model is asked."""

    text: str
    max_tokens: int


async def tokens_of(prompt: Prompt) -> int:
    return prompt.max_tokens


@pytest.mark.parametrize("truncated", [False, True])
def test_a_dependency_says_the_cost(*, truncated: bool) -> None:
    """Any dependency of the app, here the number in a pydantic model; 0 counts nothing."""
    app = FastAPI()
    harden(app)
    limit = RateLimit("100/minute", cost=tokens_of, store=MemoryStore(clock=Clock()))

    async def predict() -> Any:
        return {"tokens": 1}

    app.post("/predict", dependencies=[Depends(limit)])(truncate_output(decimals=1)(predict) if truncated else predict)

    def ask(tokens: int) -> int:
        return call(app, headers=[JSON], chunks=[f'{{"text": "", "max_tokens": {tokens}}}'.encode()]).status

    assert [ask(tokens) for tokens in (60, 0, 41, 40, 1, 0)] == [200, 200, 429, 200, 429, 200]


@pytest.mark.parametrize("rows", [2, np.int64(2), np.array(2), [1, 2], (1, 2), np.zeros((2, 5)), range(2)])
def test_what_a_cost_may_be(rows: Any) -> None:
    """A whole number of any kind costs itself, what has rows costs as many."""
    limit = RateLimit("5/minute", cost=lambda conn: rows, store=MemoryStore(clock=Clock()))
    assert admitted(limit, Clock(), 0.0) == [2]


@pytest.mark.parametrize(
    "cost",
    [-1, 2**53, 1.5, None, "3", True, float("nan"), object(), {"rows": 1}, np.bool_(1), np.float64(2), np.array(2.0)],
)
def test_a_cost_that_is_none_fails_closed(cost: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is admitted, and the log names the setting."""
    app = FastAPI()
    harden(app)
    limit = RateLimit("100/minute", cost=lambda conn: cost, store=MemoryStore(clock=Clock()))

    @app.get("/predict", dependencies=[Depends(limit)])
    async def predict() -> None: ...

    assert call(app, method="GET").status == 500
    assert "RateLimit(cost=...)" in caplog.text


@pytest.mark.parametrize("cost", [0, -1, True, 1.5, "3", 2**53, None, Features])
def test_a_setting_that_is_no_cost(cost: Any) -> None:
    """It stops the start."""
    with pytest.raises(ConfigurationError, match=r"RateLimit\(cost=\.\.\.\)"):
        RateLimit("1/minute", cost=cost)


def test_a_million_units_are_one_count() -> None:
    """However much a request costs, as much is kept of it as of any other."""
    store = MemoryStore(clock=Clock())
    limit = RateLimit("2000000/day", cost=1_000_000, store=store, name="n")
    seen = [asyncio.run(store.hit("b", b"k", limit.windows, 1_000_000)).remaining for _ in range(2)]
    assert seen == [(1_000_000,), (0,)]
    (counters,) = store._buckets["b"].values()
    assert len(counters.windows[0].parts) == 2  # type: ignore[attr-defined]  # the number of a part, and its units


def test_a_cost_of_the_app_may_come_from_the_rows() -> None:
    """A dependency that multiplies them, say; another one in its place, as in tests, is honoured too."""
    iris = Features(columns=2, low=0, high=10, max_rows=1_000)

    async def price(x: Annotated[np.ndarray, Depends(iris)]) -> int:
        return 3 * len(x)

    limit = RateLimit("10/minute", cost=price, store=MemoryStore(clock=Clock()))
    app = service(limit, iris)
    assert [call(app, headers=[JSON], chunks=[rows(n)]).status for n in (3, 1, 2)] == [200, 429, 429]
    app.dependency_overrides[price] = lambda: 1
    assert [call(app, headers=[JSON], chunks=[rows(n)]).status for n in (5, 5)] == [200, 429]


def test_an_override_of_the_rows_is_what_costs() -> None:
    """What the endpoint gets is what is counted."""
    limit, iris = limited_by_rows("10/minute")
    app = service(limit, iris)
    app.dependency_overrides[iris] = lambda: np.zeros((6, 2))
    assert [call(app, headers=[JSON], chunks=[b"{}"]).status for _ in range(2)] == [200, 429]


def test_who_is_calling_is_still_asked_before_the_body() -> None:
    """Only the count waits for the body."""
    limit, iris = limited_by_rows("10/minute", by=APIKeyAuth(APIKeys([RECORD])))
    app = service(limit, iris)
    answers = [call(app, headers=[JSON, *key], chunks=[rows(6)]) for key in ([], [KEY], [KEY])]
    assert [(answer.status, answer.reads) for answer in answers] == [(401, 0), (200, 1), (429, 1)]


def test_nothing_costs_nothing_even_beyond_the_limit() -> None:
    """Where more was used than reserved, a request of no units is admitted, and others wait."""
    limit = RateLimit("10/minute", store=MemoryStore(clock=Clock()))

    async def main() -> None:
        async with limit.reserve(conn(), 10) as reservation:
            reservation.used = 99
        await limit.hit(conn(), cost=0)
        with pytest.raises(RateLimitedError):
            await limit.hit(conn())

    asyncio.run(main())


# Strategies -----------------------------------------------------------------------------------------------------------


def admitted(limit: RateLimit, clock: Clock, *steps: float) -> list[int]:
    """How many of 30 requests are admitted at once, after each step of the clock."""

    async def count() -> int:
        number = 0
        for _ in range(30):
            try:
                await limit(conn_of())
            except RateLimitedError:
                continue
            number += 1
        return number

    def conn_of() -> HTTPConnection:
        return conn()

    counts = []
    for step in steps:
        clock.now += step
        counts.append(asyncio.run(count()))
    return counts


def test_each_strategy_admits_what_it_says() -> None:
    """Around the end of a window: sliding never more than the limit, fixed twice, gcra the burst and then the rate."""
    clock = Clock(59.0)
    store = MemoryStore(clock=clock)
    sliding, fixed, gcra, small = (
        RateLimit("12/minute", store=store),
        RateLimit("12/minute", strategy="fixed", store=store),
        RateLimit("12/minute", strategy="gcra", store=store),
        RateLimit("12/minute", strategy="gcra", burst=2, store=store),
    )
    steps = (0.0, 1.0, 9.0, 51.0)
    counts = []
    for limit in (sliding, fixed, gcra, small):
        clock.now = 59.0
        counts.append(admitted(limit, clock, *steps))
    assert counts == [[12, 0, 0, 12], [12, 12, 0, 12], [12, 0, 2, 10], [2, 0, 2, 2]]


def test_a_refusal_by_each_strategy_says_when() -> None:
    """``Retry-After`` is the time until one more request is admitted, the policy what there is at once."""
    told = {}
    for strategy, burst in (("fixed", None), ("gcra", None), ("gcra", 4)):
        clock = Clock(50.0)
        limit = RateLimit("12/minute", strategy=strategy, burst=burst, store=MemoryStore(clock=clock))  # type: ignore[arg-type]
        app = FastAPI()
        harden(app)
        app.get("/predict", dependencies=[Depends(limit)])(lambda: None)
        answers = [call(app, method="GET") for _ in range(13)]
        refused = next(answer for answer in answers if answer.status == 429)
        told[strategy, burst] = [
            answers[0].headers["ratelimit"],
            *(refused.headers[name] for name in ("ratelimit-policy", "retry-after", "ratelimit")),
        ]
    assert told == {
        ("fixed", None): ['"12/minute";r=11;t=10', '"12/minute";q=12;w=60', "10", '"12/minute";r=0;t=10'],
        ("gcra", None): ['"12/minute";r=11;t=5', '"12/minute";q=12;w=60', "5", '"12/minute";r=0;t=5'],
        ("gcra", 4): ['"12/minute";r=3;t=5', '"12/minute";q=4;w=20', "5", '"12/minute";r=0;t=5'],
    }


def test_strategies_share_no_count() -> None:
    """Two limits of the same name, but not of the same strategy, are two."""
    store = MemoryStore(clock=Clock())
    limits = [
        RateLimit("1/minute", strategy=strategy, store=store, name="n") for strategy in ("sliding", "fixed", "gcra")
    ]
    assert [asyncio.run(limit(conn())) for limit in limits] == [None] * 3


def test_own_limits_are_counted_by_the_same_strategy() -> None:
    """A caller's own limit without the burst, which belongs to the limit that was written here."""
    clock = Clock()
    limit = RateLimit(
        "1/minute", strategy="gcra", burst=1, by=lambda conn: Principal("a", limits=("3/minute",)),
        store=MemoryStore(clock=clock),
    )  # fmt: skip
    assert admitted(limit, clock, 0.0, 20.0) == [3, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "moving"},
        {"strategy": None},
        {"burst": 5},
        {"strategy": "fixed", "burst": 5},
        *({"strategy": "gcra", "burst": burst} for burst in (0, -1, 1.5, True, "5", 10**12, 2**53)),
    ],
)
def test_a_strategy_that_is_none(options: Any) -> None:
    """It stops the start."""
    with pytest.raises(ConfigurationError, match=r"RateLimit\((strategy|burst)=\.\.\.\)"):
        RateLimit("60/minute", **options)


def test_a_burst_goes_with_one_limit() -> None:
    """Of two, nobody could say whose it is."""
    with pytest.raises(ConfigurationError, match="one limit"):
        RateLimit("60/minute", "100/day", strategy="gcra", burst=5)


# Hits within a request ------------------------------------------------------------------------------------------------


def test_a_websocket_is_limited_by_message() -> None:
    """A limit on connections and one on messages; a client that sends too many is told so, and closed."""
    caller = APIKeyAuth(APIKeys([RECORD]))
    store = MemoryStore()
    connections = RateLimit("2/minute", by=caller, store=store, name="connections")
    messages = RateLimit("3/minute", by=caller, store=store, name="messages")
    app = FastAPI()
    harden(app)

    @app.websocket("/ws")
    async def echo(websocket: WebSocket, _: Annotated[None, Depends(connections)]) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await messages.hit(websocket, cost=len(text))
            await websocket.send_text(text)

    with serving(app) as url:
        address, headers = url.replace("http", "ws") + "/ws", {"x-api-key": SECRET}
        with connect(address, additional_headers=headers) as socket:
            socket.send("aa")
            assert socket.recv() == "aa"
            socket.send("bb")
            with pytest.raises(ConnectionClosedError) as closed:
                socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
        with connect(address, additional_headers=headers) as socket:
            socket.send("b")
            assert socket.recv() == "b"


def test_a_hit_needs_to_know_its_caller() -> None:
    """Where nobody has said who is calling, that is an error and not a bucket for all."""
    caller = APIKeyAuth(APIKeys([RECORD]))

    async def organisation() -> str:
        return "acme"

    for by in (caller, organisation):
        limit = RateLimit("3/minute", by=by, store=MemoryStore())
        with pytest.raises(ConfigurationError, match=r"has not (said|judged)"):
            asyncio.run(limit.hit(conn()))


def test_a_hit_by_a_dependency_of_the_app() -> None:
    """It counts for whom the dependency has named."""

    async def organisation(request: Request) -> str:
        return request.headers["x-org"]

    limit = RateLimit("4/minute", by=organisation, store=MemoryStore(clock=Clock()))
    app = FastAPI()
    harden(app)

    @app.get("/predict", dependencies=[Depends(limit)])
    async def predict(request: Request) -> None:
        await limit.hit(request, cost=2)

    names = [b"acme", b"acme", b"other"]
    assert [call(app, method="GET", headers=[(b"x-org", name)]).status for name in names] == [200, 429, 200]


def test_a_hit_by_who_takes_the_place_of_a_guard() -> None:
    """As in an app's tests, where somebody stands in for the guard: the limit on the route knows whom it has judged."""
    caller = APIKeyAuth(APIKeys([RECORD]))
    limit = RateLimit("4/minute", by=caller, store=MemoryStore(clock=Clock()))
    app = FastAPI()
    app.dependency_overrides[caller] = lambda: Principal("stand-in")

    @app.get("/predict", dependencies=[Depends(limit)])
    async def predict(request: Request) -> None:
        await limit.hit(request, cost=2)

    assert [call(app, method="GET").status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("cost", [-1, 1.5, "3", True, None])
def test_a_hit_of_no_cost(cost: Any) -> None:
    """It fails closed."""
    with pytest.raises(ConfigurationError, match=r"RateLimit\.hit\(cost"):
        asyncio.run(RateLimit("3/minute", store=MemoryStore()).hit(conn(), cost=cost))


async def _race(limit: RateLimit, number: int) -> int:
    app = FastAPI()
    harden(app)
    app.post("/predict", dependencies=[Depends(limit)])(lambda: None)
    answers: list[Answer] = await asyncio.gather(*[acall(app, headers=[JSON], chunks=[ONE]) for _ in range(number)])
    return [answer.status for answer in answers].count(200)


def test_costs_race_for_exactly_the_limit() -> None:
    """Of many at once, as many are admitted as there is room for."""
    iris = Features(columns=2, low=0, high=10, max_rows=10)
    limit = RateLimit("17/minute", cost=iris, store=MemoryStore())
    assert asyncio.run(_race(limit, 60)) == 17


def test_windows_of_a_burst_are_those_that_headers_tell() -> None:
    """Half a second of a rate is a window too."""
    limit = RateLimit("600/minute", strategy="gcra", burst=5, store=MemoryStore())
    assert limit.windows == (Window(5, 0.5, "gcra"),)
