"""However a request ends, and whatever goes wrong beside it, it has one record, and that is about it."""

import asyncio
import contextlib
import contextvars
import json
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, Request
from fastapi.security import SecurityScopes
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from mlguard import APIKey, APIKeyAuth, APIKeys
from mlguard._guard import Control, Guard, RequestMemory
from tests.asgi import call, make_scope
from tests.monitoring.test_audited_requests import INPUT_KEY, Notebook, Service, hardened

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
TRAILED: Message = {**START, "trailers": True}
BODY: Message = {"type": "http.response.body", "body": b"x"}
PATH: Message = {"type": "http.response.pathsend", "path": "/srv/x"}
TRAILERS: Message = {"type": "http.response.trailers", "headers": []}


async def nothing_more() -> Message:
    """A caller who has sent everything, and stays."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def nowhere(message: Message) -> None:
    """A caller who listens."""


class Messages(Response):
    """An answer of these messages."""

    def __init__(self, *messages: Message) -> None:
        super().__init__()
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # ASGI's
        for message in self._messages:
            await send(message)


@pytest.mark.parametrize(
    ("messages", "ended"),
    [
        ([START, BODY], None),
        ([START, PATH], None),
        ([START, {"type": "http.response.zerocopysend", "file": 3}], None),
        ([START, {"type": "http.response.zerocopysend", "file": 3, "more_body": True}], "broken"),
        ([START, BODY, {"type": "http.response.push", "path": "/style.css", "headers": []}], None),
        ([TRAILED, BODY, TRAILERS], None),
        ([TRAILED, PATH, TRAILERS], None),
        ([TRAILED, BODY, {**TRAILERS, "more_trailers": True}, TRAILERS], None),
        ([TRAILED, BODY], "broken"),
        ([TRAILED, PATH], "broken"),
        ([TRAILED, BODY, {**TRAILERS, "more_trailers": True}], "broken"),
    ],
)
@pytest.mark.parametrize("durability", ["batch", "request"])
def test_an_answer_has_ended_well_if_its_last_part_was_sent(
    messages: list[Message], ended: str | None, durability: str
) -> None:
    """Whichever part is the last one: of extensions of ASGI, too."""
    log = Notebook(durability)
    app = hardened(log)

    @app.get("/")
    async def home() -> Response:
        return Messages(*messages)

    asyncio.run(app(make_scope("GET", "/"), nothing_more, nowhere))
    records = log.records
    if durability == "batch":
        assert [record.get("ended") for record in records] == [ended]
    else:
        assert [record["facts"]["ended"] for record in records[1:]] == ([ended] if ended else [])


def test_a_record_does_not_wait_for_background_tasks() -> None:
    """They may take for ever, and be killed; the caller has had an answer."""
    log = Notebook()
    app = hardened(log)
    seen: list[int] = []

    @app.get("/")
    async def home() -> JSONResponse:
        return JSONResponse({}, background=BackgroundTask(lambda: seen.append(len(log.events))))

    assert call(app, "/", method="GET", chunks=[]).status == 200
    assert seen == [1]
    assert len(log.events) == 1


def test_a_request_that_is_closed_from_elsewhere_has_a_record() -> None:
    """As the collector closes what an event loop has left behind: in another context."""
    log = Notebook()
    app = hardened(log)

    @app.get("/")
    async def home() -> None:
        await asyncio.Event().wait()

    running: Any = app(make_scope("GET", "/"), nothing_more, nowhere)

    async def begin() -> None:
        contextvars.Context().run(running.send, None)
        running.close()

    asyncio.run(begin())
    assert (log.last["status"], log.last["ended"], log.last["route"]) == (None, "cancelled", "/")
    assert len(log.events) == 1


async def plainly(request: Request, error: Any) -> Response:  # as Starlette calls it
    return JSONResponse({}, error.status_code)


async def to_the_login(request: Request, error: Any) -> Response:  # as above
    return RedirectResponse("/login")


@pytest.mark.parametrize(("answer", "status"), [(plainly, 401), (to_the_login, 307)])
def test_a_refusal_is_recorded_whoever_answers_it(answer: Callable[..., Any], status: int) -> None:
    """Handlers of the app's own, too, and whatever they answer."""
    service = Service()
    service.app.add_exception_handler(HTTPException, answer)
    service.secret = "wrong"
    assert service.ask().status == status
    record = service.log.last
    assert (record["refused_by"], record["rule"], record["reason"]) == (
        "APIKeyAuth",
        "not-authenticated",
        "unknown API key",
    )


@pytest.mark.parametrize(
    ("body", "status", "refused_by"),
    [(b"nope", 422, "Features"), (b'{"features": [' + b"[1, 2]," * 9 + b"[1, 2]]}", 429, "QueryBudget")],
)
def test_so_is_one_that_comes_after_the_body_was_read(body: bytes, status: int, refused_by: str) -> None:
    """Of those guards that need it."""
    service = Service()
    service.app.add_exception_handler(HTTPException, plainly)
    assert service.ask(body).status == status
    assert service.log.last["refused_by"] == refused_by


