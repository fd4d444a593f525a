"""What ``harden`` adds: limits on bodies, headers on every answer, scrubbed crashes, a checked start."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    WebSocket,
)
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel, field_validator
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.types import Message, Scope

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    Features,
    RateLimit,
    harden,
    request_id,
    require_api_key,
    truncate_output,
)
from mlguard.memory_store import MemoryStore
from tests.asgi import Answer, acall, call, make_scope

RECORD, SECRET = APIKey.generate("alice")
KEY = (b"x-api-key", SECRET.encode())
JSON = (b"content-type", b"application/json")


class Numbers(BaseModel):
    features: list[float]


def app_with(*, hardened: dict[str, Any] | None = None) -> FastAPI:
    """An app with one endpoint of each kind that crashes, answers or reads."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Numbers) -> int:
        return len(body.features)

    @app.post("/unread")
    async def unread() -> str:
        return "ran"

    @app.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError("secret inside")

    @app.get("/detail")
    async def detail(status: int) -> None:
        raise HTTPException(status, "told on purpose")

    @app.get("/structured")
    async def structured() -> None:
        raise HTTPException(409, {"model": "busy"}, headers={"X-Why": "because"})

    @app.get("/empty")
    async def empty() -> None:
        raise HTTPException(304, headers={"ETag": '"1"'})

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first "
            raise ZeroDivisionError("secret inside")

        return StreamingResponse(pieces())

    @app.get("/own")
    async def own() -> Response:
        return PlainTextResponse("mine", headers={"Cache-Control": "max-age=60"})

    harden(app, **(hardened or {}))
    return app


# Bodies --------------------------------------------------------------------------------------------------------------


def test_declared_length_is_judged_before_the_endpoint_runs() -> None:
    """An endpoint that never reads its body does not run either, and nothing of the body is consumed."""
    answer = call(app_with(hardened={"max_body_size": 10}), "/unread", chunks=[b"x" * 11])
    assert (answer.status, answer.reads, answer.json["type"]) == (413, 0, "urn:mlguard:problem:body-too-large")


def test_declared_length_at_the_limit_passes() -> None:
    """The limit itself is allowed."""
    assert call(app_with(hardened={"max_body_size": 10}), "/unread", chunks=[b"x" * 10]).json == "ran"


@pytest.mark.parametrize("length", [b"+11", b"-1", b"1e9", b"9" * 40, b"\xb2"])
def test_length_that_is_no_number_is_too_large(length: bytes) -> None:
    """What cannot be read as a length is not taken for a small one."""
    answer = call(app_with(), "/unread", headers=[(b"content-length", length)])
    assert answer.status == 413


def test_chunked_body_is_judged_while_it_is_read() -> None:
    """Reading stops with the chunk that is too much."""
    answer = call(app_with(hardened={"max_body_size": 10}), headers=[JSON], chunks=[b"x" * 6] * 5, declared=False)
    assert (answer.status, answer.reads) == (413, 2)


def test_unread_chunked_body_is_never_consumed() -> None:
    """An endpoint that reads nothing makes nobody read, however much is sent."""
    answer = call(app_with(hardened={"max_body_size": 10}), "/unread", chunks=[b"x" * 6] * 5, declared=False)
    assert (answer.status, answer.reads) == (200, 0)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", ["/reads", "/unread", "/v1/unread", "/sub/unread"])
def test_authentication_comes_before_size(path: str, declared: bool) -> None:
    """Nobody without a key learns how large a body may be."""
    caller = APIKeyAuth(APIKeys([RECORD]))
    app, inner = FastAPI(), FastAPI()

    async def unread() -> None: ...

    app.add_api_route("/unread", unread, methods=["POST"], dependencies=[Depends(caller)])
    inner.add_api_route("/unread", unread, methods=["POST"], dependencies=[Depends(caller)])

    @app.post("/reads", dependencies=[Depends(caller)])
    async def reads(body: Numbers) -> None: ...

    router = APIRouter()
    router.add_api_route("/unread", unread, methods=["POST"])
    app.include_router(router, prefix="/v1", dependencies=[Depends(caller)])
    app.mount("/sub", inner)
    harden(app, max_body_size=10)
    body = [b"x" * 6, b"x" * 6]
    assert call(app, path, chunks=body, declared=declared).status == 401
    with_key = call(app, path, headers=[KEY], chunks=body, declared=declared)
    assert with_key.status == (413 if declared or path == "/reads" else 200)


