"""What everything costs together: one endpoint, to which one thing after the other is added, and the bill.

Thirty numbers a request. Each line has all that stands in the lines before it, too. The state is in memory, the log is
on the disk, and its thread works in the same process. What is done later, such as to note queries and to write the log,
is waited for, and its time is in that of the requests.
"""

import gc
import json
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray

from bench.asgi import Post
from bench.predict import ANSWER, HIGH, LIMITS, LOW, Row, bare
from bench.report import Line, Table
from bench.timing import Call, take_turns
from mlguard import (
    Alerts,
    APIKey,
    APIKeyAuth,
    APIKeys,
    AuditLog,
    DriftMonitor,
    Features,
    Lockdown,
    MemoryStore,
    PrometheusMetrics,
    QueryBudget,
    QueryMonitor,
    RateLimit,
    harden,
    install_audit_log,
    install_metrics,
    truncate_output,
)

_COLUMNS = 30
_TARGET = 3.0
_PARTS = (
    "harden", "APIKeyAuth", "RateLimit", "Features", "QueryBudget", "truncate_output", "QueryMonitor", "DriftMonitor",
    "Lockdown", "Alerts", "AuditLog", "metrics",
)  # fmt: skip


def _usual() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows such as callers send, and what the model would say of them."""
    draws = np.random.default_rng(1)
    rows = draws.uniform(LOW, HIGH, (600, _COLUMNS))
    return rows, draws.dirichlet(np.ones(3), 600)


@dataclass
class _Rest:
    """What an app has left to do: after each turn, and at the end."""

    later: list[Call] = field(default_factory=list)
    closing: list[Callable[[], object]] = field(default_factory=list)

    async def settle(self) -> None:
        for call in self.later:
            await call()

    def close(self) -> None:
        for close in self.closing:
            close()


def _app(parts: tuple[str, ...], key: APIKey, folder: Path, rest: _Rest) -> FastAPI:
    """The endpoint with so many of the parts."""
    app, store = FastAPI(), MemoryStore()
    rows, scores = _usual()
    features = Features(columns=_COLUMNS, low=LOW, high=HIGH, max_rows=10)
    caller = APIKeyAuth(APIKeys([key]))
    monitor = QueryMonitor(features, reference=QueryMonitor.calibrate(rows, scores=scores), by=caller, store=store)
    guards: dict[str, Callable[[], Any]] = {
        "APIKeyAuth": lambda: Security(caller, scopes=["predict"]),
        "RateLimit": lambda: Depends(RateLimit(*LIMITS, by=caller, store=store)),
        "QueryBudget": lambda: Depends(QueryBudget("1000000000/month", by=caller, cost=features, store=store)),
        "QueryMonitor": lambda: Depends(monitor),
        "DriftMonitor": lambda: Depends(
            DriftMonitor(features, reference=DriftMonitor.learn(rows, scores=scores), smallest=1.0)
        ),
    }
    if "harden" in parts:
        harden(app)
    _install(app, parts, folder, store, rest)
    if "QueryMonitor" in parts and monitor._queue is not None:
        rest.later.append(monitor._queue.note_all)

    async def listed(body: Row) -> Any:  # noqa: ARG001  # read, as a model would
        return ANSWER

    async def read(x: Annotated[NDArray[np.float64], Depends(features)]) -> Any:  # noqa: ARG001
        return ANSWER

    endpoint: Any = read if "Features" in parts else listed
    if "truncate_output" in parts:
        endpoint = truncate_output(decimals=2)(endpoint)
    dependencies = [guards[part]() for part in parts if part in guards]
    app.post("/predict", response_model=None, dependencies=dependencies)(endpoint)
    return app


def _install(app: FastAPI, parts: tuple[str, ...], folder: Path, store: MemoryStore, rest: _Rest) -> None:
    """What stands around the endpoint."""
    watch: list[Any] = []
    if "Lockdown" in parts:
        lockdown = Lockdown(store=store)
        lockdown.install(app)
        rest.closing.append(lockdown.stop)
        watch.append(lockdown)
    if "Alerts" in parts:
        alerts = Alerts(lambda _: None)
        alerts.attach()
        rest.closing.extend([alerts.detach, alerts.close])
        watch.append(alerts)
    if "AuditLog" in parts:
        folder.mkdir(mode=0o700)
        log = AuditLog(folder, key=secrets.token_urlsafe(32))
        install_audit_log(app, log, input_key=secrets.token_urlsafe(32))
        rest.closing.append(log.close)
        rest.later.append(log.written)
        watch.append(log)
    if "metrics" in parts:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415  # an extra

        install_metrics(app, to=PrometheusMetrics(registry=CollectorRegistry()), watch=watch)


async def measure(*, short: bool) -> Table:
    """One line for each part that is added."""
    key, secret = APIKey.generate("bench", scopes={"predict"})
    with tempfile.TemporaryDirectory() as folder:
        apps, rests = {"bare": bare(Row)}, {part: _Rest() for part in _PARTS}
        for count, part in enumerate(_PARTS, 1):
            apps[part] = _app(_PARTS[:count], key, Path(folder, part), rests[part])
        try:
            return await _timed(apps, rests, {"x-api-key": secret}, short=short)
        finally:
            for rest in rests.values():
                rest.close()
            gc.collect()


async def _timed(apps: dict[str, FastAPI], rests: dict[str, _Rest], headers: dict[str, str], *, short: bool) -> Table:
    draws = np.random.default_rng(7)
    bodies = [json.dumps({"features": draws.uniform(LOW, HIGH, _COLUMNS).tolist()}).encode() for _ in range(512)]
    posts = {name: _Different(app, bodies, headers) for name, app in apps.items()}
    for name, post in posts.items():
        status, body = await post()
        if status != 200:
            raise AssertionError(f"{name} gave a wrong answer: {status} {body[:200]!r}")
    settle = {name: rest.settle for name, rest in rests.items()}
    timing = await take_turns(posts, rounds=2 if short else 11, calls=1 if short else 1_000, settle=settle)
    lines, bill, before = [], [], timing.of("bare")
    for name in _PARTS:
        pair = type(timing)({"bare": timing.seconds["bare"], "guarded": timing.seconds[name]})
        lines.append(Line(f"+ {name}", pair, _TARGET))
        bill.append(f"{name} {(timing.of(name) - before) * 1e6:+.0f}")
        before = timing.of(name)
    return Table("Everything on, 30 numbers", lines, ["", "The bill in microseconds: " + ", ".join(bill) + "."])


class _Different:
    """Posts another body each time, as no monitor looks at the same one twice."""

    def __init__(self, app: FastAPI, bodies: list[bytes], headers: dict[str, str]) -> None:
        self._posts = [Post(app, "/predict", body, headers) for body in bodies]
        self._next = 0

    async def __call__(self) -> Any:
        self._next = (self._next + 1) % len(self._posts)
        return await self._posts[self._next]()
