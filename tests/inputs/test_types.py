"""The rules of ``Features`` inside pydantic models, alone and in a FastAPI app."""

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any, assert_type

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from mlguard.errors import ConfigurationError, InvalidInputError
from mlguard.inputs.features import Features
from mlguard.inputs.types import FeatureMatrix, FeatureVector, FiniteNumber
from tests.inputs.reading import rows_of

Row = Annotated[NDArray[np.float64], FeatureVector(columns=["secret_a", "secret_b"], low=[0, -1], high=10)]
Batch = Annotated[NDArray[np.float64], FeatureMatrix(columns=2, low=0, high=10, max_rows=3)]
BATCH: dict[str, Any] = {"columns": 2, "low": 0, "high": 10, "max_rows": 3}


class Flower(BaseModel):
    """A model as an app has it already."""

    row: Row
    weight: FiniteNumber = 1.0


class Flowers(BaseModel):
    """A model of a batch."""

    rows: Batch


def broken(model: type[BaseModel], value: Any) -> tuple[Any, ...]:
    """Rule, row and column of the one error."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate(value)
    (error,) = refused.value.errors()
    assert error["type"] == "invalid_features"
    return tuple(error["ctx"].get(name) for name in ("broken", "row", "column"))


def test_a_vector_is_an_array_for_type_checkers_and_at_run_time() -> None:
    """The model's field is a float64 array, and mypy knows it."""
    flower = Flower.model_validate({"row": [1, 2.5]})
    assert_type(flower.row, NDArray[np.float64])
    assert flower.row.dtype == np.float64
    assert flower.row.tolist() == [1.0, 2.5]


def test_a_matrix_keeps_its_rows() -> None:
    """A batch is a C-contiguous array of two dimensions."""
    rows = Flowers.model_validate_json('{"rows": [[1, 2], [3, 4.5]]}').rows
    assert rows.tolist() == [[1.0, 2.0], [3.0, 4.5]]
    assert rows.flags.c_contiguous


def test_python_callers_may_pass_tuples_and_arrays() -> None:
    """Code and tests build models from what they have, under the same rules."""
    assert Flower(row=np.array([1.0, 2.0])).row.tolist() == [1.0, 2.0]
    assert Flowers.model_validate({"rows": ((1, 2), (np.float64(3), 4))}).rows.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert broken(Flower, {"row": np.array([1.0, np.nan])}) == ("finite", 0, 1)
    assert broken(Flower, {"row": np.array([True, False])}) == ("number", 0, 0)
    assert broken(Flowers, {"rows": np.zeros((2, 2, 2))}) == ("nested", 0, 0)
    assert broken(Flowers, {"rows": np.float64(1)}) == ("array", None, None)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, ("array", 0, None)),
        ("12", ("array", 0, None)),
        (1.0, ("array", 0, None)),
        ({"0": 1}, ("array", 0, None)),
        ([], ("empty", 0, None)),
        ([1], ("columns", 0, None)),
        ([1, 2, 3], ("columns", 0, None)),
        ([[1, 2]], ("columns", 0, None)),
        ([1, [2]], ("nested", 0, 1)),
        ([1, True], ("number", 0, 1)),
        (["1", 2], ("number", 0, 0)),
        ([1, None], ("number", 0, 1)),
        ([1, b"2"], ("number", 0, 1)),
        ([1, 2j], ("number", 0, 1)),
        ([1, float("nan")], ("finite", 0, 1)),
        ([float("-inf"), 1], ("finite", 0, 0)),
        ([1, 10**400], ("finite", 0, 1)),
        ([1, -2], ("range", 0, 1)),
        ([10.5, 1], ("range", 0, 0)),
    ],
)
def test_a_vector_obeys_the_rules(value: Any, rule: tuple[Any, ...]) -> None:
    """Each broken rule is named as ``Features`` names it, in row 0."""
    assert broken(Flower, {"row": value}) == rule


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ([], ("empty", None, None)),
        ([1, 2], ("array", 0, None)),
        ([[1, 2], 3], ("array", 1, None)),
        ([[1, 2], [3]], ("columns", 1, None)),
        ([[1, 2]] * 4, ("rows", None, None)),
        ([[1, 2], [3, float("inf")]], ("finite", 1, 1)),
        ([[1, 2], [-(10**400), 1]], ("finite", 1, 0)),
        ([[1, 2], [3, 4], [5, 11]], ("range", 2, 1)),
    ],
)
def test_a_matrix_obeys_the_rules(value: Any, rule: tuple[Any, ...]) -> None:
    """A batch is refused with row and column of its first fault."""
    assert broken(Flowers, {"rows": value}) == rule


