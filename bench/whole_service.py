"""A whole service with everything on, beside the bare endpoint: real models behind real servers, asked over a socket.

Both predict from 30 numbers with the same logistic regression. Each is a uvicorn of its own, with one client that asks
one thing after the other. The time is what that client waits. The processor's time is all that the server's process
takes, with what its threads do later: the log, and queries that are noted after their requests.
"""

import asyncio
import json
import logging
import secrets
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.predict import LIMITS, Row
from bench.report import Line, Table
from bench.serving import Served, serve
from bench.timing import Call, Timing, take_turns
from mlguard import (
    Alerts,
    APIKeyAuth,
    APIKeys,
    AuditLog,
    DriftMonitor,
    Features,
    Lockdown,
    PrometheusMetrics,
    QueryBudget,
    QueryMonitor,
    RateLimit,
    harden,
    install_audit_log,
    install_metrics,
    truncate_output,
)

_TARGET = 3.0
_USUAL = 300  # rows that the model is not trained on
_REST = 0.5  # seconds for what is done later


def _model() -> tuple[Any, NDArray[np.float64]]:
    """A classifier of tumours, and rows that it has not seen."""
    rows, labels = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[_USUAL:], labels[_USUAL:])
    return model, rows[:_USUAL]


def bare() -> FastAPI:
    """The endpoint as FastAPI's tutorial has it, guarded by nothing."""
    app = FastAPI()
    model, _ = _model()

    @app.post("/predict")
    def predict(body: Row) -> dict[str, Any]:
        return {"probabilities": model.predict_proba(np.asarray([body.features])).tolist()}

    return app


def guarded() -> FastAPI:
    """The same with every guard and everything that watches."""
    logging.getLogger("mlguard").setLevel(logging.CRITICAL)  # that the lockdown is this process's own is as meant here
    app = FastAPI()
    model, usual = _model()
    scores = model.predict_proba(usual)
    harden(app)
    log, lockdown, alerts = AuditLog.from_settings(), Lockdown(), Alerts(lambda _: None)
    install_audit_log(app, log, input_key=secrets.token_urlsafe(32))
    alerts.install(app)
    lockdown.install(app)
    caller = APIKeyAuth(APIKeys.from_env())
    features = Features(columns=usual.shape[1], low=0.0, high=10_000.0, max_rows=10)
    monitor = QueryMonitor(features, reference=QueryMonitor.calibrate(usual, scores=scores), by=caller)
    drift = DriftMonitor(features, reference=DriftMonitor.learn(usual, scores=scores))
    install_metrics(
        app, to=PrometheusMetrics(registry=CollectorRegistry()), watch=[log, lockdown, alerts, monitor, drift]
    )
    guards = [
        Security(caller, scopes=["predict"]),
        Depends(RateLimit(*LIMITS, by=caller)),
        Depends(QueryBudget("1000000000/month", by=caller, cost=features)),
        Depends(monitor),
        Depends(drift),
    ]

    @app.post("/predict", dependencies=guards)
    @truncate_output(decimals=2)
    def predict(x: Annotated[NDArray[np.float64], Depends(features)]) -> dict[str, Any]:
        return {"probabilities": model.predict_proba(x)}

    return app


class _Client:
    """Asks a service one thing after the other on one connection. Each body is another one."""

    def __init__(self, served: Served, requests: list[bytes]) -> None:
        self._address = served.address
        self._requests = requests
        self._next = 0
        self._connection = socket.create_connection(self._address, timeout=30)

    def connect(self) -> None:
        """Connect again."""
        self.close()
        self._connection = socket.create_connection(self._address, timeout=30)

    def ask(self) -> Any:
        """The JSON of the answer."""
        self._next = (self._next + 1) % len(self._requests)
        self._connection.sendall(self._requests[self._next])
        answer = b""
        while not _is_whole(answer):
            received = self._connection.recv(65_536)
            if not received:
                raise ConnectionError("the service hung up")
            answer += received
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise AssertionError(f"a wrong answer: {answer[:300]!r}")
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def close(self) -> None:
        self._connection.close()


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    (length,) = (line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return len(body) >= int(length)


def _requests(secret: str) -> list[bytes]:
    """Rows as patients have them: each is one of the data, a little changed."""
    usual, draws = _model()[1], np.random.default_rng(7)
    rows = usual[draws.integers(0, len(usual), 2_000)] * draws.normal(1, 0.01, (2_000, usual.shape[1]))
    made = []
    for row in rows:
        body = json.dumps({"features": row.tolist()}).encode()
        head = f"POST /predict HTTP/1.1\r\nhost: bench\r\nx-api-key: {secret}\r\ncontent-type: application/json\r\n"
        made.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return made


async def measure(*, short: bool) -> Table:
    """Both are asked in turns; then each by itself, for the processor's time."""
    secret = secrets.token_urlsafe(32)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        settings = {
            "MLGUARD_API_KEYS": f"bench={secret};predict",
            "MLGUARD_AUDIT_LOG": folder,
            "MLGUARD_AUDIT_KEY": secrets.token_urlsafe(32),
        }
        served = {name: stack.enter_context(serve(f"{__name__}:{name}", settings)) for name in ("bare", "guarded")}
        clients = {name: _Client(service, _requests(secret)) for name, service in served.items()}
        for client in clients.values():
            stack.callback(client.close)
        _compare(clients)
        calls = {name: _call(client) for name, client in clients.items()}
        waited = await take_turns(calls, rounds=2 if short else 31, calls=5 if short else 100)
        lines = [Line("what a client waits", waited, _TARGET)]
        spent = await _processor(served, clients, rounds=1 if short else 5, calls=20 if short else 2_000)
        lines.append(Line("the processor's time", spent, _TARGET))
    return Table("A whole service with everything on, 30 numbers, over a socket", lines)


def _call(client: _Client) -> Call:
    async def call() -> None:
        client.ask()

    return call


def _compare(clients: Mapping[str, _Client]) -> None:
    """Both must say the same, one of them rounded."""
    answers = {name: np.asarray(client.ask()["probabilities"]) for name, client in clients.items()}
    if not np.allclose(answers["guarded"], answers["bare"], atol=0.0051):
        raise AssertionError(f"not the same answer: {answers}")


async def _processor(
    served: Mapping[str, Served], clients: Mapping[str, _Client], *, rounds: int, calls: int
) -> Timing:
    """Seconds of the processor for each request, in all threads of the server's process."""
    seconds: dict[str, list[float]] = {name: [] for name in served}
    for _ in range(rounds):
        for name, service in served.items():
            clients[name].connect()  # a server hangs up on who is silent for long
            before = service.processor_seconds()
            for _ in range(calls):
                clients[name].ask()
            await asyncio.sleep(_REST)
            seconds[name].append((service.processor_seconds() - before) / calls)
    return Timing(seconds)
