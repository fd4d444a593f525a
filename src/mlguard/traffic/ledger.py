"""What was spent of a budget, in a store: for the guard, and for the operator who looks at it from outside."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from mlguard.errors import ConfigurationError, UnavailableError
from mlguard.monitoring.events import record_event
from mlguard.store import Spending, Store, store_key
from mlguard.traffic.outages import Counts, give_back
from mlguard.traffic.periods import Calendar, Period, Quota

logger = logging.getLogger("mlguard")

#: Seconds for which a period is remembered after its end, for clocks that are behind.
KEPT = 86_400.0
_REGISTRY = store_key("budgets")
_REGISTERED = 400 * 86_400.0  # seconds; each start of a service says it again
#: What is known of each budget: the quota of ``caller`` and, if there is one, of ``total``.
_BUDGETS = TypeAdapter(dict[str, dict[str, str]])

#: Who is counted by the budget over all callers.
EVERYBODY = ("everybody",)


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """What is left of one caller's budget.

    Attributes:
        limit: Units in this period.
        used: Units spent. Below 0 where more was granted than spent.
        remaining: Units left.
        resets_at: When the next period begins, in UTC.
    """

    limit: int
    used: int
    remaining: int
    resets_at: datetime


class Charge(NamedTuple):
    """Units that were charged to an account, or refused.

    Attributes:
        key: The account.
        period: Its period.
        at: When, in seconds since 1970.
        spending: What was said to it.
    """

    key: bytes
    period: Period
    at: float
    spending: Spending


class Ledger:
    """The accounts of one budget, one for each caller and period.

    Args:
        name: Of the budget.
        quota: What each account may spend.
    """

    def __init__(self, name: str, quota: Quota) -> None:
        self.name = name
        self.quota = quota
        self._calendar = Calendar(quota.unit)

    def period(self, now: float) -> Period:
        """The period of a moment, in seconds since 1970."""
        return self._calendar.at(now)

    async def charge(self, counts: Counts, identity: tuple[str, ...], units: int, now: float) -> Charge:
        """Charge units to a caller's account, all of them or none."""
        period = self._calendar.at(now)
        key = self._key(identity, period)
        spending = await counts.spend(key, units, limit=self.quota.limit, ttl=_ttl(period, now))
        return Charge(key, period, now, spending)

    async def settle(self, counts: Counts, charge: Charge, more: int, now: float) -> int:
        """Correct a charge, in its own period and where it was counted.

        Returns:
            What is spent now of the account, as far as it is known.
        """
        ttl = _ttl(charge.period, now)
        if more > 0:
            return (await counts.spend(charge.key, more, limit=None, ttl=ttl)).used
        await give_back(counts, charge.spending, charge.key, -more, ttl=ttl)
        return charge.spending.used + more

    async def status(self, counts: Counts, identity: tuple[str, ...], now: float) -> BudgetStatus:
        """What is left to a caller."""
        return await self._spend(counts, identity, 0, now)

    async def grant(self, store: Store, identity: tuple[str, ...], units: int, now: float) -> BudgetStatus:
        """Let a caller spend so many units more in this period."""
        status = await self._spend(store, identity, -units, now)
        logger.warning("budget %s: %d units granted%s", self.name, units, _describe("to", identity))
        record_event("limit.changed", budget=self.name, change="granted", units=units, caller=_named(identity))
        return status

    async def reset(self, store: Store, identity: tuple[str, ...], now: float) -> BudgetStatus:
        """Begin the period anew, without what was spent and granted."""
        used = (await self.status(store, identity, now)).used
        status = await self._spend(store, identity, -used, now)
        logger.warning("budget %s: begun anew%s, with %d units spent", self.name, _describe("for", identity), used)
        record_event("limit.changed", budget=self.name, change="reset", units=used, caller=_named(identity))
        return status

    async def forget(self, store: Store, identity: tuple[str, ...], now: float) -> int:
        """The same, and the log is not told whose: for a caller who is to be erased.

        Returns:
            How much had been spent or, below 0, granted.
        """
        used = (await self.status(store, identity, now)).used
        if used:
            await self._spend(store, identity, -used, now)
        return used

    def state(self, used: int, period: Period) -> BudgetStatus:
        """What is left where so much is spent."""
        return BudgetStatus(self.quota.limit, int(used), max(0, self.quota.limit - used), period.ends)

    async def _spend(self, counts: Counts, identity: tuple[str, ...], units: int, now: float) -> BudgetStatus:
        period = self._calendar.at(now)
        spending = await counts.spend(self._key(identity, period), units, limit=None, ttl=_ttl(period, now))
        return self.state(spending.used, period)

    def _key(self, identity: tuple[str, ...], period: Period) -> bytes:
        return store_key("budget", self.name, self.quota.unit, period.name, *identity)


