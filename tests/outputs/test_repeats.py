"""repeat_cache as callers see it, and as attackers do: over ASGI through a real app."""

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Query, Request, Response, Security
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.routing import Route
from tests.asgi import Answer, acall, call
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    Features,
    Laplace,
    MemoryStore,
    OpenInferenceAnswer,
    Principal,
    PrivacyBudgetExceededError,
    QueryBudget,
    RateLimit,
    RedisStore,
    UnsafeOutputError,
    add_noise,
    harden,
    repeat_cache,
    truncate_output,
)
from mlguard._shortcuts import DirectRoute
from mlguard.outputs._kept_answers import AnswersInProcess, Kept

KEY = "Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"
OTHER_KEY = "Hq8wNc5uKr1Xe7Bv0Mz4Lt9Yp3Sg6Df"
RECORDS = {
    "alice": APIKey.generate("alice", scopes={"predict"}),
    "bob": APIKey.generate("bob", scopes={"predict"}),
    "boss": APIKey.generate("boss", scopes={"predict", "all"}),
}
JSON = (b"content-type", b"application/json")
ROW = b'{"features": [1, 2]}'
Rows = np.ndarray[Any, np.dtype[np.float64]]


def credentials(name: str) -> tuple[bytes, bytes]:
    return (b"x-api-key", RECORDS[name][1].encode())


class Service:
    """A prediction that says how often it was made, behind a key."""

    def __init__(self, *, hardened: bool = True, sync: bool = False, **options: Any) -> None:
        self.caller = APIKeyAuth(APIKeys([record for record, _ in RECORDS.values()]))
        self.rows = Features(columns=2, low=-9, high=9, max_rows=10)
        self.runs = 0
        self.clock = Clock()
        self.app = FastAPI()
        if hardened:
            harden(self.app)
        self.options = {"key": KEY, "model_version": "1", "by": self.caller, "clock": self.clock, **options}
        rows = self.rows

        async def predict(x: Annotated[Rows, Depends(rows)], note: str = "") -> Any:
            return self.predict()

        def predict_in_thread(x: Annotated[Rows, Depends(rows)]) -> Any:
            return self.predict()

        async def direct(x: Annotated[Rows, Depends(rows)]) -> Any:
            return self.predict()

        self.add("/predict", predict_in_thread if sync else predict)
        self.add("/direct", direct)

    def predict(self) -> Any:
        self.runs += 1
        return {"run": self.runs}

    def add(self, path: str, endpoint: Any, **route: Any) -> None:
        kept = repeat_cache(**self.options)(truncate_output(decimals=2)(endpoint))
        guards = [Security(self.caller, scopes=["predict"])]
        self.app.post(path, dependencies=guards, response_model=None, **route)(kept)

    def ask(self, name: str = "alice", body: bytes = ROW, path: str = "/predict") -> Answer:
        return call(self.app, path, headers=[JSON, credentials(name)], chunks=[body])

    def run_of(self, name: str = "alice", body: bytes = ROW, path: str = "/predict") -> int:
        answer = self.ask(name, body, path)
        assert answer.status == 200, answer.body
        return int(answer.json["run"])


# The same question ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardened", [True, False])
@pytest.mark.parametrize("path", ["/predict", "/direct"])
@pytest.mark.parametrize("sync", [True, False])
def test_a_repeat_is_the_same_answer(*, hardened: bool, sync: bool, path: str) -> None:
    """Byte for byte, from sync and async endpoints, with and without harden, and the endpoint has run once."""
    service = Service(hardened=hardened, sync=sync)
    first, again = service.ask(path=path), service.ask(path=path)
    assert (first.status, first.body) == (again.status, again.body) == (200, b'{"run":1}')
    assert first.headers["content-type"] == again.headers["content-type"] == "application/json"
    assert first.headers["content-length"] == again.headers["content-length"] == "9"
    assert service.runs == 1


def test_the_short_cut_is_taken() -> None:
    """An endpoint that takes nothing but what guards return is called without FastAPI's solver, kept or not."""
    service = Service()
    service.ask()
    apps: dict[str, Any] = {route.path: route.app for route in service.app.routes if isinstance(route, Route)}
    assert isinstance(apps["/direct"], DirectRoute)
    assert not isinstance(apps["/predict"], DirectRoute)  # it takes a query parameter


