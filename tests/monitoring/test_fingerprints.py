"""Marks of queries, and how likely close ones share them."""

import numpy as np
import pytest

from mlguard import QueryMonitor
from mlguard.monitoring._fingerprints import MARKS, SHARED, Fingerprints, chances
from mlguard.monitoring.query_reference import Floats

KEY = b"k" * 32
random = np.random.default_rng(11)
USUAL = random.normal(size=(500, 20))
REFERENCE = QueryMonitor.calibrate(USUAL)
FINGERPRINTS = Fingerprints(REFERENCE, KEY)


def shared(a: Floats, b: Floats) -> int:
    """How many marks two rows share."""
    _, (one, other) = FINGERPRINTS.of(np.stack([a, b]))
    return sum(x == y for x, y in zip(one[1:], other[1:], strict=True))


def apart(distance: float) -> tuple[Floats, Floats]:
    """Two rows at this distance, in units of the spread."""
    way = random.normal(size=20)
    a = random.normal(size=20)
    return a, a + way / np.linalg.norm(way) * distance * REFERENCE.scale


@pytest.mark.parametrize("reaches", [0.1, 1.0, 1.5, 2.0, 3.0])
def test_close_rows_share_marks_as_often_as_the_formula_says(reaches: float) -> None:
    """So the reach is calibrated by what happens."""
    found = [shared(*apart(reaches * REFERENCE.reach)) >= SHARED for _ in range(500)]
    expected = float(chances(np.array([reaches * REFERENCE.reach]), REFERENCE.reach)[0])
    assert abs(np.mean(found) - expected) < 0.1


def test_usual_rows_share_no_marks() -> None:
    """Nor does one mark of a row stand for another."""
    _, marks = FINGERPRINTS.of(random.normal(size=(300, 20)))
    assert all(len(row) == MARKS + 1 for row in marks)
    near = [
        sum(x == y for x, y in zip(one[1:], other[1:], strict=True)) >= SHARED
        for number, one in enumerate(marks)
        for other in marks[:number]
    ]
    assert np.mean(near) < 1e-3
    assert len({mark for row in marks for mark in row}) > 300 * MARKS * 0.8


def test_the_first_mark_is_of_the_very_row() -> None:
    """The least change gives another one."""
    row = USUAL[:1]
    least = row.copy()
    least[0, 3] = np.nextafter(least[0, 3], 9)
    _, ((one, *_),) = FINGERPRINTS.of(row)
    _, ((same, *_), (other, *_)) = FINGERPRINTS.of(np.concatenate([row, least]))
    assert one == same != other


def test_marks_depend_on_the_key_and_on_nothing_else() -> None:
    """Who has not got it cannot tell what leaves which marks; two processes that have agree."""
    rows = USUAL[:5]
    _, one = FINGERPRINTS.of(rows)
    _, again = Fingerprints(REFERENCE, KEY).of(rows)
    _, other = Fingerprints(REFERENCE, b"l" * 32).of(rows)
    assert one == again
    assert not {mark for row in one for mark in row} & {mark for row in other for mark in row}


def test_batches_of_any_size_and_dtype_are_the_same() -> None:
    """A row has the same marks alone, among others, in another order of memory, and as float32 where that is exact."""
    rows = np.round(USUAL[:40], 1).astype(np.float32).astype(np.float64)
    distances, marks = FINGERPRINTS.of(rows)
    for some in (np.asfortranarray(rows), rows.astype(np.float32)):
        close, others = FINGERPRINTS.of(some)
        assert np.allclose(close, distances)
        assert [row[1:] for row in others] == [row[1:] for row in marks]
    alone = [FINGERPRINTS.of(rows[n : n + 1])[1][0] for n in range(40)]
    agree = [sum(x == y for x, y in zip(a, b, strict=True)) for a, b in zip(alone, marks, strict=True)]
    assert min(agree) >= MARKS - 2  # sums of single precision may differ in the last bit


def test_a_row_alone_is_what_it_is_among_others() -> None:
    """Also with missing values, and with numbers that are too large: whole numbers of spreads have the same sums."""
    rows = random.integers(-3, 4, (200, 20)).astype(np.float64)
    rows[::5, 3], rows[::7, :], rows[1, 0], rows[2, 0] = np.nan, 1.7e308, -np.inf, 0.0
    distances, marks = FINGERPRINTS.of(rows)
    alone = [FINGERPRINTS.of(row[np.newaxis]) for row in rows]
    assert [one for (one,), _ in alone] == pytest.approx(distances, rel=1e-5, abs=1e-2)
    assert [one[0] for _, (one,) in alone] == [one[0] for one in marks]
    agree = [sum(x == y for x, y in zip(a, b, strict=True)) for (_, (a,)), b in zip(alone, marks, strict=True)]
    assert min(agree) >= MARKS - 2  # sums of single precision may differ in the last bit
    assert np.mean(agree) > MARKS


def test_distances_grow_outwards_and_end() -> None:
    """A missing value is the mean's, and what is infinitely far is as far as eight spreads."""
    far = np.array([[0.0], [3.0], [8.0], [1e300], [np.nan]]) * np.ones(20)
    distances, _ = FINGERPRINTS.of(far)
    assert distances[0] < distances[1] < distances[2]
    assert distances[3] == pytest.approx(distances[2], rel=0.05)
    assert distances[4] == pytest.approx(distances[0], abs=0.2)


def test_chances_are_probabilities_that_fall_with_the_distance() -> None:
    """Also where they are tiny."""
    found = chances(np.geomspace(1e-6, 1e3, 200), 1.0)
    assert np.all(np.diff(found) <= 1e-4)
    assert found[0] == pytest.approx(1.0)
    assert 0 <= found[-1] < 1e-12
    assert np.all(found <= 1)
