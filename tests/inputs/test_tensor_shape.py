"""Rows of a fixed shape in our own JSON, nested as the shape has it."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlguard.errors import ConfigurationError
from mlguard.inputs.features import Features
from mlguard.inputs.json_bodies import JSONBodies
from mlguard.inputs.json_rows import JSONRows
from mlguard.inputs.row_rules import RowRules
from tests.inputs.reading import Reading, agreed, damaged, outcome, refused, rows_of

SHAPES = [(1,), (3,), (2, 3), (1, 1), (3, 1), (2, 1, 2), (2, 2, 1, 2)]


def reader(shape: Any = (2, 3), *, max_rows: int = 4) -> Reading:
    rules = RowRules(columns=None, shape=shape, low=-1e300, high=1e300, max_rows=max_rows, dtype="float64")
    return Reading(JSONBodies({"json": JSONRows(rules, "features")}), rules)


def sent(features: Any) -> bytes:
    return json.dumps({"features": features}).encode()


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_arrive_in_their_shape(shape: tuple[int, ...]) -> None:
    """A batch has one dimension more, and a single tensor may come without it."""
    batch = np.arange(3.0 * np.prod(shape)).reshape(3, *shape)
    read = reader(shape)
    assert read.fast(sent(batch.tolist())) is not None
    assert agreed(read, sent(batch.tolist())) == outcome(batch.copy)
    assert read.fast(sent(batch[0].tolist())) is not None
    assert agreed(read, sent(batch[0].tolist())) == outcome(batch[:1].copy)


def test_the_guard_knows_its_shape() -> None:
    """The number of values in a row, and their arrangement, whichever of both was given."""
    image = Features(shape=[28, np.int64(28)], low=0, high=1, max_rows=2)  # type: ignore[list-item]
    assert (image.shape, image.columns, image.names) == ((28, 28), 784, None)
    assert Features(columns=3, low=0, high=1, max_rows=2).shape == (3,)
    batch = np.random.default_rng(1).random((2, 28, 28))
    np.testing.assert_array_equal(rows_of(image, sent(batch.tolist())), batch)


def test_bounds_may_have_the_shape() -> None:
    """Each value of a row may have bounds of its own."""
    high = np.array([[1.0, 2.0], [3.0, 4.0]])
    guard = Features(shape=(2, 2), low=0, high=high, max_rows=2)
    assert rows_of(guard, sent(high.tolist())).tolist() == [high.tolist()]
    rules = RowRules(columns=None, shape=(2, 2), low=0, high=high, max_rows=2, dtype="float64")
    read = Reading(JSONBodies({"json": JSONRows(rules, "features")}), rules)
    assert refused(read, sent([[1, 2], [3.5, 4]])) == ("range", 0, 2)


REFUSED: list[tuple[Any, tuple[Any, ...]]] = [
    (1, ("array", None, None)),
    ([], ("empty", None, None)),
    ([[]], ("empty", 0, None)),
    ([[[]]], ("columns", 0, None)),
    ([[[], []]], ("empty", 0, None)),
    ([1, 2, 3], ("array", 0, None)),
    ([[1, 2, 3]], ("columns", 0, None)),
    ([[1, 2], [3, 4], [5, 6]], ("columns", 0, None)),
    ([[1, 2, 3], [4, 5]], ("columns", 0, None)),
    ([[1, 2, 3], [4, 5, 6, 7]], ("columns", 0, None)),
    ([[1, 2, 3], 4], ("array", 0, None)),
    ([[1, 2, 3], []], ("empty", 0, None)),
    ([[[1, 2, 3], [4, 5, 6]], [[1, 2, 3]]], ("columns", 1, None)),
    ([[[1, 2, 3], [4, 5, 6]], [1, 2]], ("array", 1, None)),
    ([[[1, 2, 3], [4, 5, 6]], {}], ("array", 1, None)),
    ([[1, 2, 3], [4, [5], 6]], ("nested", 0, 4)),
    ([[[1, 2, 3], [4, 5, [6]]]], ("nested", 0, 5)),
    ([[1, 2, 3], [4, "5", 6]], ("number", 0, 4)),
    ([[1, 2, 3], [4, float("nan"), 6]], ("finite", 0, 4)),
    ([[[1, 2, 3], [4, 5, 6]]] * 5, ("rows", None, None)),
]


@pytest.mark.parametrize(("features", "rule"), REFUSED, ids=range(len(REFUSED)))
def test_other_nestings_are_refused(features: Any, rule: tuple[Any, ...]) -> None:
    """Lists that are too many, too few, too long or too short are told with their row; values are counted in order."""
    assert refused(reader(), sent(features)) == rule


@st.composite
def nestings(draw: st.DrawFn) -> Any:
    shape = draw(st.sampled_from([*SHAPES, (2, 2), (1, 3), ()]))
    count = int(np.prod(shape))
    cells: st.SearchStrategy[Any] = draw(
        st.sampled_from([st.floats(), st.floats() | st.sampled_from([None, "[", [], [1], {}])])
    )
    made: Any = draw(st.lists(cells, min_size=count, max_size=count))
    for size in reversed(shape):
        made = [made[at : at + size] for at in range(0, len(made), size)]
    made = made * draw(st.integers(0, 3)) if draw(st.booleans()) else made[0]
    return sent(made)


@given(damaged(nestings(), [b"[", b"]", b",", b"[1]", b"[[", b"],[", b"0"]), st.sampled_from(SHAPES))
@example(sent([[[1, 2]], [[3], [4]]]), (2, 1, 2))
@example(sent([[[1], [2, 3]]]), (1, 1))
@example(sent([[[1]], [[[2]]]]), (1, 1))
@example(sent([1, [[2]]]), (2, 1))
def test_paths_agree_on_any_nesting(body: bytes, shape: tuple[int, ...]) -> None:
    """Right or wrong, a document has one outcome: the same array to the last bit, or the same broken rule."""
    agreed(reader(shape), body)


@pytest.mark.parametrize(
    "shape", [(), [], 3, "33", b"33", None, (0,), (2, -1), (2.0,), (True,), ("2",), [[2]], (1,) * 32], ids=str
)
def test_shapes_that_cannot_be_are_refused(shape: Any) -> None:
    """A shape has at least one dimension, and none of them is empty."""
    with pytest.raises(ConfigurationError, match="columns" if shape is None else "shape"):
        Features(shape=shape, low=0, high=1, max_rows=1)


def test_columns_and_shape_exclude_each_other() -> None:
    """Which of both would count is not left open, and a bound must fit."""
    with pytest.raises(ConfigurationError, match="columns and shape"):
        Features(columns=4, shape=(2, 2), low=0, high=1, max_rows=1)
    with pytest.raises(ConfigurationError, match="high"):
        Features(shape=(2, 3), low=0, high=np.ones((3, 2)), max_rows=1)
