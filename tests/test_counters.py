"""One window at a time, against the obvious list of what was admitted when."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard._counters import Counter, LeakingCounter, SlidingCounter, new_counter
from mlguard.store import PARTS, Kind, Window

limits = st.integers(1, 12)
seconds = st.sampled_from([1, 3, 7, 10, 60, 3_600, 86_400])
starts = st.integers(0, 10**6)
# Steps are parts of the window, and exact in floats.
steps = st.one_of(
    st.just(Fraction(0)),
    st.integers(0, 40).map(lambda n: Fraction(n, 64)),
    st.sampled_from([Fraction(15, 16), Fraction(1), Fraction(17, 16), Fraction(1, 2**20)]),
)
#: A hit of so many units, or what an earlier one turned out to cost.
works = st.one_of(
    st.tuples(st.just("hit"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("settle"), st.integers(0, 8), st.integers(0, 5)),
)
histories = st.lists(st.tuples(steps, works), min_size=1, max_size=50)


class Event(NamedTuple):
    """What happened, beside what the obvious list says."""

    now: float
    units: int
    admitted: bool
    counted: list[tuple[float, int]]  # what counts of all that was admitted before, by time


def play(counter: Counter, window: Window, history: Any, start: int) -> Iterator[Event]:
    """Hits and settlements, one after another, and what a list of all units would hold at each hit."""
    now = float(start)
    counted: list[list[Any]] = []
    open_hits: list[list[Any]] = []
    for step, (work, units, which) in history:
        now += float(step * int(window.seconds))
        counter.move(window, now)
        if work == "hit":
            admitted = counter.total + units <= window.limit
            yield Event(now, units, admitted, [(at, counts) for at, counts in counted])
            if admitted:
                counter.add(units)
                counted.append([now, units])
                open_hits.append(counted[-1])
        elif open_hits:
            hit = open_hits.pop(which % len(open_hits))
            if units > hit[1]:
                counter.add(units - hit[1])
                counted.append([now, units - hit[1]])
            elif units < hit[1]:
                counter.give_back(hit[1] - units, hit[0], window)
                hit[1] = units


@given(limits, seconds, histories, starts)
def test_what_slides_is_exact_to_a_sixteenth(limit: int, length: int, history: Any, start: int) -> None:
    """Whatever was settled: no true window above the limit, and none refused that has room in 17/16 of its length."""
    window = Window(limit, length)
    for event in play(new_counter("sliding"), window, history, start):
        in_window = sum(units for at, units in event.counted if at >= event.now - length)
        in_longer = sum(units for at, units in event.counted if at > event.now - length * (1 + 1 / PARTS))
        if event.admitted:
            assert in_window + event.units <= limit
        else:
            assert in_longer + event.units > limit


@given(limits, seconds, histories, starts)
def test_what_is_fixed_counts_what_came_since_it_began(limit: int, length: int, history: Any, start: int) -> None:
    """Exactly the units since the last multiple of its length, whatever was settled."""
    window = Window(limit, length, "fixed")
    for event in play(new_counter("fixed"), window, history, start):
        used = sum(units for at, units in event.counted if at // length == event.now // length)
        assert event.admitted == (used + event.units <= limit)


@given(limits, seconds, histories, starts)
def test_what_leaks_holds_no_less_than_was_used(limit: int, length: int, history: Any, start: int) -> None:
    """In any stretch of time no more than the burst and what leaks in it, and nobody's units are given to another."""
    window, counter = Window(limit, length, "gcra"), LeakingCounter()
    for event in play(counter, window, history, start):
        assert counter.total >= _level(event, limit, length) - 1e-6
        if not event.admitted:
            assert counter.total + event.units > limit


