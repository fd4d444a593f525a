"""Ways around the guards that somebody has tried, each shut."""

import asyncio
import functools
import gc
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Annotated, Any

import orjson
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Security
from fastapi.security import SecurityScopes
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    Features,
    InsufficientScopeError,
    NotAuthenticatedError,
    Principal,
    ProofOfWork,
    QueryBudget,
    RateLimit,
    SignatureAuth,
    harden,
    truncate_output,
)
from mlguard._body import IncomingBody
from mlguard._guard import RequestMemory
from mlguard.memory_store import MemoryStore
from mlguard.store import Decision
from tests.asgi import acall, call, make_scope

RECORD, SECRET = APIKey.generate("alice", scopes={"predict"})
KEY = (b"x-api-key", SECRET.encode())
WRONG = (b"x-api-key", b"wrong")
JSON = (b"content-type", b"application/json")
BODY = b'{"features": [1]}'
Next = Callable[[Request], Awaitable[Any]]


class Numbers(BaseModel):
    features: list[float]


class LookedUp(APIKeyAuth):
    """A guard of the app's own that waits, as one with a database does, and does not say so."""

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        await asyncio.sleep(0)
        return await super().__call__(conn, security_scopes)


async def poll(request: Request) -> None:
    await request.is_disconnected()


async def watch(request: Request) -> None:
    watcher = asyncio.ensure_future(request.receive())
    watcher.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, so nobody complains
    await asyncio.sleep(0)


@pytest.mark.parametrize("header", [[], [WRONG]])
@pytest.mark.parametrize("first", [poll, watch])
def test_guard_that_waits_is_not_overtaken(
    first: Callable[[Request], Awaitable[None]], header: list[tuple[bytes, bytes]]
) -> None:
    """A verdict that is still being reached, or was cut short, is not taken for an admission."""
    caller = LookedUp(APIKeys([RECORD]))
    app = FastAPI()

    @app.post("/predict", dependencies=[Depends(first), Depends(caller)])
    async def predict(request: Request) -> str:
        return "reached"

    harden(app)
    assert call(app, headers=header, chunks=[BODY, BODY]).status == 401


class Yielding(MemoryStore):
    """A store that waits at each hit."""

    suspends = True

    async def hit(self, bucket: str, caller: bytes, windows: Any, cost: int) -> Decision:
        await asyncio.sleep(0)
        return await super().hit(bucket, caller, windows, cost)


class Impatient(RateLimit):
    """A limit with a time-out of the app's own, which on Python 3.11 runs in a task of its own."""

    async def __call__(self, conn: HTTPConnection, who: Any = None, costing: Any = None) -> None:
        await asyncio.wait_for(super().__call__(conn, who), 5)


