"""Under ``harden``, a signed body is checked before the endpoint sees any of it, however it is declared."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Form, Request
from fastapi.security import SecurityScopes
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect

from mlguard import SignatureAuth, harden
from mlguard.client import HTTPSignature
from mlguard.memory_store import MemoryStore
from tests.asgi import Answer, call, make_scope

SECRET = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs"
BODIES = {
    "/model": ("application/json", b'{"features": [1.5]}'),
    "/form": ("application/x-www-form-urlencoded", b"name=somebody"),
    "/raw": ("application/octet-stream", b"raw bytes"),
    "/stream": ("application/octet-stream", b"streamed bytes"),
}


class Numbers(BaseModel):
    features: list[float]


def sign(request: httpx.Request) -> list[tuple[bytes, bytes]]:
    """The request's headers with a fresh signature, as ASGI has them, without those that the test's caller adds."""
    signed = HTTPSignature("robot", SECRET)(request)
    headers = [(name.lower(), value) for name, value in signed.headers.raw]
    return [(name, value) for name, value in headers if name not in {b"content-length", b"host"}]


class Signed:
    """An app with a signed endpoint for each kind of body, which notes what the endpoints saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.app = FastAPI(dependencies=[Depends(SignatureAuth({"robot": SECRET}, store=MemoryStore()))])

        @self.app.post("/model")
        async def model(body: Numbers) -> None:
            self.seen.append(body.features)

        @self.app.post("/form")
        async def form(name: Annotated[str, Form()]) -> None:
            self.seen.append(name)

        @self.app.post("/raw")
        async def raw(request: Request) -> None:
            self.seen.append(await request.body())

        @self.app.post("/stream")
        async def stream(request: Request) -> None:
            async for chunk in request.stream():
                self.seen.append(chunk)

        @self.app.post("/swallow")
        async def swallow(request: Request) -> None:
            for _ in range(2):
                with contextlib.suppress(Exception):
                    self.seen.append(await request.body())

        harden(self.app, max_body_size=1_000)

    def send(
        self, path: str, signed: bytes, chunks: list[bytes], media_type: str = "text/plain", **more: Any
    ) -> Answer:
        """Sign one body and send another."""
        request = httpx.Request(
            "POST", f"http://service.test{path}", content=signed, headers={"Content-Type": media_type}
        )
        return call(self.app, path, headers=sign(request), chunks=chunks, **more)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_signed_body_is_accepted(path: str, declared: bool) -> None:
    """In one piece or in many, the body that was signed reaches the endpoint."""
    service = Signed()
    media_type, body = BODIES[path]
    pieces = [body[:3], body[3:7], body[7:]]
    assert service.send(path, body, pieces, media_type, declared=declared).status == 200
    assert service.seen


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_tampered_body_reaches_no_endpoint(path: str, declared: bool) -> None:
    """One byte changed in the last piece: the endpoint sees nothing, not even the honest pieces before it."""
    service = Signed()
    media_type, body = BODIES[path]
    tampered = [body[:3], body[3:7], body[7:-1] + b"!"]
    answer = service.send(path, body, tampered, media_type, declared=declared)
    assert (answer.status, service.seen) == (401, [])


def test_swallowed_digest_failure_stays_refused() -> None:
    """An endpoint that catches the refusal does not get the tampered body on a second read."""
    service = Signed()
    service.send("/swallow", b"honest", [b"tampered"])
    assert service.seen == []


def test_signed_body_is_limited_while_it_is_collected() -> None:
    """Checking the whole body first does not mean collecting a body of any size."""
    service = Signed()
    answer = service.send("/stream", b"x" * 5_000, [b"x" * 600] * 9, declared=False)
    assert (answer.status, answer.reads, service.seen) == (413, 2, [])


def test_client_that_leaves_before_the_body_is_whole() -> None:
    """A disconnect while the body is collected is passed on; the endpoint never sees a part."""
    service = Signed()
    request = httpx.Request("POST", "http://service.test/stream", content=b"whole body")
    headers = sign(request)
    messages = iter([{"type": "http.request", "body": b"whole", "more_body": True}, {"type": "http.disconnect"}])

    async def session() -> None:
        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None: ...

        with contextlib.suppress(ClientDisconnect):
            await service.app(make_scope("POST", "/stream", headers), receive, send)

    asyncio.run(session())
    assert service.seen == []


@pytest.mark.parametrize(("body", "status"), [(b"honest", 200), (b"tampered", 401)])
def test_middleware_that_reads_first_changes_nothing(body: bytes, status: int) -> None:
    """A middleware may read the body before the guard asks for the check; the endpoint still sees it checked only."""
    service = Signed()

    async def reading(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        await request.body()
        return await call_next(request)

    service.app.add_middleware(BaseHTTPMiddleware, dispatch=reading)
    assert service.send("/raw", b"honest", [body]).status == status
    assert service.seen == ([b"honest"] if status == 200 else [])


@pytest.mark.parametrize(("body", "status"), [(b"honest", 200), (b"tampered", 401)])
def test_dependency_that_reads_first_changes_nothing(body: bytes, status: int) -> None:
    """A dependency that streams the body before a guard that cannot run early: the guard checks what has passed."""
    guard = SignatureAuth({"robot": SECRET}, store=MemoryStore())
    app = FastAPI()
    seen = []

    async def reading(request: Request) -> None:
        await request.body()

    async def late(request: Request) -> None:
        await guard(request, SecurityScopes())

    @app.post("/raw", dependencies=[Depends(reading), Depends(late)])
    async def raw(request: Request) -> None:
        seen.append(await request.body())

    harden(app)
    request = httpx.Request("POST", "http://service.test/raw", content=b"honest")
    headers = sign(request)
    assert call(app, "/raw", headers=headers, chunks=[body]).status == status
    assert seen == ([b"honest"] if status == 200 else [])


def test_replay_is_refused_before_the_body() -> None:
    """The same signed request a second time is a 401 with no body read."""
    service = Signed()
    request = httpx.Request("POST", "http://service.test/raw", content=b"once")
    headers = sign(request)
    first, second = (call(service.app, "/raw", headers=headers, chunks=[b"once"]) for _ in range(2))
    assert (first.status, second.status, second.reads, service.seen) == (200, 401, 0, [b"once"])


@pytest.mark.parametrize(("last", "status"), [(b"nest", 200), (b"nasty", 401)])
def test_check_demanded_half_way_covers_the_whole_body(last: bytes, status: int) -> None:
    """A guard that is asked after a part has passed still checks the whole, with the part that has passed."""
    guard = SignatureAuth({"robot": SECRET}, store=MemoryStore())
    app = FastAPI()

    @app.post("/raw")
    async def raw(request: Request) -> None:
        first = await request.receive()
        await guard(request, SecurityScopes())
        rest = await request.receive()
        assert first["body"] + rest["body"] == b"honest"

    harden(app)
    headers = sign(httpx.Request("POST", "http://service.test/raw", content=b"honest"))
    assert call(app, "/raw", headers=headers, chunks=[b"ho", last]).status == status