class Patient(BaseModel):
    """A model of a row with a gap, a text and a number that is clipped."""

    row: Annotated[
        NDArray[np.float64],
        FeatureVector(
            columns=["age", "sex", "height"],
            low=0,
            high=[130, 1, 250],
            missing=["age"],
            categories={"sex": ["f", "m"]},
            out_of_range="clip",
        ),
    ]


def test_missing_values_and_categories_work_in_models() -> None:
    """The options of ``Features`` mean the same in a model: null is NaN, a text its index, and a number is clipped."""
    patient = Patient.model_validate_json('{"row": [null, "m", 900]}')
    np.testing.assert_array_equal(patient.row, [np.nan, 1, 250])
    assert patient.model_dump_json() == '{"row":[null,1.0,250.0]}'
    assert broken(Patient, {"row": [1, "x", 900]}) == ("category", 0, 1)
    assert broken(Patient, {"row": [1, None, 900]}) == ("category", 0, 1)
    assert broken(Patient, {"row": patient.row}) == ("category", 0, 1)
    schema = Patient.model_json_schema()["properties"]["row"]
    assert schema["items"] == {"type": ["number", "string", "null"]}


def test_integers_in_models_are_exact() -> None:
    """A model's integers are not rounded to doubles on their way."""
    batch: Any = FeatureMatrix(columns=2, low=0, high=2**63 - 1, max_rows=2, dtype=np.int64)
    rows = TypeAdapter[Any](Annotated[Any, batch])
    assert rows.validate_json("[[9007199254740993, 3.0]]").tolist() == [[2**53 + 1, 3]]
    assert rows.validate_python(np.array([[2**53 + 1, 3]])).tolist() == [[2**53 + 1, 3]]
    assert rows.dump_json(rows.validate_python([[2**53 + 1, 1]])) == b"[[9007199254740993,1]]"
    for number, rule in ((3.5, "integer"), (2.0**60, "integer"), (2**63, "range")):
        with pytest.raises(ValidationError) as refused:
            rows.validate_python([[1, number]])
        assert refused.value.errors()[0]["ctx"]["broken"] == rule


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


def outcome(read: Callable[[], Any]) -> Any:
    """The rows, or what the refusal tells."""
    try:
        return np.atleast_2d(read()).tolist()
    except InvalidInputError as refusal:
        return {"detail": refusal.detail, **refusal.members}
    except ValidationError as refusal:
        return refusal.errors()[0]["ctx"]


@given(st.one_of(json_values, st.lists(st.lists(st.floats(-1, 11), min_size=2, max_size=2), max_size=4)))
def test_pydantic_and_features_agree(value: Any) -> None:
    """The same rows are accepted, or refused for the same reason, whichever way they come in."""
    is_row = isinstance(value, list) and value and not isinstance(value[0], list)
    rules: Any = FeatureVector(columns=2, low=0, high=10) if is_row else FeatureMatrix(**BATCH)
    body = json.dumps({"features": value}).encode()
    assert outcome(lambda: TypeAdapter[Any](Annotated[Any, rules]).validate_python(value)) == outcome(
        lambda: rows_of(Features(**BATCH), body)
    )


def test_messages_hold_no_value_and_no_name() -> None:
    """Nothing that mlguard writes into an error repeats the input; pydantic's own ``input`` is beside it."""
    for value in ([1, 31337], [1, "31337"], [31337], [[31337], 1], "31337"):
        with pytest.raises(ValidationError) as refused:
            Flower.model_validate({"row": value})
        (error,) = refused.value.errors(include_input=False)
        assert "31337" not in str(error)
        assert "secret" not in str(error)
        assert "31337" not in str(refused.value.__cause__)


def test_models_are_written_as_lists() -> None:
    """A model with arrays can be an answer too."""
    flower = Flower(row=np.array([1.0, 2.0]))
    assert flower.model_dump_json() == '{"row":[1.0,2.0],"weight":1.0}'
    assert flower.model_dump()["row"] is flower.row


