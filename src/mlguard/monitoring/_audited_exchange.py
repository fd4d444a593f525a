"""One request and what is sent for it, watched from outside of everything else."""

import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from mlguard import _fastapi
from mlguard._guard import Control, Guard, Principal, RequestMemory
from mlguard.errors import MLGuardError, UnavailableError
from mlguard.monitoring._refusals import refusal_of, rule_of
from mlguard.monitoring._request_records import RequestRecord
from mlguard.problems import answer_refusal

if TYPE_CHECKING:
    from mlguard.monitoring.audited_requests import Audited

_LARGEST_BODY = 1_048_576  # bytes kept to make a digest of; of a larger body that no guard has read there is none
_MAX_REASON = 500  # characters
_REMAINING = re.compile(r";r=([0-9]{1,16})", re.ASCII)

#: What begins the answer, and the status that it has where it says none itself.
_STARTS = {
    "http.response.start": None,
    "websocket.accept": 101,
    "websocket.close": 403,  # before it was accepted
    "websocket.http.response.start": None,
}
_BODIES = frozenset({"http.response.body", "http.response.zerocopysend", "websocket.http.response.body"})


class Exchange:
    """One request and what is sent for it.

    Args:
        audited: What its record needs to know of the app.
        scope: Of the request.
        receive: The messages of the caller's.
        send: Where those of the app's go.
        memory: What guards say of the request.
        waits: Whether its answer waits until its record is durable.
    """

    _body_size = 0
    _told: str | None = None  # how it has ended, as far as the record says so
    _started = _is_complete = _is_put = _is_withheld = _has_whole_body = _has_trailers = False

    def __init__(
        self, audited: "Audited", scope: Scope, receive: Receive, send: Send, memory: RequestMemory, *, waits: bool
    ) -> None:
        self._began = time.perf_counter_ns()
        self._audited = audited
        self._waits = waits
        self._scope = scope
        self._receive = receive
        self._send = send
        self._memory = memory
        self._route_before = _fastapi.matched_route(scope)  # of the endpoint that has handed the request on
        self._body: list[bytes] | None = None if audited.digest is None else []
        self._record = record = RequestRecord(scope.get("method", "WEBSOCKET"))
        memory.watchers.append(record.look)
        memory.readers = (*memory.readers, self._read)

    async def receive(self) -> Message:
        """The next message of the caller's."""
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            if self._body is not None:
                self._keep(message.get("body", b""))
            self._has_whole_body = not message.get("more_body", False)
        elif kind == "http.disconnect":
            if not self._is_complete:
                self._record.ended = "left"
        elif kind == "websocket.disconnect":
            self._record.close_code = message.get("code")
        return message

    async def send(self, message: Message) -> None:
        """Pass a message of the app's on, the first one once its record is durable, if that is wanted."""
        if self._is_withheld:
            return
        kind = message["type"]
        if not self._started:
            if kind in _STARTS:
                self._start(message.get("status", _STARTS[kind]))
                if self._waits and not await self._is_durable():
                    return
            elif self._waits:  # hints that come before an answer: it may never come
                return
        elif kind == "websocket.close":
            self._record.close_code = message.get("code", 1000)
        self._note_part(message)
        try:
            await self._send(message)
        except OSError:  # how servers say that the client has gone
            self._record.ended = "left"
            raise
        if self._is_complete and not self._is_put and self._scope["type"] == "http":
            self._put()  # background tasks may take for ever

    def _note_part(self, message: Message) -> None:
        """Note whether the answer is whole with this part."""
        kind = message["type"]
        if kind in _BODIES:
            self._is_complete = not (message.get("more_body", False) or self._has_trailers)
        elif kind == "http.response.start":
            self._has_trailers = message.get("trailers", False)
        elif kind == "http.response.pathsend":
            self._is_complete = not self._has_trailers
        elif kind == "http.response.trailers":
            self._is_complete = not message.get("more_trailers", False)

    async def refuse(self, refusal: UnavailableError) -> None:
        """Answer that the request cannot be recorded, without the app."""
        scope = self._scope
        is_socket = scope["type"] == "websocket"
        conn: Any = WebSocket(scope, self._receive, self._send_refusal) if is_socket else Request(scope)
        response = await answer_refusal(conn, refusal)
        if response is not None:
            await response(scope, self._receive, self._send_refusal)

    async def _send_refusal(self, message: Message) -> None:
        if message["type"] in _STARTS:
            if not self._started:
                self._start(message.get("status", _STARTS[message["type"]]))
            own = [*self._audited.refusal_headers, (b"x-request-id", self._memory.request_id.encode())]
            if "status" in message:
                message = {**message, "headers": [*message.get("headers", ()), *own]}
        self._is_complete = True
        await self._send(message)

    async def _is_durable(self) -> bool:
        """Wait until the record is durable. If it cannot be, the answer is another one."""
        self._put()
        try:
            await self._audited.log.written()
        except UnavailableError as refusal:
            self._record.ended = "withheld"
            self._is_withheld = True
            await self.refuse(refusal)
            return False
        return True

    def _read(self, guard: Guard, value: Any) -> None:
        """Note what a guard has read of the body."""
        record, digest = self._record, self._audited.digest
        if record.rows is not None or record.is_closed:
            return
        units = guard.units(value)
        record.rows = int(units) if isinstance(units, int | np.integer) else len(units)
        if digest is not None:
            record.input = digest.of_value_later(value)
            if record.input is not None:
                self._body = None

    def _keep(self, part: bytes) -> None:
        """Keep a part of the body, in case that no guard reads it."""
        self._body_size += len(part)
        if self._body_size > _LARGEST_BODY:
            self._body = None
        elif self._body is not None and part:
            self._body.append(part)

    def _start(self, status: int | None) -> None:
        """Note what is known when the answer begins. Later, ``harden`` forgets it."""
        self._started = True
        record, memory, audited = self._record, self._memory, self._audited
        record.status = None if record.ended == "left" else status  # what is sent to nobody is no answer
        record.request_id = memory.request_id
        record.trace_id = audited.trace_id(self._scope)
        record.guards = tuple(memory.decisions)
        for decision in memory.decisions.values():
            if isinstance(decision, Principal):
                record.principal = decision
                break
        else:
            record.principal = memory.blocked
        record.budget_left = memory.budget_left
        if status is None or status >= 400 or memory.refusal is not None:  # which a handler may answer with a redirect
            self._note_refusal(status)
        scope = memory.routed_scope or self._scope
        route = _fastapi.matched_route(scope)
        if route is self._route_before:  # refused before the router was asked, it may be
            resolved = audited.resolve(scope)
            route = None if resolved is scope else _fastapi.matched_route(resolved)
            scope = resolved
        if route is None or isinstance(route, Mount):
            record.path = self._scope["path"][:_MAX_REASON]
        else:
            record.route, record.prefix = route, audited.prefix(scope)

    def _note_refusal(self, status: int | None) -> None:
        guard, error = refusal_of(self._memory, status)
        if error is None and status != 500:
            return
        self._record.refusal = (None if guard is None else type(guard.whole).__name__, *_why(error))
        if guard is not None and guard.control is Control.BUDGET:
            field = _REMAINING.search((getattr(error, "headers", None) or {}).get("RateLimit", ""))
            if field is not None:
                left = {getattr(guard, "name", ""): int(field[1])}
                self._record.budget_left = {**(self._memory.budget_left or {}), **left}

    def note_end(self, error: BaseException) -> None:
        """Note that the app has not come to an end by itself."""
        if self._record.ended is None and not self._is_complete:
            self._record.ended = "broken" if isinstance(error, Exception) else "cancelled"

    def finish(self) -> None:
        """The request is over: put its record."""
        record = self._record
        if not self._started:
            self._start(None)
        if record.ended is None and not self._is_complete and self._scope["type"] == "http":
            record.ended = "broken"
        if not self._is_put:
            self._put()
        elif record.ended != self._told or self._scope["type"] == "websocket":
            self._put_end()
        # They lead back here: a request is freed at once, and not by the collector.
        self._memory.watchers.clear()
        self._memory.readers = ()

    def _put(self) -> None:
        record, audited = self._record, self._audited
        self._is_put = True
        self._told = record.ended
        record.is_closed = True
        record.address = audited.locate(self._scope)
        record.model = audited.model(self._scope)
        if audited.digest is not None and record.input is None and self._body and self._has_whole_body:
            record.input = audited.digest.of_body(b"".join(self._body))
        self._body = None
        record.took = time.perf_counter_ns() - self._began
        audited.log.put(record)

    def _put_end(self) -> None:
        """How a request has ended whose record could not wait for that."""
        facts = {
            "request_id": self._record.request_id,
            "ended": self._record.ended or "closed",
            "close_code": self._record.close_code,
            "latency_ms": round((time.perf_counter_ns() - self._began) / 1e6, 3),
        }
        self._audited.log.put({"event": "request.ended", "facts": facts})


def _why(error: Exception | None) -> tuple[str | None, str | None]:
    """The rule and the reason, for the operator."""
    if isinstance(error, MLGuardError):
        return error.rule, error.reason[:_MAX_REASON] or None
    told = error is None or isinstance(error, HTTPException | RequestValidationError)  # their texts may be anything
    return rule_of(error), None if told else type(error).__name__
