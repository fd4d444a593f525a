"""Ways in which full precision could leave all the same."""

from collections import OrderedDict, deque
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, PlainSerializer, SecretStr, computed_field
from starlette.requests import Request
from starlette.responses import Response
from tests.asgi import Answer, call

from mlguard import UnsafeOutputError, harden, truncate_output

EXACT = 0.123456789


class Computing(BaseModel):
    """A model that pydantic writes as JSON in many ways."""

    number: float = EXACT
    money: Decimal = Decimal(str(EXACT))
    recent: deque[Decimal] = deque([Decimal(str(EXACT))])
    several: set[Decimal] = {Decimal(str(EXACT))}
    by_score: dict[float, str] = {EXACT: "cat"}
    by_money: dict[Decimal, str] = {Decimal(str(EXACT)): "cat"}
    ordered: OrderedDict[str, Decimal] = OrderedDict(a=Decimal(str(EXACT)))
    anything: Any = None
    hidden: SecretStr = SecretStr("k3Zq8vN1")
    masked: Annotated[str, PlainSerializer(lambda text: "***", when_used="json")] = "inside"
    in_words: Annotated[float, PlainSerializer(lambda number: "much", when_used="json")] = EXACT

    @computed_field  # type: ignore[prop-decorator]  # pydantic's way
    @property
    def computed(self) -> Decimal:
        return Decimal(str(EXACT))


def serve(answer: Any, **route: Any) -> Answer:
    app = FastAPI()

    @app.get("/predict", **route)
    @truncate_output
    def predict() -> Any:
        return answer

    harden(app)
    return call(app, method="GET")


@pytest.mark.parametrize("route", [{}, {"response_model": Computing}])
@pytest.mark.parametrize("nested", [None, {"x": [EXACT]}, {EXACT, "a"}, deque([Decimal(str(EXACT))])])
def test_no_number_hides_in_text(nested: Any, route: dict[str, Any]) -> None:
    """Computed fields, keys, collections and fractions are rounded; what a serializer of the app's own made stays."""
    answer = serve(Computing(anything=nested), **route)
    assert answer.status == 200
    assert b"1234" not in answer.body
    assert b"k3Zq8vN1" not in answer.body
    assert b"inside" not in answer.body
    assert (answer.json["computed"], answer.json["number"], answer.json["masked"]) == ("0.12", 0.12, "***")
    assert (answer.json["in_words"], list(answer.json["by_score"])) == ("much", ["0.12"])


class Streaming(BaseModel):
    numbers: Iterable[Decimal]


@pytest.mark.parametrize(
    "answer",
    [
        Computing(anything=deque([float("nan")])),
        Computing(anything=1 + 2j),
        Computing(anything={1 + 2j}),
        Computing(anything={0.5, float("inf")}),
        Computing(anything=Decimal("NaN")),
        Computing(by_score={float("inf"): "x"}),
        Computing(by_score={0.121: "x", 0.122: "y"}),
        Streaming(numbers=[Decimal(str(EXACT))]),
        {1: "a", "1": "b"},
        {True: "a", "true": "b"},
        {None: "a", "null": "b"},
    ],
    ids=repr,
)
def test_what_cannot_be_rounded_does_not_leave(answer: Any) -> None:
    """NaN in a collection, complex numbers, iterators and keys that fall together are a 500."""
    assert serve(answer).status == 500


def test_structure_that_json_mode_changes_is_the_apps_own() -> None:
    """A serializer that makes something else of a collection decides what leaves."""

    class Summary(BaseModel):
        scores: Annotated[list[float], PlainSerializer(lambda scores: "two", when_used="json")]
        named: Annotated[dict[str, float], PlainSerializer(lambda named: "one", when_used="json")]

    answer = serve(Summary(scores=[EXACT, EXACT], named={"a": EXACT}))
    assert answer.json == {"scores": "two", "named": "one"}


def test_best_class_with_negative_scores() -> None:
    """Log-odds that all round to zero or below still name the same best class in every form."""
    scores = np.array([[-0.15, -0.05, 0.05], [-0.05, -0.15, -0.04]])
    for row in (scores[:1], scores[1:], scores):
        rounded = truncate_output(row, decimals=1)
        assert rounded.argmax(axis=1).tolist() == row.argmax(axis=1).tolist()
        best = truncate_output(row, decimals=1, top_k=1)
        assert [one[0]["label"] for one in best] == truncate_output(row, decimals=1, label_only=True)


@pytest.mark.parametrize("options", [{"label_only": True}, {"top_k": 1}, {"labels": ["only"]}])
def test_one_column_is_no_class_vector(options: dict[str, Any]) -> None:
    """Scores of one class alone would always name that class."""
    with pytest.raises(UnsafeOutputError, match="1 classes"):
        truncate_output(np.array([[0.2], [0.9]]), **options)


class VendorResponse(JSONResponse):
    media_type = "application/vnd.model+json"


@pytest.mark.parametrize(
    ("response_class", "status", "media_type"),
    [
        (JSONResponse, 200, "application/json"),
        (VendorResponse, 200, "application/vnd.model+json"),
        (HTMLResponse, 500, "application/problem+json"),
        (Response, 500, "application/problem+json"),
    ],
)
def test_response_class_says_which_json(response_class: type[Response], status: int, media_type: str) -> None:
    """A media type of the app's own is kept; an answer that is no JSON cannot be truncated."""
    answer = serve({"p": EXACT}, response_class=response_class)
    assert (answer.status, answer.headers["content-type"]) == (status, media_type)


def test_endpoint_outside_of_a_fastapi_route_does_not_answer() -> None:
    """Where nobody knows the response model, nothing leaves."""

    @truncate_output
    def predict(request: Request, response: Response) -> Any:
        return {"p": EXACT, "secret": "inside"}

    with pytest.raises(UnsafeOutputError, match="which route"):
        predict(request=Request({"type": "http", "headers": []}), response=Response())