def test_guard_may_wait_in_a_task_of_its_own() -> None:
    """A guard that is asked from inside the run of all guards does not wait for that run."""
    app = FastAPI()

    @app.post("/predict", dependencies=[Depends(Impatient("1/minute", store=Yielding()))])
    async def predict() -> None: ...

    harden(app)
    assert [call(app).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("direct", [True, False])
def test_app_mounted_in_an_included_router(direct: bool) -> None:
    """Its routes are found: no body is read of a refused request, and the response model is applied."""

    class Public(BaseModel):
        score: float

    inner = FastAPI()

    @inner.post("/predict", response_model=Public, dependencies=[Depends(APIKeyAuth(APIKeys([RECORD])))])
    @truncate_output
    async def predict(body: Numbers) -> Any:
        return {"score": 0.123456, "secret": "inside"}

    app, router = FastAPI(), APIRouter()
    (app if direct else router).mount("/sub", inner)
    app.include_router(router, prefix="/v1")
    harden(app)
    path = "/sub/predict" if direct else "/v1/sub/predict"
    refused = call(app, path, headers=[JSON], chunks=[BODY])
    if refused.status == 404:
        pytest.skip("include_router leaves mounts out in FastAPI before 0.137")
    assert (refused.status, refused.reads) == (401, 0)
    assert call(app, path, headers=[JSON, KEY], chunks=[BODY]).json == {"score": 0.12}


def test_guard_asked_around_a_hardened_app_leaves_it_hardened() -> None:
    """Somebody outside who asks one guard does not switch the limits and headers off."""
    limit = RateLimit("9/minute", store=MemoryStore())
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> int:
        return len(await request.body())

    harden(app, max_body_size=10)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        await limit(HTTPConnection(scope))
        await app(scope, receive, send)

    answer = call(outer, chunks=[b"x" * 6] * 2, declared=False)
    assert answer.status == 413
    assert answer.headers["x-frame-options"] == "DENY"
    assert '"9/minute";r=8' in answer.headers["ratelimit"]


@pytest.mark.parametrize(("headers", "status", "reads"), [([], 401, 0), ([KEY], 413, 2)])
def test_middleware_that_reads_after_the_answer_is_limited(
    headers: list[tuple[bytes, bytes]], status: int, reads: int
) -> None:
    """An audit middleware cannot be made to collect what the guards have refused, or more than the limit."""
    app = FastAPI()

    async def audit(request: Request, call_next: Next) -> Any:
        response = await call_next(request)
        await request.body()
        return response

    @app.post("/predict", dependencies=[Depends(APIKeyAuth(APIKeys([RECORD])))])
    async def predict() -> None: ...

    app.add_middleware(BaseHTTPMiddleware, dispatch=audit)
    harden(app, max_body_size=10)
    answer = call(app, headers=headers, chunks=[b"x" * 6] * 5, declared=False)
    assert (answer.status, answer.reads) == (status, reads)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("through", ["app", "router"])
def test_request_handed_on_with_other_headers_is_another_request(through: str, in_place: bool) -> None:
    """A batch endpoint that hands its scope on vouches for nobody."""
    caller = APIKeyAuth(APIKeys([RECORD]))
    app = FastAPI()
    target: ASGIApp = app if through == "app" else app.router

    @app.get("/who", dependencies=[Depends(RateLimit("1/minute", by=caller, store=MemoryStore()))])
    async def who(principal: Principal = Security(caller, scopes=["predict"])) -> str:  # noqa: B008  # FastAPI's way
        return principal.id

    @app.post("/batch", dependencies=[Depends(caller)])
    async def batch(request: Request) -> list[int]:
        statuses = []
        for key in (KEY, WRONG):
            headers = request.scope["headers"] if in_place else []
            headers[:] = [key]
            sub = {**request.scope, "path": "/who", "raw_path": b"/who", "method": "GET", "headers": headers}
            statuses.append(await hand_on(target, sub))
        return statuses

    harden(app)
    assert call(app, "/batch", headers=[KEY]).json == [200, 401]


def test_headers_of_another_kind_are_the_same_request() -> None:
    """A server may give a tuple, of which Starlette makes a list when somebody looks at a header."""
    app = FastAPI()

    async def look(request: Request) -> None:
        assert "x-api-key" in request.headers

    limit = RateLimit("1/minute", by=APIKeyAuth(APIKeys([RECORD])), store=MemoryStore())
    features = Features(columns=1, low=0, high=1, max_rows=1)

    @app.post("/predict", dependencies=[Depends(limit), Depends(look), Depends(features)])
    async def predict() -> None: ...

    harden(app)

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "headers": tuple(scope["headers"])}, receive, send)

    assert call(server, headers=[KEY, JSON], chunks=[BODY]).status == 200


@pytest.mark.parametrize("headers", [[JSON], [JSON, KEY]])
@pytest.mark.parametrize("decorate", [truncate_output, lambda endpoint: endpoint])
def test_request_is_freed_at_once(headers: list[tuple[bytes, bytes]], decorate: Callable[[Any], Any]) -> None:
    """Bodies do not pile up until Python's collector of cycles happens to come by."""
    app = FastAPI()

    @app.post("/predict", dependencies=[Depends(APIKeyAuth(APIKeys([RECORD])))])
    @decorate
    async def predict(x: Annotated[Any, Depends(Features(columns=1, low=0, high=1, max_rows=1))]) -> None: ...

    harden(app)

    async def session() -> int:
        await acall(app, headers=headers, chunks=[BODY])
        gc.collect()
        others = kept()  # by errors that other tests hold
        gc.disable()
        try:
            for _ in range(3):
                await acall(app, headers=headers, chunks=[BODY])
            return kept() - others
        finally:
            gc.enable()

    def kept() -> int:
        return sum(isinstance(thing, RequestMemory | IncomingBody) for thing in gc.get_objects())

    assert asyncio.run(session()) == 0