@pytest.mark.parametrize(
    ("body", "is_same"),
    [
        (b'{"features": [[1.0, 2.0]]}', True),
        (b'{ "features":[1,2e0] }', True),
        (b'{"features": [1, 2.0000000000000004]}', False),
        (b'{"features": [2, 1]}', False),
        (b'{"features": [[1, 2], [1, 2]]}', False),
    ],
)
def test_the_numbers_are_the_question(body: bytes, *, is_same: bool) -> None:
    """And not how they are spelt; the last bit of one of them is another question."""
    service = Service()
    service.ask()
    assert (service.run_of(body=body) == 1) is is_same


def test_minus_zero_is_zero() -> None:
    """Nobody gets a second answer by writing a sign."""
    service = Service()
    assert [service.run_of(body=b'{"features": [%s, 2]}' % zero) for zero in (b"0", b"-0.0", b"0.0", b"-0")] == [1] * 4


def test_other_arguments_belong_to_the_question() -> None:
    """Also those of the query."""
    service = Service()
    paths = ["/predict?note=a", "/predict?note=b", "/predict?note=a", "/predict"]
    assert [service.run_of(path=path) for path in paths] == [1, 2, 1, 3]


class Question(BaseModel):
    features: list[float]
    tags: dict[str, list[str]] = {}


def test_pydantic_models_are_questions() -> None:
    """By what they hold: not by the order of members."""
    service = Service()

    async def predict(question: Question) -> Any:
        return service.predict()

    service.add("/model", predict)
    bodies = [
        b'{"features": [0.0], "tags": {"a": ["x"], "b": []}}',
        b'{"tags": {"b": [], "a": ["x"]}, "features": [-0.0]}',
        b'{"features": [0.0], "tags": {"a": [], "b": ["x"]}}',
        b'{"features": [0.0]}',
        b'{"features": [0.0], "tags": {}}',
    ]
    assert [service.run_of(body=body, path="/model") for body in bodies] == [1, 1, 2, 3, 4]


# Answers are nobody else's --------------------------------------------------------------------------------------------


def test_no_caller_gets_the_answer_of_another() -> None:
    """Each has answers of its own."""
    service = Service()
    assert [service.run_of(name) for name in ("alice", "bob", "alice", "bob")] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Principal("a", method="jwt", issuer="bc"), Principal("a", method="jwt", issuer="b")),
        (Principal("a", method="jwt", issuer="bc"), Principal("ca", method="jwt", issuer="b")),
        (Principal("a", method="jwt"), Principal("a", method="api-key")),
        (Principal("a", scopes=frozenset({"bc"})), Principal("a", scopes=frozenset({"b", "c"}))),
        (Principal("a", scopes=frozenset({"predict"})), Principal("a")),
        ("a", Principal("a")),
        ("1:a", "a"),
    ],
    ids=str,
)
def test_callers_are_not_confused(one: Any, other: Any) -> None:
    """All three parts count, and the scopes, and where one part ends and the next begins."""
    service = Service()
    who: list[Any] = [one]

    async def caller() -> Any:
        return who[0]

    service.options["by"] = caller
    service.add("/any", service.predict)
    runs = []
    for each in (one, other, one):
        who[0] = each
        runs.append(service.run_of(path="/any"))
    assert runs == [1, 2, 1]


def test_without_by_it_is_the_address() -> None:
    """Never everybody together."""
    service = Service(by=None)
    headers = [JSON, credentials("alice")]
    clients = [("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.1", 2)]
    answers = [call(service.app, headers=headers, chunks=[ROW], client=client) for client in clients]
    assert [answer.json["run"] for answer in answers] == [1, 2, 1]


def test_who_may_see_less_is_not_given_more() -> None:
    """A key that lost a scope does not go on with answers that it got with it."""
    service = Service()
    scopes = [frozenset({"predict", "all"})]

    async def caller() -> Principal:
        return Principal("alice", scopes=scopes[0])

    service.options["by"] = caller
    service.add("/any", service.predict)
    first = service.run_of(path="/any")
    scopes[0] = frozenset({"predict"})
    assert service.run_of(path="/any") != first


def test_no_route_gives_the_answers_of_another() -> None:
    """One endpoint at two paths, by two methods, or with two response models is asked once by each."""
    service = Service()

    class Little(BaseModel):
        """Only this much."""

    async def predict() -> Any:
        return service.predict()

    kept = repeat_cache(**service.options)(truncate_output(predict))
    one, two = FastAPI(), FastAPI()
    one.post("/a", response_model=None)(kept)
    one.post("/b", response_model=None)(kept)
    one.put("/a", response_model=None)(kept)
    one.post("/same", response_model=None)(kept)
    two.post("/same", response_model=Little)(kept)
    ways = [
        (one, "/a", "POST"),
        (one, "/b", "POST"),
        (one, "/a", "PUT"),
        (one, "/same", "POST"),
        (two, "/same", "POST"),
    ]
    headers = [credentials("alice")]
    answers = [call(app, path, method=method, headers=headers).body for app, path, method in (*ways, *ways)]
    assert answers[:5] == answers[5:]
    assert answers[:5] == [b'{"run":1}', b'{"run":2}', b'{"run":3}', b'{"run":4}', b"{}"]


