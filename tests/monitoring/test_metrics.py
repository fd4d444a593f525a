"""What guards decide becomes numbers, whoever asks and whatever is asked."""

import asyncio
import json
import logging
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security, WebSocket
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConcurrencyLimit,
    ConfigurationError,
    Control,
    Features,
    InsufficientScopeError,
    Lockdown,
    Measurement,
    MemoryStore,
    MLGuardError,
    QueryBudget,
    RateLimit,
    Text,
    harden,
    install_metrics,
)
from mlguard._guard import Guard, RequestMemory
from mlguard._order import once
from mlguard.monitoring._own_metrics import DURATION, LEFT, Metric
from mlguard.monitoring._series import MAX_SERIES, Series, label
from tests.asgi import Answer, acall, call, make_scope
from tests.clock import Clock
from tests.monitoring.notebook import Notebook

Values = tuple[str, ...]


class Refuses(Guard):
    """A guard of the app's own that raises what it was given."""

    control = Control.INPUT_VALIDATION

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(self, conn: HTTPConnection) -> None:
        async def judge() -> None:
            raise self.error

        await once(conn, self, judge)


KEY, SECRET = APIKey.generate("alice", scopes={"predict"})
CREDENTIALS = [(b"x-api-key", SECRET.encode())]
JSON = (b"content-type", b"application/json")


def service(notebook: Notebook, *, hardened: bool = True, **options: Any) -> FastAPI:
    """An app with every kind of guard."""
    app = FastAPI()
    if hardened:
        harden(app, max_body_size=10_000)
    caller = APIKeyAuth(APIKeys([KEY]))
    store = MemoryStore()
    iris = Features(columns=2, low=0, high=10, max_rows=100)
    steady = RateLimit("4/minute", "100/day", by=caller, store=store)
    budget = QueryBudget("10/month", by=caller, store=store, cost=iris)
    places = ConcurrencyLimit(2, by=caller, store=store)
    router = APIRouter(prefix="/models/{name}")

    @router.post("/predict", dependencies=[Security(caller, scopes=["predict"]), Depends(steady), Depends(budget)])
    def predict(x: Annotated[np.ndarray, Depends(iris)], name: str) -> int:
        return len(x)

    @router.post("/admin", dependencies=[Security(caller, scopes=["admin"]), Depends(steady)])
    def admin(name: str) -> None:
        """Nobody may."""

    @router.post("/held", dependencies=[Depends(places)])
    def held(name: str) -> None:
        """A place is taken."""

    class Body(BaseModel):
        number: int

    @router.post("/plain", dependencies=[Depends(caller)])
    def plain(name: str, body: Body) -> None:
        """FastAPI's own validation."""

    @app.get("/missing", dependencies=[Depends(caller)])
    def missing() -> None:
        raise HTTPException(404, "no such thing")

    app.include_router(router)
    install_metrics(app, to=notebook, **{"timed_per_second": 1e6, **options})
    return app


def post(app: FastAPI, path: str, body: Any = None, *, key: bool = True) -> Answer:
    headers = [*(CREDENTIALS if key else []), JSON]
    return call(app, path, headers=headers, chunks=[json.dumps(body).encode()])


def test_every_decision_is_counted_by_guard_rule_and_route() -> None:
    """An accepted request counts once for each of its guards, with the template of its route."""
    notebook = Notebook()
    assert post(service(notebook), "/models/iris/predict", {"features": [[1, 2], [3, 4]]}).status == 200
    route = "/models/{name}/predict"
    assert notebook.counts == {
        (guard, "admitted", "", route): 1 for guard in ("APIKeyAuth", "RateLimit", "QueryBudget", "Features")
    }


