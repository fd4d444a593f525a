"""``harden(app)``: what guards cannot do as dependencies."""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from secure import Preset, Secure
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard import _fastapi
from mlguard._body import IncomingBody
from mlguard._body_forms import check_bodies
from mlguard._guard import RequestMemory
from mlguard._numbers import is_number, whole
from mlguard._order import judge
from mlguard._request_ids import new_request_id
from mlguard._shortcuts import Shortcuts
from mlguard._start_checks import check_buckets, check_decorators, check_models
from mlguard._workers import second_of_several
from mlguard.errors import BodyTooLargeError, ConfigurationError, MLGuardError
from mlguard.openapi import document_guards
from mlguard.outputs._endpoint import TIMING_HEADERS
from mlguard.problems import (
    answer_refusal,
    answer_websocket_validation,
    crash_problem,
    log_crash,
    log_departure,
    logger,
    refusal_problem,
    unwrap,
)
from mlguard.settings import load_settings
from mlguard.store import Store
from mlguard.traffic._counting import CountingGuard

# The documentation pages load Swagger UI and ReDoc from a content delivery network and start them with inline script.
_DOCS_CSP = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com; "
    "font-src https://fonts.gstatic.com; img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; "
    "worker-src blob:; frame-ancestors 'none'"
)


def harden(
    app: FastAPI,
    *,
    max_body_size: int = 1_048_576,
    body_timeout: float = 30.0,
    docs: bool | None = None,
) -> None:
    """Install what guards cannot do as dependencies.

    Guards work without it. With it:

    - every refusal and crash is an RFC 9457 problem with a request id; crashes are logged in full, once, and answered
      with nothing, also when a stream breaks half way. Handlers that you registered yourself stay yours;
    - guards are judged before one byte of the body is read, however the endpoint declares it;
    - bodies are limited in size and time, after authentication;
    - every answer carries security headers (the STRICT preset of the ``secure`` package), the request id, and what
      guards have to say, such as ``RateLimit``, also when the endpoint returns its own ``Response``;
    - in production, no answer has a header that tells how long it took: ``X-Process-Time``, ``Server-Timing``,
      ``X-Response-Time``, ``X-Runtime``;
    - documentation pages are off in production, and show guards, their refusals, the body they expect and the answer as
      it is sent elsewhere;
    - settings that cannot work, such as a missing key or two guards that want different bodies, stop the start-up.

    Call it once, before or after the routes are declared. A mounted app is covered by the outer one's limits and
    headers; harden it too for problems and documentation of its own.

    Args:
        app: The application.
        max_body_size: Bytes. A declared length is judged before the endpoint runs, a chunked body while it is read.
        body_timeout: Seconds that a body may take to arrive.
        docs: Whether to serve ``/docs``, ``/redoc`` and ``/openapi.json``. None: only with
            ``MLGUARD_ENV=development``.

    Raises:
        ConfigurationError: A setting that cannot work, ``debug=True`` in production, or an app that is hardened or
            running already.
    """
    if not isinstance(app, FastAPI):
        raise ConfigurationError("harden takes the app itself: app = FastAPI(), then harden(app)")
    whole("harden(max_body_size=...)", max_body_size, least=1)
    if not is_number(body_timeout) or not 0 < body_timeout < float("inf"):
        raise ConfigurationError("harden(body_timeout=...) is a number of seconds above 0")
    if app.middleware_stack is not None:
        raise ConfigurationError("call harden(app) before the app serves its first request")
    if _is_hardened(app):
        raise ConfigurationError("harden(app) was called twice")
    settings = load_settings()
    settings.source()  # cannot be asked yet, but must be one
    development = settings.env == "development"
    if docs is None:
        docs = development
    _check_debug(app, development=development)
    docs_paths = _fastapi.docs_paths(app)
    if not docs:
        _fastapi.remove_docs(app)
    document_guards(app)
    shortcuts = Shortcuts(app)
    # Innermost, whatever is added later: what reads the body from here on has been routed.
    app.user_middleware.append(Middleware(_RouteWatch, hardened=app, shortcuts=shortcuts))

    build_stack = app.build_middleware_stack

    def build_middleware_stack() -> ASGIApp:
        _install_handlers(app)
        return _Hardened(
            build_stack(),
            app,
            shortcuts,
            max_body_size=max_body_size,
            body_timeout=body_timeout,
            docs_paths=docs_paths if docs else frozenset(),
            development=development,
        )

    # Outermost, whatever is added later: it sees every answer and every crash.
    app.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]  # as FastAPI's docs do for openapi


