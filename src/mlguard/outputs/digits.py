"""How many digits of a number may leave: a fixed number of decimals, of significant digits, or all of them."""

import dataclasses
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Protocol

import numpy as np

from mlguard.errors import UnsafeOutputError
from mlguard.outputs.rounding import FloatArray, round_float, round_floats, round_row, round_scores

#: The powers of ten that a double holds exactly, so that scaling by them rounds once.
_POWERS = np.array([float(10**power) for power in range(23)])


class Digits(Protocol):
    """What is left of finite numbers. Everything is deterministic, and an array is rounded as its numbers are."""

    def number(self, value: float) -> float:
        """One number."""

    def numbers(self, values: FloatArray) -> FloatArray:
        """Each number of an array by itself."""

    def scores(self, scores: FloatArray) -> FloatArray:
        """The class vector in each row of shape (rows, classes)."""

    def row(self, scores: object) -> list[float] | None:
        """One class vector in a short list of floats, if there is a faster way for that; None if not."""

    def text(self, value: Decimal) -> str:
        """A finite fraction that is written as text."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decimals:
    """So many decimals. The scores of one row still add up to what they did, and the best class stays the best."""

    places: int

    def number(self, value: float) -> float:
        """One number."""
        return round_float(value, self.places)

    def numbers(self, values: FloatArray) -> FloatArray:
        """Each number of an array by itself."""
        return round_floats(values, self.places)

    def scores(self, scores: FloatArray) -> FloatArray:
        """The class vector in each row, by the largest remainder method."""
        return round_scores(scores, self.places)

    def row(self, scores: object) -> list[float] | None:
        """One class vector, by hand."""
        return round_row(scores, self.places)

    def text(self, value: Decimal) -> str:
        """A fraction, without a negative zero."""
        _, digits, exponent = value.as_tuple()
        if not isinstance(exponent, int) or exponent >= -self.places:
            return str(value)
        rounded = value.quantize(Decimal(1).scaleb(-self.places), context=Context(prec=len(digits) + 1))
        return str(rounded or abs(rounded))


@dataclasses.dataclass(frozen=True, slots=True)
class Significant:
    """So many significant digits of each number by itself, half to even. Class vectors need not add up any more."""

    digits: int

    def number(self, value: float) -> float:
        """One number."""
        return float(self.numbers(np.array([value]))[0])

    def numbers(self, values: FloatArray) -> FloatArray:
        """Each number of an array by itself."""
        sizes = np.abs(values)
        with np.errstate(divide="ignore"):
            exponents = np.floor(np.log10(sizes))
        # How far the last digit that stays is behind the decimal point; a zero has none.
        places = np.where(sizes > 0.0, self.digits - 1 - exponents, 0.0)
        far = np.abs(places) >= len(_POWERS)
        powers = _POWERS[np.where(far, 0, np.abs(places)).astype(np.intp)]
        with np.errstate(over="ignore"):
            rounded: FloatArray = np.where(
                places >= 0, np.rint(values * powers) / powers, np.rint(values / powers) * powers
            )
        rounded += 0.0
        far |= ~np.isfinite(rounded)
        if far.any():  # tiny and huge numbers, of which text is the only exact way to round
            rounded[far] = [_in_text(value, self.digits) for value in values[far].tolist()]
        return rounded

    def scores(self, scores: FloatArray) -> FloatArray:
        """Each score by itself."""
        return self.numbers(scores)

    def row(self, scores: object) -> list[float] | None:  # noqa: ARG002  # as the protocol has it
        """No faster way."""
        return None

    def text(self, value: Decimal) -> str:
        """A fraction."""
        return str(Context(prec=self.digits, rounding=ROUND_HALF_EVEN).plus(value))


def _in_text(value: float, digits: int) -> float:
    rounded = float(f"{value:.{digits - 1}e}")
    return rounded if np.isfinite(rounded) else value  # the largest doubles have nothing above them to round to


@dataclasses.dataclass(frozen=True, slots=True)
class AsTheyAre:
    """All digits."""

    def number(self, value: float) -> float:
        """One number."""
        return value

    def numbers(self, values: FloatArray) -> FloatArray:
        """The array itself."""
        return values

    def scores(self, scores: FloatArray) -> FloatArray:
        """The array itself."""
        return scores

    def row(self, scores: object) -> list[float] | None:  # noqa: ARG002  # as the protocol has it
        """No faster way."""
        return None

    def text(self, value: Decimal) -> str:
        """A fraction."""
        return str(value)


def finite_text(value: Decimal, digits: Digits, where: str) -> str:
    """What is left of a fraction in text.

    Raises:
        UnsafeOutputError: It is NaN or an infinity (500).
    """
    if not value.is_finite():
        raise UnsafeOutputError(f"{where} holds NaN or an infinity")
    return digits.text(value)
