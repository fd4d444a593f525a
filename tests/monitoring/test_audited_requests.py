"""One record of each request, whatever becomes of it."""

import asyncio
import gc
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import httpx2 as httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security, WebSocket
from fastapi.staticfiles import StaticFiles
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Message

from mlguard import (
    AnyAuth,
    APIKey,
    APIKeyAuth,
    APIKeys,
    AuditLog,
    BudgetExceededError,
    ClientAddress,
    ConfigurationError,
    DPNoise,
    EpsilonLedger,
    Features,
    Lockdown,
    MemoryStore,
    ModelStore,
    QueryBudget,
    RateLimit,
    ServedModel,
    Text,
    UnavailableError,
    add_noise,
    harden,
    install_audit_log,
    truncate_output,
    verify_audit_log,
)
from mlguard._guard import Control, Guard, RequestMemory
from mlguard._order import once
from mlguard.artifacts.served_model import _Served
from mlguard.monitoring.log_context import current_request
from tests.asgi import acall, call, make_scope
from tests.servers import serving

KEY = "audit-Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"
INPUT_KEY = "input-Jd7sHfN4cU0wY5tR8pZ2mLzTx9Qk3bV"
BODY = b'{"features": [[1, 2], [3, 4]]}'
JSON = (b"content-type", b"application/json")