def test_what_guards_take_and_leave_is_recorded() -> None:
    """Each guard of an accepted request has a time, and each limit the part of it that is left."""
    notebook = Notebook()
    app = service(notebook)
    post(app, "/models/iris/predict", {"features": [[1, 2], [3, 4]]})
    times = {values: numbers for (name, values), numbers in notebook.numbers.items() if name == DURATION.name}
    assert set(times) == {("APIKeyAuth",), ("RateLimit",), ("QueryBudget",), ("Features",)}
    assert all(0 < number < 60 for numbers in times.values() for number in numbers)
    left = {values: numbers for (name, values), numbers in notebook.numbers.items() if name == LEFT.name}
    assert left == {
        ("RateLimit", "4/minute, 100/day by APIKeyAuth(header='X-API-Key')"): [0.75],
        ("QueryBudget", "10/month by APIKeyAuth(header='X-API-Key')"): [0.8],
    }


@pytest.mark.parametrize("hardened", [True, False])
def test_a_limit_that_refuses_has_nothing_left(hardened: bool) -> None:
    """A refusal is counted with its rule, and 0 of the limit is left."""
    notebook = Notebook()
    app = service(notebook, hardened=hardened)
    statuses = [post(app, "/models/iris/predict", {"features": [[1, 2]]}).status for _ in range(5)]
    assert statuses == [200] * 4 + [429]
    assert notebook.counts["RateLimit", "refused", "rate-limited", "/models/{name}/predict"] == 1
    assert notebook.counts["RateLimit", "admitted", "", "/models/{name}/predict"] == 4
    assert notebook.numbers[LEFT.name, ("RateLimit", "4/minute, 100/day by APIKeyAuth(header='X-API-Key')")][-1] == 0.0


@pytest.mark.parametrize(
    ("path", "body", "key", "counted"),
    [
        ("/models/iris/predict", {"features": [[1, 2]]}, False, ("APIKeyAuth", "refused", "not-authenticated")),
        ("/models/iris/predict", {"features": [[1, 99]]}, True, ("Features", "refused", "invalid-input")),
        ("/models/iris/predict", {"features": [[1, 2]] * 2_000}, True, ("none", "refused", "body-too-large")),
        ("/models/iris/admin", None, True, ("APIKeyAuth", "refused", "insufficient-scope")),
        ("/models/iris/plain", {"number": "x"}, True, ("none", "refused", "invalid-input")),
    ],
)
def test_every_refusal_is_counted_once(path: str, body: Any, key: bool, counted: Values) -> None:
    """Whoever refuses, a guard, a scope, harden or FastAPI, it is one refusal with its rule."""
    notebook = Notebook()
    assert post(service(notebook), path, body, key=key).status >= 400
    refused = [values[:3] for values, count in notebook.counts.items() for _ in range(count) if values[1] == "refused"]
    assert refused == [counted]


def test_a_scope_that_no_guard_has_judged_is_nobodys() -> None:
    """A function of the app's own that misses a scope is no guard."""
    notebook = Notebook()
    app = FastAPI()
    harden(app)

    def judge() -> None:
        raise InsufficientScopeError("no")

    @app.get("/x", dependencies=[Depends(judge)])
    def endpoint() -> None:
        """Never reached."""

    install_metrics(app, to=notebook)
    assert call(app, "/x", method="GET").status == 403
    assert notebook.counts == {("none", "refused", "insufficient-scope", "/x"): 1}


def test_a_limit_that_does_not_say_what_is_left_has_no_share() -> None:
    """A request that costs more than a limit ever admits is counted, and so is one whose limit hides what is left."""
    notebook = Notebook()
    app = FastAPI()

    class Hidden(RateLimit):
        async def __call__(self, conn: HTTPConnection, who: Any = None, costing: Any = None) -> None:
            await super().__call__(conn, who, costing)
            RequestMemory.of(conn.scope).headers.clear()

    store = MemoryStore()
    app.get("/dear", dependencies=[Depends(RateLimit("2/minute", cost=3, store=store))])(lambda: None)
    app.get("/hidden", dependencies=[Depends(Hidden("2/minute", store=store))])(lambda: None)
    install_metrics(app, to=notebook, timed_per_second=1e6)
    assert call(app, "/dear", method="GET").status == 429
    assert call(app, "/hidden", method="GET").status == 200
    assert sum(notebook.counts.values()) == 2
    assert {name for name, _ in notebook.numbers} == {DURATION.name}


