"""Small values kept until they expire, in this process: what was revoked, which refresh token is the latest."""

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace

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
        self._expiries: list[tuple[float, bytes]] = []  # one a key, of when it was first put

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
        if key not in self._values and len(self._values) >= self._max_records:
            wait = max(1, int(self._expiries[0][0] - now) + 1)
            raise StoreFullError("the store has no room for another record", retry_after=wait)
        if key not in self._values:
            heappush(self._expiries, (now + ttl, key))
        self._values[key] = (value, now + ttl)

    def _drop_expired(self, now: float) -> None:
        for _ in range(DROPS):
            if not self._expiries or self._expiries[0][0] > now:
                return
            key = self._expiries[0][1]
            expiry = self._values[key][1]
            if expiry > now:  # it was put again since
                heapreplace(self._expiries, (expiry, key))
            else:
                heappop(self._expiries)
                del self._values[key]
