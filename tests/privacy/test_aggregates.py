"""Aggregates: real noise of the right size, one account for the data set, and nobody counts for more than their rows.

Each test of chance has a false alarm in fewer than one of 10**9 runs: it tolerates 6.5 standard deviations or more.
"""

import asyncio
import math
import random
import subprocess
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import numpy as np
import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st

from tests.asgi import call
from tests.redis_server import redis_server

pytest.importorskip("opendp")

from mlguard import (
    ConfigurationError,
    EpsilonLedger,
    MemoryStore,
    PrivacyBudgetExceededError,
    PrivateAggregates,
    PrivateHistogram,
    RedisStore,
    UnavailableError,
    harden,
)

T = TypeVar("T")
DATASET = "patients-2026"
LARGE = 9_000.0  # an epsilon at which there is no noise left, to see what is counted


def aggregates(limit: str = "999999999/ever", **options: Any) -> PrivateAggregates:
    ledger = EpsilonLedger(limit, name="research", store=MemoryStore())
    return PrivateAggregates(ledger=ledger, dataset=DATASET, **options)


def run(question: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(question)


def spent(data: PrivateAggregates) -> float:
    return run(data._ledger.status_of(DATASET)).spent


def many(data: PrivateAggregates, times: int, rows: Any, **options: Any) -> list[float]:
    async def ask() -> list[float]:
        return [(await data.count(rows, **options)).value for _ in range(times)]

    return run(ask())


# Noise ----------------------------------------------------------------------------------------------------------------


def test_noise_is_what_the_epsilon_asks_for() -> None:
    """Discrete Laplace noise of scale 1 / epsilon: this often it is 0, and its mean is, in each count anew."""
    counts = run(aggregates().histogram([], categories=range(10_000), epsilon=1.0)).counts
    noise = np.array([*counts.values()])
    nothing = math.tanh(0.5)  # (1 - q) / (1 + q) with q = e^-epsilon
    assert np.mean(noise == 0) == pytest.approx(nothing, abs=6.5 * math.sqrt(nothing * (1 - nothing) / 10_000))
    deviation = math.sqrt(2 * math.exp(-1)) / (1 - math.exp(-1))
    assert np.mean(noise) == pytest.approx(0.0, abs=6.5 * deviation / 100)
    assert np.mean(noise[1:] == noise[:-1]) < 0.5


@pytest.mark.parametrize("rows", [1, 3])
def test_one_person_more_changes_the_odds_by_no_more_than_e_to_the_epsilon(rows: int) -> None:
    """Whoever guesses from a count whether somebody is in the data is right as often as epsilon 1 allows."""
    data = aggregates(max_rows_per_person=rows)
    without = np.array(many(data, 1_000, [0] * 10, epsilon=1.0))
    within = np.array(many(data, 1_000, [0] * (10 + rows), epsilon=1.0))
    right, wrong = np.mean(within > 10), np.mean(without > 10)
    assert right - wrong <= (math.e - 1) / (math.e + 1) + 13 * math.sqrt(0.25 / 1_000)
    assert right - wrong > 0.05  # and the count is of use


def test_accuracy_is_kept_in_95_of_100() -> None:
    """Of counts, means and histograms: of 400, 20 may be off by more, and not 65."""
    data = aggregates()
    values = np.linspace(2.0, 4.0, 200)

    async def ask() -> tuple[int, int, int]:
        off = [0, 0, 0]
        for _ in range(400):
            count = await data.count(values, epsilon=0.5)
            mean = await data.mean(values, low=0, high=10, epsilon=0.5)
            histogram = await data.histogram(values, edges=[2, 3, 4], epsilon=0.5)
            errors = [abs(found - 100) for found in histogram.counts.values()] + [abs(histogram.other)]
            off[0] += abs(count.value - 200) > count.accuracy
            off[1] += abs(mean.value - 3.0) > mean.accuracy
            off[2] += max(errors) > histogram.accuracy
        return off[0], off[1], off[2]

    assert max(run(ask())) < 65


def test_means_come_near() -> None:
    """The noise of a mean over many is small, and it says how small."""
    mean = run(aggregates().mean(np.full(100_000, 7.0), low=0, high=10, epsilon=1.0))
    assert mean.accuracy < 0.001
    assert mean.value == pytest.approx(7.0, abs=10 * mean.accuracy)
    assert mean.epsilon == 1.0


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 0.3, 0.7, 1 / 3, 1, 1e3, 1e9])
@pytest.mark.parametrize(("rows", "by_row"), [(1, 1), (3, 2**30), (1_000_000, 2**30)])
def test_the_measurement_costs_what_was_charged(epsilon: float, rows: int, by_row: int) -> None:
    """By OpenDP's own account of it, and whatever the noise, it is a whole number."""
    data = aggregates(max_rows_per_person=rows)
    used = []
    make = data._measurement
    data._measurement = lambda scale: used.append(make(scale)) or used[-1]  # type: ignore[method-assign,func-returns-value]
    totals, off = data._release([5, 2**62], by_row, epsilon)
    assert used[-1].map(rows * by_row) <= epsilon
    assert used[-1].map(rows * by_row) == pytest.approx(epsilon)
    assert all(type(total) is int for total in totals)
    assert 0 <= off < math.inf


