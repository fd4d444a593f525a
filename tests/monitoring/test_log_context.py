"""Log records say of which request they are, and hold nothing that should not be there."""

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any, cast

import httpx2 as httpx
import pytest
from fastapi import FastAPI, WebSocket

from mlguard import (
    AuditLog,
    ConfigurationError,
    Lockdown,
    MemoryStore,
    Redactor,
    RequestIds,
    UnavailableError,
    harden,
    install_audit_log,
    record_event,
    redact_logs,
    structlog_processors,
)
from mlguard._guard import RequestMemory
from mlguard.monitoring.log_context import Served, current_request
from mlguard.traffic import _leases
from mlguard.traffic._leases import Leases
from tests.asgi import acall, call
from tests.monitoring.test_audited_requests import Notebook
from tests.servers import serving

SECRET = "AKIAIOSFODNN7EXAMPLE"
FORMAT = "%(request_id)s|%(trace_id)s|%(name)s|%(message)s"


def _nothing(record: logging.LogRecord) -> bool:  # as logging calls it
    return False


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """A handler at the root, and what it has written; afterwards all handlers are as they were."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    everyone = [root, *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    handlers = [handler for one in everyone for handler in one.handlers]
    filters = [(one, [*one.filters]) for one in (*handlers, logging.lastResort) if one is not None]
    yield stream
    for one, before in filters:
        one.filters[:] = before
    root.removeHandler(handler)
    root.setLevel(level)


def app_that(does: Any) -> FastAPI:
    """An app whose endpoint does something."""
    app = FastAPI()
    harden(app)
    install_audit_log(app, Notebook())
    app.get("/")(does)
    return app


def test_every_logger_says_which_request_it_is_about(written: io.StringIO) -> None:
    """In the endpoint, in a thread that serves it, and in mlguard; outside of a request there is none."""
    redact_logs()
    library = logging.getLogger("some.library")

    def endpoint() -> None:  # in a worker thread
        library.warning("deep inside")

    answer = call(app_that(endpoint), "/", method="GET", chunks=[b""])
    library.warning("outside")
    thread = threading.Thread(target=library.warning, args=("elsewhere",))
    thread.start()
    thread.join()
    lines = written.getvalue().splitlines()
    assert lines == [
        f"{answer.headers['x-request-id']}||some.library|deep inside",
        "||some.library|outside",
        "||some.library|elsewhere",
    ]


def test_requests_that_run_at_once_keep_their_ids(written: io.StringIO) -> None:
    """Each task has its own."""
    redact_logs()

    async def endpoint() -> None:
        await asyncio.sleep(0)
        logging.getLogger("app").info("mine")

    app = app_that(endpoint)

    async def main() -> list[Any]:
        return await asyncio.gather(*(acall(app, "/", method="GET", chunks=[b""]) for _ in range(20)))

    answers = asyncio.run(main())
    logged = {line.partition("|")[0] for line in written.getvalue().splitlines()}
    assert logged == {answer.headers["x-request-id"] for answer in answers}


def test_what_outlives_a_request_keeps_its_id(written: io.StringIO) -> None:
    """A background task that the endpoint has begun."""
    redact_logs()
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        logging.getLogger("app").info("later")

    async def main() -> Any:
        tasks = []

        async def endpoint() -> None:
            tasks.append(asyncio.create_task(later()))

        answer = await acall(app_that(endpoint), "/", method="GET", chunks=[b""])
        over.set()
        await asyncio.gather(*tasks)
        return answer

    answer = asyncio.run(main())
    assert written.getvalue() == f"{answer.headers['x-request-id']}||app|later\n"


def test_an_id_that_the_app_has_set_outside_of_a_request_stays() -> None:
    """Inside, nobody's is believed but mlguard's."""
    record = logging.makeLogRecord({"msg": "x", "request_id": "job-1"})
    assert RequestIds().filter(record)
    assert (vars(record)["request_id"], vars(record)["trace_id"]) == ("job-1", "")


def test_secrets_in_messages_extras_exceptions_and_tracebacks_are_redacted(written: io.StringIO) -> None:
    """Of all loggers, also those that have never heard of mlguard."""
    redact_logs()
    redact_logs()  # does no harm
    log = logging.getLogger("some.library")
    try:
        raise RuntimeError(f"could not log in as {SECRET}")
    except RuntimeError:
        log.exception("failed with %s", SECRET, extra={"note": SECRET}, stack_info=True)
    assert SECRET not in written.getvalue()
    assert "RuntimeError" in written.getvalue()
    (handler,) = [one for one in logging.getLogger().handlers if getattr(one, "stream", None) is written]
    assert len(handler.filters) == 1


def test_uvicorns_own_logs_have_no_query_strings(written: io.StringIO) -> None:
    """On a real socket: whatever is in them, also of WebSockets, and the format is as it was."""
    access = io.StringIO()
    handler = logging.StreamHandler(access)
    from uvicorn.logging import AccessFormatter

    handler.setFormatter(AccessFormatter('%(client_addr)s "%(request_line)s" %(status_code)s', use_colors=False))
    uvicorn_access, uvicorn_error = logging.getLogger("uvicorn.access"), logging.getLogger("uvicorn.error")
    uvicorn_access.addHandler(handler)
    logging.getLogger("httpx2").addFilter(_nothing)  # it is who asks
    try:
        redact_logs()
        app = app_that(lambda: None)

        @app.websocket("/socket")
        async def socket(socket: WebSocket) -> None:
            await socket.close()

        with serving(app, log_level="info") as url:
            httpx.get(f"{url}/?q=correct-horse-battery&x=%0aevil")
            httpx.get(f"{url}/nowhere")
            httpx.get(
                f"{url}/socket?q=correct-horse-battery",
                headers={
                    "upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13",
                    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
                },
            )  # fmt: skip
        text = access.getvalue() + written.getvalue()
        assert '"GET /?[query] HTTP/1.1" 200' in access.getvalue()
        assert '"GET /nowhere HTTP/1.1" 404' in access.getvalue()
        assert "correct-horse-battery" not in text
        assert "evil" not in text
        assert uvicorn_error.name in written.getvalue()
    finally:
        uvicorn_access.removeHandler(handler)
        logging.getLogger("httpx2").removeFilter(_nothing)


@pytest.mark.parametrize(
    ("name", "message", "arguments", "shown"),
    [
        ("uvicorn.access", "%s", ("/a?b=c",), "/a?[query]"),
        ("uvicorn.access", "%s %d", ("/a", 7), "/a 7"),
        ("uvicorn.access", "%s", ("http%3A//host/a?b=c",), "http%3A//host/a?[query]"),  # the absolute form, in h11
        ("uvicorn.access", "%s", ("*?b=c",), "*?[query]"),
        ("uvicorn.error", '%s - "WebSocket %s" 403', ("::1", "ws%3A//a?b=c"), '::1 - "WebSocket ws%3A//a?[query]" 403'),
        ("uvicorn.error", "%s", ("why?",), "why?"),
        ("uvicorn.error", 7, (), "7"),
        ("gunicorn.access", "%(r)s", ({"r": "GET /a?b=c HTTP/1.1"},), "GET /a?[query] HTTP/1.1"),
        ("hypercorn.access", "%s", ("/a?b=c",), "/a?[query]"),
        ("gunicorn.access", '"%(r)s" 200', ({"r": "GET /a?b='c' HTTP/1.1"},), '"GET /a?[query] HTTP/1.1" 200'),
        ("hypercorn.access", '"%s 2" 200', ('GET /a?b="c"&d="e',), '"GET /a?[query] 2" 200'),
        ("gunicorn.access", '"%s" "-"', ("https://b/?c=d",), '"https://b/?[query]" "-"'),
        ("hypercorn.access", "%d", ("/a?b=c",), None),
        ("app", "%s", ("/a?b=c",), "/a?b=c"),
    ],
)
def test_query_strings_are_cut_from_access_logs_alone(
    written: io.StringIO, name: str, message: Any, arguments: Any, shown: str | None
) -> None:
    """Of every server; and a record whose arguments do not fit stops nobody."""
    redact_logs()
    logging.getLogger(name).info(message, *arguments)
    assert shown is None or written.getvalue() == f"||{name}|{shown}\n"


def test_query_strings_stay_where_they_are_wanted(written: io.StringIO) -> None:
    """Redacted as everything else."""
    redact_logs(Redactor(), queries=True)
    logging.getLogger("uvicorn.access").info("%s", f"/a?page=2&password={SECRET}")
    assert "page=2" in written.getvalue()
    assert SECRET not in written.getvalue()


def test_the_handler_of_last_resort_is_covered(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes where nothing was set up; and there may be none."""
    redact_logs()
    assert logging.lastResort is not None
    record = logging.makeLogRecord({"msg": SECRET})
    logging.lastResort.filter(record)
    assert SECRET not in record.getMessage()
    monkeypatch.setattr(logging, "lastResort", None)
    redact_logs()
    assert written.getvalue() == ""