@pytest.mark.parametrize("through", ["app", "router"])
def test_request_handed_on_to_another_route_meets_its_guards(through: str) -> None:
    """What one route's guards have admitted is not admitted to another route, and counts there too."""
    caller = APIKeyAuth(APIKeys([RECORD]))
    limit = RateLimit("1/minute", by=caller, store=MemoryStore())
    app = FastAPI()
    target: ASGIApp = app if through == "app" else app.router

    @app.get("/admin", dependencies=[Security(caller, scopes=["admin"]), Depends(limit)])
    @app.get("/mine", dependencies=[Security(caller, scopes=["predict"]), Depends(limit)])
    async def reached() -> None: ...

    @app.post("/forward", dependencies=[Depends(caller)])
    async def forward(request: Request) -> list[int]:
        statuses = []
        for path in ("/admin", "/mine", "/mine"):
            sub = {**request.scope, "path": path, "raw_path": path.encode(), "method": "GET"}
            statuses.append(await hand_on(target, sub))
        return statuses

    harden(app)
    first, *rest = call(app, "/forward", headers=[KEY]).json
    assert first == 403
    # By the router alone, all is one request and counts once.
    assert rest == ([200, 429] if through == "app" else [200, 200])


async def hand_on(target: ASGIApp, scope: Scope) -> int:
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await target(scope, receive, send)
    return int(messages[0]["status"])


def test_debug_in_a_mounted_app_stops_the_start() -> None:
    """It would send tracebacks from inside a hardened app."""
    app = FastAPI()
    app.mount("/sub", FastAPI(debug=True))
    harden(app)
    with pytest.raises(ConfigurationError, match="debug"):
        call(app)


def test_mounted_app_that_is_not_hardened_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Its own error pages and documentation stay as they are, so the operator is told."""
    app, hardened = FastAPI(), FastAPI()
    app.mount("/bare", FastAPI())
    app.mount("/fine", hardened)
    app.mount("/other", JSONResponse({}))
    harden(hardened)
    harden(app)
    call(app, "/nowhere")
    assert [record.message for record in caplog.records if "harden it too" in record.message] == [
        "the app mounted at /bare has its own errors and documentation pages: harden it too"
    ]


def test_middleware_of_a_hardened_mounted_app_does_not_wrap_refusals() -> None:
    """Also there, a refusal is a 401 and not FastAPI's 400 about a body that cannot be read."""
    inner, app = FastAPI(), FastAPI()

    async def passing(request: Request, call_next: Next) -> Any:
        return await call_next(request)

    @inner.post("/predict", dependencies=[Depends(APIKeyAuth(APIKeys([RECORD])))])
    async def predict(body: Numbers) -> int:
        return len(body.features)

    inner.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    harden(inner)
    app.mount("/sub", inner)
    harden(app, max_body_size=20)
    refused = call(app, "/sub/predict", headers=[JSON], chunks=[BODY])
    assert (refused.status, refused.reads) == (401, 0)
    assert call(app, "/sub/predict", headers=[JSON, KEY], chunks=[BODY]).json == 1
    too_large = call(app, "/sub/predict", headers=[JSON, KEY], chunks=[BODY, b" " * 9], declared=False)
    assert too_large.status == 413


