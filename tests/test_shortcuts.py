"""Short cuts past FastAPI's solver: every answer is the one that FastAPI would have given."""

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

import fastapi.routing
import numpy as np
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from mlguard import APIKey, APIKeyAuth, APIKeys, Features, Principal, RateLimit, harden, request_id, truncate_output
from mlguard.memory_store import MemoryStore
from tests.asgi import Answer, acall, call

ALICE, ALICE_SECRET = APIKey.generate("alice", scopes={"predict"})
BOB, BOB_SECRET = APIKey.generate("bob")
KEY = (b"x-api-key", ALICE_SECRET.encode())
JSON = (b"content-type", b"application/json")
ROW = b'{"features": [1, 2]}'
Rows = np.ndarray[Any, np.dtype[np.float64]]


class Scored(BaseModel):
    """What the caller may see: not the secret."""

    probabilities: list[list[float]]


class Service:
    """A hardened app with one endpoint of each kind, and a way to have FastAPI do all of the work."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.caller = APIKeyAuth(APIKeys([ALICE, BOB]))
        self.features = Features(columns=2, low=0, high=9, max_rows=3)
        self.limit = RateLimit("100/minute", by=self.caller, name="all", store=MemoryStore(clock=lambda: 0.0))
        self.guards = [Depends(self.limit), Security(self.caller, scopes=["predict"])]
        self.seen: list[Any] = []
        self.router = APIRouter(prefix="/inner", dependencies=self.guards)
        self._add_plain()
        self._add_with_values()
        self._add_failing()
        outer = APIRouter(prefix="/outer")
        outer.include_router(self.router)
        self.app.include_router(outer)
        harden(self.app)

    def _add_plain(self) -> None:
        features = self.features

        @self.app.post("/async", dependencies=self.guards)
        @self.router.post("/async")
        @truncate_output
        async def asynchronous(x: Annotated[Rows, Depends(features)]) -> dict[str, Any]:
            return {"probabilities": x / 9}

        @self.app.post("/sync", dependencies=self.guards)
        @self.router.post("/sync", status_code=202)
        @truncate_output
        def synchronous(x: Annotated[Rows, Depends(features)]) -> Any:
            return {"probabilities": x / 9}

        @self.app.post("/modelled", dependencies=self.guards)
        @truncate_output
        def modelled(x: Annotated[Rows, Depends(features)]) -> Scored:
            return {"probabilities": x / 9, "secret": 1}  # type: ignore[return-value]  # what the model keeps back

        @self.app.get("/empty", dependencies=self.guards, status_code=204)
        @truncate_output
        async def empty() -> None: ...

    def _add_with_values(self) -> None:
        features, caller, limit = self.features, self.caller, self.limit

        @self.app.post("/values", dependencies=[Depends(features), Depends(limit)])
        @truncate_output
        async def values(  # noqa: PLR0917  # as many as an endpoint may take
            conn: HTTPConnection,
            request: Request,
            response: Response,
            x: Annotated[Rows, Depends(features)],
            same: Annotated[Rows, Depends(features)],
            who: Annotated[Principal, Security(caller, scopes=["predict"])],
            also: Annotated[Principal, Depends(caller)],
        ) -> Any:
            response.status_code = 207
            response.headers["x-mine"] = "yes"
            assert conn.url == request.url
            return {
                "who": [who.id, also.id],
                "same": x is same,
                "body": (await request.body()).decode(),
                "id": len(request_id(request)),
            }

        @self.app.get("/name", dependencies=[Depends(limit)])
        @truncate_output
        def name(who: Annotated[Principal, Depends(caller)]) -> Any:
            return who.id

    def _add_failing(self) -> None:
        @self.app.get("/teapot", dependencies=self.guards)
        @truncate_output
        def teapot() -> Any:
            raise HTTPException(418, "no coffee", {"x-pot": "1"})

        @self.app.get("/crash", dependencies=self.guards)
        @truncate_output
        async def crash() -> Any:
            raise ZeroDivisionError("the inside")

        @self.app.get("/nan", dependencies=self.guards)
        @truncate_output
        async def nan() -> Any:
            return {"probabilities": [float("nan")]}

    def by_fastapi(self) -> FastAPI:
        """The app, with FastAPI doing everything: an override of something that nothing depends on."""
        self.app.dependency_overrides[Service] = Service
        return self.app


def spell(answer: Answer) -> tuple[int, bytes, list[tuple[bytes, bytes]], int]:
    """An answer without its request id, which no two share."""
    headers = [header for header in answer.headers.raw if header[0] != b"x-request-id"]
    (own_id,) = [value for name, value in answer.headers.raw if name == b"x-request-id"]
    return answer.status, answer.body.replace(own_id, b"id"), headers, answer.reads


REQUESTS = [
    ("POST", path, headers, [body])
    for path in ("/async", "/outer/inner/async", "/sync", "/outer/inner/sync", "/modelled", "/values")
    for headers, body in (
        ([KEY, JSON], ROW),
        ([KEY, JSON], b'{"features": [[1, 2], [3, 4], [0, 9]]}'),
        ([KEY, JSON], b'{"features": [1, 10]}'),
        ([KEY, JSON], b'{"features": [1, NaN]}'),
        ([KEY, JSON], b""),
        ([KEY], ROW),
        ([JSON], ROW),
        ([(b"x-api-key", b"\xe9"), JSON], ROW),
        ([(b"x-api-key", BOB_SECRET.encode()), JSON], ROW),
        ([KEY, JSON], b" " * 2_000_000),
    )
] + [
    (method, path, headers, [b""])
    for path in ("/empty", "/name", "/teapot", "/crash", "/nan", "/async")
    for method in ("GET", "HEAD")
    for headers in ([KEY], [])
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "path", "headers", "chunks"), REQUESTS)
def test_answer_is_what_fastapi_gives(
    method: str,
    path: str,
    headers: list[tuple[bytes, bytes]],
    chunks: list[bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Status, body, headers, and how much of the request was read do not tell the short cut from the long way."""
    caplog.set_level(logging.CRITICAL)
    direct = call(Service().app, path, method=method, headers=headers, chunks=chunks)
    by_fastapi = call(Service().by_fastapi(), path, method=method, headers=headers, chunks=chunks)
    assert spell(direct) == spell(by_fastapi)


