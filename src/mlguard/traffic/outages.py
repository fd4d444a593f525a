"""What a guard that counts does while its store does not answer."""

import logging
import math
import threading
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from mlguard._numbers import is_number
from mlguard.errors import ConfigurationError, OverloadedError, UnavailableError
from mlguard.memory_store import MemoryStore
from mlguard.store import Decision, Lease, Spending, Store, Window

logger = logging.getLogger("mlguard")

_ASK_AGAIN = 1.0  # seconds, as a Redis that has failed says

#: ``refuse``: nobody is admitted (503). ``allow``: everybody is, and nothing is counted. ``local``: each process counts
#: by itself, up to its share of the limit. One that has too many requests of its own in the line for the store is no
#: reason to admit everybody: then ``allow`` refuses too, or a flood would open what is to stop it.
OnStoreError = Literal["refuse", "allow", "local"]


class Counts(Protocol):
    """What guards that count need of a store. See :class:`~mlguard.store.Store`."""

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        """Count units in all windows, or in none of them."""

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        """Correct what a hit has counted."""

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
        """Spend units of a budget, all of them or none."""

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
        """Take one of ``limit`` places, or keep the one that is held."""

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        """Give a place back.

        Raises:
            UnavailableError: The store does not answer, whatever is done without it (503).
        """


def counts_of(store: Store, on_store_error: OnStoreError, local_share: float, *, where: str) -> Counts:
    """The store as a guard is to see it.

    Args:
        store: Where to count.
        on_store_error: What to do while it does not answer.
        local_share: The part of each limit that this process admits by itself, for ``local``. One unit at least.
        where: The guard, for errors and the log.

    Raises:
        ConfigurationError: A policy that does not exist, or a share that is none.
    """
    if on_store_error not in {"refuse", "allow", "local"}:
        raise ConfigurationError(f'{where}: on_store_error=... is "refuse", "allow" or "local"')
    if not is_number(local_share) or not 0 < local_share <= 1:
        raise ConfigurationError(f"{where}: local_share=... is a part of the limit: above 0, at most 1")
    if on_store_error == "refuse":
        return store
    return _Substitute(store, _Everybody() if on_store_error == "allow" else _Share(local_share), where)


async def give_back(counts: Counts, spending: Spending, key: bytes, units: int, *, ttl: float) -> None:
    """Give units of a budget back to what has counted them, and to nothing else: elsewhere they would be a gift.

    Args:
        counts: What was asked to spend them.
        spending: What it has said.
        key: As it was asked.
        units: How many are given back.
        ttl: Seconds for which the budget is remembered at least.

    Raises:
        UnavailableError: The store has counted them, and does not answer now: they stay spent.
    """
    if isinstance(counts, _Substitute):
        counts = counts.that_counted(spending)
    await counts.spend(key, -units, limit=None, ttl=ttl)


def decided_without_store(counts: Counts) -> int:
    """How many calls of a guard were decided while its store did not answer."""
    return counts.decided if isinstance(counts, _Substitute) else 0


class _Elsewhere(float):
    """When a substitute has counted a hit. What it has counted can be given back by nobody else."""


class _UsedElsewhere(int):
    """What is spent of a budget by the count of a substitute."""


