"""For apps that come from slowapi: its limits by who is calling, or its decorators without it.

``principal_key`` makes a ``key_func`` for slowapi's own ``Limiter``. ``Limiter`` takes its place by a change of the
import, and so does ``SlowAPIMiddleware``: the same decorators and default limits, counted in mlguard's store by
mlguard's rules. It does not need slowapi.
"""

import functools
import inspect
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard import _fastapi
from mlguard._guard import Control, Guard, principal_of
from mlguard.compat._slowapi_settings import Settings, asking, check_environment, check_unsupported
from mlguard.errors import ConfigurationError, MLGuardError, RateLimitedError
from mlguard.problems import refusal_problem
from mlguard.store import Decision, Store, default_store, store_from_url, store_key
from mlguard.traffic.addresses import client_address
from mlguard.traffic.limits import Limits
from mlguard.traffic.outages import OnStoreError, counts_of

_serial = itertools.count(1)

#: Under slowapi's name, for handlers that an app has registered.
RateLimitExceeded = RateLimitedError


def get_remote_address(request: HTTPConnection) -> str:
    """The address of the socket's other end, an IPv6 address by its /64, for ``key_func``."""
    return client_address(request)


def _rate_limit_exceeded_handler(request: Request, exc: RateLimitedError) -> Response:
    """A refusal as a problem (RFC 9457). Under ``harden``, it is one without this handler too."""
    return refusal_problem(request, exc)


def principal_key(caller: Guard, *, otherwise: Callable[[Request], str] | None = None) -> Callable[[Request], str]:
    """A ``key_func`` for slowapi that names the principal whom a guard has proved.

    One caller shares one count from all addresses, and two callers behind one address have their own::

        limiter = Limiter(key_func=principal_key(caller))

        @app.post("/predict", dependencies=[Depends(caller)])
        @limiter.limit("60/minute")
        def predict(request: Request): ...

    The guard must be used on the route. slowapi's decorator counts when the endpoint is called, after the guard. Its
    middleware counts before any guard has judged, so there ``otherwise`` is what names the caller.

    Args:
        caller: The guard, such as ``APIKeyAuth``.
        otherwise: Names callers where the guard has not judged the request, such as slowapi's ``get_remote_address``.
            Default: none. Such a request is then refused with an error that says so, and counts for nobody.

    Returns:
        A function of the request. The keys that it makes are digests: stores and logs get no names.

    Raises:
        ConfigurationError: At construction: ``caller`` does not say who is calling. When called: it has not judged the
            request, and there is no ``otherwise``.
    """
    if not isinstance(caller, Guard) or caller.control is not Control.AUTHENTICATION:
        raise ConfigurationError("principal_key takes a guard that says who is calling, such as APIKeyAuth")

    def key_func(request: Request) -> str:  # slowapi passes the request only to a parameter of this name
        try:
            principal = principal_of(request, caller)
        except ConfigurationError:
            if otherwise is None:
                raise
            return store_key("slowapi", "otherwise", str(otherwise(request))).hex()
        return store_key("slowapi", "principal", *principal.identity).hex()

    return key_func


