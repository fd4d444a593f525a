"""OpenTelemetry's own instrumentation of FastAPI beside mlguard: both do what they do, and nothing is there twice."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI, Security

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    Features,
    OpenTelemetryMetrics,
    harden,
    install_audit_log,
    install_metrics,
    truncate_output,
)
from tests.asgi import Answer, call
from tests.monitoring.test_audited_requests import JSON, Notebook

pytest.importorskip("opentelemetry.instrumentation.fastapi")

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

KEY, SECRET = APIKey.generate("alice", scopes={"predict"})


class Instrumented:
    """A guarded service, instrumented before it was hardened."""

    def __init__(self) -> None:
        self.spans, self.reader, self.log = InMemorySpanExporter(), InMemoryMetricReader(), Notebook()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.app = FastAPI()
        FastAPIInstrumentor.instrument_app(self.app, tracer_provider=self.tracers, meter_provider=self.meters)
        harden(self.app)
        install_audit_log(self.app, self.log)
        install_metrics(self.app, to=OpenTelemetryMetrics(meter_provider=self.meters))
        caller = APIKeyAuth(APIKeys([KEY]))
        rows = Features(columns=2, low=0, high=9, max_rows=5)

        @self.app.post("/predict", dependencies=[Security(caller, scopes=["predict"])])
        @truncate_output(decimals=2)
        def predict(x: Annotated[np.ndarray, Depends(rows)]) -> Any:
            return {"probabilities": [[0.123, 0.877]] * len(x)}

    def ask(self, *headers: tuple[bytes, bytes]) -> Answer:
        return call(self.app, "/predict", headers=[JSON, *headers], chunks=[b'{"features":[1,2]}'])

    def close(self) -> None:
        FastAPIInstrumentor.uninstrument_app(self.app)
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def service() -> Iterator[Instrumented]:
    service = Instrumented()
    yield service
    service.close()


def test_a_request_is_guarded_traced_and_recorded(service: Instrumented) -> None:
    """The record has the trace of its spans, and a refusal is one event of one of them."""
    answered, refused = service.ask((b"x-api-key", SECRET.encode())), service.ask()
    assert (answered.status, answered.json) == (200, {"probabilities": [[0.12, 0.88]]})
    assert (refused.status, refused.reads) == (401, 0)
    spans = service.spans.get_finished_spans()
    roots = [span for span in spans if span.attributes and "http.route" in span.attributes and span.parent is None]
    assert [record["trace_id"] for record in service.log.records] == [f"{root.context.trace_id:032x}" for root in roots]
    (event,) = [event for span in spans for event in span.events]
    assert event.name == "mlguard.refused"


def test_nothing_is_measured_twice(service: Instrumented) -> None:
    """Whole requests by the instrumentation, decisions by mlguard."""
    service.ask((b"x-api-key", SECRET.encode()))
    data = service.reader.get_metrics_data()
    assert data is not None
    names: dict[str, set[str]] = {}
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            names.setdefault(scope.scope.name, set()).update(metric.name for metric in scope.metrics)
    mine = names.pop("mlguard")
    assert "mlguard.guard.decisions" in mine
    assert all(name.startswith("mlguard.") for name in mine)
    others = [name for found in names.values() for name in found]
    assert others
    assert all(name.startswith("http.server.") for name in others)
