"""How often one caller may ask."""

import inspect
import itertools
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

from fastapi import Depends
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal, RequestMemory
from mlguard._order import once
from mlguard.errors import ConfigurationError, RateLimitedError
from mlguard.store import Decision, Store, default_store, store_key
from mlguard.traffic.addresses import client_address
from mlguard.traffic.limits import Limits, limits_of

_serial = itertools.count(1)

# Functions whose call returns no name yet: FastAPI knows how to get it out of them.
_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class RateLimit(Guard):
    """Admits so many requests in so much time.

    Guards against scraping a model and one caller using up everybody's capacity. Not against guessing a key on the same
    route: who fails to authenticate is refused before anything is counted.

    Never more than the limit in any true window of that length; in the worst case 1/16 of a window too strict. Several
    windows are decided as one: a refused request counts in none of them. One object on several endpoints is one bucket
    a caller. A principal that carries limits of its own (``Principal.limits``) is counted by those instead, whatever
    was written here; a change of them begins a new count.

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
        UnavailableError: A store outside this process does not answer (503).
    """

    control = Control.RATE_LIMIT
    statuses: tuple[int, ...] = (429,)

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
        if not limits:
            raise ConfigurationError('RateLimit needs at least one limit, such as RateLimit("60/minute")')
        self._limits = Limits.parse(limits, where="RateLimit")
        self.windows = self._limits.windows
        self.limits = self._limits.names
        self.named = name is not None
        self.name = name or f"{', '.join(self.limits)} by {_describe(by)}"
        self.store = default_store() if store is None else store
        self.suspends = self.store.suspends
        if self.suspends:
            self.statuses = (429, 503)
        # In this process's memory, an unnamed bucket is its object's own: two apps in one process share none.
        own = "" if self.named or self.suspends else f" #{next(_serial)}"
        self._bucket = f"{self.name} ({self._limits.policy}){own}"
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
        elif isinstance(by, type) and issubclass(by, Guard):
            raise ConfigurationError(f"RateLimit(by={by.__name__}) is the class: give it the guard that you made of it")
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
        limits = self._limits_for(caller)
        decision = await self._hit(caller, limits, cost=0)
        used_up = [reset for left, reset in zip(decision.remaining, decision.reset, strict=True) if left <= 0]
        if used_up:
            raise self._refusal(caller, limits, decision, max(used_up))

    async def charge(self, conn: HTTPConnection) -> None:
        """Count one unit if there is room, and refuse nothing. For limits that need only the connection."""
        caller = self._caller(conn)
        await self._hit(caller, self._limits_for(caller), cost=1)

    async def _count(self, conn: HTTPConnection, who: Any) -> None:
        caller = self._caller(conn, who)
        limits = self._limits_for(caller)
        decision = await self._hit(caller, limits, cost=1)
        if not decision.admitted:
            raise self._refusal(caller, limits, decision, decision.retry_after)
        headers = RequestMemory.of(conn.scope).headers
        headers.append(limits.policy_header)
        headers.append((b"ratelimit", limits.field(decision).encode()))

    def _caller(self, conn: HTTPConnection, who: Any = None) -> Any:
        return who if self._direct is None else self._direct(conn)

    def _limits_for(self, caller: Any) -> Limits:
        own = caller.limits if isinstance(caller, Principal) else ()
        return limits_of(own) if own else self._limits

    async def _hit(self, caller: Any, limits: Limits, cost: int) -> Decision:
        identity = _identity(caller)
        if limits is not self._limits:
            # Hashed with the limits: the units of other windows, of this bucket or of an earlier limit, are not theirs.
            identity = ("own limits", limits.policy, *identity)
        return await self.store.hit(self._bucket, store_key(*identity), limits.windows, cost)

    def _refusal(self, caller: Any, limits: Limits, decision: Decision, retry_after: float) -> RateLimitedError:
        own = "" if limits is self._limits else f", own limits {', '.join(limits.names)}"
        return RateLimitedError(
            f"{self.name}: limit used up{_by(caller)}{own}", headers=limits.refusal_headers(decision, retry_after)
        )

    def __repr__(self) -> str:
        return f"RateLimit({self.name!r})"


def _describe(by: Callable[..., Any] | Guard | None) -> str:
    """A name for ``by`` that is the same in every process."""
    if by is None:
        return "address"
    if isinstance(by, Guard):
        return by.label
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
