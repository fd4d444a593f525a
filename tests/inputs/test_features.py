"""``Features`` as a caller and a developer see it, through a real FastAPI app."""

import asyncio
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st

from mlguard._guard import Control
from mlguard.errors import ConfigurationError, MLGuardError
from mlguard.inputs.features import Features
from mlguard.inputs.squeezing import BitDepth, MedianSmoothing
from tests.inputs.reading import rows_of

JSON = [("content-type", "application/json")]
IRIS = Features(columns=["sepal", "secret_income"], low=[0.0, -1.0], high=10.0, max_rows=3, field="flowers")


def app_with(guard: Features) -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    def predict(x: Annotated[Any, Depends(guard)]) -> dict[str, Any]:
        return {"rows": x.tolist(), "dtype": str(x.dtype), "ready": bool(x.flags.c_contiguous and x.flags.writeable)}

    @app.exception_handler(MLGuardError)
    def answer(request: Request, refusal: MLGuardError) -> JSONResponse:
        problem = {"detail": refusal.detail, "reason": refusal.reason, **refusal.members}
        return JSONResponse(problem, refusal.status_code, refusal.headers)

    return app


def post(guard: Features, body: bytes, headers: list[tuple[str, str]] = JSON) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app_with(guard))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/predict", content=body, headers=headers)

    return asyncio.run(call())


def refusal(guard: Features, body: bytes) -> tuple[Any, ...]:
    """Rule, row and column of the refusal."""
    response = post(guard, body)
    assert response.status_code == 422, response.text
    problem = response.json()
    return problem["broken"], problem.get("row"), problem.get("column")


# Accepted -----------------------------------------------------------------------------------------------------------


def test_a_batch_becomes_an_array() -> None:
    """Rows arrive as a two-dimensional array that a model can take and write to."""
    response = post(IRIS, b'{"flowers": [[5.1, 3], [0, -1], [10, 10.0]]}')
    assert response.status_code == 200
    assert response.json() == {"rows": [[5.1, 3.0], [0.0, -1.0], [10.0, 10.0]], "dtype": "float64", "ready": True}


def test_one_row_needs_no_outer_list() -> None:
    """A single row may be sent flat, and the model still gets two dimensions."""
    assert post(IRIS, b' {"flowers": [5.1, 3]}\n').json()["rows"] == [[5.1, 3.0]]


def test_a_model_in_single_precision_gets_it() -> None:
    """``dtype`` decides what the model receives."""
    guard = Features(columns=1, low=0, high=1, max_rows=1, dtype=np.float32)
    response = post(guard, b'{"features": [[1]]}').json()
    assert response == {"rows": [[1.0]], "dtype": "float32", "ready": True}


def test_names_of_columns_stay_with_the_developer() -> None:
    """The guard remembers how many columns there are and what they are called."""
    assert (IRIS.columns, IRIS.names) == (2, ("sepal", "secret_income"))
    numbered = Features(columns=2, low=0, high=1, max_rows=1)
    assert (numbered.columns, numbered.names) == (2, None)
    from_a_model = Features(columns=np.array(["a", "b"], dtype=object), low=0, high=1, max_rows=1)  # type: ignore[arg-type]  # feature_names_in_
    assert from_a_model.names == ("a", "b")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        'Application/JSON;Charset="UTF-8"',
        "application/json;",
        "application/vnd.model+json",
        "application/ld+json ; profile=x",
    ],
)
def test_json_content_types_are_read(content_type: str) -> None:
    """JSON is recognised however its media type is spelled."""
    assert post(IRIS, b'{"flowers": [1, 1]}', [("content-type", content_type)]).status_code == 200


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_types",
    [
        [],
        [""],
        ["text/plain"],
        ["text/json"],
        ["multipart/form-data; boundary=x"],
        ["application/x-www-form-urlencoded"],
        ["application/jsonp"],
        ["application/json-seq"],
        ["application/+json"],
        ["application/json+xml"],
        ["application/json, text/plain"],
        ["application/json; charset=utf-16"],
        ["application/json; charset=latin-1"],
        ["application/json; charset=utf-8; charset=utf-16"],
        ["application/json; charset = utf-16"],
        ["application/json", "application/json"],
        ["application/json", "text/plain"],
        ["application/json\xe9"],
    ],
)
def test_other_content_types_are_refused(content_types: list[str]) -> None:
    """A body that is not declared to be JSON in UTF-8, exactly once, is not looked at."""
    headers = [(b"content-type", value.encode("latin-1")) for value in content_types]
    response = post(IRIS, b'{"flowers": [1, 1]}', headers)  # type: ignore[arg-type]  # raw bytes, as attackers send
    assert response.status_code == 415
    assert response.headers["accept"] == "application/json"


