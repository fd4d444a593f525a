"""State that several processes share, in Redis or Valkey."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from mlguard._numbers import seconds, whole
from mlguard._records import DROPS
from mlguard._redis_cluster import RedisCluster
from mlguard._redis_connection import Redis, RedisConnection, Script, StoreHealth
from mlguard._redis_scripts import ADD_NONCE, HIT, SETTLE, SPEND, SWAP, TAKE_LEASE, WATCH
from mlguard._redis_sentinel import RedisSentinel
from mlguard._redis_url import read_url
from mlguard._watched import place_of
from mlguard.errors import ConfigurationError, StoreFullError, UnavailableError
from mlguard.store import PARTS, Decision, Lease, Sighting, Spending, Watch, WatchedQuery, Window, store_key

_EXACT = 2**53 - 1  # the largest number up to which Redis' scripts count exactly
_LONGEST = 100 * 366 * 86_400.0  # seconds; what is to be kept for longer is kept for so long

_HIT, _SETTLE, _SPEND, _TAKE_LEASE = Script(HIT), Script(SETTLE), Script(SPEND), Script(TAKE_LEASE)
_ADD_NONCE, _SWAP, _WATCH = Script(ADD_NONCE), Script(SWAP), Script(WATCH)


class RedisStore:
    """State in Redis or Valkey, for several worker processes: what one counts, uses up or revokes holds in all.

    The same sliding windows as ``MemoryStore``, exact under races, and by Redis' own clock. Each call is one trip.
    While Redis cannot be reached, does not answer in time or answers with an error, requests that need it are refused
    with 503: no guard opens. For a second after a failure it is not asked again.

    Keys are digests under a prefix, and all of them expire. Redis must not evict them earlier: ``maxmemory-policy
    noeviction``, or nonces and revocations are forgotten. Nobody but the service may write to it.

    Args:
        url: ``redis://``, ``rediss://`` for TLS, or the same with ``valkey``:
            ``redis://user:password@host:6379/0``, version 6.2 or newer. TLS always verifies the certificate and the
            name; ``?ssl_ca_certs=``, ``ssl_certfile=`` and ``ssl_keyfile=`` name files. A Cluster is
            ``redis+cluster://`` and some of its nodes, ``host:6379,host:6379``; servers that Sentinels watch over are
            ``redis+sentinel://``, the Sentinels, and the name of the service, ``host:26379,host:26379/service``.
        timeout: Seconds that one call of one server may take, connecting included; twice that where something keeps the
            event loop busy meanwhile. Waiting for one of a process' 16 connections is not part of it, and takes 2
            seconds at most.
        prefix: Begins every key. Services that share a Redis and are not to share their counts need one each.
        max_nonces_per_owner: Nonces remembered at a time of one owner, such as one key id of ``SignatureAuth``. Beyond
            it, that owner's new ones are refused, and nobody else's.

    Raises:
        ConfigurationError: A URL that cannot be used, another argument that cannot work, or the extra ``redis`` is not
            installed.
        UnavailableError: At each call: Redis cannot be asked (503).
        StoreFullError: At each call: an owner's share is used up, or Redis has no memory left (503).
    """

    suspends = True
    forgets_on_restart = False

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 0.25,
        prefix: str = "mlguard",
        max_nonces_per_owner: int = 100_000,
    ) -> None:
        timeout = seconds("RedisStore(timeout=...)", timeout, most=60)
        if not isinstance(prefix, str) or not prefix or set(prefix) & set("{}"):
            raise ConfigurationError("RedisStore(prefix=...) is a text without braces, and not empty")
        self._prefix = prefix
        self._share = whole("RedisStore(max_nonces_per_owner=...)", max_nonces_per_owner, least=1)
        self._redis = _open(url, timeout=timeout)

    def health(self) -> tuple[StoreHealth, ...]:
        """How each server has served this process so far, for metrics."""
        return tuple([connection.health for connection in self._redis.connections])

    async def check_access(self) -> None:
        """Find out at start-up whether it lets this service in. That it does not answer is no error: it may yet."""
        nobody = store_key("nobody")
        with suppress(UnavailableError):
            await self._redis.run(_SPEND, self._place("budget", nobody), 0, 1)  # which changes nothing
        if any(connection.is_refused for connection in self._redis.connections):
            raise ConfigurationError(
                "RedisStore(url), or MLGUARD_STORE_URL: Redis does not accept the user or the password, or does not "
                "let the user run scripts"
            )

    async def hit(self, bucket: str, caller: bytes, windows: Sequence[Window], cost: int) -> Decision:
        """Count ``cost`` units of one caller in all windows, or in none of them."""
        if cost < 0:
            raise ValueError("the cost of a hit is negative")
        plan = _plan(bucket, tuple(windows))
        answer = await self._redis.run(_HIT, self._counters(caller, plan), min(cost, _EXACT + 1), *plan.numbers)
        admitted, wait, now, *counted = plan.answer.unpack(answer)
        return Decision(
            admitted == 1,
            math.inf if wait < 0 else wait / 1e6,
            tuple([max(0, window.limit - int(used)) for window, used in zip(windows, counted[::2], strict=True)]),
            tuple([reset / 1e6 for reset in counted[1::2]]),
            now / 1e6,
        )

    async def settle(self, bucket: str, caller: bytes, windows: Sequence[Window], units: int, *, at: float) -> None:
        """Correct what a hit has counted, once it is known what the request did cost."""
        plan = _plan(bucket, tuple(windows))
        units = max(-_EXACT, min(units, _EXACT))
        await self._redis.run(_SETTLE, self._counters(caller, plan), units, *plan.numbers, round(at * 1e6))

    def _counters(self, caller: bytes, plan: "_Plan") -> str:
        # The braces keep one caller's counters on one node of a Cluster.
        return f"{self._prefix}:rate:{{{caller.hex()}}}:{plan.place}"

    async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
        """Spend units of a budget, all of them or none."""
        bound = () if limit is None else (min(limit, _EXACT),)
        units = max(-_EXACT, min(units, _EXACT + 1))
        admitted, used = await self._redis.run(_SPEND, self._place("budget", key), units, _milliseconds(ttl), *bound)
        return Spending(admitted == 1, used)

    async def take_lease(self, key: bytes, holder: bytes, *, limit: int, ttl: float) -> Lease:
        """Take one of ``limit`` places for ``ttl`` seconds, or keep the one that is held for so long from now on."""
        held, wait = await self._redis.run(_TAKE_LEASE, self._place("leases", key), holder, _milliseconds(ttl), limit)
        return Lease(held == 1, wait / 1e6)

    async def end_lease(self, key: bytes, holder: bytes) -> None:
        """Give a place back. Nothing happens if it was not held."""
        await self._redis.ask("ZREM", self._place("leases", key), holder)

    async def add_nonce(self, key: bytes, ttl: float, *, owner: bytes) -> bool:
        """Remember a nonce of one owner for ``ttl`` seconds. False if it is remembered already."""
        place = self._place("nonces", owner)
        added, wait = await self._redis.run(_ADD_NONCE, place, key, _milliseconds(ttl), self._share, DROPS)
        if added < 0:
            raise StoreFullError(
                "one owner's share of the store has no room for another nonce", retry_after=wait // 1_000_000 + 1
            )
        return bool(added)

    async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
        """The values kept under some keys, in the order asked; None where there is none."""
        if not keys:
            return ()
        places = [self._place("record", key) for key in keys]
        return tuple(await self._redis.get(*places))

    async def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """Keep a value for ``ttl`` seconds, in the place of any other."""
        place, keep = self._place("record", key), _milliseconds(ttl)
        await self._redis.ask("SET", place, value, "PX", keep)

    async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
        """Keep a value for ``ttl`` seconds if ``old`` is kept now (None: nothing), as one step."""
        expected: tuple[Any, ...] = () if old is None else (old,)
        return bool(await self._redis.run(_SWAP, self._place("record", key), new, _milliseconds(ttl), *expected))

    async def watch(
        self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, *, forget: bool = False
    ) -> Sighting:
        """Note queries of one caller, and judge it by all of them, as one step."""
        sums = len(rule.limits)
        numbers = (rule.shared, rule.votes, rule.hold * 1e6, _milliseconds(rule.ttl), int(forget), sums, rule.slots)
        packed = [_pack(query, rule.slots, sums) for query in queries]
        answer = await self._redis.run(
            _WATCH, self._place("watched", key), *numbers, *rule.limits, *rule.kinds, *packed
        )
        seen, queries_before, votes, microseconds, change, millionths = answer
        evidence = tuple([one / 1e6 for one in millionths])
        return Sighting(tuple(seen), queries_before, votes, microseconds / 1e6, change, evidence)

    def _place(self, kind: str, key: bytes) -> str:
        return f"{self._prefix}:{kind}:{{{key.hex()}}}"

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._prefix!r})"


class _Plan(NamedTuple):
    """What is the same in every hit of a bucket.

    Attributes:
        place: The part of a key that says which windows are counted there.
        numbers: Milliseconds to keep it, and the windows, as scripts take them.
        answer: How the numbers of an answer are written.
    """

    place: str
    numbers: tuple[bytes, ...]
    answer: Struct


@lru_cache(maxsize=1024)
def _plan(bucket: str, windows: tuple[Window, ...]) -> _Plan:
    place = store_key(bucket, *[f"{window.limit}/{window.seconds} {window.kind}" for window in windows]).hex()
    numbers: list[float | str] = [_milliseconds(max([window.seconds for window in windows]) * (1 + 1 / PARTS))]
    for window in windows:
        parts = PARTS if window.kind == "sliding" else 1
        numbers += (min(window.limit, _EXACT), window.seconds * (1_000_000 // parts), window.kind)
    return _Plan(place, tuple([str(number).encode() for number in numbers]), Struct(f"<{3 + 2 * len(windows)}d"))


def _pack(query: WatchedQuery, slots: int, sums: int) -> bytes:
    """One query as WATCH reads it."""
    steps = (*(query.near or query.apart), *query.apart) if sums else ()
    placed = [part for mark in query.marks for part in place_of(mark, slots)]
    return _packer(len(query.marks), len(steps)).pack(len(query.marks), *placed, *steps)


@lru_cache(maxsize=64)
def _packer(marks: int, steps: int) -> Struct:
    return Struct(f"<H{marks * 2}I{steps}d")


def _open(url: str, *, timeout: float) -> Redis:
    address = read_url(url, "RedisStore(url)")
    try:
        import redis.asyncio  # noqa: F401, PLC0415  # an extra
    except ImportError:
        missing = True
    else:
        missing = False
    if missing:
        raise ConfigurationError("RedisStore(url) needs the package redis: pip install 'mlguard[redis]'")
    if address.kind == "cluster":
        return RedisCluster(address, timeout=timeout)
    if address.kind == "sentinel":
        return RedisSentinel(address, timeout=timeout)
    return RedisConnection(address.places[0], address.options, timeout=timeout)


def _milliseconds(ttl: float) -> int:
    """A time to live, not shorter than asked, and one that Redis takes."""
    return max(1, math.ceil(min(ttl, _LONGEST) * 1000))
