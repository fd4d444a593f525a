"""truncate_output as a caller sees it: over HTTP through a real app, and as a plain function."""

import asyncio
import functools
import json
from collections import deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, ConfigDict, Field, RootModel

from mlguard.errors import ConfigurationError, UnsafeOutputError
from mlguard.outputs.rounding import FloatArray
from mlguard.outputs.truncation import truncate_output

# One app an example: fewer examples, and no deadline, which would measure the machine.
UNTIMED = settings(deadline=None, max_examples=50)

CLASSES = ["cat", "dog", "owl"]
BATCH = np.array([[0.1234, 0.2345, 0.6421], [0.7004, 0.2003, 0.0993]])


def get(app: FastAPI, path: str = "/", method: str = "GET", **request: Any) -> httpx.Response:
    """One request to an app, whose crashes become a 500."""

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(call())


def serve(answer: Any, *, route: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
    """What a caller gets from an endpoint that returns ``answer``."""
    app = FastAPI()

    @app.get("/", **(route or {}))
    @truncate_output(**options)
    def predict() -> Any:
        return answer

    return get(app)


def numbers_in(data: Any, kind: type) -> Iterator[Any]:
    """Every number of a kind anywhere in plain data."""
    if isinstance(data, kind):
        yield data
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from numbers_in(item, kind)


# Rounding -----------------------------------------------------------------------------------------------------------

PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=3)
NUMBERS = st.floats(-1e6, 1e6)
DTYPES: st.SearchStrategy[np.dtype[Any]] = st.sampled_from(
    [np.dtype(name) for name in ("f8", "f4", "f2", ">f8", "longdouble", "i2", "bool")]
)
ARRAYS: st.SearchStrategy[Any] = hnp.arrays(
    DTYPES,
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    elements=st.integers(0, 1),
)
ANSWERS = st.recursive(
    PLAIN | NUMBERS | ARRAYS | NUMBERS.map(np.float64) | st.decimals(-100, 100, places=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(NUMBERS, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@UNTIMED
@example({"probabilities": [np.array(0.5)]}, 0)
@given(st.dictionaries(st.sampled_from(["probabilities", "a", "b"]), ANSWERS), st.integers(0, 6))
def test_no_float_anywhere_shows_more_decimals_than_asked_for(answer: dict[str, Any], decimals: int) -> None:
    """Whatever an endpoint returns, no number in the JSON text is longer than the policy lets it be."""
    as_written = json.loads(serve(answer, decimals=decimals).text, parse_float=Decimal)

    for number in numbers_in(as_written, Decimal):
        assert number == round(number, decimals)


@UNTIMED
@given(ANSWERS)
def test_nothing_but_floats_is_changed(answer: Any) -> None:
    """Truncation keeps the shape, the names, and whatever is no float."""
    found = serve({"x": answer}, decimals=0).json()["x"]

    assert shape_of(found) == shape_of(plain_of(answer))


def plain_of(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value, dtype=np.float64).tolist() if value.dtype.kind == "f" else value.tolist()
    if isinstance(value, dict):
        return {key: plain_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_of(item) for item in value]
    return value


def shape_of(value: Any) -> Any:
    if isinstance(value, float | Decimal):
        return 0.5
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    return [shape_of(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "scores",
    [BATCH, BATCH.tolist(), list(BATCH), BATCH.astype(np.float32), np.asfortranarray(BATCH), BATCH.astype(">f8")],
)
def test_scores_keep_their_sum_in_every_form(scores: Any) -> None:
    """A batch of probabilities rounds to rows that sum to one, as arrays, lists, float32 or in another memory order."""
    assert serve({"probabilities": scores}).text == '{"probabilities":[[0.12,0.24,0.64],[0.7,0.2,0.1]]}'


def test_the_body_is_short_json() -> None:
    """JSON shows 0.34, from arrays and from single numbers, and the media type says JSON."""
    response = serve({"probabilities": [0.335, 0.665], "age": 0.1 + 0.2, "n": 3, "ok": True, "no": None})

    assert response.text == '{"probabilities":[0.34,0.66],"age":0.3,"n":3,"ok":true,"no":null}'
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.content))


class Species(Enum):
    CAT = "cat"


class Threshold(float, Enum):
    HALF = 0.5004


class Level(IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Frozen:
    d: Decimal
    n: int = 1


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Plain"


@dataclass
class Reading:
    value: float
    at: Any = None


@dataclass
class Answer:
    probabilities: Any
    score: float = 0.98765


Pair = namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.98765, 0.99),
        (np.float64(0.98765), 0.99),
        (np.float32(0.98765), 0.99),
        (np.float16(0.98765), 0.99),
        (np.longdouble("0.98765"), 0.99),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("cat"), "cat"),
        (np.datetime64("2026-01-02"), "2026-01-02T00:00:00"),
        (np.array(0.98765), 0.99),
        (np.array(7), 7),
        (np.array([1, 2], dtype=">i4"), [1, 2]),
        (np.array([[1, 2], [3, 4]])[:, ::-1], [[2, 1], [4, 3]]),
        (np.array([True, False]), [True, False]),
        (np.array(["cat", "dog"]), ["cat", "dog"]),
        (np.array([0.98765, "cat", None], dtype=object), [0.99, "cat", None]),
        (np.array([(1, 0.98765)], dtype=[("n", int), ("p", float)]), [[1, 0.99]]),
        (np.zeros((0, 3)), []),
        ([0.98765, 0.12345], [0.99, 0.12]),
        ((0.98765, 1, "cat"), [0.99, 1, "cat"]),
        (Pair(0.98765, 1), [0.99, 1]),
        ({0.98765}, [0.99]),
        (deque([Frozen(Decimal("0.98765"))]), [{"d": 0.99, "n": 1}]),
        (deque([Plain(np.array([0.98765]))]), [{"value": [0.99]}]),
        (Decimal("0.98765"), 0.99),
        (Decimal(7), 7),
        (Species.CAT, "cat"),
        (Threshold.HALF, 0.5),
        (Level.LOW, 1),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"cat", "cat"),
        (Reading(0.98765, at=np.array([0.98765])), {"value": 0.99, "at": [0.99]}),
        ({1: 0.98765, None: 1, 0.12345: 3, Species.CAT: 4}, {"1": 0.99, "null": 1, "0.12": 3, "cat": 4}),
        ({np.int64(3): 1}, {"3": 1}),
        (1e300, 1e300),
        (-0.001, 0.0),
    ],
    ids=repr,
)
def test_every_kind_of_value_is_rounded_or_kept(value: Any, expected: Any) -> None:
    """Scalars, arrays of all dtypes, enums, dates, dataclasses and keys come out as FastAPI shows them, but rounded."""
    assert serve({"x": value}).json() == {"x": expected}