def test_no_mounted_app_gives_the_answers_of_another() -> None:
    """Though both have the same endpoint at the same path: what is around it may differ."""
    model = contextvars.ContextVar("model", default="")

    @repeat_cache(key=KEY, model_version="1")
    @truncate_output
    async def predict() -> Any:
        return {"model": model.get()}

    def mounted(name: str) -> FastAPI:
        async def choose() -> None:
            model.set(name)

        app = FastAPI(dependencies=[Depends(choose)])
        app.get("/predict")(predict)
        return app

    app = FastAPI()
    for name in ("cats", "dogs"):
        app.mount(f"/{name}", mounted(name))
    for name in ("cats", "dogs", "cats"):
        assert call(app, f"/{name}/predict", method="GET").json == {"model": name}


def test_what_may_be_seen_of_a_model_is_part_of_it() -> None:
    """Routes that include or exclude other fields share no answer."""
    service = Service()

    class Full(BaseModel):
        run: int
        secret: int = 7

    async def predict() -> Any:
        return service.predict()

    kept = repeat_cache(**service.options)(truncate_output(predict))
    fields: list[dict[str, Any]] = [
        {},
        {"response_model_exclude": {"secret", "other"}},
        {"response_model_include": {"run": True}},
    ]
    headers = [credentials("alice")]
    answers = []
    for route in fields:
        app = FastAPI()
        app.post("/", response_model=Full, **route)(kept)
        answers.append(call(app, "/", headers=headers).json)
    assert answers == [{"run": 1, "secret": 7}, {"run": 2}, {"run": 3}]


# Old answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def test_another_version_of_the_model_has_other_answers() -> None:
    """A function says which one it is, at each request: a model may be exchanged while the service runs."""
    version = ["1"]
    service = Service(model_version=lambda: version[0])
    assert service.run_of() == 1
    version[0] = "2"
    assert service.run_of() == 2
    version[0] = "1"
    assert service.run_of() == 1


@pytest.mark.parametrize("version", [2, None, ["1"]])
def test_a_version_that_is_no_text(version: Any) -> None:
    """Nothing is answered by it."""
    service = Service(model_version=lambda: version)
    assert service.ask().status == 500
    assert service.runs == 0


def test_no_setting_serves_the_answers_of_another(redis: RedisServer) -> None:
    """Also where they are kept in Redis and a service starts anew: with other truncation, noise, key or model."""
    store = RedisStore(redis.url, timeout=30, prefix="settings")
    runs: list[int] = []
    noise = add_noise(Laplace(0.1), key=KEY)

    def served(*, decimals: int = 2, top_k: int | None = None, noise: Any = noise, **options: Any) -> bytes:
        app = FastAPI()
        settings = {"key": KEY, "model_version": "1", "store": store, **options}

        async def predict() -> Any:
            runs.append(1)
            return {"probabilities": [0.25, 0.75], "run": len(runs)}

        truncated = truncate_output(decimals=decimals, top_k=top_k)(noise(predict))
        app.post("/")(repeat_cache(**settings)(truncated))
        return call(app, "/").body

    assert served() == served()
    assert len(runs) == 1
    changes: list[dict[str, Any]] = [
        {"decimals": 1},
        {"top_k": 1},
        {"model_version": "2"},
        {"key": OTHER_KEY},
        {"noise": add_noise(Laplace(0.2), key=KEY)},
        {"noise": add_noise(Laplace(0.1), key=OTHER_KEY)},
        {"noise": add_noise(Laplace(0.1), key=KEY, keep_argmax=True)},
        {"noise": lambda endpoint: endpoint},
    ]
    answers = [served(**change) for change in changes]
    assert len(runs) == 1 + len(changes)
    assert [served(**change) for change in changes] == answers


def test_answers_end() -> None:
    """After the time that they are kept for, by the clock."""
    service = Service(ttl=60)
    assert service.run_of() == 1
    service.clock.now = 59.9
    assert service.run_of() == 1
    service.clock.now = 60.0
    assert service.run_of() == 2


# What is not kept -----------------------------------------------------------------------------------------------------


