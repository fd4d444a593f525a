"""State in a real Redis: what several processes share, and what happens while it is away."""

import asyncio
import contextlib
import gc
import itertools
import logging
import multiprocessing
import os
import secrets
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import Depends, FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

import mlguard.redis_store
import mlguard.store
from mlguard import (
    ConfigurationError,
    Decision,
    MemoryStore,
    OverloadedError,
    RateLimit,
    RedisStore,
    Store,
    StoreFullError,
    TokenIssuer,
    UnavailableError,
    Window,
    harden,
    store_from_url,
)
from mlguard._redis_connection import RedisConnection, Script
from mlguard._redis_scripts import HIT, SETTLE
from mlguard.client import HTTPSignature
from mlguard.store import default_store, store_key
from tests.asgi import acall, call
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server
from tests.servers import ROOT, program, wait_until
from tests.traffic.test_rate import start

T = TypeVar("T")

SECRET = "correct-horse-battery-Xk3v9"
LONG = 30.0  # seconds of time-out where the machine may be busy and no time-out is wanted
_numbers = itertools.count()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that a test may break."""
    with redis_server() as server:
        yield server


def key() -> bytes:
    """A key that no other test has."""
    return store_key("test", str(next(_numbers)))


def open_store(server: RedisServer, **settings: Any) -> RedisStore:
    return RedisStore(server.url, **{"timeout": LONG, **settings})


def connection(store: RedisStore) -> RedisConnection:
    """The one to its server."""
    (one,) = store._redis.connections
    return one


def do(work: Callable[[], Awaitable[T]]) -> T:
    """Run it in an event loop of its own."""

    async def main() -> T:
        return await work()

    return asyncio.run(main())


def hits(store: Store, number: int, *windows: Window, cost: int = 1, caller: bytes | None = None) -> list[Decision]:
    """Hits of a fresh caller, one after another."""
    who = caller or key()
    return do(lambda: _each(lambda: store.hit("bucket", who, windows, cost), number))


async def _each(ask: Callable[[], Awaitable[T]], number: int) -> list[T]:
    return [await ask() for _ in range(number)]


# The same as a store in memory ----------------------------------------------------------------------------------------

seconds = st.sampled_from([1, 2, 3, 7, 10, 60, 61, 3_600, 86_400])
windows = st.builds(Window, st.integers(1, 12), seconds, st.sampled_from(["sliding", "fixed", "gcra"]))
# Microseconds are what Redis counts in, and 64ths of a second are exact in floats too.
steps = st.one_of(
    st.just(Fraction(0)),
    st.integers(0, 40).map(lambda n: Fraction(n, 64)),
    st.sampled_from([Fraction(15, 16), Fraction(1), Fraction(17, 16)]),
)
#: A hit of so many units, or so many more or fewer for one of the hits before.
works = st.one_of(
    st.tuples(st.just("hit"), st.integers(0, 4), st.just(0)),
    st.tuples(st.just("settle"), st.integers(-4, 4), st.integers(0, 9)),
)
histories = st.lists(st.tuples(steps, works), min_size=1, max_size=30)


@pytest.fixture
def by_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts take the time from a list in Redis, so that a test can set it."""
    for name, text in (("_HIT", HIT), ("_SETTLE", SETTLE)):
        assert text.count("'TIME'") == 1
        monkeypatch.setattr(mlguard.redis_store, name, Script(text.replace("'TIME'", "'LRANGE', 'clock', 0, 1")))


@pytest.mark.usefixtures("by_list")
def test_counts_like_a_store_in_memory(redis: RedisServer) -> None:
    """Every decision of every history is the same, number by number, in windows of all kinds, settled or not."""
    store = open_store(redis)

    with asyncio.Runner() as runner:

        @settings(max_examples=150, deadline=None)
        @given(st.lists(windows, min_size=1, max_size=3), histories, st.integers(10**6, 10**9))
        def compare(limits: list[Window], history: list[Any], start: int) -> None:
            runner.run(_compare(limits, history, start))

        async def _compare(limits: list[Window], history: list[Any], start: int) -> None:
            clock, caller = Clock(float(start)), key()
            memory = MemoryStore(clock=clock)
            scale = max(window.seconds for window in limits)
            before = [clock.now]
            for step, (work, units, which) in history:
                clock.now += round(float(step * int(scale)) * 64) / 64
                await set_clock(store, clock.now)
                if work == "settle":
                    at = before[which % len(before)]
                    await store.settle("b", caller, limits, units, at=at)
                    await memory.settle("b", caller, limits, units, at=at)
                for cost in (0, units) if work == "hit" else (0,):
                    ours = await store.hit("b", caller, limits, cost)
                    theirs = await memory.hit("b", caller, limits, cost)
                    assert ours[::4] == theirs[::4]
                    assert ours.remaining == theirs.remaining
                    # A bucket that leaks does so by fractions, which are rounded up to microseconds.
                    assert ours.retry_after == pytest.approx(theirs.retry_after, abs=2e-6, rel=0)
                    assert ours.reset == pytest.approx(theirs.reset, abs=2e-6, rel=0)
                before.append(clock.now)

        compare()