@pytest.mark.parametrize("answer", [None, "cat", 7, [], ["cat"], [{"p": 0.98765}], {}, {"probabilities": "cat"}])
def test_answers_without_scores_pass_where_nothing_asks_for_them(answer: Any) -> None:
    """Without top_k, label_only, min_confidence or labels, every kind of answer is only rounded."""
    assert serve(answer, decimals=5).json() == answer


def test_integer_scores_stay_integers() -> None:
    """Counts are no floats, so rounding leaves them alone."""
    assert serve({"probabilities": [3, 1], "b": np.array([3, 1])}).text == '{"probabilities":[3,1],"b":[3,1]}'


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        np.float32("inf"),
        [0.5, float("-inf")],
        [1, [float("nan")]],
        np.array([0.5, np.nan]),
        np.array([[np.inf]], dtype=np.float16),
        np.array([np.longdouble("1e400")]),
        np.array([np.nan], dtype=object),
        Decimal("NaN"),
        {float("inf"): 1},
    ],
    ids=repr,
)
@pytest.mark.parametrize("field", ["probabilities", "x"])
def test_nan_and_infinity_never_leave(field: str, value: Any) -> None:
    """NaN or an infinity anywhere is a 500, not invalid JSON and not a silent null."""
    assert serve({field: value}).status_code == 500