class Replaying:
    """A middleware that reads the whole body and repeats it, as body-logging ones do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []
        while not messages or messages[-1].get("more_body"):
            messages.append(await receive())

        async def again() -> Message:
            return messages.pop(0)

        await self.app(scope, again, send)


def test_refusal_in_a_group_is_still_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """A middleware that reads through a task group wraps the 413; it is unwrapped, and no crash."""
    app = FastAPI()

    async def passing(request: Request, call_next: Next) -> Any:
        return await call_next(request)

    app.add_middleware(Replaying)
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    harden(app, max_body_size=10)
    assert call(app, chunks=[b"x" * 6] * 3, declared=False).status == 413
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("settings", [{"max_body_size": 10}, {"body_timeout": 1e-9}])
def test_stream_that_ignores_its_body_is_not_cut_off(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Starlette reads on to notice that the client has gone; that is nobody's body any more."""
    released = asyncio.Event()

    async def session() -> bytes:
        app = FastAPI()

        @app.post("/predict")
        async def predict() -> StreamingResponse:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"first "
                await released.wait()
                yield b"last"

            return StreamingResponse(pieces())

        harden(app, **settings)
        sent: list[bytes] = []
        reads = 0

        async def receive() -> Message:
            nonlocal reads
            reads += 1
            if reads == 2:
                released.set()
                await asyncio.Event().wait()
            return {"type": "http.request", "body": b"12345", "more_body": True}

        async def send(message: Message) -> None:
            sent.append(message.get("body", b""))

        await app(make_scope("POST", "/predict", [(b"transfer-encoding", b"chunked")]), receive, send)
        return b"".join(sent)

    assert asyncio.run(session()) == b"first last"
    assert not caplog.records


def test_refused_body_is_not_read_after_the_answer() -> None:
    """Who goes on reading after a refusal has been sent learns that the client has gone."""
    app = FastAPI()
    seen: list[str] = []

    @app.post("/predict")
    async def predict(request: Request) -> None:
        await request.body()

    class Reading:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)
            seen.append((await receive())["type"])

    app.add_middleware(Reading)
    harden(app, max_body_size=10)
    assert call(app, chunks=[b"x" * 6] * 9, declared=False).status == 413
    assert seen == ["http.disconnect"]


def test_body_that_is_read_after_the_answer_has_begun_is_limited() -> None:
    """Nothing can be refused any more, so the reader is told that its client has gone."""
    app = FastAPI()
    seen: list[str] = []

    class Answering:
        def __init__(self, app: ASGIApp) -> None: ...

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            seen.extend([(await receive())["type"] for _ in range(4)])
            await send({"type": "http.response.body", "body": b""})

    app.add_middleware(Answering)
    harden(app, max_body_size=10)
    call(app, chunks=[b"x" * 6] * 9, declared=False)
    assert seen == ["http.request", "http.disconnect", "http.disconnect", "http.disconnect"]


def test_body_timeout_counts_waiting_only() -> None:
    """An app that takes its time between two pieces does not use up its client's."""

    async def session() -> int:
        app = FastAPI()

        @app.post("/predict")
        async def predict(request: Request) -> int:
            total = 0
            async for chunk in request.stream():
                total += len(chunk)
                await asyncio.sleep(0.02)
            return total

        harden(app, body_timeout=0.05)
        return (await acall(app, chunks=[b"x"] * 6)).status

    assert asyncio.run(session()) == 200


def test_length_beside_chunked_is_not_believed() -> None:
    """A small Content-Length beside Transfer-Encoding does not make the rest of the body look small."""
    answer = call(
        harden_bare(FastAPI()), "/nowhere", headers=[(b"content-length", b"3")], chunks=[b"x"] * 3, declared=False
    )
    assert answer.headers["connection"] == "close"


def harden_bare(app: FastAPI) -> FastAPI:
    harden(app)
    return app


