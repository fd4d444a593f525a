"""State in memory: what is admitted, what is remembered, and for how long."""

import asyncio
import contextlib
import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlguard.errors import ConfigurationError, StoreFullError
from mlguard.memory_store import MemoryStore
from mlguard.store import PARTS, Decision, Store, Window, store_key
from tests.clock import Clock

T = TypeVar("T")

KEY = store_key("a caller")
MILLISECOND = 0.001


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, without the price of an event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("a memory store never suspends")


def hit(store: Store, *windows: Window, cost: int = 1, key: bytes = KEY) -> Decision:
    return run(store.hit("bucket", key, windows, cost))


def add(store: Store, nonce: str, ttl: float = 60.0, owner: bytes = KEY) -> bool:
    return run(store.add_nonce(store_key(nonce), ttl, owner=owner))


def nonce_store(room: int, clock: Clock, share: int | None = None) -> MemoryStore:
    """A store in which one owner may fill all the room, unless told otherwise."""
    return MemoryStore(max_nonces=room, max_nonces_per_owner=share or room, clock=clock)


def kept(store: MemoryStore) -> tuple[int, int, int]:
    """How many owners, nonces and entries about nonces the store holds."""
    owners = store._nonces.values()
    entries = len(store._nonce_order) + sum(len(nonces.order) for nonces in owners)
    return len(owners), sum(len(nonces.expires) for nonces in owners), entries


# Sliding windows -----------------------------------------------------------------------------------------------------

seconds = st.sampled_from([1, 2, 3, 7, 10, 60, 61, 3_600, 86_400])
windows = st.builds(Window, st.integers(1, 12), seconds, st.just("sliding"))
several = st.lists(windows, min_size=1, max_size=3)
# Steps as parts of the longest window, so that hits crowd around the edges of parts as well as between them. They are
# dyadic, and so exact in floats.
steps = st.one_of(
    st.just(Fraction(0)),
    st.integers(0, 40).map(lambda n: Fraction(n, 64)),
    st.integers(0, 64).map(lambda n: Fraction(n, 1024)),
    st.sampled_from([Fraction(15, 16), Fraction(1), Fraction(17, 16), Fraction(1, 2**20)]),
)
histories = st.lists(st.tuples(steps, st.integers(1, 4)), min_size=1, max_size=60)


def _used(admitted: list[tuple[float, int]], since: float, *, inclusive: bool = True) -> int:
    return sum(cost for at, cost in admitted if at > since or (inclusive and at == since))


@settings(deadline=None)
@given(several, histories, st.integers(0, 10**6))
def test_no_true_window_exceeds_its_limit(limits: list[Window], history: list[Any], start: int) -> None:
    """In no stretch of a window's length, wherever it starts, are more units admitted than the limit."""
    clock = Clock(float(start))
    store = MemoryStore(clock=clock)
    scale = max(window.seconds for window in limits)
    admitted: list[tuple[float, int]] = []
    for step, cost in history:
        clock.now += float(step * scale)
        if hit(store, *limits, cost=cost).admitted:
            admitted.append((clock.now, cost))
            for window in limits:  # the fullest stretches end with an admission
                assert _used(admitted, clock.now - window.seconds) <= window.limit


@settings(deadline=None)
@given(several, histories, st.integers(0, 10**6))
def test_never_stricter_than_a_sixteenth(limits: list[Window], history: list[Any], start: int) -> None:
    """A hit is refused only if some window, made 1/16 longer, really has no room for it."""
    clock = Clock(float(start))
    store = MemoryStore(clock=clock)
    scale = max(window.seconds for window in limits)
    admitted: list[tuple[float, int]] = []
    for step, cost in history:
        clock.now += float(step * scale)
        room = all(
            _used(admitted, clock.now - window.seconds * (1 + 1 / PARTS), inclusive=False) + cost <= window.limit
            for window in limits
        )
        decision = hit(store, *limits, cost=cost)
        assert decision.admitted or not room
        if decision.admitted:
            admitted.append((clock.now, cost))