def test_what_the_endpoint_answers_is_no_refusal() -> None:
    """A 404 of the endpoint's own is nobody's refusal."""
    notebook = Notebook()
    assert call(service(notebook), "/missing", method="GET", headers=CREDENTIALS).status == 404
    assert notebook.counts == {("APIKeyAuth", "admitted", "", "/missing"): 1}


@pytest.mark.parametrize(
    ("path", "guards"), [("/models/iris/held", {"ConcurrencyLimit"}), ("/models/iris/predict", {"Features"})]
)
def test_the_wait_for_the_body_is_no_guards(path: str, guards: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time in which a slow client sends is not in what guards take, in none that waits for the body."""
    notebook = Notebook()
    app = service(notebook)
    now = 0
    monkeypatch.setattr("time.perf_counter_ns", lambda: now)
    body = json.dumps({"features": [[1, 2]]}).encode()

    async def receive() -> dict[str, Any]:
        nonlocal now
        now += 10**9
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        """Nobody reads it."""

    headers = [(b"content-length", str(len(body)).encode()), JSON, *CREDENTIALS]
    asyncio.run(app(make_scope("POST", path, headers), receive, send))
    times = {values[0]: numbers for (name, values), numbers in notebook.numbers.items() if name == DURATION.name}
    assert now >= 10**9
    assert guards <= set(times)
    assert all(numbers == [0.0] for numbers in times.values())


def test_texts_are_measured_too() -> None:
    """A guard that reads a text is counted when it admits and when it refuses."""
    notebook = Notebook()
    app = FastAPI()
    harden(app)

    @app.post("/say")
    def say(text: Annotated[str, Depends(Text(max_length=5))]) -> None:
        """Nothing."""

    install_metrics(app, to=notebook)
    assert post(app, "/say", {"text": "hello"}).status == 200
    assert post(app, "/say", {"text": "hello there"}).status == 422
    assert notebook.counts == {
        ("Text", "admitted", "", "/say"): 1,
        ("Text", "refused", "invalid-input", "/say"): 1,
    }


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (HTTPException(418, "teapot"), "http-418"),
        (RuntimeError("boom"), "internal-error"),
        (MLGuardError("no"), "refused"),
    ],
)
def test_guards_of_the_app_itself_are_counted(error: Exception, rule: str) -> None:
    """What a guard of the app's own raises has a rule too, and not its text."""
    notebook = Notebook()
    app = FastAPI()
    harden(app)

    @app.get("/x", dependencies=[Depends(Refuses(error))])
    def endpoint() -> None:
        """Never reached."""

    install_metrics(app, to=notebook)
    call(app, "/x", method="GET")
    assert notebook.counts == {("Refuses", "refused", rule, "/x"): 1}


def test_paths_and_callers_make_no_series() -> None:
    """More paths and callers than there could be series make none."""
    notebook = Notebook()
    app = FastAPI()
    limit = RateLimit("1000000/minute", by=lambda conn: conn.headers.get("x-name", ""), store=MemoryStore())

    @app.get("/things/{name}", dependencies=[Depends(limit)])
    async def thing(name: str) -> None:
        """Nothing."""

    install_metrics(app, to=notebook, timed_per_second=1e6)

    async def attack() -> None:
        for number in range(2 * MAX_SERIES + 400):
            headers = [(b"x-name", b"caller-%d" % number)]
            where = "things" if number % 2 else "nowhere"
            await acall(app, f"/{where}/{number}-%0a%7b%22", method="GET", headers=headers)

    asyncio.run(attack())
    assert notebook.counts == {("RateLimit", "admitted", "", "/things/{name}"): MAX_SERIES + 200}
    assert len(notebook.numbers) == 2


def test_the_number_of_series_is_bounded_whatever_rules_are_called() -> None:
    """A guard that puts what callers send into its rule makes at most 1000 series, and one for the rest."""
    notebook = Notebook()

    class Leaky(Guard):
        control = Control.INPUT_VALIDATION

        async def __call__(self, conn: HTTPConnection) -> None:
            async def judge() -> None:
                error = MLGuardError("no")
                error.rule = conn.headers["x-name"]  # type: ignore[misc]  # what nobody should do
                raise error

            await once(conn, self, judge)

    app = FastAPI()
    harden(app)

    @app.get("/x", dependencies=[Depends(Leaky())])
    async def endpoint() -> None:
        """Never reached."""

    install_metrics(app, to=notebook)

    async def attack() -> None:
        for number in range(MAX_SERIES + 500):
            await acall(app, "/x", method="GET", headers=[(b"x-name", b"rule-%d" % number)])

    logging.getLogger("mlguard").disabled = True
    try:
        asyncio.run(attack())
    finally:
        logging.getLogger("mlguard").disabled = False
    assert len(notebook.counts) == MAX_SERIES + 1
    assert notebook.counts["other", "other", "other", "other"] == 500


@given(st.text())
def test_labels_are_short_and_printable(value: str) -> None:
    """Whatever is put into a label, it is one short line of ASCII."""
    shown = label(value)
    assert len(shown) <= 100
    assert shown.isascii()
    assert shown.isprintable() or not shown


def test_a_sample_of_the_requests_is_timed() -> None:
    """Of a burst, one request in each interval is timed; all are counted."""
    notebook = Notebook()
    app = service(notebook, timed_per_second=0.001)
    for _ in range(3):
        call(app, "/missing", method="GET", headers=CREDENTIALS)
    assert notebook.counts["APIKeyAuth", "admitted", "", "/missing"] == 3
    assert len(notebook.numbers[DURATION.name, ("APIKeyAuth",)]) == 1


def test_times_are_taken_again_after_the_interval() -> None:
    """The next interval has a timed request of its own."""
    from mlguard.monitoring._judged import Judged

    notebook, clock = Notebook(), Clock(100.0)
    judged = Judged([notebook], 2.0, clock)
    memory = RequestMemory()
    memory.timings = {}
    guard = APIKeyAuth(APIKeys([KEY]))
    memory.decisions[guard] = None
    memory.timings[guard] = 1_000
    for clock.now in (100.0, 100.4, 100.5, 100.9, 101.1):
        judged.record({"type": "http"}, memory)
    assert notebook.numbers[DURATION.name, ("APIKeyAuth",)] == [1e-6] * 3
    assert notebook.counts["APIKeyAuth", "admitted", "", ""] == 5


def test_counts_are_exact_in_threads() -> None:
    """Requests on several event loops at once are all counted, in one series."""
    notebook = Notebook()
    app = service(notebook)
    call(app, "/missing", method="GET", headers=CREDENTIALS)

    async def many() -> None:
        for _ in range(50):
            await acall(app, "/missing", method="GET", headers=CREDENTIALS)

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notebook.counts == {("APIKeyAuth", "admitted", "", "/missing"): 201}


def test_a_crash_of_the_endpoint_is_counted_for_its_guards() -> None:
    """Guards have decided also where the endpoint fails afterwards."""
    notebook = Notebook()
    app = FastAPI()
    harden(app)

    @app.get("/x", dependencies=[Depends(RateLimit("5/minute", store=MemoryStore()))])
    def crash() -> None:
        raise RuntimeError("boom")

    install_metrics(app, to=notebook)
    assert call(app, "/x", method="GET").status == 500
    assert notebook.counts == {("RateLimit", "admitted", "", "/x"): 1}


def test_websockets_are_counted_when_they_open() -> None:
    """A WebSocket counts at once, and one that is refused with its rule."""
    notebook = Notebook()
    app = FastAPI()
    harden(app)
    limit = RateLimit("1/minute", by=lambda _: "everybody", store=MemoryStore())
    when_open: list[dict[Values, int]] = []

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, _: Annotated[None, Depends(limit)]) -> None:
        await websocket.accept()
        when_open.append({**notebook.counts})
        await websocket.close()

    install_metrics(app, to=notebook)

    async def connect() -> list[str]:
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        scope = {**make_scope("GET", "/ws"), "type": "websocket", "subprotocols": [], "scheme": "ws"}
        await app(scope, receive, send)
        return sent

    assert asyncio.run(connect()) == ["websocket.accept", "websocket.close"]
    assert asyncio.run(connect()) == ["websocket.close"]
    assert when_open == [{("RateLimit", "admitted", "", "/ws"): 1}]
    assert notebook.counts == {
        ("RateLimit", "admitted", "", "/ws"): 1,
        ("RateLimit", "refused", "rate-limited", "/ws"): 1,
    }


