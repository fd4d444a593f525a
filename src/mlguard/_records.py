"""Small values kept until they expire, in this process: what was revoked, which refresh token is the latest."""

import math
from collections.abc import Callable
from heapq import heappop, heappush

from mlguard.errors import StoreFullError

#: What is out of date is dropped a few entries a call, more than a call adds: nobody waits while a million are.
DROPS = 8


class Records:
    """Values by key, bounded, none forgotten before it expires. Not thread-safe: whoever uses it holds a lock.

    Args:
        max_records: How many are kept at a time. Beyond it, new ones are refused until old ones expire.
        clock: Seconds, never going backwards.
    """

    __slots__ = ("_clock", "_expiries", "_max_records", "_values")

    def __init__(self, max_records: int, clock: Callable[[], float]) -> None:
        self._max_records = max_records
        self._clock = clock
        self._values: dict[bytes, tuple[bytes, float]] = {}  # value, expiry
        self._expiries: list[tuple[float, bytes]] = []

    def get(self, key: bytes) -> bytes | None:
        """The value, if there is one that has not expired."""
        entry = self._values.get(key)
        return entry[0] if entry is not None and entry[1] > self._clock() else None

    def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """Keep a value for ``ttl`` seconds, in the place of any other.

        Raises:
            StoreFullError: There is no room (503).
        """
        now = self._clock()
        self._drop_expired(now)
        known = self._values.get(key)
        if known is None and len(self._values) >= self._max_records:
            wait = max(1, int(self._expiries[0][0] - now) + 1)
            raise StoreFullError("the store has no room for another record", retry_after=wait)
        self._values[key] = (value, now + ttl)
        if known is None or now + ttl < known[1]:  # else it is looked at again when the one before expires
            heappush(self._expiries, (now + ttl, key))

    def _drop_expired(self, now: float) -> None:
        for _ in range(DROPS):
            if not self._expiries or self._expiries[0][0] > now:
                return
            _, key = heappop(self._expiries)
            expiry = self._values.get(key, (None, -math.inf))[1]
            if expiry > now:  # it was put again since
                heappush(self._expiries, (expiry, key))
            else:
                self._values.pop(key, None)
