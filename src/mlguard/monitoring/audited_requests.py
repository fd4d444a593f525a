"""``install_audit_log(app, log)``: one record of each request and WebSocket, refused ones too."""

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from mlguard import _fastapi
from mlguard._guard import Control, Guard, Principal, RequestMemory, _Refusal
from mlguard.artifacts.served_model import ServedModel
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import (
    ConfigurationError,
    GuardFailedError,
    InsufficientScopeError,
    InvalidInputError,
    MLGuardError,
    UnavailableError,
)
from mlguard.hardening import _is_hardened, _security_headers
from mlguard.monitoring._request_records import InputDigest, RequestRecord
from mlguard.monitoring.log_context import Served, current_request, otel_trace_id
from mlguard.problems import answer_refusal
from mlguard.traffic.addresses import Address, ClientAddress, peer_address

logger = logging.getLogger("mlguard")

_RETRY_AFTER = 1  # seconds
_LARGEST_BODY = 1_048_576  # bytes kept to make a digest of; of a larger body that no guard has read there is none
_LARGEST_HEADERS = 1_024  # bytes kept until the address is made out by the thread that writes
_MAX_REASON = 500  # characters
_REMAINING = re.compile(r";r=([0-9]{1,16})", re.ASCII)
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE = "0" * 32

#: What begins the answer, and the status that it has where it says none itself.
_STARTS = {
    "http.response.start": None,
    "websocket.accept": 101,
    "websocket.close": 403,  # before it was accepted
    "websocket.http.response.start": None,
}
_LAST_PARTS = frozenset({"http.response.body", "websocket.http.response.body"})


@runtime_checkable
class RequestLog(Protocol):
    """Where records go: an :class:`AuditLog`, or something of your own with the same methods.

    Attributes:
        durability: ``"request"``: answers wait for their record.
    """

    durability: Any

    def put(self, event: Mapping[str, Any]) -> None:
        """Take an event. Must not wait, and not raise."""

    async def written(self) -> None:
        """Wait until all that was put is durable.

        Raises:
            UnavailableError: It cannot be made durable, and so the request is to be refused (503).
        """

    def accepts(self) -> bool:
        """Whether requests may go on."""

    def attach(self) -> None:
        """Take the events of the logger ``mlguard.audit``, too."""


def install_audit_log(
    app: FastAPI,
    log: RequestLog,
    *,
    model: ServedModel | Callable[[HTTPConnection], Any] | None = None,
    input_key: str | bytes | None = None,
    address: ClientAddress | None = None,
    trust_traceparent: bool = False,
) -> None:
    """Record every request and WebSocket of a hardened app, whatever becomes of it.

    A record says when, who, from where, by which route, with what status and in what time; which guards have decided,
    which one has refused, and why; how many rows, what is left of budgets, which model has answered with which labels,
    and a digest of what it was asked. Never what was asked, nor what was answered, nor a query string, a header, a key
    or a token. It also has the log take the other events of mlguard: logins, secrets, models, keys.

    A WebSocket has one record when it ends, and so has a stream. With ``durability="request"`` the first byte leaves
    once the record is on the disk, so the record is made then: its time is the time up to there, and it says nothing of
    what comes later. Where that ends badly, an event ``request.ended`` says so.

    A request that a log refuses (``on_failure="refuse"``) is answered with a 503 before a guard is asked or a byte of
    its body is read.

    The record of a request is made by the outermost app. An app that is mounted in it needs no log of its own. Where an
    endpoint hands its request on to an app, that is another request, with a record of its own.

    Call it after ``harden(app)``::

        harden(app)
        install_audit_log(app, AuditLog("/var/log/iris", key=KEY), input_key=INPUT_KEY)

    Args:
        app: The application.
        log: Where records go. It is not closed when the app ends, as the app may be started again; an ``AuditLog``
            closes itself when the process ends.
        model: The ``ServedModel`` that answers, or a function of the request that returns what has ``name``,
            ``version`` and ``digest``, or None. It is called for every request, so it must not wait.
        input_key: The secret of the digests of inputs, at least 128 bits. None: there are none. Who has it can find out
            whether a question was asked that they can guess, so it is not the key of the log. Of what a guard has read
            (``Features``, ``Text``, ``ImageInput``) the digest is made of the value, with its dtype and shape; else of
            the body, in which JSON is brought into one form. So equal questions have equal digests, in all processes.
        address: How a caller's address is found behind proxies. None: the address of the socket's other end.
        trust_traceparent: Whether the trace id is taken from the header ``traceparent`` (W3C Trace Context) where
            OpenTelemetry has no active span. Only where a proxy of your own sets it: callers can write one, and choose
            somebody else's id.

    Raises:
        ConfigurationError: The app is not hardened, runs already or has a log; something that is no log; a key that can
            be guessed; or another setting that cannot work.
    """
    if not isinstance(app, FastAPI) or not _is_hardened(app):
        raise ConfigurationError(
            "install_audit_log takes a hardened app: harden(app), then install_audit_log(app, log)"
        )
    if app.middleware_stack is not None:
        raise ConfigurationError("call install_audit_log(app, log) before the app serves its first request")
    if isinstance(log, type) or not isinstance(log, RequestLog):
        raise ConfigurationError("install_audit_log(app, log): the log is an AuditLog(...)")
    if model is not None and not isinstance(model, ServedModel) and not callable(model):
        raise ConfigurationError("install_audit_log(model=...) is a ServedModel(...), or a function of the request")
    if not isinstance(address, ClientAddress | None):
        raise ConfigurationError("install_audit_log(address=...) is ClientAddress(trusted_proxies=[...])")
    if type(trust_traceparent) is not bool:
        raise ConfigurationError("install_audit_log(trust_traceparent=...) is True or False")
    build_stack: Any = app.build_middleware_stack
    if getattr(build_stack, "__mlguard_audited__", False):
        raise ConfigurationError("install_audit_log(app, log) was called twice")
    key = None if input_key is None else secret_bytes(input_key, where="install_audit_log(input_key=...)")

    def build_middleware_stack() -> ASGIApp:
        return _Audited(
            build_stack(),
            app,
            log,
            model=_model_of(model),
            digest=None if key is None else InputDigest(key),
            address=address,
            trust_traceparent=trust_traceparent,
        )

    build_middleware_stack.__mlguard_audited__ = True  # type: ignore[attr-defined]  # ours
    # Outermost, around harden: it sees what is really sent.
    app.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]  # as harden does
    log.attach()


