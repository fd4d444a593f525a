"""``Text`` as a caller and a developer see it: as a body, and as a field of a pydantic model."""

import json
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from mlguard import (
    ConfigurationError,
    Control,
    FiniteNumber,
    InvalidInputError,
    MemoryStore,
    QueryBudget,
    RateLimit,
    Text,
    harden,
)
from mlguard.errors import MLGuardError
from mlguard.inputs import text_rules
from tests.asgi import Answer, call
from tests.clock import Clock

JSON = (b"content-type", b"application/json")
PROMPT = Text(max_length=50)


def service(prompt: Text, *more: Any) -> FastAPI:
    app = FastAPI()
    harden(app)

    @app.post("/classify", dependencies=[Depends(one) for one in more])
    async def classify(text: Annotated[str, Depends(prompt)]) -> Any:
        return {"got": text}

    return app


def post(app: FastAPI, body: bytes, path: str = "/classify", headers: Any = (JSON,)) -> Answer:
    return call(app, path, headers=headers, chunks=[body], client=("192.0.2.1", 1))


# A body ---------------------------------------------------------------------------------------------------------------


def test_the_endpoint_gets_the_text() -> None:
    """In NFC, however JSON spells it."""
    app = service(PROMPT)
    for body in (
        '{"text": "Grüße 👩‍🚀"}',
        '{"text": "Gru\u0308ße 👩‍🚀"}',
        r'{"text": "Gr\u00fc\u00dfe \ud83d\udc69\u200d\ud83d\ude80"}',
    ):
        assert post(app, body.encode()).json == {"got": "Grüße 👩‍🚀"}


def test_a_refusal_says_where_and_repeats_nothing() -> None:
    """The rule and the position, counted from 0."""
    answer = post(service(PROMPT), '{"text": "31337 \u202e secret"}'.encode())
    problem = answer.json
    assert answer.status == 422
    assert (problem["broken"], problem["position"]) == ("bidi", 6)
    assert problem["detail"] == (
        "A character stands in the text that changes its direction (position 6, counted from 0)."
    )
    assert b"31337" not in answer.body
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "json"), (b'"hello"', "object"), (b"[]", "object"), (b"{}", "field"), (b'{"texts": "a"}', "field"),
        (b'{"text": "a", "more": 1}', "field"), (b'{"text": "a", "text": "b"}', "duplicate"),
        (b'{"text": 5}', "string"),
        (b'{"text": null}', "string"), (b'{"text": ["a"]}', "string"), (b'{"text": "a"} x', "trailing"),
        (b'{"text": "\xff"}', "json"), (b'{"text": "\xed\xa0\x80"}', "json"), (b'{"text": "a\nb"}', "json"),
        (b'{"text": "\\ud800"}', "surrogate"), (b'{"text": "\\u0000"}', "control"), (b'{"text": ""}', "length"),
        (b'{"text": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "depth"),
    ],
)  # fmt: skip
def test_a_body_that_is_something_else_is_refused(body: bytes, expected: str) -> None:
    """By the rules of Features for JSON, and then by those of texts."""
    answer = post(service(PROMPT), body)
    assert (answer.status, answer.json["broken"]) == (422, expected)


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"text/plain")], [JSON, JSON]])
def test_other_content_types_are_refused(headers: Any) -> None:
    """Exactly one, and JSON."""
    assert post(service(PROMPT), b'{"text": "a"}', headers=headers).status == 415


def test_the_field_has_the_name_that_was_given() -> None:
    """One member, and no other."""
    app = service(Text(max_length=5, field="question"))
    assert post(app, b'{"question": "why?"}').json == {"got": "why?"}
    assert post(app, b'{"text": "why?"}').json["broken"] == "field"


@pytest.mark.parametrize("make", [RateLimit, QueryBudget])
def test_a_text_costs_one(make: Any) -> None:
    """However long it is. A refused one costs one too, so that the rules cannot be probed for nothing."""
    limit = make("4/day", cost=PROMPT, by=lambda request: "all", store=MemoryStore(clock=Clock()))
    app = service(PROMPT, limit)
    bodies = [b'{"text": "hello"}', b'{"text": ""}', b"no JSON", b'{"text": "again"}', b'{"text": "a"}']
    assert [post(app, body).status for body in bodies] == [200, 422, 422, 200, 429]


def test_a_text_may_cost_its_length() -> None:
    """Where a limit is to count characters, a dependency says so."""

    def characters(text: Annotated[str, Depends(PROMPT)]) -> int:
        return len(text)

    limit = RateLimit("10/day", cost=characters, store=MemoryStore(clock=Clock()))
    app = service(PROMPT, limit)
    assert [post(app, b'{"text": "seven.."}').status for _ in range(2)] == [200, 429]


