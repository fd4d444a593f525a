"""A refused request has none of its body read, however the endpoint declares it and wherever the route is."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import APIRouter, Depends, FastAPI, File, Form, Request, Security, UploadFile
from fastapi.security import SecurityScopes
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    FeatureMatrix,
    Features,
    Principal,
    RateLimit,
    SignatureAuth,
    _plans,
    harden,
)
from mlguard.memory_store import MemoryStore
from mlguard.store import Decision
from tests.asgi import Answer, acall, call

RECORD, SECRET = APIKey.generate("alice", scopes={"predict"})
KEY = (b"x-api-key", SECRET.encode())
JSON = (b"content-type", b"application/json")
FORM = (b"content-type", b"application/x-www-form-urlencoded")
MULTIPART = (b"content-type", b"multipart/form-data; boundary=x")


class Numbers(BaseModel):
    features: list[float]


class Service:
    """One app with an endpoint for every way to declare a body, all behind the same guards."""

    def __init__(self, *, store: MemoryStore | None = None) -> None:
        self.caller = APIKeyAuth(APIKeys([RECORD]))
        self.limit = RateLimit("3/minute", by=self.caller, store=store or MemoryStore())
        self.ran: list[str] = []
        self.guards = [Security(self.caller, scopes=["predict"]), Depends(self.limit)]
        self.router = APIRouter()
        rows = Features(columns=2, low=0, high=10, max_rows=5)

        @self.router.post("/model")
        async def with_model(body: Numbers) -> int:
            self.ran.append("model")
            return len(body.features)

        @self.router.post("/features")
        async def with_features(x: Annotated[np.ndarray, Depends(rows)]) -> int:
            self.ran.append("features")
            return len(x)

        @self.router.post("/form")
        async def with_form(name: Annotated[str, Form()]) -> int:
            self.ran.append("form")
            return 1

        @self.router.post("/file")
        async def with_file(upload: Annotated[UploadFile, File()]) -> int:
            self.ran.append("file")
            return 1

        @self.router.post("/raw")
        async def raw(request: Request) -> int:
            self.ran.append("raw")
            return len(await request.body())

        @self.router.post("/stream")
        async def stream(request: Request) -> int:
            self.ran.append("stream")
            return sum([len(chunk) async for chunk in request.stream()])

        @self.router.post("/unread")
        def unread() -> int:
            self.ran.append("unread")
            return 0


BODIES: dict[str, tuple[tuple[bytes, bytes], bytes]] = {
    "/model": (JSON, b'{"features": [1, 2]}'),
    "/features": (JSON, b'{"features": [1, 2]}'),
    "/form": (FORM, b"name=x"),
    "/file": (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="upload"; filename="a"\r\n\r\nhi\r\n--x--\r\n'),
    "/raw": (JSON, b"[1]"),
    "/stream": (JSON, b"[1]"),
    "/unread": (JSON, b"[1]"),
}


def at_app_level(service: Service) -> tuple[FastAPI, str]:
    app = FastAPI(dependencies=service.guards)
    harden(app)
    app.include_router(service.router)
    return app, ""


def in_included_router(service: Service) -> tuple[FastAPI, str]:
    app = FastAPI()
    app.include_router(service.router, prefix="/v1", dependencies=service.guards)
    harden(app)
    return app, "/v1"


def in_nested_router(service: Service) -> tuple[FastAPI, str]:
    app = FastAPI()
    harden(app)
    middle = APIRouter(dependencies=service.guards[1:])
    middle.include_router(service.router, prefix="/deep")
    app.include_router(middle, prefix="/v1", dependencies=service.guards[:1])
    return app, "/v1/deep"


def in_mounted_app(service: Service) -> tuple[FastAPI, str]:
    inner = FastAPI(dependencies=service.guards)
    inner.include_router(service.router)
    app = FastAPI()
    app.mount("/sub", inner)
    harden(app)
    return app, "/sub"


def behind_middlewares(service: Service) -> tuple[FastAPI, str]:
    """One that reads through a task group, which would wrap exceptions, and one that copies the scope."""
    app, prefix = at_app_level(service)

    async def passing(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    app.add_middleware(CopyScope)
    return app, prefix


class CopyScope:
    """A middleware that hands on a copy of the scope, as tracing libraries do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(dict(scope), receive, send)


