"""State in this process: the default, and what the others are measured by."""

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from mlguard._counters import Counter, new_counter
from mlguard._numbers import whole
from mlguard._records import DROPS, Records
from mlguard._watched import WatchedCallers
from mlguard.errors import ConfigurationError, StoreFullError
from mlguard.store import PARTS, Decision, Lease, Sighting, Spending, Watch, WatchedQuery, Window


class _Counters:
    """One caller's counters for all windows of one bucket."""

    __slots__ = ("expires", "windows")

    def __init__(self, windows: Sequence[Window]) -> None:
        self.expires = 0.0
        self.windows: list[Counter] = [new_counter(window.kind) for window in windows]

    def keep(self, windows: Sequence[Window], now: float) -> None:
        """Have them kept for as long as a unit that was counted now counts."""
        self.expires = now + max([window.seconds for window in windows]) * (1 + 1 / PARTS)


class _Nonces:
    """One owner's nonces: when each expires, and the same in the order of time."""

    __slots__ = ("expires", "order")

    def __init__(self) -> None:
        self.expires: dict[bytes, float] = {}
        self.order: list[tuple[float, bytes]] = []

    def add(self, key: bytes, expires: float) -> None:
        self.expires[key] = expires
        heappush(self.order, (expires, key))

    def drop_oldest(self) -> None:
        expired, key = heappop(self.order)
        if self.expires.get(key) == expired:  # else it was used again since
            del self.expires[key]


