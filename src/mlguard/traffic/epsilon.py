"""How much privacy has been spent: an epsilon ledger for each caller."""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any, get_args

from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, RequestMemory
from mlguard._numbers import is_number, whole
from mlguard.errors import ConfigurationError, PrivacyBudgetExceededError
from mlguard.store import Store
from mlguard.traffic._by import MAX_UNITS, By, OfCaller, describe, signature
from mlguard.traffic._counting import CountingGuard
from mlguard.traffic.ledger import BudgetStatus, Charge, Ledger, Registration
from mlguard.traffic.periods import Quota, Unit

#: Stores count whole numbers: an epsilon of 1 is a million units.
UNITS = 1_000_000

_LIMIT = re.compile(rf"([0-9]{{1,9}}(?:\.[0-9]{{1,6}})?) ?/ ?({'|'.join(get_args(Unit))})", re.ASCII)


@dataclass(frozen=True, slots=True)
class EpsilonStatus:
    """What is left of one caller's epsilon.

    Attributes:
        limit: Epsilon in this period.
        spent: Epsilon spent. Below 0 where more was granted than spent.
        remaining: Epsilon left.
        resets_at: When the next period begins, in UTC; None where none does.
    """

    limit: float
    spent: float
    remaining: float
    resets_at: datetime | None


