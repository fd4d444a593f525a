"""``install_audit_log(app, log)``: one record of each request and WebSocket, refused ones too."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from functools import partial
from typing import Any, Protocol, runtime_checkable

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.routing import Host, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard import _fastapi
from mlguard._guard import RequestMemory
from mlguard._request_ids import new_request_id
from mlguard.artifacts.served_model import ServedModel
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import (
    ConfigurationError,
    UnavailableError,
)
from mlguard.hardening import _is_hardened, _security_headers
from mlguard.monitoring._audited_exchange import Exchange
from mlguard.monitoring._probes import HEALTH, Probes
from mlguard.monitoring._request_records import InputDigest, model_facts
from mlguard.monitoring.log_context import Served, current_request, otel_trace_id
from mlguard.traffic.addresses import Address, ClientAddress, peer_address

logger = logging.getLogger("mlguard")

_RETRY_AFTER = 1  # seconds
_LARGEST_HEADERS = 1_024  # bytes kept until the address is made out by the thread that writes
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE = "0" * 32


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
    health: Sequence[str] = HEALTH,
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
    its body is read. Not so the probes of an orchestrator, which would only restart what cannot write: ``health``.

    The record of a request is made by the outermost app. An app that is mounted in it needs no log of its own. Where an
    endpoint hands its request on to an app, that is another request, with a record of its own.

    Call it after ``harden(app)``::

        harden(app)
        install_audit_log(app, AuditLog("/var/log/iris", key=KEY), input_key=INPUT_KEY)

    Args:
        app: The application.
        log: Where records go. It is not closed when the app ends, as the app may be started again; the chain of an
            ``AuditLog`` ends there, and what comes later begins another one.
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
        health: Paths whose GET, HEAD and OPTIONS are answered also where their record cannot be written, exactly as a
            probe asks for them.

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
    probes = Probes(health, where="install_audit_log(health=...)")
    key = None if input_key is None else secret_bytes(input_key, where="install_audit_log(input_key=...)")

    def build_middleware_stack() -> ASGIApp:
        return Audited(
            build_stack(),
            app,
            log,
            model=_model_of(model),
            digest=None if key is None else InputDigest(key),
            address=address,
            trust_traceparent=trust_traceparent,
            probes=probes,
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
    # Read at once, because what it returns may be another one when the record is written.
    return lambda scope: model_facts(model(HTTPConnection(scope)))


class Audited:
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
        probes: Probes,
    ) -> None:
        self._app = app
        self._hardened = hardened
        self.log = log
        self._is_durable = log.durability == "request"
        self._probes = probes
        self._model = model
        self.digest = digest
        self._address = address
        self._trusts_traceparent = trust_traceparent
        self._prefixes: dict[int, str] | None = None
        self._has_failed = False
        self._refusal_headers = [*_security_headers().items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and record it when it is over."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        memory = self._memory(scope) if kind in {"http", "websocket"} else None
        if memory is None:
            await self._app(scope, receive, send)
            return
        is_probe = self._probes.covers(scope)
        exchange = Exchange(self, scope, receive, send, memory, waits=self._is_durable and not is_probe)
        served = Served(memory)
        before = current_request.set(served)
        try:
            if is_probe or self.log.accepts():
                await self._app(scope, exchange.receive, exchange.send)
            else:
                memory.request_id = new_request_id()
                await exchange.refuse(UnavailableError("the audit log cannot be written", retry_after=_RETRY_AFTER))
        except BaseException as error:
            exchange.note_end(error)
            raise
        finally:
            _leave(before)
            served.end()
            exchange.finish()

    def _memory(self, scope: Scope) -> RequestMemory | None:
        """The memory of a request that is to be recorded here; None if that is done already."""
        memory = RequestMemory.of(scope)
        if memory.plan is not None or self in memory.recorders or _has_endpoint(scope):  # which has handed it on
            memory = RequestMemory.renew(scope)
        elif any(getattr(one, "log", None) is self.log for one in memory.recorders):
            return None
        memory.recorders = (*memory.recorders, self)
        return memory

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The lifespan: what was put is durable before the server is told that the app has ended.

        The chain ends there, too. uvicorn ends its process by the signal that it was sent, and then nothing is run.
        """
        self.log.attach()
        end = getattr(self.log, "end_chain", self.log.written)

        async def send_after(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                try:
                    await end()
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


def _has_endpoint(scope: Scope) -> bool:
    """Whether a router has chosen an endpoint already, and not just an app that is mounted."""
    route = _fastapi.matched_route(scope)
    return route is not None and not isinstance(route, Mount | Host)


def _leave(before: Token[Served | None]) -> None:
    """Nothing is served here any more."""
    try:
        current_request.reset(before)
    except ValueError:  # closed from elsewhere, as the collector does: the context it was set in has ended
        return


def _peer(client: tuple[str, int] | None) -> Address | None:
    return peer_address(HTTPConnection({"type": "http", "client": client}))