class Notebook:
    """A log in memory."""

    def __init__(self, durability: str = "batch") -> None:
        self.durability = durability
        self.events: list[Mapping[str, Any]] = []
        self.is_open = True
        self.is_writable = True
        self.waits = 0
        self.attached = 0

    def put(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    async def written(self) -> None:
        self.waits += 1
        if not self.is_writable:
            raise UnavailableError("the disk is full", retry_after=1)

    def accepts(self) -> bool:
        return self.is_open

    def attach(self) -> None:
        self.attached += 1

    @property
    def records(self) -> list[dict[str, Any]]:
        """As JSON would have them."""
        return [json.loads(json.dumps(dict(event))) for event in self.events]

    @property
    def last(self) -> dict[str, Any]:
        return self.records[-1]


class Service:
    """A guarded service with a log."""

    def __init__(self, log: Notebook | None = None, **options: Any) -> None:
        self.log = log or Notebook()
        self.app = FastAPI()
        harden(self.app)
        install_audit_log(self.app, self.log, **{"input_key": INPUT_KEY, **options})
        record, self.secret = APIKey.generate("alice", scopes=["predict"])
        self.caller = APIKeyAuth(APIKeys([record]))
        self.rows = Features(columns=2, low=0, high=10, max_rows=100)
        self.limit = RateLimit("100/minute", by=self.caller, store=MemoryStore())
        self.budget = QueryBudget("5/month", by=self.caller, cost=self.rows, name="rows", store=MemoryStore())
        guards = [Security(self.caller, scopes=["predict"]), Depends(self.limit), Depends(self.budget)]

        @self.app.post("/predict/{model}", dependencies=guards)
        @truncate_output(labels=["setosa", "virginica"])
        async def predict(x: Annotated[np.ndarray, Depends(self.rows)]) -> Any:
            scores = np.array([[0.95, 0.05]] * len(x))
            x[:] = 0  # it may use the array as it likes
            return {"probabilities": scores}

    def ask(self, body: bytes = BODY, path: str = "/predict/iris", **more: Any) -> Any:
        """Ask, as alice."""
        return call(self.app, path, headers=[JSON, (b"x-api-key", self.secret.encode())], chunks=[body], **more)


def hardened(log: Any, **options: Any) -> FastAPI:
    """An app without endpoints yet."""
    app = FastAPI()
    harden(app)
    install_audit_log(app, log, **options)
    return app


def test_a_record_says_who_asked_what_of_whom_and_never_what_it_was() -> None:
    """All that an investigation wants to know, in one object."""
    service = Service(model=lambda conn: {"name": conn.path_params.get("model", "iris"), "version": 3, "digest": "x"})
    answer = service.ask(path="/predict/iris?token=s3cret")
    record = service.log.last
    assert record.pop("latency_ms") > 0
    assert record.pop("input").startswith("hmac-sha256:")
    assert record == {
        "event": "request",
        "request_id": answer.headers["x-request-id"],
        "principal": {"method": "api-key", "issuer": "", "id": "alice"},
        "address": "127.0.0.1",
        "method": "POST",
        "route": "/predict/{model}",
        "status": 200,
        "guards": ["APIKeyAuth", "RateLimit", "Features", "QueryBudget"],
        "refused_by": None,
        "rule": None,
        "reason": None,
        "rows": 2,
        "budget_left": {"rows": 3},
        "model": {"name": "iris", "version": 3, "digest": "x"},
        "output": {"labels": {"setosa": 2}, "confidence": {"0.9": 2}},
    }
    assert "s3cret" not in str(service.log.records)


@pytest.mark.parametrize(
    ("spoil", "status", "refused_by", "rule", "guards"),
    [
        ({"headers": []}, 401, "APIKeyAuth", "not-authenticated", ["APIKeyAuth"]),
        (
            {"body": b'{"features": [[1, 20]]}'},
            422,
            "Features",
            "invalid-input",
            ["APIKeyAuth", "RateLimit", "Features"],
        ),
        ({"body": b'{"features": [[1, 2]' + b",[1,2]" * 9 + b"]}"}, 429, "QueryBudget", "budget-exceeded", None),
        ({"method": "PUT"}, 405, None, "http-405", []),
        ({"path": "/nowhere"}, 404, None, "http-404", []),
        ({"body": b" " * 2_000_000}, 413, None, "body-too-large", None),
    ],
)
def test_a_refusal_is_recorded_with_the_guard_that_refused_and_why(
    spoil: dict[str, Any], status: int, refused_by: str | None, rule: str, guards: list[str] | None
) -> None:
    """Also where nobody knows who it was, and where no route was found."""
    service = Service()
    service.secret = service.secret if "headers" not in spoil else "wrong"
    spoil.pop("headers", None)
    assert service.ask(**spoil).status == status
    (record,) = service.log.records
    assert (record["status"], record["refused_by"], record["rule"]) == (status, refused_by, rule)
    assert guards is None or record["guards"] == guards
    assert (record["route"] is None) == (status == 404)


def test_what_is_left_of_a_budget_is_recorded_of_a_refusal_too() -> None:
    """The one that had too little."""
    service = Service()
    service.ask()
    service.ask()
    service.ask()
    assert [record["budget_left"] for record in service.log.records] == [{"rows": 3}, {"rows": 1}, {"rows": 1}]


def test_what_is_left_of_an_epsilon_is_recorded() -> None:
    """Of an answer with noise, and of a refusal because there is too little left for another one."""
    log = Notebook()
    app = hardened(log)
    ledger = EpsilonLedger("1/ever", name="iris", store=MemoryStore())

    @app.get("/predict")
    @truncate_output(decimals=2)
    @add_noise(DPNoise(epsilon=0.4, sensitivity=2.0), ledger=ledger)
    def predict() -> Any:
        return {"probabilities": [[0.5, 0.5]]}

    assert [call(app, "/predict", method="GET").status for _ in range(3)] == [200, 200, 429]
    assert [record["budget_left"] for record in log.records] == [
        {"epsilon iris": 0.6},
        {"epsilon iris": 0.2},
        {"epsilon iris": 0.2},
    ]


def test_a_missing_scope_is_a_refusal_of_the_guard_that_knows_the_caller() -> None:
    """Who it was is known by then."""
    service = Service()

    @service.app.get("/admin", dependencies=[Security(service.caller, scopes=["admin"])])
    def admin() -> None: ...

    assert service.ask(path="/admin", method="GET", body=b"").status == 403
    record = service.log.last
    assert (record["refused_by"], record["rule"]) == ("APIKeyAuth", "insufficient-scope")
    assert record["principal"]["id"] == "alice"


def test_of_several_ways_to_prove_who_one_is_the_one_that_failed_is_no_refusal() -> None:
    """It has said no before another one has said yes; and what refuses then is what is recorded."""
    log = Notebook()
    app = hardened(log)
    first, _ = APIKey.generate("x")
    second, secret = APIKey.generate("alice")
    caller = AnyAuth(APIKeyAuth(APIKeys([first]), header="X-Old-Key", scheme_name="old"), APIKeyAuth(APIKeys([second])))
    limit = RateLimit("1/minute", by=caller, store=MemoryStore())

    @app.get("/", dependencies=[Depends(limit)])
    def home() -> None: ...

    for status, refused_by in ((200, None), (429, "RateLimit")):
        assert call(app, "/", method="GET", headers=[(b"x-api-key", secret.encode())], chunks=[]).status == status
        assert (log.last["refused_by"], log.last["principal"]["id"]) == (refused_by, "alice")


class Refusing(Guard):
    """A guard of the app's own that raises whatever it was given."""

    def __init__(self, control: Control, error: Exception) -> None:
        self.control = control  # type: ignore[misc]  # for this one guard
        self._error = error

    async def __call__(self, conn: Request) -> None:
        async def decide() -> None:
            raise self._error

        await once(conn, self, decide)


def test_a_crash_is_a_500_of_which_nothing_is_told_but_its_kind() -> None:
    """Of a guard's crash, which guard it was. The text of an exception may hold anything."""
    log = Notebook()
    app = hardened(log)

    crashing = Refusing(Control.ADDRESS, RuntimeError("postgres://admin:hunter2@db"))

    @app.get("/guard", dependencies=[Depends(crashing)])
    def guarded() -> None: ...

    @app.get("/endpoint")
    def endpoint() -> None:
        raise RuntimeError("hunter2")

    @app.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418, "hunter2")

    for path, status in (("/guard", 500), ("/endpoint", 500), ("/teapot", 418)):
        assert call(app, path, method="GET", chunks=[]).status == status
    guard, crash, teapot_ = log.records
    assert (guard["refused_by"], guard["rule"], guard["reason"]) == ("Refusing", "internal-error", "RuntimeError")
    assert (crash["status"], crash["refused_by"], crash["rule"], crash["reason"]) == (500, None, "internal-error", None)
    assert teapot_["rule"] == "http-418"
    assert "hunter2" not in str(log.records)