def test_oversized_request_to_nowhere_is_too_large() -> None:
    """A path without a route is refused by size like any other."""
    assert call(app_with(hardened={"max_body_size": 10}), "/nowhere", chunks=[b"x" * 11]).status == 413


def test_middleware_that_reads_before_routing_is_limited() -> None:
    """A logging middleware that reads the body cannot be made to read more than the limit either."""
    app = FastAPI()
    seen = []

    async def reading(request: Request, call_next: Callable[[Request], Any]) -> Any:
        seen.append(await request.body())
        return await call_next(request)

    @app.post("/predict")
    async def predict(request: Request) -> int:
        return len(await request.body())

    app.add_middleware(BaseHTTPMiddleware, dispatch=reading)
    harden(app, max_body_size=10)
    assert call(app, chunks=[b"x" * 5] * 2, declared=False).json == 10
    refused = call(app, chunks=[b"x" * 6] * 9, declared=False)
    assert (refused.status, refused.reads, refused.json["type"]) == (413, 2, "urn:mlguard:problem:body-too-large")
    assert call(app, chunks=[b"x" * 6] * 9).reads == 0
    assert seen == [b"x" * 10]


def test_slow_body_is_refused() -> None:
    """A body that never arrives is a 408, and the connection is closed."""

    async def session() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        app = app_with(hardened={"body_timeout": 1e-6})
        await app(make_scope("POST", "/predict", [JSON, (b"content-length", b"20")]), receive, send)
        return sent

    answer = Answer(messages=asyncio.run(session()))
    assert (answer.status, answer.headers["connection"]) == (408, "close")


@pytest.mark.parametrize(
    ("size", "version", "closes"), [(70_000, "1.1", True), (70_000, "2", False), (100, "1.1", False)]
)
def test_large_unread_rest_closes_the_connection(size: int, version: str, closes: bool) -> None:
    """Draining megabytes of a refused body would cost more than a new connection; HTTP/2 has no such header."""
    answer = call(app_with(), "/unread", chunks=[b"x" * size], http_version=version)
    assert ("connection" in answer.headers) is closes