def test_a_mounted_app_counts_once() -> None:
    """Where an app and one that is mounted in it are both measured, a request counts in the outer one."""
    outer, inner = Notebook(), Notebook()
    mounted = service(inner, hardened=False)
    app = FastAPI()
    harden(app)
    app.mount("/in", mounted)
    install_metrics(app, to=outer)
    call(app, "/in/missing", method="GET", headers=CREDENTIALS)
    assert outer.counts == {("APIKeyAuth", "admitted", "", "/missing"): 1}
    assert inner.counts == {}


def test_an_exporter_that_fails_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong with metrics is logged, and the answer is the answer."""

    class Broken(Notebook):
        def counter(self, metric: Metric, values: Values) -> Callable[[], None]:
            raise RuntimeError("the disk is full")

        def show(self, measurements: Sequence[Measurement]) -> None:
            raise RuntimeError("so it is")

    app = service(Broken())
    assert call(app, "/missing", method="GET", headers=CREDENTIALS).status == 404
    assert "a request was not measured" in caplog.text
    assert "metrics cannot be shown" in caplog.text
    call(app, "/missing", method="GET", headers=CREDENTIALS)
    assert caplog.text.count("a request was not measured") == 1


def test_what_goes_on_failing_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A disk that is full with every request does not fill the log too."""
    from mlguard.monitoring.metrics import _Complaints

    def fail() -> None:
        raise RuntimeError("the disk is full")

    clock = Clock(0.0)
    complaints = _Complaints("it fails", clock)
    for clock.now in (0.0, 1.0, 59.9, 60.0, 61.0):
        complaints.unless_works(fail)
    assert [record.getMessage() for record in caplog.records] == ["it fails"] * 2