@settings(deadline=None)
@given(several, histories, st.integers(0, 10**6), st.integers(1, 15))
def test_retry_after_is_true(limits: list[Window], history: list[Any], start: int, cost: int) -> None:
    """A refused hit is admitted at ``retry_after`` and not a moment before; what can never fit says infinity."""
    clock = Clock(float(start))
    store = MemoryStore(clock=clock)
    scale = max(window.seconds for window in limits)
    for step, earlier in history:
        clock.now += float(step * scale)
        hit(store, *limits, cost=earlier)
    decision = hit(store, *limits, cost=cost)
    assert (decision.retry_after == 0.0) == decision.admitted
    if cost > min(window.limit for window in limits):
        assert decision.retry_after == math.inf
        assert not decision.admitted
    elif not decision.admitted:
        refused_at = clock.now
        assert 0 < decision.retry_after <= scale * (1 + 1 / PARTS)
        clock.now = refused_at + decision.retry_after - min(MILLISECOND, decision.retry_after / 2)
        assert not hit(store, *limits, cost=cost).admitted
        clock.now = refused_at + decision.retry_after
        assert hit(store, *limits, cost=cost).admitted


@settings(deadline=None)
@given(several, histories, st.lists(st.integers(13, 100), min_size=1, max_size=5))
def test_refusal_burns_nothing(limits: list[Window], history: list[Any], too_much: list[int]) -> None:
    """A store that also gets hits it must refuse decides all others exactly like one that does not."""
    clock = Clock()
    plain, attacked = MemoryStore(clock=clock), MemoryStore(clock=clock)
    scale = max(window.seconds for window in limits)
    for step, cost in history:
        clock.now += float(step * scale)
        for extra in too_much:
            assert not hit(attacked, *limits, cost=extra).admitted
        assert hit(attacked, *limits, cost=cost) == hit(plain, *limits, cost=cost)


@settings(deadline=None)
@given(several, st.lists(st.tuples(st.integers(0, 64), st.integers(1, 4)), max_size=60), st.integers(0, 10**6))
def test_jumping_clock_admits_no_more(limits: list[Window], readings: list[tuple[int, int]], start: int) -> None:
    """However a clock jumps to and fro within one window's length, the limit is admitted once."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    shortest = min(window.seconds for window in limits)
    admitted = 0
    for reading, cost in readings:
        clock.now = start + reading / 64 * shortest
        admitted += cost * hit(store, *limits, cost=cost).admitted
    assert admitted <= min(window.limit for window in limits)


def test_clock_set_back_keeps_the_count() -> None:
    """Setting the clock back by any time frees nothing."""
    clock = Clock(1_000.0)
    store = MemoryStore(clock=clock)
    assert [hit(store, Window(2, 60)).admitted for _ in range(3)] == [True, True, False]
    for now in (999.0, 970.0, 900.0, 0.0, 1_000.0):
        clock.now = now
        decision = hit(store, Window(2, 60))
        assert not decision.admitted
        assert decision.retry_after >= 60.0


def test_hits_in_the_past_age_from_the_latest() -> None:
    """What is admitted while the clock is behind is counted at the latest time known, so never forgotten early."""
    clock = Clock(600.0)
    store = MemoryStore(clock=clock)
    hit(store, Window(2, 60))
    clock.now = 500.0
    hit(store, Window(2, 60))
    clock.now = 655.0
    assert not hit(store, Window(2, 60)).admitted
    clock.now += hit(store, Window(2, 60), cost=2).retry_after
    assert hit(store, Window(2, 60), cost=2).admitted


@settings(deadline=None)
@given(st.integers(1, 200), seconds, st.integers(0, 10**9))
def test_fresh_window_admits_exactly_the_limit(limit: int, length: int, start: int) -> None:
    """A caller who was never seen gets the whole limit at once, and not one more."""
    store = MemoryStore(clock=Clock(start / 7))
    admitted = [hit(store, Window(limit, length)).admitted for _ in range(limit + 5)]
    assert admitted == [True] * limit + [False] * 5


def test_burst_around_an_edge_is_not_doubled() -> None:
    """The trick that doubles a fixed window, one burst before its edge and one after, gets the limit once."""
    clock = Clock(119.99)
    store = MemoryStore(clock=clock)
    before = sum(hit(store, Window(100, 60)).admitted for _ in range(100))
    clock.now = 120.01
    assert (before, sum(hit(store, Window(100, 60)).admitted for _ in range(100))) == (100, 0)
    clock.now = 179.98
    assert not hit(store, Window(100, 60)).admitted


def test_second_window_refuses_for_the_first() -> None:
    """A hit that the day refuses does not use up the minute, and the answer counts both."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    minute, day = Window(10, 60), Window(3, 86_400)
    assert [hit(store, minute, day).remaining for _ in range(4)] == [(9, 2), (8, 1), (7, 0), (7, 0)]
    clock.now = 70.0
    decision = hit(store, minute, day)
    assert not decision.admitted
    assert decision.remaining == (10, 0)
    assert decision.reset[0] == 0.0
    assert decision.retry_after == decision.reset[1] == 86_400 * 17 / 16 - 70


