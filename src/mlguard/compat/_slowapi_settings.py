"""What one decorator of slowapi's says, and which of slowapi's settings there is nothing for."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.config import Config
from starlette.requests import HTTPConnection

from mlguard.compat._slowapi_limits import parse_limits
from mlguard.errors import ConfigurationError
from mlguard.traffic._by import checked_units
from mlguard.traffic.limits import Limits

Asked = Callable[[HTTPConnection], Any]

# What slowapi's Limiter reads from the environment, and from .env, each after RATELIMIT_.
_ENVIRONMENT = (
    "APPLICATION",
    "DEFAULT",
    "ENABLED",
    "GLOBAL",
    "HEADERS_ENABLED",
    "HEADER_LIMIT",
    "HEADER_REMAINING",
    "HEADER_RESET",
    "HEADER_RETRY_AFTER",
    "HEADER_RETRY_AFTER_VALUE",
    "IN_MEMORY_FALLBACK",
    "IN_MEMORY_FALLBACK_ENABLED",
    "KEY_PREFIX",
    "STORAGE_OPTIONS",
    "STORAGE_URL",
    "STRATEGY",
    "SWALLOW_ERRORS",
)


class Settings:
    """What one decorator says.

    Args:
        limit_values: Limits, and functions of the key or of nothing that return some. All are one decision.
        where: The decorator, for errors.
        key_func: Names the caller; None: the limiter's does.
        per_method: Whether each method is counted by itself.
        methods: Those that are counted; None: all.
        error_message: What a refusal says, or a function of nothing that returns it.
        exempt_when: Says which requests are not counted: a function of the request or of nothing.
        cost: Units of a request, or a function that returns them.
        scope: What is counted together, or a function of the endpoint's name that returns it.

    Raises:
        ConfigurationError: A limit or a cost that is none, or a function that is to be awaited.
    """

    def __init__(
        self,
        limit_values: Sequence[str | Callable[..., str]],
        *,
        where: str,
        key_func: Callable[..., str] | None = None,
        per_method: bool = False,
        methods: Sequence[str] | None = None,
        error_message: str | Callable[[], str] | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        scope: str | Callable[[str], str] | None = None,
    ) -> None:
        if isinstance(limit_values, str):
            raise ConfigurationError(f'{where} is a list of limits, such as ["60/minute"]')
        for value in limit_values:
            if callable(value):
                _check_plain(value, where=where)
            else:
                parse_limits(_limit(value, ""))  # now, and not when somebody asks
        if callable(scope):
            _check_plain(scope, where=f"{where}(scope=...)")
        self._where = where
        self._limit_values = tuple(limit_values)
        self._key_func = None if key_func is None else asking(key_func, where=f"{where}(key_func=...)")
        self.per_method = per_method
        self._methods = None if methods is None else frozenset(method.upper() for method in methods)
        self.message = asking(error_message, where=f"{where}(error_message=...)")
        self._exempt_when = asking(exempt_when, where=f"{where}(exempt_when=...)")
        self._cost = asking(cost, where=f"{where}(cost=...)")
        self._scope = scope
        if not callable(cost):
            checked_units(cost, where=f"{where}(cost=...)")

    def exempts(self, request: HTTPConnection) -> bool:
        """Whether a request is not counted."""
        if self._methods is not None and request.scope.get("method") not in self._methods:
            return True
        return bool(self._exempt_when(request))

    def key(self, request: HTTPConnection, otherwise: Asked) -> str:
        """Who is calling.

        Raises:
            ConfigurationError: What says so returns something that can be another thing each time.
        """
        key = (self._key_func or otherwise)(request)
        if key is not None and not isinstance(key, str | int):
            raise ConfigurationError(
                f"key_func has returned a {type(key).__name__}; return a str or an int to name the caller"
            )
        return "" if key is None else str(key)

    def cost(self, request: HTTPConnection) -> int:
        """Units of a request."""
        return checked_units(self._cost(request), where=f"{self._where}(cost=...)")

    def limits(self, key: str) -> Limits:
        """The limits of a caller."""
        return parse_limits(";".join([_limit(value, key) for value in self._limit_values]))

    def scope_of(self, endpoint: str, path: str) -> str:
        """What is counted together: one endpoint at one path, or what has the same name."""
        if self._scope is None:
            return f"{endpoint} {path}"
        return f"shared {self._scope(endpoint) if callable(self._scope) else self._scope}"


def asking(function: Any, *, where: str) -> Asked:
    """A function of the request, or of nothing, as one of the request. Anything else stands for what it returns.

    Raises:
        ConfigurationError: It is to be awaited: what it returns would be true, and another thing each time. Also when
            called, if what it returns is to be awaited.
    """
    if not callable(function):
        return lambda _: function
    _check_plain(function, where=where)
    takes_request = any(
        parameter.name == "request"
        or (parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(function).parameters.values()
    )

    def ask(request: HTTPConnection) -> Any:
        value = function(request) if takes_request else function()
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise ConfigurationError(f"{where} has returned something that is to be awaited; it must be a plain one")
        return value

    return ask


def _check_plain(function: Callable[..., Any], *, where: str) -> None:
    call = getattr(type(function), "__call__", None)  # noqa: B004  # of an object that can be called
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        raise ConfigurationError(f"{where} takes a plain function, and not one that is async")


def _limit(value: str | Callable[..., str], key: str) -> str:
    if callable(value):
        value = value(key) if "key" in inspect.signature(value).parameters else value()
    if not isinstance(value, str):
        raise ConfigurationError(f"a limit is a text, such as 5/minute, and not a {type(value).__name__}")
    return value


def check_environment() -> None:
    """Refuse settings that slowapi reads from the environment or from ``.env``, and that are not read here."""
    config = Config(".env" if Path(".env").is_file() else None)
    for name in _ENVIRONMENT:
        if config(f"RATELIMIT_{name}", default=None) is not None:
            raise ConfigurationError(
                f"RATELIMIT_{name} is set, in the environment or in .env; slowapi reads that, and mlguard does not: "
                "give it to Limiter as an argument, and take it away there"
            )


def check_unsupported(given: dict[str, Any]) -> None:
    """Refuse slowapi's arguments that ask for what there is not, and say what there is."""
    accepted = {
        "application_limits": ((), "give the app dependencies=[Depends(RateLimit(..., name='app'))]"),
        "strategy": ((None, "fixed-window", "moving-window"), "windows slide, which is as strict as moving-window"),
        "storage_options": ({}, "write them into the URL, or give it store=RedisStore(...)"),
        "auto_check": (True, "a decorator always counts"),
        "swallow_errors": (False, "on_store_error says what happens"),
        "in_memory_fallback": ((), 'on_store_error="local" counts in each process'),
        "in_memory_fallback_enabled": (False, 'on_store_error="local" counts in each process'),
        "retry_after": (None, "Retry-After is always sent, in seconds"),
        "config_filename": (None, "MLGUARD_STORE_URL is read from the environment"),
    }
    for name, value in given.items():
        if name not in accepted:
            raise ConfigurationError(f"Limiter has no argument {name}")
        same, instead = accepted[name]
        plain = tuple(value) if isinstance(value, list) else value
        if plain != same and not (isinstance(same, tuple) and plain in same):
            raise ConfigurationError(f"Limiter({name}=...) is not supported: {instead}")