@pytest.mark.parametrize("path", ["/predict", "/rows", "/raw"])
def test_client_that_leaves_while_sending_is_no_crash(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """A disconnect in the middle of a body is worth a line, and no alarm, whoever reads the body."""
    caplog.set_level(logging.INFO, logger="mlguard")
    app = app_with()

    @app.post("/rows", dependencies=[Depends(Features(columns=1, low=0, high=1, max_rows=1))])
    async def rows() -> None: ...

    @app.post("/raw")
    async def raw(request: Request) -> None:
        await request.body()

    async def session() -> None:
        messages: Iterator[Message] = iter(
            [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
        )

        async def receive() -> Message:
            return next(messages)

        async def send(message: Message) -> None: ...

        await app(make_scope("POST", path, [JSON, (b"content-length", b"20")]), receive, send)

    asyncio.run(session())
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "Traceback" not in caplog.text


# Crashes and refusals ------------------------------------------------------------------------------------------------


def test_crash_is_answered_with_nothing_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets a request id; the log has the traceback under that id, exactly once."""
    answer = call(app_with(), "/crash", method="GET")
    assert answer.status == 500
    assert answer.json == {
        "type": "urn:mlguard:problem:internal-error",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "The service could not answer this request.",
        "request_id": answer.headers["x-request-id"],
    }
    assert caplog.text.count("ZeroDivisionError: secret inside") == 1
    assert answer.headers["x-request-id"] in caplog.text


def test_stream_that_breaks_is_left_broken(caplog: pytest.LogCaptureFixture) -> None:
    """A crash after the answer has begun adds nothing to it and does not finish it: the client sees the break."""
    answer = call(app_with(), "/stream", method="GET")
    assert (answer.status, answer.body, answer.complete) == (200, b"first ", False)
    assert caplog.text.count("ZeroDivisionError: secret inside") == 1


def test_crash_in_a_middleware_is_scrubbed_too(caplog: pytest.LogCaptureFixture) -> None:
    """Middlewares added after harden are inside it."""
    app = app_with()

    async def broken(request: Request, call_next: object) -> None:
        raise ZeroDivisionError("secret inside")

    app.add_middleware(BaseHTTPMiddleware, dispatch=broken)  # type: ignore[arg-type]  # it never returns
    answer = call(app, "/own", method="GET")
    assert (answer.status, b"inside" in answer.body) == (500, False)
    assert [record.message.split()[0] for record in caplog.records] == ["crashed"]


def test_crash_in_a_background_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The answer has gone; the operator still hears of it, once."""
    app = FastAPI()

    def broken() -> None:
        raise ZeroDivisionError("secret inside")

    @app.get("/predict")
    async def predict(tasks: BackgroundTasks) -> str:
        tasks.add_task(broken)
        return "fine"

    harden(app)
    answer = call(app, method="GET")
    assert (answer.status, answer.body) == (200, b'"fine"')
    assert caplog.text.count("ZeroDivisionError: secret inside") == 1


@pytest.mark.parametrize(
    ("status", "detail"), [(404, "told on purpose"), (418, "told on purpose"), (499, "told on purpose")]
)
def test_detail_of_the_developers_own_4xx_is_kept(status: int, detail: str) -> None:
    """What a developer raises for the caller reaches the caller, as a problem."""
    answer = call(app_with(), f"/detail?status={status}", method="GET")
    assert (answer.status, answer.json["detail"], answer.json["status"]) == (status, detail, status)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("status", [500, 503])
def test_detail_of_a_5xx_is_scrubbed(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """``raise HTTPException(500, str(error))`` tells the operator, not the caller."""
    answer = call(app_with(), f"/detail?status={status}", method="GET")
    assert (answer.status, b"purpose" in answer.body) == (status, False)
    assert "told on purpose" in caplog.text


def test_structured_detail_and_headers_are_kept() -> None:
    """A detail that is no text is a member of the problem."""
    answer = call(app_with(), "/structured", method="GET")
    assert (answer.json["info"], answer.headers["x-why"]) == ({"model": "busy"}, "because")


def test_status_without_a_body_gets_none() -> None:
    """A 304 has headers and nothing else."""
    answer = call(app_with(), "/empty", method="GET")
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", '"1"')


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/predict", 405)])
def test_routing_errors_are_problems(method: str, path: str, status: int) -> None:
    """What the router refuses is a problem like everything else."""
    answer = call(app_with(), path, method=method)
    assert (answer.status, answer.json["status"]) == (status, status)


def test_validation_problem_says_where_and_nothing_else() -> None:
    """No input, no field name, no message of a validator; places by position."""

    class Strict(BaseModel):
        confidential_name: list[float]

        @field_validator("confidential_name")
        @classmethod
        def check(cls, value: list[float]) -> list[float]:
            raise ValueError(f"secret inside {value}")

    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Strict, hidden_query: int = 0) -> None: ...

    harden(app)
    wrong = call(app, headers=[JSON], chunks=[b'{"confidential_name": [1, "attacker", 2]}'])
    assert wrong.json["errors"] == [{"in": "body", "at": [1], "broken": "float_parsing"}]
    refused = call(app, headers=[JSON], chunks=[b'{"confidential_name": [7.25]}'])
    assert refused.json["errors"] == [{"in": "body", "at": [], "broken": "value_error"}]
    query = call(app, "/predict?hidden_query=attacker", headers=[JSON], chunks=[b"{}"])
    assert {"in": "query", "at": [], "broken": "int_parsing"} in query.json["errors"]
    broken = call(app, headers=[JSON], chunks=[b'{"confidential_name": '])
    assert broken.json["errors"][0]["broken"] == "json_invalid"
    for answer in (wrong, refused, query, broken):
        assert not any(word in answer.body for word in (b"confidential", b"attacker", b"hidden", b"inside", b"7.25"))


def test_nan_in_a_refused_body_is_a_422_and_not_a_crash() -> None:
    """FastAPI's own handler fails to echo a NaN; this one echoes nothing."""

    class Bounded(BaseModel):
        features: list[int]

    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Bounded) -> None: ...

    harden(app)
    assert call(app, headers=[JSON], chunks=[b'{"features": [NaN, Infinity, 1e999]}']).status == 422


def test_a_million_wrong_numbers_are_ten_errors() -> None:
    """The answer to a large mistake is small."""
    answer = call(app_with(), headers=[JSON], chunks=[b'{"features": [' + b",".join([b'"x"'] * 5_000) + b"]}"])
    assert (answer.status, len(answer.json["errors"])) == (422, 10)


def test_log_lines_cannot_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    """A path with a line break is one line in the log, escaped and cut."""
    caplog.set_level(logging.INFO, logger="mlguard")
    call(app_with(), "/x\nCRITICAL forged " + "y" * 5_000, method="GET\x1b[2J")
    assert "\\nCRITICAL forged" in caplog.text
    assert "\nCRITICAL" not in caplog.text
    assert "\x1b" not in caplog.text
    assert max(map(len, caplog.messages)) < 500


def test_own_handlers_stay() -> None:
    """A handler that a developer registered is an explicit choice and wins, before or after harden."""
    app = FastAPI()

    @app.exception_handler(HTTPException)
    async def mine(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"mine": True}, 418)

    @app.get("/refused")
    async def refused() -> None:
        raise HTTPException(400)

    harden(app)

    @app.exception_handler(500)
    async def also_mine(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"also": "mine"}, 500)

    @app.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError

    assert call(app, "/refused", method="GET").json == {"mine": True}
    assert call(app, "/crash", method="GET").json == {"also": "mine"}