def test_an_endpoint_without_annotations_is_truncated_too() -> None:
    """The shortest endpoint, without a return annotation and so without a response model."""
    app = FastAPI()

    @app.get("/")
    @truncate_output
    def predict():  # type: ignore[no-untyped-def]  # as many are written
        return {"probabilities": BATCH, "price": Decimal("0.98765")}

    assert get(app).json() == {"probabilities": [[0.12, 0.24, 0.64], [0.7, 0.2, 0.1]], "price": 0.99}


def test_the_operator_learns_the_field_and_not_the_value() -> None:
    """The error names the field with the NaN, and none of the numbers beside it."""
    with pytest.raises(UnsafeOutputError, match="field 'logits' holds NaN") as caught:
        truncate_output(lambda: {"logits": [0.123456, float("nan")]})()
    assert "0.123456" not in str(caught.value)


class Opaque:
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        1 + 2j,
        np.array([1 + 2j]),
        np.clongdouble(1 + 2j),
        Opaque(),
        10**30,
        "\ud800",
        {("a", "b"): 1},
        {0.121: 1, 0.122: 2},
        np.ma.masked_array([0.5, 0.25], mask=[True, False]),
        np.datetime64("NaT"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("field", ["probabilities", "x"])
def test_what_json_does_not_have_fails_closed(field: str, value: Any) -> None:
    """Complex numbers, unknown objects, masked arrays and clashing keys are a 500 rather than a guess."""
    assert serve({field: value}).status_code == 500


# Selecting ----------------------------------------------------------------------------------------------------------


def test_top_k_is_per_row() -> None:
    """Each row of a batch shows its own best classes, in falling order, and nothing of any other class."""
    found = serve({"probabilities": BATCH}, top_k=2, labels=CLASSES).json()["probabilities"]

    assert found == [
        [{"label": "owl", "score": 0.64}, {"label": "dog", "score": 0.24}],
        [{"label": "cat", "score": 0.7}, {"label": "dog", "score": 0.2}],
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"label_only": True}, 2),
        ({"label_only": True, "labels": CLASSES}, "owl"),
        ({"label_only": True, "labels": np.array(CLASSES)}, "owl"),
        ({"label_only": True, "labels": [np.int64(n) for n in (10, 20, 30)]}, 30),
        ({"top_k": 1}, [{"label": 2, "score": 0.64}]),
        ({"top_k": 9, "decimals": 0}, [{"label": n, "score": s} for n, s in ((2, 1.0), (0, 0.0), (1, 0.0))]),
        ({"min_confidence": 0.64}, [0.12, 0.24, 0.64]),
        ({"min_confidence": 0.65}, "abstain"),
        ({"min_confidence": 0.65, "label_only": True}, "abstain"),
        ({"min_confidence": 0.65, "top_k": 2}, "abstain"),
        ({"min_confidence": 0.65, "top_k": 2, "abstain": "unsure"}, "unsure"),
        ({"min_confidence": 0.65, "label_only": True, "abstain": None}, None),
        ({"labels": CLASSES}, [0.12, 0.24, 0.64]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist, tuple], ids=["array", "list", "tuple"])
def test_one_row_is_answered_as_one_row(
    form: Callable[[FloatArray], Any], options: dict[str, Any], expected: Any
) -> None:
    """One class vector gives one label, one ranking, or one word; the same row in a batch gives the same."""
    assert serve({"probabilities": form(BATCH[0])}, **options).json() == {"probabilities": expected}
    assert serve({"probabilities": BATCH[:1]}, **options).json() == {"probabilities": [expected]}
    assert serve(form(BATCH[0]), **options).json() == expected


def test_an_unsure_row_says_nothing() -> None:
    """Only the rows that reach min_confidence, after rounding, are answered."""
    found = serve({"probabilities": BATCH}, min_confidence=0.7, label_only=True, labels=CLASSES)

    assert found.json() == {"probabilities": ["abstain", "cat"]}