def test_address_cannot_forge_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that believes X-Forwarded-For can make any text the address."""
    caplog.set_level(logging.INFO, logger="mlguard")
    call(harden_bare(FastAPI()), "/nowhere", client=("1.1.1.1\x85refused \n forged" + "y" * 9_000, 1))
    (message,) = caplog.messages
    assert "\x85" not in message
    assert "\n" not in message
    assert len(message) < 500


CALLER = APIKeyAuth(APIKeys([RECORD]))


async def alone(who: Principal) -> None: ...
async def optional(who: Principal | None = None) -> None: ...
async def default(who: Principal = CALLER) -> None: ...  # type: ignore[assignment]
async def untyped(limit=RateLimit("1/minute")) -> None: ...  # type: ignore[no-untyped-def]  # noqa: B008
async def annotated(who: Annotated[Principal, CALLER]) -> None: ...
async def rows(x: Annotated[list[float], Features(columns=1, low=0, high=1, max_rows=1)]) -> None: ...
async def below(_: Annotated[None, Depends(alone)]) -> None: ...


@pytest.mark.parametrize("endpoint", [alone, optional, default, untyped, annotated, rows, below])
def test_forgotten_depends_stops_the_start(endpoint: Callable[..., Any]) -> None:
    """FastAPI would read the principal from the body, where anybody can be root."""
    app = FastAPI()
    app.post("/predict")(endpoint)
    harden(app)
    with pytest.raises(ConfigurationError, match=r"/predict: '(who|limit|x)' .* Depends"):
        call(app, headers=[JSON], chunks=[b'{"id": "root", "scopes": ["admin"]}'])


def test_wrapped_call_of_a_guard_stops_the_start() -> None:
    """FastAPI before 0.123 would not await that either."""

    def passing(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def passed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return passed

    class Wrapped(APIKeyAuth):
        __call__ = passing(APIKeyAuth.__call__)

    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(Wrapped(APIKeys([RECORD])))])
    async def predict() -> None: ...

    harden(app)
    with pytest.raises(ConfigurationError, match=r"Wrapped\.__call__"):
        call(app, method="GET")


class Sync(APIKeyAuth):
    """A guard of the app's own that FastAPI runs in a thread."""

    def __call__(self, conn: HTTPConnection) -> Principal:  # type: ignore[override]
        if "x-api-key" not in conn.headers:
            raise NotAuthenticatedError(challenge="APIKey")
        return RECORD.principal


class CleaningUp(APIKeyAuth):
    """A guard of the app's own that has something to clean up after the answer."""

    async def __call__(self, conn: HTTPConnection) -> AsyncIterator[Principal]:  # type: ignore[override]
        if "x-api-key" not in conn.headers:
            raise NotAuthenticatedError(challenge="APIKey")
        yield RECORD.principal


@pytest.mark.parametrize("kind", [Sync, CleaningUp])
@pytest.mark.parametrize("decorate", [truncate_output, lambda endpoint: endpoint])
def test_guard_of_the_apps_own_may_be_any_kind_of_dependency(
    kind: type[APIKeyAuth], decorate: Callable[[Any], Any]
) -> None:
    """A plain function or a generator is called as FastAPI calls it."""
    caller = kind(APIKeys([RECORD]))
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(RateLimit("9/minute", by=caller, store=MemoryStore()))])
    @decorate
    async def predict(who: Annotated[Principal, Depends(caller)]) -> str:
        return who.id

    harden(app)
    assert call(app, method="GET").status == 401
    assert call(app, method="GET", headers=[KEY]).json == "alice"


class AnyScope(APIKeyAuth):
    """A guard of the app's own for which one of several scopes is enough."""

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        principal = await super().__call__(conn, SecurityScopes())
        if principal.scopes.isdisjoint(security_scopes.scopes):
            raise InsufficientScopeError
        return principal


@pytest.mark.parametrize("decorate", [truncate_output, lambda endpoint: endpoint])
@pytest.mark.parametrize(("scopes", "status"), [({"admin"}, 403), ({"predict"}, 200)])
def test_guard_of_the_apps_own_may_read_scopes_in_its_own_way(
    decorate: Callable[[Any], Any], scopes: set[str], status: int
) -> None:
    """Each use of it is asked, before anything counts: the larger set may hold where the smaller one does not."""
    record, secret = APIKey.generate("bob", scopes=scopes)
    caller = AnyScope(APIKeys([record]))
    limit = RateLimit("2/minute", store=MemoryStore())
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(limit), Security(caller, scopes=["predict", "admin"])])
    @decorate
    async def predict(who: Annotated[Principal, Security(caller, scopes=["predict"])]) -> None: ...

    router = APIRouter(dependencies=[Security(caller, scopes=["predict"])])

    @router.get("/both", dependencies=[Security(caller, scopes=["predict", "admin"])])
    @decorate
    async def both() -> None: ...

    app.include_router(router)
    harden(app)
    key = (b"x-api-key", secret.encode())
    paths = ["/both", "/predict", "/predict"]
    if status == 403:
        paths *= 2  # a refusal uses nothing up
    assert {call(app, path, method="GET", headers=[key]).status for path in paths} == {status}