def test_long_values_are_not_kept() -> None:
    """What a caller has put into a rule is cut before it is remembered; what is the same then is one series."""
    opened: list[tuple[str, ...]] = []

    def opener(values: tuple[str, ...]) -> Callable[[], None]:
        opened.append(values)
        return lambda: None

    series = Series[Callable[[], None]](opener, 1)
    tracemalloc.start()
    for number in range(20):
        series.of(("x" * 200_000 + str(number),))()
        series.of((f"{number}" + "x" * 200_000,))()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(opened) == 21
    assert kept < 200_000


def test_times_are_taken_only_of_the_sample() -> None:
    """Guards of a request that is not in the sample do not look at the clock."""
    taken: list[Any] = []

    class Looks:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            taken.append(RequestMemory.of(scope).timings)
            await self.app(scope, receive, send)

    app = FastAPI()
    harden(app)

    @app.get("/x", dependencies=[Depends(RateLimit("9/minute", store=MemoryStore()))])
    async def endpoint() -> None:
        """Nothing."""

    app.add_middleware(Looks)
    install_metrics(app, to=Notebook(), timed_per_second=0.001)
    for _ in range(3):
        call(app, "/x", method="GET")
    assert [timings is None for timings in taken] == [False, True, True]


def test_timings_of_somebody_else_stay() -> None:
    """Where another middleware has asked for times, both get them."""
    notebook = Notebook()
    app = service(notebook)
    kept: list[Any] = []

    class First:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            memory = RequestMemory.of(scope)
            memory.timings = {}
            kept.append(memory.timings)
            await self.app(scope, receive, send)

    app.add_middleware(First)
    call(app, "/missing", method="GET", headers=CREDENTIALS)
    assert len(kept[0]) == 1
    assert len(notebook.numbers[DURATION.name, ("APIKeyAuth",)]) == 1


