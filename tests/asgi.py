"""A caller that speaks ASGI by hand, so that tests see which body messages an app took and what it sent."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope


@dataclass
class Answer:
    """What came back, and how much of the request was taken."""

    reads: int = 0
    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status code of the response."""
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> Headers:
        """The response's headers."""
        return Headers(raw=self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        """The response's body."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self) -> Any:
        """The response's body as JSON."""
        return orjson.loads(self.body)

    @property
    def complete(self) -> bool:
        """Whether the response was finished."""
        if not self.messages or self.messages[-1]["type"] == "http.response.start":
            return False
        return not self.messages[-1].get("more_body", False)


def make_scope(method: str, path: str, headers: Iterable[tuple[bytes, bytes]] = (), **more: Any) -> Scope:
    """An HTTP scope as uvicorn makes it."""
    raw_path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": raw_path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"service.test"), *headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
        **more,
    }


def call(
    app: ASGIApp,
    path: str = "/predict",
    *,
    method: str = "POST",
    headers: Iterable[tuple[bytes, bytes]] = (),
    chunks: Iterable[bytes] = (b"",),
    declared: bool = True,
    **more: Any,
) -> Answer:
    """Send one request and wait for the whole answer.

    Args:
        app: The app.
        path: With query, if any.
        method: The method.
        headers: Besides Host and the length.
        chunks: The body's pieces, given one by one as the app asks for them.
        declared: Whether the length is declared; if not, the body is chunked.
        **more: Entries of the scope.
    """
    return asyncio.run(acall(app, path, method=method, headers=headers, chunks=chunks, declared=declared, **more))


async def acall(
    app: ASGIApp,
    path: str = "/predict",
    *,
    method: str = "POST",
    headers: Iterable[tuple[bytes, bytes]] = (),
    chunks: Iterable[bytes] = (b"",),
    declared: bool = True,
    **more: Any,
) -> Answer:
    """The same, inside a running loop."""
    pieces = list(chunks)
    total = sum(map(len, pieces))
    length = (b"content-length", str(total).encode()) if declared else (b"transfer-encoding", b"chunked")
    answer = Answer()
    answered = asyncio.Event()

    async def receive() -> Message:
        if answer.reads >= len(pieces):
            if pieces:  # the client stays, as servers see it, until it has its answer
                await answered.wait()
            return {"type": "http.disconnect"}
        piece = pieces[answer.reads]
        answer.reads += 1
        return {"type": "http.request", "body": piece, "more_body": answer.reads < len(pieces)}

    async def send(message: Message) -> None:
        answer.messages.append(message)
        if answer.complete:
            answered.set()

    await app(make_scope(method, path, [*([length] if total else []), *headers], **more), receive, send)
    return answer