def test_guard_of_the_apps_own_may_set_a_context_variable() -> None:
    """It runs where its endpoint does, as any dependency: who logs the caller in this way finds it."""
    current: ContextVar[str] = ContextVar("current", default="nobody")

    class Naming(APIKeyAuth):
        async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
            principal = await super().__call__(conn, security_scopes)
            current.set(principal.id)
            return principal

    caller = Naming(APIKeys([RECORD]))
    app = FastAPI()

    @app.get("/direct", dependencies=[Depends(RateLimit("9/minute", by=caller, store=MemoryStore()))])
    @truncate_output
    async def direct() -> Any:
        return current.get()

    @app.get("/sync", dependencies=[Depends(caller)])
    def sync() -> str:
        return current.get()

    harden(app)
    assert [call(app, path, method="GET", headers=[KEY]).json for path in ("/direct", "/sync")] == ["alice"] * 2


@pytest.mark.parametrize(
    "limit",
    [
        functools.partial(RateLimit, "1/minute"),
        functools.partial(QueryBudget, "1/day"),
        functools.partial(ProofOfWork, "1/minute", secret=secrets.token_bytes(32)),
    ],
)
def test_apps_in_one_process_share_no_unnamed_bucket(limit: Callable[..., Any]) -> None:
    """Two apps with keys of their own and an "alice" each do not use up each other's limit."""

    def make() -> FastAPI:
        app = FastAPI()

        @app.get("/predict", dependencies=[Depends(limit(by=APIKeyAuth(APIKeys([RECORD]))))])
        async def predict() -> None: ...

        return app

    assert [call(make(), method="GET", headers=[KEY]).status for _ in range(3)] == [200] * 3


def test_partial_of_a_guard_stops_the_start() -> None:
    """FastAPI before 0.123 would not await it, and nobody would be refused."""
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(functools.partial(APIKeyAuth(APIKeys([RECORD]))))])
    async def predict() -> None: ...

    harden(app)
    with pytest.raises(ConfigurationError, match="partial"):
        call(app, method="GET")


def test_overrides_of_the_app_that_owns_a_route_hold_in_another() -> None:
    """An app that borrows another one's routes does not change whose overrides count."""
    caller = APIKeyAuth(APIKeys([RECORD]))
    owner = FastAPI()

    @owner.get("/predict", dependencies=[Depends(caller)])
    async def predict() -> None: ...

    borrower = FastAPI(routes=list(owner.routes))
    harden(borrower)
    assert call(borrower, method="GET").status == 401
    owner.dependency_overrides[caller] = lambda: None
    assert call(owner, method="GET").status == 200


def test_scope_from_an_unknown_server_is_refused_by_a_guard_that_finds_no_route() -> None:
    """A guard that is called by hand, outside of any app, decides by itself."""

    async def session() -> str:
        guard = SignatureAuth({"robot": "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs"}, store=MemoryStore())
        try:
            await guard(HTTPConnection(make_scope("GET", "/")), SecurityScopes())
        except Exception as refusal:
            return type(refusal).__name__
        return "admitted"

    assert asyncio.run(session()) == "NotAuthenticatedError"


def test_openapi_of_unusual_apps() -> None:
    """A guard with a status of its own, and models that have the names of FastAPI's and ours, are left alone."""

    class Paying(APIKeyAuth):
        statuses = (401, 402)

    class Problem(BaseModel):
        mine: int

    class ValidationError(BaseModel):
        also_mine: int

    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(Paying(APIKeys([RECORD])))], responses={409: {"model": ValidationError}})
    async def predict() -> Problem:
        return Problem(mine=1)

    harden(app, docs=True)
    schema = orjson.loads(call(app, "/openapi.json", method="GET").body)
    assert schema["paths"]["/predict"]["get"]["responses"]["402"]["description"] == "Payment Required"
    assert list(schema["components"]["schemas"]["Problem"]["properties"]) == ["mine"]
    assert list(schema["components"]["schemas"]["ValidationError"]["properties"]) == ["also_mine"]


def test_request_id_of_the_app_is_replaced() -> None:
    """Two ids in one answer would be one too many."""
    app = FastAPI()

    @app.get("/predict")
    async def predict() -> JSONResponse:
        return JSONResponse({}, headers={"X-Request-ID": "mine"})

    harden(app)
    (request_id,) = call(app, method="GET").headers.getlist("x-request-id")
    assert request_id != "mine"