def test_cost_is_counted_whole() -> None:
    """A hit of several units is admitted whole or not at all, a cost above the limit never, a cost of 0 always."""
    store = MemoryStore(clock=Clock())
    window = Window(10, 60)
    assert hit(store, window, cost=7).remaining == (3,)
    assert not hit(store, window, cost=4).admitted
    assert hit(store, window, cost=3).remaining == (0,)
    assert hit(store, window, cost=0).admitted
    never = hit(store, window, cost=11, key=store_key("fresh"))
    assert (never.admitted, never.retry_after, never.remaining) == (False, math.inf, (10,))


def test_negative_cost_is_refused() -> None:
    """A negative cost would give units away."""
    store = MemoryStore(clock=Clock())
    assert hit(store, Window(1, 60)).admitted
    with pytest.raises(ValueError, match="negative"):
        hit(store, Window(1, 60), cost=-5)
    assert not hit(store, Window(1, 60)).admitted


@settings(deadline=None)
@given(st.floats(0, 2e9), seconds, st.lists(st.floats(0, 2), max_size=20))
@example(4.3124999999999996e8, 7, [1.0625])
def test_rounding_admits_nothing_extra(start: float, length: int, history: list[float]) -> None:
    """At times that floats cannot hold exactly, a full window stays full until 1/16 after its end."""
    clock = Clock(start)
    store = MemoryStore(clock=clock)
    window = Window(1, length)
    last = -math.inf
    for step in history:
        clock.now += step * length
        if hit(store, window).admitted:
            assert clock.now - last >= length * (1 - 1e-6)
            last = clock.now


# Many callers --------------------------------------------------------------------------------------------------------


def test_callers_do_not_share() -> None:
    """One caller's hits take nothing from another's."""
    store = MemoryStore(clock=Clock())
    assert all(hit(store, Window(1, 60), key=store_key(str(n))).admitted for n in range(1_000))
    assert not any(hit(store, Window(1, 60), key=store_key(str(n))).admitted for n in range(1_000))


def test_a_flood_of_callers_stays_bounded() -> None:
    """A flood of callers seen once leaves no more than the maximum, and never a caller who keeps calling."""
    clock = Clock()
    store = MemoryStore(max_counters=1_000, clock=clock)
    limits = (Window(5, 86_400),)
    heavy = store_key("heavy")
    assert sum(run(store.hit("bucket", heavy, limits, 1)).admitted for _ in range(9)) == 5
    admitted = largest = 0
    for number in range(100_000):
        run(store.hit("bucket", number.to_bytes(16, "big"), limits, 1))
        if number % 500 == 0:
            admitted += run(store.hit("bucket", heavy, limits, 1)).admitted
            largest = max(largest, len(store._buckets["bucket"]))
    assert admitted == 0
    assert largest <= 1_000
    assert len(store._buckets["bucket"]) <= 1_000