def test_values_come_from_the_guards() -> None:
    """An endpoint gets what it asks for, and what it sets on the response leaves."""
    answer = call(Service().app, "/values", headers=[KEY, JSON], chunks=[ROW])
    assert answer.json == {"who": ["alice", "alice"], "same": True, "body": ROW.decode(), "id": 16}
    assert (answer.status, answer.headers["x-mine"]) == (207, "yes")


def test_each_request_counts_once() -> None:
    """The guards of a direct route run before the body is read, and only then."""
    service = Service()
    left = [
        call(service.app, path, headers=[KEY, JSON], chunks=[ROW]).headers["ratelimit"].split(";")[1]
        for path in ("/async", "/values", "/outer/inner/sync")
    ]
    assert left == ["r=99", "r=98", "r=97"]


def test_override_comes_and_goes() -> None:
    """What a test puts into dependency_overrides is used from then on, and no longer once it is taken out."""
    service = Service()
    assert call(service.app, "/async", headers=[JSON], chunks=[ROW]).status == 401
    service.app.dependency_overrides |= {
        service.caller: lambda: Principal("tester", frozenset({"predict"})),
        service.features: lambda: np.array([[9.0, 0.0]]),
    }
    assert call(service.app, "/async", headers=[JSON], chunks=[b"?"]).json == {"probabilities": [[1.0, 0.0]]}
    service.app.dependency_overrides.clear()
    assert call(service.app, "/async", headers=[JSON], chunks=[ROW]).status == 401
    assert call(service.app, "/async", headers=[KEY, JSON], chunks=[ROW]).json == {"probabilities": [[0.11, 0.22]]}


def test_request_that_is_handed_on_meets_the_guards_of_the_new_route() -> None:
    """That one route has admitted it opens no other one."""
    service = Service()
    limit = RateLimit("1/hour", name="other", store=MemoryStore())

    @service.app.post("/open")
    async def open_to_all(request: Request) -> Any:
        scope = {**request.scope, "path": "/async", "raw_path": b"/async"}
        answers: list[Any] = []

        async def keep(message: Any) -> None:
            answers.append(message)

        await service.app.router(scope, request.receive, keep)
        return answers[0]["status"]

    @service.app.post("/limited", dependencies=[Depends(limit)])
    @truncate_output
    async def limited(request: Request) -> Any:
        return await open_to_all(request)

    for path in ("/open", "/limited"):
        assert call(service.app, path, headers=[JSON], chunks=[ROW]).body.startswith(b"401")
        assert call(service.app, path, headers=[KEY, JSON], chunks=[ROW]).status in {200, 429}


def test_app_that_starts_again_is_as_it_was() -> None:
    """Starting it for each test neither piles anything up nor undoes anything."""
    service = Service()

    async def start() -> None:
        events = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Message:
            return {"type": next(events)}

        async def send(message: Message) -> None: ...

        await service.app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    def parts() -> list[int]:
        return [id(getattr(route, name, None)) for route in service.app.routes for name in ("app", "dependant")]

    asyncio.run(start())
    once = parts()
    for _ in range(3):
        asyncio.run(start())
    assert parts() == once
    assert call(service.app, "/async", headers=[JSON], chunks=[ROW]).status == 401
    assert call(service.app, "/async", headers=[KEY, JSON], chunks=[ROW]).status == 200