@given(limits, seconds, st.lists(st.tuples(steps, st.tuples(st.just("hit"), st.integers(1, 5), st.just(0)))), starts)
def test_what_leaks_is_exact(limit: int, length: int, history: Any, start: int) -> None:
    """Where nothing is settled, it holds what was used, to the rounding of floats."""
    window, counter = Window(limit, length, "gcra"), LeakingCounter()
    for event in play(counter, window, history, start):
        assert counter.total == pytest.approx(float(_level(event, limit, length)), abs=1e-6)


def _level(event: Event, limit: int, length: int) -> Fraction:
    """What is in the bucket, in exact numbers."""
    level, before = Fraction(0), Fraction(0)
    for at, units in [*sorted(event.counted), (event.now, 0)]:
        level = max(Fraction(0), level - (Fraction(at) - before) * limit / length) + units
        before = Fraction(at)
    return level


any_window = st.builds(Window, limits, seconds, st.sampled_from(["sliding", "fixed", "gcra"]))


@given(any_window, histories, starts, st.integers(1, 15))
def test_room_comes_when_it_was_promised(window: Window, history: Any, start: int, cost: int) -> None:
    """A hit that is refused fits after ``seconds_until``, to the rounding of floats, and not earlier."""
    counter = new_counter(window.kind)
    limit, length, _ = window
    now = float(start)
    for event in play(counter, window, [*history, (Fraction(0), ("hit", 1, 0))], start):  # so that the last one is told
        now = event.now
    counter.move(window, now)
    if counter.total + cost <= limit:
        return
    wait = counter.seconds_until(cost, window, now)
    if cost > limit:
        assert wait == math.inf
        return
    slack = 1e-6 * length
    counter.move(window, now + wait - slack)
    assert counter.total + cost > limit
    counter.move(window, now + wait + slack)
    assert counter.total + cost <= limit


@pytest.mark.parametrize("kind", ["sliding", "fixed", "gcra"])
def test_nothing_is_given_back_twice_over(kind: Kind) -> None:
    """More than a hit has counted cannot be had back, nor what counts no more, nor what was never counted."""
    window, counter = Window(10, 60, kind), new_counter(kind)
    counter.move(window, 0.0)
    counter.give_back(5, 0.0, window)
    assert counter.total == 0
    counter.add(3)
    counter.give_back(5, 0.0, window)
    assert counter.total == 0
    counter.add(3)
    counter.move(window, 70.0)
    counter.add(4)
    counter.give_back(3, 0.0, window)
    assert counter.total == 4


@pytest.mark.parametrize("kind", ["sliding", "fixed", "gcra"])
def test_a_clock_that_is_set_back_frees_nothing(kind: Kind) -> None:
    """What was counted stays counted until the clock has caught up."""
    window, counter = Window(10, 60, kind), new_counter(kind)
    counter.move(window, 600.0)
    counter.add(3)
    for now in (599.0, 0.0, 600.0):
        counter.move(window, now)
        assert counter.total == 3
        assert counter.seconds_until_reset(window, now) > 0
    counter.move(window, 500.0)
    counter.add(2)
    counter.move(window, 600.0)
    assert counter.total == 5


@given(st.lists(st.tuples(steps, st.integers(1, 4)), max_size=200))
def test_no_history_takes_more_than_seventeen_parts(history: Any) -> None:
    """However long it goes on, and whatever is given back."""
    window, counter, now = Window(10**6, 60), SlidingCounter(), 0.0
    for step, units in history:
        now += float(step * 60)
        counter.move(window, now)
        counter.add(units)
        counter.give_back(1, now, window)
        assert len(counter.parts) <= 2 * (PARTS + 1)
        assert counter.total == sum(counter.parts[1::2])
    assert counter.seconds_until_reset(window, now) >= 0


def test_an_empty_counter_has_nothing_to_reset() -> None:
    """Nothing is promised where nothing was counted."""
    kinds: list[Kind] = ["sliding", "fixed", "gcra"]
    for kind in kinds:
        assert new_counter(kind).seconds_until_reset(Window(1, 60, kind), 5.0) == 0.0