class _Substitute:
    """A store, and what decides in its place while it does not answer.

    What was counted in one is not carried over to the other.
    """

    def __init__(self, store: Store, substitute: "_Everybody | _Share", where: str) -> None:
        self._store = store
        self._substitute = substitute
        self._where = where
        self._lock = threading.Lock()  # an app's tests, or a server of several event loops, may use threads
        self.decided = 0  # in its place
        self._decided_before = 0  # when it was there the last time

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        decision: Decision = await self._ask("hit", bucket, caller, windows, cost)
        return decision

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        if units < 0 and isinstance(at, _Elsewhere):
            await self._substitute.settle(bucket, caller, windows, units, at=at)
        else:
            await self._ask("settle", bucket, caller, windows, units, at=at)

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
        spending: Spending = await self._ask("spend", key, units, limit=limit, ttl=ttl)
        return spending

    def that_counted(self, spending: Spending) -> Counts:
        """Which of the two has said this."""
        return self._substitute if isinstance(spending.used, _UsedElsewhere) else self._store

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
        lease: Lease = await self._ask("take_lease", key, holder, limit=limit, ttl=ttl)
        return lease

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        await self._substitute.end_lease(key, holder)  # it may have been taken while the store was away
        await self._store.end_lease(key, holder)  # if it does not answer, who gives it back tries again

    async def _ask(self, method: str, *args: Any, **options: Any) -> Any:
        decided = self.decided
        try:
            answer = await getattr(self._store, method)(*args, **options)
        except UnavailableError as error:
            if isinstance(error, OverloadedError) and not self._substitute.is_bounded:
                raise
            self._note_failure()
            return await getattr(self._substitute, method)(*args, **options)
        if decided != self._decided_before:
            self._note_answer(decided)
        return answer

    def _note_failure(self) -> None:
        with self._lock:
            self.decided += 1
            is_first = self.decided == self._decided_before + 1
        if is_first:
            logger.error("%s goes on without its store: %s", self._where, self._substitute)

    def _note_answer(self, decided: int) -> None:
        """It answers again, unless it has failed others since it was asked."""
        with self._lock:
            without = self.decided - self._decided_before if self.decided == decided else 0
            if without:
                self._decided_before = decided
        if without:
            logger.warning("%s counts in its store again, after %d decisions without it", self._where, without)


class _Everybody:
    """Admits everybody, and counts nothing: its arguments are those of every counter, and most go unused."""

    is_bounded = False

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:  # noqa: ARG002  # see above
        left = tuple([window.limit for window in windows])
        return Decision(True, 0.0, left, (0.0,) * len(windows), _Elsewhere())

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        pass

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:  # noqa: ARG002  # see above
        return Spending(admitted=True, used=_UsedElsewhere())

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:  # noqa: ARG002  # see above
        return Lease(held=True, retry_after=0.0)

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        pass

    def __str__(self) -> str:
        return "everybody is admitted"


class _Share:
    """Counts in this process, up to a part of each limit."""

    is_bounded = True

    def __init__(self, part: float) -> None:
        self._part = part
        self._memory = MemoryStore()

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        decision = await self._memory.hit(bucket, caller, self._smaller(windows), cost)
        # What costs more than the share has room again when the store is back, which may be soon.
        retry_after = decision.retry_after if decision.retry_after < math.inf else _ASK_AGAIN
        return decision._replace(retry_after=retry_after, at=_Elsewhere(decision.at))

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        if units > 0 or isinstance(at, _Elsewhere):
            await self._memory.settle(bucket, caller, self._smaller(windows), units, at=at)

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
        if units < 0:  # of which the store may have counted some
            units = -min(-units, (await self._memory.spend(key, 0, limit=None, ttl=ttl)).used)
        spending = await self._memory.spend(key, units, limit=None if limit is None else self._of(limit), ttl=ttl)
        return Spending(spending.admitted, _UsedElsewhere(spending.used))

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
        return await self._memory.take_lease(key, holder, limit=self._of(limit), ttl=ttl)

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        await self._memory.end_lease(key, holder)

    def _smaller(self, windows: Sequence[Window]) -> list[Window]:
        return [self._smaller_window(window) for window in windows]

    def _smaller_window(self, window: Window) -> Window:
        limit = self._of(window.limit)
        if window.kind != "gcra":
            return window._replace(limit=limit)
        # The rate is what is shared, also where the burst is one unit already.
        return window._replace(limit=limit, seconds=limit * window.seconds / (window.limit * self._part))

    def _of(self, limit: int) -> int:
        return max(1, int(limit * self._part))

    def __str__(self) -> str:
        return f"this process admits {self._part:g} of each limit by itself"
