"""Streams: every item is truncated, nothing leaks when one breaks, and nothing is left open when a client leaves."""

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Annotated, Any

import fastapi
import numpy as np
import orjson
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Response, Security
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel
from starlette.types import Message
from tests.asgi import Answer, acall, call, make_scope

from mlguard import APIKey, APIKeyAuth, APIKeys, ConfigurationError, EventStream, harden, truncate_output
from mlguard._fastapi import EVENT_TYPES
from mlguard.errors import InvalidInputError, UnsafeOutputError
from mlguard.outputs.open_inference_answers import OpenInferenceAnswer

EXACT = 0.123456789
ROW = [EXACT, 1 - EXACT]
ALICE, SECRET = APIKey.generate("alice", scopes={"predict"})

#: Servers that tell of a client's departure by an error on sending, and those that only say so when they are asked.
SPECS = [{"asgi": {"version": "3.0", "spec_version": version}} for version in ("2.3", "2.4")]


class Lines(StreamingResponse):
    media_type = "application/jsonl"


def serve(endpoint: Callable[..., Any], *, hardened: bool = True, route: dict[str, Any] | None = None) -> FastAPI:
    app = FastAPI()
    app.get("/predict", **(route or {}))(endpoint)
    if hardened:
        harden(app)
    return app


def lines(answer: Answer) -> list[Any]:
    assert answer.complete
    return [orjson.loads(line) for line in answer.body.splitlines()]


def rows() -> Iterator[Any]:
    yield {"probabilities": ROW, "t": np.float32(EXACT)}
    yield {"probabilities": np.array([ROW])}


async def rows_soon() -> AsyncIterator[Any]:
    for row in rows():
        await asyncio.sleep(0)
        yield row


class Model:
    """An endpoint that is an object."""

    def __call__(self) -> Iterator[Any]:
        yield from rows()

    async def soon(self) -> AsyncIterator[Any]:
        for row in rows():
            yield row


GENERATORS = [rows, rows_soon, Model(), Model().soon, functools.partial(rows), functools.partial(rows_soon)]


@pytest.mark.parametrize("spec", SPECS, ids=["2.3", "2.4"])
@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("endpoint", GENERATORS, ids=repr)
def test_each_item_is_a_line(endpoint: Callable[..., Any], hardened: bool, spec: dict[str, Any]) -> None:
    """Sync and async generators of every kind become lines of JSON, each with its own scores truncated."""
    answer = call(serve(truncate_output(endpoint), hardened=hardened), method="GET", **spec)
    assert lines(answer) == [{"probabilities": [0.12, 0.88], "t": 0.12}, {"probabilities": [[0.12, 0.88]]}]
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("endpoint", [rows, rows_soon])
def test_a_policy_that_replaces_rows_holds_for_each_item(endpoint: Callable[..., Any]) -> None:
    """Labels and rankings are per item, as in an answer of their own."""
    labelled = truncate_output("private", labels=["cat", "dog"])(endpoint)
    assert lines(call(serve(labelled), method="GET")) == [
        {"probabilities": "dog", "t": 0.0},
        {"probabilities": ["dog"]},
    ]


@pytest.mark.parametrize("endpoint", [rows, rows_soon])
def test_events_where_the_route_says_so(endpoint: Callable[..., Any]) -> None:
    """A response class with the media type of events makes each item the data of one."""
    answer = call(serve(truncate_output(endpoint), route={"response_class": EventStream}), method="GET")
    assert answer.body == (b'data: {"probabilities":[0.12,0.88],"t":0.12}\n\ndata: {"probabilities":[[0.12,0.88]]}\n\n')
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    ("response_class", "status", "media_type"),
    [
        (Lines, 200, "application/jsonl"),
        (StreamingResponse, 200, "application/x-ndjson"),
        (HTMLResponse, 500, "application/problem+json"),
    ],
)
def test_the_routes_media_type_of_lines_is_kept(response_class: type[Response], status: int, media_type: str) -> None:
    """A route may name its lines; it may not call them something that they are not."""
    answer = call(serve(truncate_output(rows), route={"response_class": response_class}), method="GET")
    assert (answer.status, answer.headers["content-type"]) == (status, media_type)


