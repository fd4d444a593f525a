"""Histograms of columns: cut, counted and compared, for every kind of column."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlguard.monitoring import _histograms
from mlguard.monitoring._drift_thresholds import calibrated, evenly
from mlguard.monitoring._histograms import Counts, Distances, Histograms, cut

RNG = np.random.default_rng(5)


def distances(histograms: Histograms, rows: Any) -> Distances:
    above = histograms.empty()
    histograms.count(rows, above)
    return histograms.distances(Counts(above, len(rows)))


def test_bins_of_a_continuous_column_have_as_many_rows_each() -> None:
    """Ten bins by quantiles, no missing ones."""
    found = cut(RNG.normal(size=(1_000, 1)), 10)
    assert found.edges.shape == (9, 1)
    assert set(found.counts[:-1, 0].tolist()) <= {99, 100, 101}
    assert (found.counts[-1, 0], found.missing, found.rows) == (0, False, 1_000)


@pytest.mark.parametrize(
    ("values", "others"),
    [
        ([5.0], [4.9, 5.1]),  # a constant
        ([0.0, 1.0], [-1.0, 2.0]),  # a flag
        ([0.0] * 9 + [0.5, 0.6, 0.7], [1e-9, -1e-9]),  # mostly zero
        ([1.0, 2.0, 3.0], [0.0, 4.0]),  # whole numbers
    ],
)
def test_what_is_beside_a_frequent_value_is_told_from_it(values: list[float], others: list[float]) -> None:
    """Constants, flags and whole numbers: other values than those of the reference are far from it."""
    found = cut(np.resize(values, 1_200)[:, None], 10)
    assert distances(found, np.resize(values, 600)[:, None]).psi[0] < 0.01
    for other in others:
        changed = np.resize(values, 600)
        changed[:300] = other
        assert distances(found, changed[:, None]).psi[0] > 0.2


@given(
    arrays(np.float64, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.integers(-3, 3)),
    st.integers(4, 12),
    st.integers(1, 30),
)
def test_counting_is_the_same_row_by_row_and_at_once(rows: Any, bins: int, at_once: int) -> None:
    """Every way of counting gives the reference's own counts, in which each row is once."""
    found = cut(rows, bins)
    single, many = found.empty(), found.empty()
    for row in rows:
        found.count(row[None], single)
    before = _histograms._AT_ONCE
    try:
        _histograms._AT_ONCE = at_once * found.edges.size  # chunks of any size
        found.count(rows, many)
    finally:
        _histograms._AT_ONCE = before
    assert (single == many).all()
    in_bins = _histograms.in_bins(Counts(single, len(rows)))
    assert (in_bins == found.counts).all()
    assert (found.counts >= 0).all()
    assert (found.counts.sum(axis=0) == len(rows)).all()
    assert not found.counts[~found.real].any()


def test_missing_values_are_a_bin_of_their_own() -> None:
    """More of them than before is a distance, and so is a column of nothing else."""
    rows = RNG.normal(size=(1_000, 3))
    rows[::10, 0] = np.nan
    rows[:, 2] = np.nan
    found = cut(rows, 10)
    assert found.missing
    assert found.counts[-1].tolist() == [100, 0, 1_000]
    assert distances(found, rows).psi == pytest.approx(0, abs=1e-9)
    more = rows.copy()
    more[::2, 1] = np.nan
    assert distances(found, more).psi[1] > 1
    assert distances(found, np.nan_to_num(more)).psi[2] > 1


def test_where_nothing_was_missing_a_missing_value_is_below_all_others() -> None:
    """NaN that the reference does not know is counted with the lowest bin, and so is noticed."""
    found = cut(RNG.normal(size=(1_000, 1)), 10)
    rows = RNG.normal(size=(1_000, 1))
    rows[:500] = np.nan
    assert distances(found, rows).psi[0] > 0.2


def test_distances_are_those_of_the_textbook() -> None:
    """PSI and KS of two histograms of two bins, worked out by hand (but for half a row in each bin)."""
    reference = cut(np.repeat([0.0, 1.0], [5_000, 5_000])[:, None], 4)
    found = distances(reference, np.repeat([0.0, 1.0], [8_000, 2_000])[:, None])
    by_hand = (0.8 - 0.5) * np.log(0.8 / 0.5) + (0.2 - 0.5) * np.log(0.2 / 0.5)
    assert found.psi[0] == pytest.approx(by_hand, rel=0.01)
    assert found.ks[0] == pytest.approx(0.3)


def test_integers_of_any_size_and_narrow_floats_are_counted() -> None:
    """What Features delivers in other dtypes is compared as the same numbers."""
    whole = RNG.integers(-100, 100, (1_000, 2))
    found = cut(whole.astype(float), 10)
    for dtype in (np.int64, np.int8, np.float32):
        assert distances(found, whole.astype(dtype)).psi == pytest.approx(0, abs=1e-9)


def test_windows_of_the_reference_pass_thresholds_rarely() -> None:
    """Drawn from columns of every kind, fewer windows pass than the rate says; the thresholds are always the same."""

    def draw(rows: int) -> Any:
        return np.stack(
            [RNG.normal(size=rows), RNG.integers(0, 2, rows), RNG.poisson(0.05, rows), np.full(rows, 3.0)], axis=1
        )

    found = cut(draw(2_000), 10)
    bounds = calibrated(found, (200,), 0.05)
    assert (calibrated(found, (200,), 0.05).psi == bounds.psi).all()
    passed, scale = 0, evenly(200, 2_000)
    for _ in range(400):
        one = distances(found, draw(200))
        passed += bool((scale * one.psi > bounds.psi).any() or (scale * one.ks**2 > bounds.ks).any())
    assert passed <= 20 + 3 * 20**0.5


def test_rarer_alarms_need_larger_distances() -> None:
    """The threshold goes up with fewer allowed alarms and with more columns, also beyond what can be drawn."""
    rows = RNG.normal(size=(500, 8))
    found = cut(rows, 10)
    thresholds = [calibrated(found, (100,), rate).psi[0] for rate in (0.9, 0.1, 1e-3, 1e-6)]
    assert thresholds == sorted(thresholds)
    assert calibrated(cut(rows[:, :1], 10), (100,), 0.1).psi[0] < thresholds[1]
    constant = cut(np.ones((100, 1)), 10)
    assert np.isfinite(calibrated(constant, (100,), 1e-6).psi).all()
