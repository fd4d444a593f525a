"""OpenAPI shows the answer as it is sent, and not as the endpoint returned it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from tests.asgi import call

from mlguard import EventStream, OpenInferenceAnswer, harden, truncate_output

NUMBERS = {"type": "array", "items": {"type": "number"}}
CLASSES = ["cat", "dog"]
ROWS = [[0.25, 0.75], [0.5, 0.5]]


class Prediction(BaseModel):
    """What the endpoint returns."""

    probabilities: list[list[float]]
    seconds: float = 0.5


class One(BaseModel):
    probabilities: list[float]


class Maybe(BaseModel):
    probabilities: list[float] | None = None


class Nested(BaseModel):
    outputs: list[Prediction]


class Anything(BaseModel):
    probabilities: Any


class Price(BaseModel):
    probabilities: float
    all: list[list[float]] = []


@dataclass
class Plain:
    probabilities: list[list[float]]


def documented(model: Any, *, status: int = 200, **options: Any) -> tuple[FastAPI, dict[str, Any]]:
    """An app, and the schema of the answer of its one endpoint, of a route in a router."""
    app, router = FastAPI(), APIRouter()

    @router.get("/predict", response_model=model, status_code=status)
    @truncate_output(**options)
    def predict() -> Any: ...

    app.include_router(router)
    harden(app, docs=True)
    content = app.openapi()["paths"]["/predict"]["get"]["responses"][str(status)]["content"]
    assert list(content) == ["application/json"]
    return app, content["application/json"]["schema"]


def of_field(schema: dict[str, Any], name: str = "probabilities") -> Any:
    field = dict(schema["properties"][name])
    for note in ("title", "default", "description"):
        field.pop(note, None)
    return field


RANKED = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["label", "score"],
        "properties": {"label": {"enum": CLASSES}, "score": {"type": "number"}},
    },
}
INDEX = {"type": "integer", "minimum": 0}


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({"label_only": True}, INDEX),
        ({"label_only": True, "labels": CLASSES}, {"enum": CLASSES}),
        ({"top_k": 1, "labels": CLASSES}, RANKED),
        ({"confidence": 1.0, "labels": CLASSES}, RANKED),
        (
            {"top_k": 1, "rest": "other"},
            {
                **RANKED,
                "items": {
                    **RANKED["items"],  # type: ignore[dict-item]
                    "properties": {"label": {"anyOf": [INDEX, {"const": "other"}]}, "score": {"type": "number"}},
                },
            },
        ),
        ({"min_confidence": 0.5}, {"anyOf": [NUMBERS, {"const": "abstain"}]}),
        ({"min_confidence": 0.5, "label_only": True, "abstain": None}, {"anyOf": [INDEX, {"type": "null"}]}),
    ],
    ids=repr,
)
def test_a_field_that_is_replaced_is_documented_as_replaced(options: dict[str, Any], row: Any) -> None:
    """For a batch a list of what stands for a row, for one row that alone, and either where nobody knows."""
    rows = {"type": "array", "items": row}
    assert of_field(documented(Prediction, **options)[1]) == rows
    assert of_field(documented(Plain, **options)[1]) == rows
    assert of_field(documented(One, status=201, **options)[1]) == row
    assert of_field(documented(Anything, **options)[1]) == {"anyOf": [row, rows]}
    assert of_field(documented(Maybe, **options)[1]) == {"anyOf": [row, {"type": "null"}]}
    nested = documented(Nested, scores="outputs.*.probabilities", **options)[1]
    assert of_field(nested["properties"]["outputs"]["items"]) == rows
    first = documented(Nested, scores="outputs.0.probabilities", **options)[1]
    assert of_field(first["properties"]["outputs"]["items"]["anyOf"][0]) == rows
    assert documented(list[list[float]], **options)[1]["items"] == row


def test_what_is_only_rounded_keeps_its_model() -> None:
    """Numbers stay numbers, and the model keeps its name; other fields and other routes are left alone."""
    app, schema = documented(Prediction)
    assert schema == {"$ref": "#/components/schemas/Prediction"}
    replaced = documented(Prediction, label_only=True)[1]
    assert of_field(replaced, "seconds") == {"type": "number"}
    assert replaced["title"] == "Prediction"
    assert app.openapi() == app.openapi()


@pytest.mark.parametrize("model", [None, dict[str, Any], Any, One])
def test_a_path_that_the_model_does_not_show_changes_nothing(model: Any) -> None:
    """The document then says what the model says."""
    schema = documented(model, scores="a.b", label_only=True)[1]
    assert "minimum" not in str(schema)
    assert schema == documented(model, scores="a.b")[1] or model is One


@pytest.mark.parametrize(("bins_as", "leaf"), [("midpoint", {"type": "number"}), ("edges", None)])
def test_bins(bins_as: Any, leaf: Any) -> None:
    """Edges are two numbers in the place of each one, in whatever shape."""
    leaf = leaf or {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    assert of_field(documented(Price, bins=[0, 1], bins_as=bins_as)[1]) == leaf
    rows = of_field(documented(Price, scores="all", bins=[0, 1], bins_as=bins_as)[1], "all")
    assert rows == {"type": "array", "items": {"type": "array", "items": leaf}}
    assert of_field(documented(Anything, bins=[0, 1], bins_as=bins_as)[1]) == {}


def test_scopes_are_alternatives() -> None:
    """Who may see more gets another form, and the document has all of them once."""
    options: dict[str, Any] = {"policy": "private", "by": lambda: None}
    schema = documented(One, per_scope={"a": "open", "b": "balanced"}, **options)[1]
    assert [*schema] == ["anyOf"]
    private, model = schema["anyOf"]
    assert (of_field(private), model) == (INDEX, {"$ref": "#/components/schemas/One"})


def test_open_inference_answers() -> None:
    """The document has the protocol's answer, whatever the endpoint returns."""
    schema = documented(Prediction, answer=OpenInferenceAnswer())[1]
    assert set(schema["properties"]) == {"model_name", "id", "outputs"}