def test_what_a_caller_writes_forges_nothing() -> None:
    """Path, method and headers are cut, and written as one word; of a path that a route has, only the template."""
    log = Notebook()
    app = hardened(log)
    hostile = '/x\n{"event": "login.accepted"}\x1b[2J\u202e\ud800' + "é" * 500
    scope_path = {"path": hostile, "method": "GET\r\nX" + "Y" * 100}
    scope = {**make_scope("GET", "/"), **scope_path}
    headers = [(b"user-agent", b"\x1b[31m\nevil"), (b"x-request-id", b"0000\n"), (b"traceparent", b"00-" + b"a" * 32)]
    scope["headers"] = headers

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    asyncio.run(app(scope, receive, send))
    (record,) = log.records
    line = json.dumps(dict(log.events[0]), ensure_ascii=False)
    assert line.isprintable()
    assert line.isascii()
    assert record["route"] is None
    assert len(record["path"]) < 1_000
    assert "evil" not in line
    assert "trace_id" not in record
    assert len(record["request_id"]) == 16


def test_equal_questions_have_equal_digests_and_others_have_others() -> None:
    """However the JSON is written; of what a guard has read, by value, dtype and shape."""
    service = Service()

    @service.app.post("/raw")
    async def raw(body: dict[str, Any]) -> None: ...

    def digest(body: bytes, path: str = "/predict/iris") -> Any:
        service.ask(body, path)
        return service.log.last["input"]

    first = digest(b'{"features": [1, 2]}')
    assert first == digest(b'{ "features": [[1.0, 2e0]] }') != digest(b'{"features": [1, 3]}')
    one = digest(b'{"a": 1, "b": [2]}', "/raw")
    assert one == digest(b' {"b":[2],  "a":1}', "/raw") != digest(b'{"a": 1, "b": [3]}', "/raw")
    assert first != one
    other = Service(input_key=INPUT_KEY + "x")
    other.ask(b'{"features": [1, 2]}')
    assert other.log.last["input"] not in {None, first}


def test_without_a_key_there_are_no_digests() -> None:
    """What could be guessed is not there to be compared with."""
    service = Service(input_key=None)
    service.ask()
    assert service.log.last["input"] is None
    assert service.log.last["rows"] == 2


def test_a_body_that_no_guard_reads_is_kept_up_to_a_bound() -> None:
    """What is larger has no digest, and takes no memory."""
    log = Notebook()
    app = FastAPI()
    harden(app, max_body_size=4_000_000)
    install_audit_log(app, log, input_key=INPUT_KEY)

    @app.post("/")
    async def upload(request: Request) -> int:
        return len(await request.body())

    for chunks, has in (
        ([b"x" * 1000] * 3, True),
        ([b"x" * 600_000] * 2, False),
        ([b"\xff\xfe"], True),
        ([b""], False),
    ):
        assert call(app, "/", chunks=chunks).status == 200
        assert (log.last["input"] is not None) == has


def test_texts_and_streams_are_recorded_too() -> None:
    """A text counts as one row; a stream has one record, with what its items have said."""
    log = Notebook()
    app = hardened(log, input_key=INPUT_KEY)
    text = Text(max_length=100)

    @app.post("/text")
    @truncate_output(labels=["a", "b"])
    def stream(said: Annotated[str, Depends(text)]) -> Iterator[Any]:
        for _ in range(6):
            yield {"probabilities": [0.25, 0.75]}

    assert call(app, "/text", headers=[JSON], chunks=[b'{"text": "hello"}']).status == 200
    assert log.last["rows"] == 1
    assert log.last["output"] == {"labels": {"b": 6}, "confidence": {"0.7": 6}}
    assert "ended" not in log.last


