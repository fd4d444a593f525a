"""Answers as tensors, for clients of the Open Inference Protocol."""

import json
from typing import Annotated, Any

import numpy as np
import orjson
import pytest
from fastapi import Body, Depends, FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.asgi import Answer, call

from mlguard import ConfigurationError, Features, OpenInferenceAnswer, UnsafeOutputError, harden, truncate_output
from mlguard.outputs.open_inference_answers import id_of

BATCH = np.array([[0.1234, 0.2345, 0.6421], [0.7004, 0.2003, 0.0993]])
CLASSES = ["cat", "dog", "owl"]
IRIS = OpenInferenceAnswer(model_name="iris", output="predict")
JSON = (b"content-type", b"application/json")


class Scored(BaseModel):
    probabilities: list[list[float]]
    model_version: str = "secret 1.2.3"


def serve(answer: Any, *, form: OpenInferenceAnswer = IRIS, **options: Any) -> Answer:
    app = FastAPI()

    @app.post("/predict", response_model=None)
    @truncate_output(answer=form, **options)
    def predict() -> Any:
        return answer

    harden(app)
    return call(app)


def tensors(answer: Any, **options: Any) -> list[tuple[Any, ...]]:
    """The tensors of an answer, each checked for a shape that fits its data."""
    found = serve(answer, **options)
    assert found.status == 200
    assert set(found.json) == {"model_name", "outputs"}
    assert found.json["model_name"] == "iris"
    for tensor in found.json["outputs"]:
        assert set(tensor) == {"name", "shape", "datatype", "data"}
        assert int(np.prod(tensor["shape"])) == len(tensor["data"])
        kinds = {"FP64": float, "INT64": int, "BYTES": str}
        assert {type(item) for item in tensor["data"]} <= {kinds[tensor["datatype"]]}
    return [(t["name"], t["shape"], t["datatype"], t["data"]) for t in found.json["outputs"]]


FLAT = [0.12, 0.24, 0.64, 0.7, 0.2, 0.1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [("predict", [2, 3], "FP64", FLAT)]),
        ({"labels": CLASSES}, [("predict", [2, 3], "FP64", FLAT)]),
        ({"significant": 1}, [("predict", [2, 3], "FP64", [0.1, 0.2, 0.6, 0.7, 0.2, 0.1])]),
        ({"exact": True}, [("predict", [2, 3], "FP64", BATCH.ravel().tolist())]),
        ({"label_only": True}, [("predict", [2], "INT64", [2, 0])]),
        ({"label_only": True, "labels": CLASSES}, [("predict", [2], "BYTES", ["owl", "cat"])]),
        ({"label_only": True, "labels": [7, 8, 9]}, [("predict", [2], "INT64", [9, 7])]),
        ({"label_only": True, "labels": [7, "8", 9]}, [("predict", [2], "BYTES", ["9", "7"])]),
        ({"label_only": True, "min_confidence": 0.7}, [("predict", [2], "BYTES", ["abstain", "0"])]),
        (
            {"top_k": 2, "labels": CLASSES},
            [
                ("predict", [2, 2], "BYTES", ["owl", "dog", "cat", "dog"]),
                ("predict_scores", [2, 2], "FP64", [0.64, 0.24, 0.7, 0.2]),
            ],
        ),
        (
            {"top_k": 1, "rest": "other"},
            [
                ("predict", [2, 2], "BYTES", ["2", "other", "0", "other"]),
                ("predict_scores", [2, 2], "FP64", [0.64, 0.36, 0.7, 0.3]),
            ],
        ),
        (
            {"confidence": 1, "labels": CLASSES},
            [("predict", [2, 1], "BYTES", ["owl", "cat"]), ("predict_scores", [2, 1], "FP64", [1.0, 1.0])],
        ),
        ({"bins": [0, 0.5, 1]}, [("predict", [2, 3], "FP64", [0.25, 0.25, 0.75, 0.75, 0.25, 0.25])]),
        (
            {"bins": [0, 0.5, 1], "bins_as": "edges"},
            [("predict", [2, 3, 2], "FP64", [0.0, 0.5, 0.0, 0.5, 0.5, 1.0, 0.5, 1.0, 0.0, 0.5, 0.0, 0.5])],
        ),
    ],
    ids=repr,
)
def test_every_policy_becomes_tensors(options: dict[str, Any], expected: list[Any]) -> None:
    """What the policy leaves is flat, of the shape that is said, and under the names that were chosen."""
    for answer in ({"probabilities": BATCH}, {"probabilities": BATCH.tolist(), "x": 0.123456}, BATCH, BATCH.tolist()):
        assert tensors(answer, **options) == expected
    assert tensors(Scored(probabilities=BATCH.tolist()), **options) == expected