def test_structlog_writes_ids_and_no_secrets() -> None:
    """The real one, with its own renderer: events, what is bound, exceptions in every form that it takes."""
    structlog = pytest.importorskip("structlog")
    stream = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[*structlog_processors(), structlog.processors.JSONRenderer()],
    ).bind(user_note=f"has {SECRET}")

    def endpoint() -> None:
        try:
            raise RuntimeError(f"could not log in as {SECRET}")
        except RuntimeError as error:
            log.error("failed", exc_info=True)
            log.error("failed", exc_info=error)
            log.error("failed", exc_info=(RuntimeError, error, None))
        log.error("failed", exc_info=True)

    answer = call(app_that(endpoint), "/", method="GET", chunks=[b""])
    log.info(f"injected\n{SECRET}", password="correct-horse-battery")
    *inside, outside = map(json.loads, stream.getvalue().splitlines())
    assert SECRET not in stream.getvalue()
    assert "correct-horse-battery" not in stream.getvalue()
    assert {event["request_id"] for event in inside} == {answer.headers["x-request-id"]}
    assert ["RuntimeError" in event["exception"] for event in inside] == [True, True, True, False]
    assert "request_id" not in outside


def test_structlog_writes_nothing_of_what_cannot_be_redacted() -> None:
    """Whoever logs gets no exception."""

    class Hostile(Redactor):
        def data(self, data: Any) -> Any:
            raise RuntimeError

    redact, _ = structlog_processors(Hostile())
    assert SECRET not in str(redact(None, "info", {"event": SECRET}))