@pytest.mark.parametrize("early", [True, False])
def test_every_own_handler_stays(early: bool) -> None:
    """Validation handlers and crash handlers of the developer's own are kept as well."""

    async def mine(conn: Any, error: Exception) -> Any:
        if isinstance(conn, WebSocket):
            await conn.close(4000, "mine")
            return None
        return JSONResponse({"mine": type(error).__name__}, 422)

    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Numbers) -> None:
        raise ZeroDivisionError

    @app.websocket("/ws/{number}")
    async def typed(websocket: WebSocket, number: int) -> None: ...

    if not early:
        harden(app)
    for error in (RequestValidationError, WebSocketRequestValidationError, StarletteHTTPException, Exception):
        app.add_exception_handler(error, mine)
    if early:
        harden(app)
    assert call(app, headers=[JSON], chunks=[b"{}"]).json == {"mine": "RequestValidationError"}
    assert call(app, headers=[JSON], chunks=[b'{"features": []}']).json == {"mine": "ZeroDivisionError"}
    assert call(app, "/nowhere").json == {"mine": "HTTPException"}
    closed = call(app, "/ws/x", method="GET", type="websocket", subprotocols=[], extensions={})
    assert (closed.messages[0]["type"], closed.messages[0]["code"]) == ("websocket.close", 4000)


def test_own_crash_handler_that_crashes_is_scrubbed() -> None:
    """If even that fails, the caller still gets a problem and nothing else."""
    app = app_with()

    @app.exception_handler(500)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        raise ZeroDivisionError("secret inside")

    answer = call(app, "/crash", method="GET")
    assert (answer.status, answer.json["title"]) == (500, "Internal Server Error")


def websocket_app() -> FastAPI:
    """A WebSocket that refuses before and after it has accepted, and one that crashes."""
    app = FastAPI()

    @app.websocket("/early")
    async def early(websocket: WebSocket) -> None:
        raise HTTPException(403, "told on purpose")

    @app.websocket("/late")
    async def late(websocket: WebSocket) -> None:
        await websocket.accept()
        raise HTTPException(403, "told on purpose")

    @app.websocket("/closed")
    async def closed(websocket: WebSocket) -> None:
        await websocket.close(4001)
        raise HTTPException(403, "told on purpose")

    harden(app)
    return app


@pytest.mark.parametrize(
    ("path", "extensions", "types"),
    [
        ("/early", {"websocket.http.response": {}}, ["websocket.http.response.start", "websocket.http.response.body"]),
        ("/early", {}, ["websocket.close"]),
        ("/late", {}, ["websocket.accept", "websocket.close"]),
        ("/closed", {}, ["websocket.close"]),
    ],
)
def test_refused_websocket_is_answered_once(path: str, extensions: dict[str, Any], types: list[str]) -> None:
    """With a problem where the server can send one, else by closing; never twice."""

    async def session() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = make_scope("GET", path, type="websocket", subprotocols=[], extensions=extensions)
        await websocket_app()(scope, receive, send)
        return sent

    messages = asyncio.run(session())
    assert [message["type"] for message in messages] == types
    assert "purpose" not in str([message.get("reason") for message in messages])


def test_websocket_that_crashes_after_the_peer_left(caplog: pytest.LogCaptureFixture) -> None:
    """Closing a connection that is gone fails, and nobody hears of that; the crash itself is logged."""

    async def session() -> None:
        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            raise OSError("peer left")

        scope = make_scope("GET", "/late", type="websocket", subprotocols=[], extensions={})
        await websocket_app()(scope, receive, send)

    asyncio.run(session())
    assert [record.message.split()[0] for record in caplog.records] == ["crashed"]


