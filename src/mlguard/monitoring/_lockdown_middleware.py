"""What stands before an app: refuses what is locked down, and closes WebSockets that were open before it was."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from mlguard._guard import Principal, RequestMemory
from mlguard.errors import ConfigurationError
from mlguard.problems import answer_refusal, refusal_problem

if TYPE_CHECKING:
    from mlguard.monitoring.lockdown import Lockdown

logger = logging.getLogger("mlguard")

Admits = Callable[[Principal], None]

_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class LockdownMiddleware:
    """Judges each request and each WebSocket before the app does anything.

    Args:
        app: What comes after.
        lockdown: What is locked down.
    """

    locks_down = True

    def __init__(self, app: ASGIApp, lockdown: "Lockdown") -> None:
        self._app = app
        self._lockdown = lockdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        if kind not in {"http", "websocket"} or self._lockdown.is_health(scope):
            await self._app(scope, receive, send)
            return
        try:
            rules = await self._lockdown.current()
            self._lockdown.judge(rules, HTTPConnection(scope))
        except HTTPException as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        memory = RequestMemory.of(scope)
        memory.label_only |= rules.label_only
        if kind == "http":
            memory.admits = _one_after_another(memory.admits, self._lockdown.admit)
            await self._app(scope, receive, send)
        else:
            await self._serve_socket(memory, scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Know what is locked down before the first request, and go on reading it until the app ends."""
        try:
            await self._lockdown.store.check_access()
        except ConfigurationError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        if self._lockdown.store.forgets_on_restart:
            logger.warning(
                "the lockdown is in this process's memory: mlguard lockdown does not reach it. Set MLGUARD_STORE_URL"
            )
        await self._lockdown.start()
        try:
            await self._app(scope, receive, send)
        finally:
            self._lockdown.stop()

    async def _serve_socket(self, memory: RequestMemory, scope: Scope, receive: Receive, send: Send) -> None:
        outer = memory.admits
        try:
            async with asyncio.timeout(None) as limit:
                socket = OpenSocket(self._lockdown, HTTPConnection(scope), limit)
                memory.admits = _one_after_another(outer, socket.admit)
                self._lockdown.opened(socket)
                await self._app(scope, receive, send)
        except TimeoutError:
            if not limit.expired():  # one of the app's own
                raise
            logger.warning("closed a WebSocket that is locked down request_id=%s", memory.request_id)
            with contextlib.suppress(Exception):  # the peer may have gone, or the app has closed it
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        finally:
            memory.admits = outer  # that of the socket refers back to the memory
            self._lockdown.closed(socket, by_lockdown=limit.expired())


class OpenSocket:
    """A WebSocket that was admitted, and is ended once it would not be any more.

    Args:
        lockdown: What is locked down.
        conn: The WebSocket.
        limit: What ends it.
    """

    def __init__(self, lockdown: "Lockdown", conn: HTTPConnection, limit: asyncio.Timeout) -> None:
        self._lockdown = lockdown
        self._conn = conn
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._principals: set[Principal] = set()

    def admit(self, principal: Principal) -> None:
        """Refuse a principal who is blocked, and remember who it is.

        Raises:
            BlockedError: It is blocked (403).
        """
        self._lockdown.admit(principal)
        self._principals.add(principal)

    def look_soon(self) -> None:
        """Have its own event loop see whether it is still admitted."""
        with contextlib.suppress(RuntimeError):  # that loop has ended, and the socket with it
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        principals: Iterable[Principal] = tuple(self._principals)
        if not self._limit.expired() and self._lockdown.refuses_socket(self._conn, principals):
            with contextlib.suppress(RuntimeError):  # it ends already
                self._limit.reschedule(self._loop.time())


def _one_after_another(outer: Admits | None, inner: Admits) -> Admits:
    """What both admit: a mounted app that has a lockdown of its own is under that of the app around it too."""
    if outer is None:
        return inner

    def admit(principal: Principal) -> None:
        outer(principal)
        inner(principal)

    return admit


async def _refuse(refusal: HTTPException, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await answer_refusal(WebSocket(scope, receive, send), refusal)
    else:
        await refusal_problem(Request(scope), refusal)(scope, receive, send)