def test_a_trace_of_opentelemetry_is_on_log_records(written: io.StringIO) -> None:
    """Of the span that is active where it is logged."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider

    redact_logs()
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        logging.getLogger("app").info("traced")
    assert written.getvalue() == f"|{span.get_span_context().trace_id:032x}|app|traced\n"


def test_without_opentelemetry_there_are_no_traces(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is not imported for it."""
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    redact_logs()
    logging.getLogger("app").info("untraced")
    assert written.getvalue() == "||app|untraced\n"


def test_who_acted_on_whom_stays_in_the_audit_log(written: io.StringIO) -> None:
    """Its own handler is left alone, whichever came first, and says of which request an event is."""
    lines: list[bytes] = []
    log = AuditLog(sink=lines.append, key="audit-Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd")
    app = FastAPI()
    harden(app)
    install_audit_log(app, log)
    redact_logs()

    @app.get("/")
    async def home() -> None:
        record_event("token.issued", subject="jane@example.com")

    try:
        answer = call(app, "/", method="GET", chunks=[b""])
    finally:
        log.close()
    events = [json.loads(line) for line in lines]
    (event,) = [event for event in events if event["event"] == "token.issued"]
    assert event["facts"] == {"subject": "jane@example.com"}
    assert event["request_id"] == answer.headers["x-request-id"]
    assert "jane@example.com" not in written.getvalue()


def test_what_a_request_begins_for_all_is_not_about_that_request(written: io.StringIO) -> None:
    """A lockdown is read by one task for ever, which the first request has begun."""
    redact_logs()
    store = Store()
    lockdown = Lockdown(store=store)
    app = FastAPI()
    harden(app)
    lockdown.install(app)
    install_audit_log(app, Notebook())

    async def main() -> None:
        await acall(app, "/", method="GET", chunks=[b""])
        async with asyncio.timeout(30):
            await store.read_outside.wait()

    asyncio.run(main())


class Store(MemoryStore):
    """A store that tells when it is read outside of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.read_outside = asyncio.Event()

    async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
        if current_request.get() is None:
            self.read_outside.set()
        return await super().get(*keys)


def test_a_lease_that_is_ended_later_is_not_about_the_request_that_owed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything that is owed by others, and ended by the same task."""
    monkeypatch.setattr(_leases, "_AGAIN", 0.0)
    asked_by: list[Served | None] = []
    over = asyncio.Event()

    class Counts:
        async def end_lease(self, key: bytes, holder: bytes) -> None:  # as the real one
            asked_by.append(current_request.get())
            if len(asked_by) == 1:
                raise UnavailableError("down", retry_after=1)
            over.set()

    async def main() -> None:
        current_request.set(Served(RequestMemory()))
        leases = Leases(cast("Any", Counts()), 1, 30.0)
        await leases.end(b"key", b"holder")
        async with asyncio.timeout(30):
            await over.wait()

    asyncio.run(main())
    assert [one is None for one in asked_by] == [False, True]


def test_what_is_no_redactor_is_refused() -> None:
    """When it is set up."""
    for use in (redact_logs, structlog_processors):
        with pytest.raises(ConfigurationError):
            use(cast("Any", "secrets"))