def test_a_stream_that_breaks_and_a_client_that_leaves_are_told_from_each_other() -> None:
    """A whole answer has no ``ended``. Who leaves before there is an answer has no status."""
    log = Notebook()
    app = hardened(log)

    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise RuntimeError("hunter2")

    @app.get("/broken")
    def break_off() -> StreamingResponse:
        return StreamingResponse(broken())

    @app.post("/slow")
    async def slow(request: Request) -> int:
        return len(await request.body())

    call(app, "/broken", method="GET", chunks=[b""])
    assert (log.last["status"], log.last["ended"]) == (200, "broken")

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    async def nowhere(message: Message) -> None: ...

    asyncio.run(app(make_scope("POST", "/slow", [(b"content-length", b"9")]), leave, nowhere))
    assert (log.last["status"], log.last["ended"]) == (None, "left")

    async def gone(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the socket is closed")

    async def stay() -> Message:
        return await asyncio.Future()  # it never comes

    asyncio.run(app(make_scope("GET", "/broken"), stay, gone))
    assert (log.last["status"], log.last["ended"]) == (200, "left")


def test_a_request_that_is_cancelled_has_a_record() -> None:
    """As when a server shuts down."""
    log = Notebook()
    app = hardened(log)
    began = asyncio.Event()

    @app.get("/")
    async def hang() -> None:
        began.set()
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(acall(app, "/", method="GET", chunks=[b""]))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (log.last["status"], log.last["ended"], log.last["route"]) == (None, "cancelled", "/")
    assert current_request.get() is None


def test_what_is_cancelled_after_the_answer_has_ended_well() -> None:
    """A background task, say: the caller has had a whole answer."""
    log = Notebook()
    app = hardened(log)
    began = asyncio.Event()

    async def hang() -> None:
        began.set()
        await asyncio.Event().wait()

    @app.get("/")
    async def home() -> JSONResponse:
        return JSONResponse({}, background=BackgroundTask(hang))

    async def main() -> None:
        task = asyncio.create_task(acall(app, "/", method="GET", chunks=[b""]))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (log.last["status"], log.last.get("ended")) == (200, None)


def test_a_budget_that_does_not_say_what_is_left_is_recorded_without() -> None:
    """It has refused all the same."""
    log = Notebook()
    app = hardened(log)

    @app.get("/", dependencies=[Depends(Refusing(Control.BUDGET, BudgetExceededError("spent")))])
    def home() -> None: ...

    assert call(app, "/", method="GET", chunks=[b""]).status == 429
    assert (log.last["refused_by"], log.last["reason"], log.last["budget_left"]) == ("Refusing", "spent", {})


@pytest.fixture
def socket_app() -> tuple[FastAPI, Notebook]:
    """Sockets that close, crash, and are refused."""
    log = Notebook()
    app = hardened(log)
    record, _ = APIKey.generate("alice")
    caller = APIKeyAuth(APIKeys([record]))

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close(4001)

    @app.websocket("/crash")
    async def crash(socket: WebSocket) -> None:
        await socket.accept()
        raise RuntimeError

    @app.websocket("/wait")
    async def wait(socket: WebSocket) -> None:
        await socket.accept()
        async for _ in socket.iter_text():
            pass

    @app.websocket("/guarded")
    async def guarded(socket: WebSocket, _: Annotated[Any, Depends(caller)]) -> None: ...

    return app, log


def converse(app: FastAPI, path: str, *said: Message, **more: Any) -> list[Message]:
    """Open a WebSocket, say these messages, and return what the app has sent."""
    messages = [{"type": "websocket.connect"}, *said]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "websocket.disconnect", "code": 1006}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {**make_scope("GET", path), "type": "websocket", "subprotocols": [], **more}
    del scope["method"]
    asyncio.run(app(scope, receive, send))
    return sent


def test_a_websocket_has_one_record_when_it_ends(socket_app: tuple[FastAPI, Notebook]) -> None:
    """With the code that it was closed with, by whichever side."""
    app, log = socket_app
    text = {"type": "websocket.receive", "text": "x"}
    for path, status, code in (
        ("/echo", 101, 4001),
        ("/wait", 101, 1006),
        ("/crash", 101, 1011),
        ("/guarded", 403, None),
    ):
        before = len(log.events)
        converse(app, path, text)
        assert len(log.events) == before + 1
        record = log.last
        assert (record["method"], record["route"], record["status"]) == ("WEBSOCKET", path, status)
        assert record.get("close_code") == code
        assert "ended" not in record
    assert (log.last["refused_by"], log.last["rule"]) == ("APIKeyAuth", "not-authenticated")
    converse(app, "/guarded", extensions={"websocket.http.response": {}})
    assert log.last["status"] == 401


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
def test_a_socket_is_refused_too_where_it_cannot_be_recorded(
    socket_app: tuple[FastAPI, Notebook], extensions: dict[str, Any]
) -> None:
    """It is not accepted."""
    app, log = socket_app
    log.is_open = False
    sent = converse(app, "/echo", extensions=extensions)
    assert [message["type"] for message in sent if message["type"] == "websocket.accept"] == []
    assert sent[0].get("status", 403) in {403, 503}
    assert (log.last["rule"], log.last["route"]) == ("unavailable", "/echo")


