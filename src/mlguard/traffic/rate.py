"""How often one caller may ask."""

import inspect
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_type_hints

from fastapi import Depends
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal, RequestMemory
from mlguard._order import once
from mlguard.errors import ConfigurationError, RateLimitedError
from mlguard.store import Decision, Store, Window, default_store, store_key
from mlguard.traffic.addresses import client_address

_serial = itertools.count(1)

_UNITS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
# Functions whose call returns no name yet: FastAPI knows how to get it out of them.
_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_LIMIT = re.compile(rf"([1-9][0-9]{{0,11}}) ?/ ?(?:([1-9][0-9]{{0,4}}) )?({'|'.join(_UNITS)})s?", re.ASCII)


class RateLimit(Guard):
    """Admits so many requests in so much time.

    Guards against scraping a model and one caller using up everybody's capacity. Not against guessing a key on the same
    route: who fails to authenticate is refused before anything is counted.

    Never more than the limit in any true window of that length; in the worst case 1/16 of a window too strict. Several
    windows are decided as one: a refused request counts in none of them. One object on several endpoints is one bucket
    a caller.

    Under ``harden``, accepted answers carry the ``RateLimit`` and ``RateLimit-Policy`` fields of the IETF draft
    (draft-ietf-httpapi-ratelimit-headers).

    Args:
        *limits: Each ``"60/minute"``, ``"5/10 seconds"``, ``"1000/day"``: units are second, minute, hour and day.
        by: Whose bucket. A guard that returns a :class:`Principal`, a function of the connection that returns a name,
            or any FastAPI dependency that returns a name or a principal. None is the client address. Callers for whom
            a function returns None or "" share one bucket.
        name: Names the bucket. Two limits with the same windows and the same ``by`` need one, or they would share a
            bucket unknowingly. The same in every process.
        store: Where to count. None is the store that all guards share.

    Raises:
        ConfigurationError: A limit that cannot be read, none at all, or a ``by`` that cannot name a caller.
        RateLimitedError: A limit is used up (429). ``Retry-After`` is the time until the next request is admitted.
    """

    control = Control.RATE_LIMIT
    statuses = (429,)

    def __init__(
        self,
        *limits: str,
        by: Callable[..., Any] | Guard | None = None,
        name: str | None = None,
        store: Store | None = None,
    ) -> None:
        if name is not None and not name:
            raise ConfigurationError("RateLimit(name=...) is empty; leave it out or name the bucket")
        if store is not None and not isinstance(store, Store):
            raise ConfigurationError("RateLimit(store=...) must be a Store, such as MemoryStore()")
        self.windows = _parse_limits(limits)
        self.limits = tuple(_spell(window) for window in self.windows)
        self.named = name is not None
        self.name = name or f"{', '.join(self.limits)} by {_describe(by)}"
        self.store = default_store() if store is None else store
        self.suspends = self.store.suspends
        self._policy = ", ".join(
            f'"{spelt}";q={window.limit};w={window.seconds}'
            for spelt, window in zip(self.limits, self.windows, strict=True)
        )
        self._policy_header = (b"ratelimit-policy", self._policy.encode())
        # In this process's memory, an unnamed bucket is its object's own: two apps in one process share none.
        own = "" if self.named or self.suspends else f" #{next(_serial)}"
        self._bucket = f"{self.name} ({self._policy}){own}"
        self._direct: Callable[[HTTPConnection], Any] | None = None
        self.__signature__ = self._sign(by)

    def _sign(self, by: Callable[..., Any] | Guard | None) -> inspect.Signature:
        """The signature that FastAPI sees: ``by`` as a sub-dependency, unless it only needs the connection."""
        parameters = [inspect.Parameter("conn", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)]
        if by is None:
            self._direct = client_address
        elif isinstance(by, Guard):
            if by.control is not Control.AUTHENTICATION:
                raise ConfigurationError(f"RateLimit(by=...): {type(by).__name__} does not say who is calling")
        elif not callable(by):
            raise ConfigurationError("RateLimit(by=...) must be a guard such as APIKeyAuth, a function, or left out")
        elif _takes_a_connection(by):
            self._direct = by
        if self._direct is None:
            annotation = Annotated[Any, Depends(by)]
            parameters.append(inspect.Parameter("who", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation))
        return inspect.Signature(parameters)

    async def __call__(self, conn: HTTPConnection, who: Any = None) -> None:
        """Count this request, or refuse it."""
        await once(conn, self, lambda: self._count(conn, who))

    @property
    def needs_only_connection(self) -> bool:
        """Whether the connection alone says whose bucket it is."""
        return self._direct is not None

    async def ensure_room(self, conn: HTTPConnection) -> None:
        """Refuse if the limit is used up, and count nothing. For limits that need only the connection.

        Raises:
            RateLimitedError: Not one more unit has room now (429).
        """
        caller = self._caller(conn)
        decision = await self._hit(caller, cost=0)
        used_up = [reset for left, reset in zip(decision.remaining, decision.reset, strict=True) if left <= 0]
        if used_up:
            raise self._refusal(caller, decision, max(used_up))

    async def charge(self, conn: HTTPConnection) -> None:
        """Count one unit if there is room, and refuse nothing. For limits that need only the connection."""
        await self._hit(self._caller(conn), cost=1)

    async def _count(self, conn: HTTPConnection, who: Any) -> None:
        caller = self._caller(conn, who)
        decision = await self._hit(caller, cost=1)
        if not decision.admitted:
            raise self._refusal(caller, decision, decision.retry_after)
        headers = RequestMemory.of(conn.scope).headers
        headers.append(self._policy_header)
        headers.append((b"ratelimit", self._field(decision).encode()))

    def _caller(self, conn: HTTPConnection, who: Any = None) -> Any:
        return who if self._direct is None else self._direct(conn)

    async def _hit(self, caller: Any, cost: int) -> Decision:
        return await self.store.hit(self._bucket, store_key(*_identity(caller)), self.windows, cost)

    def _refusal(self, caller: Any, decision: Decision, retry_after: float) -> RateLimitedError:
        return RateLimitedError(
            f"{self.name}: limit used up{_by(caller)}",
            headers={
                "Retry-After": str(max(1, math.ceil(retry_after))),
                "RateLimit-Policy": self._policy,
                "RateLimit": self._field(decision),
            },
        )

    def _field(self, decision: Decision) -> str:
        return ", ".join(
            f'"{limit}";r={remaining};t={math.ceil(reset)}'
            for limit, remaining, reset in zip(self.limits, decision.remaining, decision.reset, strict=True)
        )

    def __repr__(self) -> str:
        return f"RateLimit({self.name!r})"


