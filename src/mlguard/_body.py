"""The incoming body: nothing of it is read before the guards have spoken, and no more than is allowed."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from mlguard._guard import RequestMemory
from mlguard._order import judge
from mlguard.errors import BodyTimeoutError, BodyTooLargeError, GuardFailedError

#: An unread rest up to this size is drained by the server at once; a larger one costs more than a new connection.
_CHEAP_TO_DRAIN = 64 * 1024


class _Meter:
    """How much of a body has come, and how long it was waited for."""

    __slots__ = ("complete", "max_size", "received", "seconds_left", "timeout")

    def __init__(self, max_size: int, timeout: float) -> None:
        self.max_size = max_size
        self.timeout = timeout
        self.seconds_left = timeout
        self.received = 0
        self.complete = False

    async def next_in_time(self, receive: Receive) -> Message:
        """The next message, counted and timed.

        Raises:
            BodyTooLargeError: More came than is allowed (413).
            BodyTimeoutError: It took longer than is allowed, not counting the time that the app took in between (408).
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout_at(began + self.seconds_left):
                message = await self.next(receive)
        except TimeoutError:
            raise BodyTimeoutError(f"{self.received} bytes came in {self.timeout:g} s") from None
        self.seconds_left -= clock() - began
        return message

    async def next(self, receive: Receive) -> Message:
        """The next message, counted.

        Raises:
            BodyTooLargeError: More came than is allowed (413).
        """
        message = await receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            if self.received > self.max_size:
                raise BodyTooLargeError(f"more than {self.max_size} bytes came")
            self.complete = not message.get("more_body", False)
        return message