def test_errors_are_not_kept() -> None:
    """A crash and a refusal of the endpoint are those of one request."""
    service = Service()
    failures: list[Exception] = [ValueError("crash"), HTTPException(503, "later")]

    async def predict() -> Any:
        if failures:
            raise failures.pop()
        return service.predict()

    service.add("/failing", predict)
    assert [service.ask(path="/failing").status for _ in range(4)] == [503, 500, 200, 200]
    assert service.runs == 1


def test_only_a_200_is_kept() -> None:
    """Whether the route or a dependency says that it is something else; the status is what it was."""
    service = Service()
    status: list[int | None] = [None]

    async def set_status(response: Response) -> None:
        if status[0] is not None:
            response.status_code = status[0]

    async def predict(_: Annotated[None, Depends(set_status)]) -> Any:
        return service.predict()

    service.add("/created", predict, status_code=201)
    service.add("/set", predict)
    assert [service.ask(path="/created").status for _ in range(2)] == [201, 201]
    assert service.runs == 2
    answers = []
    for status[0] in (202, None, 202, None, 200):
        answer = service.ask(path="/set")
        answers.append((answer.status, answer.json["run"]))
    assert answers == [(202, 3), (200, 4), (202, 5), (200, 4), (200, 4)]


def test_headers_are_those_of_each_request() -> None:
    """What guards and dependencies add is new each time; the id of a request is that of this one."""
    service = Service()
    count: list[int] = []
    limit = RateLimit("5/minute", by=service.caller, store=MemoryStore(clock=Clock()))

    async def mark(response: Response) -> None:
        count.append(1)
        response.headers["x-count"] = str(len(count))

    async def predict(_: Annotated[None, Depends(mark)], __: Annotated[Any, Depends(limit)]) -> Any:
        return service.predict()

    service.add("/marked", predict)
    first, again = service.ask(path="/marked"), service.ask(path="/marked")
    assert first.body == again.body == b'{"run":1}'
    assert [answer.headers["x-count"] for answer in (first, again)] == ["1", "2"]
    assert [answer.headers.getlist("ratelimit") for answer in (first, again)] == [
        ['"5/minute";r=4;t=64'],
        ['"5/minute";r=3;t=64'],
    ]
    assert first.headers["x-request-id"] != again.headers["x-request-id"]


def test_kept_answers_are_as_little_to_be_cached_as_new_ones() -> None:
    """What callers may see differs, so caches on the way must not keep it; and headers about time are not sent."""

    async def caller(request: Request) -> Principal:
        return Principal("alice", scopes=frozenset(request.headers.getlist("x-scope")))

    async def mark(response: Response) -> None:
        response.headers["x-process-time"] = "0.1"

    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(mark)])
    @repeat_cache(key=KEY, model_version="1", by=caller)
    @truncate_output(decimals=1, per_scope={"all": "open"}, by=caller)
    async def predict() -> Any:
        return {"probabilities": [0.123, 0.877]}

    for _ in range(2):
        found = call(app, "/predict", method="GET", headers=[(b"x-scope", b"all")])
        assert found.json == {"probabilities": [0.123, 0.877]}
        assert found.headers["cache-control"] == "no-store"
        assert "x-process-time" not in found.headers


def test_repeats_use_up_budgets() -> None:
    """Guards run as ever: who may not ask any more gets no old answer either."""
    service = Service()
    budget = QueryBudget("2/month", by=service.caller, cost=service.rows, store=MemoryStore(), clock=Clock())
    service.app.router.dependencies.append(Depends(budget))

    async def predict(x: Annotated[Rows, Depends(service.rows)]) -> Any:
        return service.predict()

    service.add("/spent", predict)
    assert [service.ask(path="/spent").status for _ in range(3)] == [200, 200, 429]
    assert service.runs == 1


def test_who_may_not_ask_is_told_nothing() -> None:
    """An answer that is kept is behind the same guards."""
    service = Service()
    service.ask()
    assert call(service.app, headers=[JSON], chunks=[ROW]).status == 401
    assert service.runs == 1


class Opaque:
    """Told by nothing that it holds."""


def test_questions_that_cannot_be_told_are_answered_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Where no annotation shows it, nothing is kept, and the log says so once."""
    service = Service()

    async def predict(what: Annotated[Any, Depends(Opaque)]) -> Any:
        return service.predict()

    service.add("/opaque", predict)
    assert [service.run_of(path="/opaque") for _ in range(3)] == [1, 2, 3]
    lines = [record.getMessage() for record in caplog.records if "repeat_cache" in record.getMessage()]
    assert len(lines) == 1
    assert "predict: a tests.outputs.test_repeats.Opaque" in lines[0]


def test_called_by_hand() -> None:
    """A developer's call does its work each time, and gets plain data."""
    service = Service()

    @repeat_cache(key=KEY, model_version="1")
    @truncate_output(decimals=1)
    def predict(x: float) -> Any:
        service.predict()
        return {"x": x}

    assert asyncio.run(predict(0.123)) == asyncio.run(predict(x=0.123)) == {"x": 0.1}
    assert service.runs == 2


