"""Which formats are read, by content type and by the shape of the document, through a real FastAPI app."""

import asyncio
import io
import json
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import Depends, FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st

from mlguard import hardening
from mlguard._guard import RequestMemory
from mlguard.errors import ConfigurationError, InvalidInputError
from mlguard.inputs.features import Features
from tests.inputs.reading import outcome, rows_of

ALL = ("json", "open-inference", "mlflow", "npy", "csv")
ROWS = [[1.0, 2.5, 3.0], [4.0, 5.0, 6.0]]
RULES: dict[str, Any] = {"low": 0.0, "high": 10.0, "max_rows": 4}


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


TENSOR = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": ROWS}
BODIES: dict[str, list[tuple[str, bytes]]] = {
    "json": [("application/json", json.dumps({"features": ROWS}).encode())],
    "open-inference": [("application/json", json.dumps({"inputs": [TENSOR]}).encode())],
    "mlflow": [
        ("application/json", json.dumps({"instances": ROWS}).encode()),
        ("application/json", json.dumps({"inputs": ROWS}).encode()),
        ("application/json", json.dumps({"dataframe_split": {"data": ROWS}}).encode()),
    ],
    "npy": [("application/x-npy", npy(ROWS))],
    "csv": [("text/csv", b"x,y,z\n1,2.5,3\n4,5,6\n")],
}


def app_with(guard: Features) -> FastAPI:
    app = FastAPI()
    hardening.harden(app)

    @app.post("/predict")
    def predict(request: Request, x: Annotated[Any, Depends(guard)]) -> Any:
        call = RequestMemory.of(request.scope).inference_call
        return {"rows": x.tolist(), "call": call and call.id, "ready": bool(x.flags.carray)}

    return app


def send(guard: Features, body: bytes, headers: list[tuple[str, str]]) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app_with(guard))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/predict", content=body, headers=headers)

    return asyncio.run(call())


def post(guard: Features, body: bytes, content_type: str | None, **headers: str) -> httpx.Response:
    sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return send(guard, body, sent + [("content-type", content_type or "")] * (content_type is not None))


# By content type and by shape -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_format_gives_the_same_array(name: str) -> None:
    """The endpoint cannot tell in which format the rows came, alone or beside all others."""
    for formats in ((name,), ALL, [*reversed(ALL)], {*ALL}):
        guard = Features(columns=3, formats=formats, **RULES)
        for content_type, body in BODIES[name]:
            answer = post(guard, body, content_type)
            assert answer.status_code == 200, answer.text
            assert answer.json()["rows"] == ROWS
            assert answer.json()["ready"]


@pytest.mark.parametrize("name", ALL)
def test_a_format_that_is_off_is_not_read(name: str) -> None:
    """What was not turned on is refused: by its content type, or as a document that nobody expects."""
    others = [other for other in ALL if other != name]
    guard = Features(columns=3, formats=others, **RULES)
    for content_type, body in BODIES[name]:
        answer = post(guard, body, content_type)
        assert answer.status_code == (422 if content_type == "application/json" else 415)


def test_nothing_but_our_own_json_is_on_at_first() -> None:
    """Who has asked for no other format gets none."""
    guard = Features(columns=3, **RULES)
    for name in ALL:
        for content_type, body in BODIES[name]:
            assert (post(guard, body, content_type).status_code == 200) is (name == "json")


def test_inputs_belong_to_whom_their_shape_says() -> None:
    """Open Inference and MLflow share a member: tensors are objects, rows are lists, and both may be on."""
    both = Features(columns=["a", "b", "c"], formats=["open-inference", "mlflow"], **RULES)
    for read in ([TENSOR], ROWS, {"a": [1, 4], "b": [2.5, 5], "c": [3, 6]}):
        assert rows_of(both, json.dumps({"inputs": read}).encode()).tolist() == ROWS
    cases: list[tuple[list[str], Any, str]] = [
        (["open-inference"], ROWS, "field"),
        (["open-inference"], [], "empty"),
        (["open-inference", "json"], {}, "array"),
        (["open-inference", "mlflow"], [], "empty"),
        (["open-inference", "mlflow"], 1, "array"),
        (["open-inference", "mlflow", "json"], [{}], "field"),
    ]
    for formats, inputs, rule in cases:
        guard = Features(columns=["a", "b", "c"], formats=formats, **RULES)
        with pytest.raises(InvalidInputError) as refusal:
            rows_of(guard, json.dumps({"inputs": inputs}).encode())
        assert refusal.value.members["broken"] == rule


def test_a_document_of_nobody_lacks_its_member() -> None:
    """A document without any member that is known is refused as one of ours would be."""
    for formats in (ALL, ["open-inference"], ["mlflow"], ["mlflow", "open-inference"]):
        for body in (b"{}", b'{"data": [[1, 2, 3]]}'):
            with pytest.raises(InvalidInputError) as refusal:
                rows_of(Features(columns=3, formats=formats, **RULES), body)
            assert refusal.value.members == {"broken": "field"}