def test_text_is_streamed_as_json() -> None:
    """Tokens of a language model are JSON texts, so that no token can forge a line or an event."""

    @truncate_output
    async def tokens() -> AsyncIterator[str]:
        yield "Hel"
        yield "lo\n\ndata: forged"

    assert lines(call(serve(tokens), method="GET")) == ["Hel", "lo\n\ndata: forged"]
    events = call(serve(tokens, route={"response_class": EventStream}), method="GET").body
    assert events == b'data: "Hel"\n\ndata: "lo\\n\\ndata: forged"\n\n'


@pytest.mark.skipif(not EVENT_TYPES, reason="this FastAPI has no events of its own")
def test_fastapis_own_events_are_truncated() -> None:
    """A ServerSentEvent keeps its name, id and comment; its data is truncated, and ready text is not sent."""
    from fastapi.sse import ServerSentEvent

    @truncate_output
    async def events(raw: bool = False) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(data={"probabilities": ROW}, event="row", id="1", retry=5)
        yield ServerSentEvent(comment="still there")
        if raw:
            yield ServerSentEvent(raw_data=str(EXACT))
        forged = ServerSentEvent(data=1)
        forged.event = "row\ndata: forged"
        yield forged

    app = serve(events, route={"response_class": EventStream})
    body = call(app, method="GET").body
    good = b'event: row\ndata: {"probabilities":[0.12,0.88]}\nid: 1\nretry: 5\n\n: still there\n\n'
    assert body.startswith(good + b"event: error\ndata: {")
    assert b"forged" not in body
    body = call(app, "/predict?raw=1", method="GET").body
    assert body.startswith(good + b"event: error\ndata: {")
    assert b"3456" not in body


@pytest.mark.skipif(not EVENT_TYPES, reason="this FastAPI has no events of its own")
def test_fastapis_own_streaming_is_refused() -> None:
    """Where FastAPI would stream the answer itself, nothing is sent, and harden says so at start-up."""
    from fastapi.sse import EventSourceResponse

    bare = serve(truncate_output(rows), hardened=False, route={"response_class": EventSourceResponse})
    with pytest.raises(UnsafeOutputError, match="EventStream"):
        call(bare, method="GET")
    with pytest.raises(ConfigurationError, match=r"/predict: .* response_class=mlguard\.EventStream"):
        call(serve(truncate_output(rows), route={"response_class": EventSourceResponse}), method="GET")


# The response model -----------------------------------------------------------------------------------------------


class Public(BaseModel):
    probabilities: list[float]


@pytest.mark.parametrize("declared", ["annotation", "route"])
def test_each_item_goes_through_the_response_model(declared: str) -> None:
    """What the model of the items keeps back stays inside, for every item."""

    def items() -> Any:
        yield {"probabilities": ROW, "secret": "inside"}
        yield {"probabilities": np.array(ROW), "secret": "inside"}

    if declared == "annotation":
        items.__annotations__["return"] = Generator[Public, None, None]
    route = {"response_model": Public} if declared == "route" else {}
    answer = call(serve(truncate_output(items), route=route), method="GET")
    assert lines(answer) == [{"probabilities": [0.12, 0.88]}] * 2


def test_an_item_that_does_not_fit_ends_the_stream() -> None:
    """The caller does not learn what it was."""

    @truncate_output
    async def items() -> AsyncIterator[Public]:
        yield Public(probabilities=ROW)
        yield {"probabilities": ["0.123456 inside"]}  # type: ignore[misc]  # the point of the test

    first, problem = lines(call(serve(items), method="GET"))
    assert first == {"probabilities": [0.12, 0.88]}
    assert problem["type"] == "urn:mlguard:problem:internal-error"
    assert "inside" not in str(problem)


def test_a_generator_that_says_it_returns_a_response_has_no_model() -> None:
    """``-> StreamingResponse``, as some write it, is no model of the items."""

    def items() -> StreamingResponse:  # type: ignore[misc]  # wrong, and met in the wild
        yield {"probabilities": ROW}

    assert lines(call(serve(truncate_output(items)), method="GET")) == [{"probabilities": [0.12, 0.88]}]


# When it breaks ---------------------------------------------------------------------------------------------------