def test_nothing_is_drawn_from_a_seed() -> None:
    """The same data and the same random numbers of Python and numpy give another answer."""
    answers = []
    for _ in range(2):
        random.seed(1)
        np.random.seed(1)
        answers.append(run(aggregates().histogram([1, 2], categories=[1, 2, 3], epsilon=1e-6)).counts)
    assert answers[0] != answers[1]


# What is counted ------------------------------------------------------------------------------------------------------


def test_values_outside_the_bounds_are_moved_to_them() -> None:
    """So that nobody moves the mean by more than from one bound to the other, infinite or not."""
    data = aggregates()
    for far in (math.inf, 1e308, 10**300, 11):
        assert run(data.mean([0.0, far], low=0, high=10, epsilon=LARGE)).value == pytest.approx(5.0, abs=1e-2)
        assert run(data.mean([10.0, -far], low=0, high=10, epsilon=LARGE)).value == pytest.approx(5.0, abs=1e-2)


@given(
    st.lists(st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.none(), st.booleans()), max_size=20),
    st.floats(-1e300, 1e300),
    st.floats(5e-324, 1e300),
)
def test_the_mean_is_within_its_bounds(values: list[Any], low: float, width: float) -> None:
    """Whatever the values are, nothing overflows, and what is missing is left out."""
    high = low + width
    if low < high:
        mean = run(aggregates().mean(values, low=low, high=high, missing="drop", epsilon=1.0))
        assert low <= mean.value <= high
        assert 0 <= mean.accuracy <= high - low


def test_the_mean_of_nobody_is_no_error() -> None:
    """An error would tell that nobody is there. The accuracy says, of most, that the value is worth nothing."""
    means = [run(aggregates().mean([], low=0, high=10, epsilon=1.0)) for _ in range(9)]
    assert all(0 <= mean.value <= 10 for mean in means)
    assert sorted(mean.accuracy for mean in means)[4] >= 5  # the noise on the count may look like many people


def test_where_noise_has_eaten_both_sums_the_mean_is_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by half of the range at most."""
    data = aggregates()
    monkeypatch.setattr(data, "_release", lambda totals, by_row, epsilon: ([-7, -9], 3.0))
    mean = run(data.mean([1], low=0, high=10, epsilon=1.0))
    assert (mean.value, round(mean.accuracy, 6)) == (5.0, 5.0)


def test_a_person_with_a_million_rows_counts_for_one() -> None:
    """Where people are given, what somebody has beyond their rows is left out. Of no name: they are one person."""
    data = aggregates()
    others = ["alice", "bob", "bob"]
    many_rows = ["mallory"] * 1_000_000 + others
    assert run(data.count(many_rows, people=many_rows, epsilon=LARGE)).value == 3
    people = ["mallory"] * 1_000 + others
    ones = np.r_[np.ones(1_000), [0.0, 0.0, 0.0]]
    assert run(data.mean(ones, people=people, low=0, high=1, epsilon=LARGE)).value == pytest.approx(1 / 3, abs=1e-2)
    histogram = run(data.histogram(ones, people=people, categories=[0.0, 1.0], epsilon=LARGE))
    assert histogram.counts == {0.0: 2, 1.0: 1}
    unnamed = np.array([math.nan] * 5)
    assert run(data.count(range(5), people=unnamed, epsilon=LARGE)).value == 1
    assert run(aggregates(max_rows_per_person=2).count([1] * 4, people="aaab", epsilon=LARGE)).value == 3


def test_people_of_whom_a_part_is_not_known_are_one() -> None:
    """A person's name may have parts, such as a hospital and a number there, and of some rows one is missing."""
    data = aggregates()
    tuples = [("A", math.nan * sign) for sign in [1.0] * 500] + [("A", ("B", float("nan"))) for _ in range(500)]
    records = np.array([(1, math.nan)] * 1_000, dtype=[("hospital", int), ("number", float)])
    assert run(data.count(range(1_000), people=tuples, epsilon=5_000.0)).value == 2
    assert run(data.count(range(1_000), people=records, epsilon=5_000.0)).value == 1