def test_schemas_show_shape_and_common_bounds() -> None:
    """JSON schemas tell the rules that they can express, and no feature's name."""
    number = {"type": "number", "minimum": 0.0, "maximum": 10.0}
    row = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    schema = Flowers.model_json_schema()["properties"]["rows"]
    assert schema == {"title": "Rows", "type": "array", "items": row, "minItems": 1, "maxItems": 3}
    serialized = Flower.model_json_schema(mode="serialization")["properties"]
    assert serialized["row"]["items"] == {"type": "number", "maximum": 10.0}
    assert serialized["weight"]["type"] == "number"
    assert "secret" not in str(serialized)


@pytest.mark.parametrize("value", [True, "1", None, [1], float("nan"), float("inf"), float("-inf"), 10**400, 1j])
def test_a_finite_number_is_nothing_else(value: Any) -> None:
    """No boolean, no number in a string, nothing infinite."""
    with pytest.raises(ValidationError):
        TypeAdapter[Any](FiniteNumber).validate_python(value)


@pytest.mark.parametrize(
    "text", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "true", '"1"', "null", "[1]", "9" * 400]
)
def test_a_finite_number_in_json_is_nothing_else(text: str) -> None:
    """Pydantic's own JSON parser lets infinities through; the type does not."""
    with pytest.raises(ValidationError):
        TypeAdapter[Any](FiniteNumber).validate_json(text)


def test_a_finite_number_is_a_float() -> None:
    """Integers count as numbers, and bounds are added as usual."""
    assert isinstance(TypeAdapter[Any](FiniteNumber).validate_json("3"), float)
    bounded = TypeAdapter[Any](Annotated[FiniteNumber, Field(ge=0, le=10)])
    assert bounded.validate_python(10) == 10.0
    with pytest.raises(ValidationError):
        bounded.validate_python(11)


def test_settings_that_cannot_work_are_refused() -> None:
    """The types check their settings as ``Features`` does."""
    with pytest.raises(ConfigurationError, match="low"):
        FeatureVector(columns=2, low=1, high=0)
    with pytest.raises(ConfigurationError, match="max_rows"):
        FeatureMatrix(columns=2, low=0, high=1, max_rows=0)


def test_single_precision() -> None:
    """``dtype`` decides what the model receives, and what is finite."""
    adapter = TypeAdapter[Any](
        Annotated[NDArray[np.float32], FeatureVector(columns=1, low=0, high=1, dtype=np.float32)]
    )
    assert adapter.validate_python([0.5]).dtype == np.float32
    with pytest.raises(ValidationError, match="not finite"):
        adapter.validate_python([1e39])


# In a FastAPI app ---------------------------------------------------------------------------------------------------


def make_app() -> FastAPI:
    app = FastAPI()

    @app.post("/row")
    def predict(flower: Flower) -> Flower:
        return flower

    @app.post("/rows")
    def predict_batch(flowers: Flowers) -> float:
        return float(flowers.rows.sum())

    @app.exception_handler(RequestValidationError)
    def answer(request: Request, refusal: RequestValidationError) -> JSONResponse:
        return JSONResponse([error["ctx"] for error in refusal.errors()], 422)

    return app


def post(path: str, body: bytes) -> httpx.Response:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://test") as client:
            return await client.post(path, content=body, headers={"content-type": "application/json"})

    return asyncio.run(call())


def test_models_work_in_an_app() -> None:
    """The annotated types go in and out of an endpoint, and into its documentation."""
    assert post("/row", b'{"row": [1, 2]}').json() == {"row": [1.0, 2.0], "weight": 1.0}
    assert post("/rows", b'{"rows": [[1, 2], [3, 4]]}').json() == 10.0
    schemas = make_app().openapi()["components"]["schemas"]
    assert schemas["Flowers"]["properties"]["rows"]["maxItems"] == 3


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 400])
def test_fastapis_own_parser_lets_nothing_through(number: bytes) -> None:
    """What Python's JSON parser takes for a number still has to be finite."""
    response = post("/rows", b'{"rows": [[1, 2], [3, ' + number + b"]]}")
    assert response.status_code == 422
    assert [(error["broken"], error["row"], error["column"]) for error in response.json()] == [("finite", 1, 1)]