def breaking(error: Exception, after: int, *, is_async: bool) -> Callable[..., Any]:
    def items() -> Iterator[Any]:
        for _ in range(after):
            yield {"probabilities": ROW}
        raise error

    async def items_soon() -> AsyncIterator[Any]:
        for item in items():
            yield item

    return truncate_output(items_soon if is_async else items)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("events", [False, True])
def test_a_stream_that_breaks_ends_with_a_problem(
    is_async: bool, events: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The last line or event tells that it broke and nothing else; the log has the whole story, once."""
    route = {"response_class": EventStream} if events else {}
    app = serve(breaking(ZeroDivisionError("the inside"), 2, is_async=is_async), route=route)
    answer = call(app, method="GET")
    assert answer.complete
    assert b"inside" not in answer.body
    last = answer.body.splitlines()[-1 if not events else -2].removeprefix(b"data: ")
    problem = orjson.loads(last)
    assert problem["status"] == 500
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert (b"event: error\n" in answer.body) is events
    crashes = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(crashes) == 1
    assert problem["request_id"] in crashes[0].getMessage()
    assert "the inside" in str(crashes[0].exc_info[1])  # type: ignore[index]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError("the inside"), 500), (HTTPException(418, "no coffee"), 418), (InvalidInputError("why"), 422)],
)
def test_what_fails_before_the_first_item_is_an_answer_of_its_own(
    error: Exception, status: int, is_async: bool
) -> None:
    """An early failure has its status, its headers and no stream."""
    answer = call(serve(breaking(error, 0, is_async=is_async)), method="GET")
    assert (answer.status, answer.json["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"inside" not in answer.body


def test_a_first_item_that_may_not_leave_is_a_500() -> None:
    """So is the first item itself, where it cannot be truncated."""

    @truncate_output(label_only=True)
    def items() -> Iterator[Any]:
        yield {"logits": ROW}

    answer = call(serve(items), method="GET")
    assert answer.status == 500
    assert b"3456" not in answer.body


@pytest.mark.parametrize("bad", [float("nan"), {"p": object()}, 1 + 2j, np.ma.masked_array([EXACT], mask=[True])])
def test_an_item_that_may_not_leave_ends_the_stream(bad: Any) -> None:
    """NaN and what JSON does not have end it with a problem, and the items before it have left."""

    @truncate_output
    def items() -> Iterator[Any]:
        yield {"probabilities": ROW}
        yield {"x": bad}
        yield {"never": "sent"}

    first, problem = lines(call(serve(items), method="GET"))
    assert first == {"probabilities": [0.12, 0.88]}
    assert problem["status"] == 500


def test_a_refusal_half_way_says_which_rule() -> None:
    """An error that is an answer is the last line, as it would be the whole answer."""
    app = serve(breaking(InvalidInputError("inside"), 1, is_async=True))
    problem = lines(call(app, method="GET"))[-1]
    assert (problem["type"], problem["status"]) == ("urn:mlguard:problem:invalid-input", 422)
    assert "inside" not in str(problem)


def test_a_stream_of_nothing_is_empty() -> None:
    """A generator without items gives a complete, empty answer."""

    @truncate_output
    def items() -> Iterator[Any]:
        yield from ()

    answer = call(serve(items), method="GET")
    assert (answer.status, answer.body, answer.complete) == (200, b"", True)


# Around it --------------------------------------------------------------------------------------------------------


def test_status_headers_and_background_tasks_survive() -> None:
    """What the generator sets before its first item leaves; tasks run after the last one."""
    ran: list[str] = []

    @truncate_output
    async def items(response: Response, tasks: BackgroundTasks) -> AsyncIterator[Any]:
        response.status_code = 203
        response.headers["X-Model"] = "m1"
        response.headers["X-Process-Time"] = "0.123456"
        tasks.add_task(lambda: ran.append("task"))
        yield 1
        ran.append("last")

    answer = call(serve(items), method="GET")
    assert (answer.status, answer.headers["x-model"]) == (203, "m1")
    assert "x-process-time" not in answer.headers
    assert ran == ["last", "task"]


def test_a_stream_behind_guards_is_refused_before_it_starts() -> None:
    """Guards come first, also where the endpoint is called directly."""
    started: list[str] = []
    caller = APIKeyAuth(APIKeys([ALICE]))

    @truncate_output
    async def items() -> AsyncIterator[Any]:
        started.append("yes")
        yield 1

    app = FastAPI()
    app.get("/predict", dependencies=[Security(caller, scopes=["predict"])])(items)
    harden(app)
    assert call(app, method="GET").status == 401
    assert started == []
    assert lines(call(app, method="GET", headers=[(b"x-api-key", SECRET.encode())])) == [1]


def test_a_dependency_with_clean_up_may_be_used_while_it_streams() -> None:
    """As in newer FastAPIs, what a dependency has opened is closed after the last item."""
    order: list[str] = []

    def resource() -> Iterator[str]:
        yield "open"
        order.append("closed")

    @truncate_output
    async def items(state: Annotated[str, Depends(resource)]) -> AsyncIterator[Any]:
        yield state
        order.append("last item")

    assert lines(call(serve(items), method="GET")) == ["open"]
    newer = tuple(map(int, fastapi.__version__.split(".")[:2])) >= (0, 118)  # before, exit code ran first
    assert order == (["last item", "closed"] if newer else ["closed", "last item"])


async def leave_after(app: FastAPI, pieces: int, spec: dict[str, Any]) -> list[Message]:
    """A client that goes after so many pieces: the server says so, and refuses to send any more."""
    sent: list[Message] = []
    gone = asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if gone.is_set() and spec["asgi"]["spec_version"] == "2.4":
            raise OSError("the client has left")
        sent.append(message)
        if sum(bool(one.get("body")) for one in sent) >= pieces:
            gone.set()

    await app(make_scope("GET", "/predict", **spec), receive, send)
    return sent


@pytest.mark.parametrize("spec", SPECS, ids=["2.3", "2.4"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_client_that_leaves_closes_the_generator(is_async: bool, spec: dict[str, Any]) -> None:
    """An endless stream ends when nobody listens, and its clean-up runs, awaiting what it has to."""
    closed: list[str] = []

    def endless() -> Iterator[Any]:
        try:
            while True:
                yield {"probabilities": ROW}
        finally:
            closed.append("closed")

    async def endless_soon() -> AsyncIterator[Any]:
        try:
            while True:
                yield {"probabilities": ROW}
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    app = serve(truncate_output(endless_soon if is_async else endless))
    sent = asyncio.run(asyncio.wait_for(leave_after(app, 3, spec), 30))
    assert closed == ["closed"]
    assert len(sent) < 100


def test_a_stream_that_nobody_starts_is_not_begun() -> None:
    """Where an outer decorator throws the answer away, the generator has not run at all."""
    begun: list[str] = []

    @truncate_output
    def items() -> Iterator[Any]:
        begun.append("begun")
        yield 1

    def replaced(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(endpoint)
        def other(*args: Any, **kwargs: Any) -> Response:
            endpoint(*args, **kwargs)
            return Response("other")

        return other

    assert call(serve(replaced(items)), method="GET").body == b"other"
    assert begun == []


def test_called_directly_it_yields_truncated_data() -> None:
    """In a developer's own code, a decorated generator is still one of its kind."""

    async def collect() -> list[Any]:
        return [item async for item in truncate_output(label_only=True)(rows_soon)()]

    assert [item["probabilities"] for item in truncate_output(label_only=True)(rows)()] == [1, [1]]
    assert [item["probabilities"] for item in asyncio.run(collect())] == [1, [1]]
    assert not inspect.isgeneratorfunction(inspect.unwrap(truncate_output(rows)))


def test_an_open_inference_answer_is_no_stream() -> None:
    """The protocol has one answer a request."""
    with pytest.raises(ConfigurationError, match="generator"):
        truncate_output(answer=OpenInferenceAnswer())(rows)


async def two_at_once(app: FastAPI) -> list[Answer]:
    return await asyncio.gather(*(acall(app, method="GET") for _ in range(5)))


def test_streams_do_not_mix() -> None:
    """Several at once each get their own items, in order."""
    numbers = iter(range(100, 200))

    @truncate_output
    async def items() -> AsyncIterator[Any]:
        mine = next(numbers)
        for at in range(20):
            await asyncio.sleep(0)
            yield [mine, at]

    for answer in asyncio.run(two_at_once(serve(items))):
        found = lines(answer)
        assert found == [[found[0][0], at] for at in range(20)]