# A field --------------------------------------------------------------------------------------------------------------


class Chat(BaseModel):
    """A body with more in it than a text."""

    question: Annotated[str, PROMPT]
    history: list[Annotated[str, Text(max_length=5, min_length=0)]] = []
    temperature: FiniteNumber = 0.7


def test_a_model_has_the_same_rules() -> None:
    """Texts come out in the normal form, also in lists, and are written as texts."""
    chat = Chat(question="Gru\u0308ße", history=["", "hi"])
    assert chat.question == "Grüße"
    assert chat.model_dump_json() == '{"question":"Grüße","history":["","hi"],"temperature":0.7}'
    assert Chat.model_validate_json(chat.model_dump_json()) == chat


@pytest.mark.parametrize(
    ("question", "broken", "position"),
    [("a\u200b", "hidden", 1), ("", "length", None), (5, "string", None), ("\ud800", "surrogate", 0)],
)
def test_an_error_of_a_model_says_which_rule(question: Any, broken: str, position: int | None) -> None:
    """In its context, with the place, and without the text in its message."""
    with pytest.raises(ValidationError) as refused:
        Chat(question=question)
    (error,) = refused.value.errors()
    assert error["type"] == "invalid_text"
    assert (error["ctx"]["broken"], error["ctx"].get("position")) == (broken, position)
    assert str(question) not in error["msg"] or not question
    assert error["ctx"].get("error") is None


def test_a_service_tells_the_place_in_a_model() -> None:
    """Under ``harden``, which of the fields and where in it, and no name and no text."""
    app = FastAPI()
    harden(app)

    @app.post("/chat")
    async def chat(body: Chat) -> Any:
        return body

    assert post(app, b'{"question": "hi"}', "/chat").json["question"] == "hi"
    answer = post(app, '{"question": "hi", "history": ["a", "b\u202e"]}'.encode(), "/chat")
    assert answer.status == 422
    assert answer.json["errors"] == [{"in": "body", "at": [1], "broken": "bidi", "position": 1}]
    assert post(app, b'{"question": "\\ud800"}', "/chat").json["errors"][0]["broken"] == "surrogate"


def test_the_schema_says_how_long() -> None:
    """For a body as for a field."""
    schema = {"type": "string", "minLength": 1, "maxLength": 50}
    assert TypeAdapter(Annotated[str, PROMPT]).json_schema() == schema
    assert PROMPT.openapi_body() == {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"text": schema},
                    "required": ["text"],
                    "additionalProperties": False,
                }
            }
        },
    }


def test_a_guard_where_its_value_is_expected_stops_the_start_up() -> None:
    """``Annotated[str, prompt]`` as a parameter would be read from the query, so it must stand in ``Depends``."""
    app = FastAPI()
    harden(app)

    @app.post("/classify")
    async def classify(text: Annotated[str, PROMPT]) -> Any:
        return text

    with pytest.raises(ConfigurationError, match="Depends"):
        app.openapi()


# Texts from elsewhere, and settings -----------------------------------------------------------------------------------


def test_texts_from_elsewhere_are_judged_by_the_same_rules() -> None:
    """A message of a WebSocket, a field of a form."""
    assert PROMPT.judge("hello") == "hello"
    with pytest.raises(InvalidInputError):
        PROMPT.judge("a\u200b")


def test_the_guard_declares_itself() -> None:
    """What the posture check, OpenAPI and ``harden`` need to know of the guard."""
    assert PROMPT.control is Control.INPUT_VALIDATION
    assert PROMPT.reads_body
    assert PROMPT.statuses == (413, 415, 422)
    assert len({PROMPT, PROMPT, Text(max_length=50)}) == 2


def test_every_rule_is_documented() -> None:
    """The names that callers may rely on are in the docstring, all of them."""
    assert all(f"``{name}``" in (Text.__doc__ or "") for name in text_rules._BROKEN)


@pytest.mark.parametrize(
    ("setting", "value"), [("max_length", 0), ("form", "NFD"), ("on_hidden", "keep"), ("allowed", []), ("field", "")]
)
def test_settings_that_cannot_work_are_refused(setting: str, value: Any) -> None:
    """A guard that would let everything or nothing through is not built, and the text names the setting."""
    with pytest.raises(ConfigurationError, match=setting):
        Text(**({"max_length": 5} | {setting: value}))


@given(st.binary(max_size=60) | st.text().map(lambda text: json.dumps({"text": text}).encode()))
def test_any_body_is_refused_or_a_text(body: bytes) -> None:
    """There is a text within the limits or a refusal, and no other error."""
    try:
        text = PROMPT._read(body)
    except MLGuardError:
        return
    assert 1 <= len(text) <= 50