@UNTIMED
@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(2, 5)), elements=st.floats(0, 1)))
def test_label_only_sends_no_float(batch: FloatArray) -> None:
    """An answer of labels holds the best class of each row, and not a single number with a decimal point."""
    released = truncate_output(batch, label_only=True)

    assert released == batch.argmax(axis=1).tolist()
    assert not list(numbers_in(released, float))


@UNTIMED
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=st.floats(0.01, 1)),
    st.integers(1, 6),
)
def test_top_k_of_a_batch_is_the_top_k_of_each_row(batch: FloatArray, top_k: int) -> None:
    """No row sees more than k classes, none out of order, and the batch is answered as its rows are one by one."""
    rows = truncate_output(batch, top_k=top_k, decimals=1)

    assert rows == [truncate_output(row, top_k=top_k, decimals=1) for row in batch]
    for row in rows:
        scores = [best["score"] for best in row]
        assert len(row) == min(top_k, batch.shape[1])
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("empty", [[], np.zeros((0, 3)), np.zeros(0)])
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 2}, {"label_only": True}, {"min_confidence": 0.5, "labels": CLASSES}]
)
def test_no_rows_give_no_rows(empty: Any, options: dict[str, Any]) -> None:
    """An empty batch is answered with an empty list."""
    assert serve({"probabilities": empty}, **options).json() == {"probabilities": []}


@pytest.mark.parametrize(
    "scores",
    [
        [Decimal("0.1234"), Decimal("0.8766")],
        np.array([Decimal("0.1234"), Decimal("0.8766")], dtype=object),
        [np.float32(0.1234), np.float64(0.8766)],
        [1, 7],
        np.array([1, 7], dtype=np.uint8),
    ],
)
def test_any_kind_of_number_can_be_a_score(scores: Any) -> None:
    """Decimals, numpy scalars and counts are ranked like floats."""
    assert serve(scores, label_only=True, labels=["no", "yes"]).json() == "yes"


@pytest.mark.parametrize("options", [{"top_k": 1}, {"label_only": True}, {"min_confidence": 0.1}, {"labels": CLASSES}])
@pytest.mark.parametrize(
    "answer",
    [
        {"scores": [0.1, 0.2, 0.7]},
        {"probabilities": None},
        {"probabilities": {"cat": 0.7}},
        {"probabilities": 0.7},
        {"probabilities": "0.7"},
        {"probabilities": ["0.1", "0.2", "0.7"]},
        {"probabilities": [True, False, False]},
        {"probabilities": [[0.1, 0.2, 0.7], [0.1]]},
        {"probabilities": [[0.1, 0.2, 0.7], None]},
        {"probabilities": [10**400, 0.2, 0.7]},
        {"probabilities": [[]]},
        {"probabilities": np.zeros((2, 2, 3))},
        {"probabilities": np.array(["a", "b", "c"])},
        {"probabilities": np.array([None, 0.2, 0.7], dtype=object)},
        {"probabilities": np.ma.masked_array([0.1, 0.2, 0.7], mask=[False, False, True])},
        {"nested": {"probabilities": [0.1, 0.2, 0.7]}},
        [{"probabilities": [0.1, 0.2, 0.7]}],
        "cat",
        None,
        0.7,
    ],
    ids=repr,
)
def test_scores_that_cannot_be_found_never_pass_through(answer: Any, options: dict[str, Any]) -> None:
    """An answer on which the policy cannot be applied is a 500, never the untouched scores."""
    response = serve(answer, **options)

    assert response.status_code == 500
    assert "0.7" not in response.text


def test_labels_must_fit_the_model() -> None:
    """A label for each class, or no answer: a wrong list would name the wrong class."""
    with pytest.raises(UnsafeOutputError, match="3 classes"):
        truncate_output(BATCH, labels=["cat", "dog"])


# As a plain function ------------------------------------------------------------------------------------------------


