"""What was spent of a budget, in a store: for the guard, and for the operator who looks at it from outside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mlguard.errors import ConfigurationError
from mlguard.store import Store, store_key
from mlguard.traffic.outages import Counts
from mlguard.traffic.periods import Period, Quota

_KEPT = 86_400.0  # seconds for which a period is remembered after its end, for clocks that are behind
_REGISTRY = store_key("budgets")
_REGISTERED = 400 * 86_400.0  # seconds; each start of a service says it again

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


@dataclass(frozen=True, slots=True)
class Ledger:
    """The accounts of one budget, one for each caller and period.

    Attributes:
        name: Of the budget.
        quota: What each account may spend.
    """

    name: str
    quota: Quota

    def key(self, identity: tuple[str, ...], period: Period) -> bytes:
        """Where a caller's account of a period is."""
        return store_key("budget", self.name, self.quota.unit, period.name, *identity)

    def ttl(self, period: Period, now: float) -> float:
        """Seconds for which it is remembered."""
        return period.ends.timestamp() - now + _KEPT

    async def status(self, counts: Counts, identity: tuple[str, ...], now: float) -> BudgetStatus:
        """What is left."""
        return await self.grant(counts, identity, 0, now)

    async def grant(self, counts: Counts, identity: tuple[str, ...], units: int, now: float) -> BudgetStatus:
        """Let a caller spend so many units more in this period."""
        period = Period.at(self.quota.unit, now)
        key = self.key(identity, period)
        used = (await counts.spend(key, -units, limit=None, ttl=self.ttl(period, now))).used
        return BudgetStatus(self.quota.limit, used, max(0, self.quota.limit - used), period.ends)

    async def reset(self, counts: Counts, identity: tuple[str, ...], now: float) -> BudgetStatus:
        """Begin the period anew, without what was spent and granted."""
        used = (await self.status(counts, identity, now)).used
        return await self.grant(counts, identity, used, now)


async def register(store: Store, budget: str, quotas: Mapping[str, str]) -> None:
    """Have the operator's tools know of a budget.

    Args:
        store: Where it is counted.
        budget: Its name.
        quotas: ``caller`` and, if there is one, ``total``: as they are written.
    """
    while True:
        (known,) = await store.get(_REGISTRY)
        budgets = json.loads(known or b"{}")
        if budgets.get(budget) == quotas:
            return
        budgets[budget] = dict(quotas)
        if await store.swap(_REGISTRY, known, json.dumps(budgets).encode(), _REGISTERED):
            return


async def registered(store: Store) -> dict[str, dict[str, Ledger]]:
    """The ledgers of every budget that a service has used: ``caller`` and ``total``."""
    (known,) = await store.get(_REGISTRY)
    return {
        budget: {what: Ledger(budget, Quota.parse(quota, where="budget")) for what, quota in quotas.items()}
        for budget, quotas in json.loads(known or b"{}").items()
    }


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