# Headers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/own", "/crash", "/nowhere", "/stream"])
def test_every_answer_carries_security_headers_and_a_request_id(path: str) -> None:
    """Also answers of the endpoint's own making, crashes and 404s."""
    headers = call(app_with(), path, method="GET").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["strict-transport-security"].startswith("max-age=")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert len(headers["x-request-id"]) == 16
    assert "server" not in headers


def test_headers_that_an_endpoint_sets_win() -> None:
    """An endpoint that knows better may say so, and no header comes twice."""
    headers = call(app_with(), "/own", method="GET").headers
    assert headers.getlist("cache-control") == ["max-age=60"]


@pytest.mark.parametrize("environment", ["production", "development"])
def test_headers_about_time_stay_inside_in_production(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a middleware says of how long an answer took, in any case, is for the developer's own machine."""
    monkeypatch.setenv("MLGUARD_ENV", environment)
    app = app_with()

    @app.middleware("http")
    async def tell(request: Request, call_next: Callable[[Request], Any]) -> Any:
        response = await call_next(request)
        response.raw_headers += [(b"X-Process-Time", b"0.1"), (b"server-timing", b"db"), (b"x-other", b"1")]
        return response

    for path in ("/own", "/nowhere"):
        headers = call(app, path, method="GET").headers
        told = {"x-process-time", "server-timing"} if environment == "development" else set()
        assert {"x-process-time", "server-timing", "x-other"} & {name.lower() for name in headers} == {"x-other", *told}


def test_request_ids_differ_and_are_not_the_callers() -> None:
    """A caller cannot choose the id under which its request is logged."""
    answers = [call(app_with(), "/own", method="GET", headers=[(b"x-request-id", b"mine")]) for _ in range(2)]
    assert len({answer.headers["x-request-id"] for answer in answers} | {"mine"}) == 3


def test_request_id_can_be_logged_by_the_app() -> None:
    """An endpoint's own log lines can carry the id that the caller sees; without harden there is none."""

    async def predict(request: Request) -> str:
        return request_id(request)

    app, plain = FastAPI(), FastAPI()
    for one in (app, plain):
        one.add_api_route("/predict", predict, methods=["POST"])
    harden(app)
    answer = call(app)
    assert answer.json == answer.headers["x-request-id"]
    assert call(plain).json == ""


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "1MB", None])
def test_body_limit_must_be_bytes(size: Any) -> None:
    """A limit that is no number of bytes is refused when it is set."""
    with pytest.raises(ConfigurationError, match="max_body_size"):
        harden(FastAPI(), max_body_size=size)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), "30", None, True])
def test_body_timeout_must_be_seconds(timeout: Any) -> None:
    """A time-out that never comes, or has come already, is refused when it is set."""
    with pytest.raises(ConfigurationError, match="body_timeout"):
        harden(FastAPI(), body_timeout=timeout)


@pytest.mark.parametrize("wrong", [APIRouter(), FastAPI, None])
def test_only_an_app_can_be_hardened(wrong: Any) -> None:
    """A router, or the class, is a slip that is told at once."""
    with pytest.raises(ConfigurationError, match="the app itself"):
        harden(wrong)


def test_hardening_twice_is_refused() -> None:
    """Twice is a mistake in the app's assembly."""
    app = FastAPI()
    harden(app)
    with pytest.raises(ConfigurationError, match="twice"):
        harden(app)


def test_hardening_a_running_app_is_refused() -> None:
    """After the first request it would be without effect."""
    app = FastAPI()
    call(app, "/nowhere")
    with pytest.raises(ConfigurationError, match="before the app serves"):
        harden(app)


def test_debug_is_refused_in_production() -> None:
    """FastAPI's debug pages show source code and variables."""
    with pytest.raises(ConfigurationError, match="debug"):
        harden(FastAPI(debug=True))


def test_debug_switched_on_later_stops_the_start() -> None:
    """Setting it after harden does not get past the check."""
    app = app_with()
    app.debug = True
    with pytest.raises(ConfigurationError, match="debug"):
        call(app, "/own", method="GET")


