"""One alert for the same thing, few for many things: tried with floods, clocks and events of every kind."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.monitoring._alert_windows import HELD_BACK, AlertWindows, plain_facts

Facts = dict[str, Any]


def make(**settings: Any) -> AlertWindows:
    given_settings: dict[str, Any] = {"same": {}, "window": 60.0, "most": 3, "waiting": 100, **settings}
    return AlertWindows({"query.suspected": "warning", "lockdown.set": "critical"}, **given_settings)


def told(windows: AlertWindows, now: float) -> list[tuple[str, int, Facts]]:
    found = []
    while (alert := windows.take(now)) is not None:
        found.append((alert.event, alert.count, dict(alert.facts)))
    return found


def test_the_same_thing_is_told_once_and_then_counted() -> None:
    """The first is an alert at once; the others are one more at the end of the window, with the last one's facts."""
    windows = make()
    for second in range(5):
        windows.note("query.suspected", {"principal": "alice", "score": second / 7}, 100.0 + second, second)
    assert told(windows, 5) == [("query.suspected", 1, {"principal": "alice", "score": 0.0})]
    assert windows.due == 60
    assert told(windows, 59.9) == []
    assert told(windows, 60) == [("query.suspected", 4, {"principal": "alice", "score": 4 / 7})]


def test_what_goes_on_is_told_once_a_window() -> None:
    """After the window's end, more of the same is counted again and is no news; when it stops, nothing is left."""
    windows = make()
    windows.note("query.suspected", {"principal": "alice"}, 0, 0)
    windows.note("query.suspected", {"principal": "alice"}, 1, 1)
    assert len(told(windows, 60)) == 2
    windows.note("query.suspected", {"principal": "alice"}, 61, 61)
    assert told(windows, 61) == []
    assert told(windows, 120) == [("query.suspected", 1, {"principal": "alice"})]
    assert told(windows, 180) == []
    assert windows.due == math.inf
    windows.note("query.suspected", {"principal": "alice"}, 181, 181)
    assert len(told(windows, 181)) == 1


def test_a_window_that_is_over_ends_with_the_next_event() -> None:
    """Also where nobody has looked at its end, and where the clock went backwards."""
    for at in (60.0, -1.0):
        windows = make()
        windows.note("query.suspected", {"principal": "alice"}, 0, 0)
        windows.note("query.suspected", {"principal": "alice"}, 1, 1)
        windows.note("query.suspected", {"principal": "bob"}, at, at)
        assert windows.due == at + 60
        assert told(windows, at) == [
            ("query.suspected", 1, {"principal": "alice"}),
            ("query.suspected", 1, {"principal": "alice"}),
            ("query.suspected", 1, {"principal": "bob"}),
        ]


def test_a_flood_of_one_name_is_few_alerts_and_hides_no_other() -> None:
    """Thousands of distinct events of one name are ``most`` alerts and one that counts the rest; others are told."""
    windows = make()
    for number in range(20_000):
        windows.note("query.suspected", {"principal": f"mallory-{number}"}, number, 1)
    windows.note("lockdown.set", {"by": "operator"}, 5, 2)
    assert len(windows._kinds["query.suspected"].open) == 3
    assert [event for event, _, _ in told(windows, 3)] == ["query.suspected"] * 3 + ["lockdown.set"]
    assert told(windows, 61) == [(HELD_BACK, 19_997, {"event": "query.suspected"})]
    assert windows.held_back == 19_997


def test_when_nobody_takes_alerts_they_are_counted_and_told_later() -> None:
    """The queue is bounded: what finds no room is held back, and said as soon as there is room."""
    windows = make(waiting=2)
    for name in ("a", "b", "c", "d"):
        windows.note("query.suspected", {"principal": name}, 1, 1)
        windows.note("query.suspected", {"principal": name}, 2, 2)
    assert len(windows) == 2
    windows.end(3)  # no room for the counts either
    assert len(windows) == 2
    assert windows.due == 63
    assert [count for _, count, _ in told(windows, 4)] == [1, 1]
    assert told(windows, 63) == [(HELD_BACK, 6, {"event": "query.suspected"})]


