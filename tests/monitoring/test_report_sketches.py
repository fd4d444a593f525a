"""Counts in bounded memory: what is heavy is there, and what is told of it is right to the bound that is told."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.monitoring._report_sketches import Distinct, Heaviest

_STREAM = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 50)), max_size=400)


@given(_STREAM, st.integers(2, 12))
def test_numbers_are_short_by_no_more_than_is_told(stream: list[tuple[int, int]], most: int) -> None:
    """Of what is kept, too little is told by at most ``missed``, and nothing that is heavier than it is missing."""
    sketch, true = Heaviest[int](most), Counter[int]()
    for key, weight in stream:
        sketch.add(key, 0, 0.0, weight)
        true[key] += weight
        assert len(sketch.entries) <= most
    assert sketch.total == true.total()
    assert sketch.missed <= 2 * true.total() / most
    for key, weight in true.items():
        entry = sketch.entries.get(key)
        if entry is None:
            assert weight <= sketch.missed
        else:
            assert entry.weight <= weight <= entry.weight + entry.missed


def test_few_things_are_counted_exactly() -> None:
    """Where all are kept, nothing is missed, and times and slots are those of what was counted."""
    sketch = Heaviest[str](3)
    for at, key in ((5.0, "a"), (3.0, "b"), (9.0, "a"), (4.0, "c")):
        sketch.add(key, int(at) // 4, at)
    assert sketch.missed == 0
    (key, entry), *_ = sketch.ranked()
    assert (key, entry.weight, entry.first, entry.last, entry.series) == ("a", 2, 5.0, 9.0, {1: 1, 2: 1})
    sketch.coarsen(2)
    assert entry.series == {0: 1, 1: 1}
    sketch.coarsen(2)
    assert entry.series == {0: 2}


def test_a_heavy_one_is_found_among_a_hundred_thousand() -> None:
    """Whoever makes a hundredth of all is found, however many others come by once."""
    sketch = Heaviest[str](1_024)
    for number in range(100_000):
        sketch.add(f"once-{number}", 0, 0.0)
        if number % 100 == 0:
            sketch.add("mallory", 0, 0.0)
    assert len(sketch.entries) <= 1_024
    assert sketch.ranked()[0][0] == "mallory"
    assert sketch.ranked()[0][1].weight + sketch.missed >= 1_000


def test_the_same_weight_is_ranked_by_name() -> None:
    """The page is the same for the same log."""
    sketch = Heaviest[str](3)
    for key in "cab":
        sketch.add(key, 0, 0.0)
    assert [key for key, _ in sketch.ranked()] == ["a", "b", "c"]


@pytest.mark.parametrize("true", [0, 1, 511])
def test_few_different_things_are_counted_exactly(true: int) -> None:
    """Up to 511, also when each comes often."""
    distinct = Distinct()
    for _ in range(2):
        for number in range(true):
            distinct.add(str(number))
    assert (distinct.count, distinct.is_exact) == (true, True)


def test_many_different_things_are_estimated() -> None:
    """Of fifty thousand, the number is right to a few percent, and says that it is an estimate."""
    distinct = Distinct()
    for number in range(50_000):
        distinct.add(f"caller \ud800 {number}")
    assert not distinct.is_exact
    assert abs(distinct.count - 50_000) < 0.15 * 50_000
