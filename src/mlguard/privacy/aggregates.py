"""Counts, means and histograms of people's data with differential privacy, by OpenDP: ``PrivateAggregates``."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from mlguard._numbers import is_number, whole
from mlguard._opendp import load_opendp
from mlguard.errors import ConfigurationError
from mlguard.privacy._values import Missing, by_category, by_edges, is_finite, is_nan, numbers_of
from mlguard.traffic.epsilon import UNITS, EpsilonLedger

T = TypeVar("T")

#: Steps from the lower to the upper bound of a mean. Sums of steps are whole numbers, which have no rounding errors.
_STEPS = 2**30
_MOST_ROWS = 2**32  # so that no sum of steps is more than 64 bits hold
_WRONG = 0.05  # how often an error may be above the accuracy


@dataclass(frozen=True, slots=True)
class PrivateEstimate:
    """A count or a mean with noise.

    Attributes:
        value: The estimate. A count may be below 0: cutting it off there costs nothing, and makes sums of counts wrong.
        accuracy: In 95 of 100 estimates, the noise has moved the value by no more than this. It says nothing about
            values outside the bounds, nor about how far the people in the data are from those who are not.
        epsilon: What it has cost.
    """

    value: float
    accuracy: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class PrivateHistogram:
    """Counts with noise.

    Attributes:
        counts: By category, or by the two edges of a bin. They may be below 0.
        other: What is in no category or bin, missing values included.
        accuracy: In 95 of 100 histograms, the noise has moved no count by more than this.
        epsilon: What all of it has cost.
    """

    counts: dict[Any, int]
    other: int
    accuracy: float
    epsilon: float


class PrivateAggregates:
    """Answers questions about a data set so that no answer tells much about one person in it.

    Guards against working out a person's record from statistics: whatever somebody knows already, all answers together
    change the odds of anything about one person by at most a factor of e to the epsilon that was spent (Dwork,
    McSherry, Nissim and Smith, 2006). Two data sets are neighbours if one has all rows of one person and the other has
    none of them ("add or remove"). The noise is OpenDP's discrete Laplace noise on whole numbers, which is exact where
    floating point is not (Mironov, 2012).

    It holds as far as ``max_rows_per_person`` does. Give ``people`` with the rows, and it is made to hold: what one
    person has beyond it is left out. Without, it is your word. It does not hold for what leaves beside the answers: the
    time they take, and errors. Nor for bounds, categories and edges that you chose by looking at the data.

    The ledger's account is that of the data set, whoever asks, because what callers are told adds up for the people in
    it. It is charged before the data is looked at, and what fails later stays charged. Use one ledger with a ``name``
    for a data set in all processes and for ever: ``EpsilonLedger("2/ever", name="research")``.

    Not for single predictions: the answer about one row depends on that row wholly, and noise that hides a row leaves
    nothing of it.

    Args:
        ledger: Has an account for the data set, and refuses when it is spent.
        dataset: Names the data. The same data under two names would have two accounts.
        max_rows_per_person: How many rows one person may have. Noise grows with it.

    Raises:
        ConfigurationError: An argument that cannot work, or the extra ``opendp`` is not installed.
    """

    def __init__(self, *, ledger: EpsilonLedger, dataset: str, max_rows_per_person: int = 1) -> None:
        if not isinstance(ledger, EpsilonLedger):
            raise ConfigurationError(
                'PrivateAggregates(ledger=...) is an EpsilonLedger, such as EpsilonLedger("2/ever")'
            )
        if not isinstance(dataset, str) or not dataset:
            raise ConfigurationError("PrivateAggregates(dataset=...) is a text that is not empty")
        where = "PrivateAggregates(max_rows_per_person=...)"
        self._most = whole(where, max_rows_per_person, least=1, most=1_000_000)
        self._ledger = ledger
        self._dataset = dataset
        self._dp = load_opendp(where="PrivateAggregates")

    async def count(
        self,
        rows: Sequence[Any] | NDArray[Any],
        *,
        epsilon: float,
        people: Sequence[Hashable] | NDArray[Any] | None = None,
    ) -> PrivateEstimate:
        """How many rows there are.

        Args:
            rows: The rows, of which only the number is looked at.
            epsilon: What it costs, at least 0.000001. Of 100 counts, 95 are off by at most
                about ``3 * max_rows_per_person / epsilon``.
            people: Whose each row is, in the same order: texts, numbers, or tuples of these. All of whom nothing is
                known (None, NaN) are one person; where that is a part of a tuple, all with the same other parts.

        Raises:
            ConfigurationError: The epsilon is no such number. Nothing was charged.
            PrivacyBudgetExceededError: Too little is left of the data set's epsilon (429, in a request).
            UnavailableError: The ledger's store does not answer (503).
            ValueError: ``people`` are not as many as the rows.
        """
        release = self._checked(epsilon)

        def answer() -> PrivateEstimate:
            (value,), off = release([len(rows) if people is None else len(self._kept(rows, people))], 1)
            return PrivateEstimate(value, off, epsilon)

        return await self._charged(epsilon, answer)

    async def mean(
        self,
        values: Sequence[float | None] | NDArray[Any],
        *,
        low: float,
        high: float,
        epsilon: float,
        missing: Missing = "refuse",
        people: Sequence[Hashable] | NDArray[Any] | None = None,
    ) -> PrivateEstimate:
        """The mean of the values, each moved to the nearest bound if it is outside. How many there are stays private.

        Each value is so many steps from ``low``, and the rest of 2**30 steps from ``high``. Both are summed, and each
        sum gets noise for 2**30 steps: that is what a row adds to both together, wherever it is. The mean is what the
        first is of both. With ``n`` rows the noise moves it by about ``max_rows_per_person * (high - low) / (epsilon *
        n)``.

        Args:
            values: Numbers, shape ``(n,)``. ``True`` is 1. Infinite ones are moved to a bound.
            low: The smallest that counts as it is. Not learnt from the data: that would tell who has it.
            high: The largest.
            epsilon: What it costs, at least 0.000001.
            missing: ``"drop"`` leaves out what is None or NaN. ``"refuse"`` raises, which who asks must not see.
            people: Whose each value is, in the same order.

        Raises:
            ConfigurationError: A setting that cannot work. Nothing was charged.
            PrivacyBudgetExceededError: Too little is left of the data set's epsilon (429, in a request).
            UnavailableError: The ledger's store does not answer (503).
            ValueError: The values are not numbers in one dimension, some are missing, or ``people`` are not as many.
        """
        release = self._checked(epsilon)
        width = _width(low, high)
        if missing not in {"refuse", "drop"}:
            raise ConfigurationError('PrivateAggregates.mean(missing=...) is "refuse" or "drop"')

        def answer() -> PrivateEstimate:
            numbers = numbers_of(values, missing)
            if people is not None:
                numbers = numbers[self._kept(numbers, people)]
            numbers = numbers[~np.isnan(numbers)]
            if len(numbers) > _MOST_ROWS:
                raise ValueError("too many values")
            with np.errstate(under="ignore"):
                steps = ((np.clip(numbers, low, high) - low) / width * _STEPS).round().astype(np.int64)
            from_low = int(np.clip(steps, 0, _STEPS).sum())
            noisy, off = release([from_low, len(numbers) * _STEPS - from_low], _STEPS)
            value, accuracy = _share(noisy[0], noisy[1], off)
            return PrivateEstimate(min(high, low + width * value), width * min(1.0, accuracy + 1 / _STEPS), epsilon)

        return await self._charged(epsilon, answer)

    async def histogram(
        self,
        values: Sequence[Any] | NDArray[Any],
        *,
        epsilon: float,
        categories: Sequence[Hashable] | None = None,
        edges: Sequence[float] | None = None,
        people: Sequence[Hashable] | NDArray[Any] | None = None,
    ) -> PrivateHistogram:
        """How many values there are of each category, or between each two edges. It costs the epsilon once in all.

        Args:
            values: The values, one a row.
            epsilon: What it costs, at least 0.000001.
            categories: Those that are counted, without looking which ones the data has: a category that shows only
                because somebody is in it tells on them.
            edges: Numbers that grow, in the place of categories. A bin has its lower edge and not its upper one; the
                last bin has both.
            people: Whose each value is, in the same order.

        Raises:
            ConfigurationError: A setting that cannot work. Nothing was charged.
            PrivacyBudgetExceededError: Too little is left of the data set's epsilon (429, in a request).
            UnavailableError: The ledger's store does not answer (503).
            ValueError: With ``edges``: the values are not numbers in one dimension. ``people`` are not as many.
        """
        release = self._checked(epsilon)
        if (categories is None) == (edges is None):
            raise ConfigurationError("PrivateAggregates.histogram takes categories=... or edges=...")
        labels, place = by_category(categories) if edges is None else by_edges(edges)

        def answer() -> PrivateHistogram:
            places = place(values)
            if people is not None:
                places = places[self._kept(places, people)]
            noisy, off = release(np.bincount(places, minlength=len(labels) + 1).tolist(), 1)
            return PrivateHistogram(dict(zip(labels, noisy, strict=False)), noisy[-1], off, epsilon)

        return await self._charged(epsilon, answer)

    def _checked(self, epsilon: float) -> Callable[[list[int], int], tuple[list[int], float]]:
        if not is_number(epsilon) or not 1 / UNITS <= epsilon < math.inf:
            raise ConfigurationError("PrivateAggregates: epsilon=... is a number of at least 0.000001")
        return lambda totals, by_row: self._release(totals, by_row, float(epsilon))

    async def _charged(self, epsilon: float, answer: Callable[[], T]) -> T:
        await self._ledger.spend(self._dataset, epsilon)
        return await run_in_threadpool(answer)

    def _release(self, totals: list[int], by_row: int, epsilon: float) -> tuple[list[int], float]:
        """Totals with noise, and how far off the one that is off most is in 95 of 100 cases.

        Args:
            totals: Sums over rows of whole numbers.
            by_row: The most by which one row changes all of them together (L1).
            epsilon: What it costs.
        """
        distance = self._most * by_row
        scale = distance / epsilon
        measurement = self._measurement(scale)
        while measurement.map(distance) > epsilon:  # by the rounding of this division
            scale = math.nextafter(scale, math.inf)
            measurement = self._measurement(scale)
        off = self._dp.discrete_laplacian_scale_to_accuracy(scale=scale, alpha=_WRONG / len(totals))
        return measurement(totals), max(0.0, off)

    def _measurement(self, scale: float) -> Any:
        dp = self._dp
        return dp.m.make_laplace(dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64"), scale=scale)

    def _kept(self, rows: Any, people: Sequence[Hashable] | NDArray[Any]) -> list[int]:
        """Which rows count: of each person, no more than one may have."""
        if len(people) != len(rows):
            raise ValueError("people=... says of each row whose it is, and has another length")
        seen: dict[Hashable, int] = {}
        kept = []
        for index, person in enumerate(people.tolist() if isinstance(people, np.ndarray) else people):
            who = _known(person)
            seen[who] = seen.get(who, 0) + 1
            if seen[who] <= self._most:
                kept.append(index)
        return kept

    def __repr__(self) -> str:
        return f"PrivateAggregates({self._ledger!r}, {self._dataset!r})"


def _known(person: Hashable) -> Hashable:
    """Who it is. Those of whom nothing is known are one, and not each another: NaN is another one each time."""
    if isinstance(person, tuple):
        return tuple(map(_known, person))
    return None if is_nan(person) else person


def _share(first: int, second: int, off: float) -> tuple[float, float]:
    """What the first is of both, and how far off that is if each of them is off by no more than so much."""
    first, second = max(0, first), max(0, second)
    if first + second == 0:
        return 0.5, 0.5
    least, most = max(0.0, first - off), max(0.0, second - off)
    value = first / (first + second)
    lowest = least / (least + second + off) if least else 0.0
    highest = (first + off) / (first + off + most)
    return value, max(value - lowest, highest - value)


def _width(low: object, high: object) -> float:
    width = float(high) - float(low) if is_finite(low) and is_finite(high) else math.nan
    if not 0 < width < math.inf:
        raise ConfigurationError("PrivateAggregates.mean(low=..., high=...) are two numbers, the lower one first")
    return width
