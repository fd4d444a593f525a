"""Routes that nobody could call: which stop the start, and which do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Form
from pydantic import BaseModel, BeforeValidator, Field, RootModel, model_validator

from mlguard import (
    Features,
    FeedbackGuard,
    FeedbackQuarantine,
    ImageInput,
    MemoryStore,
    QueryBudget,
    Text,
    harden,
)
from tests.asgi import call
from tests.test_hardening import lifespan

RULES: dict[str, Any] = {"columns": 2, "low": 0, "high": 10, "max_rows": 9}
ROWS, TEXT = Features(**RULES), Text(max_length=9)


class Own(Features):
    """One that may read the body in a way of its own."""


class Patient(BaseModel):
    age: float
    name: str = "nobody"


SOMEBODY = Patient(age=1)


class Rows(BaseModel):
    features: list[list[float]]


class Renamed(BaseModel):
    age: float = Field(alias="features")


class Filled(Patient):
    @model_validator(mode="before")
    @classmethod
    def fill(cls, data: Any) -> Any:
        """As somebody might who reads the rows a second time."""
        return {"age": data["features"][0][0]}


class Built(Patient):
    def __init__(self, **data: Any) -> None:
        super().__init__(age=len(data))


class Judged(Patient):
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return handler(source)


class Listed(RootModel[dict[str, Any]]):
    """Any object."""


def started(*guards: Any, endpoint: Callable[..., Any] | None = None, **overrides: Any) -> str:
    """What stops the start of an app with such a route; nothing if it starts."""

    def nothing() -> None: ...

    router = APIRouter()
    router.post("/predict", dependencies=[*map(Depends, guards)])(endpoint or nothing)
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    harden(app)
    app.dependency_overrides.update(overrides.get("overrides", {}))
    message = lifespan(app)[0]
    return str(message.get("message", ""))


def test_two_guards_that_want_two_bodies_stop_the_start() -> None:
    """The error names the route, both guards and what each of them takes."""
    other = Features(**RULES, field="rows")
    told = started(ROWS, other)
    assert told.startswith(
        "/v1/predict: nobody can call it: Features takes rows in 'features' alone, and Features takes rows in 'rows' "
        "alone. "
    )
    assert "FeatureMatrix" in told
    assert "Text takes a text in 'text' alone" in started(ROWS, TEXT)
    assert "Text takes a text in 'features' alone" in started(ROWS, Text(max_length=9, field="features"))
    assert "ImageInput takes an image. " in started(TEXT, ImageInput())


def test_feedback_beside_a_prediction_stops_the_start(tmp_path: Path) -> None:
    """It reads rows and labels, and reads the rows itself: a budget is charged for what it has read."""
    guard = FeedbackGuard(
        ROWS,
        labels=["a", "b"],
        predict=lambda x: ["a"] * len(x),
        quarantine=FeedbackQuarantine(tmp_path / "feedback.db"),
        store=MemoryStore(),
    )
    assert "FeedbackGuard takes rows and labels in 'features' and 'labels' alone" in started(guard, ROWS)
    assert "nobody can call it" in started(QueryBudget("9/month", cost=ROWS, store=MemoryStore()), guard)
    assert not started(QueryBudget("9/month", cost=guard, store=MemoryStore()), guard)


def test_guards_that_one_body_may_suit_start() -> None:
    """One twice, two that judge the same member, a second format, and a class of the app's own."""
    assert not started(ROWS, ROWS, QueryBudget("9/month", cost=ROWS, store=MemoryStore()))
    assert not started(ROWS, Features(**{**RULES, "high": 5}))
    assert not started(TEXT, Features(**RULES, formats=("json", "open-inference")))
    assert not started(TEXT, Own(**RULES))


def whole(body: Patient) -> None: ...
def embedded(body: Annotated[Rows, Body(embed=True)]) -> None: ...
def several(features: Annotated[Any, Body()], threshold: Annotated[float, Body()]) -> None: ...
def below(patient: Annotated[None, Depends(whole)]) -> None: ...


@pytest.mark.parametrize(
    ("endpoint", "name"), [(whole, "age"), (embedded, "body"), (several, "threshold"), (below, "age")]
)
def test_a_model_that_demands_what_a_guard_refuses_stops_the_start(endpoint: Callable[..., Any], name: str) -> None:
    """Wherever in the tree FastAPI reads it."""
    told = started(ROWS, endpoint=endpoint)
    assert told.startswith("/v1/predict: nobody can call it: Features takes rows in 'features' alone, and the endpoint")
    assert f"demands '{name}' of it" in told
    assert not started(endpoint=endpoint)


def same(body: Rows) -> None: ...
def optional(body: Patient | None = None) -> None: ...
def has_default(body: Annotated[Patient, Body()] = SOMEBODY) -> None: ...
def another(features: Annotated[Any, Body()], threshold: Annotated[float, Body()] = 0.5) -> None: ...
def aliased(features: Annotated[Any, Body()], more: Annotated[Any, Body(alias="features")]) -> None: ...
def renamed(body: Renamed) -> None: ...
def filled(body: Filled) -> None: ...
def built(body: Built) -> None: ...
def judged(body: Judged) -> None: ...
def listed(body: Listed) -> None: ...
def plain(body: dict[str, Any]) -> None: ...
def changed(body: Annotated[Patient, BeforeValidator(lambda data: {"age": len(data)})]) -> None: ...
def changed_body(body: Annotated[Patient, Body(), BeforeValidator(lambda data: {"age": len(data)})]) -> None: ...
def form(age: Annotated[float, Form()]) -> None: ...


@pytest.mark.parametrize(
    "endpoint",
    [same, optional, has_default, another, aliased, renamed, filled, built, judged, listed, plain, changed,
     changed_body, form],
)  # fmt: skip
def test_what_is_not_certain_starts(endpoint: Callable[..., Any]) -> None:
    """A model may take what the guard takes, or make something of it that nobody can foresee."""
    assert not started(ROWS, endpoint=endpoint)


def test_nothing_is_certain_of_dependencies_that_a_test_replaces() -> None:
    """The guard that would refuse may be one of them."""
    assert not started(ROWS, TEXT, overrides={TEXT: lambda: "text"})


def test_a_body_that_suits_guard_and_model_is_read_by_both() -> None:
    """So it is no mistake."""
    app = FastAPI()
    app.post("/", dependencies=[Depends(ROWS)])(same)
    harden(app)
    answer = call(app, "/", headers=[(b"content-type", b"application/json")], chunks=[b'{"features": [[1, 2]]}'])
    assert answer.status == 200
