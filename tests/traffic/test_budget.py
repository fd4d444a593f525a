"""What one caller may have of a model in a calendar period."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI, Request, Security, WebSocket
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from tests.asgi import Answer, acall, call, make_scope
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server
from tests.servers import serving
from tests.traffic.test_outages import AWAY, Moody
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    BudgetStatus,
    BudgetWarning,
    ConfigurationError,
    Features,
    MemoryStore,
    Principal,
    QueryBudget,
    RateLimit,
    RedisStore,
    Store,
    UnavailableError,
    harden,
    truncate_output,
)
from mlguard.store import Spending, store_key
from mlguard.traffic.ledger import registered

RECORDS = {name: APIKey.generate(name, scopes={"predict"}) for name in ("alice", "bob")}
JSON = (b"content-type", b"application/json")
NOVEMBER = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
REST = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() - NOVEMBER)


def key(name: str) -> tuple[bytes, bytes]:
    return (b"x-api-key", RECORDS[name][1].encode())


def caller() -> APIKeyAuth:
    return APIKeyAuth(APIKeys([record for record, _ in RECORDS.values()]))


def rows(number: int) -> bytes:
    return b'{"features": [' + b",".join([b"[1, 2]"] * number) + b"]}"


class Service:
    """A prediction behind a key and a budget in rows."""

    def __init__(self, limit: str, *, direct: bool = False, hardened: bool = True, **options: Any) -> None:
        self.clock = Clock(NOVEMBER)
        self.caller = caller()
        iris = Features(columns=2, low=0, high=10, max_rows=1_000)
        settings = {"store": MemoryStore(), "clock": self.clock, **options}
        self.budget = QueryBudget(limit, by=self.caller, cost=iris, **settings)
        self.app = FastAPI()
        if hardened:
            harden(self.app)

        async def predict(x: Annotated[np.ndarray, Depends(iris)]) -> Any:
            return {"rows": len(x)}

        guards = [Security(self.caller, scopes=["predict"]), Depends(self.budget)]
        self.app.post("/predict", dependencies=guards)(truncate_output(decimals=1)(predict) if direct else predict)

        @self.app.get("/budget")
        async def left(status: Annotated[BudgetStatus, Depends(self.budget.status)]) -> BudgetStatus:
            return status

    def ask(self, number: int, name: str = "alice") -> Answer:
        return call(self.app, headers=[JSON, key(name)], chunks=[rows(number)])

    def statuses(self, *numbers: int, name: str = "alice") -> list[int]:
        return [self.ask(number, name).status for number in numbers]

    def used(self, name: str = "alice") -> int:
        return asyncio.run(self.budget.status_of(Principal(name, method="api-key"))).used


# What is charged ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("hardened", [False, True])
def test_rows_are_charged_to_who_asks(*, hardened: bool, direct: bool) -> None:
    """Each request once, all of its rows or none; another caller has a budget of its own."""
    service = Service("10/month", direct=direct, hardened=hardened)
    assert service.statuses(6, 5, 4, 1) == [200, 429, 200, 429]
    assert service.statuses(10, 1, name="bob") == [200, 429]


@pytest.mark.parametrize("direct", [False, True])
def test_a_refused_input_is_charged_one(*, direct: bool) -> None:
    """The bounds cannot be probed for nothing, and not at all once the budget is spent."""
    service = Service("3/month", direct=direct)
    wrong = b'{"features": [[1, 99]]}'
    bodies = [wrong, rows(1), wrong, wrong]
    answers = [call(service.app, headers=[JSON, key("alice")], chunks=[body]) for body in bodies]
    assert [answer.status for answer in answers] == [422, 200, 422, 429]
    assert answers[3].json["type"] == "urn:mlguard:problem:budget-exceeded"


def test_a_refused_caller_is_charged_nothing() -> None:
    """Neither nobody, nor who may not, nor who asks too often; and nothing of their bodies is read."""
    store, who = MemoryStore(), caller()
    iris = Features(columns=2, low=0, high=10, max_rows=10)
    budget = QueryBudget("10/month", by=who, cost=iris, store=store)
    steady = RateLimit("1/minute", by=who, store=store)
    app = FastAPI()
    harden(app)
    app.post("/predict", dependencies=[Depends(budget), Depends(steady)])(lambda: None)
    app.post("/admin", dependencies=[Depends(budget), Security(who, scopes=["admin"])])(lambda: None)
    asked = [("/predict", []), ("/admin", [key("alice")]), ("/predict", [key("alice")]), ("/predict", [key("alice")])]
    answers = [call(app, path, headers=[JSON, *headers], chunks=[rows(3)]) for path, headers in asked]
    assert [(answer.status, answer.reads) for answer in answers] == [(401, 0), (403, 0), (200, 1), (429, 0)]
    assert asyncio.run(budget.status_of(Principal("alice", method="api-key"))).used == 3


def test_what_is_known_before_the_body_is_charged_before_it() -> None:
    """A fixed cost, or one of the connection."""
    clock, store = Clock(NOVEMBER), MemoryStore()
    for name, cost in (("fixed", 2), ("function", lambda conn: 2)):
        budget = QueryBudget("5/day", cost=cost, store=store, clock=clock, name=name)
        app = FastAPI()
        harden(app)

        @app.post("/predict", dependencies=[Depends(budget)])
        async def predict(request: Request) -> None:
            await request.body()

        answers = [call(app, chunks=[b"{}"]) for _ in range(3)]
        assert [(answer.status, answer.reads) for answer in answers] == [(200, 1), (200, 1), (429, 0)]


class Prompt(BaseModel):
    """What a language model is asked."""

    max_tokens: int


async def tokens_of(prompt: Prompt) -> int:
    return prompt.max_tokens


def test_a_dependency_of_the_app_says_the_cost() -> None:
    """With a pydantic model as the body, which is read once."""
    budget = QueryBudget("100/month", cost=tokens_of, store=MemoryStore(), clock=Clock(NOVEMBER))
    app = FastAPI()
    harden(app)

    @app.post("/predict", dependencies=[Depends(budget)])
    async def predict(prompt: Prompt) -> int:
        return prompt.max_tokens

    def ask(tokens: int) -> int:
        return call(app, headers=[JSON], chunks=[f'{{"max_tokens": {tokens}}}'.encode()]).status

    assert [ask(tokens) for tokens in (60, 41, 40, 1, 0)] == [200, 429, 200, 429, 200]
    assert ask(-1) == 500  # the app lets it through, so the budget lets nobody through


def test_a_total_over_all_callers() -> None:
    """When it is spent nobody is admitted, nobody is charged, and nobody is told how much it was."""
    service = Service("10/month", total="12/month")
    assert service.statuses(8) == [200]
    assert service.statuses(4, name="bob") == [200]
    refused = service.ask(1, "bob")
    assert (refused.status, refused.headers["ratelimit"]) == (429, f'"10/month";r=6;t={REST}')
    assert "12" not in str(refused.json | {"request_id": ""})  # where it may stand by chance
    assert (service.used(), service.used("bob")) == (8, 4)


@pytest.mark.parametrize(("total", "wait"), [("12/day", 43_200), ("12/year", 36 * 86_400 - 43_200)])
def test_a_total_has_a_period_of_its_own(total: str, wait: int) -> None:
    """Which is when it is worth asking again. What is asked for makes no difference, so the total is not found out."""
    service = Service("10/month", total=total)
    assert (service.statuses(8), service.statuses(4, name="bob")) == ([200], [200])
    refused = [service.ask(number, "bob") for number in (1, 6)]
    assert [answer.headers["retry-after"] for answer in refused] == [str(wait)] * 2
    assert refused[0].json["detail"] == refused[1].json["detail"]


@pytest.mark.parametrize("cost", ["fixed", "rows"])
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("way", ["direct", "hardened", "bare"])
def test_who_is_refused_by_another_limit_is_charged_nothing(cost: str, first: int, way: str) -> None:
    """By a rate, and by a budget of a shorter period, whatever stands first in the list."""
    store, who = MemoryStore(), caller()
    iris = Features(columns=2, low=0, high=10, max_rows=10)
    units: Any = iris if cost == "rows" else 2
    month = QueryBudget("100/month", by=who, cost=units, store=store)
    hour = QueryBudget("4/hour", by=who, cost=units, store=store)
    steady = RateLimit("6/minute", by=who, cost=units, store=store)
    guards: list[Any] = [month, hour, steady]
    app = FastAPI()
    if way != "bare":
        harden(app)

    async def predict(x: Annotated[np.ndarray, Depends(iris)]) -> Any:
        return {"rows": len(x)}

    endpoint = truncate_output(decimals=1)(predict) if way == "direct" else predict
    app.post("/predict", dependencies=[Depends(guard) for guard in guards[first:] + guards[:first]])(endpoint)
    ask = [key("alice"), JSON]
    assert [call(app, headers=ask, chunks=[rows(2)]).status for _ in range(4)] == [200, 200, 429, 429]
    used = [asyncio.run(budget.status_of(Principal("alice", method="api-key"))).used for budget in (month, hour)]
    assert used == [4, 4]


def test_guards_of_the_app_keep_their_place() -> None:
    """A class of its own may take what it likes, so only FastAPI calls it."""

    class Own(RateLimit):
        async def __call__(self, conn: HTTPConnection, who: Any = None, costing: Any = None) -> None:
            order.append("own")

    order: list[str] = []
    service = Service("10/month")
    reader: Any = service.budget.charges_by
    own = Own("1/minute", cost=reader, store=MemoryStore())
    service.app.post("/more", dependencies=[Depends(service.budget), Depends(own)])(lambda: None)
    assert call(service.app, "/more", headers=[JSON, key("alice")], chunks=[rows(3)]).status == 200
    assert (order, service.used()) == (["own"], 3)


def test_a_refusal_is_told_when_the_next_period_begins() -> None:
    """And what costs more than a whole budget, that it never will be admitted."""
    service = Service("10/month")
    service.ask(8)
    refused, never = service.ask(3), service.ask(11)
    assert (refused.headers["retry-after"], refused.headers["ratelimit"]) == (str(REST), f'"10/month";r=2;t={REST}')
    assert refused.headers["ratelimit-policy"] == f'"10/month";q=10;w={30 * 86_400}'
    assert "retry-after" not in never.headers
    assert never.json["detail"] == "This request costs more than a whole budget. Ask for less at once."


def test_periods_begin_anew() -> None:
    """With the calendar; and a clock that goes back finds what was spent then."""
    service = Service("10/month")
    assert service.statuses(10, 1) == [200, 429]
    service.clock.now += REST
    assert service.statuses(4) == [200]
    service.clock.now -= 1
    assert service.statuses(1) == [429]
    service.clock.now += 1
    assert service.used() == 4


def test_a_new_limit_goes_on_with_what_was_spent() -> None:
    """Where the budget has a name; without one, another limit is another budget."""
    store, clock = MemoryStore(), Clock(NOVEMBER)
    first, second = (QueryBudget(f"{n}/month", name="rows", store=store, clock=clock) for n in (5, 9))
    asyncio.run(first.hit(_conn(), cost=5))
    assert asyncio.run(second.status_of("127.0.0.1")).remaining == 4


# What is told ---------------------------------------------------------------------------------------------------------


def test_callers_see_what_is_left() -> None:
    """In headers, and at an endpoint, which costs nothing."""
    service = Service("10/month")
    assert service.ask(4).headers["ratelimit"] == f'"10/month";r=6;t={REST}'
    answers = [call(service.app, "/budget", method="GET", headers=[key("alice")]) for _ in range(3)]
    assert answers[2].json == {"limit": 10, "used": 4, "remaining": 6, "resets_at": "2026-12-01T00:00:00Z"}
    assert call(service.app, "/budget", method="GET", headers=[key("bob")]).json["used"] == 0
    assert call(service.app, "/budget", method="GET").status == 401


def test_operators_grant_and_reset() -> None:
    """More for this period than the budget, and the period anew."""
    service = Service("10/month")
    alice = Principal("alice", method="api-key")
    assert service.statuses(10, 1) == [200, 429]
    assert asyncio.run(service.budget.grant(alice, 5)) == BudgetStatus(10, 5, 5, datetime(2026, 12, 1, tzinfo=UTC))
    assert service.statuses(5, 1) == [200, 429]
    assert asyncio.run(service.budget.reset(alice)).remaining == 10
    assert asyncio.run(service.budget.grant(alice, 100)).used == -100
    many = QueryBudget(f"{10**15 - 1}/month", store=MemoryStore(), by=lambda conn: "alice", clock=service.clock)
    app = FastAPI()
    harden(app)
    app.get("/", dependencies=[Depends(many)])(lambda: None)
    asyncio.run(many.grant("alice", 2**53 - 1))  # a header holds fifteen digits (RFC 9651)
    assert call(app, "/", method="GET").headers["ratelimit"] == f'"{many.quota[0]}";r={10**15 - 1};t={REST}'
    assert service.statuses(60, 50, 1) == [200, 200, 429]  # more at once than a budget, because it was granted
    with pytest.raises(ConfigurationError, match=r"QueryBudget\.grant"):
        asyncio.run(service.budget.grant(alice, -1))


# Within a request -----------------------------------------------------------------------------------------------------


def test_a_websocket_is_charged_once_when_it_opens() -> None:
    """However many messages follow; and refused before it is accepted."""
    who = caller()
    budget = QueryBudget("1/day", by=who, store=MemoryStore())
    app = FastAPI()
    harden(app)

    @app.websocket("/ws", dependencies=[Depends(budget), Security(who, scopes=["predict"])])
    async def echo(websocket: WebSocket, _: Annotated[Principal, Security(who)]) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    headers = {"x-api-key": RECORDS["alice"][1]}
    with serving(app) as url:
        address = url.replace("http", "ws") + "/ws"
        with connect(address, additional_headers=headers) as socket:
            for text in "abc":
                socket.send(text)
                assert socket.recv() == text
        with pytest.raises(InvalidStatus, match="429"):
            connect(address, additional_headers=headers)


def test_messages_of_a_websocket_are_charged() -> None:
    """To who has opened it; when too little is left, it is closed."""
    who = caller()
    budget = QueryBudget("5/day", by=who, store=MemoryStore())
    app = FastAPI()
    harden(app)

    @app.websocket("/ws")
    async def echo(websocket: WebSocket, _: Annotated[Principal, Security(who)]) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await budget.hit(websocket, cost=len(text))
            await websocket.send_text(text)

    headers = {"x-api-key": RECORDS["alice"][1]}
    with serving(app) as url, connect(url.replace("http", "ws") + "/ws", additional_headers=headers) as socket:
        socket.send("abc")
        assert socket.recv() == "abc"
        socket.send("def")
        with pytest.raises(ConnectionClosedError):
            socket.recv()


@pytest.mark.parametrize(("used", "spent"), [(0, 0), (30, 30), (60, 60), (90, 90), (150, 150)])
def test_a_reservation_is_settled(used: int, spent: int) -> None:
    """With the caller, and with all of them together; what was used beyond the budget is spent too."""
    service = Service("100/month", total="1000/month")
    total = service.budget._total_ledger
    assert total is not None

    @service.app.get("/stream", dependencies=[Depends(service.caller)])
    async def stream(request: Request) -> None:
        async with service.budget.reserve(request, 60) as reservation:
            reservation.used += used

    assert call(service.app, "/stream", method="GET", headers=[key("alice")]).status == 200
    assert service.used() == spent
    assert asyncio.run(total.status(service.budget.store, ("everybody",), NOVEMBER)).used == spent


@pytest.mark.parametrize("began_away", [False, True])
def test_a_reservation_is_given_back_where_it_was_counted(*, began_away: bool) -> None:
    """A store that goes away meanwhile, or comes back, gives nobody units that were never charged there."""
    store = Moody()
    service = Service("100/month", store=store, on_store_error="local", local_share=1)
    alice = Principal("alice", method="api-key")

    @service.app.get("/stream", dependencies=[Depends(service.caller)])
    async def stream(request: Request) -> None:
        async with service.budget.reserve(request, 60):
            store.failure = None if began_away else AWAY

    async def here() -> int:
        store.failure = AWAY
        return (await service.budget.status_of(alice)).used

    service.ask(20)
    store.failure = AWAY
    service.ask(20)
    store.failure = AWAY if began_away else None
    assert call(service.app, "/stream", method="GET", headers=[key("alice")]).status == 200
    store.failure = None
    assert service.used() == (20 if began_away else 80)  # not given back, where nobody could be told
    assert asyncio.run(here()) == 20


def test_a_reservation_without_room_begins_nothing() -> None:
    """It is refused as a request would be."""
    service = Service("100/month")

    @service.app.get("/stream", dependencies=[Depends(service.caller)])
    async def stream(request: Request) -> None:
        async with service.budget.reserve(request, 60):
            raise AssertionError

    service.ask(41)
    assert call(service.app, "/stream", method="GET", headers=[key("alice")]).status == 429


def test_an_old_period_gives_nothing_to_the_new_one() -> None:
    """What was reserved in November is settled in November."""
    service = Service("100/month")

    @service.app.get("/stream", dependencies=[Depends(service.caller)])
    async def stream(request: Request) -> None:
        async with service.budget.reserve(request, 60):
            service.clock.now += REST

    assert call(service.app, "/stream", method="GET", headers=[key("alice")]).status == 200
    assert service.used() == 0
    service.clock.now -= 1
    assert service.used() == 0


# Races and stores -----------------------------------------------------------------------------------------------------


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def crowd(service: Service, number: int, size: int) -> list[int]:
    asked = [acall(service.app, headers=[JSON, key("alice")], chunks=[rows(size)]) for _ in range(number)]
    return [answer.status for answer in await asyncio.gather(*asked)]


@pytest.mark.parametrize("where", ["memory", "redis"])
def test_many_at_once_spend_exactly_the_budget(where: str, redis: RedisServer) -> None:
    """From several services with one store, with a total that is less than they could spend together."""
    store: Store = MemoryStore() if where == "memory" else RedisStore(redis.url, timeout=30)
    services = [Service("50/month", total="70/month", name="rows", store=store) for _ in range(3)]

    async def main() -> list[list[int]]:
        return await asyncio.gather(*[crowd(service, 30, 2) for service in services])

    admitted = sum(statuses.count(200) for statuses in asyncio.run(main()))
    assert (admitted, services[0].used()) == (25, 50)


def test_a_budget_survives_a_restart(redis: RedisServer) -> None:
    """Of the service: the store keeps it, and knows which budgets there are."""
    assert Service("10/month", store=RedisStore(redis.url), name="rows").statuses(8) == [200]
    store = RedisStore(redis.url)
    service = Service("10/month", store=store, name="rows", total="99/year")
    assert service.statuses(3, 2) == [429, 200]
    budgets = asyncio.run(registered(store))
    assert {what: str(ledger.quota) for what, ledger in budgets["rows"].items()} == {
        "caller": "10/month",
        "total": "99/year",
    }


@pytest.mark.parametrize(
    ("policy", "meanwhile"), [("refuse", [503, 503]), ("allow", [200, 200]), ("local", [200, 429])]
)
def test_without_a_store(policy: Any, meanwhile: list[int], redis: RedisServer) -> None:
    """Each policy does what it says, and it counts how often."""
    redis.kill()
    store = RedisStore(redis.url)
    service = Service("10/month", store=store, on_store_error=policy, local_share=0.3)
    assert service.statuses(3, 1) == meanwhile
    assert service.budget.decided_without_store == (0 if policy == "refuse" else 2)
    assert service.budget.statuses == ((429,) if policy == "local" else (429, 503))


def test_registering_waits_for_nobody(redis: RedisServer) -> None:
    """Two services that begin at once are both known; one whose store is away is known later."""

    async def main() -> list[str]:
        store = RedisStore(redis.url, timeout=30)
        services = [Service("10/month", store=store, name=f"rows {number}") for number in range(8)]
        await asyncio.gather(*[crowd(service, 1, 1) for service in services])
        return sorted(await registered(store))

    assert asyncio.run(main()) == [f"rows {number}" for number in range(8)]


@pytest.mark.parametrize("policy", ["allow", "local"])
def test_nothing_is_granted_without_a_store(policy: Any) -> None:
    """Whatever requests are told: the operator would believe it."""
    store = Moody()
    service = Service("10/month", store=store, on_store_error=policy)
    store.failure = AWAY
    for change in (service.budget.grant("alice", 5), service.budget.reset("alice")):
        with pytest.raises(UnavailableError):
            asyncio.run(change)


def test_what_the_total_does_not_take_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    """When its node is away, and when the request is cancelled while it is asked."""
    store = Fragile()
    budget = QueryBudget("10/month", total="100/year", by=lambda conn: "alice", store=store)

    async def main() -> list[int]:
        used = []
        for failing in ([2], [2, 3]):
            store.calls, store.failing = 0, failing
            with pytest.raises(UnavailableError):
                await budget.hit(_conn(), cost=3)
            store.failing = []
            used.append((await budget.status_of("alice")).used)
        store.calls, store.waiting = 0, 2
        asked = asyncio.ensure_future(budget.hit(_conn(), cost=3))
        await store.reached.wait()
        asked.cancel()
        await asyncio.wait([asked])
        await asyncio.sleep(0)
        return [*used, (await budget.status_of("alice")).used]

    assert asyncio.run(main()) == [0, 3, 3]
    assert "units of a refused request stay spent: away" in caplog.text


class Fragile(MemoryStore):
    """Fails, or never answers, at certain calls to spend."""

    calls = waiting = 0
    failing: Sequence[int] = ()

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
        self.calls += 1
        if self.calls in self.failing:
            raise AWAY
        if self.calls == self.waiting:
            self.reached.set()
            await asyncio.Event().wait()
        return await super().spend(key, units, limit=limit, ttl=ttl)


def test_one_trip_a_request(redis: RedisServer) -> None:
    """And two where there is a total."""
    for total, each in ((None, 1), ("2000/month", 2)):
        service = Service("1000/month", total=total, name=f"with {total}", store=RedisStore(redis.url, timeout=30))
        service.statuses(1)  # which registers the budget
        before = _scripts_run(redis)
        service.statuses(*[2] * 20)
        assert _scripts_run(redis) - before == 20 * each


def _scripts_run(redis: RedisServer) -> int:
    (line,) = [line for line in redis.lines("INFO", "commandstats") if line.startswith("cmdstat_evalsha:")]
    return int(line.partition("calls=")[2].partition(",")[0])


def test_a_budget_is_registered_once_and_for_long() -> None:
    """By the first of many requests; again when that has failed; and for as long again at each start."""
    store = Registering()
    service = Service("1000/month", name="rows", store=store)
    store.failure = AWAY
    service.statuses(1)
    store.failure = None
    asyncio.run(crowd(service, 8, 1))
    assert store.swaps == 1
    asyncio.run(crowd(Service("1000/month", name="rows", store=store), 8, 1))
    assert store.swaps == 2


def test_a_request_that_ends_while_it_registers_leaves_that_to_the_next() -> None:
    """So no budget stays unknown to the operator because a caller hung up."""

    async def main() -> None:
        store = Registering()
        app = Service("1000/month", name="rows", store=store, hardened=False).app
        store.hangs = True
        asking = asyncio.create_task(acall(app, headers=[JSON, key("alice")], chunks=[rows(1)]))
        await store.reached.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        store.hangs = False
        assert (await acall(app, headers=[JSON, key("alice")], chunks=[rows(1)])).status == 200
        assert store.swaps == 1

    asyncio.run(main())


class Registering(Moody):
    """Counts how often it is told of a budget."""

    swaps = 0
    hangs = False

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
        if self.hangs:
            self.reached.set()
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        return await super().get(*keys)

    async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
        self.swaps += 1
        return await super().swap(key, old, new, ttl)


@pytest.mark.parametrize("record", [b"nonsense", b"[]", b'{"rows": 1}', b'{"rows": {"caller": 10}}', b"\xff"])
def test_a_registry_that_cannot_be_read_is_no_open_door(record: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Nor a closed one: it is the operator's list. The budget holds, and what can be read is there again."""
    store = Registering()
    asyncio.run(store.put(store_key("budgets"), record, 60))
    service = Service("10/month", name="rows", store=store)
    assert service.statuses(8, 3) == [200, 429]
    assert caplog.text.count("the list of budgets in the store cannot be read") == 1
    assert asyncio.run(registered(store)).keys() == {"rows"}