def test_who_may_not_be_recorded_is_refused_before_anything_is_read() -> None:
    """A problem with a request id and ``harden``'s headers, and no guard has counted."""
    service = Service()
    service.log.is_open = False
    answer = service.ask()
    assert (answer.status, answer.reads, answer.json["type"]) == (503, 0, "urn:mlguard:problem:unavailable")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"] == answer.json["request_id"] == service.log.last["request_id"]
    assert "x-content-type-options" in answer.headers
    assert service.log.last["guards"] == []
    assert (service.log.last["rule"], service.log.last["status"]) == ("unavailable", 503)
    service.log.is_open = True
    service.ask()
    assert service.log.last["budget_left"] == {"rows": 3}


@pytest.mark.parametrize("durability", ["batch", "request"])
def test_a_probe_is_answered_also_where_it_cannot_be_recorded(durability: str) -> None:
    """Or the service would be restarted for a full disk. Whatever else is spelt like it is refused."""
    log = Notebook(durability)
    app = hardened(log, health=["/live"])
    log.is_open = log.is_writable = False

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    def live() -> str:
        return "yes"

    assert call(app, "/live", method="GET").json == "yes"
    assert call(app, "/live", method="GET", root_path="/api").json == "yes"
    assert [call(app, path, method="GET").status for path in ("/live/", "/LIVE", "//live", "/health")] == [503] * 4
    assert call(app, "/live", method="POST").status == 503, "it may be a question to a model"
    assert [record["status"] for record in log.records] == [200, 200, 503, 503, 503, 503, 503]


def test_an_answer_leaves_when_its_record_is_durable() -> None:
    """Not a byte before; its time is that up to the first byte."""
    log = Notebook("request")
    service = Service(log)
    sent: list[str] = []
    waiting = asyncio.Event()
    durable = asyncio.Event()

    async def written() -> None:
        waiting.set()
        await durable.wait()

    log.written = written  # type: ignore[method-assign]  # one that waits

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY}

    async def main() -> None:
        scope = make_scope("POST", "/predict/iris", [JSON, (b"x-api-key", service.secret.encode())])
        task = asyncio.create_task(service.app(scope, receive, send))
        await waiting.wait()
        assert sent == []
        assert (log.last["status"], log.last["output"]["labels"]) == (200, {"setosa": 2})
        durable.set()
        await task

    asyncio.run(main())
    assert sent == ["http.response.start", "http.response.body"]
    assert len(log.events) == 1


def test_an_answer_whose_record_cannot_be_durable_is_withheld() -> None:
    """The caller gets a 503, and nothing of the answer; that it was withheld is an event."""
    log = Notebook("request")
    service = Service(log)
    log.is_writable = False
    answer = service.ask()
    assert (answer.status, answer.json["type"]) == (503, "urn:mlguard:problem:unavailable")
    assert "probabilities" not in str(answer.messages)
    record, end = log.records
    assert record["status"] == 200
    assert (end["event"], end["facts"]["ended"]) == ("request.ended", "withheld")
    assert end["facts"]["request_id"] == record["request_id"]


def test_durable_streams_and_sockets_tell_how_they_ended_in_an_event() -> None:
    """Their records could not wait for it."""
    log = Notebook("request")
    app = hardened(log)

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        raise RuntimeError

    @app.get("/broken")
    def break_off() -> StreamingResponse:
        return StreamingResponse(parts())

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(4001)

    call(app, "/broken", method="GET", chunks=[b""])
    assert [record["event"] for record in log.records] == ["request", "request.ended"]
    assert log.last["facts"]["ended"] == "broken"
    converse(app, "/socket")
    assert (log.last["facts"]["ended"], log.last["facts"]["close_code"]) == ("closed", 4001)


def test_what_comes_before_an_answer_waits_for_the_record_too() -> None:
    """An early hint is left out, where nothing may leave that is not recorded."""
    for durability, expected in (("request", 2), ("batch", 3)):
        log = Notebook(durability)
        app = hardened(log)

        @app.get("/")
        async def home(request: Request) -> None:
            await request._send({"type": "http.response.early_hint", "links": []})

        assert len(call(app, "/", method="GET", chunks=[b""]).messages) == expected
        assert log.last["status"] == 200