def test_scores_in_scores_out() -> None:
    """Given scores instead of an endpoint, it returns them truncated, and leaves what it was given alone."""
    given_scores = BATCH.copy()

    rounded = truncate_output(given_scores, decimals=1)

    assert isinstance(rounded, np.ndarray)
    assert rounded.dtype == np.float64
    assert rounded.tolist() == [[0.1, 0.2, 0.7], [0.7, 0.2, 0.1]]
    assert truncate_output(BATCH[0]).tolist() == [0.12, 0.24, 0.64]
    assert truncate_output(BATCH[0].tolist()) == [0.12, 0.24, 0.64]
    assert truncate_output(BATCH, label_only=True, labels=CLASSES) == ["owl", "cat"]
    assert truncate_output(BATCH, min_confidence=0.7) == ["abstain", [0.7, 0.2, 0.1]]
    assert (given_scores == BATCH).all()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"decimals": -1}, "decimals"),
        ({"decimals": 16}, "decimals"),
        ({"decimals": True}, "decimals"),
        ({"decimals": 2.0}, "decimals"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"label_only": 1}, "label_only"),
        ({"label_only": True, "top_k": 1}, "label_only .* top_k"),
        ({"min_confidence": 0}, "min_confidence"),
        ({"min_confidence": 1.01}, "min_confidence"),
        ({"min_confidence": float("nan")}, "min_confidence"),
        ({"min_confidence": True}, "min_confidence"),
        ({"min_confidence": "0.5"}, "min_confidence"),
        ({"scores": ""}, "scores"),
        ({"scores": None}, "scores"),
        ({"labels": []}, "labels"),
        ({"labels": "cat"}, "labels"),
        ({"labels": {"cat", "dog"}}, "labels"),
        ({"labels": np.array("cat")}, "labels"),
        ({"labels": ["cat", "cat"]}, "labels"),
        ({"labels": [0.5, 1.5]}, "labels"),
    ],
    ids=repr,
)
def test_a_setting_that_cannot_work_is_refused_at_once(options: dict[str, Any], names: str) -> None:
    """A typo fails when the endpoint is decorated, and the text names the setting."""
    with pytest.raises(ConfigurationError, match=names):
        truncate_output(**options)


# At the endpoint ----------------------------------------------------------------------------------------------------


class Prediction(BaseModel):
    probabilities: list[list[float]]
    secret: float = Field(default=0.123456, exclude=True)
    model_version: str | None = None
    price: Decimal = Decimal(2)
    latency: float = Field(default=0.98765, serialization_alias="latencySeconds")


class Public(BaseModel):
    probabilities: list[list[float]]