REFUSED: dict[bytes, tuple[Any, ...]] = {
    b"": ("json", None, None),
    b"  ": ("json", None, None),
    b"flowers=1": ("json", None, None),
    b'{"flowers": [1, 1]': ("json", None, None),
    b'{"flowers": [1, 1,]}': ("json", None, None),
    b'{"flowers": [1 1]}': ("json", None, None),
    b'{"flowers": [01, 1]}': ("json", None, None),
    b'{"flowers": [+1, 1]}': ("json", None, None),
    b'{"flowers": [.5, 1]}': ("json", None, None),
    b'{"flowers": [0x1, 1]}': ("json", None, None),
    b'{"flowers": [1_0, 1]}': ("json", None, None),
    b"{'flowers': [1, 1]}": ("json", None, None),
    '{"flowers": [\u0661, 1]}'.encode(): ("json", None, None),  # a digit, but not one of JSON's
    '{"flowers":\u00a0[1, 1]}'.encode(): ("json", None, None),
    b'{"flowers": [1, 1]} // why': ("trailing", None, None),
    b'\xef\xbb\xbf{"flowers": [1, 1]}': ("json", None, None),
    '{"flowers": [1, 1]}'.encode("utf-16"): ("json", None, None),
    '{"flowers": [1, 1]}'.encode("utf-16-le"): ("json", None, None),
    '{"flowers": [1, 1]}'.encode("utf-32"): ("json", None, None),
    b'{"flowers": [1, 1], "\xff": 1}': ("json", None, None),
    b'{"flowers": [1, 1], "\xed\xa0\x80": 1}': ("json", None, None),
    b'{"flowers": [1, 1], "\x00": 1}': ("json", None, None),
    b'{"flowers": [1, 1]}{}': ("trailing", None, None),
    b'{"flowers": [1, 1]}]': ("trailing", None, None),
    b'{"flowers": [1, 1]}\x00': ("trailing", None, None),
    b'{"flowers": [1, 1]}\n{"flowers": [1, 1]}': ("trailing", None, None),
    b'{"flowers": ' + b"[" * 5000 + b"]" * 5000 + b"}": ("depth", None, None),
    b'{"flowers": [1, 1], "flowers": [1, 1]}': ("duplicate", None, None),
    b'{"flowers": [1, 1], "\\u0066lowers": [1, 1]}': ("duplicate", None, None),
    b'{"flowers": [[{"a": 1, "a": 1}, 1]]}': ("duplicate", None, None),
    b"[[1, 1]]": ("object", None, None),
    b"1": ("object", None, None),
    b"null": ("object", None, None),
    b'"flowers"': ("object", None, None),
    b"NaN": ("object", None, None),
    b"{}": ("field", None, None),
    b'{"features": [1, 1]}': ("field", None, None),
    b'{"Flowers": [1, 1]}': ("field", None, None),
    b'{"flowers": [1, 1], "debug": true}': ("field", None, None),
    b'{"flowers": [1, 1], "\\ud800": 1}': ("field", None, None),
    b'{"flowers": 1}': ("array", None, None),
    b'{"flowers": null}': ("array", None, None),
    b'{"flowers": "[1, 1]"}': ("array", None, None),
    b'{"flowers": {"0": [1, 1]}}': ("names", 0, None),
    b'{"flowers": [[1, 1], 1]}': ("array", 1, None),
    b'{"flowers": [[1, 1], null]}': ("array", 1, None),
    b'{"flowers": [[1, 1], {"0": 1, "1": 1}]}': ("array", 1, None),
    b'{"flowers": []}': ("empty", None, None),
    b'{"flowers": [[]]}': ("empty", 0, None),
    b'{"flowers": [[1, 1], []]}': ("empty", 1, None),
    b'{"flowers": [[1, 1], [1, 1], [1, 1], [1, 1]]}': ("rows", None, None),
    b'{"flowers": [1]}': ("columns", 0, None),
    b'{"flowers": [1, 1, 1]}': ("columns", 0, None),
    b'{"flowers": [[1, 1], [1]]}': ("columns", 1, None),
    b'{"flowers": [[1, 1, 1], [1]]}': ("columns", 0, None),
    b'{"flowers": [1, [1]]}': ("nested", 0, 1),
    b'{"flowers": [[1, 1], [[1], 1]]}': ("nested", 1, 0),
    b'{"flowers": [[[1, 1], [1, 1]]]}': ("nested", 0, 0),
    b'{"flowers": [[1, {}]]}': ("nested", 0, 1),
    b'{"flowers": [[1, true]]}': ("number", 0, 1),
    b'{"flowers": [false, 1]}': ("number", 0, 0),
    b'{"flowers": [[1, 1], [null, 1]]}': ("number", 1, 0),
    b'{"flowers": [[1, "1"]]}': ("number", 0, 1),
    b'{"flowers": [["NaN", 1]]}': ("number", 0, 0),
    b'{"flowers": [[1, NaN]]}': ("finite", 0, 1),
    b'{"flowers": [[1, 1], [Infinity, 1]]}': ("finite", 1, 0),
    b'{"flowers": [1, -Infinity]}': ("finite", 0, 1),
    b'{"flowers": [1, 1e999]}': ("finite", 0, 1),
    b'{"flowers": [-1e999, 1]}': ("finite", 0, 0),
    b'{"flowers": [1, ' + b"9" * 5000 + b"]}": ("finite", 0, 1),
    b'{"flowers": [1, 10.000000000000002]}': ("range", 0, 1),
    b'{"flowers": [[1, 1], [-0.001, 1]]}': ("range", 1, 0),
    b'{"flowers": [[1, 1], [1, 1], [1, -1.5]]}': ("range", 2, 1),
    b'{"flowers": [1, 100000000000000000000]}': ("range", 0, 1),
}