def test_idle_callers_are_dropped_bit_by_bit() -> None:
    """Callers whose windows have run out leave before the store is full, a few at each call, so that nobody waits."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    for number in range(100):
        hit(store, Window(5, 60), key=store_key(str(number)))
    clock.now = 100.0
    hit(store, Window(5, 60))
    assert 50 < len(store._buckets["bucket"]) < 100
    for number in range(50):
        hit(store, Window(5, 60), key=store_key("new", str(number)))
    assert len(store._buckets["bucket"]) == 51


def test_full_callers_are_kept_to_the_end() -> None:
    """A caller whose window is used up is not dropped before it was promised a next hit."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    hit(store, Window(1, 60))
    for clock.now in (60.0, 63.0, 63.74):
        hit(store, Window(1, 60), key=store_key("another"))
        assert not hit(store, Window(1, 60)).admitted
    clock.now = 63.75
    assert hit(store, Window(1, 60)).admitted


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.usefixtures("frequent_switches")
def test_threads_and_tasks_admit_exactly_the_limit(workers: int) -> None:
    """Threads, each with an event loop and many tasks, together get the limit and not one more."""
    store = MemoryStore(clock=Clock())
    admitted: list[int] = []
    barrier = threading.Barrier(workers)

    async def task() -> int:
        total = 0
        for _ in range(20):
            total += (await store.hit("bucket", KEY, (Window(700, 60), Window(900, 3_600)), 1)).admitted
            await asyncio.sleep(0)
        return total

    async def loop() -> int:
        return sum(await asyncio.gather(*(task() for _ in range(50))))

    def work() -> None:
        barrier.wait()
        admitted.append(asyncio.run(loop()))

    _in_threads(workers, work)
    assert sum(admitted) == 700