class MemoryStore:
    """State in this process, bounded, exact under asyncio and threads.

    With several worker processes each one has its own, so each one admits the whole limit, and a nonce is single-use in
    each one only.

    Args:
        max_counters: Callers counted at a time in each bucket. Beyond it, the caller unseen for longest is forgotten.
            One takes about 0.5 to 1 KB.
        max_nonces: Nonces remembered at a time. Beyond it, new ones are refused until old ones expire.
        max_nonces_per_owner: Nonces remembered at a time of one owner, such as one key id of ``SignatureAuth``. Beyond
            it, that owner's new ones are refused, and nobody else's. A tenth of ``max_nonces`` by default: 100 000 are
            300 signed requests a second for as long as signatures hold by default.
        max_records: Revocations and the like kept at a time. Beyond it, new ones are refused until old ones expire.
        max_budgets: Budgets kept at a time. Beyond it, new ones are refused until old ones expire.
        max_watched: Callers whose queries are watched at a time. Beyond it, one is forgotten against whom little
            speaks. One takes 25 KB.
        clock: Seconds, never going backwards.

    Raises:
        ConfigurationError: A maximum is not a positive whole number, or one owner's share is more than there is.
    """

    suspends = False
    forgets_on_restart = True

    def __init__(
        self,
        *,
        max_counters: int = 100_000,
        max_nonces: int = 1_000_000,
        max_nonces_per_owner: int | None = None,
        max_records: int = 1_000_000,
        max_budgets: int = 1_000_000,
        max_watched: int = 4_096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_maximum("max_counters", max_counters)
        _check_maximum("max_nonces", max_nonces)
        _check_maximum("max_records", max_records)
        _check_maximum("max_budgets", max_budgets)
        _check_maximum("max_watched", max_watched)
        if max_nonces_per_owner is None:
            max_nonces_per_owner = -(-max_nonces // 10)  # rounded up
        _check_maximum("max_nonces_per_owner", max_nonces_per_owner)
        if max_nonces_per_owner > max_nonces:
            raise ConfigurationError("MemoryStore(max_nonces_per_owner=...) must be at most max_nonces")
        self._max_counters = max_counters
        self._max_nonces = max_nonces
        self._max_nonces_per_owner = max_nonces_per_owner
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: defaultdict[str, OrderedDict[bytes, _Counters]] = defaultdict(OrderedDict)
        self._nonces: dict[bytes, _Nonces] = {}
        #: Of every nonce, when it expires and whose it is. An owner's own list may be ahead of it, never behind.
        self._nonce_order: list[tuple[float, bytes]] = []
        self._records = Records(max_records, clock)
        self._budgets = Records(max_budgets, clock)
        self._leases: dict[bytes, dict[bytes, float]] = {}
        self._watched = WatchedCallers(max_watched)

    async def check_access(self) -> None:
        """It is this process's own."""

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        """Count ``cost`` units of one caller in all windows, or in none of them."""
        if cost < 0:
            raise ValueError("the cost of a hit is negative")
        with self._lock:
            now = self._clock()
            counters = self._counters_of(self._buckets[bucket], caller, windows, now, keep=cost > 0)
            pairs = [*zip(counters.windows, windows, strict=True)]
            admitted = True
            retry_after = 0.0
            for counter, window in pairs:
                counter.move(window, now)
                if counter.total + cost > window.limit:
                    admitted = False  # not by retry_after, which rounding can make 0
                    retry_after = max(retry_after, counter.seconds_until(cost, window, now))
            if admitted and cost:
                for counter in counters.windows:
                    counter.add(cost)
                counters.keep(windows, now)
            remaining = [max(0, int(window.limit - counter.total)) for counter, window in pairs]
            reset = [counter.seconds_until_reset(window, now) for counter, window in pairs]
            return Decision(admitted, retry_after, tuple(remaining), tuple(reset), now)

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        """Correct what a hit has counted, once it is known what the request did cost."""
        with self._lock:
            now = self._clock()
            counters = self._counters_of(self._buckets[bucket], caller, windows, now, keep=units > 0)
            for counter, window in zip(counters.windows, windows, strict=True):
                counter.move(window, now)
                if units > 0:
                    counter.add(units)
                else:
                    counter.give_back(-units, at, window)
            if units > 0:
                counters.keep(windows, now)

    def _counters_of(
        self,
        bucket: OrderedDict[bytes, _Counters],
        caller: bytes,
        windows: Sequence[Window],
        now: float,
        *,
        keep: bool,
    ) -> _Counters:
        counters = bucket.get(caller)
        if counters is not None:
            bucket.move_to_end(caller)
            return counters
        if not keep:  # who only looks takes nobody's place
            return _Counters(windows)
        for _ in range(min(DROPS, len(bucket))):
            oldest = next(iter(bucket.values()))
            if len(bucket) < self._max_counters and oldest.expires > now:
                break
            bucket.popitem(last=False)
        counters = bucket[caller] = _Counters(windows)
        return counters

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
        """Spend units of a budget, all of them or none."""
        with self._lock:
            used = int(self._budgets.get(key) or 0)
            if limit is not None and units >= 0 and used + units > limit:
                return Spending(admitted=False, used=used)
            if units:
                used += units
                self._budgets.put(key, str(used).encode(), ttl)
            return Spending(admitted=True, used=used)

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
        """Take one of ``limit`` places for ``ttl`` seconds, or keep the one that is held for so long from now on."""
        with self._lock:
            now = self._clock()
            places = self._leases.setdefault(key, {})
            for ended in [other for other, ends in places.items() if ends <= now]:
                del places[ended]
            if holder not in places and len(places) >= limit:
                return Lease(held=False, retry_after=min(places.values()) - now)
            places[holder] = now + ttl
            return Lease(held=True, retry_after=0.0)

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        """Give a place back. Nothing happens if it was not held."""
        with self._lock:
            places = self._leases.get(key, {})
            places.pop(holder, None)
            if not places:
                self._leases.pop(key, None)

    async def add_nonce(self, key: bytes, ttl: float, *, owner: bytes) -> bool:
        """Remember a nonce of one owner for ``ttl`` seconds. False if it is remembered already."""
        with self._lock:
            now = self._clock()
            self._drop_nonces(now)
            nonces = self._nonces.get(owner)
            if nonces is not None:
                self._drop_nonces_of(owner, nonces, now)
                if nonces.expires.get(key, now) > now:
                    return False
                if len(nonces.order) >= self._max_nonces_per_owner:
                    raise _full("one owner's share of the store", nonces.order[0][0] - now)
            if len(self._nonce_order) >= self._max_nonces:
                raise _full("the store", self._nonce_order[0][0] - now)
            # Looked up again, because an owner without a nonce left was dropped. A refused one leaves nothing behind.
            self._nonces.setdefault(owner, _Nonces()).add(key, now + ttl)
            heappush(self._nonce_order, (now + ttl, owner))
            return True

    def _drop_nonces(self, now: float) -> None:
        """Drop a few nonces that have expired, whosever they are."""
        for _ in range(DROPS):
            if not self._nonce_order or self._nonce_order[0][0] > now:
                break
            expired, owner = heappop(self._nonce_order)
            nonces = self._nonces.get(owner)
            if nonces is not None and nonces.order[0][0] <= expired:  # else the owner has dropped it already
                self._drop_oldest_of(owner, nonces)

    def _drop_nonces_of(self, owner: bytes, nonces: _Nonces, now: float) -> None:
        """Drop a few of one owner's nonces that have expired, so that its share is not full of them."""
        for _ in range(DROPS):
            if not nonces.order or nonces.order[0][0] > now:
                break
            self._drop_oldest_of(owner, nonces)

    def _drop_oldest_of(self, owner: bytes, nonces: _Nonces) -> None:
        nonces.drop_oldest()
        if not nonces.order:
            del self._nonces[owner]

    async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
        """The values kept under some keys, in the order asked; None where there is none."""
        with self._lock:
            return tuple([self._records.get(key) for key in keys])

    async def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """Keep a value for ``ttl`` seconds, in the place of any other."""
        with self._lock:
            self._records.put(key, value, ttl)

    async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
        """Keep a value for ``ttl`` seconds if ``old`` is kept now (None: nothing), as one step."""
        with self._lock:
            if self._records.get(key) != old:
                return False
            self._records.put(key, new, ttl)
            return True

    async def watch(
        self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, *, forget: bool = False
    ) -> Sighting:
        """Note queries of one caller, and judge it by all of them, as one step."""
        with self._lock:
            return self._watched.note(key, queries, rule, self._clock(), forget=forget)


def _check_maximum(setting: str, value: object) -> None:
    whole(f"MemoryStore({setting}=...)", value, least=1)


def _full(what: str, seconds: float) -> StoreFullError:
    return StoreFullError(f"{what} has no room for another nonce", retry_after=max(1, int(seconds) + 1))
