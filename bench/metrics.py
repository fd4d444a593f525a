"""What metrics cost a request: a guarded prediction of 30 numbers, measured and not, in turns.

The collector is OpenTelemetry's own SDK with a reader in memory, and prometheus-client. The guards are a key, two
windows, a budget and the features: four decisions.
"""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bench.asgi import Post
from bench.predict import ANSWER, HIGH, LIMITS, LOW
from bench.report import Extra, Table
from bench.timing import take_turns
from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    Features,
    MemoryStore,
    OpenTelemetryMetrics,
    PrometheusMetrics,
    QueryBudget,
    RateLimit,
    harden,
    install_metrics,
    truncate_output,
)

_COLUMNS = 30
_TARGET = 20e-6  # seconds of a whole request
_TARGET_TIMED = 100e-6  # of one that is timed, as 20 of a second are
_ALL = 1_000_000.0  # requests of a second that are timed: every one


def _service(key: APIKey, **metrics: Any) -> FastAPI:
    app = FastAPI()
    harden(app)
    store = MemoryStore()
    caller = APIKeyAuth(APIKeys([key]))
    rows = Features(columns=_COLUMNS, low=LOW, high=HIGH, max_rows=1)
    steady = RateLimit(*LIMITS, by=caller, store=store)
    budget = QueryBudget("1000000000/month", by=caller, store=store)
    guards = [Security(caller, scopes=["predict"]), Depends(steady), Depends(budget)]

    @app.post("/predict", response_model=None, dependencies=guards)
    @truncate_output(decimals=2)
    async def predict(x: Annotated[NDArray[np.float64], Depends(rows)]) -> Any:  # noqa: ARG001  # it is read
        return ANSWER

    if metrics:
        install_metrics(app, **metrics)
    return app


def _open_telemetry() -> OpenTelemetryMetrics:
    return OpenTelemetryMetrics(meter_provider=MeterProvider([InMemoryMetricReader()]))


_WAYS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "OpenTelemetry": lambda: {"to": _open_telemetry()},
    "Prometheus": lambda: {"to": PrometheusMetrics()},
    "both": lambda: {"to": [_open_telemetry(), PrometheusMetrics()]},
    "OpenTelemetry, every request timed": lambda: {"to": _open_telemetry(), "timed_per_second": _ALL},
    "Prometheus, every request timed": lambda: {"to": PrometheusMetrics(), "timed_per_second": _ALL},
}


async def measure(*, short: bool) -> Table:
    """One service without metrics, and one for each way to have them."""
    key, secret = APIKey.generate("bench", scopes={"predict"})
    values = np.random.default_rng(7).uniform(LOW, HIGH, _COLUMNS)
    body = json.dumps({"features": values.tolist()}).encode()
    lines = []
    for name, options in _WAYS.items():
        apps = {"bare": _service(key), "guarded": _service(key, **options())}
        posts = {kind: Post(app, "/predict", body, {"x-api-key": secret}) for kind, app in apps.items()}
        for post in posts.values():
            status, _ = await post()
            if status != 200:
                raise AssertionError("a wrong answer")
        timing = await take_turns(posts, rounds=2 if short else 301, calls=1 if short else 15)
        lines.append(Extra(name, timing, _TARGET_TIMED if "timed" in name else _TARGET))
    return Table("Metrics of a guarded request", lines, ["Here, bare is guarded and not measured."])
