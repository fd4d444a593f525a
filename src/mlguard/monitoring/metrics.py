"""Numbers that an operator watches: what guards decide, how long they take, what is left, how the stores are."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard._guard import RequestMemory
from mlguard._numbers import is_number, seconds
from mlguard.errors import ConfigurationError
from mlguard.monitoring._app_health import AppHealth
from mlguard.monitoring._judged import Judged, first_refusal
from mlguard.monitoring._own_metrics import Exporter
from mlguard.monitoring._spans import span_marker
from mlguard.monitoring._watched import Watched
from mlguard.monitoring.measurements import Measured
from mlguard.monitoring.otel_metrics import OpenTelemetryMetrics

logger = logging.getLogger("mlguard")

_KEY = "mlguard.metrics"
_A_MINUTE = 60.0


def install_metrics(
    app: FastAPI,
    *,
    to: Exporter | Sequence[Exporter] | None = None,
    watch: Sequence[Measured] = (),
    timed_per_second: float = 20.0,
    every: float = 1.0,
) -> None:
    """Measure what the guards of an app do, and send it to OpenTelemetry, to Prometheus, or to both.

    For each decision of a guard a counter says guard, rule and route. Of a sample of the requests, histograms say what
    each guard took, and what part of their limits callers have left. Stores say whether they answer. What is watched
    says what it has to say. Where a request is refused, its span gets an event with the guard and the rule.

    What FastAPI and Starlette measure already, such as ``http.server.request.duration``, is not measured again. No
    label is ever a principal, an address, a path that was asked for, or anything else that callers choose, and no
    metric has more than 1000 series.

    What guards take is measured without the wait for the body. The wait for a place (``ConcurrencyLimit``) and the
    trip to a store are part of it.

    With ``harden``, what is refused without a guard is counted too: a body that is too large or too slow, a scope that
    is missing, what FastAPI itself finds invalid.

    Args:
        app: The application. Call this before it serves, once.
        to: ``OpenTelemetryMetrics()``, ``PrometheusMetrics()``, or a list of both. None is ``OpenTelemetryMetrics()``.
        watch: Objects that have ``measurements()``, such as an ``AuditLog``. Guards of the app's routes that have are
            watched without being named.
        timed_per_second: Requests of a second, at most, of which times and what is left are recorded. OpenTelemetry's
            histograms cost several microseconds a number; counters count every request.
        every: Seconds between two looks at what is watched. ``measurements()`` is called on the event loop, so it must
            not wait.

    Raises:
        ConfigurationError: Not an app, one that is measured or running already, something to watch without
            ``measurements()``, a number that cannot work, or an extra that is not installed.
    """
    if not isinstance(app, FastAPI):
        raise ConfigurationError("install_metrics takes the app itself: app = FastAPI(), then install_metrics(app)")
    if app.middleware_stack is not None:
        raise ConfigurationError("call install_metrics(app) before the app serves its first request")
    if any(getattr(middleware, "cls", None) is _Metered for middleware in app.user_middleware):
        raise ConfigurationError(
            "install_metrics(app) was called twice; give it all of to=[...] and watch=[...] at once"
        )
    for source in watch:
        if isinstance(source, type) or not isinstance(source, Measured):
            raise ConfigurationError(f"install_metrics(watch=...): {_describe(source)} has no measurements()")
    if not is_number(timed_per_second) or not 0 < timed_per_second <= 1e6:
        raise ConfigurationError("install_metrics(timed_per_second=...) is a number above 0")
    every = seconds("install_metrics(every=...)", every, most=60)
    exporters = _exporters(to)
    app.add_middleware(
        _Metered,
        judged=Judged(exporters, timed_per_second),
        beat=_Beat(_Shown(app, watch, exporters).renew, every),
    )


def _exporters(to: Exporter | Sequence[Exporter] | None) -> list[Exporter]:
    exporters: list[Any] = [OpenTelemetryMetrics()] if to is None else [*to] if isinstance(to, list | tuple) else [to]
    methods = ("counter", "histogram", "show")
    if not exporters or any(isinstance(e, type) or not all(hasattr(e, m) for m in methods) for e in exporters):
        raise ConfigurationError(
            "install_metrics(to=...) is OpenTelemetryMetrics(), PrometheusMetrics(), or a list of both"
        )
    return exporters


def _describe(source: object) -> str:
    return source.__name__ if isinstance(source, type) else type(source).__name__


class _Shown:
    """What is watched, in all exporters."""

    def __init__(self, app: FastAPI, watch: Sequence[Measured], exporters: Sequence[Exporter]) -> None:
        self._health = AppHealth(app)
        self._watched = Watched([*watch, self._health])
        self._exporters = exporters
        self._knows_guards = False

    def renew(self) -> None:
        """Look at it, and show it."""
        if not self._knows_guards:
            self._knows_guards = True
            self._watched.add(self._health.measured_guards())
        measurements = self._watched.read()
        for exporter in self._exporters:
            exporter.show(measurements)


class _Beat:
    """Does something at once and then every so many seconds, on the event loop that serves."""

    def __init__(self, work: Callable[[], None], every: float) -> None:
        self._work = work
        self._every = every
        self._loop: asyncio.AbstractEventLoop | None = None
        self._complaints = _Complaints("metrics cannot be shown")

    def start(self) -> None:
        """Begin, or go on where the event loop is another one than before."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        loop.call_later(self._every, self._go_on, loop)
        self._complaints.unless_works(self._work)


class _Complaints:
    """Logs that something fails, at most once a minute: it may fail with every request.

    Args:
        what: It says then.
        clock: Seconds, never going backwards.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._next = -math.inf

    def unless_works(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something that must not fail anything else."""
        try:
            work(*arguments)
        except Exception:
            now = self._clock()
            if now >= self._next:
                self._next = now + _A_MINUTE
                logger.exception("%s", self._what)


class _Metered:
    """A middleware that lets everything through, and counts what guards did meanwhile."""

    observes = True  # also what a lockdown refuses

    def __init__(self, app: ASGIApp, judged: Judged, beat: _Beat) -> None:
        self._app = app
        self._judged = judged
        self._beat = beat
        self._mark_span = span_marker()
        self._safely = _Complaints("a request was not measured").unless_works

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._beat.start()
        if scope["type"] in {"http", "websocket"} and scope.get(_KEY) is not RequestMemory.of(scope):
            await self._measure(scope, receive, send)
        else:  # or a mounted app that is measured as well as the one around it
            await self._app(scope, receive, send)

    async def _measure(self, scope: Scope, receive: Receive, send: Send) -> None:
        memory = scope[_KEY] = RequestMemory.of(scope)
        if memory.timings is None and self._judged.wants_times():  # else somebody else has asked for them too
            memory.timings = {}
        recorded = False

        async def send_and_record(message: Message) -> None:
            nonlocal recorded
            if recorded:
                await send(message)
                return
            recorded = True
            if _may_be_refusal(message):  # now: the span ends with the answer
                self._safely(self._mark_refusal, memory)
            try:
                await send(message)
            finally:
                self._safely(self._judged.record, scope, memory)

        try:
            await self._app(scope, receive, send_and_record)
        finally:
            if not recorded:
                self._safely(self._judged.record, scope, memory)

    def _mark_refusal(self, memory: RequestMemory) -> None:
        self._mark_span(first_refusal(memory))


def _may_be_refusal(message: Message) -> bool:
    return bool(message["type"] == "websocket.close" or message.get("status", 0) >= 400)