def test_several_exporters_get_the_same() -> None:
    """A list of exporters is served alike."""
    notebooks = [Notebook(), Notebook()]
    app = FastAPI()

    @app.get("/x", dependencies=[Depends(RateLimit("5/minute", store=MemoryStore()))])
    def endpoint() -> None:
        """Nothing."""

    install_metrics(app, to=notebooks)
    assert call(app, "/x", method="GET").status == 200
    assert notebooks[0].counts == notebooks[1].counts == {("RateLimit", "admitted", "", "/x"): 1}
    assert len(notebooks[1].numbers[DURATION.name, ("RateLimit",)]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"to": []}, "install_metrics(to=...)"),
        ({"to": "prometheus"}, "install_metrics(to=...)"),
        ({"to": Notebook}, "install_metrics(to=...)"),
        ({"to": [Notebook(), None]}, "install_metrics(to=...)"),
        ({"watch": [object()]}, "object has no measurements()"),
        ({"watch": [Notebook]}, "Notebook has no measurements()"),
        ({"timed_per_second": 0}, "timed_per_second"),
        ({"timed_per_second": float("nan")}, "timed_per_second"),
        ({"timed_per_second": "5"}, "timed_per_second"),
        ({"every": 0}, "every"),
        ({"every": 61}, "every"),
        ({"every": True}, "every"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: dict[str, Any], told: str) -> None:
    """A wrong setting is an error that names it."""
    with pytest.raises(ConfigurationError) as error:
        install_metrics(FastAPI(), **{"to": Notebook(), **arguments})
    assert told in str(error.value)


def test_it_is_installed_once_and_in_time() -> None:
    """Twice, too late and on something that is no app are errors."""
    app = service(Notebook())
    with pytest.raises(ConfigurationError, match="twice"):
        install_metrics(app, to=Notebook())
    running = FastAPI()
    call(running, "/x")
    with pytest.raises(ConfigurationError, match="before the app serves"):
        install_metrics(running, to=Notebook())
    with pytest.raises(ConfigurationError, match="the app itself"):
        install_metrics(APIRouter(), to=Notebook())  # type: ignore[arg-type]  # a mistake


def test_nothing_is_counted_for_what_has_no_guards() -> None:
    """A request without guards makes no series."""
    notebook = Notebook()
    app = FastAPI()

    @app.get("/x")
    def endpoint(request: Request) -> None:
        """Nothing."""

    install_metrics(app, to=notebook)
    assert call(app, "/x", method="GET").status == 200
    assert call(app, "/nowhere", method="GET").status == 404
    assert notebook.counts == {}


def test_what_a_lockdown_refuses_is_counted() -> None:
    """Though no guard was asked."""
    notebook = Notebook()
    app = service(notebook)
    lockdown = Lockdown(store=MemoryStore())
    lockdown.install(app)

    async def shut() -> Answer:
        await lockdown.block_everything(by="tests")
        try:
            return await acall(app, "/models/iris/predict", headers=CREDENTIALS)
        finally:
            lockdown.stop()

    assert asyncio.run(shut()).status == 503
    assert [values for values in notebook.counts if "out-of-service" in values]