PLACES = [at_app_level, in_included_router, in_nested_router, in_mounted_app, behind_middlewares]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", BODIES)
def test_refused_request_has_no_body_read(path: str, place: Callable[[Service], tuple[FastAPI, str]]) -> None:
    """Without a key the answer is 401, no byte of the body was asked for, and the endpoint did not run."""
    service = Service()
    app, prefix = place(service)
    media_type, body = BODIES[path]
    answer = call(app, prefix + path, headers=[media_type], chunks=[body, body])
    assert (answer.status, answer.reads, service.ran) == (401, 0, [])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", BODIES)
def test_admitted_request_counts_once(path: str, place: Callable[[Service], tuple[FastAPI, str]]) -> None:
    """Guards that run before the body and again as dependencies count one request once: 3 of 3 pass, the 4th not."""
    service = Service()
    app, prefix = place(service)
    media_type, body = BODIES[path]
    answers = [call(app, prefix + path, headers=[media_type, KEY], chunks=[body]) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[3].reads == 0
    assert len(service.ran) == 3


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("hardened", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_missing_scope_burns_no_quota(method: str, hardened: bool, order: int) -> None:
    """A 403 uses up nothing, whichever guard is listed first, with and without harden, with and without a body."""
    service = Service()
    app = FastAPI()
    guards = [Security(service.caller, scopes=["admin"]), Depends(service.limit)][::order]

    @app.api_route("/refused", methods=["GET", "POST"], dependencies=guards)
    async def refused() -> None: ...

    @app.get("/open", dependencies=[Depends(service.limit)])
    async def open_() -> None: ...

    if hardened:
        harden(app)
    assert [call(app, "/refused", method=method, headers=[KEY]).status for _ in range(5)] == [403] * 5
    assert [call(app, "/open", method="GET", headers=[KEY]).status for _ in range(4)] == [200, 200, 200, 429]


def test_scopes_are_judged_anew_for_each_use() -> None:
    """Remembering who the caller is does not remember that the scopes were right."""
    service = Service()
    app = FastAPI()

    @app.get("/both", dependencies=[Security(service.caller, scopes=["predict"])])
    async def both(principal: Annotated[Principal, Security(service.caller, scopes=["admin"])]) -> None: ...

    harden(app)
    assert call(app, "/both", method="GET", headers=[KEY]).status == 403


class Swallowing:
    """Endpoints and dependencies that catch whatever reading the body raises."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def read(self, request: Request) -> None:
        for _ in range(3):
            with contextlib.suppress(Exception):
                self.seen.append(await request.body())


def test_swallowed_refusal_stays_refused() -> None:
    """A dependency that reads the body in try/except before the guard gets nothing, and the answer is still 401."""
    service, swallow = Service(), Swallowing()
    app = FastAPI()

    @app.post("/predict", dependencies=[Depends(swallow.read), Depends(service.caller)])
    async def predict() -> None: ...

    harden(app)
    answer = call(app, headers=[JSON], chunks=[b"secret"])
    assert (answer.status, answer.reads, swallow.seen) == (401, 0, [])


def test_swallowed_size_refusal_stays_refused() -> None:
    """An endpoint that catches the 413 of a chunked body does not get the body on a second read."""
    swallow = Swallowing()
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> int:
        await swallow.read(request)
        return len(swallow.seen)

    harden(app, max_body_size=10)
    answer = call(app, headers=[JSON], chunks=[b"12345", b"678901"], declared=False)
    assert (answer.status, answer.json, swallow.seen) == (200, 0, [])


class SlowStore(MemoryStore):
    """A store that answers only when it is let go, as one behind a network does."""

    suspends = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self.nonces = 0

    async def hit(self, bucket: str, caller: bytes, windows: Any, cost: int) -> Decision:
        self.asked.set()
        await self.release.wait()
        return await super().hit(bucket, caller, windows, cost)

    async def add_nonce(self, key: bytes, ttl: float, *, owner: bytes) -> bool:
        self.nonces += 1
        self.asked.set()
        await self.release.wait()
        return await super().add_nonce(key, ttl, owner=owner)


def test_is_disconnected_does_not_stop_a_guard_half_way() -> None:
    """``request.is_disconnected()`` reads in a cancelled scope; the guard in flight goes on and counts once."""

    async def session() -> tuple[Answer, int]:
        store = SlowStore()
        service = Service(store=store)
        app = FastAPI()
        polled = []

        async def poll(request: Request) -> None:
            polled.append(await request.is_disconnected())
            store.release.set()

        @app.post("/predict", dependencies=[Depends(poll), Depends(service.limit)])
        async def predict(request: Request) -> str:
            return (await request.body()).decode()

        harden(app)
        answer = await acall(app, headers=[KEY, JSON], chunks=[b"hello"])
        assert polled == [False]
        return answer, sum(map(len, store._buckets.values()))

    answer, counted = asyncio.run(session())
    assert (answer.status, answer.json) == (200, "hello")
    assert counted == 1
    assert '"3/minute";r=2' in answer.headers["ratelimit"]


def test_cancelled_guard_is_not_remembered_as_admitted() -> None:
    """A request cancelled while a guard waits does not leave a verdict that a second try would find."""

    async def session() -> int:
        store = SlowStore()
        service = Service(store=store)
        app = FastAPI()

        @app.get("/predict", dependencies=[Depends(service.limit)])
        async def predict() -> None: ...

        harden(app)
        first = asyncio.ensure_future(acall(app, method="GET", headers=[KEY]))
        await store.asked.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        store.release.set()
        return (await acall(app, method="GET", headers=[KEY])).status

    assert asyncio.run(session()) == 200


def test_dependency_overrides_replace_a_guard() -> None:
    """Tests of an app may replace authentication, and then nobody asks for a key, not even before the body."""
    service = Service()
    app, prefix = in_included_router(service)
    app.dependency_overrides[service.caller] = lambda: Principal("tester", frozenset({"predict"}))
    media_type, body = BODIES["/model"]
    answers = [call(app, prefix + "/model", headers=[media_type], chunks=[body]) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    app.dependency_overrides.clear()
    assert call(app, prefix + "/model", headers=[media_type], chunks=[body]).status == 401


def test_guard_below_an_overridden_dependency_does_not_run() -> None:
    """What FastAPI would not run, nothing else runs."""
    service = Service()
    app = FastAPI()

    async def user(principal: Annotated[Principal, Depends(service.caller)]) -> str:
        return principal.id

    @app.post("/predict")
    async def predict(body: Numbers, name: Annotated[str, Depends(user)]) -> str:
        return name

    harden(app)
    assert call(app, headers=[JSON], chunks=[b'{"features": []}']).reads == 0
    assert call(app, headers=[JSON, KEY], chunks=[b'{"features": []}']).json == "alice"
    app.dependency_overrides[user] = lambda: "somebody"
    assert call(app, headers=[JSON], chunks=[b'{"features": []}']).json == "somebody"


def test_guard_that_needs_parameters_waits_for_fastapi() -> None:
    """A limit by a dependency of the app's own is not run early, and still counts once."""
    app = FastAPI()

    def tenant(tenant: str) -> str:
        return tenant

    limit = RateLimit("1/minute", by=tenant, store=MemoryStore())

    @app.post("/predict", dependencies=[Depends(limit)])
    async def predict(body: Numbers) -> None: ...

    harden(app)
    body = {"headers": [JSON], "chunks": [b'{"features": []}']}
    statuses = [call(app, f"/predict?tenant={name}", **body).status for name in "aab"]  # type: ignore[arg-type]
    assert statuses == [200, 429, 200]
    assert call(app, "/predict", **body).status == 422  # type: ignore[arg-type]


@pytest.fixture
def crashing() -> FastAPI:
    """An app with a guard that crashes."""

    def broken(conn: HTTPConnection) -> str:
        raise ZeroDivisionError("the inside")

    app = FastAPI()

    @app.post("/body", dependencies=[Depends(RateLimit("1/minute", by=broken, store=MemoryStore()))])
    async def body(body: Numbers) -> None: ...

    @app.get("/none", dependencies=[Depends(RateLimit("2/minute", by=broken, store=MemoryStore()))])
    async def none() -> None: ...

    harden(app)
    return app


@pytest.mark.parametrize(("method", "path"), [("POST", "/body"), ("GET", "/none")])
def test_crashing_guard_refuses(crashing: FastAPI, method: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """A guard that crashes is a scrubbed 500 with the cause in the log, and neither a 400 nor an open door."""
    answer = call(crashing, path, method=method, headers=[JSON], chunks=[b'{"features": []}'])
    assert (answer.status, answer.reads) == (500, 0)
    assert b"inside" not in answer.body
    assert caplog.text.count("ZeroDivisionError: the inside") == 1


def test_endpoint_without_guards_reads_its_body() -> None:
    """Without guards, harden changes nothing about who may send what."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Numbers) -> int:
        return len(body.features)

    harden(app)
    assert call(app, headers=[JSON], chunks=[b'{"features":', b" [1]}"]).json == 1


def test_guard_asked_by_a_middleware_is_asked_alone() -> None:
    """Before there is a route, one guard can be asked by itself, and the route's guards are still judged after."""
    service = Service()
    app, prefix = in_included_router(service)
    known = []

    async def asking(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        with contextlib.suppress(HTTPException):
            known.append((await service.caller(request, SecurityScopes())).id)
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=asking)
    media_type, body = BODIES["/model"]
    refused = call(app, prefix + "/model", headers=[media_type], chunks=[body])
    assert (refused.status, refused.reads, known) == (401, 0, [])
    assert call(app, prefix + "/model", headers=[media_type, KEY], chunks=[body]).status == 200
    assert known == ["alice"]


def test_signed_body_is_verified_before_anybody_sees_it() -> None:
    """See tests/auth/test_signing_hardened.py for the whole story; here: SignatureAuth is judged before the body."""
    guard = SignatureAuth({"robot": "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs"}, store=MemoryStore())
    app = FastAPI()

    @app.post("/predict", dependencies=[Depends(guard)])
    async def predict(body: Numbers) -> None: ...

    harden(app)
    assert call(app, headers=[JSON], chunks=[b"{}"]).reads == 0


def test_plans_of_routes_made_on_the_fly_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that makes routes without end does not fill the memory with their plans, and guards them all."""
    monkeypatch.setattr(_plans, "_MAX_PLANS", 3)
    monkeypatch.setattr(_plans, "_plans", {})
    service = Service()
    app = FastAPI()
    for number in range(10):
        app.add_api_route(f"/{number}", lambda: None, dependencies=service.guards[:1])
    harden(app)
    statuses = [call(app, f"/{number}", method="GET").status for number in range(10)]
    assert statuses == [401] * 10
    assert len(_plans._plans) <= 3


def test_feature_types_say_where_under_harden() -> None:
    """The pydantic types keep their rule and position in the scrubbed problem."""
    app = FastAPI()

    class Rows(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        confidential: Annotated[np.ndarray, FeatureMatrix(columns=2, low=0, high=10, max_rows=5)]

    @app.post("/predict")
    async def predict(body: Rows) -> None: ...

    harden(app)
    answer = call(app, headers=[JSON], chunks=[b'{"confidential": [[1, 2], [3, 99.25]]}'])
    assert answer.json["errors"] == [{"in": "body", "at": [], "broken": "range", "row": 1, "column": 1}]
    assert not any(word in answer.body for word in (b"confidential", b"99.25"))


class TenantKeyAuth(APIKeyAuth):
    """A guard of the app's own that needs more than the connection."""

    async def __call__(  # type: ignore[override]  # FastAPI reads the signature
        self, conn: HTTPConnection, security_scopes: SecurityScopes, tenant: str
    ) -> Principal:
        principal = await super().__call__(conn, security_scopes)
        return Principal(f"{tenant}/{principal.id}", principal.scopes, principal.method)


def test_subclass_that_needs_parameters_waits_for_fastapi() -> None:
    """A guard with parameters of its own is called by FastAPI alone, which knows how to find them."""
    guard = TenantKeyAuth(APIKeys([RECORD]))
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Numbers, principal: Annotated[Principal, Depends(guard)]) -> str:
        return principal.id

    harden(app)
    answer = call(app, "/predict?tenant=acme", headers=[JSON, KEY], chunks=[b'{"features": []}'])
    assert (answer.status, answer.json) == (200, "acme/alice")
    assert call(app, "/predict?tenant=acme", headers=[JSON], chunks=[b'{"features": []}']).status == 401
