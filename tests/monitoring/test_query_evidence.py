"""Measures of queries as normal numbers, and what they speak for."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.monitoring._query_evidence import (
    Ranks,
    apart_step,
    chance_among,
    margins_of,
    near_step,
    shift_step,
    still_step,
)

random = np.random.default_rng(2)


@pytest.mark.parametrize("values", [random.exponential(size=4_000), random.integers(0, 4, 4_000) / 4])
def test_ranks_of_usual_values_are_normal(values: np.ndarray) -> None:
    """Whatever they are distributed like, also where many are equal."""
    ranks = Ranks(np.quantile(values, np.arange(1, 200) / 200))
    normals = np.array([ranks.normal(value) for value in values.tolist()])
    assert abs(normals.mean()) < 0.1
    assert abs(normals.std() - 1) < 0.1
    assert abs(np.mean(normals > 1) - 0.159) < 0.03


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10).map(sorted),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False),
)
def test_ranks_are_finite_and_ascend(quantiles: list[float], one: float, other: float) -> None:
    """Of any values and quantiles."""
    ranks = Ranks(quantiles)
    low, high = min(one, other), max(one, other)
    assert -4 < ranks.normal(low) < 4
    if low not in quantiles and high not in quantiles:
        assert ranks.normal(low) <= ranks.normal(high) + 1e-9


def test_usual_queries_give_sums_that_fall_and_others_sums_that_rise() -> None:
    """Which is what a cumulative sum needs."""
    z = random.normal(size=10_000)
    assert np.mean(shift_step(z)) < -0.4
    assert np.mean(shift_step(z + 2)) > 1
    assert np.mean(still_step(z[1:], z[:-1])) < -1
    assert np.mean(still_step(z[1:] / 5, z[:-1] / 5)) > 0.5
    assert apart_step(0.01) < 0 < near_step(0.01)
    assert 0.01 * near_step(0.01) + 0.99 * apart_step(0.01) < -0.5


def test_a_near_duplicate_among_many_says_less() -> None:
    """And it never says nothing, nor too much."""
    assert chance_among(1e-6, 300) == 0.01
    assert chance_among(1e-4, 300) == pytest.approx(1 - (1 - 1e-4) ** 300)
    assert chance_among(0.9, 1_000_000) == 0.45
    assert near_step(0.45) > 0


def test_margins_are_how_sure_a_model_is() -> None:
    """The best score less the second; for one number as answer, how close it is to the usual one."""
    scores = np.array([[0.2, 0.7, 0.1], [0.5, 0.5, 0.0]])
    assert margins_of(scores, None) == pytest.approx([0.5, 0.0])
    many = np.random.default_rng(1).dirichlet(np.ones(7), 50)
    assert margins_of(many, None) == pytest.approx([margins_of(row[np.newaxis], None)[0] for row in many])
    for answers in (np.array([10.0, 13.0]), np.array([[10.0], [13.0]])):
        assert margins_of(answers, 11.0) == [-1.0, -2.0]
    assert math.isclose(margins_of(np.array([3.0]), None)[0], -3.0)
