"""Shared state: rate counters, single-use nonces, and small records such as revocations.

One object serves every guard of an app, so that a nonce is refused everywhere once it was used anywhere.
"""

import hashlib
import math
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol, runtime_checkable

from mlguard._records import DROPS, Records
from mlguard.errors import ConfigurationError, StoreFullError
from mlguard.settings import load_settings

#: Schemes of URLs that name a Redis, and whether they mean TLS. Valkey speaks the same protocol.
SCHEMES = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}

#: Parts that a window is cut into. The oldest part is counted whole, so a limit is never exceeded in any true window of
#: its length, and at most 1/16 of a window too strict.
PARTS = 16


class Window(NamedTuple):
    """At most ``limit`` units in any stretch of ``seconds``."""

    limit: int
    seconds: int


class Decision(NamedTuple):
    """What a store answers to a hit.

    Attributes:
        admitted: Whether every window had room. If not, nothing was counted in any of them.
        retry_after: Seconds until the same hit would be admitted; 0 when it was, infinity when it never will be.
        remaining: Units left in each window, in the order asked.
        reset: Seconds until the oldest units of each window are given back, in the order asked.
    """

    admitted: bool
    retry_after: float
    remaining: tuple[int, ...]
    reset: tuple[float, ...]


@runtime_checkable
class Store(Protocol):
    """What guards need of shared state. Callers and nonces are digests made by :func:`store_key`: no names, no secrets.

    Attributes:
        suspends: Whether a call may wait on something outside this process.
        forgets_on_restart: Whether what it remembers ends with this process.
    """

    suspends: bool
    forgets_on_restart: bool

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        """Count ``cost`` units of one caller in all windows, or in none of them.

        Args:
            bucket: Which limit is counted. Many callers in one bucket take no room from another bucket.
            caller: Whose units.
            windows: The same at each hit of one caller in one bucket.
            cost: How many units; 0 only looks.

        Raises:
            ValueError: ``cost`` is negative, which would give units away.
        """

    async def add_nonce(self, key: bytes, ttl: float, *, owner: bytes) -> bool:
        """Remember a nonce of one owner for ``ttl`` seconds. False if it is remembered already.

        Args:
            key: The nonce. Two owners may use the same one.
            ttl: Seconds for which it is remembered at least.
            owner: Whose nonce. Many nonces of one owner take no room from another.

        Raises:
            StoreFullError: There is no room left for this owner; a nonce is never forgotten early to make some (503).
        """

    async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
        """The values kept under some keys, in the order asked; None where there is none."""

    async def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """Keep a value for ``ttl`` seconds, in the place of any other.

        Raises:
            StoreFullError: There is no room; a value is never forgotten early to make some (503).
        """

    async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
        """Keep a value for ``ttl`` seconds if ``old`` is kept now (None: nothing), as one step. False if it is not.

        Raises:
            StoreFullError: There is no room; a value is never forgotten early to make some (503).
        """


def store_key(*parts: str) -> bytes:
    """One key for a list of names.

    Hashed, so that stores and their dumps hold no names; each part with its length, so that ``("a", "b/c")`` and
    ``("a/b", "c")`` differ.
    """
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Counter:
    """Units counted in one window, by part. Parts without units take no space."""

    __slots__ = ("current", "parts", "total")

    def __init__(self) -> None:
        self.current = 0
        self.total = 0
        self.parts: list[int] = []  # number of the part, units in it, oldest first: [17, 3, 19, 1]

    def move(self, current: int) -> None:
        """Let the window end in part ``current``, and forget the parts that lie wholly outside."""
        self.current = current
        parts = self.parts
        while parts and parts[0] < current - PARTS:
            self.total -= parts[1]
            del parts[:2]

    def add(self, cost: int) -> None:
        """Count units in the current part."""
        parts = self.parts
        if parts and parts[-2] >= self.current:  # >=: a clock that went backwards
            parts[-1] += cost
        else:
            parts += (self.current, cost)
        self.total += cost

    def seconds_until(self, room: int, window: Window, now: float) -> float:
        """Seconds until ``room`` units fit, when enough old parts have left the window; infinity for never."""
        excess = self.total + room - window.limit
        width = window.seconds / PARTS
        for position in range(0, len(self.parts), 2):
            excess -= self.parts[position + 1]
            if excess <= 0:
                return (self.parts[position] + PARTS + 1) * width - now
        return math.inf

    def seconds_until_reset(self, window: Window, now: float) -> float:
        """Seconds until the oldest part has left the window."""
        return (self.parts[0] + PARTS + 1) * window.seconds / PARTS - now if self.parts else 0.0