def test_mounted_and_nested_apps_make_one_record_with_the_template_of_all() -> None:
    """The outermost makes it, also where the mounted one has the same log; what a path was filled with is not in it."""
    log, other = Notebook(), Notebook()
    app = hardened(log)
    router = APIRouter(prefix="/r/{tenant}")

    @router.get("/here")
    def here() -> None: ...

    app.include_router(router)
    inner, foreign, bare = hardened(log), hardened(other), FastAPI()
    for one in (inner, foreign, bare):
        one.get("/items/{item}")(here)
    app.mount("/in/{secret}", inner)
    app.mount("/foreign", foreign)
    app.mount("/bare", bare)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent))
    for path, route in (
        ("/r/t/here", "/r/{tenant}/here"),
        ("/in/s3cret/items/1", "/in/{secret}/items/{item}"),
        ("/foreign/items/1", "/foreign/items/{item}"),
        ("/bare/items/1", "/bare/items/{item}"),
        ("/static/test_audited_requests.py", None),
        ("/in/a/nowhere", None),
    ):
        before = len(log.events)
        call(app, path, method="GET", chunks=[b""])
        assert len(log.events) == before + 1
        assert log.last["route"] == route
    assert [record["route"] for record in other.records] == ["/items/{item}"]


def test_a_request_that_an_endpoint_hands_on_is_another_request() -> None:
    """As often as it does, with or without guards in front, and with records of their own."""
    service = Service()

    async def hand_on(request: Request, times: int) -> list[int]:
        statuses = []
        for _ in range(times):
            answer = await acall(
                service.app, "/predict/iris", headers=[JSON, (b"x-api-key", service.secret.encode())],
                chunks=[b'{"features": [1, 2]}'], mlguard=request.scope.get("mlguard"),
            )  # fmt: skip
            statuses.append(answer.status)
        return statuses

    @service.app.get("/bare")
    async def bare(request: Request) -> list[int]:
        return await hand_on(request, 2)

    @service.app.get("/guarded", dependencies=[Depends(service.caller)])
    async def guarded(request: Request) -> list[int]:
        return await hand_on(request, 2)

    for path in ("/bare", "/guarded"):
        service.log.events.clear()
        answer = service.ask(b"", path, method="GET")
        assert answer.json == [200, 200]
        routes = [record["route"] for record in service.log.records]
        assert routes == ["/predict/{model}", "/predict/{model}", path]
        assert len({record["request_id"] for record in service.log.records}) == 3
        assert service.log.last["output"] is None