def test_debug_is_allowed_in_development(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one's own machine it is one's own affair."""
    monkeypatch.setenv("MLGUARD_ENV", "development")
    app = FastAPI(debug=True)
    harden(app)
    assert call(app, "/docs", method="GET").status == 200


@pytest.mark.parametrize("value", ["dev", "Production", "prod", ""])
def test_unknown_environment_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A typo in MLGUARD_ENV is no quiet default."""
    monkeypatch.setenv("MLGUARD_ENV", value)
    with pytest.raises(ConfigurationError, match="MLGUARD_ENV"):
        harden(FastAPI())


def lifespan(app: FastAPI) -> list[Message]:
    """Start an app as a server does, and say what it answered."""

    async def session() -> list[Message]:
        sent: list[Message] = []
        events = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Message:
            return {"type": next(events)}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        try:
            await app(scope, receive, send)
        except ConfigurationError as error:
            sent.append({"type": "raised", "message": str(error)})
        return sent

    return asyncio.run(session())


def test_start_succeeds_when_everything_is_configured() -> None:
    """The app's own lifespan runs as ever."""
    assert [message["type"] for message in lifespan(app_with())] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_missing_keys_stop_the_start() -> None:
    """``require_api_key`` without MLGUARD_API_KEYS fails at start-up and names the variable."""
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(require_api_key)])
    async def predict() -> None: ...

    harden(app)
    failed, raised = lifespan(app)
    assert failed["type"] == "lifespan.startup.failed"
    assert "MLGUARD_API_KEYS" in failed["message"]
    assert raised["message"] == failed["message"]


def test_overridden_guard_needs_no_keys() -> None:
    """A test that replaces a guard starts without its settings; without the guard's stand-in, nobody gets in."""
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(require_api_key)])
    async def predict() -> None: ...

    harden(app)
    app.dependency_overrides[require_api_key] = lambda: None
    assert lifespan(app)[0]["type"] == "lifespan.startup.complete"
    assert call(app, method="GET").status == 200
    app.dependency_overrides.clear()
    assert call(app, method="GET").status == 401
    assert call(app, method="GET", headers=[(b"x-api-key", b"any")]).status == 500


@pytest.mark.parametrize("named", [False, True])
def test_two_limits_that_would_share_a_bucket_stop_the_start(named: bool) -> None:
    """Two limits alike are one bucket, unless somebody said so."""
    app = FastAPI()
    store = MemoryStore()

    def add(path: str) -> None:
        limit = RateLimit("1/minute", name="shared" if named else None, store=store)

        @app.get(path, dependencies=[Depends(limit)])
        async def endpoint() -> None: ...

    add("/a")
    add("/b")
    harden(app)
    types = [message["type"] for message in lifespan(app)]
    assert types[0] == ("lifespan.startup.complete" if named else "lifespan.startup.failed")


def test_truncate_output_above_the_route_stops_the_start() -> None:
    """In the wrong order the route would keep the bare function, and full precision would leave."""
    app = FastAPI()

    @truncate_output(decimals=1)
    @app.get("/predict")
    def predict() -> float:
        return 0.123456

    harden(app)
    failed = lifespan(app)[0]
    assert failed["type"] == "lifespan.startup.failed"
    assert "/predict" in failed["message"]


def test_nested_hardening_serves_one_set_of_headers() -> None:
    """A hardened app mounted in a hardened app: one request id, no header twice, one line for a crash."""
    inner = app_with()
    outer = FastAPI()
    outer.mount("/inner", inner)
    harden(outer)
    answer = call(outer, "/inner/crash", method="GET")
    assert (answer.status, answer.json["request_id"]) == (500, answer.headers["x-request-id"])
    assert len(answer.headers.getlist("x-request-id")) == 1
    assert len(answer.headers.getlist("x-frame-options")) == 1
    assert call(outer, "/inner/predict", headers=[JSON], chunks=[b'{"features": [1]}']).json == 1


def test_other_scopes_pass_through() -> None:
    """What is neither a request nor a WebSocket is none of harden's business."""

    async def session() -> list[Any]:
        seen: list[Any] = []

        async def stack(scope: Scope, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

        app = app_with()
        await acall(app, "/own", method="GET")
        hardened: Any = app.middleware_stack
        hardened._app = stack
        await hardened({"type": "other"}, None, None)
        return seen

    assert asyncio.run(session()) == ["other"]


def test_log_levels_follow_who_must_act(caplog: pytest.LogCaptureFixture) -> None:
    """Refusals warn, the developer's own 4xx inform, crashes are errors."""
    caplog.set_level(logging.INFO, logger="mlguard")
    app = app_with(hardened={"max_body_size": 10})
    call(app, "/unread", chunks=[b"x" * 11])
    call(app, "/nowhere", method="GET")
    call(app, "/crash", method="GET")
    assert [record.levelname for record in caplog.records if record.name == "mlguard"] == ["WARNING", "INFO", "ERROR"]
