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
        #: Value, expiry, and when it is looked at for the next time: then or earlier.
        self._values: dict[bytes, tuple[bytes, float, float]] = {}
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
        expiry = now + ttl
        look = expiry if known is None else min(expiry, known[2])
        self._values[key] = (value, expiry, look)
        if known is None or look < known[2]:  # else it is looked at in time already
            heappush(self._expiries, (look, key))

    def _drop_expired(self, now: float) -> None:
        for _ in range(DROPS):
            if not self._expiries or self._expiries[0][0] > now:
                return
            look, key = heappop(self._expiries)
            value, expiry, next_look = self._values.get(key, (b"", math.inf, -math.inf))
            if next_look != look:  # it was looked at since, or is no more
                continue
            if expiry > now:  # it was put again since
                self._values[key] = (value, expiry, expiry)
                heappush(self._expiries, (expiry, key))
            else:
                del self._values[key]