def test_a_middleware_that_copies_the_scope_loses_nothing() -> None:
    """Nor one that answers by itself."""
    service = Service()

    class Copying:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope}, receive, send)

    async def dispatch(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    service.app.add_middleware(Copying)
    service.app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    assert service.ask().status == 200
    assert service.log.last["route"] == "/predict/{model}"
    assert service.log.last["output"]["labels"] == {"setosa": 2}
    assert "ended" not in service.log.last


def test_requests_that_run_at_once_do_not_mix() -> None:
    """Each record has its own caller, rows and digest."""
    service = Service()
    service.budget = QueryBudget("1000000/month", store=MemoryStore())

    async def one(rows: int) -> Any:
        body = json.dumps({"features": [[rows % 10, 1]] * rows}).encode()
        headers = [JSON, (b"x-api-key", service.secret.encode())]
        return await acall(service.app, "/predict/iris", headers=headers, chunks=[body])

    async def main() -> list[Any]:
        return await asyncio.gather(*(one(1 + n % 3) for n in range(60)))

    answers = {answer.headers["x-request-id"]: answer for answer in asyncio.run(main())}
    assert len(answers) == len(service.log.events) == 60
    digests: dict[int, set[str]] = {}
    for record in service.log.records:
        answer = answers[record["request_id"]]
        assert record["status"] == answer.status
        if record["status"] == 200:
            assert record["rows"] == len(answer.json["probabilities"])
        digests.setdefault(record["rows"], set()).add(record["input"])
    assert all(len(found) == 1 for found in digests.values())


@pytest.mark.parametrize(
    ("client", "headers", "found"),
    [
        (("10.0.0.1", 1), [(b"x-forwarded-for", b"6.6.6.6, 192.0.2.7")], "192.0.2.7"),
        (("192.0.2.9", 1), [(b"x-forwarded-for", b"6.6.6.6")], "192.0.2.9"),
        (("10.0.0.1", 1), [(b"x-forwarded-for", b"x" * 3_000 + b", 192.0.2.7")], "192.0.2.7"),
        (("10.0.0.1", 1), [(b"x-forwarded-for", b"\x1b[31m")], None),
        (None, [], None),
        (("2001:db8::7", 1), [], "2001:db8::7"),
    ],
)
def test_an_address_is_the_callers_where_proxies_are_trusted(client: Any, headers: Any, found: str | None) -> None:
    """And never what a caller has written to the left of it."""
    log = Notebook()
    app = hardened(log, address=ClientAddress(trusted_proxies=["10.0.0.0/8"]))
    call(app, "/", method="GET", headers=headers, chunks=[b""], client=client)
    assert log.last["address"] == found
    bare = Notebook()
    call(hardened(bare), "/", method="GET", headers=headers, chunks=[b""], client=client)
    assert bare.last["address"] == (client[0] if client else None)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], "0af7651916cd43dd8448eb211c80319c"),
        ([b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"], None),
        ([b"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], None),
        ([b"evil\n"], None),
        ([], None),
        ([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] * 2, None),
    ],
)
def test_traceparent_counts_only_where_it_is_trusted(values: list[bytes], found: str | None) -> None:
    """Callers can write one."""
    for trusted in (False, True):
        log = Notebook()
        app = hardened(log, trust_traceparent=trusted)
        call(app, "/", method="GET", headers=[(b"traceparent", value) for value in values], chunks=[b""])
        assert log.last.get("trace_id") == (found if trusted else None)


def test_a_span_of_opentelemetry_gives_its_trace_id() -> None:
    """Of whoever has begun one, inside of the app or around it."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")
    log = Notebook()
    app = hardened(log)
    seen: list[str] = []

    class Traced:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            with tracer.start_as_current_span("request") as span:
                seen.append(f"{span.get_span_context().trace_id:032x}")
                await self.app(scope, receive, send)

    app.add_middleware(Traced)
    call(app, "/", method="GET", chunks=[b""])
    assert [log.last["trace_id"]] == seen


def test_a_function_that_does_not_know_the_model_refuses_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The record has none, and the log says so once."""
    service = Service(model=lambda _: 1 / 0)
    assert service.ask().status == service.ask().status == 200
    assert service.log.last["model"] is None
    assert caplog.text.count("install_audit_log(model=...) failed") == 1


def test_a_served_model_is_named_by_the_version_that_is_served(tmp_path: Path) -> None:
    """As it is when the request ends; before the app has started there is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    iris = ServedModel(ModelStore(tmp_path / "models", key=key.public_key()), "iris")
    service = Service(model=iris)
    service.ask()
    assert service.log.last["model"] is None
    version: Any = SimpleNamespace(name="iris", version=3, digest="sha256:00")  # the part that counts
    iris._served = _Served(object(), version)
    service.ask()
    assert service.log.last["model"] == {"name": "iris", "version": 3, "digest": "sha256:00"}


def test_what_fastapi_finds_invalid_is_a_refusal_of_no_guard() -> None:
    """By the rule that the caller is told."""
    log = Notebook()
    app = hardened(log)

    @app.get("/{number}")
    def numbered(number: int) -> None: ...

    assert call(app, "/x", method="GET", chunks=[b""]).status == 422
    assert (log.last["refused_by"], log.last["rule"], log.last["reason"]) == (None, "invalid-input", None)


def test_the_first_guard_that_reads_the_body_says_what_the_input_was() -> None:
    """One that reads it too, by other rules, changes nothing; what has no digest by value has one by its bytes."""
    log = Notebook()
    app = hardened(log, input_key=INPUT_KEY)
    one, two = (Features(columns=2, low=0, high=high, max_rows=5) for high in (5, 9))
    untold = Untold(columns=2, low=0, high=9, max_rows=5)

    @app.post("/both")
    def both(x: Annotated[np.ndarray, Depends(one)], y: Annotated[np.ndarray, Depends(two)]) -> None: ...

    @app.post("/one")
    def single(x: Annotated[np.ndarray, Depends(one)]) -> None: ...

    @app.post("/untold")
    def not_told(x: Annotated[np.ndarray, Depends(untold)]) -> None: ...

    for path in ("/both", "/one", "/untold"):
        assert call(app, path, headers=[JSON], chunks=[BODY]).status == 200
        assert log.last["rows"] == 2
    first, second, third = (record["input"] for record in log.records)
    assert first == second != third


class Untold(Features):
    """Keeps something of which there is no digest by value."""

    async def __call__(self, request: Request) -> Any:
        memory = RequestMemory.of(request.scope)
        readers, memory.readers = memory.readers, ()
        rows = await super().__call__(request)
        for look in readers:
            look(self, [object()] * len(rows))
        return rows


@pytest.mark.parametrize("body", [BODY, b'{"features": [[1, 20]]}'])
def test_a_recorded_request_is_freed_at_once(body: bytes) -> None:
    """Accepted or refused: its record may wait, and holds neither its body nor its exceptions."""
    service = Service()
    service.ask(body)

    async def session() -> int:
        gc.collect()
        before = kept()
        gc.disable()
        try:
            for _ in range(3):
                headers = [JSON, (b"x-api-key", service.secret.encode())]
                await acall(service.app, "/predict/iris", headers=headers, chunks=[body])
            return kept() - before
        finally:
            gc.enable()

    def kept() -> int:
        return sum(isinstance(thing, RequestMemory) for thing in gc.get_objects())

    assert asyncio.run(session()) == 0
    assert len(service.log.events) == 4


def test_settings_that_cannot_work_are_refused() -> None:
    """When the log is installed, and not when somebody looks for a record."""
    log = Notebook()
    ready = FastAPI()
    harden(ready)
    weak: list[Callable[[], None]] = [
        lambda: install_audit_log(FastAPI(), log),
        lambda: install_audit_log(ready, object()),  # type: ignore[arg-type]
        lambda: install_audit_log(ready, Notebook),  # type: ignore[arg-type]
        lambda: install_audit_log(ready, log, model="iris"),  # type: ignore[arg-type]
        lambda: install_audit_log(ready, log, input_key="password"),
        lambda: install_audit_log(ready, log, address="10.0.0.1"),  # type: ignore[arg-type]
        lambda: install_audit_log(ready, log, trust_traceparent=1),  # type: ignore[arg-type]
        lambda: install_audit_log(ready, log, health="/health"),
        lambda: install_audit_log(ready, log, health=["health"]),
    ]
    for install in weak:
        with pytest.raises(ConfigurationError):
            install()
    install_audit_log(ready, log)
    with pytest.raises(ConfigurationError, match="twice"):
        install_audit_log(ready, log)
    started = FastAPI()
    harden(started)
    call(started, "/", method="GET", chunks=[b""])
    with pytest.raises(ConfigurationError, match="before"):
        install_audit_log(started, log)


def test_a_real_log_is_whole_when_the_server_has_ended(tmp_path: Path) -> None:
    """On a real socket: every request is in it once, refused ones too, and the chain verifies."""
    folder = tmp_path / "log"
    folder.mkdir(mode=0o700)
    log = AuditLog(folder, key=KEY)
    app = hardened(log, input_key=INPUT_KEY)

    @app.get("/ok")
    def ok() -> str:
        return "ok"

    try:
        with serving(app) as url:

            def ask() -> None:
                for path in ("/ok?password=hunter2", "/nowhere/AKIAIOSFODNN7EXAMPLE"):
                    httpx.get(url + path, headers={"user-agent": "hunter2"})

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        text = "".join(file.read_text() for file in folder.glob("*.jsonl"))
        records = [record for record in map(json.loads, text.splitlines()) if record["event"] == "request"]
        assert sorted(record["status"] for record in records) == [200] * 8 + [404] * 8
        assert "hunter2" not in text
        assert "AKIAIOSFODNN7EXAMPLE" not in text
        assert [chain.ending for chain in verify_audit_log(folder, key=KEY).chains] == ["closed"]  # with the app
    finally:
        assert log.close()
    assert verify_audit_log(folder, key=KEY).is_intact


def test_a_log_that_cannot_be_written_at_the_end_stops_no_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    """It is said."""
    log = Notebook()
    log.is_writable = False
    with serving(hardened(log)):
        assert log.waits == 0
    assert log.waits == 1
    assert log.attached == 2
    assert "not all of its audit log is written" in caplog.text


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def test_who_is_locked_out_is_in_the_record() -> None:
    """With the name that was proved, and the rule; nothing was charged."""
    service = Service()
    lockdown = Lockdown(store=MemoryStore())
    lockdown.install(service.app)

    async def ask_blocked() -> int:
        await lockdown.block_principal("alice", by="tests")
        try:
            headers = [JSON, (b"x-api-key", service.secret.encode())]
            return (await acall(service.app, "/predict/iris", headers=headers, chunks=[BODY])).status
        finally:
            lockdown.stop()

    assert asyncio.run(ask_blocked()) == 403
    record = service.log.last
    assert record["principal"] == {"method": "api-key", "issuer": "", "id": "alice"}
    assert (record["status"], record["refused_by"], record["rule"]) == (403, "APIKeyAuth", "blocked")
    assert record["budget_left"] == {}