def test_a_hit_needs_to_know_its_caller() -> None:
    """Else it is an error."""
    with pytest.raises(ConfigurationError, match="has not said"):
        asyncio.run(QueryBudget("5/day", by=caller(), store=MemoryStore()).hit(_conn()))
    with pytest.raises(ConfigurationError, match=r"QueryBudget\('rows'\) has not judged"):
        asyncio.run(QueryBudget("5/day", by=tokens_of, name="rows", store=MemoryStore()).hit(_conn()))


def _conn() -> HTTPConnection:
    return HTTPConnection(make_scope("GET", "/"))


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "options", "message"),
    [
        ("0/month", {}, "is no budget"),
        ("10/month", {"total": "0/month"}, r"total=\.\.\."),
        *(("10/month", {"warn_at": part}, r"warn_at=\.\.\.") for part in (0, -1, 1.1, True, "half", None)),
        ("10/month", {"on_warning": "log"}, r"on_warning=\.\.\."),
        ("10/month", {"on_warning": BudgetWarning}, r"on_warning=\.\.\."),
        ("10/month", {"name": ""}, r"name=\.\.\."),
        ("10/month", {"name": 7}, r"name=\.\.\."),
        ("10/month", {"total": "9/month"}, "9/month for all callers is less than 10/month"),
        ("10/month", {"total": "9/year"}, "is less than"),
        ("10/month", {"store": "redis://"}, r"store=\.\.\."),
        ("10/month", {"by": "alice"}, r"by=\.\.\."),
        ("10/month", {"cost": 0}, r"cost=\.\.\."),
        ("10/month", {"on_store_error": "open"}, r"on_store_error=\.\.\."),
    ],
)
def test_a_setting_that_cannot_work(limit: str, options: Any, message: str) -> None:
    """It stops the start, and is named."""
    with pytest.raises(ConfigurationError, match=message):
        QueryBudget(limit, **options)


def test_two_budgets_that_would_be_one_stop_the_start() -> None:
    """Unless their name says that they are meant to be one."""
    store = MemoryStore()
    for names, total, starts in (
        ((None, None), None, False),
        (("a", "b"), None, True),
        (("a", "a"), None, True),
        (("a", "a"), "20/day", False),  # which one of them would not ask
    ):
        app = FastAPI()
        harden(app)
        for number, name in enumerate(names):
            budget = QueryBudget("10/month", store=store, name=name, total=total if number else None)
            app.get(f"/{number}", dependencies=[Depends(budget)])(lambda: None)
        if starts:
            assert call(app, "/0", method="GET").status == 200
        else:
            with pytest.raises(ConfigurationError, match="2 QueryBudgets"):
                call(app, "/0", method="GET")