@pytest.mark.usefixtures("by_list")
def test_a_clock_that_is_set_back_admits_no_more(redis: RedisServer) -> None:
    """What was counted stays counted until the clock has caught up, whoever looked in between."""
    store, caller = open_store(redis), key()

    async def work() -> None:
        admitted = []
        for now in (1_000.0, 1_070.0, 500.0, 999.0, 1_000.0, 1_070.0):
            await set_clock(store, now)
            await store.hit("b", caller, (Window(2, 60),), 0)
            admitted.append((await store.hit("b", caller, (Window(2, 60),), 1)).admitted)
        assert admitted == [True, True, True, False, False, False]
        await set_clock(store, 1_134.0)
        assert (await store.hit("b", caller, (Window(2, 60),), 2)).admitted

    do(work)


async def set_clock(store: RedisStore, now: float) -> None:
    """In 64ths of a second."""
    at = int(now * 64) * 15_625
    await store._redis.ask("DEL", "clock")
    await store._redis.ask("RPUSH", "clock", at // 10**6, at % 10**6)


@pytest.fixture(params=["memory", "redis"])
def either(request: pytest.FixtureRequest, redis: RedisServer) -> Store:
    return (
        MemoryStore(max_nonces_per_owner=3) if request.param == "memory" else open_store(redis, max_nonces_per_owner=3)
    )


def test_a_hit_counts_in_all_windows_or_in_none(either: Store) -> None:
    """A refusal by one window burns nothing of another, and says how long it lasts."""
    decisions = hits(either, 5, Window(3, 60), Window(10, 3_600))
    assert [decision.admitted for decision in decisions] == [True, True, True, False, False]
    assert [decision.remaining for decision in decisions] == [(2, 9), (1, 8), (0, 7), (0, 7), (0, 7)]
    assert decisions[0].retry_after == 0
    assert 60 < decisions[-1].retry_after <= 60 * 17 / 16
    assert 3_600 < decisions[-1].reset[1] <= 3_600 * 17 / 16


def test_who_only_looks_counts_nothing(either: Store) -> None:
    """Cost 0 is always admitted and leaves all as it was."""
    caller = key()
    (untouched,) = hits(either, 1, Window(1, 60), cost=0, caller=caller)
    assert untouched[:4] == Decision(True, 0.0, (1,), (0.0,))[:4]
    assert hits(either, 1, Window(1, 60), caller=caller)[0].admitted
    assert [one.remaining for one in hits(either, 2, Window(1, 60), cost=0, caller=caller)] == [(0,), (0,)]


def test_costs_of_any_size(either: Store) -> None:
    """A million at once is one number; more than the limit is never admitted, and negative costs are a mistake."""
    million = Window(1_000_000, 60)
    caller = key()
    assert hits(either, 1, million, cost=1_000_001)[0].retry_after == float("inf")
    assert hits(either, 1, million, Window(10**30, 90), cost=10**25)[0].retry_after == float("inf")
    assert hits(either, 1, million, cost=1_000_000, caller=caller)[0].remaining == (0,)
    assert not hits(either, 1, million, caller=caller)[0].admitted
    with pytest.raises(ValueError, match="negative"):
        hits(either, 1, million, cost=-1)


def test_a_limit_beyond_what_is_counted_exactly_is_not_passed(redis: RedisServer) -> None:
    """Where Redis' numbers end, so does what is admitted."""
    decisions = hits(open_store(redis), 3, Window(10**30, 60), cost=2**52)
    assert [decision.admitted for decision in decisions] == [True, False, False]


def test_a_window_that_has_passed_is_free_again(either: Store) -> None:
    """After ``retry_after`` by the store's own clock, and the caller is forgotten after that."""
    caller = key()
    *_, refused = hits(either, 3, Window(2, 1), caller=caller)
    assert not refused.admitted
    time.sleep(refused.retry_after)
    assert hits(either, 1, Window(2, 1), caller=caller)[0].admitted


def test_what_a_hit_turned_out_to_cost(either: Store) -> None:
    """Less is given back in every window, more is counted even beyond the limit, and both are settled once."""
    caller, limits = key(), (Window(10, 60), Window(20, 3_600, "fixed"), Window(30, 60, "gcra"))

    async def left() -> tuple[int, ...]:
        return (await either.hit("bucket", caller, limits, 0)).remaining

    async def work() -> None:
        await either.settle("bucket", caller, limits, -5, at=time.time())
        assert await left() == (10, 20, 30), "nothing was counted, so nothing is given back"
        hit = await either.hit("bucket", caller, limits, 8)
        assert await left() == (2, 12, 22)
        await either.settle("bucket", caller, limits, 0, at=hit.at)
        assert await left() == (2, 12, 22)
        await either.settle("bucket", caller, limits, -5, at=hit.at)
        assert await left() == (7, 17, 27)
        other = await either.hit("bucket", caller, limits, 2)
        await either.settle("bucket", caller, limits, 100, at=other.at)
        refused = await either.hit("bucket", caller, limits, 1)
        assert (refused.admitted, refused.remaining) == (False, (0, 0, 0))

    do(work)


def test_units_that_count_no_more_are_not_given_back(either: Store) -> None:
    """Whoever settles late takes nothing from what was counted since."""
    caller, short = key(), (Window(5, 1), Window(5, 1, "fixed"), Window(5, 1, "gcra"))

    async def work() -> None:
        first = await either.hit("bucket", caller, short, 5)
        await asyncio.sleep(1.07)
        assert (await either.hit("bucket", caller, short, 4)).admitted
        await either.settle("bucket", caller, short, -5, at=first.at)
        assert max((await either.hit("bucket", caller, short, 0)).remaining[::2]) <= 2

    do(work)


def test_a_budget_is_spent_whole_or_not_at_all(either: Store) -> None:
    """Up to its limit; units that are given back or granted are always taken, and without a limit everything is."""
    budget = key()

    async def work() -> None:
        async def spend(units: int, limit: int | None = 10) -> tuple[bool, int]:
            return await either.spend(budget, units, limit=limit, ttl=60)

        assert await spend(0) == (True, 0)
        assert await spend(11) == (False, 0)
        assert [await spend(4), await spend(7), await spend(6), await spend(1)] == [
            (True, 4), (False, 4), (True, 10), (False, 10),
        ]  # fmt: skip
        assert await spend(0) == (True, 10)
        assert await spend(5, None) == (True, 15)
        assert await spend(0) == (False, 15), "there is no room for anything"
        assert await spend(-20) == (True, -5), "more was granted than spent"
        assert [await spend(16), await spend(15), await spend(-1, 0)] == [(False, -5), (True, 10), (True, 9)]

    do(work)


def test_a_budget_of_any_size(either: Store) -> None:
    """Up to what Redis counts exactly; beyond it nothing is admitted that the limit does not admit."""
    largest = 2**53 - 1

    async def work() -> None:
        budget = key()
        assert await either.spend(budget, largest - 1, limit=largest, ttl=60) == (True, largest - 1)
        assert await either.spend(budget, 1, limit=largest, ttl=60) == (True, largest)
        assert not (await either.spend(budget, 1, limit=largest, ttl=60)).admitted
        assert not (await either.spend(key(), 10**30, limit=largest, ttl=60)).admitted
        assert await either.spend(budget, -largest, limit=largest, ttl=60) == (True, 0)

    do(work)


def test_a_budget_is_forgotten_after_its_time(either: Store) -> None:
    """Not before, and not while it is spent."""
    budget = key()

    async def work() -> None:
        for _ in range(3):
            await either.spend(budget, 1, limit=None, ttl=0.2)
            await asyncio.sleep(0.1)
        assert await either.spend(budget, 0, limit=None, ttl=0.2) == (True, 3)
        await asyncio.sleep(0.15)
        assert await either.spend(budget, 0, limit=None, ttl=0.2) == (True, 0)

    do(work)


def test_places_are_taken_kept_and_given_back(either: Store) -> None:
    """One a holder, as many as there are, and nobody ends another's."""
    places = key()

    async def work() -> None:
        async def take(holder: bytes, ttl: float = 60) -> bool:
            return (await either.take_lease(places, holder, limit=2, ttl=ttl)).held

        await either.end_lease(places, b"nobody")
        assert [await take(b"a"), await take(b"b", 30), await take(b"c")] == [True, True, False]
        assert await take(b"a"), "who has one keeps it"
        refused = await either.take_lease(places, b"c", limit=2, ttl=60)
        assert 29 < refused.retry_after <= 30
        for holder in (b"c", b"a", b"a"):
            await either.end_lease(places, holder)
        assert [await take(b"c"), await take(b"d")] == [True, False]

    do(work)


def test_a_place_that_is_not_kept_ends_by_itself(either: Store) -> None:
    """As those of a process that has crashed; a holder that asks again in time has it for longer."""
    places = key()

    async def work() -> None:
        async def take(holder: bytes) -> bool:
            return (await either.take_lease(places, holder, limit=2, ttl=0.4)).held

        assert [await take(b"kept"), await take(b"crashed")] == [True, True]
        await asyncio.sleep(0.25)
        assert [await take(b"kept"), await take(b"new")] == [True, False]
        await asyncio.sleep(0.2)
        assert [await take(b"new"), await take(b"newer")] == [True, False]
        assert await take(b"kept")

    do(work)


def test_a_nonce_is_single_use_and_each_owner_has_a_share(either: Store) -> None:
    """Known is known, two owners may use the same one, and a full share is full for its owner only."""
    first, second = key(), key()

    async def add(nonce: str, owner: bytes, ttl: float = 60) -> bool:
        return await either.add_nonce(store_key(nonce), ttl, owner=owner)

    async def work() -> None:
        assert [await add("1", first), await add("1", first), await add("1", second)] == [True, False, True]
        assert [await add("2", first, 0.1), await add("3", first)] == [True, True]
        with pytest.raises(StoreFullError) as full:
            await add("4", first)
        assert full.value.headers == {"Retry-After": "1"}
        assert await add("4", second)
        assert not await add("3", first), "a known one is known also when there is no room"
        await asyncio.sleep(0.11)
        assert await add("2", first, 0.1), "it has expired"
        await asyncio.sleep(0.11)
        assert await add("4", first)
        assert not await add("1", first)

    do(work)


def test_records_are_kept_and_swapped(either: Store) -> None:
    """Any bytes, in the place of others, under conditions; nothing under no key."""
    one, two = key(), key()

    async def work() -> None:
        assert await either.get() == ()
        assert await either.get(one, two) == (None, None)
        await either.put(one, b"\x00\xff{}", 60)
        await either.put(two, b"", 1e300)
        assert await either.get(two, one) == (b"", b"\x00\xff{}")
        assert not await either.swap(one, None, b"x", 60)
        assert not await either.swap(one, b"", b"x", 60)
        assert await either.swap(two, b"", b"y", 60)
        assert await either.swap(one, b"\x00\xff{}", b"x", 0.05)
        assert await either.get(one, two) == (b"x", b"y")
        await asyncio.sleep(0.06)
        assert await either.get(one) == (None,)
        assert await either.swap(one, None, b"z", 60)

    do(work)


# Many at once ---------------------------------------------------------------------------------------------------------


def _race(url: str, caller: bytes, holder: bytes) -> tuple[int, ...]:
    """What 60 callers at once get in one process: units of windows and of a budget, places, nonces, swaps."""
    store = RedisStore(url, timeout=LONG)

    async def work() -> tuple[int, ...]:
        decisions = await asyncio.gather(
            *[store.hit("race", caller, (Window(100, 3_600), Window(500, 86_400)), 1) for _ in range(60)]
        )
        spendings = await asyncio.gather(*[store.spend(caller, 3, limit=200, ttl=60) for _ in range(60)])
        leases = await asyncio.gather(
            *[store.take_lease(caller, holder + bytes([number]), limit=50, ttl=60) for number in range(60)]
        )
        added = await asyncio.gather(*[store.add_nonce(caller, 60, owner=caller) for _ in range(20)])
        swapped = await asyncio.gather(*[store.swap(caller, None, b"mine", 60) for _ in range(20)])
        return (
            sum(decision.admitted for decision in decisions),
            sum(spending.admitted for spending in spendings),
            sum(lease.held for lease in leases),
            sum(added),
            sum(swapped),
        )

    return asyncio.run(work())


def test_processes_at_once_admit_exactly_the_limit(redis: RedisServer) -> None:
    """Of 180 from three processes as many are admitted as have room, and of 60 who use one nonce, or swap, one."""
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        results = list(pool.map(_race, [redis.url] * 3, [key()] * 3, [b"a", b"b", b"c"]))
    assert [sum(column) for column in zip(*results, strict=True)] == [100, 66, 50, 1, 1]


def test_one_store_serves_event_loops_in_many_threads(redis: RedisServer) -> None:
    """Each loop has connections of its own, closed when it ends, and all count as one."""
    store, caller = open_store(redis), key()

    def work(_: int) -> int:
        return sum(decision.admitted for decision in hits(store, 20, Window(50, 3_600), caller=caller))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 50
    assert not connection(store)._opened


def test_a_loop_that_was_only_closed_is_forgotten(redis: RedisServer) -> None:
    """One that ends without the usual courtesies leaves nothing behind once the store is used again."""
    store = open_store(redis)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.get(key()))
    loop.run_until_complete(connection(store)._opened[loop].pool.close())
    loop.close()
    do(lambda: store.get(key()))
    assert not connection(store)._opened
    gc.collect()