@pytest.mark.parametrize("body", REFUSED)
def test_broken_rules_are_named_with_their_place(body: bytes) -> None:
    """A 422 says which rule the body breaks and, where there is one, at which row and column."""
    assert refusal(IRIS, body) == REFUSED[body]


@given(st.sampled_from(sorted(REFUSED)))
def test_every_rule_is_documented(body: bytes) -> None:
    """The names that callers may rely on are in the docstring, all of them."""
    assert f"``{REFUSED[body][0]}``" in (Features.__doc__ or "")


def test_a_refusal_tells_nothing_about_the_input_or_the_model() -> None:
    """Neither values nor names of features, field or other members are repeated, not even to the log."""
    for value in ("31337", "-31337", "1e31337", '"31337"', "[31337]", '{"31337": 1}', "31337, 31337, 31337"):
        for body in (
            f'{{"flowers": [1, {value}]}}',
            f'{{"flowers": [[1, 1], [{value}, 1]]}}',
            f'{{"x31337": {value}}}',
        ):
            answer = post(IRIS, body.encode()).text
            assert not any(word in answer for word in ("31337", "secret_income", "sepal", "flowers"))


def test_the_sentence_says_where() -> None:
    """People read the place in the sentence, programs in the members."""
    assert post(IRIS, b'{"flowers": [1, 11]}').json() == {
        "detail": "A number is out of range (row 0, column 1, counted from 0).",
        "reason": "input rule 'range' is broken at row 0, column 1",
        "broken": "range",
        "row": 0,
        "column": 1,
    }


