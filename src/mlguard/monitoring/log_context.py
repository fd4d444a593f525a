"""Whose request a log record is about, and nothing in it that should not be there: for all loggers of a process."""

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar
from typing import Any

from mlguard._guard import RequestMemory
from mlguard.errors import ConfigurationError
from mlguard.privacy.redactor import Redactor


class Served:
    """A request that is served. Timers keep the context in which they were set, so what is in it must be small."""

    __slots__ = ("_memory", "_request_id")

    def __init__(self, memory: RequestMemory) -> None:
        self._memory: RequestMemory | None = memory
        self._request_id = ""

    @property
    def request_id(self) -> str:
        """Its id, also for background tasks that outlive it."""
        return self._request_id if self._memory is None else self._memory.request_id

    def end(self) -> None:
        """The request is over: let go of it."""
        self._request_id, self._memory = self.request_id, None


#: The request that is served here.
current_request: ContextVar[Served | None] = ContextVar("mlguard_request", default=None)

#: Processors of structlog take a logger, the name of the method, and the event.
Processor = Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]

_NAMES = ("request_id", "trace_id")
_AS_TEXT = frozenset({"gunicorn.access", "hypercorn.access"})
_WEBSOCKET = '"WebSocket %s"'  # in what uvicorn writes of one to its other log
_QUERY = re.compile(r'\?\S*?(?="?(?:\s|$))')  # quotes may be in it, and the last one is the line's
_CUT = "?[query]"
_UNREDACTED = "[an event that could not be redacted]"


def otel_trace_id() -> int:
    """The trace of OpenTelemetry's active span; 0 where there is none. What is not imported yet is not imported."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return 0
    span: Any = trace.get_current_span()
    if span is trace.INVALID_SPAN:  # nearly always, where nobody traces
        return 0
    found: int = span.get_span_context().trace_id
    return found


class RequestIds(logging.Filter):
    """Puts ``request_id`` and ``trace_id`` on every record of a log that is written inside of a request.

    Add it to handlers, so that it sees the records of all loggers. Outside of a request both are ``""``, so a format
    may name them in any case. The request id is the one that the caller gets as ``X-Request-ID``, and that the audit
    log has; nobody who calls can choose it. The trace id is that of OpenTelemetry's active span.

    It knows of requests to apps that have :func:`install_audit_log`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, with its ids."""
        for name, value in zip(_NAMES, _ids(), strict=True):
            if value or not hasattr(record, name):  # outside of a request, the app may have set one itself
                setattr(record, name, value)
        return True


def redact_logs(redactor: Redactor | None = None, *, queries: bool = False) -> None:
    """Redact what all loggers of this process write, and say of which request it is.

    It adds a filter to every handler that there is now: those of the root, of uvicorn, of all libraries, and the one
    that Python uses where there is none; but not to that of an ``AuditLog``, which redacts by itself. So call it once
    logging is set up; where that happens late, once more in the lifespan. To call it again does no harm. A handler that
    is made later is not covered, and neither is what is written by ``print``.

    The filter redacts message, arguments, tracebacks and ``extra=``, as :class:`Redactor` does. From the access logs of
    uvicorn, gunicorn and hypercorn it takes query strings, whatever is in them, because a search for secrets finds
    none that looks like a word. And it sets ``request_id`` and ``trace_id``, as :class:`RequestIds` does.

    Args:
        redactor: What it redacts with. None: ``Redactor()``.
        queries: Whether access logs keep query strings, redacted only.

    Raises:
        ConfigurationError: Something else than a ``Redactor``.
    """
    if not isinstance(redactor, Redactor | None):
        raise ConfigurationError("redact_logs takes a Redactor(...), or nothing")
    keeper = _Kept(redactor or Redactor(), queries=queries)
    for handler in [one for one in _handlers() if not getattr(one, "redacts", False)]:
        for before in [one for one in handler.filters if isinstance(one, _Kept)]:
            handler.removeFilter(before)
        handler.addFilter(keeper)


def structlog_processors(redactor: Redactor | None = None) -> list[Processor]:
    """What structlog needs for the same: two processors, to stand directly before the renderer.

    The first redacts the event, with all that is bound to it, and its traceback. The second adds ``request_id`` and
    ``trace_id``, inside of a request.

    ::

        structlog.configure(processors=[..., *structlog_processors(), structlog.processors.JSONRenderer()])

    Args:
        redactor: What it redacts with. None: ``Redactor()``.

    Raises:
        ConfigurationError: Something else than a ``Redactor``.
    """
    if not isinstance(redactor, Redactor | None):
        raise ConfigurationError("structlog_processors takes a Redactor(...), or nothing")
    return [_redacting(redactor or Redactor()), _add_ids]


class _Kept(RequestIds):
    """Keeps out of a log what should not be in it, and adds the ids."""

    def __init__(self, redactor: Redactor, *, queries: bool) -> None:
        super().__init__()
        self._redactor = redactor
        self._queries = queries

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record, and let it pass."""
        if not self._queries:
            _cut_queries(record)
        self._redactor.filter(record)
        return super().filter(record)


def _cut_queries(record: logging.LogRecord) -> None:
    if _is_line_of_uvicorn(record) and isinstance(record.args, tuple):
        record.args = tuple([_without_query(one) for one in record.args])
    elif record.name in _AS_TEXT:
        try:
            record.msg, record.args = _QUERY.sub(_CUT, record.getMessage()), ()
        except Exception:  # arguments that do not fit: the redactor has an answer to that
            return


def _is_line_of_uvicorn(record: logging.LogRecord) -> bool:
    said = record.msg
    return record.name == "uvicorn.access" or (
        record.name == "uvicorn.error" and isinstance(said, str) and _WEBSOCKET in said
    )


def _without_query(argument: Any) -> Any:
    """The argument up to its query. A path may begin with anything that a caller has written there."""
    if not isinstance(argument, str):
        return argument
    path, mark, _ = argument.partition("?")
    return path + _CUT if mark else path


def _handlers() -> Iterator[logging.Handler]:
    root = logging.getLogger()
    loggers = [one for one in [*root.manager.loggerDict.values()] if isinstance(one, logging.Logger)]
    seen = {id(handler): handler for one in (root, *loggers) for handler in one.handlers}
    yield from seen.values()
    if logging.lastResort is not None:
        yield logging.lastResort


def _redacting(redactor: Redactor) -> Processor:
    def redact(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ARG001  # structlog's
        error = event.pop("exc_info", None)
        try:
            if error:
                event["exception"] = _traceback(error)
            return {**redactor.data(dict(event))}
        except Exception:  # whoever logs has done nothing wrong, and it may be anything
            return {"event": _UNREDACTED}

    return redact


def _traceback(error: Any) -> str:
    """The text of what structlog takes as ``exc_info``: True, an exception, or what ``sys.exc_info()`` returns."""
    if isinstance(error, tuple):
        error = error[1]
    elif not isinstance(error, BaseException):
        error = sys.exc_info()[1]
    return "".join(traceback.format_exception(error)).rstrip() if error is not None else ""


def _add_ids(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ARG001  # structlog's
    for member, value in zip(_NAMES, _ids(), strict=True):
        if value:
            event[member] = value
    return event


def _ids() -> tuple[str, str]:
    served = current_request.get()
    trace = otel_trace_id()
    return "" if served is None else served.request_id, f"{trace:032x}" if trace else ""