def test_array_that_is_asked_for_without_cache_is_nobody_elses() -> None:
    """Whoever changes one in place does not change the other."""
    service = Service()
    fresh = Depends(service.features, use_cache=False)

    @service.app.post("/two")
    @truncate_output
    def two(x: Annotated[Rows, fresh], y: Annotated[Rows, fresh]) -> Any:
        x += 1
        return y

    assert call(service.app, "/two", headers=[JSON], chunks=[ROW]).json == [[1.0, 2.0]]


def test_handler_of_the_apps_own_can_read_the_body_again() -> None:
    """The request that an exception handler gets is the one that the endpoint got."""
    service = Service()

    @service.app.post("/picky")
    @truncate_output
    def picky(x: Annotated[Rows, Depends(service.features)]) -> Any:
        raise LookupError("no such flower")

    @service.app.exception_handler(LookupError)
    async def show(request: Request, error: LookupError) -> Response:
        return Response(await request.body(), 409)

    answer = call(service.app, "/picky", headers=[JSON], chunks=[ROW])
    assert (answer.status, answer.body) == (409, ROW)


# Where FastAPI has more to do ----------------------------------------------------------------------------------------


def test_route_class_of_the_apps_own_sees_its_requests() -> None:
    """A custom route class wraps the handler, and goes on to."""

    class Timed(APIRoute):
        def get_route_handler(self) -> Any:
            original = super().get_route_handler()

            async def handler(request: Request) -> Response:
                response: Response = await original(request)
                response.headers["x-timed"] = "1"
                return response

            return handler

    app = FastAPI()
    app.router.route_class = Timed
    add_name(app)
    harden(app)
    assert call(app, method="GET").headers["x-timed"] == "1"


def test_wrapped_route_stays_wrapped() -> None:
    """An ASGI app that somebody has put around one route, to shut it for example, goes on to be asked."""
    app = FastAPI()
    add_name(app)
    route: Any = app.routes[-1]
    inner = route.app

    async def shut(scope: Scope, receive: Receive, send: Send) -> None:
        await (inner if scope["client"][0] == "10.0.0.1" else Response(status_code=403))(scope, receive, send)

    route.app = functools.wraps(inner)(shut)
    harden(app)
    assert call(app, method="GET").status == 403
    assert call(app, method="GET", client=("10.0.0.1", 1)).json == "alice"


def test_patched_route_class_stays_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does what somebody has put in the place of a method of FastAPI's own route class."""
    original = APIRoute.get_route_handler

    def get_route_handler(self: APIRoute) -> Any:
        handler = original(self)

        async def marked(request: Request) -> Response:
            response = await handler(request)
            response.headers["x-marked"] = "1"
            return response

        return marked

    monkeypatch.setattr(APIRoute, "get_route_handler", get_route_handler)
    app = FastAPI()
    add_name(app)
    harden(app)
    assert call(app, method="GET").headers["x-marked"] == "1"