# OpenAPI ------------------------------------------------------------------------------------------------------------


def test_openapi_shows_what_is_accepted() -> None:
    """The documented schema has the shape and the bounds, and no feature's name."""
    guard = Features(columns=["secret_income", "b"], low=-1, high=10.5, max_rows=7)
    row = {"type": "array", "items": {"type": "number", "minimum": -1.0, "maximum": 10.5}, "minItems": 2, "maxItems": 2}
    body = guard.openapi_body()
    assert body["required"] is True
    number = row["items"]
    record = {"type": "object", "additionalProperties": number, "minProperties": 2, "maxProperties": 2}
    batches = [{"type": "array", "items": one, "minItems": 1, "maxItems": 7} for one in (row, record)]
    assert body["content"]["application/json"]["schema"] == {
        "type": "object",
        "properties": {"features": {"oneOf": [batches[0], row, batches[1], record]}},
        "required": ["features"],
        "additionalProperties": False,
    }
    assert "secret_income" not in json.dumps(body)


def test_openapi_leaves_out_bounds_that_differ_by_column() -> None:
    """One minimum for all columns would be wrong where each has its own."""
    guard = Features(columns=2, low=[0, 1], high=[5, 6], max_rows=1)
    schema = guard.openapi_body()["content"]["application/json"]["schema"]
    assert schema["properties"]["features"]["oneOf"][1]["items"] == {"type": "number"}


@given(
    st.lists(st.tuples(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308)).map(sorted), min_size=1, max_size=4),
)
def test_the_documented_example_is_accepted(bounds: list[list[float]]) -> None:
    """Whatever the bounds, "Try it out" in ``/docs`` works as it stands."""
    guard = Features(columns=len(bounds), low=[low for low, _ in bounds], high=[high for _, high in bounds], max_rows=1)
    example = guard.openapi_body()["content"]["application/json"]["example"]
    assert rows_of(guard, json.dumps(example).encode()).tolist() == example["features"]


def test_the_guard_declares_itself() -> None:
    """What the posture check, OpenAPI and ``harden`` need to know of the guard."""
    assert IRIS.control is Control.INPUT_VALIDATION
    assert IRIS.reads_body
    assert IRIS.statuses == (413, 415, 422)
    assert len({IRIS, IRIS, Features(columns=1, low=0, high=1, max_rows=1)}) == 2


# Configuration ------------------------------------------------------------------------------------------------------

WORKING: dict[str, Any] = {"columns": 2, "low": 0.0, "high": 1.0, "max_rows": 10}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("columns", value) for value in (0, -1, True, 2.0, None, "ab", b"ab", [], ["a", "a"], ["a", ""], ["a", 1])],
        *[("low", value) for value in (float("nan"), float("-inf"), None, True, "0", [True, 0.0], ["0", "0"])],
        *[("low", value) for value in ([0.0], [0.0, 0.0, 0.0], [[0.0, 0.0]], [0.0, float("nan")], [0.0, None], 2.0)],
        *[("high", value) for value in (float("inf"), np.nan, 10**400, -1, [1.0, -1.0], [[1.0], [1.0]], {1.0}, 1j)],
        *[("max_rows", value) for value in (0, -1, True, 1.5, None, "10")],
        *[("field", value) for value in ("", "a[0]", "a]", "a,b", "a\n", "a\x00", "\x85", "\ud800", None, 1, b"x")],
        *[
            ("dtype", value)
            for value in (bool, "float16", object, ">i4", "datetime64[s]", None, "no such type", ">f8", complex)
        ],
    ],
    ids=repr,
)
def test_settings_that_cannot_work_are_refused(setting: str, value: Any) -> None:
    """A guard that would let everything or nothing through is not built, and the text names the setting."""
    with pytest.raises(ConfigurationError, match=setting):
        Features(**{**WORKING, setting: value})


