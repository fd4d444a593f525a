"""Callers whose queries are watched: what stores keep of them, in this process and in Redis."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard import ConfigurationError, MemoryStore, RedisStore, Sighting, Store, Watch, WatchedQuery
from mlguard.store import NEAR, NEW, REPEAT, store_key
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server

LONG = 30.0  # seconds of time-out where the machine may be busy
RULE = Watch(slots=256, shared=2, limits=(3.0, 3.0, 3.0), kinds=(0, 1, 1), votes=2, hold=60.0, ttl=600.0)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, redis: RedisServer) -> Store:
    return MemoryStore() if request.param == "memory" else RedisStore(redis.url, timeout=LONG)


def query(*marks: int, steps: tuple[float, float] = (0.0, 0.0)) -> WatchedQuery:
    """A query with marks at places of their own, unless two are the same."""
    return WatchedQuery(tuple((mark + 1) << 48 | mark for mark in marks), near=(1.0, *steps), apart=(-0.5, *steps))


def pending(*steps: float) -> WatchedQuery:
    """Evidence from after the answer."""
    return WatchedQuery(apart=(0.0, *steps))


def note(store: Store, key: str, *queries: WatchedQuery, rule: Watch = RULE, **more: Any) -> Sighting:
    """One call."""

    async def ask() -> Sighting:
        return await store.watch(store_key(key), queries, rule, **more)

    return asyncio.run(ask())


def test_a_query_is_new_near_an_earlier_one_or_a_repeat(store: Store) -> None:
    """Two marks shared with one earlier query make it near, fewer do not; a repeat counts for nothing."""
    seen = note(
        store, "kinds", query(0, 10, 11, 12), query(1, 10, 21, 22), query(2, 10, 12, 32), query(3, 11, 12, 42), query(1)
    )
    assert seen.seen == (NEW, NEW, NEW, NEW, REPEAT)
    assert note(store, "kinds", query(5, 21, 22, 52), query(6, 21, 22)).seen == (NEAR, NEAR)
    assert note(store, "kinds", query(5), query(7)).queries == 7
    assert note(store, "another", query(5, 21, 22)).seen == (NEW,)


def test_a_verdict_needs_two_kinds_and_is_told_once(store: Store) -> None:
    """Two sums of one kind are one vote; with another kind there is a verdict, which begins once."""
    far = (1.5, 1.5)
    alone = note(store, "verdict", query(0, 1, 2, steps=far), query(10, 11, 12, steps=far))
    assert (alone.votes, alone.seconds, alone.change) == (0b10, 0, 0)
    both = [note(store, "verdict", query(20 + number, 1, 2, steps=far)) for number in range(4)]
    assert [one.change for one in both] == [0, 0, 1, 0]
    assert both[2].votes == 0b11
    assert 59 < both[3].seconds <= 60
    assert both[3].queries == 6


def test_evidence_without_marks_counts_and_is_no_query(store: Store) -> None:
    """What is known only after the answer is added to the further sums."""
    seen = note(store, "pending", *[pending(1.5, 0.0)] * 2)
    assert (seen.seen, seen.queries, seen.votes) == ((), 0, 0b10)


def test_sums_forget_neither_too_fast_nor_never(store: Store) -> None:
    """An honest past is no credit, and a past full of evidence is worked off."""
    down, up = pending(-1.0, 0.0), pending(1.0, 0.0)
    assert note(store, "sums", *[down] * 100, *[up] * 3).votes == 0b10
    assert note(store, "sums", *[up] * 100, *[down] * 3).votes == 0b10, "twice the limit at most"
    assert note(store, "sums", down).votes == 0


def test_a_caller_is_forgotten_on_demand(store: Store) -> None:
    """With its verdict, its sums and its marks."""
    evil = [query(number, 101, 102, steps=(2.0, 0.0)) for number in range(6)]
    assert note(store, "pardoned", *evil).seconds
    assert note(store, "pardoned", forget=True) == ((), 0, 0, 0.0, 0, (0.0, 0.0))
    assert note(store, "pardoned", query(0, 101, 102)) == ((NEW,), 1, 0, 0.0, 0, (0.0, 0.0))
    assert note(store, "never seen") == ((), 0, 0, 0.0, 0, (0.0, 0.0))


def test_a_verdict_ends_and_that_is_told_once(redis: RedisServer) -> None:
    """Also to who only looks; afterwards the sums begin anew."""
    clock = Clock(1.0)
    evil = [query(number, 101, 102, steps=(2.0, 0.0)) for number in range(6)]
    memory = MemoryStore(clock=clock)
    assert note(memory, "ends", *evil).change == 1
    clock.now += 59
    assert note(memory, "ends").seconds == 1
    clock.now += 1
    assert [note(memory, "ends") for _ in range(2)] == [((), 6, 0, 0.0, -1, (0.0, 0.0)), ((), 6, 0, 0.0, 0, (0.0, 0.0))]
    assert note(memory, "ends", *evil[:1], query(9, steps=(2.0, 0.0))).votes == 0
    shared = RedisStore(redis.url, timeout=LONG)
    short = RULE._replace(hold=0.001)
    assert note(shared, "ends", *evil, rule=short).change == 1
    changes: list[int] = []
    while sum(changes) == 0:  # until a millisecond has passed
        changes.append(note(shared, "ends", rule=short).change)
    assert changes[-1] == -1
    assert note(shared, "ends", rule=short).change == 0


def test_what_has_expired_is_not_known(redis: RedisServer) -> None:
    """A caller that has not asked for so long is a new one."""
    clock = Clock()
    memory = MemoryStore(clock=clock)
    assert note(memory, "old", query(0)).queries == 1
    clock.now = 600
    assert note(memory, "old", query(0)).seen == (NEW,)
    note(RedisStore(redis.url, timeout=LONG), "expires", query(0))
    place = f"mlguard:watched:{{{store_key('expires').hex()}}}"
    assert 599 <= int(redis.command("TTL", place)[1:]) <= 600
    assert int(redis.command("STRLEN", place)[1:]) <= 80 + 6 * 256


_marks = st.lists(st.integers(0, 30), min_size=1, max_size=6).map(tuple)
_steps = st.tuples(*[st.sampled_from([-1.0, -0.25, 0.5, 1.5])] * 2)
_queries = st.builds(
    lambda marks, steps: WatchedQuery(
        tuple((mark % 7) << 48 | mark << 3 for mark in marks), near=(1.25, *steps), apart=(-0.5, *steps)
    ),
    st.one_of(st.just(()), _marks),
    _steps,
)


@settings(max_examples=30)
@given(st.lists(st.lists(_queries, max_size=6), max_size=6))
def test_both_stores_say_the_same(history: list[list[WatchedQuery]]) -> None:
    """Whatever is asked, with marks that drive each other out."""
    rule = RULE._replace(slots=64)
    memory, shared = MemoryStore(), _shared()
    key = str(next(_numbers))
    for part in history:
        one, other = note(memory, key, *part, rule=rule), note(shared, key, *part, rule=rule)
        assert one[:3] == other[:3]
        assert (one.seconds > 0, one.change) == (other.seconds > 0, other.change)
        assert other.evidence == pytest.approx(one.evidence, abs=1e-5)


_numbers = iter(range(1_000_000))
_url: list[str] = []


def _shared() -> RedisStore:
    return RedisStore(_url[0], timeout=LONG)


@pytest.fixture(autouse=True)
def _know_redis(redis: RedisServer) -> None:
    _url[:] = [redis.url]


def _race(url: str, first: int) -> list[Sighting]:
    store = RedisStore(url, timeout=LONG)

    async def ask() -> list[Sighting]:
        rule = RULE._replace(slots=4096, limits=(1e9, 200.0, 150.0))
        rule = rule._replace(votes=1)
        key = store_key("race")
        return [
            await store.watch(key, [query(number, 4000, steps=(1.0, 0.0))], rule)
            for number in range(first, first + 200)
        ]

    return asyncio.run(ask())


def test_processes_at_once_lose_no_update(redis: RedisServer) -> None:
    """Two processes note two hundred queries each of one caller: all are counted, and one of them is told."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        told = [one for some in pool.map(_race, [redis.url] * 2, range(0, 400, 200)) for one in some]
    assert sorted(one.queries for one in told) == [*range(1, 401)]
    assert sum(one.change for one in told) == 1
    assert next(one.queries for one in told if one.change) == 200
    assert sum(one.seconds > 0 for one in told) == 201