def _parse_limits(limits: Sequence[str]) -> tuple[Window, ...]:
    if not limits:
        raise ConfigurationError('RateLimit needs at least one limit, such as RateLimit("60/minute")')
    windows = []
    for limit in limits:
        match = _LIMIT.fullmatch(limit.strip()) if isinstance(limit, str) else None
        if match is None:
            raise ConfigurationError(
                f"RateLimit: {limit!r} is no limit; write a number, '/', and second, minute, hour or day, "
                'such as "60/minute" or "5/10 seconds"'
            )
        windows.append(Window(int(match[1]), int(match[2] or 1) * _UNITS[match[3]]))
    if len({window.seconds for window in windows}) < len(windows):
        raise ConfigurationError("RateLimit: two limits have the same window; keep the lower one")
    return tuple(windows)


def _spell(window: Window) -> str:
    unit, seconds = max(
        ((unit, seconds) for unit, seconds in _UNITS.items() if window.seconds % seconds == 0), key=lambda pair: pair[1]
    )
    count = window.seconds // seconds
    return f"{window.limit}/{unit}" if count == 1 else f"{window.limit}/{count} {unit}s"


def _describe(by: Callable[..., Any] | Guard | None) -> str:
    """A name for ``by`` that is the same in every process."""
    if by is None:
        return "address"
    if isinstance(by, Guard):
        return repr(by)
    return f"{getattr(by, '__module__', '')}.{getattr(by, '__qualname__', type(by).__qualname__)}"


def _takes_a_connection(function: Callable[..., Any]) -> bool:
    """Whether a plain function needs the connection and nothing else, so that FastAPI need not resolve it."""
    if not inspect.isfunction(function) or function.__code__.co_flags & _NOT_PLAIN:
        return False
    parameters = list(inspect.signature(function).parameters)
    try:
        hints = get_type_hints(function)
    except Exception:  # an annotation that cannot be resolved: FastAPI will say so
        return False
    hint = hints.get(parameters[0], HTTPConnection) if len(parameters) == 1 else None
    return isinstance(hint, type) and issubclass(hint, HTTPConnection)


def _by(caller: Any) -> str:
    """Who, for the log. Only a principal: a function may name callers by something that is not the log's business."""
    return f" by {caller.method} principal {caller.id!r}" if isinstance(caller, Principal) else ""


def _identity(caller: Any) -> tuple[str, ...]:
    if isinstance(caller, Principal):
        return ("principal", *caller.identity)
    if caller is None or isinstance(caller, (str, int)):
        return ("name", "" if caller is None else str(caller))
    raise ConfigurationError(
        f"RateLimit(by=...) returned a {type(caller).__name__}; return a Principal, a str or an int to name the caller"
    )