def test_histograms_have_the_categories_that_were_asked_for() -> None:
    """A category of nobody is there, one that was not named is not: it is among the others."""
    histogram = run(
        aggregates().histogram(["a", "c", "zoe", None, ["a"], math.nan], categories=["a", "b", "c"], epsilon=LARGE)
    )
    assert histogram == PrivateHistogram({"a": 1, "b": 0, "c": 1}, 4, histogram.accuracy, LARGE)
    assert run(aggregates().histogram(np.array(["a", "b"]), categories=["a"], epsilon=LARGE)).counts == {"a": 1}


def test_histograms_by_edges() -> None:
    """A bin has its lower edge, the last one both; what is outside or missing is among the others."""
    values = [0, 0.999, 1, 2, 2.0001, -1, math.inf, -math.inf, math.nan, None]
    histogram = run(aggregates().histogram(values, edges=[0, 1, 2], epsilon=LARGE))
    assert (histogram.counts, histogram.other) == ({(0, 1): 2, (1, 2): 2}, 6)


def test_missing_values_are_refused_or_dropped_as_was_said() -> None:
    """None, NaN, and what is masked. Nothing is put in their place."""
    data = aggregates()
    masked = np.ma.masked_invalid([8.0, 2.0, math.nan])
    unknown: list[Any] = [[8.0, 2.0, None], [8, 2, math.nan], masked]
    for values in unknown:
        with pytest.raises(ValueError, match="missing"):
            run(data.mean(values, low=0, high=10, epsilon=1.0))
        mean = run(data.mean(values, low=0, high=10, epsilon=LARGE, missing="drop"))
        assert mean.value == pytest.approx(5.0, abs=1e-2)


@pytest.mark.parametrize(
    "values", [["4"], ["jane"], [[1.0]], 3.0, [1j], [10**400], np.array(["2026"], "M8[Y]"), [1, [2]], [object()]]
)
def test_values_that_are_no_numbers_are_refused_without_repeating_them(values: Any) -> None:
    """Texts that look like numbers too. It was charged, because what fails may depend on the data."""
    data = aggregates("1/ever")
    for question in (
        data.mean(values, low=0, high=1, epsilon=0.25),
        data.histogram(values, edges=[0, 1], epsilon=0.25),
    ):
        with pytest.raises(ValueError, match="not numbers in one dimension") as refused:
            run(question)
        assert refused.value.__cause__ is refused.value.__context__ is None
    assert spent(data) == 0.5


def test_people_are_as_many_as_rows() -> None:
    """Else it is not known whose a row is."""
    with pytest.raises(ValueError, match="people="):
        run(aggregates().count([1, 2], people=["a"], epsilon=1.0))


# The ledger -----------------------------------------------------------------------------------------------------------


def test_all_who_ask_share_what_the_data_set_may_tell() -> None:
    """Every kind of question is charged, and when it is spent, none is answered, in or outside of a request."""
    data = aggregates("1.5/ever")
    app = FastAPI()
    harden(app)

    @app.get("/")
    async def ask(count: Annotated[Any, Depends(lambda: data.count([1], epsilon=0.5))]) -> None:
        await count

    run(data.count([1], epsilon=0.5))
    run(data.mean([1], low=0, high=1, epsilon=0.25))
    run(data.histogram([1], categories=[1], epsilon=0.25))
    assert [call(app, "/", method="GET").status for _ in range(2)] == [200, 429]
    assert call(app, "/", method="GET").json["type"] == "urn:mlguard:problem:privacy-budget-exceeded"
    with pytest.raises(PrivacyBudgetExceededError):
        run(data.count([1], epsilon=0.000001))
    other = PrivateAggregates(ledger=data._ledger, dataset="another")
    run(other.count([1], epsilon=1.5))


def test_nobody_gets_more_by_asking_at_once() -> None:
    """Eighty questions for seven answers' worth: seven are answered."""
    data = aggregates("0.7/ever")

    async def ask() -> list[Any]:
        return await asyncio.gather(*[data.count([1], epsilon=0.1) for _ in range(80)], return_exceptions=True)

    answers = run(ask())
    assert sum(isinstance(answer, PrivacyBudgetExceededError) for answer in answers) == 73