@pytest.mark.parametrize(
    ("answer", "options", "expected"),
    [
        (BATCH[0], {}, ("predict", [3], "FP64", [0.12, 0.24, 0.64])),
        (BATCH[0], {"label_only": True}, ("predict", [1], "INT64", [2])),
        (np.array([1234.567]), {"significant": 3}, ("predict", [1], "FP64", [1230.0])),
        (np.array([[1234.567], [0.5]]), {"significant": 3}, ("predict", [2, 1], "FP64", [1230.0, 0.5])),
        (np.float64(3.7), {"bins": [0, 10]}, ("predict", [], "FP64", [5.0])),
        ([3, 4], {}, ("predict", [2], "FP64", [3.0, 4.0])),
        (np.zeros((0, 3)), {}, ("predict", [0, 3], "FP64", [])),
        (np.zeros((0, 3)), {"label_only": True}, ("predict", [0], "INT64", [])),
        ({"a": [{"b": BATCH}]}, {"scores": "a.0.b", "label_only": True}, ("predict", [2], "INT64", [2, 0])),
    ],
    ids=repr,
)
def test_shapes_of_one_row_no_rows_and_regression(answer: Any, options: Any, expected: Any) -> None:
    """The shape is that of the scores, whatever they are."""
    assert tensors(answer if isinstance(answer, dict) else {"probabilities": answer}, **options or {}) == [expected]


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"label_only": True}, {"top_k": 1}, {"bins": [0, 1]}])
@pytest.mark.parametrize(
    "answer",
    [
        {"logits": [0.12, 0.88]},
        {"probabilities": None},
        {"probabilities": "0.12"},
        {"probabilities": [[0.12, 0.88], [0.12]]},
        {"probabilities": [0.12, float("nan")]},
        {"probabilities": np.ma.masked_array([0.12, 0.88], mask=[True, False])},
        "0.12",
        None,
    ],
    ids=repr,
)
def test_no_scores_no_answer(answer: Any, options: dict[str, Any]) -> None:
    """What the endpoint returns is never sent in another form instead."""
    found = serve(answer, **options)
    assert found.status == 500
    assert b"0.12" not in found.body


@pytest.mark.parametrize("scores", ["a.b", "a.1", "a.0.b", "b"])
def test_a_path_that_leads_nowhere_is_no_answer(scores: str) -> None:
    """So is one that ends beside the scores."""
    with pytest.raises(UnsafeOutputError, match="no field"):
        truncate_output(answer=IRIS, scores=scores)(lambda: {"a": [0.5]})()


def test_nothing_of_the_inside_is_sent() -> None:
    """No version, no parameters, no feature's name: all else that the endpoint returns stays inside."""
    body = serve({"probabilities": BATCH, "model_version": "1.2.3", "features": ["income"], "model_name": "RF"}).body
    for inside in (b"1.2.3", b"income", b"RF", b"version", b"parameters"):
        assert inside not in body
    assert serve(BATCH, form=OpenInferenceAnswer()).json["model_name"] == "model"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"scores": "a.*.b"}, r"\*"),
        ({"min_confidence": 0.5}, "min_confidence needs label_only"),
        ({"min_confidence": 0.5, "top_k": 1}, "min_confidence needs label_only"),
        ({"min_confidence": 0.5, "label_only": True, "abstain": None}, "abstain"),
    ],
    ids=repr,
)
def test_what_fits_no_tensor_is_refused_at_once(options: dict[str, Any], names: str) -> None:
    """A tensor has no holes."""
    with pytest.raises(ConfigurationError, match=names):
        truncate_output(answer=IRIS, **options)


@pytest.mark.parametrize("names", [{"model_name": ""}, {"output": ""}, {"model_name": None}, {"output": 5}])
def test_names_are_texts(names: dict[str, Any]) -> None:
    """The protocol demands them."""
    with pytest.raises(ConfigurationError, match="must be text"):
        OpenInferenceAnswer(**names)