class Limiter:
    """slowapi's ``Limiter`` and its decorators, on mlguard's store.

    ::

        limiter = Limiter(by=caller)

        @app.post("/predict", dependencies=[Depends(caller)])
        @limiter.limit("60/minute;1000/day")
        def predict(request: Request): ...

    As with slowapi, a decorator counts when the endpoint is called, after the body was read, and stands below the
    route's own. Unlike it: windows slide, so that no stretch of that length has more than the limit; all limits of one
    decorator are one decision; a path with parameters is one count; a limit that cannot be read is an
    error, not an open door, and so is a function that is to be awaited; and a refusal is a ``RateLimitedError``. What
    it has no equivalent for is an error too, and so are the ``RATELIMIT_`` settings of the environment and of
    ``.env``, which slowapi reads.

    Args:
        key_func: Names the caller by a text, a number or None: a plain function of the request, or of nothing.
        default_limits: For endpoints without a decorator, with :class:`SlowAPIMiddleware`, and for those whose
            decorators say ``override_defaults=False``. One decision, and one count for each endpoint.
        by: A guard that says who is calling, in the place of ``key_func``. The route uses it.
        headers_enabled: Whether answers carry ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset``. As with slowapi, an
            endpoint that does not return a ``Response`` then has a parameter ``response: Response``.
        storage_uri: Where to count, as for ``MLGUARD_STORE_URL``. None: the store that all guards share.
        key_prefix: Begins the name of every count: apps that share a store and are not to share counts need one each.
        key_style: ``"url"``: an endpoint has one count for each path of a route that it is at. ``"endpoint"``: one.
        enabled: Whether anything is counted; it can be set, for tests.
        store: Where to count, in the place of ``storage_uri``.
        on_store_error: What happens while the store does not answer, as for ``RateLimit``.
        local_share: As for ``RateLimit``.
        **unsupported: slowapi's other arguments, with the values that change nothing.

    Raises:
        ConfigurationError: Nobody is named, a limit cannot be read, or an argument asks for what there is not.
    """

    def __init__(
        self,
        key_func: Callable[..., str] | None = None,
        default_limits: Sequence[str | Callable[..., str]] = (),
        *,
        by: Guard | None = None,
        headers_enabled: bool = False,
        storage_uri: str | None = None,
        key_prefix: str = "",
        key_style: Literal["url", "endpoint"] = "url",
        enabled: bool = True,
        store: Store | None = None,
        on_store_error: OnStoreError = "refuse",
        local_share: float = 0.1,
        **unsupported: Any,
    ) -> None:
        if (key_func is None) == (by is None):
            raise ConfigurationError("Limiter takes by=, a guard that says who is calling, or key_func=")
        if by is not None and default_limits:
            raise ConfigurationError(
                "Limiter(default_limits=...) counts before any guard has judged: name callers by "
                "key_func=principal_key(caller, otherwise=get_remote_address), or give the app RateLimit(by=caller)"
            )
        if key_style not in {"url", "endpoint"}:
            raise ConfigurationError('Limiter(key_style=...) is "url" or "endpoint"')
        check_unsupported(unsupported)
        check_environment()
        if store is None:
            store = (
                default_store() if storage_uri is None else store_from_url(storage_uri, where="Limiter(storage_uri)")
            )
        self.enabled = enabled
        self._key_style = key_style
        self._key_func = asking(principal_key(by) if by is not None else key_func, where="Limiter(key_func=...)")
        self._defaults = Settings(default_limits, where="Limiter(default_limits=...)") if default_limits else None
        self._headers_enabled = headers_enabled
        self._prefix = f"{key_prefix} #{next(_serial)}" if store.forgets_on_restart else key_prefix
        self._counts = counts_of(store, on_store_error, local_share, where="Limiter")
        #: Endpoints that have a decorator, and whether all of theirs leave the default limits in force.
        self._decorated: dict[Any, bool] = {}
        self._exempt: set[Any] = set()

    def limit(  # noqa: PLR0917  # slowapi's
        self,
        limit_value: str | Callable[..., str],
        key_func: Callable[..., str] | None = None,
        per_method: bool = False,  # slowapi's
        methods: Sequence[str] | None = None,
        error_message: str | Callable[[], str] | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,  # as above
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Limit one endpoint. The arguments are slowapi's.

        Raises:
            ConfigurationError: A limit that cannot be read, an endpoint without ``request``, or a function that is to
                be awaited. When called: a limit, a cost or a key that a function has returned cannot be used.
            RateLimitedError: When called: the limit is used up (429).
        """
        settings = Settings(
            [limit_value],
            where="limiter.limit",
            key_func=key_func,
            per_method=per_method,
            methods=methods,
            error_message=error_message,
            exempt_when=exempt_when,
            cost=cost,
        )
        return self._decorator(settings, override_defaults=override_defaults)

    def shared_limit(  # noqa: PLR0917  # slowapi's
        self,
        limit_value: str | Callable[..., str],
        scope: str | Callable[[str], str],
        key_func: Callable[..., str] | None = None,
        error_message: str | Callable[[], str] | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,  # as above
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Limit several endpoints by one count, which ``scope`` names. The arguments are slowapi's. Raises as limit."""
        settings = Settings(
            [limit_value],
            where="limiter.shared_limit",
            key_func=key_func,
            error_message=error_message,
            exempt_when=exempt_when,
            cost=cost,
            scope=scope,
        )
        return self._decorator(settings, override_defaults=override_defaults)

    def exempt(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
        """Leave an endpoint without a limit, also of ``default_limits``."""
        self._exempt.add(inspect.unwrap(endpoint))
        return endpoint

    def _decorator(
        self, settings: Settings, *, override_defaults: bool
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        if not override_defaults and self._defaults is None:
            raise ConfigurationError("override_defaults=False: this Limiter has no default_limits")

        def decorate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(endpoint)
            name = _request_parameter(endpoint, signature)
            function: Any = inspect.unwrap(endpoint)
            is_first = function not in self._decorated
            self._decorated[function] = self._decorated.get(function, True) and not override_defaults

            @functools.wraps(endpoint)
            async def limited(*args: Any, **kwargs: Any) -> Any:
                request = signature.bind(*args, **kwargs).arguments[name]
                if not isinstance(request, HTTPConnection):
                    raise ConfigurationError(f"{function.__qualname__}: its parameter {name} is no request")
                headers = await self._count(request, function, settings)
                if is_first and self._decorated[function]:  # once, however many decorators there are
                    headers = await self._count(request, function, self._defaults) or headers
                if inspect.iscoroutinefunction(endpoint):
                    answer = await endpoint(*args, **kwargs)
                else:
                    answer = await run_in_threadpool(endpoint, *args, **kwargs)
                if headers:
                    _write(headers, answer if isinstance(answer, Response) else kwargs.get("response"))
                return answer

            return limited

        return decorate

    async def count_by_default(self, request: Request) -> dict[str, str]:
        """Count a request by ``default_limits``, if its endpoint has no decorator. For :class:`SlowAPIMiddleware`.

        Returns:
            Headers for the answer.

        Raises:
            RateLimitedError: They are used up (429).
        """
        route, endpoint = _fastapi.matched_route(request.scope), request.scope.get("endpoint")
        if getattr(route, "dependant", None) is None and not inspect.isroutine(endpoint):
            return {}  # nothing that is there, or an app that is mounted, such as static files
        function: Any = inspect.unwrap(endpoint)  # type: ignore[arg-type]  # a route has one
        return {} if function in self._decorated else await self._count(request, function, self._defaults)

    async def _count(self, request: HTTPConnection, function: Any, settings: Settings | None) -> dict[str, str]:
        """Count one request, or refuse it.

        Returns:
            Headers for the answer.
        """
        if not self.enabled or settings is None or function in self._exempt or settings.exempts(request):
            return {}
        key = settings.key(request, self._key_func)
        limits = settings.limits(key)
        scope = settings.scope_of(_name(function), _path(request) if self._key_style == "url" else "")
        method = str(request.scope.get("method")) if settings.per_method else ""
        # Other limits are other counts: several decorators of one endpoint, and the default limits beside them.
        kind = "default" if settings is self._defaults else ""
        bucket = store_key("slowapi", self._prefix, scope, method, limits.policy, kind).hex()
        decision = await self._counts.hit(bucket, store_key(key), limits.windows, settings.cost(request))
        headers = _headers(limits, decision) if self._headers_enabled else {}
        if not decision.admitted:
            raise RateLimitedError(
                f"limiter: {scope}: limit used up",
                detail=settings.message(request),
                headers={**limits.refusal_headers(decision, decision.retry_after), **headers},
            )
        return headers


class SlowAPIMiddleware:
    """slowapi's middleware: ``default_limits`` for the endpoints without a decorator, also of included routers.

    ::

        app.state.limiter = Limiter(key_func=get_remote_address, default_limits=["60/minute"])
        app.add_middleware(SlowAPIMiddleware)

    It counts before the body is read and before any guard has judged. Paths where nothing is, and apps that are mounted
    and are no FastAPI apps, are not counted. A refusal is answered by the app's handler of ``RateLimitExceeded``, and
    without one as a problem.

    Raises:
        ConfigurationError: When called: ``app.state.limiter`` is no ``Limiter`` of this module.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = scope["app"]
        limiter = getattr(app.state, "limiter", None)
        if not isinstance(limiter, Limiter):
            raise ConfigurationError("SlowAPIMiddleware: app.state.limiter is no Limiter of mlguard.compat.slowapi")
        request = Request(_fastapi.resolve(app, scope))
        try:
            headers = await limiter.count_by_default(request)
        except MLGuardError as refusal:
            response = await _answer(request, refusal)
            await response(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self._app(scope, receive, send_with_headers if headers else send)


#: slowapi has two that do the same.
SlowAPIASGIMiddleware = SlowAPIMiddleware


async def _answer(request: Request, refusal: MLGuardError) -> Response:
    """What the app's handler of such refusals says. An exception of a middleware does not get to it."""
    handlers = request.app.exception_handlers if isinstance(refusal, RateLimitExceeded) else {}
    handler = handlers.get(RateLimitExceeded, _rate_limit_exceeded_handler)
    answer: Any = handler(request, refusal)
    response: Response = await answer if inspect.isawaitable(answer) else answer
    return response


def _request_parameter(endpoint: Callable[..., Any], signature: inspect.Signature) -> str:
    """The name of the parameter that takes the request."""
    name = next((name for name in ("request", "websocket") if name in signature.parameters), None)
    if name is None:
        raise ConfigurationError(f"{endpoint.__qualname__} needs a parameter request, or websocket")
    annotation = signature.parameters[name].annotation
    if isinstance(annotation, type) and not issubclass(annotation, (HTTPConnection, inspect.Parameter.empty)):
        raise ConfigurationError(
            f"{endpoint.__qualname__}: its parameter {name} is a {annotation.__name__}; name that one otherwise, and "
            f"take the request as {name}"
        )
    return name


def _name(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _path(request: HTTPConnection) -> str:
    """The path as the route has it, with the names of its parameters: what callers write there makes no new count."""
    return str(getattr(_fastapi.matched_route(request.scope), "path", ""))


def _headers(limits: Limits, decision: Decision) -> dict[str, str]:
    """Of the window with the least left. ``X-RateLimit-Reset`` is seconds since 1970, as slowapi has it."""
    left, window, reset = min(zip(decision.remaining, limits.windows, decision.reset, strict=True))
    return {
        "X-RateLimit-Limit": str(window.limit),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset": str(int(time.time() + reset) + 1),
    }


def _write(headers: dict[str, str], response: Any) -> None:
    if not isinstance(response, Response):
        raise ConfigurationError("headers_enabled=True: return a Response, or take one as the parameter response")
    response.headers.update(headers)