def test_a_response_model_is_applied_before_truncation() -> None:
    """Excluded and unknown fields stay in, aliases are used, arrays are taken, and Decimals are not written in full."""
    answer = {"probabilities": BATCH, "secret": np.float32(0.5), "logits": BATCH, "price": Decimal("1.23456")}

    assert serve(answer, route={"response_model": Prediction}).json() == {
        "probabilities": [[0.12, 0.24, 0.64], [0.7, 0.2, 0.1]],
        "model_version": None,
        "price": "1.23",
        "latencySeconds": 0.99,
    }
    assert set(serve(answer, route={"response_model": Public}).json()) == {"probabilities"}


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"response_model_include": {"probabilities"}}, {"probabilities"}),
        ({"response_model_exclude": {"price", "latency"}}, {"probabilities", "model_version"}),
        ({"response_model_exclude_unset": True}, {"probabilities"}),
        ({"response_model_exclude_defaults": True}, {"probabilities"}),
        ({"response_model_exclude_none": True}, {"probabilities", "price", "latencySeconds"}),
        ({"response_model_by_alias": False}, {"probabilities", "model_version", "price", "latency"}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("nested", [False, True])
def test_the_route_decides_what_the_model_shows(nested: bool, settings: dict[str, Any], fields: set[str]) -> None:
    """include, exclude, unset, defaults, none and alias settings hold, in the app and in nested included routers."""
    app, outer, inner = FastAPI(), APIRouter(prefix="/outer"), APIRouter(prefix="/inner")

    @(inner if nested else app).get("/", response_model=Prediction, status_code=202, **settings)
    @truncate_output
    async def predict() -> Any:
        return Prediction(probabilities=BATCH.tolist())

    outer.include_router(inner)
    app.include_router(outer)
    response = get(app, "/outer/inner/" if nested else "/")

    assert response.status_code == 202
    assert set(response.json()) == fields


def test_a_model_without_a_response_model_is_dumped_as_fastapi_does() -> None:
    """A pydantic model needs no annotation: excluded fields stay in, aliases are used, Decimals are shortened."""
    found = serve({"of": Prediction(probabilities=BATCH.tolist(), price=Decimal("1.23456"))}, decimals=1).json()["of"]

    assert set(found) == {"probabilities", "model_version", "price", "latencySeconds"}
    assert found["price"] == "1.2"
    assert serve(Prediction(probabilities=BATCH.tolist()), label_only=True).json()["probabilities"] == [2, 0]
    assert serve({"of": Plain(wide(d=Decimal("0.98765")))}).json()["of"]["value"]["d"] == "0.99"
    assert serve(RootModel[list[float]]([0.128, 0.872])).json() == [0.13, 0.87]
    assert serve(Answer(BATCH), top_k=1).json()["probabilities"][0] == [{"label": 2, "score": 0.64}]


def test_an_answer_that_does_not_fit_the_model_tells_nobody_what_it_was() -> None:
    """The caller gets a bare 500, and the error that is logged says where and why, without the data."""
    app = FastAPI()
    seen: list[str] = []

    @app.exception_handler(Exception)
    async def log(request: Request, error: Exception) -> Response:
        seen.append(str(error))
        return Response(status_code=500)

    @app.get("/", response_model=Public)
    @truncate_output
    def predict() -> Any:
        return {"probabilities": [["0.987654321 is confidential"]]}

    assert get(app).content == b""
    assert "confidential" not in seen[0]
    assert "float_parsing" in seen[0]


def wide(**fields: Any) -> "Wide":
    return Wide(**fields)


class Wide(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, arbitrary_types_allowed=True)

    a: Any = None
    d: Decimal = Decimal("0.98765")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("0.98765"), "0.99"),
        (Decimal("-0.001"), "0.00"),
        (Decimal("1E+3"), "1E+3"),
        (Decimal("12345678901234567890123456789012345.678"), "12345678901234567890123456789012345.68"),
        ([Decimal("0.98765"), 1], ["0.99", 1]),
        ((1, Decimal("0.98765")), [1, "0.99"]),
        ({Decimal("0.98765")}, ["0.99"]),
        (Pair(Decimal("0.98765"), 1), ["0.99", 1]),
        ({"k": Decimal("0.98765")}, {"k": "0.99"}),
        ({0.98765: Decimal("0.98765")}, {"0.99": "0.99"}),
        (Frozen(Decimal("0.98765")), {"d": "0.99", "n": 1}),
        (Wide(a=[wide(x=Decimal("0.98765"))]), {"a": [{"x": "0.99"}]}),
        ([Wide(d=Decimal(1))], [{"d": "1"}]),
        ([0.98765, "cat"], [0.99, "cat"]),
        (Frozen, None),
    ],
    ids=repr,
)
def test_pydantic_does_not_write_numbers_in_full_as_text(value: Any, expected: Any) -> None:
    """A Decimal or a float key that pydantic turns into text is rounded first, wherever it stands in the model."""
    response = serve({"a": value}, route={"response_model": Wide, "response_model_exclude_unset": True})

    assert response.status_code == (500 if expected is None else 200)
    assert expected is None or response.json() == {"a": expected}


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        float("nan"),
        Decimal("NaN"),
        [0.5, float("inf")],
        {"k": float("-inf")},
        wide(x=float("inf")),
    ],
    ids=repr,
)
def test_pydantic_does_not_turn_an_infinity_into_null(value: Any) -> None:
    """NaN and infinities in a model are a 500 too, although pydantic would write null for some."""
    with pytest.raises(UnsafeOutputError, match="holds NaN"):
        truncate_output(lambda: {"model": Wide(a=value)})()
    assert serve({"a": value}, route={"response_model": Wide}).status_code == 500