# Room ---------------------------------------------------------------------------------------------------------------


def test_a_flood_of_new_callers_drives_itself_out() -> None:
    """Who is suspected, or nearly, stays through any number of accounts with a query each; an honest one may go."""
    memory = MemoryStore(max_watched=20)
    suspected = [query(number, 101, 102, steps=(2.0, 0.0)) for number in range(6)]
    nearly = [query(0, steps=(2.5, 0.0))]
    assert note(memory, "suspected", *suspected).seconds
    note(memory, "nearly", *nearly)
    note(memory, "honest", query(0))
    for number in range(500):
        note(memory, f"new {number}", query(number))
    assert note(memory, "suspected").seconds
    assert note(memory, "nearly", query(1, steps=(0.5, 0.0))).votes == 0b10
    assert note(memory, "honest", query(0)).seen == (NEW,)


def test_what_must_speak_against_the_others_for_a_suspect_to_go() -> None:
    """As much as against the suspect: a flood of suspects drives suspects out, and what has expired goes first."""
    clock = Clock()
    memory = MemoryStore(max_watched=3, clock=clock)
    evil = [query(number, 101, 102, steps=(2.0, 0.0)) for number in range(6)]
    for name in ("a", "b", "c", "d"):
        note(memory, name, *evil)
    assert [note(memory, name).queries for name in ("a", "b", "c", "d")] == [0, 6, 6, 6]
    clock.now = 600.0
    note(memory, "e", query(0))
    assert note(memory, "e").queries == 1


def test_who_watches_without_sums_is_not_driven_out() -> None:
    """The memory of all callers together is one entry among them."""
    memory = MemoryStore(max_watched=10)
    everybody = Watch(slots=256, shared=2, ttl=600.0)
    note(memory, "all", query(0, 1, 2), rule=everybody)
    for number in range(100):
        note(memory, f"new {number}", query(number))
    assert note(memory, "all", query(7, 1, 2), rule=everybody).seen == (NEAR,)


@pytest.mark.parametrize("most", [0, -1, True, 1.5])
def test_a_maximum_is_a_positive_number(most: Any) -> None:
    """Anything else is refused at once."""
    with pytest.raises(ConfigurationError, match="max_watched"):
        MemoryStore(max_watched=most)