def test_a_route_that_cannot_be_told() -> None:
    """In a bare Starlette app nothing is kept, and the answer does not leave, as truncate_output has it."""

    def predict() -> Any: ...

    kept: Any = repeat_cache(key=KEY, model_version="1")(truncate_output(predict))
    request = Request({"type": "http", "method": "GET", "headers": [], "client": ("192.0.2.1", 1)})
    with pytest.raises(UnsafeOutputError):
        asyncio.run(kept(_mlguard_request=request, _mlguard_response=Response()))


# Room -----------------------------------------------------------------------------------------------------------------


def test_the_one_unused_for_longest_goes_first() -> None:
    """So an answer is drawn anew only for who asks more questions than there is room for."""
    service = Service(max_entries=2)
    bodies = [b'{"features": [%d, 0]}' % number for number in (1, 2, 1, 3, 1, 2)]
    assert [service.run_of(body=body) for body in bodies] == [1, 2, 1, 3, 1, 4]


def test_bytes_are_bounded() -> None:
    """Many small answers, or a few large ones; one that is larger than all the room is not kept."""
    service = Service(max_bytes=3_000)

    async def predict(length: int) -> Any:
        return {**service.predict(), "text": "x" * length}

    service.add("/long", predict)
    runs = [service.run_of(path=f"/long?length={length}") for length in (1_000, 1_001, 1_000, 1_001)]
    assert runs == [1, 2, 1, 2]
    assert [service.run_of(path=f"/long?length={length}") for length in (1_002, 1_000)] == [3, 4]
    assert [service.run_of(path="/long?length=5000") for _ in range(2)] == [5, 6]


def test_memory_is_bounded_under_a_flood() -> None:
    """100 000 different answers leave no more behind than there is room for."""
    answers = AnswersInProcess(max_entries=1_000, max_bytes=10**9, ttl=60, clock=Clock())
    small = AnswersInProcess(max_entries=10**9, max_bytes=500_000, ttl=60, clock=Clock())

    async def flood() -> None:
        for number in range(100_000):
            for kept in (answers, small):
                await kept.put(number.to_bytes(32, "big"), Kept(b"x" * 100, "application/json"))

    asyncio.run(flood())
    assert len(answers._answers) == 1_000
    assert len(small._answers) == 1_000
    assert small._bytes == 500_000


def test_nothing_else_grows() -> None:
    """Nor do thousands of callers leave anything behind, each with a question of their own."""
    answers, asked, repeats = flooded(3_000)
    assert answers == 1_000
    assert asked <= 1_024
    assert repeats == 0


def flooded(number: int) -> tuple[int, int, int]:
    """How many answers, beginnings of questions and questions at work are left after so many questions."""
    app = FastAPI()

    async def predict(x: Annotated[float, Depends(lambda: 0.0)]) -> Any:
        return {"x": x}

    def by(conn: HTTPConnection) -> str:
        return str(conn.scope["number"])

    kept: Any = repeat_cache(key=KEY, model_version="1", by=by, max_entries=1_000)(truncate_output(predict))
    app.post("/")(kept)
    route = app.routes[-1]

    async def flood() -> None:
        for at in range(number):
            scope = {"type": "http", "method": "POST", "route": route, "headers": [], "number": at}
            injected = Response()
            injected.status_code = None  # type: ignore[assignment]
            await kept(x=float(at), _mlguard_request=Request(scope), _mlguard_response=injected)

    asyncio.run(flood())
    repeats = next(cell.cell_contents for cell in kept.__closure__ if hasattr(cell.cell_contents, "_kept"))
    return len(repeats._kept._answers), len(repeats._questions._begun), len(repeats._asked)


# Several at once ------------------------------------------------------------------------------------------------------


