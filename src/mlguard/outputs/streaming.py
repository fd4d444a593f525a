"""A generator's answers, sent one by one: lines of JSON, or server-sent events."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mlguard._fastapi import EVENT_TYPES
from mlguard._guard import request_id
from mlguard.errors import UnsafeOutputError
from mlguard.problems import crash_problem, log_crash, refusal_problem, unwrap

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"

Headers = list[tuple[bytes, bytes]]

_END = object()


class EventStream(StreamingResponse):
    """The ``response_class`` of a route whose generator is sent as server-sent events by ``truncate_output``.

    Plain items become the data of an event, as JSON. Where FastAPI has a ``ServerSentEvent``, its ``data`` is
    truncated, and its other fields are sent as they are.
    """

    media_type = EVENTS


class TruncatedStream(StreamingResponse):
    """Sends what a generator yields, each item truncated by itself.

    The first item is made before the answer starts, so that what goes wrong until then is an answer of its own, with
    its own status, and so that headers may be set until then. What goes wrong later is logged, and the caller gets a
    last line, or an event named ``error``, with a problem that tells nothing of the inside. However the stream ends,
    also when the client leaves, the generator is closed.

    Args:
        items: The generator, sync (run in worker threads) or async.
        write: An item as JSON, truncated.
        request: What is answered.
        media_type: Of events or lines.
        start: The status and the headers, once the first item is made.
    """

    def __init__(
        self,
        items: Generator[Any, None, None] | AsyncGenerator[Any, None],
        write: Callable[[Any], bytes],
        request: Request,
        *,
        media_type: str,
        start: Callable[[], tuple[int, Headers]],
    ) -> None:
        self._items = items
        self._write = write
        self._request = request
        self._begin = start
        self._events = media_type == EVENTS
        self._pieces = self._truncate()
        super().__init__(self._pieces, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            first = await anext(self._pieces, b"")
            self.status_code, headers = self._begin()
            self.raw_headers.extend(headers)
            if self._events:
                self.raw_headers.append((b"x-accel-buffering", b"no"))  # nginx would hold events back
            self.body_iterator = _after(first, self._pieces)
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._pieces.aclose()

    async def _truncate(self) -> AsyncGenerator[bytes, None]:
        started = False
        try:
            async for piece in self._written():
                yield piece
                started = True
                await anyio.lowlevel.checkpoint()  # a fast generator must let others run, and be ended
        except Exception as error:
            if not started:
                raise
            yield self._problem(unwrap(error))
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    async def _written(self) -> AsyncIterator[bytes]:
        items = self._items
        if isinstance(items, AsyncGenerator):
            async for item in items:
                yield self._frame(item)
        else:
            while (piece := await anyio.to_thread.run_sync(self._next, items)) is not None:
                yield piece

    def _next(self, items: Generator[Any, None, None]) -> bytes | None:
        item = next(items, _END)
        return None if item is _END else self._frame(item)

    async def _close(self) -> None:
        if isinstance(self._items, AsyncGenerator):
            await self._items.aclose()
        else:
            await anyio.to_thread.run_sync(self._items.close)

    def _frame(self, item: Any) -> bytes:
        if not self._events:
            return self._write(item) + b"\n"
        return _event(self._write, item) if isinstance(item, EVENT_TYPES) else _fields(data=self._write(item))

    def _problem(self, error: Exception) -> bytes:
        """The last line, or the last event."""
        if isinstance(error, HTTPException):
            body = bytes(refusal_problem(self._request, error).body)
        else:
            log_crash(self._request, error, request_id(self._request))
            body = bytes(crash_problem(request_id(self._request)).body)
        return _fields(event=b"error", data=body) if self._events else body + b"\n"


async def _after(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in pieces:
        yield piece


def _event(write: Callable[[Any], bytes], event: Any) -> bytes:
    """FastAPI's own event, with its data truncated."""
    if event.raw_data is not None:
        raise UnsafeOutputError("an event has raw_data, which cannot be truncated: give it data instead")
    return _fields(
        comment=_text(event.comment),
        event=_text(event.event),
        data=None if event.data is None else write(event.data),
        id=_text(event.id),
        retry=_text(event.retry),
    )


def _text(value: Any) -> bytes | None:
    text = None if value is None else str(value)
    if text is not None and any(end in text for end in "\r\n\0"):
        raise UnsafeOutputError("a field of an event has more than one line")
    return None if text is None else text.encode()


def _fields(**fields: bytes | None) -> bytes:
    """One event of the event stream format (HTML Standard, section 9.2.5)."""
    lines = [
        (b"" if name == "comment" else name.encode()) + b": " + value
        for name, value in fields.items()
        if value is not None
    ]
    return b"\n".join([*lines, b"", b""])
