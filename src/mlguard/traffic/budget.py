"""How much of the model one caller may have."""

import inspect
import itertools
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, RequestMemory
from mlguard._order import await_turn, once
from mlguard.errors import BudgetExceededError, ConfigurationError, UnavailableError
from mlguard.store import Store, default_store
from mlguard.traffic._by import MAX_UNITS, By, Cost, checked_units, describe, signature
from mlguard.traffic.ledger import EVERYBODY, BudgetStatus, Ledger, register
from mlguard.traffic.outages import OnStoreError, counts_of, decided_without_store
from mlguard.traffic.periods import Period, Quota
from mlguard.traffic.reservations import Reservation

logger = logging.getLogger("mlguard")

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class BudgetWarning:
    """A caller has spent most of a budget.

    Attributes:
        budget: The budget's name.
        caller: Who, as ``by`` has said: a :class:`Principal`, or a name.
        status: What is left.
    """

    budget: str
    caller: Any
    status: BudgetStatus


class QueryBudget(Guard):
    """Admits so much in each calendar period: the long limit that makes copying a model expensive.

    Guards against a patient caller who takes the model home row by row, where a rate would let through thousands a day.
    Not against one with many accounts, unless there is a ``total``, which then refuses honest callers too.

    Every request is charged once, all of its units or none. A cost that comes from the body is charged once that was
    read: a request that finds no place (``ConcurrencyLimit``) is charged nothing, and one whose input is refused 1.
    Periods are those of the calendar in UTC, so that two of them can be spent around the end of one.

    Under ``harden``, accepted answers carry the ``RateLimit`` and ``RateLimit-Policy`` fields of the IETF draft
    (draft-ietf-httpapi-ratelimit-headers), and from ``warn_at`` on a ``Budget-Warning``.

    Args:
        limit: ``"50000/month"``: hour, day, week (from Monday), month or year.
        by: Whose budget, as for ``RateLimit``.
        cost: How many units one request is, as for ``RateLimit``: with ``Features``, its rows.
        total: A budget for all callers together, such as ``"1000000/month"``. It is a second trip to the store.
        warn_at: The part of the budget from which on answers carry a warning, above 0, at most 1.
        on_warning: Called with a :class:`BudgetWarning`, once a caller and period, when that part is passed. It must
            return at once. The log has a line of it in any case.
        name: Names the budget: in the log, in ``mlguard budget``, and in the store. Two budgets of the same limit and
            the same ``by`` need one. With one, a new limit goes on with what was spent under the old one.
        store: Where to count. None is the store that all guards share. In memory, a restart forgets what was spent.
        on_store_error: What happens while the store does not answer, as for ``RateLimit``.
        local_share: As for ``RateLimit``.
        clock: Seconds since 1970.

    Attributes:
        status: A dependency that returns the :class:`BudgetStatus` of who is calling, and charges nothing:
            ``Depends(budget.status)``.

    Raises:
        ConfigurationError: A limit that cannot be read, a ``by`` that cannot name a caller, or another argument that
            cannot work.
        BudgetExceededError: The budget is used up, or has too little left for this request (429). ``Retry-After`` is
            the time until the next period; it is missing where the request costs more than a whole budget.
        UnavailableError: A store outside this process does not answer (503).
    """

    control = Control.BUDGET

    def __init__(
        self,
        limit: str,
        *,
        by: Callable[..., Any] | Guard | None = None,
        cost: Callable[..., Any] | Guard | int = 1,
        total: str | None = None,
        warn_at: float = 0.8,
        on_warning: Callable[[BudgetWarning], None] | None = None,
        name: str | None = None,
        store: Store | None = None,
        on_store_error: OnStoreError = "refuse",
        local_share: float = 0.1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.quota = Quota.parse(limit, where="QueryBudget")
        self._total = None if total is None else Quota.parse(total, where="QueryBudget(total=...)")
        if not isinstance(warn_at, int | float) or isinstance(warn_at, bool) or not 0 < warn_at <= 1:
            raise ConfigurationError("QueryBudget(warn_at=...) is a part of the budget: above 0, at most 1")
        if on_warning is not None and (not callable(on_warning) or inspect.iscoroutinefunction(on_warning)):
            raise ConfigurationError("QueryBudget(on_warning=...) is a function that returns at once, not an async one")
        if name is not None and not name:
            raise ConfigurationError("QueryBudget(name=...) is empty; leave it out or name the budget")
        if store is not None and not isinstance(store, Store):
            raise ConfigurationError("QueryBudget(store=...) must be a Store, such as MemoryStore()")
        self._by = By(by, where="QueryBudget")
        self._cost = Cost(cost, where="QueryBudget")
        self.charges_by = self._cost.reader
        self.named = name is not None
        self.name = name or f"{self.quota} by {self._by.label}"
        self.store = default_store() if store is None else store
        self.stores = (self.store,)
        self._counts = counts_of(self.store, on_store_error, local_share, where=f"QueryBudget {self.name!r}")
        self.suspends = self.store.suspends
        self.statuses = (429, 503) if self.suspends and on_store_error != "local" else (429,)
        own = "" if self.named or self.suspends else f" #{next(_serial)}"
        self._ledger = Ledger(self.name + own, self.quota)
        self._total_ledger = None if self._total is None else Ledger(self.name + own, self._total)
        self.turn = self.quota.seconds
        self._threshold = math.ceil(self.quota.limit * warn_at)
        self._on_warning = on_warning
        self._clock = clock
        self._is_registered = not self.suspends  # nobody can look into this process's memory
        self.status = _Status(self, self._by)
        self.__signature__ = signature(self._by, self._cost)

    async def __call__(self, conn: HTTPConnection, who: Any = None, costing: Any = None) -> None:
        """Charge for this request, or refuse it."""
        if self._cost.is_late:
            await await_turn(conn, self, costing)
        await once(conn, self, partial(self._judge, conn, who, costing))

    async def hit(self, conn: HTTPConnection, *, cost: int = 1) -> None:
        """Charge so many units now, each time that this is called. See :meth:`RateLimit.hit`.

        Raises:
            BudgetExceededError: There is too little left (429).
            ConfigurationError: Nobody has said who is calling.
        """
        units = checked_units(cost, where="QueryBudget.hit(cost=...)")
        await self._charge(self._by.known(conn, self), units, Period.at(self.quota.unit, self._clock()))

    def reserve(self, conn: HTTPConnection, units: int) -> Reservation:
        """Charge units before it is known how many it will be. See :meth:`RateLimit.reserve`.

        Raises:
            BudgetExceededError: When awaited: there is too little left (429).
            ConfigurationError: Nobody has said who is calling.
        """
        units = checked_units(units, where="QueryBudget.reserve(units=...)")
        return Reservation(units, partial(self._reserve, conn, units), where=f"QueryBudget {self.name!r}", conn=conn)

    async def status_of(self, caller: Any) -> BudgetStatus:
        """What is left to a caller, for endpoints of the operator.

        Args:
            caller: A :class:`Principal`, or a name, as ``by`` returns it.
        """
        return await self._ledger.status(self._counts, self._by.identity(caller), self._clock())

    async def grant(self, caller: Any, units: int) -> BudgetStatus:
        """Let a caller spend so many units more in this period."""
        units = checked_units(units, where="QueryBudget.grant(units=...)")
        logger.warning("budget %s: %d units granted%s", self.name, units, describe(caller))
        return await self._ledger.grant(self._counts, self._by.identity(caller), units, self._clock())

    async def reset(self, caller: Any) -> BudgetStatus:
        """Begin this period anew for a caller."""
        logger.warning("budget %s: reset%s", self.name, describe(caller))
        return await self._ledger.reset(self._counts, self._by.identity(caller), self._clock())

    @property
    def decided_without_store(self) -> int:
        """How many requests were decided while the store did not answer, for metrics."""
        return decided_without_store(self._counts)

    async def charge_refused(self, conn: HTTPConnection, **principals: Any) -> None:
        """Charge one unit for an input that was refused.

        Raises:
            BudgetExceededError: There is nothing left (429).
        """
        caller = self._by.caller(conn, principals.get("who"))
        await self._charge(caller, 1, Period.at(self.quota.unit, self._clock()))

    async def _judge(self, conn: HTTPConnection, who: Any, costing: Any) -> Any:
        caller = self._by.caller(conn, who)
        period = Period.at(self.quota.unit, self._clock())
        used = await self._charge(caller, self._cost.units(conn, costing), period)
        headers = RequestMemory.of(conn.scope).headers
        headers.append((b"ratelimit-policy", self._policy(period).encode()))
        headers.append((b"ratelimit", self._field(used, period).encode()))
        if used >= self._threshold:
            headers.append((b"budget-warning", self._field(used, period).encode()))
        return caller

    async def _charge(self, caller: Any, units: int, period: Period) -> int:
        """Charge a caller, and then all of them together.

        Returns:
            What the caller has spent now.
        """
        now = self._clock()
        key, ttl = self._ledger.key(self._by.identity(caller), period), self._ledger.ttl(period, now)
        if not self._is_registered:
            await self._register()
        spending = await self._counts.spend(key, units, limit=self.quota.limit, ttl=ttl)
        if not spending.admitted:
            raise self._refusal(caller, units, spending.used, period)
        if self._total_ledger is not None and not await self._charge_total(self._total_ledger, units, now):
            await self._counts.spend(key, -units, limit=None, ttl=ttl)
            raise self._refusal(None, units, spending.used - units, period, reason="the total of all callers is spent")
        if spending.used - units < self._threshold <= spending.used:
            self._warn(caller, spending.used, period)
        return spending.used

    async def _charge_total(self, ledger: Ledger, units: int, now: float) -> bool:
        period = Period.at(ledger.quota.unit, now)
        key, ttl = ledger.key(EVERYBODY, period), ledger.ttl(period, now)
        return (await self._counts.spend(key, units, limit=ledger.quota.limit, ttl=ttl)).admitted

    async def _reserve(self, conn: HTTPConnection, units: int) -> Callable[[int], Any]:
        caller, now = self._by.known(conn, self), self._clock()
        period = Period.at(self.quota.unit, now)
        await self._charge(caller, units, period)
        return lambda more: self._settle(caller, more, period, now)

    async def _settle(self, caller: Any, more: int, period: Period, began: float) -> None:
        """Correct what was charged, in the periods in which it was."""
        ledger, total, now = self._ledger, self._total_ledger, self._clock()
        key = ledger.key(self._by.identity(caller), period)
        await self._counts.spend(key, more, limit=None, ttl=ledger.ttl(period, now))
        if total is not None:
            whole = Period.at(total.quota.unit, began)
            await self._counts.spend(total.key(EVERYBODY, whole), more, limit=None, ttl=total.ttl(whole, now))

    async def _register(self) -> None:
        quotas = {"caller": str(self.quota)} | ({} if self._total is None else {"total": str(self._total)})
        with suppress(UnavailableError):  # the operator can wait, the request cannot
            await register(self.store, self.name, quotas)
            self._is_registered = True

    def _warn(self, caller: Any, used: int, period: Period) -> None:
        logger.warning("budget %s: %d of %d units are spent%s", self.name, used, self.quota.limit, describe(caller))
        if self._on_warning is None:
            return
        try:
            self._on_warning(BudgetWarning(self.name, caller, self._status(used, period)))
        except Exception:  # whose warning it is must not suffer from it
            logger.exception("budget %s: on_warning has failed", self.name)

    def _status(self, used: int, period: Period) -> BudgetStatus:
        return BudgetStatus(self.quota.limit, used, max(0, self.quota.limit - used), period.ends)

    def _policy(self, period: Period) -> str:
        return f'"{self.quota}";q={self.quota.limit};w={period.seconds}'

    def _field(self, used: int, period: Period) -> str:
        seconds = max(1, math.ceil(period.ends.timestamp() - self._clock()))
        return f'"{self.quota}";r={min(MAX_UNITS, max(0, self.quota.limit - used))};t={seconds}'

    def _refusal(
        self, caller: Any, units: int, used: int, period: Period, *, reason: str = "used up"
    ) -> BudgetExceededError:
        headers = {"RateLimit-Policy": self._policy(period), "RateLimit": self._field(used, period)}
        if units > self.quota.limit:
            detail = "This request costs more than a whole budget. Ask for less at once."
            return BudgetExceededError(
                f"{self.name}: {units} units at once{describe(caller)}", detail=detail, headers=headers
            )
        headers["Retry-After"] = headers["RateLimit"].rpartition("=")[2]
        return BudgetExceededError(f"{self.name}: {reason}{describe(caller)}", headers=headers)

    def __repr__(self) -> str:
        return f"QueryBudget({self.name!r})"


class _Status:
    """A dependency that says what is left to who is calling."""

    def __init__(self, budget: QueryBudget, by: By) -> None:
        self._budget = budget
        self._by = by
        self.__signature__ = signature(by)

    async def __call__(self, conn: HTTPConnection, who: Any = None) -> BudgetStatus:
        return await self._budget.status_of(self._by.caller(conn, who))