@pytest.mark.parametrize(
    ("formats", "accept"),
    [
        (["json"], "application/json"),
        (["mlflow", "open-inference"], "application/json"),
        (["csv", "npy"], "application/x-npy, text/csv"),
        (ALL, "application/json, application/x-npy, text/csv"),
    ],
)
def test_a_refusal_names_the_types_that_are_read(formats: list[str], accept: str) -> None:
    """Who sends another type is told which ones there are."""
    answer = post(Features(columns=3, formats=formats, **RULES), b"x", "application/xml")
    assert answer.status_code == 415
    assert answer.headers["accept"] == accept


@pytest.mark.parametrize(
    ("name", "content_type", "status"),
    [
        ("npy", "Application/X-NPY", 200),
        ("npy", "application/x-npy; version=1", 200),
        ("npy", "application/octet-stream", 415),
        ("npy", "application/json", 422),
        ("csv", "TEXT/CSV", 200),
        ("csv", 'text/csv; charset="UTF-8"; header=present', 200),
        ("csv", "text/csv;header=absent", 415),
        ("csv", 'text/csv; Header="Absent"', 415),
        ("csv", "text/csv; charset=latin-1", 415),
        ("csv", "text/plain", 415),
        ("csv", "application/csv", 415),
        ("csv", "application/json", 422),
        ("csv", "application/x-npy", 422),
        ("npy", "text/csv", 422),
        ("json", "text/csv", 422),
        ("json", "application/x-npy", 422),
        ("open-inference", "application/vnd.kserve+json", 200),
        ("mlflow", "application/json; charset=utf-8", 200),
        ("mlflow", "application/json; charset=utf-16", 415),
    ],
)
def test_content_types_are_what_they_say(name: str, content_type: str, status: int) -> None:
    """A body is read as what it is declared to be, and as nothing else, however the type is spelled."""
    guard = Features(columns=3, formats=ALL, **RULES)
    assert post(guard, BODIES[name][0][1], content_type).status_code == status


def test_a_body_has_one_content_type() -> None:
    """Two types are one too many, even where both are read."""
    guard = Features(columns=3, formats=ALL, **RULES)
    headers = [("content-type", "application/json"), ("content-type", "text/csv")]
    assert send(guard, BODIES["csv"][0][1], headers).status_code == 415


# What Triton's clients send -------------------------------------------------------------------------------------------


def test_open_inference_needs_no_content_type_but_in_browsers() -> None:
    """Triton's client names none. A web page of another origin could do the same, but for the Origin that it sends."""
    guard = Features(columns=3, formats=ALL, **RULES)
    assert post(guard, BODIES["open-inference"][0][1], None).json()["rows"] == ROWS
    assert post(guard, BODIES["open-inference"][0][1], None, origin="https://example.org").status_code == 415
    assert post(guard, BODIES["json"][0][1], None).status_code == 422
    without = Features(columns=3, formats=["json", "mlflow", "npy", "csv"], **RULES)
    assert post(without, BODIES["json"][0][1], None).status_code == 415


def test_binary_data_is_refused_by_name() -> None:
    """Who sends binary tensors is told so, and not that the JSON is wrong."""
    guard = Features(columns=3, formats=["open-inference", "json"], **RULES)
    tensor = {**TENSOR, "parameters": {"binary_data_size": 24}}
    del tensor["data"]
    body = json.dumps({"inputs": [tensor]}).encode()
    for content_type in (None, "application/octet-stream", "application/json"):
        answer = post(guard, body + b"\x00" * 24, content_type, inference_header_content_length=str(len(body)))
        assert answer.status_code == 422
        assert answer.json()["broken"] == "binary"
    assert post(guard, body, "application/json").json()["broken"] == "binary"
    other = Features(columns=3, **RULES)  # where the protocol is off, its header means nothing
    assert post(other, BODIES["json"][0][1], "application/json", inference_header_content_length="9").status_code == 200


def test_the_call_is_there_for_whoever_answers() -> None:
    """The id of an Open Inference request is in the request's memory, and that of no other."""
    guard = Features(columns=3, formats=ALL, **RULES)
    body = json.dumps({"id": "7f", "inputs": [TENSOR], "outputs": [{"name": "label"}]}).encode()
    assert post(guard, body, "application/json").json()["call"] == "7f"
    assert post(guard, BODIES["open-inference"][0][1], "application/json").json()["call"] == ""
    assert post(guard, BODIES["json"][0][1], "application/json").json()["call"] is None


# OpenAPI ------------------------------------------------------------------------------------------------------------

NAMES = ["secret_income", "secret_age", "b"]


