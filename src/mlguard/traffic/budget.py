"""How much of the model one caller may have."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, RequestMemory
from mlguard._order import await_turn, once
from mlguard.errors import BudgetExceededError, ConfigurationError, MLGuardError, UnavailableError
from mlguard.store import Store
from mlguard.traffic._by import By, Cost, OfCaller, checked_units, describe, signature
from mlguard.traffic._counting import CountingGuard
from mlguard.traffic.budget_warnings import Alarm, OnWarning
from mlguard.traffic.ledger import EVERYBODY, BudgetStatus, Charge, Ledger, Registration
from mlguard.traffic.outages import OnStoreError
from mlguard.traffic.periods import Period, Quota
from mlguard.traffic.reservations import Reservation, apart

logger = logging.getLogger("mlguard")

_LARGEST = 10**15 - 1  # number in a structured field (RFC 9651)


class QueryBudget(CountingGuard):
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
        total: A budget for all callers together, such as ``"1000000/month"``. It is a second trip to the store: the
            caller is charged first, and gets it back when the total refuses. Nobody is told how much is left of it.
        warn_at: The part of the budget from which on answers carry a warning, above 0, at most 1.
        on_warning: Called with a :class:`BudgetWarning`, once a caller and period, when that part is passed, and once
            for the total. An async function, or one that is called in a thread: no request waits for it, and what it
            raises is logged. The log has a line of the warning in any case.
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
        on_warning: OnWarning | None = None,
        name: str | None = None,
        store: Store | None = None,
        on_store_error: OnStoreError = "refuse",
        local_share: float = 0.1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        own_quota, total_quota = self.quota = _quotas(limit, total)
        self._by = By(by, where="QueryBudget")
        self._cost = Cost(cost, where="QueryBudget")
        self.charges_by = self._cost.reader
        super().__init__(
            name=name,
            otherwise=f"{own_quota} by {self._by.label}",
            store=store,
            on_store_error=on_store_error,
            local_share=local_share,
        )
        self._ledger = Ledger(self.name + self._own, own_quota)
        self._total_ledger = None if total_quota is None else Ledger(self.name + self._own, total_quota)
        alarm = partial(Alarm, store=self.store, budget=self.name, warn_at=warn_at, on_warning=on_warning)
        self._alarm = alarm(self._ledger)
        #: What is charged, in that order: the caller, and then all of them together.
        self._accounts = [(self._ledger, self._alarm)]
        if self._total_ledger is not None:
            self._accounts.append((self._total_ledger, alarm(self._total_ledger, is_total=True)))
        self.turn = own_quota.seconds
        self._clock = clock
        quotas = {"caller": str(own_quota)} | ({} if total_quota is None else {"total": str(total_quota)})
        self._registration = Registration(self.store, self.name, quotas)
        self.status = OfCaller(self._by, self.status_of)
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
        await self._charge(self._by.known(conn, self), units)

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
        """Let a caller spend so many units more in this period.

        Raises:
            UnavailableError: The store does not answer, whatever ``on_store_error`` is (503).
        """
        units = checked_units(units, where="QueryBudget.grant(units=...)")
        return await self._ledger.grant(self.store, self._by.identity(caller), units, self._clock())

    async def reset(self, caller: Any) -> BudgetStatus:
        """Begin this period anew for a caller.

        Raises:
            UnavailableError: As for :meth:`grant`.
        """
        return await self._ledger.reset(self.store, self._by.identity(caller), self._clock())

    async def charge_refused(self, conn: HTTPConnection, **principals: Any) -> None:
        """Charge one unit for an input that was refused.

        Raises:
            BudgetExceededError: There is nothing left (429).
        """
        await self._charge(self._by.caller(conn, principals.get("who")), 1)

    async def _judge(self, conn: HTTPConnection, who: Any, costing: Any) -> Any:
        caller = self._by.caller(conn, who)
        charge, *_ = await self._charge(caller, self._cost.units(conn, costing))
        memory = RequestMemory.of(conn.scope)
        left = max(0, self._ledger.quota.limit - charge.spending.used)
        memory.budget_left = {**memory.budget_left, self.name: left}  # another one: a record may hold this one
        headers = memory.headers
        field = self._field(charge).encode()
        headers.append((b"ratelimit-policy", self._policy(charge).encode()))
        headers.append((b"ratelimit", field))
        if charge.spending.used >= self._alarm.threshold:
            headers.append((b"budget-warning", field))
        return caller

    async def _charge(self, caller: Any, units: int) -> tuple[Charge, ...]:
        """Charge a caller, and then all of them together.

        Returns:
            Both charges, the caller's first.
        """
        if not self._registration.is_done:
            await self._registration.make()
        now = self._clock()
        charge = await self._ledger.charge(self._counts, self._by.identity(caller), units, now)
        if not charge.spending.admitted:
            raise self._refusal(caller, units, charge)
        charges: tuple[Charge, ...] = (charge,)
        if self._total_ledger is not None:
            charges = (charge, await self._charge_total(self._total_ledger, charge, units))
        for one, (_, alarm) in zip(charges, self._accounts, strict=True):
            await alarm.note(one, one.spending.used, units, caller)
        return charges

    async def _charge_total(self, ledger: Ledger, charge: Charge, units: int) -> Charge:
        """Charge all callers together, or give back what one was charged."""
        try:
            total = await ledger.charge(self._counts, EVERYBODY, units, charge.at)
            if not total.spending.admitted:
                raise self._total_refusal(charge, units, ledger.period(charge.at))
        except asyncio.CancelledError:
            apart(self._give_back(charge, units))
            raise
        except MLGuardError:
            await self._give_back(charge, units)
            raise
        return total

    async def _give_back(self, charge: Charge, units: int) -> None:
        try:
            await self._ledger.settle(self._counts, charge, -units, self._clock())
        except UnavailableError as refusal:
            logger.error("budget %s: units of a refused request stay spent: %s", self.name, refusal.reason)

    async def _reserve(self, conn: HTTPConnection, units: int) -> Callable[[int], Any]:
        caller = self._by.known(conn, self)
        charges = await self._charge(caller, units)
        return lambda more: self._settle(caller, charges, more)

    async def _settle(self, caller: Any, charges: tuple[Charge, ...], more: int) -> None:
        """Correct what was charged, in the periods in which it was."""
        now = self._clock()
        for charge, (ledger, alarm) in zip(charges, self._accounts, strict=True):
            used = await ledger.settle(self._counts, charge, more, now)
            await alarm.note(charge, used, more, caller)

    def _policy(self, charge: Charge) -> str:
        quota = self._ledger.quota
        return f'"{quota}";q={quota.limit};w={charge.period.seconds}'

    def _field(self, charge: Charge, *, given_back: int = 0) -> str:
        quota = self._ledger.quota
        left = min(_LARGEST, max(0, quota.limit - charge.spending.used + given_back))
        return f'"{quota}";r={left};t={_seconds_left(charge.period, charge.at)}'

    def _refusal(self, caller: Any, units: int, charge: Charge) -> BudgetExceededError:
        headers = {"RateLimit-Policy": self._policy(charge), "RateLimit": self._field(charge)}
        if units > self._ledger.quota.limit:
            detail = "This request costs more than a whole budget. Ask for less at once."
            return BudgetExceededError(
                f"{self.name}: {units} units at once{describe(caller)}", detail=detail, headers=headers
            )
        headers["Retry-After"] = str(_seconds_left(charge.period, charge.at))
        return BudgetExceededError(f"{self.name}: used up{describe(caller)}", headers=headers)

    def _total_refusal(self, charge: Charge, units: int, period: Period) -> BudgetExceededError:
        """The same whatever is asked for, so that the total cannot be found out by asking for more and more."""
        headers = {
            "RateLimit-Policy": self._policy(charge),
            "RateLimit": self._field(charge, given_back=units),
            "Retry-After": str(_seconds_left(period, charge.at)),
        }
        return BudgetExceededError(f"{self.name}: the total of all callers is spent", headers=headers)


def _quotas(limit: str, total: str | None) -> tuple[Quota, Quota | None]:
    """A caller's quota, and that of all together.

    Raises:
        ConfigurationError: One cannot be read, or the total has no room for what one caller may spend.
    """
    own = Quota.parse(limit, where="QueryBudget")
    if total is None:
        return own, None
    whole = Quota.parse(total, where="QueryBudget(total=...)")
    if whole.seconds >= own.seconds and whole.limit < own.limit:
        raise ConfigurationError(f"QueryBudget(total=...): {whole} for all callers is less than {own} for one of them")
    return own, whole


def _seconds_left(period: Period, now: float) -> int:
    return max(1, math.ceil(period.ends.timestamp() - now))
