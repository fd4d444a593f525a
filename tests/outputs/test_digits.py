"""How many digits leave of any number."""

import math
from decimal import Decimal

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlguard.errors import UnsafeOutputError
from mlguard.outputs.digits import AsTheyAre, Decimals, Digits, Significant, finite_text
from mlguard.outputs.rounding import FloatArray

UNTIMED = settings(deadline=None)  # a deadline would measure the machine
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def significant_digits(number: float) -> int:
    """How many digits JSON shows of a number, without the zeros that only say how large it is."""
    mantissa = orjson.dumps(number).decode().partition("e")[0]
    return len(mantissa.replace(".", "").replace("-", "").strip("0"))


@UNTIMED
@given(FINITE, st.integers(1, 15))
@example(999.5, 3)
@example(1000.0, 3)
@example(5e-324, 3)
@example(1.7976931348623157e308, 3)
@example(1.7976931348623157e308, 15)
@example(1e22, 1)
@example(1e23, 5)
@example(0.15, 1)
@example(123456.5, 6)
@example(6.043522496217346e16, 15)
def test_no_more_significant_digits_than_asked_for(number: float, digits: int) -> None:
    """A number of any size shows so many digits, and is no further from what it was than half of the last one."""
    rounded = Significant(digits).number(number)
    assert math.isfinite(rounded)
    near_the_largest = abs(number) > 9e307  # there rounding up may have no double to go to
    assert significant_digits(rounded) <= digits or near_the_largest
    if number:
        unit = 10.0 ** (math.floor(math.log10(abs(number))) - digits + 1)
        assert abs(rounded - number) <= unit * 0.5000001 + math.ulp(rounded)


@UNTIMED
@given(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, min_side=0, max_side=4), elements=FINITE), st.integers(1, 15)
)
def test_an_array_is_rounded_as_its_numbers_are(numbers: FloatArray, digits: int) -> None:
    """The same number is the same in an array, in a batch of scores, and by itself."""
    rounding = Significant(digits)
    expected = [rounding.number(number) for number in numbers.ravel().tolist()]
    assert rounding.numbers(numbers).ravel().tolist() == expected
    assert rounding.numbers(numbers).shape == numbers.shape
    assert rounding.scores(numbers.reshape(1, -1)).ravel().tolist() == expected


@UNTIMED
@given(FINITE, st.integers(1, 15))
def test_rounding_again_changes_nothing(number: float, digits: int) -> None:
    """What was rounded once is as it will stay."""
    once = Significant(digits).number(number)
    assert Significant(digits).number(once) == once


@pytest.mark.parametrize(
    ("digits", "given_text", "expected"),
    [
        (Decimals(2), "0.98765", "0.99"),
        (Decimals(2), "-0.001", "0.00"),
        (Decimals(2), "1E+3", "1E+3"),
        (Significant(3), "98765.4321", "9.88E+4"),
        (Significant(3), "0.00123456", "0.00123"),
        (Significant(3), "7", "7"),
        (AsTheyAre(), "0.98765", "0.98765"),
    ],
)
def test_fractions_in_text_are_cut_too(digits: Digits, given_text: str, expected: str) -> None:
    """A Decimal that is written as text has no more digits than a number."""
    assert finite_text(Decimal(given_text), digits, "x") == expected


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "sNaN"])
@pytest.mark.parametrize("digits", [Decimals(2), Significant(3), AsTheyAre()])
def test_no_text_says_nan(text: str, digits: Digits) -> None:
    """Not even where numbers leave as they are."""
    with pytest.raises(UnsafeOutputError, match="x holds NaN"):
        finite_text(Decimal(text), digits, "x")


def test_zero_is_zero_and_has_no_sign() -> None:
    """A -0.0 would tell the sign of what is hidden."""
    rounded = Significant(3).numbers(np.array([0.0, -0.0]))
    assert not np.signbit(rounded).any()