def _model_of(model: ServedModel | Callable[[HTTPConnection], Any] | None) -> Callable[[Scope], Any] | None:
    if model is None:
        return None
    if isinstance(model, ServedModel):
        return lambda _: model.version
    return lambda scope: model(HTTPConnection(scope))


class _Audited:
    """Outermost of all."""

    def __init__(
        self,
        app: ASGIApp,
        hardened: FastAPI,
        log: RequestLog,
        *,
        model: Callable[[Scope], Any] | None,
        digest: InputDigest | None,
        address: ClientAddress | None,
        trust_traceparent: bool,
    ) -> None:
        self._app = app
        self._hardened = hardened
        self.log = log
        self.is_durable = log.durability == "request"
        self._model = model
        self.digest = digest
        self._address = address
        self._trusts_traceparent = trust_traceparent
        self._prefixes: dict[int, str] | None = None
        self._has_failed = False
        self._refusal_headers = [*_security_headers().items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        memory = self._memory(scope) if kind in {"http", "websocket"} else None
        if memory is None:
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send, memory)
        served = Served(memory)
        before = current_request.set(served)
        try:
            if self.log.accepts():
                await self._app(scope, exchange.receive, exchange.send)
            else:
                memory.request_id = secrets.token_hex(8)
                await exchange.refuse(UnavailableError("the audit log cannot be written", retry_after=_RETRY_AFTER))
        except BaseException as error:
            exchange.note_end(error)
            raise
        finally:
            current_request.reset(before)
            served.end()
            exchange.finish()

    def _memory(self, scope: Scope) -> RequestMemory | None:
        """The memory of a request that is to be recorded here; None if that is done already."""
        memory = RequestMemory.of(scope)
        if memory.plan is not None or self in memory.recorders:  # an endpoint has handed its request on
            memory = RequestMemory.renew(scope)
        elif any(getattr(one, "log", None) is self.log for one in memory.recorders):
            return None
        memory.recorders = (*memory.recorders, self)
        return memory

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The lifespan: what was put is durable before the server is told that the app has ended."""
        self.log.attach()

        async def send_after(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                try:
                    await self.log.written()
                except UnavailableError as error:
                    logger.error("the app has ended, and not all of its audit log is written: %s", error.reason)
            await send(message)

        await self._app(scope, receive, send_after)

    @property
    def refusal_headers(self) -> list[tuple[bytes, bytes]]:
        """What ``harden`` would add to a refusal."""
        return self._refusal_headers

    def locate(self, scope: Scope) -> Callable[[], Address | None]:
        """What finds the address of a caller, later: it keeps no more of the request than it needs."""
        client = scope.get("client")
        if self._address is None:
            return partial(_peer, client)
        lines = [line for line in scope["headers"] if line[0] == self._address.header_name]
        kept = HTTPConnection({"type": "http", "client": client, "headers": lines})
        if sum([len(value) for _, value in lines]) <= _LARGEST_HEADERS:
            return partial(self._address.address, kept)
        found = self._address.address(kept)
        return lambda: found

    def trace_id(self, scope: Scope) -> int | str:
        """The trace that a request belongs to, if that is known."""
        trace: int | str = otel_trace_id()
        if not trace and self._trusts_traceparent:
            values = [value for name, value in scope["headers"] if name == b"traceparent"]
            found = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
            trace = found[1].decode() if found is not None else ""
            return "" if trace == _NO_TRACE else trace
        return trace

    def model(self, scope: Scope) -> Any:
        """Which model answers now. A function that fails is no reason to refuse a request, or to record none."""
        if self._model is None:
            return None
        try:
            return self._model(scope)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                logger.exception("install_audit_log(model=...) failed; records have no model where it does")
            return None

    def resolve(self, scope: Scope) -> Scope:
        """The scope as the router would leave it."""
        return _fastapi.resolve(self._hardened, scope)

    def prefix(self, scope: Scope) -> str:
        """Where the app of the matched route is mounted, as it was declared: never what the caller has asked for."""
        app = scope.get("app")
        if app is self._hardened:
            return ""
        if self._prefixes is None:
            self._prefixes = {id(mounted): path for path, mounted in _fastapi.mounted_apps(self._hardened)}
        return self._prefixes.get(id(app), "")


def _peer(client: tuple[str, int] | None) -> Address | None:
    return peer_address(HTTPConnection({"type": "http", "client": client}))


class _Exchange:
    """One request and what is sent for it."""

    _body_size = 0
    _started = _is_complete = _is_put = _is_withheld = False

    def __init__(self, audited: _Audited, scope: Scope, receive: Receive, send: Send, memory: RequestMemory) -> None:
        self._began = time.perf_counter_ns()
        self._audited = audited
        self._scope = scope
        self._receive = receive
        self._send = send
        self._memory = memory
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
                if self._audited.is_durable and not await self._is_durable():
                    return
            elif self._audited.is_durable:  # hints that come before an answer: it may never come
                return
        elif kind == "websocket.close":
            self._record.close_code = message.get("code", 1000)
        if kind in _LAST_PARTS:
            self._is_complete = not message.get("more_body", False)
        elif kind not in _STARTS:
            self._is_complete = kind == "http.response.pathsend"
        try:
            await self._send(message)
        except OSError:  # how servers say that the client has gone
            self._record.ended = "left"
            raise

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
        record.rows = units if isinstance(units, int) else len(units)
        if digest is not None:
            record.input = digest.of_value(value)
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
        if status is None or status >= 400:
            self._note_refusal(status)
        scope = memory.routed_scope or self._scope
        route = _fastapi.matched_route(scope)
        if route is None:  # refused before the router was asked, it may be
            scope = audited.resolve(scope)
            route = _fastapi.matched_route(scope)
        if route is None or isinstance(route, Mount):
            record.path = self._scope["path"][:_MAX_REASON]
        else:
            record.route, record.prefix = route, audited.prefix(scope)

    def _note_refusal(self, status: int | None) -> None:
        guard, error = refusal_of(self._memory)
        if error is None and status != 500:
            return
        self._record.refusal = (None if guard is None else type(guard).__name__, *_why(error))
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
        elif record.ended is not None or self._scope["type"] == "websocket":
            self._put_end()
        # They lead back here: a request is freed at once, and not by the collector.
        self._memory.watchers.clear()
        self._memory.readers = ()

    def _put(self) -> None:
        record, audited = self._record, self._audited
        self._is_put = True
        record.is_closed = True
        record.address = audited.locate(self._scope)
        record.model = audited.model(self._scope)
        if audited.digest is not None and record.input is None and self._body:
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


def refusal_of(memory: RequestMemory) -> tuple[Guard | None, Exception | None]:
    """The guard that has refused a request, and the refusal. Other guards may have said no before one said yes."""
    error = memory.refused_with
    refusals = {guard: decision.error for guard, decision in memory.decisions.items() if type(decision) is _Refusal}
    for guard, refusal in refusals.items():
        if error is refusal or (error is not None and error.__cause__ is refusal):
            return guard, error
    if isinstance(error, InsufficientScopeError):
        # The guard has said who it is, and admitted; what the route demands of them is judged after that.
        proofs = [guard for guard in memory.decisions if guard.control is Control.AUTHENTICATION]
        return (proofs[-1] if proofs else None), error
    if error is None:  # a guard that has crashed is answered by nobody
        crashed = [(guard, one) for guard, one in refusals.items() if not isinstance(one, HTTPException)]
        return crashed[-1] if crashed else (None, None)
    return None, error


def _why(error: Exception | None) -> tuple[str | None, str | None]:
    """The rule and the reason, for the operator."""
    if isinstance(error, MLGuardError):
        return error.rule, error.reason[:_MAX_REASON] or None
    if isinstance(error, RequestValidationError):
        return InvalidInputError.rule, None
    if isinstance(error, HTTPException):
        return f"http-{error.status_code}", None
    return GuardFailedError.rule, None if error is None else type(error).__name__