def test_a_loop_that_was_kept_busy_is_not_taken_for_a_store_that_hangs(redis: RedisServer) -> None:
    """A prediction that blocks the event loop for longer than the time-out makes no 503."""
    store = open_store(redis, timeout=0.1)

    async def work() -> None:
        await store.get(key())  # has a connection
        asking = asyncio.create_task(store.get(key()))
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251  # which is the point
        assert await asking == (None,)

    do(work)


def test_a_burst_waits_in_line_and_is_not_held_against_redis(redis: RedisServer) -> None:
    """A thousand requests at once, with the usual time-out, are all decided."""
    store, caller = RedisStore(redis.url, timeout=1), key()

    async def work() -> list[Decision]:
        return await asyncio.gather(*[store.hit("burst", caller, (Window(100, 3_600),), 1) for _ in range(1_000)])

    assert sum(decision.admitted for decision in do(work)) == 100


def test_who_waits_in_line_for_too_long_is_refused(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is not endless, and once it is gone all is well."""
    monkeypatch.setattr("mlguard._redis_connection._LINE", 0.05)
    store = open_store(redis)

    async def work() -> None:
        hanging = [asyncio.create_task(store._redis.ask("BLPOP", "nothing", 60)) for _ in range(16)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refusal:
            await store.get(key())
        assert refusal.value.__context__ is None
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        assert await store.get(key()) == (None,)

    do(work)


# What Redis holds -----------------------------------------------------------------------------------------------------


def test_keys_are_digests_that_expire(own_redis: RedisServer) -> None:
    """Under the prefix, with an expiry each; who only looks makes none."""
    store = open_store(own_redis, prefix="shop")
    limit = RateLimit("5/minute", by=lambda conn: "alice@example.com", store=store)
    app = FastAPI()
    app.get("/", dependencies=[Depends(limit)])(lambda: None)

    async def work() -> None:
        await store.hit("alice", key(), (Window(1, 60),), 0)
        await store.add_nonce(key(), 60, owner=key())
        await store.put(key(), b"", 60)
        await store.swap(key(), None, b"", 60)
        await store.spend(key(), 0, limit=5, ttl=60)
        await store.spend(key(), 5, limit=5, ttl=60)
        await store.settle("alice", key(), (Window(1, 60),), -1, at=0)
        await store.take_lease(key(), b"holder", limit=1, ttl=60)

    do(work)
    assert call(app, "/", method="GET").status == 200

    async def look() -> list[tuple[str, int]]:
        keys = [name.decode() for name in await store._redis.ask("KEYS", "*")]
        return [(name, await store._redis.ask("PTTL", name)) for name in keys]

    found = do(look)
    assert Counter(name.split(":")[1] for name, _ in found) == {
        "rate": 1, "nonces": 1, "record": 2, "budget": 1, "leases": 1,
    }  # fmt: skip
    for name, ttl in found:
        assert name.startswith("shop:")
        assert "alice" not in name
        assert 0 < ttl <= 64_000


def test_prefixes_separate_services(redis: RedisServer) -> None:
    """Two services on one Redis share nothing, unless they mean to."""
    caller = key()
    for prefix in ("one", "two"):
        assert hits(open_store(redis, prefix=prefix), 1, Window(1, 60), caller=caller)[0].admitted
    assert not hits(open_store(redis, prefix="two"), 1, Window(1, 60), caller=caller)[0].admitted


def test_scripts_that_redis_has_forgotten_are_sent_again(own_redis: RedisServer) -> None:
    """SCRIPT FLUSH is noticed by nobody, and counts stay."""
    store, caller = open_store(own_redis), key()
    for expected in (True, True, False):
        assert own_redis.command("SCRIPT", "FLUSH") == "+OK"
        assert hits(store, 1, Window(2, 60), caller=caller)[0].admitted is expected


def test_full_memory_refuses_and_forgets_nothing(own_redis: RedisServer) -> None:
    """503 for what must be remembered; what is known stays known, and can be asked for."""
    store, used = open_store(own_redis), key()
    do(lambda: store.add_nonce(used, 60, owner=b"o"))
    do(lambda: store.put(used, b"v", 60))
    assert own_redis.command("CONFIG", "SET", "maxmemory", "1") == "+OK"

    async def refused(work: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(StoreFullError) as refusal:
            await work()
        assert "no memory" in refusal.value.reason

    do(lambda: refused(lambda: store.add_nonce(key(), 60, owner=b"o")))
    do(lambda: refused(lambda: store.put(key(), b"", 60)))
    do(lambda: refused(lambda: store.hit("b", key(), (Window(1, 60),), 1)))
    do(lambda: refused(lambda: store.spend(key(), 1, limit=5, ttl=60)))
    do(lambda: refused(lambda: store.take_lease(key(), b"holder", limit=1, ttl=60)))
    assert do(lambda: store.get(used)) == (b"v",)
    assert not do(lambda: store.add_nonce(used, 60, owner=b"o"))


def test_a_redis_that_may_forget_early_is_told_of(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Once, if it is so and if Redis says so."""

    def warned(store: RedisStore) -> int:
        caplog.clear()
        for _ in range(2):
            do(lambda: store.get(key()))
        return caplog.text.count("set its maxmemory-policy to noeviction")

    assert warned(open_store(own_redis)) == 0
    own_redis.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    assert warned(open_store(own_redis)) == 1
    own_redis.command("ACL", "SETUSER", "default", "-info")
    assert warned(open_store(own_redis)) == 0


# While it is away -----------------------------------------------------------------------------------------------------


def guarded(store: Store, limit: str = "1000/minute") -> FastAPI:
    app = FastAPI()
    harden(app)
    app.get("/", dependencies=[Depends(RateLimit(limit, store=store))])(lambda: None)
    return app


def states(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("the store is")]


def test_a_redis_that_was_killed_refuses_until_it_is_back(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with Retry-After and nothing of the inside, one line in the log a change, and all is well again by itself."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    app = guarded(open_store(own_redis))

    async def work() -> None:
        assert (await acall(app, "/", method="GET")).status == 200
        own_redis.kill()
        answers = [await acall(app, "/", method="GET") for _ in range(5)]
        assert {answer.status for answer in answers} == {503}
        assert {answer.headers["retry-after"] for answer in answers} == {"1"}
        assert b"edis" not in answers[0].body
        assert str(own_redis.port).encode() not in answers[0].body
        own_redis.start()
        await asyncio.sleep(1)  # for so long it is not asked
        assert (await acall(app, "/", method="GET")).status == 200

    do(work)
    assert [line.split(":")[0] for line in states(caplog)] == [
        "the store is down",
        "the store is back",
    ]
    recorded = [record.__dict__["event"] for record in caplog.records if record.name == "mlguard.audit"]
    assert recorded == ["store.down", "store.back"]
    assert str(own_redis.port) not in caplog.text


def test_a_restart_between_two_requests_is_noticed_by_nobody(own_redis: RedisServer) -> None:
    """A connection that has ended while it was idle, as load balancers end them, is replaced."""
    store = open_store(own_redis)

    async def work() -> None:
        await store.get(key())
        own_redis.kill()
        own_redis.start()
        await asyncio.sleep(0.01)
        assert await store.get(key()) == (None,)

    do(work)


def test_a_server_that_is_a_replica_now_is_left(own_redis: RedisServer) -> None:
    """As behind a name that leads to the master: after a failover it leads elsewhere, for those who connect anew."""
    store, caller = open_store(own_redis), key()

    async def work() -> None:
        await store.hit("b", caller, (Window(9, 60),), 1)
        (pool,) = [opened.pool for one in store._redis.connections for opened in one._opened.values()]
        assert len(pool._free) == 1
        with redis_server() as other:
            own_redis.command("REPLICAOF", "127.0.0.1", str(other.port))
            with pytest.raises(UnavailableError):
                await store.hit("b", caller, (Window(9, 60),), 1)
            assert not pool._free
            own_redis.command("REPLICAOF", "NO", "ONE")
        assert (await store.hit("b", caller, (Window(9, 60),), 1)).admitted

    do(work)


def test_a_redis_that_hangs_is_not_waited_for(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """The first request waits for the time-out, those behind it not at all; afterwards it is asked again."""
    store = open_store(own_redis, timeout=0.1)

    async def ask() -> str:
        try:
            await store.get(key())
        except UnavailableError as refusal:
            return f"{refusal.reason}{refusal.__context__ or ''}"
        return ""

    async def work() -> None:
        assert await ask() == ""
        own_redis.pause()
        assert await ask() == "Redis has not answered within 0.1 s"
        assert await ask() == "Redis is not asked: it failed a moment ago"
        connection(store)._ask_again_at = 0
        assert Counter(await asyncio.gather(*[ask() for _ in range(20)])) == {
            "Redis has not answered within 0.1 s": 1,
            "Redis is not asked: it failed a moment ago": 19,
        }
        own_redis.resume()
        connection(store)._ask_again_at = 0
        assert [await ask() for _ in range(3)] == ["", "", ""]

    do(work)
    assert len(states(caplog)) == 2


def test_one_slow_call_among_others_does_not_take_the_store_away(redis: RedisServer) -> None:
    """While others are answered, a call that failed by itself fails alone."""
    store = open_store(redis, timeout=0.1)

    async def work() -> None:
        await store.get(key())
        hanging = asyncio.create_task(store._redis.ask("BLPOP", "nothing", 60))
        await asyncio.sleep(0.02)
        assert await store.get(key()) == (None,)
        with pytest.raises(UnavailableError):
            await hanging
        assert await store.get(key()) == (None,)

    do(work)


def test_errors_that_redis_answers_with_are_refusals(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A value of another kind in a counter's place, as somebody else's program leaves it, opens no door."""
    store, caller = open_store(own_redis), key()
    hits(store, 1, Window(1, 60), caller=caller)

    async def spoil() -> None:
        (name,) = await store._redis.ask("KEYS", "*")
        await store._redis.ask("SET", name, b"\xc1 not msgpack")

    do(spoil)
    for _ in range(2):
        with pytest.raises(UnavailableError) as refusal:
            hits(store, 1, Window(1, 60), caller=caller)
        assert refusal.value.reason == "Redis has answered with an error (ResponseError)"
    assert hits(store, 1, Window(1, 60))[0].admitted, "others need not wait"
    assert len(states(caplog)) == 2


def test_nobody_waits_for_a_start_without_redis(caplog: pytest.LogCaptureFixture) -> None:
    """The service starts, says what is wrong at the first request, and refuses."""
    assert call(guarded(RedisStore("redis://127.0.0.1:1")), "/", method="GET").status == 503
    assert "cannot be reached (ConnectionError)" in states(caplog)[0]


def test_a_wrong_password_is_a_refusal_that_shows_none(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the password nor the user, in answer, log, error or repr."""
    with redis_server("--requirepass", "another-" + SECRET) as server:
        store = RedisStore(f"redis://admin:{SECRET}@127.0.0.1:{server.port}/0", timeout=LONG)
        with pytest.raises(UnavailableError) as error:
            do(lambda: store.get(key()))
        answer = call(guarded(store), "/", method="GET")
        right = RedisStore(f"redis://:another-{SECRET}@127.0.0.1:{server.port}/0", timeout=LONG)
        assert do(lambda: right.get(key())) == (None,)
    assert answer.status == 503
    assert error.value.reason == "Redis does not accept the user or the password"
    assert error.value.__context__ is None
    shown = "".join([answer.body.decode(), caplog.text, repr(store), *traceback.format_exception(error.value)])
    assert SECRET not in shown
    assert "admin" not in shown


# Where it is ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory://x",
        "redis",
        "redis:",
        "redis://",
        "redis:///0",
        f"redis://:{SECRET}@",
        f"redis://:{SECRET}@host:0",
        f"redis://:{SECRET}@host:port",
        f"redis://:{SECRET}@host:99999",
        f"redis://:{SECRET}@[::1",
        f"redis://:{SECRET}@host/x",
        f"redis://:{SECRET}@host/²",
        f"redis://:{SECRET}@host/-1",
        f"redis://:{SECRET}@host/0#1",
        f"redis://:{SECRET}@host/0?ssl_cert_reqs=none",
        f"rediss://:{SECRET}@host/0?ssl_cert_reqs=none",
        f"rediss://:{SECRET}@host/0?ssl_check_hostname=false",
        f"rediss://:{SECRET}@host/0?ssl_ca_certs=/nowhere/ca.pem",
        f"rediss://:{SECRET}@host/0?ssl_ca_certs={__file__}&ssl_ca_certs={__file__}",
        f"redis://:{SECRET}@host/0?{SECRET}",
        f"redis://user:pass/{SECRET}@host/0",
        f"redis://:{SECRET}@one,two",
        f"redis+cluster://:{SECRET}@host/1",
        f"redis+cluster://:{SECRET}@one,",
        f"redis+cluster://:{SECRET}@one:0,two",
        f"redis+sentinel://:{SECRET}@host",
        f"redis+sentinel://:{SECRET}@host/",
        f"redis+sentinel://:{SECRET}@host/service/x",
        f"redis+sentinel://:{SECRET}@host/service/0/1",
        f"http://:{SECRET}@host",
        f"{SECRET}://host",
        SECRET,
    ],
)
def test_urls_that_cannot_work(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ConfigurationError when the guard is built, which names the setting and quotes nothing."""
    monkeypatch.setenv("MLGUARD_STORE_URL", url)
    monkeypatch.setattr(mlguard.store, "_default", None)
    with pytest.raises(ConfigurationError, match="MLGUARD_STORE_URL") as by_setting:
        RateLimit("1/minute")
    with pytest.raises(ConfigurationError, match="store_from_url") as by_call:
        store_from_url(url)
    with pytest.raises(ConfigurationError, match=r"RedisStore\(url\)") as directly:
        RedisStore(url)
    for error in (by_setting, by_call, directly):
        assert error.value.__context__ is None
        assert SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("url", [None, 5, b"redis://host"])
def test_what_is_no_text_is_no_url(url: Any) -> None:
    """A mistake of the developer's, said in the same way."""
    for build in (store_from_url, RedisStore):
        with pytest.raises(ConfigurationError):
            build(url)


@pytest.mark.parametrize(
    "setting",
    [
        *[{"timeout": value} for value in (0, -1, 61, float("nan"), float("inf"), True, "1", None)],
        *[{"prefix": value} for value in ("", "a{b", "a}b", None, 1)],
        *[{"max_nonces_per_owner": value} for value in (0, -1, 1.5, True, None)],
    ],
)
def test_arguments_that_cannot_work(setting: dict[str, Any]) -> None:
    """Each is named."""
    with pytest.raises(ConfigurationError, match=rf"RedisStore\({next(iter(setting))}=\.\.\.\)"):
        RedisStore("redis://host", **setting)


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(), st.text().map(lambda text: f"redis://{text}"), st.text().map(lambda text: f"rediss://h/{text}")
    )
)
def test_any_text_is_a_url_or_a_configuration_error(url: str) -> None:
    """Nothing else comes out of reading one."""
    with contextlib.suppress(ConfigurationError):
        assert isinstance(store_from_url(url), Store)


def test_parts_of_a_url() -> None:
    """Port and database have the usual defaults, and passwords may hold anything if it is escaped."""

    def options(url: str) -> dict[str, Any]:
        store = store_from_url(url)
        assert isinstance(store, RedisStore)
        return connection(store)._options

    plain = {"tls": False, "host": "host", "port": 6379, "db": 0, "username": None, "password": None}
    assert options("redis://host") == options("valkey://host/") == options("REDIS://host:6379/0") == plain
    assert options("redis://us%40er:p%3A%2Fw@[::1]:7000/3") == {
        **plain, "host": "::1", "port": 7000, "db": 3, "username": "us@er", "password": "p:/w",
    }  # fmt: skip
    secure = {**plain, "tls": True, "ssl_check_hostname": True, "ssl_cert_reqs": "required"}
    assert options("rediss://host") == options("valkeys://host") == secure
    assert options(f"rediss://host?ssl_ca_certs={__file__}") == {**secure, "ssl_ca_certs": __file__}


def test_the_setting_names_the_store_of_all_guards(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards that were given none share it."""
    monkeypatch.setattr(mlguard.store, "_default", None)
    monkeypatch.setenv("MLGUARD_STORE_URL", redis.url)
    store = default_store()
    assert isinstance(store, RedisStore)
    assert isinstance(store, Store)
    assert RateLimit("1/minute").store is store
    assert (store.suspends, store.forgets_on_restart) == (True, False)


def test_memory_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word from the operator, and with that word."""
    monkeypatch.setattr(mlguard.store, "_default", None)
    assert isinstance(default_store(), MemoryStore)
    assert isinstance(store_from_url("memory://"), MemoryStore)


def test_importing_reads_no_setting_and_needs_no_redis() -> None:
    """A wrong URL stops what needs a store, and not the import; without the package, the error names the extra."""
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "import mlguard\n"
        "try: mlguard.RateLimit('1/minute')\n"
        "except mlguard.ConfigurationError as error: print(error, error.__context__)\n"
    )
    for url, expected in ((f"oops://{SECRET}", "MLGUARD_STORE_URL names no store"), ("redis://host", "mlguard[redis]")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "MLGUARD_STORE_URL": url},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in done.stdout
        assert "None" in done.stdout
        assert SECRET not in done.stdout


# Guards in several processes ------------------------------------------------------------------------------------------


def test_the_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the error says what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[redis\]'") as error:
        RedisStore("redis://host")
    assert error.value.__context__ is None


def test_a_limit_says_that_its_store_can_fail(redis: RedisServer) -> None:
    """503 is among the answers that OpenAPI shows."""
    assert RateLimit("1/minute", store=open_store(redis)).statuses == (429, 503)
    assert RateLimit("1/minute", store=MemoryStore()).statuses == (429,)


def test_workers_share_limits_nonces_and_revocations(redis: RedisServer) -> None:
    """Of three uvicorn workers: exactly the limit, a signature once, and no worker takes a token that one took back."""
    secret = secrets.token_urlsafe(32)
    environment = {
        "REDIS": redis.url.replace("/0", "/1"),
        "KEY": secret,
        "MLGUARD_API_KEYS": f"alice={secret};predict",
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    arguments = ("-m", "uvicorn", "--workers", "3", "--port", port, "tests.service_of_workers:app")
    store = RedisStore(environment["REDIS"], timeout=LONG)
    issuer = TokenIssuer(
        secret, algorithm="HS256", issuer="https://id.example", audience="https://api.example", store=store
    )
    with program(*arguments, environment=environment) as running:
        url = running.url()
        wait_until(lambda: running.output.count("Application startup complete") == 3)

        def ask(path: str, method: str = "GET", headers: Any = None) -> tuple[int, str]:
            answer = httpx.request(method, url + path, headers=headers, timeout=LONG, trust_env=False)
            return answer.status_code, answer.headers["x-process"]

        def crowd(number: int, path: str, method: str = "GET", headers: Any = None) -> list[tuple[int, str]]:
            with ThreadPoolExecutor(8) as pool:
                return list(pool.map(lambda _: ask(path, method, headers), range(number)))

        def until_all(path: str, headers: Any) -> list[tuple[int, str]]:
            answers: list[tuple[int, str]] = []

            def all_have_answered() -> bool:
                answers.extend(crowd(24, path, headers=headers))
                return len({who for _, who in answers}) == 3

            wait_until(all_have_answered)
            return answers

        limited = until_all("/limited", {"x-api-key": secret})
        assert [status for status, _ in limited].count(200) == 12
        assert {status for status, _ in limited} == {200, 429}

        request = HTTPSignature("billing", secret)(httpx.Request("POST", url + "/signed"))
        signed = crowd(24, "/signed", "POST", request.headers)
        assert sorted(status for status, _ in signed) == [200] + [401] * 23

        tokens = do(lambda: issuer.open_session("alice"))
        bearer = {"authorization": f"Bearer {tokens.access_token}"}
        assert {status for status, _ in until_all("/me", bearer)} == {200}
        assert ask("/revoke", "POST", bearer)[0] == 200
        time.sleep(1)  # for so long a worker believes what the store said
        assert {status for status, _ in until_all("/me", bearer)} == {401}


# At start-up ----------------------------------------------------------------------------------------------------------


def started(url: str) -> list[Any]:
    """What an app says to the server that starts it, with a limit in this store."""
    app = FastAPI()
    harden(app)
    app.get("/", dependencies=[Depends(RateLimit("5/minute", store=RedisStore(url)))])(lambda: None)
    return do(lambda: start(app))


def test_a_wrong_password_stops_the_start() -> None:
    """As do a missing one and a user who may run no scripts; the text names the setting and quotes nothing."""
    with redis_server("--requirepass", SECRET) as server:
        host = server.url.removeprefix("redis://")
        server.command("AUTH", SECRET)
        do(lambda: _make_user(f"redis://:{SECRET}@{host}"))
        for login in ("", "wrong-password-1@", ":wrong-password-1@", f"reader:{SECRET}@"):
            (failed,) = started(f"redis://{login}{host}")
            assert failed["type"] == "lifespan.startup.failed"
            assert (
                "RedisStore(url), or MLGUARD_STORE_URL: Redis does not accept the user or the password"
                in failed["message"]
            )
            assert not {"wrong-password-1", SECRET} & set(failed["message"].replace("@", " ").split())
        assert [message["type"] for message in started(f"redis://:{SECRET}@{host}")] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]


async def _make_user(url: str) -> None:
    store = RedisStore(url, timeout=LONG)
    await store._redis.ask("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~*", "+get", "+set")


def test_a_redis_that_is_away_does_not_stop_the_start(own_redis: RedisServer) -> None:
    """Else one that is away for a minute would keep down every copy that begins in that minute."""
    own_redis.kill()
    assert [message["type"] for message in started(own_redis.url)] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