@pytest.mark.parametrize("columns", [3, NAMES])
def test_openapi_shows_what_is_on_and_no_name(columns: Any) -> None:
    """Each content type that is read is there with a schema, and nothing else is."""
    for formats, types in ((["json"], ["application/json"]), (["npy"], ["application/x-npy"]), (["csv"], ["text/csv"])):
        assert [*Features(columns=columns, formats=formats, **RULES).openapi_body()["content"]] == types
    body = Features(columns=columns, formats=ALL, **RULES).openapi_body()
    assert [*body["content"]] == ["application/json", "application/x-npy", "text/csv"]
    assert all(described["schema"] for described in body["content"].values())
    assert len(body["content"]["application/json"]["schema"]["oneOf"]) == 3
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize(
    "names", [["json"], ["open-inference"], ["mlflow"], ["json", "open-inference", "mlflow"]], ids=str
)
@given(st.sampled_from([{"columns": 3}, {"columns": NAMES}, {"shape": (2, 3)}, {"shape": (2, 2, 2)}, {"columns": 1}]))
def test_documented_examples_are_accepted(names: list[str], rows: dict[str, Any]) -> None:
    """Every example of a JSON document can be sent as it stands."""
    guard = Features(formats=names, **rows, **RULES)
    described = guard.openapi_body()["content"]["application/json"]
    examples = [described["example"]] if len(names) == 1 else [each["value"] for each in described["examples"].values()]
    assert len(examples) == len(names)
    for example in examples:
        found = rows_of(guard, json.dumps(example).encode())
        assert found.tolist() == np.full((1, *guard.shape), 5.0).tolist()


def test_the_documented_table_is_accepted() -> None:
    """The example of a table has a header, and rows within the bounds. It would tell names that are there."""
    guard = Features(columns=3, formats=["csv"], **RULES)
    example = guard.openapi_body()["content"]["text/csv"]["example"]
    assert rows_of(guard, example.encode(), "text/csv").tolist() == [[5.0] * 3]
    assert "example" not in Features(columns=NAMES, formats=["csv"], **RULES).openapi_body()["content"]["text/csv"]


def test_large_tensors_have_no_example() -> None:
    """A document of a hundred thousand numbers helps nobody."""
    guard = Features(shape=(3, 224, 224), formats=ALL[:-1], **RULES)
    assert len(json.dumps(guard.openapi_body())) < 10_000


# Configuration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formats", [(), [], "json", "", None, 1, ["JSON"], ["json", "xml"], [None], ["json", 1], ["npz"], {}]
)
def test_formats_that_there_are_not_are_refused(formats: Any) -> None:
    """A typo does not turn a format off unseen, and the text lists the names."""
    with pytest.raises(ConfigurationError, match=r"formats must be .*'json', 'open-inference', 'mlflow', 'npy', 'csv'"):
        Features(columns=3, formats=formats, **RULES)


def test_tables_hold_no_tensors() -> None:
    """A line of a table is not nested, so one cannot be asked for."""
    with pytest.raises(ConfigurationError, match="formats"):
        Features(shape=(2, 2), formats=["csv"], **RULES)
    Features(shape=(4,), formats=["csv"], **RULES)


@pytest.mark.parametrize("field", ["inputs", "instances", "dataframe_split", "dataframe_records"])
def test_the_field_is_nobody_elses_member(field: str) -> None:
    """A document must not be meant in two ways."""
    for formats in (["json", "mlflow"], ALL):
        with pytest.raises(ConfigurationError, match="field"):
            Features(columns=3, field=field, formats=formats, **RULES)
    assert rows_of(Features(columns=3, field=field, **RULES), json.dumps({field: ROWS}).encode()).tolist() == ROWS
    if field == "inputs":
        with pytest.raises(ConfigurationError, match="field"):
            Features(columns=3, field=field, formats=["json", "open-inference"], **RULES)


# Any bytes ----------------------------------------------------------------------------------------------------------

WHOLE = [body for name in ALL for _, body in BODIES[name]]
PARTS = [b"[", b"]", b"{", b"}", b'"', b",", b":", b"\n", b"1", b"-", b"\x93NUMPY", *WHOLE]
FUZZED = [Features(columns=columns, formats=ALL, **RULES) for columns in (3, ["x", "y", "z"])]


@given(
    st.lists(st.sampled_from(PARTS) | st.binary(max_size=8), max_size=4).map(b"".join),
    st.sampled_from(["application/json", "application/x-npy", "text/csv"]),
    st.sampled_from(FUZZED),
)
def test_any_body_is_refused_or_keeps_the_rules(body: bytes, content_type: str, guard: Features) -> None:
    """Polyglots, halves and nonsense: whatever comes, the model gets numbers within the bounds, or nothing."""
    found = outcome(lambda: rows_of(guard, body, content_type))
    if isinstance(found, dict):
        assert set(found) <= {"broken", "row", "column"}
        return
    rows = rows_of(guard, body, content_type)
    assert rows.dtype == np.float64
    assert rows.shape[1:] == (3,)
    assert 1 <= len(rows) <= 4
    assert ((rows >= 0) & (rows <= 10)).all()
