"""Metrics and span events arrive in OpenTelemetry's own SDK, and nothing of FastAPI's own is there twice."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Security

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    Measurement,
    MemoryStore,
    OpenTelemetryMetrics,
    RateLimit,
    harden,
    install_metrics,
)
from mlguard.monitoring._own_metrics import DURATION
from mlguard.monitoring._spans import span_marker
from tests.asgi import acall, call
from tests.monitoring.notebook import Notebook
from tests.monitoring.test_watched import Source

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

KEY, SECRET = APIKey.generate("alice", scopes={"predict"})
CREDENTIALS = [(b"x-api-key", SECRET.encode())]


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Every metric by name, with its unit and its points by their attributes."""
    data = reader.get_metrics_data()
    found: dict[str, Any] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = found.setdefault(metric.name, (metric.unit, {}))[1]
                for point in metric.data.data_points:
                    attributes = tuple(sorted((point.attributes or {}).items()))
                    assert attributes not in points
                    points[attributes] = point
    return found


def kinds(reader: InMemoryMetricReader) -> dict[str, type]:
    """What kind of metric each is."""
    data: Any = reader.get_metrics_data()
    return {
        metric.name: type(metric.data)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def service(provider: Any, *, hardened: bool = True, **options: Any) -> FastAPI:
    app = FastAPI()
    if hardened:
        harden(app)
    caller = APIKeyAuth(APIKeys([KEY]))
    steady = RateLimit("2/minute", by=caller, store=MemoryStore(), name="steady")

    @app.get("/models/{name}", dependencies=[Security(caller, scopes=["predict"]), Depends(steady)])
    async def model(name: str) -> None:
        """Nothing."""

    @app.get("/admin", dependencies=[Security(caller, scopes=["admin"])])
    async def admin() -> None:
        """Nobody may."""

    install_metrics(app, to=OpenTelemetryMetrics(meter_provider=provider), **options)
    return app


def decision(guard: str, outcome: str, rule: str, route: str) -> tuple[tuple[str, str], ...]:
    return (("http.route", route), ("mlguard.guard", guard), ("mlguard.outcome", outcome), ("mlguard.rule", rule))


def test_decisions_times_and_what_is_left_arrive(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """The SDK collects every decision as a counter, and times and shares as histograms with fitting buckets."""
    app = service(provider, timed_per_second=1e6)
    for _ in range(3):
        call(app, "/models/iris", method="GET", headers=CREDENTIALS)
    found = collected(reader)
    unit, points = found["mlguard.guard.decisions"]
    assert unit == "{decision}"
    assert {attributes: point.value for attributes, point in points.items()} == {
        decision("APIKeyAuth", "admitted", "", "/models/{name}"): 3,
        decision("RateLimit", "admitted", "", "/models/{name}"): 2,
        decision("RateLimit", "refused", "rate-limited", "/models/{name}"): 1,
    }
    unit, points = found["mlguard.guard.duration"]
    assert unit == "s"
    assert {dict(attributes)["mlguard.guard"]: point.count for attributes, point in points.items()} == {
        "APIKeyAuth": 3,
        "RateLimit": 3,
    }
    assert all(tuple(point.explicit_bounds) == DURATION.buckets for point in points.values())
    unit, points = found["mlguard.limit.left"]
    assert unit == "1"
    (point,) = points.values()
    assert (point.count, point.sum, point.min, point.max) == (3, 0.5, 0.0, 0.5)
    assert point.attributes == {"mlguard.guard": "RateLimit", "mlguard.limit": "steady"}


def test_counts_go_on_from_one_collection_to_the_next(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """Each collection has all that was counted so far, of series that came later too."""
    app = service(provider)
    for expected in (1, 2):
        call(app, "/models/iris", method="GET", headers=CREDENTIALS)
        points = collected(reader)["mlguard.guard.decisions"][1]
        assert points[decision("APIKeyAuth", "admitted", "", "/models/{name}")].value == expected
    call(app, "/admin", method="GET", headers=CREDENTIALS)
    points = collected(reader)["mlguard.guard.decisions"][1]
    assert points[decision("APIKeyAuth", "refused", "insufficient-scope", "/admin")].value == 1


def test_fastapi_metrics_are_not_emitted_again(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """Nothing of ours is called http.server.*, which FastAPI emits itself."""
    app = service(provider)
    call(app, "/models/iris", method="GET", headers=CREDENTIALS)
    assert {name.split(".")[0].split("_")[0] for name in collected(reader)} == {"mlguard"}


def test_what_is_watched_arrives(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """Counters and gauges of watched objects are collected under their own names, as they are now."""
    source = Source(
        Measurement("mlguard_audit_queue", 12),
        Measurement("mlguard_audit_age", 7),
        Measurement("mlguard_audit_dropped", 3, {"why": "full"}, "counter"),
    )
    app = service(provider, watch=[source], every=0.001)

    async def play() -> None:
        await acall(app, "/nowhere", method="GET")
        found = collected(reader)
        assert found["mlguard_audit_queue"][1][()].value == 12
        assert found["mlguard_audit_dropped"][1][(("why", "full"),)].value == 3
        assert kinds(reader) == {
            "mlguard_audit_queue": Gauge, "mlguard_audit_age": Gauge, "mlguard_audit_dropped": Sum
        }  # fmt: skip
        looked = asyncio.Event()

        class Last(Source):
            def measurements(self) -> Any:
                looked.set()
                return super().measurements()

        source.given = (Measurement("mlguard_audit_queue", 0),)
        source.measurements = Last(*source.given).measurements  # type: ignore[method-assign]  # says when it was asked
        await asyncio.wait_for(looked.wait(), 30)
        await asyncio.sleep(0)
        found = collected(reader)
        assert found["mlguard_audit_queue"][1][()].value == 0
        assert "mlguard_audit_age" not in found
        assert found["mlguard_audit_dropped"][1][(("why", "full"),)].value == 3

    asyncio.run(play())


def test_two_apps_of_one_process_are_both_collected(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """A second app with the same provider does not lose its counts to the first."""
    for app in (service(provider), service(provider)):
        call(app, "/models/iris", method="GET", headers=CREDENTIALS)
    data: Any = reader.get_metrics_data()
    counts = [
        point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "mlguard.guard.decisions"
        for point in metric.data.data_points
    ]
    assert counts == [1, 1, 1, 1]


def test_collecting_while_requests_come_loses_nothing(provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """Collections in one thread and requests in others neither fail nor lose a count."""
    app = service(provider, watch=[Source(Measurement("mlguard_x", 1))], every=0.001, timed_per_second=1e6)
    done = threading.Event()
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            while not done.is_set():
                collected(reader)
        except BaseException as error:
            failures.append(error)

    async def ask() -> None:
        for _ in range(100):
            await acall(app, "/models/iris", method="GET", headers=CREDENTIALS)

    collector = threading.Thread(target=collect)
    collector.start()
    askers = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(3)]
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join()
    done.set()
    collector.join()
    assert not failures
    points = collected(reader)["mlguard.guard.decisions"][1]
    assert points[decision("APIKeyAuth", "admitted", "", "/models/{name}")].value == 300


def test_the_global_provider_is_the_default() -> None:
    """Without a provider, and without an SDK, an app is measured into nothing and goes on."""
    app = FastAPI()
    install_metrics(app, watch=[Source(Measurement("mlguard_x", 1))])

    @app.get("/x", dependencies=[Depends(RateLimit("5/minute", store=MemoryStore()))])
    async def endpoint() -> None:
        """Nothing."""

    assert call(app, "/x", method="GET").status == 200
    assert not isinstance(metrics.get_meter_provider(), MeterProvider)


@pytest.mark.parametrize("wrong", ["otlp", MeterProvider, TracerProvider()])
def test_what_is_no_provider_is_refused(wrong: Any) -> None:
    """Something else than a provider is an error at once."""
    with pytest.raises(ConfigurationError, match="MeterProvider"):
        OpenTelemetryMetrics(meter_provider=wrong)


def test_the_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without opentelemetry-api the error says what to install; Prometheus alone goes on without it."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[otel\]'"):
        install_metrics(FastAPI())
    notebook = Notebook()
    app = FastAPI()

    @app.get("/x", dependencies=[Depends(APIKeyAuth(APIKeys([KEY])))])
    async def endpoint() -> None:
        """Nothing."""

    install_metrics(app, to=notebook)
    assert call(app, "/x", method="GET").status == 401
    assert notebook.counts == {("APIKeyAuth", "refused", "not-authenticated", "/x"): 1}


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def events(exporter: InMemorySpanExporter) -> list[tuple[str, dict[str, Any]]]:
    return [
        (event.name, dict(event.attributes or {})) for span in exporter.get_finished_spans() for event in span.events
    ]


class Traced:
    """A middleware that makes a span for each request, as instrumentation does."""

    def __init__(self, app: Any, provider: TracerProvider) -> None:
        self._app = app
        self._tracer = provider.get_tracer("test")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._tracer.start_as_current_span("request"):
            await self._app(scope, receive, send)


@pytest.mark.parametrize("hardened", [True, False])
def test_a_refusal_is_an_event_of_the_span(
    provider: MeterProvider, spans: tuple[TracerProvider, InMemorySpanExporter], hardened: bool
) -> None:
    """Where a guard refuses, the span of the request says which and why, and nothing about who; else nothing."""
    app = service(provider, hardened=hardened)
    app.add_middleware(Traced, provider=spans[0])
    for _ in range(3):
        call(app, "/models/iris", method="GET", headers=CREDENTIALS)
    assert events(spans[1]) == [("mlguard.refused", {"mlguard.guard": "RateLimit", "mlguard.rule": "rate-limited"})]


def test_a_rule_in_a_span_is_short_and_printable(spans: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """A guard of the app's own may put into its rule what a caller has sent."""
    with spans[0].get_tracer("test").start_as_current_span("request"):
        span_marker()(("Leaky", "\n\u202e" + "x" * 1_000_000))
    ((_, attributes),) = events(spans[1])
    assert attributes["mlguard.rule"].startswith("\\n\\u202exxx")
    assert len(attributes["mlguard.rule"]) == 100


def test_what_no_guard_has_refused_has_no_event(
    provider: MeterProvider, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """A 404 is no refusal."""
    app = service(provider)
    app.add_middleware(Traced, provider=spans[0])
    assert call(app, "/nowhere", method="GET").status == 404
    assert events(spans[1]) == []


def test_the_span_of_fastapi_itself_gets_the_event(spans: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """A FastAPI that traces itself has the event in its server span, which ends with the answer."""
    pytest.importorskip("fastapi.telemetry")
    app = FastAPI(telemetry={"tracer_provider": spans[0], "operation_spans": False})
    harden(app)
    caller = APIKeyAuth(APIKeys([KEY]))

    @app.get("/x", dependencies=[Depends(caller)])
    async def endpoint() -> None:
        """Nothing."""

    install_metrics(app)
    assert call(app, "/x", method="GET").status == 401
    (span,) = spans[1].get_finished_spans()
    assert span.kind is trace.SpanKind.SERVER
    assert events(spans[1]) == [
        ("mlguard.refused", {"mlguard.guard": "APIKeyAuth", "mlguard.rule": "not-authenticated"})
    ]
