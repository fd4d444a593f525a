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


class IncomingBody:
    """What an app receives of a request: first the guards' verdict, then a body that is counted, timed and checked.

    It stands at two places. ``receive`` is innermost, where the route is known: exceptions raised there reach FastAPI
    as they are, and not wrapped in a group by a middleware that reads through a task group. ``receive_unrouted`` is
    outermost, for middlewares that read the body before there is a route: it can only limit.

    A refusal is sticky: an endpoint that reads inside ``try``/``except`` gets it again, and never the body.

    Args:
        scope: The ASGI scope of an HTTP request.
        receive: The server's.
        memory: The request's.
        max_size: Bytes.
        timeout: Seconds for the whole body, from the first read.
    """

    __slots__ = (
        "_chunks", "_complete", "_deadline", "_expected", "_keep", "_max_size", "_memory", "_receive", "_received",
        "_refusal", "_server_receive", "_started", "_timeout", "_verifiers", "declared",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, memory: RequestMemory, *, max_size: int, timeout: float) -> None:
        self._receive = self._server_receive = receive
        self._memory = memory
        self._max_size = max_size
        self._timeout = timeout
        self._deadline: float | None = None
        self._received = 0
        self._started = False  # whether the app has got a part of it
        self._complete = False
        self._refusal: HTTPException | None = None
        self._verifiers: list[Callable[[bytes], None]] = []
        self._chunks: list[bytes] = []
        self._keep = False
        #: Content-Length, if the caller declared one.
        self.declared: int | None = None
        self._expected = False  # whether the headers announce a body
        for name, value in scope["headers"]:
            if name == b"content-length":
                self.declared = int(value) if value.isdigit() and len(value) < 20 else max_size + 1
                self._expected = self._expected or self.declared > 0
            elif name == b"transfer-encoding":
                self._expected = True
            elif name == b"signature-input":
                # Somebody may have read a part before the guard asks for a check of the whole.
                self._keep = True

    @property
    def too_large(self) -> bool:
        """Whether the declared length alone is too much."""
        return self.declared is not None and self.declared > self._max_size

    @property
    def leaves_rest(self) -> bool:
        """Whether so much is unread that the connection is better closed than drained."""
        if self._complete or not self._expected:
            return False
        return self.declared is None or self.declared - self._received > _CHEAP_TO_DRAIN

    def route(self, receive: Receive) -> Receive:
        """Take the place next to the router, behind all middlewares.

        Args:
            receive: The one that the middlewares pass on. They may have read the body already and repeat it.
        """
        if self._receive is not self._server_receive:  # a hardened app mounted in this one: the place is taken
            return receive
        self._receive = receive
        self._received = 0
        self._complete = False
        self._chunks.clear()
        return self.receive

    def close(self) -> None:
        """Let go of the middlewares' ``receive``, which lead back to this object."""
        self._receive = self._server_receive

    async def receive_unrouted(self) -> Message:
        """The next message for a middleware that reads before there is a route.

        Raises:
            MLGuardError: The body is too large (413) or too slow (408).
        """
        if self._memory.routed_scope is not None:
            return await self._server_receive()
        return await self._next()

    async def receive(self) -> Message:
        """The next message for the app.

        Raises:
            HTTPException: The refusal of a guard, or of the body itself: too large (413), too slow (408), or not what
                was signed (401).
        """
        memory = self._memory
        if not memory.admitted and memory.routed_scope is not None:
            await self._judge(memory)
        if self._verifiers and not self._started:
            return await self._receive_verified()
        message = await self._next()
        self._started = True
        if self._verifiers and self._complete:
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
        if self._complete:
            self._verify()

    async def _receive_verified(self) -> Message:
        while not self._complete:
            message = await self._next()
            if message["type"] != "http.request":
                return message
        self._verify()
        self._started = True
        return {"type": "http.request", "body": b"".join(self._chunks), "more_body": False}

    async def _next(self) -> Message:
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        if self._complete:
            return await self._receive()
        if self.too_large:
            self._refuse(BodyTooLargeError(f"declared {self.declared} bytes, at most {self._max_size} are read"))
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self._refuse(BodyTimeoutError(f"{self._received} bytes came in {self._timeout:g} s"))
        if message["type"] == "http.request":
            chunk = message.get("body", b"")
            self._received += len(chunk)
            if self._received > self._max_size:
                self._refuse(BodyTooLargeError(f"more than {self._max_size} bytes came"))
            self._complete = not message.get("more_body", False)
            if self._keep:
                self._chunks.append(chunk)
        return message

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