def test_arrays_in_a_model_are_left_to_its_serializers() -> None:
    """A model that holds an array and cannot write it is a 500; one that holds other arrays is not stopped early."""
    assert serve(Wide(a=np.array([0.5]))).status_code == 500
    assert serve(Wide(a=np.array(["cat"]))).status_code == 500


@pytest.mark.parametrize("is_async", [False, True])
def test_status_headers_cookies_and_background_tasks_survive(is_async: bool) -> None:
    """What the endpoint sets on the injected response and hands to background tasks works as without the decorator."""
    app = FastAPI()
    ran: list[str] = []

    def answer(response: Response, tasks: BackgroundTasks) -> Any:
        response.status_code = 203
        response.headers["X-Model"] = "m1"
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        tasks.add_task(ran.append, "done")
        return {"probabilities": BATCH[0]}

    if is_async:

        @app.get("/")
        @truncate_output(label_only=True)
        async def predict_soon(response: Response, tasks: BackgroundTasks) -> Any:
            return answer(response, tasks)

    else:

        @app.get("/")
        @truncate_output(label_only=True)
        def predict(response: Response, tasks: BackgroundTasks) -> Any:
            return answer(response, tasks)

    response = get(app)

    assert (response.status_code, response.json()) == (203, {"probabilities": 2})
    assert response.headers["x-model"] == "m1"
    assert response.cookies == {"a": "1", "b": "2"}
    assert ran == ["done"]


def test_headers_of_dependencies_survive() -> None:
    """A header that a dependency sets on its injected response reaches the caller."""
    app = FastAPI()

    def tag(response: Response) -> None:
        response.headers["X-Tag"] = "t"

    @app.get("/", dependencies=[Depends(tag)])
    @truncate_output()
    def predict() -> Any:
        return {}

    assert get(app).headers["x-tag"] == "t"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(status: int) -> None:
    """Nothing is sent, and so nothing is demanded of the answer, where HTTP allows no body."""
    app = FastAPI()

    @app.get("/", status_code=status)
    @truncate_output(label_only=True)
    def predict():  # type: ignore[no-untyped-def]  # FastAPI takes any annotation for a body
        return None

    response = get(app)

    assert (response.status_code, response.content) == (status, b"")


def test_the_endpoint_keeps_its_own_parameters() -> None:
    """Query, path, Request and Response parameters arrive as they were declared, and OpenAPI shows no others."""
    app = FastAPI()

    @app.post("/{name}")
    @truncate_output
    def predict(
        name: str, request: Annotated[Request, "own"], response: Response, x: Annotated[float, Query()] = 0.5, **_: Any
    ) -> Any:
        response.headers["X-Path"] = request.url.path
        return {"name": name, "x": x}

    answered = get(app, "/cat?x=0.98765&_=1", method="POST")
    shown = app.openapi()["paths"]["/{name}"]["post"]

    assert answered.json() == {"name": "cat", "x": 0.99}
    assert answered.headers["x-path"] == "/cat"
    assert {parameter["name"] for parameter in shown["parameters"]} == {"name", "x", "_"}
    assert shown["operationId"] == "predict__name__post"


def test_annotations_written_as_text_are_those_of_the_endpoints_module() -> None:
    """``from __future__ import annotations`` works: names are looked up where the endpoint was written."""
    module: dict[str, Any] = {"__name__": "service"}
    source = """
from __future__ import annotations
from typing import Annotated
from fastapi import Header as FromHeader, Request as Incoming
from pydantic import BaseModel as Model

class Row(Model):
    values: list[float]

async def predict(row: Row, incoming: Incoming, x_user: Annotated[str, FromHeader()]) -> Row:
    return Row(values=[float(x_user), *row.values])
"""
    exec(compile(source, "service", "exec", dont_inherit=True), module)
    app = FastAPI()
    app.post("/")(truncate_output(module["predict"]))

    response = get(app, method="POST", json={"values": [0.12345]}, headers={"X-User": "0.98765"})

    assert response.json() == {"values": [0.99, 0.12]}