def test_a_handler_of_the_apps_own_blames_no_guard_for_what_the_endpoint_says() -> None:
    """Somebody has overlooked what the guard said; the answer is another one."""
    log = Notebook()
    app = hardened(log)
    app.add_exception_handler(HTTPException, plainly)
    caller = APIKeyAuth(APIKeys([APIKey.generate("new")[0]]))

    @app.get("/")
    async def home(request: Request) -> None:
        with contextlib.suppress(HTTPException):
            await caller(request, SecurityScopes())
        raise HTTPException(404)

    assert call(app, "/", method="GET", chunks=[]).status == 404
    assert (log.last["refused_by"], log.last["rule"]) == (None, None)


def test_a_part_of_a_body_has_no_digest() -> None:
    """It was not the question. And who leaves has one record, which says so."""
    log = Notebook()
    app = hardened(log, input_key=INPUT_KEY)

    @app.post("/")
    async def read(request: Request) -> None:
        await request.body()

    parts: list[Message] = [
        {"type": "http.request", "body": b'{"a":', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return parts.pop(0)

    asyncio.run(app(make_scope("POST", "/"), receive, nowhere))
    assert [(record["input"], record["ended"]) for record in log.records] == [(None, "left")]


class Reading(Guard):
    """A guard of the app's own that reads something."""

    control = Control.INPUT_VALIDATION
    reads_body = True

    def __init__(self, value: Any) -> None:
        self._value = value

    async def __call__(self, conn: Request) -> Any:
        async def read() -> Any:
            return self._value

        return await RequestMemory.of(conn.scope).note_reading(self, read())


@pytest.mark.parametrize(("value", "rows"), [(np.int64(3), 3), ([1, 2], 2), (object(), None)])
def test_what_a_guard_has_read_reaches_the_endpoint_whatever_it_is(
    value: Any, rows: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be counted is not counted, and that is logged."""
    log = Notebook()
    app = hardened(log)

    @app.post("/")
    async def read(x: Annotated[Any, Depends(Reading(value))]) -> bool:
        return x is value

    assert call(app, "/").json is True
    assert log.last["rows"] == rows
    assert ("could not look at" in caplog.text) == (rows is None)


class Broken:
    """A model that does not know its name."""

    @property
    def name(self) -> str:
        raise RuntimeError


def test_a_model_is_recorded_as_it_was_then_or_not_at_all() -> None:
    """What says which it was may be another one when the record is written, or say nothing."""
    current: dict[str, Any] = {"name": "iris", "version": 1, "digest": None}
    log = Notebook()
    app = hardened(log, model=lambda conn: Broken() if conn.url.path == "/broken" else current)
    call(app, "/", method="GET", chunks=[])
    current["version"] = 2
    call(app, "/broken", method="GET", chunks=[])
    assert [json.loads(json.dumps(record["model"])) for record in log.records] == [
        {"name": "iris", "version": 1, "digest": None},
        None,
    ]


def test_what_an_endpoint_without_guards_hands_on_is_recorded_by_its_own_route() -> None:
    """To another app with the same log, or back to its own app; and what is found there is not that of the endpoint."""
    log = Notebook()
    app, inner = hardened(log), hardened(log)

    @inner.get("/inside")
    async def inside() -> None: ...

    @app.get("/outside")
    async def outside(request: Request) -> None:
        await inner({**request.scope, "path": "/inside"}, request.receive, nowhere)
        await app({**request.scope, "path": "/nowhere"}, request.receive, nowhere)

    call(app, "/outside", method="GET", chunks=[])
    found = [(record["route"], record["status"], record.get("path")) for record in log.records]
    assert found == [("/inside", 200, None), (None, 404, "/nowhere"), ("/outside", 200, None)]
    assert len({record["request_id"] for record in log.records}) == 3


def test_a_mounted_app_with_a_log_of_its_own_finds_its_own_routes() -> None:
    """Also where it has none for what was asked."""
    outer, log = Notebook(), Notebook()
    app, mounted = hardened(outer), hardened(log)
    app.mount("/m", mounted)

    @mounted.get("/there")
    async def there() -> None: ...

    for path in ("/m/there", "/m/nowhere"):
        call(app, path, method="GET", chunks=[])
    assert [record["route"] for record in log.records] == ["/there", None]
    assert [record["route"] for record in outer.records] == ["/m/there", None]


def test_a_refusal_that_somebody_has_overlooked_is_not_the_one_that_counts() -> None:
    """A dependency of the app's own may go on without a guard; what refuses then is what is recorded."""
    log = Notebook()
    app = hardened(log)
    old = APIKeyAuth(APIKeys([APIKey.generate("old")[0]]), header="X-Old-Key", scheme_name="old")
    new = APIKeyAuth(APIKeys([APIKey.generate("new")[0]]))

    async def either(request: Request) -> None:
        with contextlib.suppress(HTTPException):
            await old(request, SecurityScopes())
        await new(request, SecurityScopes())

    @app.get("/", dependencies=[Depends(either)])
    async def home() -> None: ...

    assert call(app, "/", method="GET", chunks=[]).status == 401
    assert log.last["guards"] == ["APIKeyAuth", "APIKeyAuth"]
    assert log.last["reason"] == "no X-API-Key header"
