"""The word that goes out once, when most of a budget is spent."""

import asyncio
import inspect
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mlguard._numbers import is_number
from mlguard.errors import ConfigurationError, UnavailableError
from mlguard.store import Store, store_key
from mlguard.traffic._by import describe
from mlguard.traffic.ledger import KEPT, BudgetStatus, Charge, Ledger
from mlguard.traffic.reservations import apart

logger = logging.getLogger("mlguard")


@dataclass(frozen=True, slots=True)
class BudgetWarning:
    """Most of a budget is spent.

    Attributes:
        budget: The budget's name.
        caller: Who, as ``by`` has said: a :class:`Principal`, or a name. None for the total.
        status: What is left.
        is_total: Whether it is the total over all callers, not one caller's own.
    """

    budget: str
    caller: Any
    status: BudgetStatus
    is_total: bool = False


#: What is called with it, async or not.
OnWarning = Callable[[BudgetWarning], Any]


class Alarm:
    """Says so in the log, and to a function of the app, when a charge passes the threshold of a ledger.

    Once an account: the store remembers it, so that it is one process that says it, and that units which are given back
    and spent again are not said again.

    Args:
        ledger: Whose accounts.
        store: Where they are.
        budget: The budget's name.
        warn_at: The part of the budget.
        on_warning: The function, async or not. Nobody waits for it.
        is_total: Whether the accounts are those of all callers together.

    Attributes:
        threshold: Units from which on it is to be warned.

    Raises:
        ConfigurationError: ``warn_at`` is no part, or ``on_warning`` is no function.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        *,
        budget: str,
        warn_at: float,
        on_warning: OnWarning | None,
        is_total: bool = False,
    ) -> None:
        if not is_number(warn_at) or not 0 < warn_at <= 1:
            raise ConfigurationError("QueryBudget(warn_at=...) is a part of the budget: above 0, at most 1")
        if on_warning is not None and (not callable(on_warning) or isinstance(on_warning, type)):
            raise ConfigurationError("QueryBudget(on_warning=...) is a function that takes a BudgetWarning")
        self.threshold = math.ceil(ledger.quota.limit * Fraction(str(warn_at)))  # 0.07 of 100 is 7, not a little more
        self._ledger = ledger
        self._store = store
        self._budget = budget
        self._on_warning = on_warning
        self._is_async = any(map(inspect.iscoroutinefunction, (on_warning, getattr(on_warning, "__call__", None))))  # noqa: B004  # or an object
        self._is_total = is_total

    async def note(self, charge: Charge, used: int, units: int, caller: Any) -> None:
        """Warn if these units are what has passed the threshold.

        Args:
            charge: What they belong to.
            used: Units that are spent with them.
            units: How many they are.
            caller: Who has spent them.
        """
        if not used - units < self.threshold <= used or not await self._is_first(charge):
            return
        whose = " by all callers together" if self._is_total else describe(caller)
        logger.warning("budget %s: %d of %d units are spent%s", self._budget, used, self._ledger.quota.limit, whose)
        if self._on_warning is not None:
            status = self._ledger.state(used, charge.period)
            warning = BudgetWarning(self._budget, None if self._is_total else caller, status, self._is_total)
            apart(self._tell(self._on_warning, warning))

    async def _is_first(self, charge: Charge) -> bool:
        with suppress(UnavailableError):  # better twice than never
            ttl = max(1.0, charge.period.ends.timestamp() - charge.at) + KEPT
            return await self._store.swap(store_key("budget warning", charge.key.hex()), None, b"1", ttl)
        return True

    async def _tell(self, on_warning: OnWarning, warning: BudgetWarning) -> None:
        try:
            if self._is_async:
                await on_warning(warning)
            else:  # in a thread, as it may wait for a mail server: neither this request nor another one does
                await asyncio.to_thread(on_warning, warning)
        except Exception:  # whose warning it is must not suffer from it
            logger.exception("budget %s: on_warning has failed", self._budget)