def test_the_operator_says_what_is_the_same() -> None:
    """With the facts that count named, two events that agree in them are one thing."""
    windows = make(same={"query.suspected": ("principal",)})
    for detector in ("cusum", "sketch"):
        windows.note("query.suspected", {"principal": "alice", "detector": detector}, 1, 1)
    assert len(told(windows, 1)) == 1


@pytest.mark.parametrize("fact", ["request_id", "trace_id", "address"])
def test_what_is_another_one_each_time_makes_no_difference(fact: str) -> None:
    """Nobody gets an alert for each request by its id or its address."""
    windows = make()
    for value in ("one", "two"):
        windows.note("query.suspected", {"principal": "alice", fact: value}, 1, 1)
    assert len(told(windows, 1)) == 1


def test_a_clock_that_goes_backwards_ends_the_window() -> None:
    """Time before the window's beginning is another window: nothing waits for a time that does not come."""
    windows = make()
    windows.note("query.suspected", {"principal": "alice"}, 1, 1_000)
    windows.note("query.suspected", {"principal": "alice"}, 1, 1_001)
    assert len(told(windows, 5)) == 2
    windows.note("query.suspected", {"principal": "alice"}, 1e30, 6)
    windows.note("query.suspected", {"principal": "alice"}, math.nan, 5)
    assert windows.due <= 65
    (alert,) = [windows.take(65)]
    assert alert is not None
    assert alert.first.year == 1970  # a date that there is not is the first one


@given(
    st.lists(
        st.tuples(st.sampled_from(["query.suspected", "lockdown.set"]), st.integers(0, 8), st.floats(-50, 400)),
        max_size=60,
    ),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_every_event_is_told_or_counted_exactly_once(
    events: list[tuple[str, int, float]], most: int, waiting: int
) -> None:
    """Whatever comes when: the counts of all alerts add up to the events, and few are sent at once."""
    windows = make(most=most, waiting=waiting)
    total = 0
    for event, who, now in events:
        windows.note(event, {"principal": who}, now, now)
        assert len(windows) <= waiting
        if who % 3 == 0:
            total += sum(count for _, count, _ in told(windows, now))
    for _ in range(3):
        total += sum(count for _, count, _ in told(windows, 1_000))
        windows.end(1_000)
    assert total == len(events)
    assert windows.due == math.inf


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans())))
def test_facts_are_small_lines_of_json(facts: Facts) -> None:
    """Whatever facts hold, what is told of them is bounded, printable, and JSON without NaN."""
    plain = plain_facts(facts)
    assert len(plain) <= 20
    for name, fact in plain.items():
        assert name.isprintable()
        assert len(name) <= 64
        assert not isinstance(fact, str) or (fact.isprintable() and len(fact) <= 200)
    json.dumps(plain, allow_nan=False).encode("ascii")


def test_hostile_facts_become_harmless() -> None:
    """Line feeds, terminal escapes, halves of characters, giants and objects are shown as what cannot hurt."""

    class Bomb:
        def __str__(self) -> str:
            raise RuntimeError

    plain = plain_facts({"a": "x\n\x1b[2J\ud800", "b": 10**5_000, "c": math.nan, "d": Bomb(), "e": "y" * 10**6})
    assert plain["a"] == "x\ufffd\ufffd[2J\ufffd"
    assert plain["b"] == "a very large number"
    assert plain["c"] == "nan"
    assert plain["d"] == "a Bomb"
    assert plain["e"] == "y" * 200
    assert plain_facts(None) == plain_facts(["a"]) == {}


def test_what_is_forgotten_is_counted() -> None:
    """Clearing says how many alerts waited, and nothing of before is told after."""
    windows = make()
    windows.note("query.suspected", {"principal": "alice"}, 1, 1)
    assert windows.clear() == 1
    assert told(windows, 1_000) == []
