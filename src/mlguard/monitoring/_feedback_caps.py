"""How much of the training data one caller may decide."""

from mlguard.store import store_key
from mlguard.traffic.ledger import KEPT, Charge, Ledger
from mlguard.traffic.outages import Counts
from mlguard.traffic.periods import Quota


class FeedbackCaps:
    """Counts what each caller sends, and what part of what was accepted is theirs, in the periods of one quota.

    Args:
        name: Of the counts.
        quota: Rows that a caller may send in a period, whatever becomes of them.
        max_share: The part of what is accepted in a period that may be one caller's.
        share_of_at_least: Rows that the share is taken of where fewer were accepted.
        counts: Where to count.
    """

    def __init__(self, name: str, quota: Quota, *, max_share: float, share_of_at_least: int, counts: Counts) -> None:
        self._ledger = Ledger(name, quota)
        self._name = name
        self._max_share = max_share
        self._at_least = share_of_at_least
        self._counts = counts

    async def charge(self, identity: tuple[str, ...], rows: int, now: float) -> Charge:
        """Charge rows that were sent to a caller, all of them or none."""
        return await self._ledger.charge(self._counts, identity, rows, now)

    async def admit(self, identity: tuple[str, ...], rows: int, now: float) -> int:
        """How many rows of a caller may be accepted, counted as accepted.

        The total only grows, so that what was read of it is never too much, whoever counts at the same time; and a
        caller's own rows are counted in one step with a look at the limit. As many trips to the store whatever comes of
        it, or the time of an answer would tell.
        """
        period = self._ledger.period(now)
        ttl = period.ends.timestamp() - now + KEPT
        parts = ("feedback", self._name, period.name)
        total_key, own_key = store_key(*parts, "all"), store_key(*parts, "of", *identity)
        total = (await self._counts.spend(total_key, 0, limit=None, ttl=ttl)).used
        own = (await self._counts.spend(own_key, 0, limit=None, ttl=ttl)).used
        rows = self._room(rows, own, total)
        spending = await self._counts.spend(own_key, rows, limit=self._limit(total + rows), ttl=ttl)
        admitted = rows if spending.admitted else 0  # other requests of the same caller were quicker
        await self._counts.spend(total_key, admitted, limit=None, ttl=ttl)
        return admitted

    def _limit(self, total: int) -> int:
        """How many of so many accepted rows may be one caller's."""
        return int(self._max_share * max(total, self._at_least))

    def _room(self, rows: int, own: int, total: int) -> int:
        """How many more rows a caller may have in, which are part of the total then."""
        if self._max_share < 1:
            fits = (self._max_share * total - own) / (1 - self._max_share)
            rows = min(rows, max(0, int(fits), self._limit(0) - own))
        while rows and own + rows > self._limit(total + rows):  # once or twice: one of max_share=1, or a rounding
            rows -= 1
        return rows