class EpsilonLedger(CountingGuard):
    """Counts the epsilon that answers with differentially private noise cost each caller, and refuses beyond a limit.

    Guards against the sum: an answer of epsilon 0.1 protects what a hundred of them give away. Epsilons add up (basic
    composition; Dwork and Roth, 2014, theorem 3.14), and this is all that is claimed. A limit that is renewed adds its
    whole epsilon in each period: ``"2/month"`` is 24 in a year, ``"2/ever"`` is 2. It is a limit for one caller: what
    callers tell each other adds up too, and nothing here counts that. Nor does it count the deltas of Gaussian noise.

    Give it to the noise, which charges before the endpoint is asked, each time that it draws::

        ledger = EpsilonLedger("2/ever", by=caller)

        @app.post("/predict")
        @repeat_cache(key=KEY, model_version="3", by=caller)
        @truncate_output(decimals=2)
        @add_noise(DPNoise(epsilon=0.5, sensitivity=2.0), ledger=ledger)
        def predict(x: Annotated[np.ndarray, Depends(features)]): ...

    What ``repeat_cache`` answers costs nothing: the same answer once more tells nothing new (post-processing). An
    endpoint that fails after it was charged stays charged.

    Counted in millionths, rounded up, all of a request or nothing, exactly, however many processes there are. While a
    store outside this process does not answer, nobody is answered: what is not counted is not limited. In memory, a
    restart forgets what was spent; in Redis it does not.

    Args:
        limit: ``"2/ever"``, ``"0.5/month"``: a number with at most six decimals, and hour, day, week (from Monday),
            month, year, or ever.
        by: Whose ledger, as for ``RateLimit``.
        name: Names it in the log, in ``mlguard budget``, and in the store. With one, a new limit goes on with what was
            spent under the old one.
        store: Where to count. None is the store that all guards share.
        clock: Seconds since 1970.

    Attributes:
        status: A dependency that returns the :class:`EpsilonStatus` of who is calling, and charges nothing:
            ``Depends(ledger.status)``.

    Raises:
        ConfigurationError: A limit that cannot be read, a ``by`` that cannot name a caller, or another argument that
            cannot work.
        PrivacyBudgetExceededError: Too little is left for this request (429). ``Retry-After`` is the time until the
            next period, where there is one in which it would have room.
        UnavailableError: A store outside this process does not answer (503).
    """

    control = Control.BUDGET

    def __init__(
        self,
        limit: str,
        *,
        by: Callable[..., Any] | Guard | None = None,
        name: str | None = None,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        quota = self.quota = _quota(limit)
        self._by = By(by, where="EpsilonLedger")
        super().__init__(
            name=name,
            otherwise=f"{quota} by {self._by.label}",
            store=store,
            on_store_error="refuse",
            local_share=1,
        )
        # No budget of queries has such a name by chance.
        self._ledger = Ledger(f"epsilon {self.name}{self._own}", quota)
        self._clock = clock
        self._registration = Registration(self.store, self._ledger.name, {"caller": str(quota)})
        self.status = OfCaller(self._by, self.status_of)
        self.__signature__ = signature(self._by)

    async def __call__(self, conn: HTTPConnection, who: Any = None) -> "Account":
        """The account of who is calling, which is charged nothing yet."""
        return Account(self, conn, self._by.caller(conn, who))

    def can_pay(self, epsilon: float) -> bool:
        """Whether the limit is enough for one answer of this epsilon."""
        return bool(_units(epsilon, where="EpsilonLedger") <= self.quota.limit)

    async def status_of(self, caller: Any) -> EpsilonStatus:
        """What is left to a caller, for endpoints of the operator.

        Args:
            caller: A :class:`Principal`, or a name, as ``by`` returns it.
        """
        status = await self._ledger.status(self.store, self._by.identity(caller), self._clock())
        return self._spelt(status)

    async def grant(self, caller: Any, epsilon: float) -> EpsilonStatus:
        """Let a caller spend so much more in this period.

        Raises:
            UnavailableError: The store does not answer (503).
        """
        units = _units(epsilon, where="EpsilonLedger.grant(epsilon=...)")
        return self._spelt(await self._ledger.grant(self.store, self._by.identity(caller), units, self._clock()))

    async def reset(self, caller: Any) -> EpsilonStatus:
        """Begin this period anew for a caller. What was told is not untold by it.

        Raises:
            UnavailableError: As for :meth:`grant`.
        """
        return self._spelt(await self._ledger.reset(self.store, self._by.identity(caller), self._clock()))

    async def charge(self, conn: HTTPConnection, caller: Any, epsilon: float, answers: int) -> None:
        """Charge a caller for so many answers of this epsilon, all of them or none.

        Raises:
            PrivacyBudgetExceededError: There is too little left (429).
        """
        memory = RequestMemory.of(conn.scope)
        charge, units = await self._charge(caller, epsilon, answers)
        left = self._left(charge)
        memory.budget_left = {**memory.budget_left, f"epsilon {self.name}": float(left)}
        self._check_admitted(charge, caller, units)
        memory.headers.append((b"epsilon-remaining", left.encode()))

    async def spend(self, caller: Any, epsilon: float) -> EpsilonStatus:
        """Charge outside of a request, all of it or nothing: for jobs, and for :class:`PrivateAggregates`.

        Args:
            caller: Whose account: a :class:`Principal`, or a name, which may be that of a data set.
            epsilon: How much.

        Returns:
            What is left then.

        Raises:
            ConfigurationError: It is no number above 0.
            PrivacyBudgetExceededError: There is too little left (429, where it is raised in a request).
            UnavailableError: The store does not answer (503).
        """
        charge, units = await self._charge(caller, epsilon, 1)
        self._check_admitted(charge, caller, units)
        return self._spelt(self._ledger.state(charge.spending.used, charge.period))

    async def _charge(self, caller: Any, epsilon: float, answers: int) -> tuple[Charge, int]:
        """Charge a caller, and say how much: all of it, or nothing, where the charge was not admitted."""
        answers = whole("EpsilonLedger: answers", answers, least=0)  # fewer would give epsilon away
        units = min(MAX_UNITS, _units(epsilon, where="EpsilonLedger") * answers)
        if not self._registration.is_done:
            await self._registration.make()
        return await self._ledger.charge(self.store, self._by.identity(caller), units, self._clock()), units

    def _check_admitted(self, charge: Charge, caller: Any, units: int) -> None:
        if charge.spending.admitted:
            return
        headers = {"Epsilon-Remaining": self._left(charge)}
        if units <= self.quota.limit and self.quota.unit != "ever":
            headers["Retry-After"] = str(max(1, math.ceil(charge.period.ends.timestamp() - charge.at)))
        raise PrivacyBudgetExceededError(
            f"epsilon {self.name}: {Decimal(units) / UNITS} at once and {headers['Epsilon-Remaining']} left"
            f"{describe(caller)}",
            headers=headers,
        )

    def _left(self, charge: Charge) -> str:
        return str(Decimal(max(0, self.quota.limit - charge.spending.used)) / UNITS)

    def _spelt(self, status: BudgetStatus) -> EpsilonStatus:
        resets_at = None if self.quota.unit == "ever" else status.resets_at
        return EpsilonStatus(status.limit / UNITS, status.used / UNITS, status.remaining / UNITS, resets_at)


class Account:
    """One caller's account in a ledger, in one request.

    Args:
        ledger: The ledger.
        conn: The request.
        caller: Whose account.
    """

    def __init__(self, ledger: EpsilonLedger, conn: HTTPConnection, caller: Any) -> None:
        self._ledger = ledger
        self._conn = conn
        self._caller = caller

    async def spend(self, epsilon: float, *, answers: int = 1) -> None:
        """Spend this epsilon for each of so many answers, all of it or nothing, before they are computed.

        Raises:
            PrivacyBudgetExceededError: There is too little left (429).
        """
        await self._ledger.charge(self._conn, self._caller, epsilon, answers)


def _quota(limit: str) -> Quota:
    match = _LIMIT.fullmatch(limit.strip()) if isinstance(limit, str) else None
    units = 0 if match is None else int(Decimal(match[1]) * UNITS)
    if match is None or units == 0:
        raise ConfigurationError(
            f"EpsilonLedger: {limit!r} is no limit; write a number above 0 with at most six decimals, '/', and hour, "
            'day, week, month, year or ever, such as "2/ever"'
        )
    unit: Unit = match[2]  # type: ignore[assignment]  # the pattern names no others
    return Quota(units, unit)


def _units(epsilon: float, *, where: str) -> int:
    """An epsilon in millionths, rounded up as it is written: 0.1 is 100 000, not one more."""
    if not is_number(epsilon) or not 0 < epsilon <= MAX_UNITS // UNITS:
        raise ConfigurationError(f"{where} is an epsilon: a number above 0")
    return int((Decimal(repr(float(epsilon))) * UNITS).to_integral_value(ROUND_CEILING))