def test_an_annotation_that_nobody_can_resolve_is_refused_at_once() -> None:
    """A name that exists for type checkers only is named, with the fix."""

    def predict(x: "Elsewhere") -> Any:  # type: ignore[name-defined]  # noqa: F821  # the point of the test
        return x

    with pytest.raises(ConfigurationError, match=r"'Elsewhere'.*TYPE_CHECKING"):
        truncate_output(predict)


class Sync:
    def __call__(self, x: float = 0.98765) -> Any:
        return {"x": x}


class Soon:
    async def __call__(self, x: float = 0.98765) -> Any:
        return {"x": x}

    async def method(self, x: float = 0.98765) -> Any:
        return {"x": x}


@pytest.mark.parametrize(
    "endpoint", [Sync(), Soon(), Soon().method, functools.partial(Sync()), functools.partial(Soon().method)], ids=repr
)
def test_callable_objects_methods_and_partials_are_endpoints_too(endpoint: Callable[..., Any]) -> None:
    """Whatever FastAPI takes as an endpoint can be decorated."""
    app = FastAPI()
    app.get("/")(truncate_output(endpoint))

    assert get(app, "/?x=0.12345").json() == {"x": 0.12}


def test_sync_endpoints_stay_off_the_event_loop() -> None:
    """A sync endpoint runs in a worker thread, an async one on the loop."""
    app = FastAPI()

    def on_loop() -> bool:
        try:
            return asyncio.get_running_loop() is not None
        except RuntimeError:
            return False

    @app.get("/sync")
    @truncate_output
    def sync() -> Any:
        return on_loop()

    @app.get("/async")
    @truncate_output
    async def soon() -> Any:
        return on_loop()

    assert get(app, "/sync").json() is False
    assert get(app, "/async").json() is True


def test_called_directly_it_returns_plain_data() -> None:
    """In a developer's own code or test, outside a request, the decorated endpoint gives the truncated data."""

    @truncate_output(label_only=True)
    def predict(scores: FloatArray) -> Any:
        return Answer(scores)

    @truncate_output
    async def soon(scores: FloatArray, response: Response | None = None) -> Any:
        return {"probabilities": scores}

    assert predict(BATCH) == {"probabilities": [2, 0], "score": 0.99}
    assert asyncio.run(soon(BATCH[0]))["probabilities"].tolist() == [0.12, 0.24, 0.64]


def test_a_ready_response_is_refused() -> None:
    """What is in a Response cannot be truncated, so it is a 500 and not a way round the policy."""
    response = serve(JSONResponse({"probabilities": [0.123456]}))

    assert response.status_code == 500
    assert "0.123456" not in response.text


def test_two_policies_on_one_endpoint_are_refused_at_once() -> None:
    """Stacked decorators would refuse every answer, so they are an error of configuration."""
    with pytest.raises(ConfigurationError, match="already"):
        truncate_output(label_only=True)(truncate_output(Sync()))


def test_a_websocket_is_refused_at_once() -> None:
    """What is sent over it passes no decorator: the scores would leave as they are, and nobody would notice."""
    app = FastAPI()

    async def predict(x: str, socket: Annotated[WebSocket, "as FastAPI gives it"]) -> None:
        await socket.accept()
        await socket.send_json({"probabilities": [0.123456, 0.876544]})

    with pytest.raises(ConfigurationError, match="WebSocket"):
        app.websocket("/")(truncate_output(predict))


def test_a_head_request_sees_the_same_headers() -> None:
    """HEAD is answered like GET."""
    app = FastAPI()

    @app.api_route("/", methods=["GET", "HEAD"])
    @truncate_output
    def predict() -> Any:
        return {"x": 0.98765}

    assert get(app, method="HEAD").headers["content-length"] == get(app).headers["content-length"] == "10"