def test_processes_share_the_account_in_the_store_and_it_outlasts_them() -> None:
    """In Redis: another process goes on where this one was, and without the store nobody is answered."""
    program = (
        "import asyncio, sys\n"
        "from mlguard import *\n"
        "ledger = EpsilonLedger('1/ever', name='research', store=RedisStore(sys.argv[1], timeout=30))\n"
        f"data = PrivateAggregates(ledger=ledger, dataset={DATASET!r})\n"
        "asyncio.run(data.count([1], epsilon=0.75))\n"
    )
    with redis_server() as server:
        subprocess.run([sys.executable, "-c", program, server.url], check=True)
        ledger = EpsilonLedger("1/ever", name="research", store=RedisStore(server.url, timeout=5))
        data = PrivateAggregates(ledger=ledger, dataset=DATASET)

        async def ask() -> None:
            with pytest.raises(PrivacyBudgetExceededError):
                await data.count([1], epsilon=0.5)
            await data.count([1], epsilon=0.25)
            server.kill()
            with pytest.raises(UnavailableError):
                await data.count([1], epsilon=0.25)

        run(ask())


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, -math.inf, 10**400, 1e300, 9e-7, True, "1", None])
def test_an_epsilon_that_is_none_is_refused_before_it_is_charged(epsilon: Any) -> None:
    """Of every question."""
    data = aggregates()
    questions = [
        data.count([1], epsilon=epsilon),
        data.mean([1], low=0, high=1, epsilon=epsilon),
        data.histogram([1], categories=[1], epsilon=epsilon),
    ]
    for question in questions:
        with pytest.raises(ConfigurationError, match="epsilon"):
            run(question)
    assert spent(data) == 0


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"),
    [(1, 0), (1, 1), (math.nan, 1), (0, math.inf), (-1e308, 1e308), (None, 1), ("0", 1), (False, 1), (0, 10**400)],
)
def test_bounds_that_bound_nothing_are_refused(low: Any, high: Any) -> None:
    """Before anything is charged."""
    data = aggregates()
    with pytest.raises(ConfigurationError, match=r"low=\.\.\., high=\.\.\."):
        run(data.mean([1], low=low, high=high, epsilon=1.0))
    assert spent(data) == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"categories": ["a"], "edges": [0, 1]},
        {"categories": []},
        {"categories": "abc"},
        {"categories": ["a", "a"]},
        {"categories": [1, True]},
        {"categories": [math.nan]},
        {"categories": [["a"]]},
        {"categories": range(10_001)},
        {"categories": 3},
        {"edges": []},
        {"edges": [1]},
        {"edges": [1, 1]},
        {"edges": [2, 1]},
        {"edges": [0, math.inf]},
        {"edges": [0, math.nan]},
        {"edges": [0, 10**400]},
        {"edges": ["0", "1"]},
        {"edges": 3},
    ],
    ids=lambda options: str(options)[:40],
)
def test_bins_that_cannot_be_counted_are_refused(options: dict[str, Any]) -> None:
    """Before anything is charged."""
    data = aggregates()
    with pytest.raises(ConfigurationError, match=r"PrivateAggregates\.histogram"):
        run(data.histogram([1], epsilon=1.0, **options))
    assert spent(data) == 0


def test_other_settings_that_cannot_work() -> None:
    """They say which they are."""
    data = aggregates()
    for options in (
        {"ledger": "1/ever"},
        {"dataset": ""},
        {"dataset": None},
        {"max_rows_per_person": 0},
        {"max_rows_per_person": 1_000_001},
    ):
        with pytest.raises(ConfigurationError, match=rf"PrivateAggregates\({next(iter(options))}="):
            PrivateAggregates(**{"ledger": data._ledger, "dataset": "a", **options})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="missing="):
        run(data.mean([1], low=0, high=1, epsilon=1.0, missing="zero"))  # type: ignore[arg-type]
    assert repr(data) == f"PrivateAggregates(EpsilonLedger('research'), {DATASET!r})"


def test_more_values_than_can_be_summed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than that a sum wraps around."""
    monkeypatch.setattr("mlguard.privacy.aggregates._MOST_ROWS", 2)
    with pytest.raises(ValueError, match="too many"):
        run(aggregates().mean([1, 2, 3], low=0, high=1, epsilon=1.0))


def test_the_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenDP is not installed."""
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[opendp\]'"):
        aggregates()