class Slow(Service):
    """An endpoint that waits until it is told to go on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.failure: Exception | None = None
        self.add("/slow", self.slow)

    async def slow(self, n: int = 0) -> Any:
        self.started.set()
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return self.predict()

    async def asks(self, name: str = "alice", path: str = "/slow") -> Answer:
        return await acall(self.app, path, headers=[credentials(name)])


def test_equal_questions_at_once_are_one() -> None:
    """The endpoint runs once for each question and caller, however many wait."""

    async def main() -> tuple[list[Any], int]:
        service = Slow()
        asked = [service.asks() for _ in range(20)]
        others = [service.asks("bob"), service.asks(path="/slow?n=1")]
        tasks = [asyncio.create_task(one) for one in (*asked, *others)]
        await service.started.wait()
        await asyncio.sleep(0)
        service.go.set()
        return [answer.json["run"] for answer in await asyncio.gather(*tasks)], service.runs

    runs, total = asyncio.run(main())
    assert total == 3
    assert len({*runs[:20]}) == 1
    assert len({*runs}) == 3


@pytest.mark.parametrize("who", [[0], [1], [0, 1]])
def test_who_goes_away_takes_nothing_from_others(who: list[int]) -> None:
    """Not even who asked first; when all have gone, the work ends, and who comes next begins it anew."""

    async def main() -> tuple[list[Any], int]:
        service = Slow()
        first = asyncio.create_task(service.asks())
        await service.started.wait()
        second = asyncio.create_task(service.asks())
        while not waits(second):  # noqa: ASYNC110  # nothing else tells it
            await asyncio.sleep(0)
        tasks = [first, second]
        for place in who:
            tasks[place].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tasks[place]
        last = asyncio.create_task(service.asks())
        while not waits(last):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0)
        service.go.set()
        answers = [await task for place, task in enumerate(tasks) if place not in who]
        return [answer.json["run"] for answer in (*answers, await last)], service.runs

    def waits(task: "asyncio.Task[Any]") -> bool:
        return any(frame.f_code.co_name == "_ask" for frame in _frames(task))

    runs, total = asyncio.run(main())
    assert total == 1
    assert {*runs} == {1}


def _frames(task: "asyncio.Task[Any]") -> Iterator[Any]:
    coroutine: Any = task.get_coro()
    while coroutine is not None and hasattr(coroutine, "cr_frame"):
        yield coroutine.cr_frame
        coroutine = coroutine.cr_await


def test_a_failure_is_that_of_all_who_waited_and_of_nobody_else() -> None:
    """And it is not kept."""

    async def main() -> tuple[list[int], int]:
        service = Slow()
        service.failure = HTTPException(503, "no model")
        tasks = [asyncio.create_task(service.asks()) for _ in range(3)]
        await service.started.wait()
        service.go.set()
        statuses = [answer.status for answer in await asyncio.gather(*tasks)]
        service.failure = None
        return statuses, (await service.asks()).status

    assert asyncio.run(main()) == ([503] * 3, 200)


def test_what_one_is_refused_is_not_refused_to_another() -> None:
    """Who waits for the answer to the same question is asked for, where the first one has nothing left in a ledger."""
    name = contextvars.ContextVar("name", default="")

    async def main() -> list[int]:
        app, started, go = FastAPI(), asyncio.Event(), asyncio.Event()

        async def note(request: Request) -> None:
            name.set(request.headers["x-name"])

        @app.get("/predict", dependencies=[Depends(note)])
        @repeat_cache(key=KEY, model_version="1", by=lambda conn: "all")
        @truncate_output
        async def predict() -> Any:
            started.set()
            await go.wait()
            if name.get() == "poor":
                raise PrivacyBudgetExceededError("nothing left")
            return {"x": 1}

        harden(app)
        first = asyncio.create_task(acall(app, "/predict", method="GET", headers=[(b"x-name", b"poor")]))
        await started.wait()
        second = asyncio.create_task(acall(app, "/predict", method="GET", headers=[(b"x-name", b"rich")]))
        while not any(frame.f_code.co_name == "_ask" for frame in _frames(second)):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0)
        go.set()
        return [(await first).status, (await second).status]

    assert asyncio.run(main()) == [429, 200]


def test_what_is_not_kept_is_computed_for_each() -> None:
    """An answer of another status is nobody else's."""

    async def main() -> list[Any]:
        service = Slow()
        service.add("/created", service.slow, status_code=201)
        tasks = [asyncio.create_task(service.asks(path="/created")) for _ in range(3)]
        await service.started.wait()
        service.go.set()
        return [(answer.status, answer.json["run"]) for answer in await asyncio.gather(*tasks)]

    assert sorted(asyncio.run(main())) == [(201, 1), (201, 2), (201, 3)]


