"""Rows by name in our own JSON: in any order, each name once, and none of them repeated."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.inputs.json_bodies import JSONBodies
from mlguard.inputs.json_rows import JSONRows
from mlguard.inputs.row_rules import RowRules
from tests.inputs.reading import Reading, agreed, damaged, outcome, refused

NAMES = ["age", "secret_income", "b"]


def reader(columns: Any = NAMES, *, max_rows: int = 4) -> Reading:
    rules = RowRules(columns=columns, low=-1e300, high=1e300, max_rows=max_rows, dtype="float64")
    return Reading(JSONBodies({"json": JSONRows(rules, "features")}), rules)


def sent(features: Any) -> bytes:
    return json.dumps({"features": features}).encode()


RECORD = {"b": 3, "age": 1, "secret_income": 2.5}
MIXED = [RECORD, {"age": 4, "b": 6, "secret_income": 5}]
ROWS = np.array([[1.0, 2.5, 3.0], [4.0, 5.0, 6.0]])


def test_records_are_rows() -> None:
    """Each row may be an object with the columns' names, and so may a single row."""
    assert agreed(reader(), sent(RECORD)) == agreed(reader(), sent([RECORD])) == outcome(ROWS[:1].copy)
    assert agreed(reader(), sent(MIXED)) == outcome(ROWS.copy)
    assert reader().fast(sent([RECORD, RECORD])) == [[1, 2.5, 3]] * 2


def test_lists_are_still_rows() -> None:
    """Whoever knows the order needs no names."""
    for rows in (ROWS.tolist(), ROWS[0].tolist()):
        assert isinstance(reader().fast(sent(rows)), np.ndarray)
        assert agreed(reader(), sent(rows)) == agreed(reader(3), sent(rows))


def test_integers_stay_exact() -> None:
    """No whole number passes through a float on its way to the rules."""
    for batch in ([{**RECORD, "b": 2**53 + 1}] * 2, [{**RECORD, "b": 2**53 + 1}, MIXED[1]]):
        assert reader().reader.sent(sent(batch)).rows[0] == [1, 2.5, 2**53 + 1]


REFUSED: list[tuple[Any, tuple[Any, ...]]] = [
    ({}, ("names", 0, None)),
    ([{}], ("names", 0, None)),
    ([RECORD, {}], ("names", 1, None)),
    ([RECORD, {**RECORD, "c": 1}], ("names", 1, None)),
    ([RECORD, {"b": 3, "age": 1}], ("names", 1, None)),
    ([RECORD, {"b": 3, "Age": 1, "secret_income": 2}], ("names", 1, None)),
    ([RECORD, {"b": 3, "age ": 1, "secret_income": 2}], ("names", 1, None)),
    ([RECORD, {"0": 3, "1": 1, "2": 2}], ("names", 1, None)),
    ([RECORD, [1, 2, 3]], ("record", 1, None)),
    ([RECORD, 1], ("record", 1, None)),
    ([RECORD, None], ("record", 1, None)),
    ([[1, 2, 3], RECORD], ("array", 1, None)),
    ([1, RECORD, 3], ("nested", 0, 1)),
    ([RECORD] * 5, ("rows", None, None)),
    ([{}] * 5, ("rows", None, None)),
    ([RECORD, {**RECORD, "secret_income": None}], ("number", 1, 2)),
    ([RECORD, {**RECORD, "secret_income": True}], ("number", 1, 2)),
    ([RECORD, {**RECORD, "secret_income": [1]}], ("nested", 1, 2)),
    ([RECORD, {**RECORD, "secret_income": {}}], ("nested", 1, 2)),
    ([RECORD, {**RECORD, "secret_income": float("nan")}], ("finite", 1, 2)),
    ([RECORD, {**RECORD, "secret_income": 1e301}], ("range", 1, 2)),
    ([RECORD, {"age": 1, "secret_income": 1e301, "b": 3}], ("range", 1, 1)),
    ({**RECORD, "age": 1e301}, ("range", 0, 1)),
]


@pytest.mark.parametrize(("features", "rule"), REFUSED, ids=range(len(REFUSED)))
def test_broken_rules_are_named_with_their_place(features: Any, rule: tuple[Any, ...]) -> None:
    """Missing, unknown and misspelt names are refused, and places count in what was sent."""
    assert refused(reader(), sent(features)) == rule


def test_a_name_that_comes_twice_is_refused() -> None:
    """No parser may choose which of two values counts."""
    once = b'{"features": [{"age": 1, "b": 2, "secret_income": 3}, {"age": 1, "b": 2, "secret_income": 3}]}'
    for twice in (b'"age": 1, "age": 1', b'"\\u0061ge": 1, "age": 1', b'"b": 1, "age": 1'):
        assert refused(reader(), once.replace(b'"age": 1', twice, 1)) == ("duplicate", None, None)
        assert refused(reader(), once.replace(b'"age": 1', twice)) == ("duplicate", None, None)


def test_nobody_can_name_columns_that_have_no_names() -> None:
    """Where the service's columns are only counted, an object is no row."""
    assert refused(reader(3), sent(RECORD)) == ("array", None, None)
    assert refused(reader(3), sent([RECORD] * 3)) == ("nested", 0, 0)


numbers = st.one_of(st.floats(), st.integers(), st.sampled_from([0, -0.0, 2**64, 10**30]))
cells: st.SearchStrategy[Any] = st.one_of(numbers, numbers, st.sampled_from([None, True, "1", "[", [], {}]))


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    values = draw(st.sampled_from([numbers, cells]))
    order = draw(st.permutations(NAMES))
    other: st.SearchStrategy[Any] = st.sampled_from(
        [order, [*reversed(order)], order[:2], [*order, "x"], ["[", *order[1:]]]
    )
    orders = draw(st.lists(st.one_of(st.just(order), st.just(order), other), max_size=5))
    records: list[Any] = [{name: draw(values) for name in names} for names in orders]
    if records and draw(st.integers(0, 5)) == 0:
        records[draw(st.integers(0, len(records) - 1))] = draw(cells)
    return sent(records[0] if records and draw(st.integers(0, 4)) == 0 else records)


PIECES = [b"[", b"]", b",", b"{", b"}", b'"', b"\\", b"-", b'"b"', b'"age": 1,', b'"\\u0062"']


@given(damaged(documents(), PIECES), st.sampled_from([NAMES, NAMES, 3, ["b"]]))
def test_paths_agree_on_any_document(body: bytes, columns: Any) -> None:
    """Right or wrong, a document has one outcome: the same array to the last bit, or the same broken rule."""
    agreed(reader(columns), body)
