"""Rounding that keeps what callers rely on: sums, the best class, and short numbers."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlguard.outputs.rounding import FloatArray, round_float, round_floats, round_scores

UNTIMED = settings(deadline=None)  # a deadline would measure the machine

ANY_DECIMALS = st.integers(0, 15)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def probability_rows(min_rows: int = 1) -> st.SearchStrategy[FloatArray]:
    """Batches of probability vectors, among them ones with ties and near ties."""
    shapes = st.tuples(st.integers(min_rows, 6), st.integers(2, 12))
    weights = st.floats(1e-6, 1.0) | st.sampled_from([0.25, 0.5, 0.5000000000000001, 1.0])
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=weights)).map(
        lambda rows: rows / rows.sum(axis=1, keepdims=True)
    )


def decimals_shown(number: float) -> int:
    """How many decimals JSON shows of a number."""
    text = orjson.dumps(number).decode()
    digits, _, exponent = text.partition("e")
    return max(0, len(digits.partition(".")[2].rstrip("0")) - int(exponent or 0))


@UNTIMED
@given(probability_rows(), st.integers(0, 12))
def test_rows_still_sum_to_one(rows: FloatArray, decimals: int) -> None:
    """Rounded probabilities add up to exactly one, counted in units of the last decimal."""
    units = np.rint(round_scores(rows, decimals) * 10**decimals)

    assert (units.sum(axis=1) == 10**decimals).all()


@UNTIMED
@given(probability_rows(), ANY_DECIMALS)
@example(np.array([[0.331, 0.334, 0.335], [0.4999, 0.5001, 0.0]]), 2)
def test_the_best_class_stays_the_best(rows: FloatArray, decimals: int) -> None:
    """The argmax of every rounded probability vector is that of the original, ties included."""
    assert (round_scores(rows, decimals).argmax(axis=1) == rows.argmax(axis=1)).all()


def test_scores_that_fall_together_when_scaled_keep_their_order() -> None:
    """A class that is better by the last bit only stays the best, although scaling makes the scores equal."""
    good = 0.16666666666566668
    better = math.nextafter(good, 1)
    assert better * 100 == good * 100

    rounded = round_scores(np.array([[good] * 5 + [better]]), 2)

    assert rounded.tolist() == [[0.16, 0.16, 0.17, 0.17, 0.16, 0.18]]


@UNTIMED
@given(probability_rows(), ANY_DECIMALS)
def test_no_score_moves_by_two_units(rows: FloatArray, decimals: int) -> None:
    """Rounding a vector costs an entry less than two units of the last decimal, and never makes it negative."""
    rounded = round_scores(rows, decimals)

    assert (np.abs(rounded - rows) * 10.0**decimals < 2 + 1e-3).all()
    assert (rounded >= 0).all()


@UNTIMED
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(0, 9)), elements=FINITE), ANY_DECIMALS)
def test_a_batch_is_rounded_as_its_rows_are(rows: FloatArray, decimals: int) -> None:
    """A row's rounding does not depend on the batch it comes in, nor on the memory order of the batch."""
    together = round_scores(rows, decimals)

    assert together.tolist() == [round_scores(row[np.newaxis], decimals)[0].tolist() for row in rows]
    assert together.tolist() == round_scores(np.asfortranarray(rows), decimals).tolist()
    assert together.flags.c_contiguous


@UNTIMED
@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 9)), elements=FINITE), ANY_DECIMALS)
def test_any_finite_number_comes_out_finite_and_short(rows: FloatArray, decimals: int) -> None:
    """Numbers of any magnitude stay finite and show no more decimals than asked for."""
    for rounded in (round_scores(rows, decimals), round_floats(rows, decimals)):
        assert np.isfinite(rounded).all()
        assert all(decimals_shown(number) <= decimals for number in rounded.ravel().tolist())
        assert not (np.signbit(rounded) & (rounded == 0)).any()


@UNTIMED
@given(FINITE, ANY_DECIMALS)
def test_one_number_is_rounded_as_an_array_is(number: float, decimals: int) -> None:
    """The same number is the same in the answer, in an array or by itself."""
    assert round_float(number, decimals) == round_floats(np.array([number]), decimals)[0]


@UNTIMED
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 9)), elements=st.floats(-50, 50)))
def test_logits_keep_sum_and_bound(rows: FloatArray) -> None:
    """Negative scores are rounded by the same rule: sums within half a unit, entries within two."""
    rounded = round_scores(rows, 3)

    assert (np.abs(rounded - rows) < 0.002 + 1e-9).all()
    assert (np.abs(rounded.sum(axis=1) - rows.sum(axis=1)) <= 0.0005 + 1e-9).all()


def test_a_row_that_rounds_to_zeros_stays_all_zeros() -> None:
    """No score is made negative to keep the argmax of scores too small to show."""
    assert round_scores(np.array([[0.001, 0.002, 0.001]]), 2).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("huge", [1e300, -1e300, 2.0**53])
def test_a_huge_score_does_not_change_how_other_rows_are_rounded(huge: float) -> None:
    """Only the row with a number that has no room for decimals is rounded number by number."""
    rounded = round_scores(np.array([[huge, 0.128], [1 / 3, 2 / 3]]), 2)

    assert rounded.tolist() == [[huge, 0.13], [0.33, 0.67]]


def test_one_class_is_rounded_by_itself() -> None:
    """A single column has no sum to keep."""
    assert round_scores(np.array([[0.128], [0.5]]), 2).tolist() == [[0.13], [0.5]]


def test_rows_that_all_round_to_zeros_stay_zeros() -> None:
    """In a batch too: there is no unit to give to the best class."""
    assert round_scores(np.array([[0.1, 0.2], [0.05, 0.1]]), 0).tolist() == [[0.0, 0.0], [0.0, 0.0]]