def test_each_event_loop_does_its_own_work() -> None:
    """A server of several loops waits in none for what another one does; the answer is the last one's."""
    service = Service()
    both = threading.Barrier(2)

    def predict() -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=30)
        return service.predict()

    service.add("/loops", predict)
    threads = [threading.Thread(target=service.run_of, kwargs={"path": "/loops"}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert service.runs == 2
    assert service.run_of(path="/loops") in {1, 2}
    assert service.runs == 2


# In Redis -------------------------------------------------------------------------------------------------------------


def test_processes_share_answers(redis: RedisServer) -> None:
    """Two services with one key and one store give one answer. A restart changes nothing."""
    services = [Service(store=RedisStore(redis.url, timeout=30, prefix="shared")) for _ in range(2)]
    services[1].runs = 10
    first, second = services
    assert [first.run_of(), second.run_of(), first.run_of("bob"), second.run_of("bob")] == [1, 1, 2, 2]
    assert second.runs == 10


def test_the_first_answer_stays(redis: RedisServer) -> None:
    """Where two processes were at work on one question, both give the answer that was there first."""

    async def main() -> list[bytes]:
        services = [Slow(store=RedisStore(redis.url, timeout=30, prefix="first")) for _ in range(2)]
        services[1].runs = 10
        tasks = [asyncio.create_task(service.asks()) for service in services]
        for service in services:
            await service.started.wait()
        services[0].go.set()
        await tasks[0]
        services[1].go.set()
        return [(await task).body for task in tasks]

    assert asyncio.run(main()) == [b'{"run":1}'] * 2


def test_answers_in_redis_end_and_are_under_digests(redis: RedisServer) -> None:
    """Each has its expiry; no key and no value tells who asked what."""
    service = Service(store=RedisStore(redis.url, timeout=30, prefix="digests"), ttl=100)
    service.ask(body=b'{"features": [1.25, 2.5]}')
    (key,) = [line for line in redis.lines("KEYS", "digests:*") if line.startswith("digests:")]
    assert key.startswith("digests:record:{")
    assert len(key) == len("digests:record:{}") + 64
    assert 0 < int(redis.command("TTL", key).removeprefix(":")) <= 100
    kept = "\n".join([key, *redis.lines("GET", key)])
    assert '{"run":1}' in kept
    assert not [word for word in ("alice", "1.25", "predict") if word in kept]


def test_without_its_store_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Each question is a new one then, and the log says so once."""
    with redis_server() as server:
        service = Service(store=RedisStore(server.url, timeout=0.25))
        assert [service.run_of() for _ in range(2)] == [1, 1]
        server.kill()
        assert [service.run_of() for _ in range(3)] == [2, 3, 4]
    lines = [record for record in caplog.records if "repeat_cache goes on" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.ERROR]


def test_a_store_without_room_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """It answers still, keeps nothing more, and does not fill the log with a line for each question."""
    with redis_server("--maxmemory", "1", "--maxmemory-policy", "noeviction") as server:
        service = Service(store=RedisStore(server.url, timeout=30))
        assert [service.run_of() for _ in range(3)] == [1, 2, 3]
    lines = [record for record in caplog.records if "repeat_cache goes on" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.ERROR]


class Forgetful(RedisStore):
    """One that has forgotten in the meantime what another process has kept first."""

    async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
        return False


def test_what_has_expired_meanwhile_is_answered(redis: RedisServer) -> None:
    """With the answer that there is."""
    service = Service(store=Forgetful(redis.url, timeout=30, prefix="forgetful"))
    assert [service.run_of() for _ in range(2)] == [1, 2]


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": "short"}, r"key=\.\.\."),
        ({"key": None}, r"key=\.\.\."),
        ({"model_version": ""}, "model_version"),
        ({"model_version": 3}, "model_version"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": float("inf")}, "ttl"),
        ({"ttl": "1"}, "ttl"),
        ({"max_entries": 0}, "max_entries"),
        ({"max_entries": 1.5}, "max_entries"),
        ({"max_bytes": True}, "max_bytes"),
        ({"store": MemoryStore()}, "several processes share"),
        ({"store": "redis://"}, "several processes share"),
        ({"by": APIKeyAuth}, "is the class"),
        ({"by": 3}, r"by=\.\.\."),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], says: str) -> None:
    """They stop the start-up, and say which they are."""
    with pytest.raises(ConfigurationError, match=says):
        repeat_cache(**{"key": KEY, "model_version": "1", **options})


def keeps() -> Any:
    return repeat_cache(key=KEY, model_version="1")


def test_it_stands_right_above_truncate_output() -> None:
    """Without one, twice, or in the wrong order, it is an error."""

    def predict() -> Any: ...

    with pytest.raises(ConfigurationError, match="right above @truncate_output"):
        keeps()(predict)
    with pytest.raises(ConfigurationError, match="already"):
        keeps()(keeps()(truncate_output(predict)))
    with pytest.raises(ConfigurationError, match="already"):
        truncate_output(keeps()(truncate_output(predict)))


def test_streams_are_not_kept() -> None:
    """Whatever truncates them."""

    async def stream() -> Any:
        yield "x"

    with pytest.raises(ConfigurationError, match="no stream"):
        keeps()(truncate_output(stream))


def test_an_id_that_the_answer_repeats_is_not_kept() -> None:
    """It would be that of another request; nor does it make another question, or noise would be drawn for each id."""

    async def predict(x: Annotated[Rows, Depends(Service().rows)]) -> Any:
        return {"probabilities": [0.25, 0.75]}

    with pytest.raises(ConfigurationError, match="repeat_id=False"):
        keeps()(truncate_output(answer=OpenInferenceAnswer())(predict))
    with pytest.raises(ConfigurationError, match="repeat_id"):
        OpenInferenceAnswer(repeat_id=1)  # type: ignore[arg-type]
    app = FastAPI()
    answer = OpenInferenceAnswer(repeat_id=False)
    app.post("/predict", response_model=None)(keeps()(truncate_output(answer=answer)(predict)))
    assert "id" not in call(app, "/predict", headers=[JSON], chunks=[ROW]).json


def test_who_is_shown_more_has_answers_of_their_own() -> None:
    """Also where the cache takes all callers for one: what a policy shows to some never reaches the others."""
    service = Service(by=lambda conn: "anybody")

    async def predict(x: Annotated[Rows, Depends(service.rows)]) -> Any:
        service.runs += 1
        return {"probabilities": [0.123456789, 0.876543211]}

    truncated = truncate_output("private", per_scope={"all": "open"}, by=service.caller)(predict)
    service.app.post("/scoped", response_model=None)(repeat_cache(**service.options)(truncated))
    everything, label = [0.123456789, 0.876543211], 1
    for name, seen in (("boss", everything), ("alice", label), ("bob", label), ("boss", everything)):
        assert service.ask(name, path="/scoped").json == {"probabilities": seen}
    assert service.runs == 2


def takes(annotation: Any) -> Any:
    def predict(what: Any, **more: Any) -> Any: ...

    predict.__annotations__["what"] = annotation
    return predict


@pytest.mark.parametrize(
    "annotation",
    [Request, HTTPConnection, Response, BackgroundTasks, Opaque, list[Opaque], Annotated[Opaque, Depends()]],
    ids=str,
)
def test_questions_that_can_never_be_told(annotation: Any) -> None:
    """An annotation that shows it stops the start-up."""
    with pytest.raises(ConfigurationError, match="by the argument 'what'"):
        keeps()(truncate_output(takes(annotation)))
    assert keeps()(truncate_output(takes(Annotated[list[float], Query()])))


@pytest.mark.parametrize("decorator", ["repeat_cache", "truncate_output", "add_noise"])
def test_above_the_route_it_would_have_no_effect(decorator: str) -> None:
    """The start-up says which one stands there, and where."""
    app = FastAPI()
    harden(app)
    route = app.post("/predict")

    def predict() -> Any: ...

    if decorator == "repeat_cache":
        keeps()(route(truncate_output(predict)))
    elif decorator == "truncate_output":
        truncate_output(route(add_noise(Laplace(1), key=KEY)(predict)))
    else:
        add_noise(Laplace(1), key=KEY)(route(predict))
    with pytest.raises(ConfigurationError, match=f"/predict: @{decorator} stands above"):
        call(app)


def test_one_function_may_have_two_routes() -> None:
    """Decorated twice, each route has its own."""
    app = FastAPI()
    harden(app)

    def predict() -> Any:
        return {"x": 0.123}

    app.post("/one")(truncate_output(decimals=1)(predict))
    app.post("/two")(keeps()(truncate_output(decimals=2)(predict)))
    assert [call(app, path).json for path in ("/one", "/two")] == [{"x": 0.1}, {"x": 0.12}]


def test_overrides_of_the_caller_hold() -> None:
    """A test of the app that names the caller itself needs no key."""
    service = Service()
    service.app.dependency_overrides[service.caller] = lambda: Principal("tester", scopes=frozenset({"predict"}))
    answers = [call(service.app, headers=[JSON], chunks=[ROW]) for _ in range(2)]
    assert [answer.json for answer in answers] == [{"run": 1}] * 2