class Intruder:
    """Another thread that tries to get in at the worst moment, and may have to wait outside."""

    def __init__(self, work: Callable[[], bool]) -> None:
        self.outcomes: list[bool] = []
        self._thread = threading.Thread(target=lambda: self.outcomes.append(work()))

    def try_now(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
            self._thread.join(0.05)  # with a lock it cannot finish yet, so there is nothing to wait for

    def finish(self) -> bool:
        self._thread.join()
        return self.outcomes[0]


def test_no_thread_gets_between_check_and_count() -> None:
    """Between looking at a window and counting in it, no other thread can take the last unit."""

    class Watched:
        seconds = 60
        kind = "sliding"

        @property
        def limit(self) -> int:
            intruder.try_now()
            return 1

    store = MemoryStore(clock=Clock())
    intruder = Intruder(lambda: hit(store, Window(1, 60)).admitted)
    assert hit(store, Watched()).admitted  # type: ignore[arg-type]  # what a store reads of a window
    assert not intruder.finish()


def test_no_thread_gets_between_look_up_and_nonce() -> None:
    """Between finding a nonce new and keeping it, no other thread can use it."""

    class Watched(bytes):
        __slots__ = ()
        __eq__ = bytes.__eq__

        def __hash__(self) -> int:
            looked_up.append(True)
            if len(looked_up) == 2:  # the first time it was looked up, now it is being kept
                intruder.try_now()
            return bytes.__hash__(self)

    looked_up: list[bool] = []
    store = MemoryStore(clock=Clock())
    assert add(store, "the owner has one")
    intruder = Intruder(lambda: add(store, "a"))
    assert run(store.add_nonce(Watched(store_key("a")), 60.0, owner=KEY))
    assert not intruder.finish()


def _in_threads(number: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Nonces --------------------------------------------------------------------------------------------------------------


def test_nonce_is_single_use() -> None:
    """A nonce is taken once; another one is taken beside it."""
    store = MemoryStore(clock=Clock())
    assert [add(store, "a"), add(store, "a"), add(store, "b"), add(store, "a")] == [True, False, True, False]


def test_nonce_lives_to_the_instant() -> None:
    """A nonce is refused until just before its time is over, and free from that instant on."""
    clock = Clock(50.0)
    store = MemoryStore(clock=clock)
    assert add(store, "a", ttl=60.0)
    answers = []
    for clock.now in (50.0, 109.999, math.nextafter(110.0, 0), 110.0, 110.0):
        answers.append(add(store, "a", ttl=1.0))
    assert answers == [False, False, False, True, False]


def test_old_nonces_are_dropped_bit_by_bit() -> None:
    """Nonces whose time is over are free at once, and leave a few at each call, so that nobody waits."""
    clock = Clock()
    store = nonce_store(100, clock)
    assert all(add(store, str(n), ttl=10.0) for n in range(100))
    clock.now = 10.0
    assert add(store, "99", ttl=100.0)  # remembered still, and no longer live
    assert 50 < kept(store)[1] < 100
    assert all(add(store, str(n), ttl=0.0) for n in (98, 98))
    assert all(add(store, f"new {n}", ttl=100.0) for n in range(99))
    assert kept(store) == (1, 100, 200)
    assert not add(store, "99")
    with pytest.raises(StoreFullError):
        add(store, "one more")
    assert kept(store) == (1, 100, 200)


def test_asking_again_does_not_prolong() -> None:
    """A replay neither shortens nor lengthens the life of the nonce."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    add(store, "a", ttl=10.0)
    clock.now = 5.0
    assert not add(store, "a", ttl=1.0)
    clock.now = 9.0
    assert not add(store, "a", ttl=100.0)
    clock.now = 10.0
    assert add(store, "a", ttl=10.0)


def test_full_store_refuses_until_there_is_room() -> None:
    """Full of live nonces, the store refuses new ones with a true Retry-After, forgets none, and recovers."""
    clock = Clock()
    store = nonce_store(3, clock)
    for number, ttl in enumerate((30.5, 10.2, 20.0)):
        assert add(store, str(number), ttl)
    for _ in range(5):
        with pytest.raises(StoreFullError) as full:
            add(store, "new")
    assert full.value.status_code == 503
    assert full.value.headers == {"Retry-After": "11"}
    assert not any(add(store, str(number)) for number in range(3))  # a replay is still a replay
    clock.now = 10.0
    with pytest.raises(StoreFullError) as full:
        add(store, "new")
    assert full.value.headers == {"Retry-After": "1"}
    clock.now = 11.0
    assert add(store, "new")
    with pytest.raises(StoreFullError):
        add(store, "newer")
    assert not add(store, "0")
    assert not add(store, "2")


def test_full_share_is_full_for_its_owner_only() -> None:
    """By default an owner may fill a tenth of the room; then that owner waits for its own nonces, and nobody else."""
    clock = Clock()
    store = MemoryStore(max_nonces=100, clock=clock)
    assert add(store, "short", ttl=5.0, owner=b"bob")
    assert all(add(store, str(n), ttl=30.5 + n, owner=b"alice") for n in range(10))
    for nonce in ("new", "newer"):
        with pytest.raises(StoreFullError) as full:
            add(store, nonce, owner=b"alice")
        assert full.value.headers == {"Retry-After": "31"}
    assert not add(store, "0", owner=b"alice")
    assert all(add(store, str(n), owner=b"bob") for n in range(9))
    clock.now = 31.0
    assert add(store, "new", owner=b"alice")
    with pytest.raises(StoreFullError):
        add(store, "newer", owner=b"alice")


def test_share_is_not_full_of_what_has_expired() -> None:
    """An owner whose nonces have expired has room at once, whatever has expired of others and was not dropped yet."""
    clock = Clock()
    store = nonce_store(10_000, clock, share=5)
    assert all(add(store, str(n), ttl=1.0, owner=b"%d" % (n // 5)) for n in range(5_000))
    assert all(add(store, str(n), ttl=2.0, owner=b"alice") for n in range(5))
    clock.now = 2.0
    assert all(add(store, str(n), owner=b"alice") for n in range(5))
    assert not any(add(store, str(n), owner=b"alice") for n in range(5))
    with pytest.raises(StoreFullError):
        add(store, "new", owner=b"alice")


def test_two_owners_may_use_one_nonce() -> None:
    """A nonce is one of its owner: somebody else cannot use it up."""
    store = MemoryStore(clock=Clock())
    assert [add(store, "a", owner=name) for name in (b"alice", b"bob", b"alice", b"bob")] == [True, True, False, False]


def test_nothing_is_left_of_owners_whose_nonces_expired() -> None:
    """A crowd of owners, and owners who were refused, leave nothing behind, a few at each call."""
    clock = Clock()
    store = nonce_store(1_000, clock, share=10)
    assert all(add(store, "a", ttl=1.0, owner=b"%d" % n) for n in range(1_000))
    for n in range(1_000, 2_000):
        with pytest.raises(StoreFullError):
            add(store, "a", owner=b"%d" % n)
    assert kept(store) == (1_000, 1_000, 2_000)
    clock.now = 1.0
    for n in range(200):
        assert add(store, str(n), ttl=0.0)
    assert kept(store)[0] == 1
    for _ in range(200):
        add(store, "a", ttl=0.0)
    assert kept(store) == (1, 1, 2)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.integers(0, 7), st.integers(1, 12), st.sampled_from([b"alice", b"bob", b"carol"])
        ),
        max_size=80,
    )
)
def test_nonces_like_a_model(history: list[tuple[int, int, int, bytes]]) -> None:
    """Against the obvious dictionary of expiries, random histories of three owners are answered the same."""
    clock = Clock()
    store = nonce_store(6, clock, share=3)
    live: dict[tuple[bytes, str], float] = {}
    for step, number, ttl, owner in history:
        clock.now += step
        live = {nonce: expires for nonce, expires in live.items() if expires > clock.now}
        own = [expires for (whose, _), expires in live.items() if whose == owner]
        nonce = (owner, str(number))
        if nonce in live:
            assert not add(store, str(number), ttl, owner)
        elif len(own) == 3 or len(live) == 6:
            with pytest.raises(StoreFullError) as full:
                add(store, str(number), ttl, owner)
            first = min(own if len(own) == 3 else live.values())
            assert full.value.headers == {"Retry-After": str(int(first - clock.now) + 1)}
        else:
            assert add(store, str(number), ttl, owner)
            live[nonce] = clock.now + ttl


def test_one_bucket_never_pushes_out_another() -> None:
    """A flood of addresses on one limit does not make another limit forget its callers."""
    store = MemoryStore(max_counters=10, clock=Clock())
    day = (Window(1, 86_400),)
    assert run(store.hit("by key", b"alice", day, 1)).admitted
    for number in range(1_000):
        run(store.hit("by address", number.to_bytes(16, "big"), day, 1))
    assert not run(store.hit("by key", b"alice", day, 1)).admitted


def test_who_only_looks_takes_nobodys_place() -> None:
    """Or looks that cost nothing would let a guesser's count be forgotten."""
    store = MemoryStore(max_counters=10, clock=Clock())
    window = Window(1, 60)
    assert hit(store, window).admitted
    for number in range(1_000):
        assert hit(store, window, cost=0, key=store_key(str(number)))[:4] == Decision(True, 0.0, (1,), (0.0,))[:4]
    assert not hit(store, window).admitted


def test_counters_never_push_out_nonces() -> None:
    """Flooding rate-limit keys forgets no nonce."""
    store = MemoryStore(max_counters=10, max_nonces=100, max_nonces_per_owner=100, clock=Clock())
    assert all(add(store, str(n)) for n in range(100))
    for number in range(5_000):
        hit(store, Window(1, 60), key=store_key(str(number)))
    assert not any(add(store, str(n)) for n in range(100))


def test_nonces_never_push_out_counters() -> None:
    """Flooding nonces frees no quota."""
    store = MemoryStore(max_counters=10, max_nonces=100, max_nonces_per_owner=100, clock=Clock())
    assert hit(store, Window(1, 60)).admitted
    outcomes: Counter[bool | None] = Counter()
    for number in range(500):
        try:
            outcomes[add(store, str(number))] += 1
        except StoreFullError:
            outcomes[None] += 1
    assert outcomes == {True: 100, None: 400}
    assert not hit(store, Window(1, 60)).admitted


@pytest.mark.usefixtures("frequent_switches")
def test_threads_racing_one_nonce() -> None:
    """However many ask at once, exactly one is told that the nonce is new."""
    store = MemoryStore()
    outcomes: list[list[bool]] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        outcomes.append([add(store, str(number), ttl=3_600.0) for number in range(500)])

    _in_threads(8, work)
    assert [sum(each) for each in zip(*outcomes, strict=True)] == [1] * 500


@pytest.mark.usefixtures("frequent_switches")
def test_threads_racing_for_a_share() -> None:
    """However many ask at once, an owner gets its share of nonces and not one more."""
    store = MemoryStore(max_nonces=400, max_nonces_per_owner=100)
    added: list[bytes] = []
    barrier = threading.Barrier(8)
    numbers = itertools.count()

    def work() -> None:
        barrier.wait()
        for number in itertools.islice(numbers, 100):
            owner = b"alice" if number % 2 else b"bob"
            with contextlib.suppress(StoreFullError):
                if add(store, str(number), ttl=3_600.0, owner=owner):
                    added.append(owner)

    _in_threads(8, work)
    assert Counter(added) == {b"alice": 100, b"bob": 100}


# Settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["max_counters", "max_nonces", "max_nonces_per_owner"])
@pytest.mark.parametrize("value", [0, -1, True, False, 1.5, math.nan, math.inf, "10", []])
def test_maxima_that_cannot_work(setting: str, value: Any) -> None:
    """A maximum that is no whole number of at least 1 is refused, and the text names it."""
    with pytest.raises(ConfigurationError, match=setting):
        MemoryStore(**{setting: value})


@pytest.mark.parametrize(("room", "share"), [(1_000_000, 1_000_001), (10, 11)])
def test_share_of_one_owner_is_no_more_than_there_is(room: int, share: int) -> None:
    """A share that is larger than the whole would be no share, and is refused."""
    with pytest.raises(ConfigurationError, match="max_nonces_per_owner"):
        MemoryStore(max_nonces=room, max_nonces_per_owner=share)


def test_smallest_store_still_limits() -> None:
    """With room for one caller and one nonce, both are still held to the rules."""
    store = MemoryStore(max_counters=1, max_nonces=1, clock=Clock())
    assert [hit(store, Window(2, 60)).admitted for _ in range(4)] == [True, True, False, False]
    assert [add(store, "a"), add(store, "a")] == [True, False]


def test_its_clock_is_monotonic() -> None:
    """A store that was given no clock admits the limit, and says when the next hit fits."""
    store = MemoryStore()
    decisions = list(itertools.islice((hit(store, Window(3, 3_600)) for _ in itertools.count()), 4))
    assert [decision.admitted for decision in decisions] == [True, True, True, False]
    assert 3_600 < decisions[-1].retry_after <= 3_600 * 17 / 16


# Records --------------------------------------------------------------------------------------------------------------


def test_a_record_is_kept_until_it_expires() -> None:
    """What was put is there for its time, no longer, and a later one takes its place."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    assert run(store.get(b"a", b"b")) == (None, None)
    run(store.put(b"a", b"1", 10))
    run(store.put(b"b", b"2", 20))
    assert run(store.get(b"b", b"a")) == (b"2", b"1")
    clock.now += 10
    assert run(store.get(b"a", b"b")) == (None, b"2")
    run(store.put(b"b", b"3", 20))
    clock.now += 15
    assert run(store.get(b"b")) == (b"3",)


def test_records_are_never_forgotten_to_make_room() -> None:
    """When there is no room, a new one is refused, with the time until there will be; a known one can be renewed."""
    clock = Clock()
    store = MemoryStore(clock=clock, max_records=2)
    run(store.put(b"a", b"1", 10))
    run(store.put(b"b", b"1", 30))
    with pytest.raises(StoreFullError) as refusal:
        run(store.put(b"c", b"1", 5))
    assert refusal.value.headers == {"Retry-After": "11"}
    run(store.put(b"b", b"2", 40))
    assert run(store.get(b"a", b"b", b"c")) == (b"1", b"2", None)
    clock.now += 10
    run(store.put(b"c", b"1", 5))
    assert run(store.get(b"a", b"c")) == (None, b"1")


def test_a_record_that_is_swapped_again_and_again_takes_the_room_of_one() -> None:
    """Whoever holds one refresh token cannot fill the memory with it, and nothing is forgotten early for that."""
    clock = Clock()
    store = MemoryStore(clock=clock, max_records=2)
    run(store.put(b"other", b"", 50))
    for number in range(100):
        clock.now += 1
        assert run(store.swap(b"a", b"%d" % (number - 1) if number else None, b"%d" % number, 60))
    assert len(store._records._expiries) == 1  # the other one has expired
    assert run(store.get(b"a", b"other")) == (b"99", None)
    clock.now += 60
    run(store.put(b"b", b"", 10))
    run(store.put(b"c", b"", 10))
    assert run(store.get(b"a", b"b", b"c")) == (None, b"", b"")


def test_a_swap_needs_the_value_that_is_there() -> None:
    """Of two who want to replace the same value, one does."""
    store = MemoryStore(clock=Clock())
    assert not run(store.swap(b"a", b"0", b"1", 10))
    assert run(store.swap(b"a", None, b"1", 10))
    assert not run(store.swap(b"a", None, b"2", 10))
    assert run(store.swap(b"a", b"1", b"2", 10))
    assert run(store.get(b"a")) == (b"2",)


def test_threads_that_swap_at_once_do_not_both_succeed() -> None:
    """The comparison and the change are one step."""
    store = MemoryStore()
    run(store.put(b"a", b"0", 60))
    start = threading.Barrier(8)

    def swap(number: int) -> bool:
        start.wait()
        return run(store.swap(b"a", b"0", b"%d" % number, 60))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(swap, range(1, 9))) == 1


def test_looking_counts_nothing() -> None:
    """A hit that costs nothing says what is left, and leaves it."""
    store = MemoryStore(clock=Clock())
    assert hit(store, Window(2, 60), cost=0)[:4] == Decision(True, 0, (2,), (0,))[:4]
    assert hit(store, Window(2, 60)).remaining == (1,)
    assert hit(store, Window(2, 60), cost=0).remaining == (1,)


def test_a_record_that_is_put_again_and_again_takes_one_place() -> None:
    """A note of once a minute that is kept for a year leaves no million traces."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    for _ in range(1_000):
        run(store.put(KEY, b"1", 100.0))
        clock.now += 0.05
    assert len(store._records._expiries) == 1
    clock.now += 60.0
    run(store.put(b"other", b"2", 1.0))
    assert run(store.get(KEY)) == (b"1",)
    run(store.put(KEY, b"3", 0.5))
    clock.now += 1.0
    run(store.put(b"more", b"4", 1.0))
    assert run(store.get(KEY)) == (None,)
    assert KEY not in store._records._values
    clock.now += 100.0
    run(store.put(b"last", b"5", 1.0))
    assert len(store._records._expiries) == len(store._records._values) == 1


def test_a_record_whose_end_wavers_takes_one_place() -> None:
    """Two clocks never agree to the nanosecond: who revokes one token a million times must not fill the memory."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    for turn in range(1_000):
        run(store.put(KEY, b"1", 100.0 + turn % 2))
    assert len(store._records._expiries) <= 2
    run(store.put(KEY, b"2", 50.0))
    clock.now += 60.0
    run(store.put(b"other", b"3", 1_000.0))
    assert [*store._records._values] == [b"other"]
    run(store.put(KEY, b"4", 100.0))  # traces of before do not end it
    clock.now += 50.0
    run(store.put(b"more", b"5", 1_000.0))
    assert run(store.get(KEY)) == (b"4",)
    clock.now += 50.0
    run(store.put(b"last", b"6", 1_000.0))
    assert len(store._records._expiries) == len(store._records._values) == 3


def test_old_records_are_dropped_bit_by_bit() -> None:
    """Nobody waits while all that have expired are dropped at once."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    for number in range(20):
        run(store.put(b"%d" % number, b"", 1.0))
    clock.now += 2.0
    kept = []
    for _ in range(3):
        run(store.put(KEY, b"", 10.0))
        kept.append(len(store._records._values))
    assert kept == [13, 5, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(0, 10)), max_size=60))
def test_records_like_a_model(history: list[tuple[int, int, int]]) -> None:
    """Whatever is put for however long, it is there for its time, and then its place is free."""
    clock = Clock()
    store = MemoryStore(clock=clock, max_records=4)
    model: dict[bytes, tuple[bytes, float]] = {}
    for number, (name, ttl, step) in enumerate(history):
        key, value = b"%d" % name, b"%d" % number
        run(store.put(key, value, float(ttl)))
        model[key] = (value, clock.now + ttl)
        clock.now += step
        for known, (kept, expiry) in model.items():
            assert run(store.get(known)) == (kept if expiry > clock.now else None,)
    clock.now += 100.0
    run(store.put(b"new", b"", 1.0))
    run(store.put(b"newer", b"", 1.0))
    assert {*store._records._values} == {b"new", b"newer"}
