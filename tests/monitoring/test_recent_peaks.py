"""The largest of what was seen lately."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mlguard.monitoring._recent_peaks import RecentPeaks
from tests.clock import Clock


def test_a_peak_is_seen_for_a_minute_and_not_for_more_than_two() -> None:
    """Each value by itself; what is smaller does not hide it."""
    clock = Clock(10.0)
    peaks = RecentPeaks(2, clock)
    assert peaks.read() == [0, 0]
    clock.now += 59
    peaks.note([0.5, 1.5])
    peaks.note([0.7])
    clock.now += 60
    peaks.note([0.1, 0.2])
    assert peaks.read() == [0.7, 1.5]
    clock.now += 60
    assert peaks.read() == [0.1, 0.2]
    clock.now += 120
    assert peaks.read() == [0, 0]


_steps = st.lists(st.tuples(st.integers(0, 100), st.floats(0, 2)), max_size=20)


@given(_steps)
def test_it_is_what_a_list_of_all_would_say(steps: Sequence[tuple[int, float]]) -> None:
    """At least the largest of the last minute, at most that of the last two."""
    clock = Clock(0.0)
    peaks, noted = RecentPeaks(1, clock), []
    for seconds, value in steps:
        clock.now += seconds
        peaks.note([value])
        noted.append((clock.now, value))
        ((peak,), now) = peaks.read(), clock.now
        assert max(one for then, one in noted if now - then < 60) <= peak
        assert peak <= max(one for then, one in noted if now - then < 120)
