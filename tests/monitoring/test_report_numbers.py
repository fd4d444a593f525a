"""Numbers and times as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.monitoring import _report_numbers as numbers

_TUESDAY = 1_795_489_200  # 2026-11-24 03:00


def _plain(text: str) -> str:
    return text.replace("\u202f", " ").replace("\u2013", "-")


def test_things_and_shares() -> None:
    """Thousands stand apart, one is singular, and a share that is not all or nothing never looks like it."""
    assert _plain(numbers.whole(1_234_567)) == "1 234 567"
    assert [_plain(numbers.things(n, "row")) for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    assert numbers.things(2, "query", "queries") == "2 queries"
    shares = {
        0: "0 %",
        0.0004: "< 0.1 %",
        0.0123: "1.2 %",
        0.5: "50 %",
        0.999: "99.9 %",
        0.9999: "> 99.9 %",
        1: "100 %",
    }
    assert {share: _plain(numbers.percent(share)) for share in shares} == shares
    assert _plain(numbers.of_all(1, 0)) == "0 %"


def test_short_numbers_and_latencies() -> None:
    """Large numbers are short, and units stand beside them."""
    told = [_plain(numbers.short(n)) for n in (0, 12, 1_500, 2_000_000, 3e9)]
    assert told == ["0", "12", "1.5 k", "2 M", "3 G"]
    latencies = [_plain(numbers.milliseconds(n)) for n in (None, 0.123, 12.3, 345.6, 2_500)]
    assert latencies == ["-", "0.12 ms", "12 ms", "346 ms", "2.5 s"]
    assert [_plain(numbers.size(n)) for n in (1, 10, 60, 900, 3_600, 86_400, 604_800)] == [
        "1 second", "10 seconds", "1 minute", "15 minutes", "1 hour", "1 day", "7 days",
    ]  # fmt: skip


def test_times() -> None:
    """Times are those of UTC, whatever the zone of the machine, and names of days those of English."""
    assert numbers.day(_TUESDAY) == "Tue 24 Nov 2026"
    assert numbers.minute(_TUESDAY) == "Tue 24 Nov 2026, 03:00"
    assert numbers.second(_TUESDAY + 7) == "2026-11-24 03:00:07"
    assert numbers.to_the_minute(_TUESDAY) == "2026-11-24 03:00"
    told = [_plain(numbers.stretch(_TUESDAY, width)) for width in (10, 3_600, 86_400, 604_800)]
    assert told == [
        "Tue 24 Nov, 03:00:00-03:00:10", "Tue 24 Nov, 03:00-04:00", "Tue 24 Nov",
        "Tue 24 Nov 2026 to Tue 1 Dec 2026",
    ]  # fmt: skip


@given(st.floats(1e-3, 1e15))
def test_round_ticks(most: float) -> None:
    """An axis begins at 0, ends at or a little above the largest value, and has few marks."""
    ticks = numbers.round_ticks(most)
    assert ticks[0] == 0
    assert most <= ticks[-1] * (1 + 1e-6)
    assert ticks[-1] <= 3 * most + 1
    assert 2 <= len(ticks) <= 7


def test_an_axis_of_nothing() -> None:
    """It goes to 1."""
    assert tuple(numbers.round_ticks(0)) == (0.0, 1.0)


@given(st.floats(1e-3, 1e7), st.floats(1, 1e6))
def test_log_ticks(least: float, factor: float) -> None:
    """They hold all values, and rise."""
    ticks = numbers.log_ticks(least, least * factor)
    assert ticks[0] <= least * (1 + 1e-9)
    assert least * factor <= ticks[-1] * (1 + 1e-9)
    assert len(ticks) >= 2
    assert list(ticks) == sorted(set(ticks))


@pytest.mark.parametrize(
    ("count", "width", "first"),
    [(5, 1, ":"), (60, 60, ":"), (24, 3_600, ":"), (168, 3_600, "Nov"), (240, 604_800, "20"), (26, 31_449_600, "20")],
)
def test_time_ticks(count: int, width: int, first: str) -> None:
    """An axis of seconds has times, one of a week days, one of years months; never more than fit."""
    start = math.ceil(_TUESDAY / width)
    ticks = numbers.time_ticks(range(start, start + count), width)
    assert 1 <= len(ticks) <= 7
    assert all(0 <= share < 1 for share, _ in ticks)
    assert first in ticks[0][1]


def test_no_time() -> None:
    """Where nothing was recorded, nothing is marked."""
    assert numbers.time_ticks(range(0), 60) == []