def test_bounds_must_fit_the_dtype() -> None:
    """A bound that is infinite as float32 would let infinities through."""
    with pytest.raises(ConfigurationError, match="high"):
        Features(columns=1, low=0, high=1e39, max_rows=1, dtype=np.float32)
    Features(columns=1, low=0, high=float(np.finfo(np.float32).max), max_rows=1, dtype="float32")


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 1),
        (Fraction(1, 2), 1),
        (np.float32(0), np.int64(1)),
        (np.zeros(2), [1, 1]),
        ((0, 0), 1),
        (1, 1),
        (0, 10**30),
    ],
)
def test_bounds_may_be_any_real_numbers(low: Any, high: Any) -> None:
    """Numbers come from configuration, numpy and scikit-learn scalers alike; both bounds are allowed values."""
    guard = Features(columns=2, low=low, high=high, max_rows=1)
    assert post(guard, b'{"features": [1, 1]}').json()["rows"] == [[1.0, 1.0]]


def test_bounds_are_the_guards_own() -> None:
    """Changing the array that bounds came from does not move them."""
    high = np.array([1.0, 2.0])
    guard = Features(columns=2, low=0, high=high, max_rows=1)
    high[:] = sys.float_info.max
    assert refusal(guard, b'{"features": [1, 3]}') == ("range", 0, 1)


# Squeezed -----------------------------------------------------------------------------------------------------------


def test_rows_are_squeezed_once_they_are_judged(tmp_path: Path) -> None:
    """In the order given, in any shape. What is out of range is refused as ever; a file takes the same functions."""
    bits = BitDepth(1, low=0, high=1)
    guard = Features(columns=2, low=0, high=1, max_rows=2, squeeze=[bits, lambda rows: rows / 2])
    guard.save(tmp_path / "rules.json")
    for squeezing in (guard, Features.load(tmp_path / "rules.json", squeeze=[bits, lambda rows: rows / 2])):
        answer = post(squeezing, b'{"features": [[0.2, 0.7], [1, 0]]}').json()
        assert (answer["rows"], answer["ready"]) == ([[0.0, 0.5], [0.5, 0.0]], True)
        assert refusal(squeezing, b'{"features": [[0.2, 1.1]]}') == ("range", 0, 1)
    image = Features(shape=(3, 3), low=0, high=1, max_rows=1, squeeze=[MedianSmoothing(3, shape=(3, 3))])
    assert post(image, b'{"features": [[0, 0, 0], [0, 1, 0], [0, 0, 0]]}').json()["rows"] == [[[0.0] * 3] * 3]


@pytest.mark.parametrize("shape", [{"columns": 9}, {"shape": (3, 3)}])
def test_a_batch_is_not_smoothed_as_one_image(shape: dict[str, Any]) -> None:
    """Without a shape the median would mix the rows of a batch, so the guard is not built."""
    with pytest.raises(ConfigurationError, match=r"shape=\(height, width\) of a row"):
        Features(**shape, low=0, high=1, max_rows=2, squeeze=[MedianSmoothing(2)])


def test_what_does_not_squeeze_such_rows_is_no_setting() -> None:
    """A dtype that it does not take, another shape, no function."""
    for wrong in ([BitDepth(1, low=0, high=1)], [lambda rows: rows[0]], ["bits"]):
        with pytest.raises(ConfigurationError):
            Features(columns=2, low=0, high=1, max_rows=2, dtype=np.int32, squeeze=wrong)  # type: ignore[arg-type]


def test_a_squeeze_must_keep_every_row() -> None:
    """What returns the first row alone fits a batch of one, and no other."""
    with pytest.raises(ConfigurationError, match="same shape"):
        Features(columns=2, low=0, high=1, max_rows=2, squeeze=[lambda rows: rows[:1]])
    Features(columns=2, low=0, high=1, max_rows=1, squeeze=[lambda rows: rows[:1]])