def _ttl(period: Period, now: float) -> float:
    return period.ends.timestamp() - now + KEPT


def _describe(preposition: str, identity: tuple[str, ...]) -> str:
    """Whose account, for the log: only a principal's, as a name may be an address."""
    if identity == EVERYBODY:
        return f" {preposition} all callers together"
    return f" {preposition} {identity[1]} principal {identity[3]!r}" if identity[0] == "principal" else ""


def _named(identity: tuple[str, ...]) -> str | None:
    """The same for an audit."""
    if identity == EVERYBODY:
        return "everybody"
    return f"{identity[1]}:{identity[3]}" if identity[0] == "principal" else None


class Registration:
    """Has the operator's tools know of a budget, once a process.

    Args:
        store: Where it is counted.
        budget: Its name.
        quotas: ``caller`` and, if there is one, ``total``: as they are written.

    Attributes:
        is_done: Whether they do, or need not.
    """

    def __init__(self, store: Store, budget: str, quotas: Mapping[str, str]) -> None:
        self._store, self._budget, self._quotas = store, budget, quotas
        self.is_done = not store.suspends  # nobody can look into this process's memory

    async def make(self) -> None:
        """Register it. While the store does not answer, that is left to the next request, and refuses none."""
        self.is_done = True  # first: what is asked meanwhile need not do it too
        try:
            await register(self._store, self._budget, self._quotas)
        except BaseException as error:
            self.is_done = False
            if not isinstance(error, UnavailableError):  # the operator can wait; what is counted next will tell
                raise


async def register(store: Store, budget: str, quotas: Mapping[str, str]) -> None:
    """Have the operator's tools know of a budget.

    Args:
        store: Where it is counted.
        budget: Its name.
        quotas: ``caller`` and, if there is one, ``total``: as they are written.
    """
    while True:
        (known,) = await store.get(_REGISTRY)
        budgets = _read(known) | {budget: dict(quotas)}
        # Also where nothing is new: it is remembered for as long again.
        if await store.swap(_REGISTRY, known, _BUDGETS.dump_json(budgets), _REGISTERED):
            return


async def registered(store: Store) -> dict[str, dict[str, Ledger]]:
    """The ledgers of every budget that a service has used: ``caller`` and ``total``."""
    (known,) = await store.get(_REGISTRY)
    return {
        budget: {
            what: Ledger(budget, Quota.parse(quota, where="budget", may_end=True)) for what, quota in quotas.items()
        }
        for budget, quotas in _read(known).items()
    }


def _read(record: bytes | None) -> dict[str, dict[str, str]]:
    """What was registered. What cannot be read is written anew by the next service, and is no reason to refuse."""
    try:
        return _BUDGETS.validate_json(record or b"{}", strict=True)
    except ValidationError:
        logger.warning("the list of budgets in the store cannot be read: mlguard budget knows those that are used next")
        return {}


def ledger_named(budgets: Mapping[str, Mapping[str, Ledger]], name: str, what: str) -> Ledger:
    """One of them.

    Raises:
        ConfigurationError: There is none of that name, or it has no total.
    """
    if name not in budgets:
        there = ", ".join(map(repr, budgets)) or "none: no service has used one in this store"
        raise ConfigurationError(f"there is no budget {name!r}; there are: {there}")
    if what not in budgets[name]:
        raise ConfigurationError(f"the budget {name!r} has no total over all callers")
    return budgets[name][what]