def test_streams() -> None:
    """Lines are documented by their item, after truncation; events as a stream of text."""
    app = FastAPI()

    @app.get("/events", response_class=EventStream)
    @truncate_output
    async def events() -> AsyncIterator[One]:
        yield One(probabilities=[0.5, 0.5])

    @app.get("/lines")
    @truncate_output(label_only=True)
    def lines() -> Iterator[One]:
        yield One(probabilities=[0.5, 0.5])

    harden(app, docs=True)
    paths = app.openapi()["paths"]
    content = paths["/lines"]["get"]["responses"]["200"]["content"]
    assert [*content] == ["application/x-ndjson"]
    assert of_field(content["application/x-ndjson"]["itemSchema"]) == INDEX
    assert [*paths["/events"]["get"]["responses"]["200"]["content"]] == ["text/event-stream"]


def test_a_route_without_an_answer_or_of_another_kind_is_left_alone() -> None:
    """No body, no schema; and what truncate_output has not made is documented as ever."""
    app = FastAPI()

    @app.get("/nothing", status_code=204)
    @truncate_output(label_only=True)
    def nothing() -> None: ...

    @app.get("/bare")
    def bare() -> One: ...  # type: ignore[empty-body]  # never called

    harden(app, docs=True)
    paths = app.openapi()["paths"]
    assert "content" not in paths["/nothing"]["get"]["responses"]["204"]
    shown = paths["/bare"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert shown == {"$ref": "#/components/schemas/One"}
    assert app.openapi()["components"]["schemas"]["One"]["properties"]["probabilities"]["type"] == "array"


def test_an_answer_is_what_the_document_says() -> None:
    """A label where there is a label, for the very endpoint."""
    app = FastAPI()

    @app.get("/predict", response_model=Prediction)
    @truncate_output("private", labels=CLASSES)
    def predict() -> Any:
        return {"probabilities": np.array(ROWS)}

    harden(app, docs=True)
    schema = app.openapi()["paths"]["/predict"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    labels = of_field(schema)["items"]["enum"]
    assert all(label in labels for label in call(app, method="GET").json["probabilities"])
