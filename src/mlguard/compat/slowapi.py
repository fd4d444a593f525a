"""For apps that come from slowapi: its limits by who is calling, or its decorators without it.

``principal_key`` makes a ``key_func`` for slowapi's own ``Limiter``. ``Limiter`` takes its place by a change of the
import: the same decorators, counted in mlguard's store by mlguard's rules. It does not need slowapi.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from mlguard._guard import Control, Guard, principal_of
from mlguard.compat._slowapi_limits import parse_limits
from mlguard.errors import ConfigurationError, RateLimitedError
from mlguard.problems import refusal_problem
from mlguard.store import Decision, Store, default_store, store_from_url, store_key
from mlguard.traffic._by import checked_units
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
    decorator are one decision; paths with parameters are one endpoint, and one count; a limit that cannot be read is an
    error, not an open door; and a refusal is a ``RateLimitedError``. What it has no equivalent for is an error too.

    Args:
        key_func: Names the caller: a function of the request, or of nothing.
        by: A guard that says who is calling, in the place of ``key_func``. The route uses it.
        headers_enabled: Whether answers carry ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset``. As with slowapi, an
            endpoint that does not return a ``Response`` then has a parameter ``response: Response``.
        storage_uri: Where to count, as for ``MLGUARD_STORE_URL``. None: the store that all guards share.
        key_prefix: Begins the name of every count: apps that share a store and are not to share counts need one each.
        enabled: Whether anything is counted; it can be set, for tests.
        store: Where to count, in the place of ``storage_uri``.
        on_store_error: What happens while the store does not answer, as for ``RateLimit``.
        local_share: As for ``RateLimit``.
        **unsupported: slowapi's other arguments, with the values that change nothing.

    Raises:
        ConfigurationError: Nobody is named, or an argument asks for what there is not.
    """

    def __init__(
        self,
        key_func: Callable[..., str] | None = None,
        *,
        by: Guard | None = None,
        headers_enabled: bool = False,
        storage_uri: str | None = None,
        key_prefix: str = "",
        enabled: bool = True,
        store: Store | None = None,
        on_store_error: OnStoreError = "refuse",
        local_share: float = 0.1,
        **unsupported: Any,
    ) -> None:
        if (key_func is None) == (by is None):
            raise ConfigurationError("Limiter takes by=, a guard that says who is calling, or key_func=")
        _check_unsupported(unsupported)
        if store is None:
            store = (
                default_store() if storage_uri is None else store_from_url(storage_uri, where="Limiter(storage_uri)")
            )
        self.enabled = enabled
        self._key_func = principal_key(by) if by is not None else key_func
        self._headers_enabled = headers_enabled
        self._prefix = f"{key_prefix} #{next(_serial)}" if store.forgets_on_restart else key_prefix
        self._counts = counts_of(store, on_store_error, local_share, where="Limiter")

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
            ConfigurationError: A limit that cannot be read, or an endpoint without ``request``. When called: a limit or
                a cost that a function has returned cannot be used.
            RateLimitedError: When called: the limit is used up (429).
        """
        settings = _Settings(limit_value, key_func, per_method, methods, error_message, exempt_when, cost, None)
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
        settings = _Settings(limit_value, key_func, False, None, error_message, exempt_when, cost, scope)
        return self._decorator(settings, override_defaults=override_defaults)

    def exempt(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
        """Leave an endpoint without a limit, which it is: there are no default limits."""
        return endpoint

    def _decorator(
        self, settings: "_Settings", *, override_defaults: bool
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        if not override_defaults:
            raise ConfigurationError("override_defaults=False: there are no default limits; write all of them here")

        def decorate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(endpoint)
            name = next((name for name in ("request", "websocket") if name in signature.parameters), None)
            if name is None:
                raise ConfigurationError(f"{endpoint.__qualname__} needs a parameter request, or websocket")
            place = f"{endpoint.__module__}.{endpoint.__qualname__}"

            @functools.wraps(endpoint)
            async def limited(*args: Any, **kwargs: Any) -> Any:
                request: HTTPConnection = signature.bind(*args, **kwargs).arguments[name]
                headers = await self._count(request, place, settings) if self.enabled else {}
                if inspect.iscoroutinefunction(endpoint):
                    answer = await endpoint(*args, **kwargs)
                else:
                    answer = await run_in_threadpool(endpoint, *args, **kwargs)
                if headers:
                    _write(headers, answer if isinstance(answer, Response) else kwargs.get("response"))
                return answer

            return limited

        return decorate

    async def _count(self, request: HTTPConnection, place: str, settings: "_Settings") -> dict[str, str]:
        """Count one request, or refuse it.

        Returns:
            Headers for the answer.
        """
        if settings.exempts(request):
            return {}
        key = str(_call(settings.key_func or self._key_func, request))
        limits = settings.limits(key)
        method = str(request.scope.get("method")) if settings.per_method else ""
        bucket = store_key("slowapi", self._prefix, settings.scope_of(place), method).hex()
        cost = checked_units(_call(settings.cost, request), where="limiter.limit(cost=...)")
        decision = await self._counts.hit(bucket, store_key(key), limits.windows, cost)
        if not decision.admitted:
            raise RateLimitedError(
                f"limiter: {settings.scope_of(place)}: limit used up",
                detail=settings.message,
                headers=limits.refusal_headers(decision, decision.retry_after),
            )
        return _headers(limits, decision) if self._headers_enabled else {}


class _Settings:
    """What one decorator says."""

    def __init__(  # noqa: PLR0917  # all of them, in slowapi's order
        self,
        limit_value: str | Callable[..., str],
        key_func: Callable[..., str] | None,
        per_method: bool,  # as slowapi has it
        methods: Sequence[str] | None,
        error_message: str | Callable[[], str] | None,
        exempt_when: Callable[..., bool] | None,
        cost: int | Callable[..., int],
        scope: str | Callable[[str], str] | None,
    ) -> None:
        if not callable(limit_value):
            parse_limits(limit_value)  # now, and not when somebody asks
        if not callable(cost):
            checked_units(cost, where="limiter.limit(cost=...)")
        self._limit_value = limit_value
        self.key_func = key_func
        self.per_method = per_method
        self._methods = None if methods is None else frozenset(method.upper() for method in methods)
        self._error_message = error_message
        self._exempt_when = exempt_when
        self.cost = cost
        self._scope = scope

    def exempts(self, request: HTTPConnection) -> bool:
        """Whether a request is not counted."""
        if self._methods is not None and request.scope.get("method") not in self._methods:
            return True
        return self._exempt_when is not None and bool(_call(self._exempt_when, request))

    def limits(self, key: str) -> Limits:
        """The limits of a caller."""
        value = self._limit_value
        if callable(value):
            value = value(key) if "key" in inspect.signature(value).parameters else value()
        return parse_limits(value)

    def scope_of(self, place: str) -> str:
        """What is counted together."""
        if self._scope is None:
            return place
        return f"shared {self._scope(place) if callable(self._scope) else self._scope}"

    @property
    def message(self) -> str | None:
        """What a refusal says."""
        return self._error_message() if callable(self._error_message) else self._error_message


def _call(function: Any, request: HTTPConnection) -> Any:
    """What a function of the request, or of nothing, returns; or the value that it is."""
    if not callable(function):
        return function
    return function(request) if inspect.signature(function).parameters else function()


def _headers(limits: Limits, decision: Decision) -> dict[str, str]:
    """Of the window with the least left, as slowapi has them."""
    left, window, reset = min(zip(decision.remaining, limits.windows, decision.reset, strict=True))
    return {
        "X-RateLimit-Limit": str(window.limit),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset": str(int(reset) + 1),
    }


def _write(headers: dict[str, str], response: Any) -> None:
    if not isinstance(response, Response):
        raise ConfigurationError("headers_enabled=True: return a Response, or take one as the parameter response")
    response.headers.update(headers)


def _check_unsupported(given: dict[str, Any]) -> None:
    """Refuse slowapi's arguments that ask for what there is not, and say what there is."""
    accepted = {
        "default_limits": ((), "give the app dependencies=[Depends(RateLimit(...))]"),
        "application_limits": ((), "give the app dependencies=[Depends(RateLimit(..., name='app'))]"),
        "strategy": ((None, "fixed-window", "moving-window"), "windows slide, which is as strict as moving-window"),
        "storage_options": ({}, "write them into the URL, or give it store=RedisStore(...)"),
        "auto_check": (True, "a decorator always counts"),
        "swallow_errors": (False, "on_store_error says what happens"),
        "in_memory_fallback": ((), 'on_store_error="local" counts in each process'),
        "in_memory_fallback_enabled": (False, 'on_store_error="local" counts in each process'),
        "retry_after": (None, "Retry-After is always sent, in seconds"),
        "config_filename": (None, "MLGUARD_STORE_URL is read from the environment"),
        "key_style": (("url", "endpoint"), "an endpoint is one count"),
    }
    for name, value in given.items():
        if name not in accepted:
            raise ConfigurationError(f"Limiter has no argument {name}")
        same, instead = accepted[name]
        plain = tuple(value) if isinstance(value, list) else value
        if plain != same and not (isinstance(same, tuple) and plain in same):
            raise ConfigurationError(f"Limiter({name}=...) is not supported: {instead}")