def _install_handlers(app: FastAPI) -> None:
    """Replace FastAPI's default handlers, and no others."""
    handlers = app.exception_handlers
    if handlers.get(HTTPException) is _fastapi.DEFAULT_HTTP_HANDLER:
        handlers[HTTPException] = answer_refusal  # type: ignore[assignment]  # Starlette types handlers too narrowly
    if handlers.get(RequestValidationError) is _fastapi.DEFAULT_VALIDATION_HANDLER:
        handlers[RequestValidationError] = answer_refusal  # type: ignore[assignment]  # narrower than any Exception
    websocket_handler: Any = handlers.get(WebSocketRequestValidationError)
    if websocket_handler is _fastapi.DEFAULT_WEBSOCKET_HANDLER:
        handlers[WebSocketRequestValidationError] = answer_websocket_validation  # type: ignore[assignment]  # as above
    if 500 not in handlers:
        handlers.setdefault(Exception, answer_refusal)  # type: ignore[arg-type]  # as above


class _RouteWatch:
    """Innermost: shows the outermost middleware the scope in which the router will leave the route."""

    def __init__(self, app: ASGIApp, hardened: FastAPI, shortcuts: Shortcuts) -> None:
        self._app = app
        self._hardened = hardened
        self._shortcuts = shortcuts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            self._shortcuts.give_way()
            memory = RequestMemory.of(scope)
            memory.routed_scope = scope
            if memory.body is not None:
                if memory.body.too_large:
                    await self._refuse_too_large(memory.body, scope, receive, send)
                    return
                receive = memory.body.route(receive)
        await self._app(scope, receive, send)

    async def _refuse_too_large(self, body: IncomingBody, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a declared length before the endpoint runs, but tell nobody who is not authenticated."""
        request = Request(_fastapi.resolve(self._hardened, scope))
        try:
            await judge(request, RequestMemory.of(scope))
            raise BodyTooLargeError(f"declared {body.declared} bytes")
        except HTTPException as refusal:
            await refusal_problem(request, refusal)(scope, receive, send)


class _Hardened:
    """Outermost: memory, body, headers and crashes of each request."""

    def __init__(
        self,
        app: ASGIApp,
        hardened: FastAPI,
        shortcuts: Shortcuts,
        *,
        max_body_size: int,
        body_timeout: float,
        docs_paths: frozenset[str],
        development: bool,
    ) -> None:
        self._app = app
        self._hardened = hardened
        self._shortcuts = shortcuts
        self._max_body_size = max_body_size
        self._body_timeout = body_timeout
        self._docs_paths = docs_paths
        self._development = development
        self._checked = False
        self._routes: Sequence[_fastapi.RouteInfo] = ()
        self._stores: Sequence[Store] = ()
        # One request id, the one that is logged; and nobody outside is told how long the model takes.
        self._withheld = frozenset({b"x-request-id"}) | (frozenset() if development else TIMING_HEADERS)
        self._headers = _security_headers()
        self._docs_headers = _security_headers(csp=_DOCS_CSP)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._start(scope, receive, send)
            return
        if not self._checked:  # a server without lifespan
            self._check()
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        memory = RequestMemory.of(scope)
        if memory.request_id and memory.plan is None:  # inside another hardened app, which does all of this
            await self._app(scope, receive, send)
            return
        if memory.plan is not None:  # an endpoint has handed its request on: to the guards it is another one
            memory = RequestMemory.renew(scope)
        memory.request_id = new_request_id()
        if scope["type"] == "http":
            memory.body = IncomingBody(scope, receive, memory, max_size=self._max_body_size, timeout=self._body_timeout)
            receive = memory.body.receive_outermost
        answer = _Answer(scope, send, memory, self._headers_for(scope), self._withheld)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as crash:
            if isinstance(unwrap(crash), ClientDisconnect):
                log_departure(HTTPConnection(scope), memory.request_id)
            elif not isinstance(unwrap(crash), MLGuardError):  # a middleware that read the body: answered already
                log_crash(HTTPConnection(scope), crash, memory.request_id)
            await answer.close_after_crash(receive)
        finally:
            memory.close()

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the whole app before it starts: a server must not come up with a guard that cannot work."""
        try:
            self._check()
            for store in self._stores:
                await store.check_access()
        except ConfigurationError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise

        async def send_checked(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                check_models(self._routes, self._hardened.dependency_overrides)  # ends the app's lifespan, if it raises
            await send(message)

        if not any(store.forgets_on_restart for store in self._stores):
            await self._app(scope, receive, send_checked)
            return
        with second_of_several(_name(self._hardened, self._routes)) as is_second:
            if is_second:
                logger.error(
                    "several processes serve this app, and each counts and remembers by itself (memory://): every "
                    "limit holds once for each of them, and a nonce is single-use in each. Set MLGUARD_STORE_URL"
                )
            await self._app(scope, receive, send_checked)

    def _check(self) -> None:
        _check_debug(self._hardened, development=self._development)
        for path, mounted in _fastapi.mounted_apps(self._hardened):
            _check_debug(mounted, development=self._development)
            if not _is_hardened(mounted):
                logger.warning("the app mounted at %s has its own errors and documentation pages: harden it too", path)
        self._routes = [*_fastapi.routes_of(self._hardened)]
        check_decorators(self._routes)
        check_bodies(self._routes, self._hardened.dependency_overrides)
        guards = dict.fromkeys(guard for route in self._routes for guard in route.guards)
        overrides: Mapping[Any, Any] = self._hardened.dependency_overrides
        judging = [guard for guard in guards if guard not in overrides]  # a test without keys needs none
        for guard in judging:
            guard.check()
        check_buckets([guard for guard in guards if isinstance(guard, CountingGuard)])
        self._stores = [*{id(store): store for guard in judging for store in guard.stores}.values()]
        self._shortcuts.install()
        self._checked = True

    def _headers_for(self, scope: Scope) -> dict[bytes, bytes]:
        if self._docs_paths and scope["path"].removeprefix(scope.get("root_path", "")) in self._docs_paths:
            return self._docs_headers
        return self._headers


_FIRST_MESSAGES = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class _Answer:
    """What leaves: the app's answer with the headers that guards and ``harden`` add."""

    __slots__ = ("_headers", "_memory", "_scope", "_send", "_started", "_withheld")

    def __init__(
        self,
        scope: Scope,
        send: Send,
        memory: RequestMemory,
        headers: dict[bytes, bytes],
        withheld: frozenset[bytes],
    ) -> None:
        self._scope = scope
        self._send = send
        self._memory = memory
        self._headers = headers
        self._withheld = withheld
        self._started = False

    async def send(self, message: Message) -> None:
        """Pass a message on, the first one with more headers."""
        if message["type"] in _FIRST_MESSAGES:
            self._started = self._memory.answered = True
            message = {**message, "headers": self._with_headers(message.get("headers", ()))}
        await self._send(message)

    def _with_headers(self, given: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        given = [header for header in given if header[0].lower() not in self._withheld]
        names = {name.lower() for name, _ in given}
        if names.isdisjoint(self._headers):
            headers = [*given, *self._headers.items(), *self._memory.headers]
        else:
            added = [(name, value) for name, value in self._headers.items() if name not in names]
            headers = [*given, *added, *self._memory.headers]
        headers.append((b"x-request-id", self._memory.request_id.encode()))
        body = self._memory.body
        http1 = str(self._scope.get("http_version", "1.1")).startswith("1")
        if body is not None and body.leaves_rest and http1 and b"connection" not in names:
            headers.append((b"connection", b"close"))
        return headers

    async def close_after_crash(self, receive: Receive) -> None:
        """Say that it crashed, if nothing was said yet. A stream that broke is left broken: the client must see it."""
        if self._scope["type"] == "websocket":
            with contextlib.suppress(Exception):  # the peer may have gone
                await self.send({"type": "websocket.close", "code": 1011})  # internal error (RFC 6455, section 7.4.1)
        elif not self._started:
            await crash_problem(self._memory.request_id)(self._scope, receive, self.send)


def _security_headers(csp: str | None = None) -> dict[bytes, bytes]:
    headers = {name.lower(): value for name, value in Secure.from_preset(Preset.STRICT).headers.items() if value}
    if csp is not None:
        headers["content-security-policy"] = csp
        del headers["cross-origin-embedder-policy"]
    return {name.encode(): value.encode() for name, value in headers.items()}


def _is_hardened(app: FastAPI) -> bool:
    return any(getattr(middleware, "cls", None) is _RouteWatch for middleware in app.user_middleware)


def _name(app: FastAPI, routes: Sequence[_fastapi.RouteInfo]) -> str:
    """The same in every process that serves this app, and in no other."""
    code = [getattr(inspect.unwrap(route.endpoint), "__code__", None) for route in routes if route.endpoint is not None]
    files = [getattr(one, "co_filename", "") for one in code]
    return f"{app.title} {[route.path for route in routes]} {files}"


def _check_debug(app: FastAPI, *, development: bool) -> None:
    if app.debug and not development:
        raise ConfigurationError(
            "FastAPI(debug=True) sends tracebacks to callers; remove it, or set MLGUARD_ENV=development on your machine"
        )