@pytest.fixture(params=["get_request_handler", "run_endpoint_function"])
def tracer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a tracer that has replaced a function of FastAPI's has seen."""
    seen: list[str] = []
    original: Callable[..., Any] = getattr(fastapi.routing, request.param)

    @functools.wraps(original)
    def traced(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if request.param == "run_endpoint_function":
            seen.append("request")
            return result

        async def handler(asked: Request) -> Any:
            seen.append("request")
            return await result(asked)

        return handler

    monkeypatch.setattr(fastapi.routing, request.param, traced)
    return seen


def test_tracer_inside_of_fastapi_sees_requests(tracer: list[str]) -> None:
    """Tracers put functions of their own in the place of FastAPI's: they must go on to be called."""
    app = FastAPI()
    add_name(app)
    harden(app)
    assert call(app, method="GET").json == "alice"
    assert tracer == ["request"]


def test_request_that_fastapi_traces_goes_through_fastapi(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI's own record of the steps of a request stays complete."""
    app = FastAPI()
    add_name(app)
    harden(app)
    steps: list[str] = []
    original = fastapi.routing.__dict__["solve_dependencies"]
    monkeypatch.setattr(fastapi.routing, "solve_dependencies", note_call(steps, original))
    assert call(app, method="GET").json == "alice"
    assert steps == []
    assert asyncio.run(traced(app)).json == "alice"
    assert steps == ["called"]


async def traced(app: FastAPI) -> Answer:
    """A request of which FastAPI keeps a record: it marks the scope."""

    async def marking(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "fastapi.telemetry": None}, receive, send)

    return await acall(marking, method="GET")


def note_call(steps: list[str], function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def noted(*args: Any, **kwargs: Any) -> Any:
        steps.append("called")
        return await function(*args, **kwargs)

    return noted


def add_name(app: FastAPI) -> None:
    """The smallest endpoint that could be called directly."""

    @app.get("/predict")
    @truncate_output
    async def predict() -> Any:
        return "alice"


def test_endpoint_that_needs_more_gets_it() -> None:
    """Parameters, background tasks, dependencies of the app's own and with clean-up, decorators on top."""
    service = Service()
    app, seen = service.app, service.seen

    def resource() -> Iterator[str]:
        yield "open"
        seen.append("closed")

    def shout(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @functools.wraps(endpoint)
        async def louder(*args: Any, **kwargs: Any) -> Any:
            seen.append("loud")
            return await endpoint(*args, **kwargs)

        return louder

    @app.post("/more/{name}", dependencies=service.guards)
    @shout
    @truncate_output
    async def more(
        name: str,
        times: int,
        tasks: BackgroundTasks,
        x: Annotated[Rows, Depends(service.features)],
        state: Annotated[str, Depends(resource)],
    ) -> Any:
        tasks.add_task(seen.append, "task")
        return [name, times, state, x[0, 0]]

    answer = call(app, "/more/iris?times=3", headers=[KEY, JSON], chunks=[ROW])
    assert answer.json == ["iris", 3, "open", 1.0]
    assert set(seen) == {"loud", "task", "closed"}
    assert call(app, "/more/iris?times=x", headers=[KEY, JSON], chunks=[ROW]).status == 422
    assert call(app, "/more/iris?times=3", headers=[JSON], chunks=[ROW]).reads == 0


def test_reader_of_the_apps_own_that_needs_more_gets_it() -> None:
    """A subclass of Features may take what any dependency may take."""

    class Scaled(Features):
        async def __call__(  # type: ignore[override]
            self, request: Request, scale: float, who: Annotated[Principal, Depends(Service().caller)]
        ) -> Any:
            return await super().__call__(request) * scale

    service = Service()
    scaled = Scaled(columns=2, low=0, high=9, max_rows=3)

    @service.app.post("/scaled")
    @truncate_output
    async def predict(x: Annotated[Rows, Depends(scaled)]) -> Any:
        return x

    answer = call(service.app, "/scaled?scale=2", headers=[KEY, JSON], chunks=[ROW])
    assert answer.json == [[2.0, 4.0]]


@pytest.mark.parametrize("path", ["/direct", "/body", "/value"])
def test_guards_that_are_to_run_one_at_a_time_do(path: str) -> None:
    """``Depends(..., max_concurrency=1)`` of newer FastAPIs holds, and nobody waits for a turn that they have."""
    if "max_concurrency" not in inspect.signature(Depends).parameters:
        pytest.skip("this FastAPI has no such limit")
    inside, most = 0, 0

    class LookedUp(APIKeyAuth):
        async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            return await super().__call__(conn, security_scopes)

    app = FastAPI()
    keys = APIKeys([ALICE])
    guards: list[Any] = [LookedUp(keys), APIKeyAuth(keys, header="X-API-Key")]
    one, other = (Depends(guard, max_concurrency=1) for guard in guards)  # type: ignore[call-arg,unused-ignore]  # newer

    @app.post("/direct", dependencies=[one, other])
    @truncate_output
    async def direct() -> Any:
        return "alice"

    @app.post("/body", dependencies=[one, other])
    async def body(rows: list[int]) -> str:
        return "alice"

    @app.post("/value")
    async def value(who: Annotated[Principal, one], also: Annotated[Principal, other]) -> str:
        return who.id

    harden(app)

    async def together() -> list[Answer]:
        calls = [acall(app, path, headers=[KEY, JSON], chunks=[b"[1]"]) for _ in range(5)]
        return await asyncio.wait_for(asyncio.gather(*calls), 30)

    assert [answer.json for answer in asyncio.run(together())] == ["alice"] * 5
    assert most == 1


def test_route_with_a_limit_on_its_body_keeps_it() -> None:
    """A smaller ``max_body_size`` of one route, where FastAPI has it, is FastAPI's to enforce."""
    if "max_body_size" not in inspect.signature(APIRoute).parameters:
        pytest.skip("this FastAPI has no such limit")
    service = Service()

    @service.app.post("/small", max_body_size=10)
    @truncate_output
    async def predict(x: Annotated[Rows, Depends(service.features)]) -> Any:
        return x

    assert call(service.app, "/small", headers=[JSON], chunks=[ROW]).status == 413
