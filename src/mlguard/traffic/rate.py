"""How often one caller may ask."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal, RequestMemory
from mlguard._order import await_turn, once
from mlguard.errors import ConfigurationError, RateLimitedError
from mlguard.store import Decision, Kind, Store, store_key
from mlguard.traffic._by import By, Cost, checked_units, describe, signature
from mlguard.traffic._counting import CountingGuard
from mlguard.traffic.limits import Limits, limits_of
from mlguard.traffic.outages import OnStoreError
from mlguard.traffic.reservations import Reservation


class RateLimit(CountingGuard):
    """Admits so many requests in so much time.

    Guards against scraping a model and one caller using up everybody's capacity. Not against guessing a key on the same
    route: who fails to authenticate is refused before anything is counted.

    Several windows are decided as one: a refused request counts in none of them. One object on several endpoints is one
    bucket a caller. A principal that carries limits of its own (``Principal.limits``) is counted by those instead,
    whatever was written here; a change of them begins a new count.

    Under ``harden``, accepted answers carry the ``RateLimit`` and ``RateLimit-Policy`` fields of the IETF draft
    (draft-ietf-httpapi-ratelimit-headers).

    Args:
        *limits: Each ``"60/minute"``, ``"5/10 seconds"``, ``"1000/day"``: units are second, minute, hour and day.
        by: Whose bucket. A guard that returns a :class:`Principal`, a function of the connection that returns a name,
            or any FastAPI dependency that returns a name or a principal. None is the client address. Callers for whom
            a function returns None or "" share one bucket.
        cost: How many units one request is: a whole number, or what a function of the connection or any FastAPI
            dependency returns, where an array or a list costs its length. With ``Features`` it is the rows, and an
            input that is refused costs 1. What depends on the body is counted once it was read. 0 counts nothing and
            is admitted. Anything else that is returned is a 500, which the log explains.
        strategy: ``"sliding"``: never more than the limit in any true window of that length, in the worst case 1/16 of
            a window too strict. ``"fixed"``: windows begin at multiples of their length, so that around the end of one
            there can be twice the limit. ``"gcra"``: ``burst`` at once, and then evenly at the rate of the limit, so at
            most ``burst`` and the limit in one window (the generic cell rate algorithm, ITU-T I.371).
        burst: Units admitted at once with ``"gcra"`` and one limit. None: as many as the limit. A principal's own
            limits have none.
        name: Names the bucket. Two limits with the same windows and the same ``by`` need one, or they would share a
            bucket unknowingly. The same in every process.
        store: Where to count. None is the store that all guards share.
        on_store_error: What happens while the store does not answer. ``"refuse"``: nobody is admitted. ``"allow"``:
            everybody is, and nothing is counted. ``"local"``: each process counts by itself, up to ``local_share``.
        local_share: The part of each limit that one process admits by itself, above 0 and up to 1. At least one unit.

    Raises:
        ConfigurationError: A limit that cannot be read, none at all, a ``by`` that cannot name a caller, or another
            argument that cannot work.
        RateLimitedError: A limit is used up (429). ``Retry-After`` is the time until the same request is admitted; it
            is missing where the request costs more than the limit ever admits.
        UnavailableError: A store outside this process does not answer, and ``on_store_error`` is ``"refuse"`` (503). Or
            it is ``"allow"``, and this process has too many requests that wait for the store: that is no failure of
            the store, and nobody can bring it about to be admitted.
    """

    control = Control.RATE_LIMIT

    def __init__(
        self,
        *limits: str,
        by: Callable[..., Any] | Guard | None = None,
        cost: Callable[..., Any] | Guard | int = 1,
        strategy: Kind = "sliding",
        burst: int | None = None,
        name: str | None = None,
        store: Store | None = None,
        on_store_error: OnStoreError = "refuse",
        local_share: float = 0.1,
    ) -> None:
        if not limits:
            raise ConfigurationError('RateLimit needs at least one limit, such as RateLimit("60/minute")')
        self._limits = Limits.parse(limits, where="RateLimit", strategy=strategy, burst=burst)
        self._by = By(by, where="RateLimit")
        self._cost = Cost(cost, where="RateLimit")
        self.charges_by = self._cost.reader
        self.windows = self._limits.windows
        self.limits = self._limits.names
        self.strategy: Kind = strategy
        self.quota = (self.windows, strategy)
        kind = "" if strategy == "sliding" else f" ({strategy})"
        super().__init__(
            name=name,
            otherwise=f"{', '.join(self.limits)}{kind} by {self._by.label}",
            store=store,
            on_store_error=on_store_error,
            local_share=local_share,
        )
        self._bucket = f"{self.name} ({self._limits.policy}){kind}{self._own}"
        self.__signature__ = signature(self._by, self._cost)

    async def __call__(self, conn: HTTPConnection, who: Any = None, costing: Any = None) -> None:
        """Count this request, or refuse it."""
        if self._cost.is_late:
            await await_turn(conn, self, costing)
        await once(conn, self, lambda: self._count(conn, who, costing))

    async def hit(self, conn: HTTPConnection, *, cost: int = 1) -> None:
        """Count so many units now, each time that this is called: for the messages of a WebSocket, or a stream's parts.

        Args:
            conn: The request or WebSocket. Whose units they are is what the guard in ``by=`` has said of it, so the
                route uses that guard, or this limit.
            cost: How many units.

        Raises:
            RateLimitedError: The limit is used up (429). On a WebSocket under ``harden``, it is closed with 1008.
            ConfigurationError: Nobody has said who is calling.
        """
        caller = self._by.known(conn, self)
        await self._admit(caller, self._limits_for(caller), checked_units(cost, where="RateLimit.hit(cost=...)"))

    def reserve(self, conn: HTTPConnection, units: int) -> Reservation:
        """Count units before it is known how many it will be, such as the tokens of a stream.

        ::

            reservation = await tokens.reserve(request, 500)

            async def stream():
                async with reservation:
                    async for token in answer:
                        reservation.used += 1
                        yield token

        At the end of the block, however it ends, what was reserved and not used is given back, and what was used beyond
        it is counted, even above the limit. Where there is no answer that has begun, as on a WebSocket,
        ``async with tokens.reserve(conn, 500) as reservation`` does both.

        Args:
            conn: As for :meth:`hit`.
            units: How many at first.

        Raises:
            RateLimitedError: When awaited: there is no room for them (429).
            ConfigurationError: As for :meth:`hit`.
        """
        units = checked_units(units, where="RateLimit.reserve(units=...)")
        return Reservation(units, partial(self._reserve, conn, units), where=f"RateLimit {self.name!r}", conn=conn)

    @property
    def needs_only_connection(self) -> bool:
        """Whether the connection alone says whose bucket it is, and what a request costs."""
        return self._by.direct is not None and not self._cost.is_late

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

    async def charge_refused(self, conn: HTTPConnection, **principals: Any) -> None:
        """Count one unit for an input that was refused.

        Raises:
            RateLimitedError: There is no room for it (429).
        """
        caller = self._caller(conn, principals.get("who"))
        await self._admit(caller, self._limits_for(caller), 1)

    async def _count(self, conn: HTTPConnection, who: Any, costing: Any) -> Any:
        caller = self._caller(conn, who)
        limits = self._limits_for(caller)
        decision = await self._admit(caller, limits, self._cost.units(conn, costing))
        headers = RequestMemory.of(conn.scope).headers
        headers.append(limits.policy_header)
        headers.append((b"ratelimit", limits.field(decision).encode()))
        return caller

    async def _admit(self, caller: Any, limits: Limits, cost: int) -> Decision:
        if cost > limits.most:  # no store need be asked
            raise RateLimitedError(
                f"{self.name}: {cost} units at once are more than the limit{describe(caller)}",
                detail="This request costs more than the limit ever admits. Ask for less at once.",
                headers={"RateLimit-Policy": limits.policy},
            )
        decision = await self._hit(caller, limits, cost)
        if not decision.admitted and cost:  # nothing has room even where a reservation has left more than the limit
            raise self._refusal(caller, limits, decision, decision.retry_after)
        return decision

    async def _reserve(self, conn: HTTPConnection, units: int) -> Callable[[int], Any]:
        caller = self._by.known(conn, self)
        limits = self._limits_for(caller)
        decision = await self._admit(caller, limits, units)
        key = store_key(*self._identity(caller, limits))
        return lambda more: self._counts.settle(self._bucket, key, limits.windows, more, at=decision.at)

    def _caller(self, conn: HTTPConnection, who: Any = None) -> Any:
        return self._by.caller(conn, who)

    def _limits_for(self, caller: Any) -> Limits:
        own = caller.limits if isinstance(caller, Principal) else ()
        return limits_of(own, self.strategy) if own else self._limits

    def _hit(self, caller: Any, limits: Limits, cost: int) -> Awaitable[Decision]:
        return self._counts.hit(self._bucket, store_key(*self._identity(caller, limits)), limits.windows, cost)

    def _identity(self, caller: Any, limits: Limits) -> tuple[str, ...]:
        identity = self._by.identity(caller)
        if limits is self._limits:
            return identity
        # Hashed with the limits: the units of other windows, of this bucket or of an earlier limit, are not theirs.
        return ("own limits", limits.policy, *identity)

    def _refusal(self, caller: Any, limits: Limits, decision: Decision, retry_after: float) -> RateLimitedError:
        own = "" if limits is self._limits else f", own limits {', '.join(limits.names)}"
        return RateLimitedError(
            f"{self.name}: limit used up{describe(caller)}{own}", headers=limits.refusal_headers(decision, retry_after)
        )