class IncomingBody:
    """What an app receives of a request: first the guards' verdict, then a body that is counted, timed and checked.

    It stands at two places. Next to the route (``route``), the guards are known, and exceptions reach FastAPI as they
    are, not wrapped in a group by a middleware that reads through a task group. Outermost (``receive_outermost``), it
    limits middlewares that read the body themselves, before the route or after it.

    A refusal is sticky: an endpoint that reads inside ``try``/``except`` gets it again, and never the body.

    Args:
        scope: The ASGI scope of an HTTP request.
        receive: The server's.
        memory: The request's.
        max_size: Bytes.
        timeout: Seconds that the app may wait for the whole body.
    """

    __slots__ = (
        "_chunks", "_expected", "_inner", "_keep", "_memory", "_outer", "_place", "_reading", "_refusal",
        "_server_receive", "_started", "_verifiers", "declared", "max_size",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, memory: RequestMemory, *, max_size: int, timeout: float) -> None:
        self._server_receive = receive
        self._memory = memory
        self.max_size = max_size
        self._outer = _Meter(max_size, timeout)
        self._inner = _Meter(max_size, timeout)
        self._place: object = None
        self._reading = False  # whether it is the app next to the route that asks, and not a middleware
        self._started = False  # whether that app has got a part
        self._refusal: HTTPException | None = None
        self._verifiers: list[Callable[[bytes], None]] = []
        self._chunks: list[bytes] = []
        self._keep = False
        #: Content-Length, if the caller declared one and the body is not chunked.
        self.declared: int | None = None
        self._expected = False  # whether the headers announce a body
        chunked = False
        for name, value in scope["headers"]:
            if name == b"content-length":
                self.declared = int(value) if value.isdigit() and len(value) < 20 else max_size + 1
                self._expected = self._expected or self.declared > 0
            elif name == b"transfer-encoding":
                self._expected = chunked = True
            elif name == b"signature-input":
                # Somebody may have read a part before the guard asks for a check of the whole.
                self._keep = True
        if chunked:  # it counts then, and a length beside it does not (RFC 9112, section 6.3)
            self.declared = None

    @property
    def too_large(self) -> bool:
        """Whether the declared length alone is too much."""
        return self.declared is not None and self.declared > self.max_size

    @property
    def leaves_rest(self) -> bool:
        """Whether so much is unread that the connection is better closed than drained."""
        if self._inner.complete or self._outer.complete or not self._expected:
            return False
        received = max(self._inner.received, self._outer.received)
        return self.declared is None or self.declared - received > _CHEAP_TO_DRAIN

    def route(self, receive: Receive) -> Receive:
        """Take the place next to the route. In a hardened app inside a hardened app, the inner one gets it.

        Args:
            receive: The one that the middlewares pass on. They may have read the body already and repeat it.
        """
        place = self._place = object()

        async def receive_here() -> Message:  # names nothing that leads back to it, or only the collector would free it
            return await (self._receive(receive) if self._place is place else receive())

        return receive_here

    def close(self) -> None:
        """Give the place up: the request is over."""
        self._place = None

    async def receive_outermost(self) -> Message:
        """The next message, limited even where a middleware reads the body by itself.

        Raises:
            HTTPException: The body is too large (413) or too slow (408), or the request was refused already.
        """
        if self._reading:
            return await self._server_receive()
        if self._memory.refusal is not None:
            raise self._memory.refusal.with_traceback(None)
        return await self._next(self._outer, self._server_receive)

    async def _receive(self, receive: Receive) -> Message:
        """The next message for the app.

        Raises:
            HTTPException: The refusal of a guard, or of the body itself: too large (413), too slow (408), or not what
                was signed (401).
        """
        if not self._memory.admitted:
            await self._judge(self._memory)
        self._reading = True
        try:
            if self._verifiers and not self._started:
                return await self._receive_verified(receive)
            message = await self._next(self._inner, receive)
        finally:
            self._reading = False
        self._started = True
        if self._verifiers and self._inner.complete:
            self._verify()
        return message

    async def _judge(self, memory: RequestMemory) -> None:
        try:
            await judge(Request(memory.routed_scope or {}), memory)
        except HTTPException:
            raise
        except Exception as crash:  # FastAPI would make it a 400 here
            raise GuardFailedError(f"a guard crashed: {type(crash).__name__}") from crash

    async def expect(self, verify: Callable[[bytes], None]) -> None:
        """Have the complete body checked before the app sees any of it, or at once if it has it already.

        Args:
            verify: Takes the complete body. Raises an ``HTTPException`` if it is not what it should be.
        """
        self._verifiers.append(verify)
        self._keep = True
        if self._inner.complete:
            self._verify()

    async def _receive_verified(self, receive: Receive) -> Message:
        while not self._inner.complete:
            message = await self._next(self._inner, receive)
            if message["type"] != "http.request":
                return message
        self._verify()
        self._started = True
        return {"type": "http.request", "body": b"".join(self._chunks), "more_body": False}

    async def _next(self, meter: _Meter, receive: Receive) -> Message:
        if self._memory.answered:
            return await self._next_after_answer(meter, receive)
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        if meter.complete:
            return await receive()
        if self.too_large:
            self._refuse(BodyTooLargeError(f"declared {self.declared} bytes, at most {self.max_size} are read"))
        try:
            message = await meter.next_in_time(receive)
        except HTTPException as refusal:
            self._refuse(refusal)
        if self._keep and meter is self._inner and message["type"] == "http.request":
            self._chunks.append(message.get("body", b""))
        return message

    async def _next_after_answer(self, meter: _Meter, receive: Receive) -> Message:
        """Once an answer has begun, nothing can be refused any more: whoever reads too much has lost its client.

        Starlette reads in this way to notice that the client of a stream has gone.
        """
        try:
            if self._refusal is None:
                return await meter.next(receive)
        except BodyTooLargeError:
            pass
        return {"type": "http.disconnect"}

    def _verify(self) -> None:
        body = b"".join(self._chunks)
        for verify in self._verifiers:
            try:
                verify(body)
            except HTTPException as refusal:
                self._refuse(refusal)

    def _refuse(self, refusal: HTTPException) -> NoReturn:
        self._chunks.clear()
        self._refusal = refusal
        raise refusal