class _Counters:
    """One caller's counters for all windows of one bucket."""

    __slots__ = ("expires", "windows")

    def __init__(self, number: int) -> None:
        self.expires = 0.0
        self.windows = [_Counter() for _ in range(number)]


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_maximum("max_counters", max_counters)
        _check_maximum("max_nonces", max_nonces)
        _check_maximum("max_records", max_records)
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

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        """Count ``cost`` units of one caller in all windows, or in none of them."""
        if cost < 0:
            raise ValueError("the cost of a hit is negative")
        with self._lock:
            now = self._clock()
            counters = self._counters_of(self._buckets[bucket], caller, len(windows), now, keep=cost > 0)
            pairs = [*zip(counters.windows, windows, strict=True)]
            admitted = True
            retry_after = 0.0
            for counter, window in pairs:
                counter.move(int(now * PARTS / window.seconds))
                if counter.total + cost > window.limit:
                    admitted = False  # not by retry_after, which rounding can make 0
                    retry_after = max(retry_after, counter.seconds_until(cost, window, now))
            if admitted and cost:
                for counter in counters.windows:
                    counter.add(cost)
                counters.expires = now + max([window.seconds for window in windows]) * (1 + 1 / PARTS)
            remaining = [window.limit - counter.total for counter, window in pairs]
            reset = [counter.seconds_until_reset(window, now) for counter, window in pairs]
            return Decision(admitted, retry_after, tuple(remaining), tuple(reset))

    def _counters_of(
        self, bucket: OrderedDict[bytes, _Counters], caller: bytes, number: int, now: float, *, keep: bool
    ) -> _Counters:
        counters = bucket.get(caller)
        if counters is not None:
            bucket.move_to_end(caller)
            return counters
        if not keep:  # who only looks takes nobody's place
            return _Counters(number)
        for _ in range(min(DROPS, len(bucket))):
            oldest = next(iter(bucket.values()))
            if len(bucket) < self._max_counters and oldest.expires > now:
                break
            bucket.popitem(last=False)
        counters = bucket[caller] = _Counters(number)
        return counters

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


def _check_maximum(setting: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"MemoryStore({setting}=...) must be a whole number of at least 1")


def _full(what: str, seconds: float) -> StoreFullError:
    return StoreFullError(f"{what} has no room for another nonce", retry_after=max(1, int(seconds) + 1))


_default: Store | None = None


def default_store() -> Store:
    """The store that every guard shares which was not given one: what ``MLGUARD_STORE_URL`` says.

    Raises:
        ConfigurationError: The setting cannot be used.
    """
    global _default  # noqa: PLW0603  # made on first use, so that importing mlguard reads no setting
    if _default is None:
        _default = store_from_url(load_settings().store_url.get_secret_value(), where="MLGUARD_STORE_URL")
    return _default


def store_from_url(url: str, *, where: str = "store_from_url(url)") -> Store:
    """The store that a URL names.

    Args:
        url: ``memory://``, or what :class:`~mlguard.redis_store.RedisStore` takes.
        where: What carries the URL, for errors.

    Raises:
        ConfigurationError: The URL cannot be used. The text names ``where``, and quotes nothing of the URL.
    """
    if url == "memory://":
        return MemoryStore()
    if not isinstance(url, str) or url.partition("://")[0].lower() not in SCHEMES:
        raise ConfigurationError(
            f"{where} names no store; write memory://, redis://host:6379/0, rediss:// for TLS, or the same with "
            "valkey. Redis Cluster and Sentinel are not supported yet"
        )
    from mlguard.redis_store import RedisStore  # noqa: PLC0415  # which needs this module

    try:
        return RedisStore(url)
    except ConfigurationError as error:
        wrong = str(error)
    raise ConfigurationError(f"{where} cannot be used: {wrong}")
