"""Shared state: rate counters, budgets, leases, single-use nonces, and small records such as revocations.

One object serves every guard of an app, so that a nonce is refused everywhere once it was used anywhere.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from mlguard._redis_url import SCHEMES
from mlguard.errors import ConfigurationError
from mlguard.settings import load_settings

#: Parts that a window is cut into. The oldest part is counted whole, so a limit is never exceeded in any true window of
#: its length, and at most 1/16 of a window too strict.
PARTS = 16


#: How a window counts. ``sliding``: at most the limit in any stretch of that length. ``fixed``: at most the limit
#: between two multiples of its length, so up to twice the limit around one of them. ``gcra``: a bucket of the limit
#: that empties evenly over its length, so the limit at once and then as much as has leaked.
Kind = Literal["sliding", "fixed", "gcra"]


class Window(NamedTuple):
    """At most ``limit`` units in ``seconds``, counted as ``kind`` says."""

    limit: int
    seconds: float
    kind: Kind = "sliding"


class Decision(NamedTuple):
    """What a store answers to a hit.

    Attributes:
        admitted: Whether every window had room. If not, nothing was counted in any of them.
        retry_after: Seconds until the same hit would be admitted; 0 when it was, infinity when it never will be.
        remaining: Units left in each window, in the order asked.
        reset: Seconds until the oldest units of each window are given back, in the order asked.
        at: When it was counted, by the store's clock. :meth:`Store.settle` wants it back.
    """

    admitted: bool
    retry_after: float
    remaining: tuple[int, ...]
    reset: tuple[float, ...]
    at: float = 0.0


class Spending(NamedTuple):
    """What a store answers to a charge on a budget.

    Attributes:
        admitted: Whether there was room. If not, nothing was spent.
        used: Units spent now. Below 0 where more was granted than spent.
    """

    admitted: bool
    used: int


class Lease(NamedTuple):
    """What a store answers to who wants one of a number of places.

    Attributes:
        held: Whether it has one now.
        retry_after: Seconds until the first of those that are taken ends by itself; 0 when it was given one.
    """

    held: bool
    retry_after: float


class WatchedQuery(NamedTuple):
    """One query, as far as a watch over its caller is concerned.

    Attributes:
        marks: Whole numbers below 2**64 that stand for it: the first for the very same query, the others are shared
            with queries close to it. Without any, it is no query, and only ``apart`` counts.
        near: What it adds to each sum if it shares marks with an earlier one.
        apart: What it adds if it does not.
    """

    marks: tuple[int, ...] = ()
    near: tuple[float, ...] = ()
    apart: tuple[float, ...] = ()


class Watch(NamedTuple):
    """What is kept of a caller's queries, and when they speak against it. The same at each call with one key.

    Attributes:
        slots: Marks that are kept, and as many first ones: a power of 2. Each has its place, from which the next one
            there drives it out.
        shared: How many marks two queries share at least that are near-duplicates.
        limits: What each sum may come to. A sum never falls below 0, nor grows beyond twice that.
        kinds: Of each sum, which kind of evidence it is, from 0 on. A kind votes if one of its sums is at its limit.
        votes: How many kinds must vote at once for a verdict.
        hold: Seconds for which a verdict holds after the last query that had so many votes.
        ttl: Seconds for which everything is remembered after the last query, at least ``hold``.
    """

    slots: int
    shared: int
    limits: tuple[float, ...] = ()
    kinds: tuple[int, ...] = ()
    votes: int = 1
    hold: float = 0.0
    ttl: float = 0.0

    def evidence(self, sums: Sequence[float]) -> tuple[float, ...]:
        """Of each kind, the largest of its sums, as a part of what it may come to."""
        found = [0.0] * (max(self.kinds, default=-1) + 1)
        for total, limit, kind in zip(sums, self.limits, self.kinds, strict=True):
            part = total / limit
            if part > found[kind]:  # noqa: PLR1730  # in every request, and max() takes twice as long
                found[kind] = part
        return tuple(found)


#: Of one query: ``new``, ``near`` an earlier one, or an exact ``repeat``, which adds to nothing.
NEW, NEAR, REPEAT = 0, 1, 2


class Sighting(NamedTuple):
    """What a store answers to who watches a caller.

    Attributes:
        seen: Of each query with marks: ``NEW``, ``NEAR`` or ``REPEAT``.
        queries: How many there were of this caller, without repeats.
        votes: Which kinds vote now, or have voted for the verdict that holds: bit 0 for kind 0, and so on.
        seconds: For how long the verdict will hold; 0: there is none.
        change: 1: there was none before this call; -1: one has ended in it; 0: neither. Each is told once.
        evidence: Of each kind, how much there is now, 0 to 2: it votes from 1 on.
    """

    seen: tuple[int, ...]
    queries: int
    votes: int
    seconds: float
    change: int
    evidence: tuple[float, ...]


@runtime_checkable
class Store(Protocol):
    """What guards need of shared state. Callers and nonces are digests made by :func:`store_key`: no names, no secrets.

    Attributes:
        suspends: Whether a call may wait on something outside this process.
        forgets_on_restart: Whether what it remembers ends with this process.
    """

    suspends: bool
    forgets_on_restart: bool

    async def check_access(self) -> None:
        """Find out at start-up whether it lets this service in. That it does not answer is no error: it may yet.

        Raises:
            ConfigurationError: It refuses the user, the password or what they may do.
        """

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

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        """Correct what a hit has counted, once it is known what the request did cost.

        Args:
            bucket: As of the hit.
            caller: As of the hit.
            windows: As of the hit.
            units: How many more it were. They are counted now, even beyond the limit. Below 0, how many fewer: they are
                given back in each window in which the hit still counts.
            at: :attr:`Decision.at` of the hit.
        """

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
        """Spend units of a budget, all of them or none.

        Args:
            key: Whose budget of which period.
            units: How many; 0 only looks, below 0 they are given back or granted.
            limit: How many may be spent at most; units that are given back are always taken. None: any number.
            ttl: Seconds for which the budget is remembered at least.

        Raises:
            StoreFullError: There is no room; a budget is never forgotten early to make some (503).
        """

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
        """Take one of ``limit`` places for ``ttl`` seconds, or keep the one that is held for so long from now on.

        Args:
            key: Which places.
            holder: Who wants it. One holder has one place.
            limit: How many places there are.
            ttl: Seconds after which it ends by itself, as for a process that has crashed.
        """

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        """Give a place back. Nothing happens if it was not held."""

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

    async def watch(
        self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, *, forget: bool = False
    ) -> Sighting:
        """Note queries of one caller, and judge it by all of them, as one step.

        Args:
            key: Whose.
            queries: In their order, at most 256. None: it is only looked whether a verdict has ended.
            rule: What is kept, and when it speaks against the caller.
            forget: Whether everything that is known is forgotten first, also a verdict.

        Raises:
            StoreFullError: There is no memory left for another caller (503).
        """


def store_key(*parts: str) -> bytes:
    """One key for a list of names.

    Hashed, so that stores and their dumps hold no names; each part with its length, so that ``("a", "b/c")`` and
    ``("a/b", "c")`` differ.
    """
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


_default: Store | None = None


def default_store() -> Store:
    """The store that every guard shares which was not given one: what ``MLGUARD_STORE_URL`` says.

    Raises:
        ConfigurationError: The setting cannot be used.
    """
    global _default  # noqa: PLW0603  # made on first use, so that importing mlguard reads no setting
    if _default is None:
        _default = store_from_url(load_settings().secret("store_url").get_secret_value(), where="MLGUARD_STORE_URL")
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
        from mlguard.memory_store import MemoryStore  # noqa: PLC0415  # which needs this module

        return MemoryStore()
    if not isinstance(url, str) or url.partition("://")[0].lower() not in SCHEMES:
        raise ConfigurationError(
            f"{where} names no store; write memory://, redis://host:6379/0, redis+cluster://host,host, "
            "redis+sentinel://host,host/service, rediss for TLS, or the same with valkey"
        )
    from mlguard.redis_store import RedisStore  # noqa: PLC0415  # which needs this module

    try:
        return RedisStore(url)
    except ConfigurationError as error:
        wrong = str(error)
    raise ConfigurationError(f"{where} cannot be used: {wrong}")