# The id of a request ------------------------------------------------------------------------------------------------


class Asked(BaseModel):
    id: Any = None
    features: list[float] = []


def app_that_reads(how: str) -> FastAPI:
    app = FastAPI()
    features = Features(columns=2, low=0, high=9, max_rows=3, formats=["json", "open-inference"])
    decorate = truncate_output(answer=IRIS, label_only=True)

    if how == "model":

        @app.post("/predict")
        @decorate
        def with_model(body: Asked) -> Any:
            return BATCH

    elif how == "guard":

        @app.post("/predict")
        @decorate
        async def with_guard(x: Annotated[Any, Depends(features)]) -> Any:
            return BATCH

    elif how == "bytes":

        @app.post("/predict")
        @decorate
        async def with_bytes(request: Request) -> Any:
            await request.body()
            return BATCH

    else:

        @app.post("/predict")
        @decorate
        async def with_nothing(text: Annotated[str, Body()] = "") -> Any:
            return BATCH

    harden(app)
    return app


@pytest.mark.parametrize("how", ["model", "bytes"])
@pytest.mark.parametrize(
    ("given_id", "echoed"),
    [
        ("42", "42"),
        ("a b-c_d:é"[:-1], "a b-c_d:"),
        ("x" * 128, "x" * 128),
        ("x" * 129, None),
        ("", None),
        (42, None),
        (None, None),
        (["42"], None),
        ("a\nb", None),
        ("a\x00", None),
        ("\x7f", None),
        ("é", None),
        ("\u202e", None),
        ("0.123456", "0.123456"),
    ],
    ids=repr,
)
def test_a_short_printable_id_is_repeated(how: str, given_id: Any, echoed: str | None) -> None:
    """Clients match answers by it; anything that is no plain short text is left out."""
    body = orjson.dumps({"id": given_id, "features": [1, 2]})
    answer = call(app_that_reads(how), headers=[JSON], chunks=[body])
    assert answer.status == 200
    assert answer.json.get("id") == echoed
    assert list(answer.json) == ["model_name", *(["id"] if echoed else []), "outputs"]


@pytest.mark.parametrize(
    ("given_id", "echoed"), [("42", "42"), ("x" * 129, None), ("", None), ("a\nb", None), (None, None)], ids=repr
)
def test_the_id_of_an_open_inference_request_is_repeated(given_id: str | None, echoed: str | None) -> None:
    """Where Features has read the request, by the same rules."""
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    document = {"inputs": [tensor]} | ({} if given_id is None else {"id": given_id})
    answer = call(app_that_reads("guard"), headers=[JSON], chunks=[orjson.dumps(document)])
    assert (answer.status, answer.json.get("id")) == (200, echoed)


@pytest.mark.parametrize(("how", "body"), [("guard", b'{"features": [1, 2]}'), ("text", b'"id"'), ("bytes", b"{")])
def test_a_request_without_an_id_has_none(how: str, body: bytes) -> None:
    """Nor has a body that is no object, or no JSON at all."""
    answer = call(app_that_reads(how), headers=[JSON], chunks=[body])
    assert list(answer.json) == ["model_name", "outputs"]


@settings(deadline=None)
@given(
    st.binary(max_size=40)
    | st.dictionaries(st.sampled_from(["id", "Id", "x"]), st.text() | st.integers()).map(
        lambda members: json.dumps(members).encode()
    )
)
def test_any_body_has_a_safe_id_or_none(body: bytes) -> None:
    """Whatever the bytes are, nothing is raised, and what is repeated is short and printable."""
    found = id_of(body)
    assert found is None or (0 < len(found) <= 128 and found.isascii() and found.isprintable())


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"[" * 5000,
        b'{"id": "a"',
        b'{"id": "\xff"}',
        b'["id"]',
        b'{"id": "\\ud800"}',
        b'\xef\xbb\xbf{"id":"a"}',
    ],
)
def test_hostile_bodies_have_no_id(body: bytes | None) -> None:
    """Deep, broken and wrongly encoded bodies are left to whoever reads them."""
    assert id_of(body) in {None, "a"} if body and body.startswith(b"\xef") else id_of(body) is None
