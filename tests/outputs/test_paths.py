"""Scores inside of objects and lists: found by their path, in whatever the endpoint returns, or not sent at all."""

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from tests.asgi import Answer, call

from mlguard import ConfigurationError, UnsafeOutputError, harden, truncate_output

EXACT = 0.123456789
ROW = [EXACT, 1 - EXACT]


class Tensor(BaseModel):
    data: Any
    secret: float = Field(default=EXACT, exclude=True)


class Outputs(BaseModel):
    tensors: list[Tensor] = Field(alias="outputs")


@dataclass
class Box:
    data: Any


class Place(IntEnum):
    FIRST = 0


def serve(answer: Any, scores: Any, **options: Any) -> Answer:
    app = FastAPI()

    @app.get("/predict", response_model=None)
    @truncate_output(scores=scores, label_only=True, **options)
    def predict() -> Any:
        return answer

    harden(app)
    return call(app, method="GET")


@pytest.mark.parametrize(
    ("answer", "scores", "expected"),
    [
        ({"a": {"b": ROW}}, "a.b", {"a": {"b": 1}}),
        ({"outputs": [{"data": ROW}]}, "outputs.0.data", {"outputs": [{"data": 1}]}),
        ({"outputs": ({"data": ROW}, {"data": EXACT})}, "outputs.0.data", {"outputs": [{"data": 1}, {"data": 0.12}]}),
        (Outputs(outputs=[Tensor(data=ROW)]), "outputs.0.data", {"outputs": [{"data": 1}]}),
        ({"outputs": [Box(np.array([ROW]))]}, "outputs.0.data", {"outputs": [{"data": [1]}]}),
        ({"outputs": deque([Box(ROW)])}, "outputs.0.data", {"outputs": [{"data": 1}]}),
        ([{"p": ROW}, Box(ROW).__dict__ | {"p": ROW}], "*.p", [{"p": 1}, {"data": [0.12, 0.88], "p": 1}]),
        ({"x": [{"p": ROW}, {"p": [ROW, ROW]}]}, "x.*.p", {"x": [{"p": 1}, {"p": [1, 1]}]}),
        ({"x": [ROW, ROW[::-1]]}, "x.*", {"x": [1, 0]}),
        ({"x": []}, "x.*.p", {"x": []}),
        ([], "*.p", []),
        ({"x": {0: ROW, "0.1": EXACT}}, "x.0", {"x": {"0": 1, "0.1": 0.12}}),
        ({"x": {Place.FIRST: ROW}}, "x.0", {"x": {"0": 1}}),
        ({"x": {None: ROW, True: EXACT}}, "x.null", {"x": {"null": 1, "true": 0.12}}),
        ({"my.scores": ROW}, ["my.scores"], {"my.scores": 1}),
        ({"a": {"b": ROW, "a": {"b": EXACT}}}, "a.b", {"a": {"b": 1, "a": {"b": 0.12}}}),
    ],
    ids=repr,
)
def test_scores_are_found_by_their_path(answer: Any, scores: Any, expected: Any) -> None:
    """Fields, positions and every item of a list lead through dicts, models, dataclasses and collections."""
    assert serve(answer, scores).json == expected


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ({"a": {"c": ROW}}, "a.b"),
        ({"a": ROW}, "a.b"),
        ({"a": [{"b": ROW}]}, "a.b"),
        ({"a": [{"b": ROW}]}, "a.1.b"),
        ({"a": [{"b": ROW}]}, "a.-1.b"),
        ({"a": [{"b": ROW}, {"c": ROW}]}, "a.*.b"),
        ({"a": [{"b": ROW}, {"b": None}]}, "a.*.b"),
        ({"a": [{"b": ROW}, ROW]}, "a.*.b"),
        ({"a": {"*": ROW}}, "a.*.b"),
        (ROW, "a.b"),
        (ROW, "*"),
        ([{"a": ROW}], "a"),
        ("cat", "a.b"),
        (None, "*"),
        ({"a": {"b": {"c": ROW}}}, "a.b"),
        ({"a.b": ROW}, "a.b"),
    ],
    ids=repr,
)
def test_scores_that_are_not_there_stop_the_answer(answer: Any, scores: str) -> None:
    """Where one item has no scores in its place, nothing at all leaves: they may be somewhere else."""
    found = serve(answer, scores)
    assert found.status == 500
    assert b"12" not in found.body.replace(found.headers["x-request-id"].encode(), b"")


def test_the_operator_learns_the_path() -> None:
    """The log names what was looked for."""
    with pytest.raises(UnsafeOutputError, match=r"no field 'a\.b'"):
        truncate_output(scores="a.b", top_k=1)(lambda: {"a": {}})()
    with pytest.raises(UnsafeOutputError, match="field 'b' holds NaN"):
        truncate_output(scores="a.*.b")(lambda: {"a": [{"b": 1.0}, {"b": [float("nan")]}]})()


def test_scores_at_a_path_keep_their_sum() -> None:
    """With decimals alone, the path says which lists are class vectors; others are rounded number by number."""
    thirds = [1 / 3, 1 / 3, 1 / 3]
    released = truncate_output(scores="a.b")(lambda: {"a": {"b": thirds}, "c": thirds})()
    assert released == {"a": {"b": [0.34, 0.33, 0.33]}, "c": [0.33, 0.33, 0.33]}


@pytest.mark.parametrize("scores", ["", ".", "a.", ".a", "a..b", [], [""], ["a", 0], 5, None, {"a"}], ids=repr)
def test_what_is_no_path_is_refused_at_once(scores: Any) -> None:
    """An empty step is a typo."""
    with pytest.raises(ConfigurationError, match="scores"):
        truncate_output(scores=scores)


ANY = st.recursive(
    st.none() | st.floats(-1, 1) | st.text(max_size=2) | st.lists(st.floats(0.001, 1), min_size=2, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(ANY, st.lists(st.sampled_from(["a", "b", "0", "1", "*"]), min_size=1, max_size=4))
def test_every_answer_leaves_truncated_or_not_at_all(answer: Any, steps: list[str]) -> None:
    """Whatever the answer and the path, no float has more decimals than it may have, and nothing else is raised."""
    try:
        released = truncate_output(scores=steps, top_k=1, decimals=1)(lambda: answer)()
    except UnsafeOutputError:
        return
    for number in floats_in(released):
        assert number == round(number, 1)


def floats_in(data: Any) -> list[float]:
    if isinstance(data, float):
        return [data]
    items = data.values() if isinstance(data, dict) else data if isinstance(data, list | tuple) else ()
    return [number for item in items for number in floats_in(item)]
