"""What ``DriftMonitor`` costs a row, how often it is wrong, and after how many windows it has found a shift."""

import json
from collections import Counter
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI
from numpy.typing import NDArray

from bench.asgi import Post
from bench.report import Extra, Grid, Table
from bench.timing import take_turns
from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.monitoring._drift_watch import Watch
from mlguard.monitoring.drift import DriftMonitor
from mlguard.outputs.truncation import truncate_output

_MOST = 20e-6  # seconds a row
_WINDOW = 500
_REFERENCE = 5_000
_BEFORE = 12  # windows without drift
_SLOPE = 20  # windows in which a slow shift reaches its size

Array = NDArray[np.float64]


async def measure(*, short: bool) -> Table:
    """Update, request, false alarms and detection."""
    updates, found = _updates(short=short), _detections(short=short)
    request = await _request(short=short)
    return Table("Drift monitor, 30 columns, scores of 3 classes", [request], [f"\n{updates}", f"\n{found}"])


async def _request(*, short: bool) -> Extra:
    """A whole request of one row, with everything watched, beside the same without."""
    rng = np.random.default_rng(1)
    rows = Features(columns=30, low=-20, high=20, max_rows=1)
    reference = DriftMonitor.learn(
        rng.normal(size=(_REFERENCE, 30)), scores=rng.dirichlet(np.ones(3), 1_000), latency=rng.exponential(size=1_000)
    )
    drift = DriftMonitor(rows, reference=reference)
    app = FastAPI()
    harden(app)

    async def predict(x: Annotated[Array, Depends(rows)]) -> Any:  # noqa: ARG001  # a model that takes no time
        return {"probabilities": [0.0125, 0.25, 0.7375]}

    app.post("/bare", response_model=None)(truncate_output(decimals=2)(predict))
    app.post("/guarded", response_model=None, dependencies=[Depends(drift)])(truncate_output(decimals=2)(predict))
    body = json.dumps({"features": rng.normal(size=30).tolist()}).encode()
    posts = {name: Post(app, f"/{name}", body, {}) for name in ("bare", "guarded")}
    for post in posts.values():
        if (await post())[0] != 200:
            raise AssertionError("a wrong answer")
    return Extra("a whole request", await take_turns(posts, rounds=2 if short else 61, calls=1 if short else 100), 1e-4)


def _watch(columns: int, rng: np.random.Generator, **settings: Any) -> tuple[DriftMonitor, Watch]:
    reference = DriftMonitor.learn(rng.normal(size=(_REFERENCE, columns)))
    drift = DriftMonitor(lambda: None, reference=reference, window=_WINDOW, **settings)
    return drift, drift._watches["input"]


def _updates(*, short: bool) -> Grid:
    rng = np.random.default_rng(2)
    lines = []
    for columns in (30, 784):
        drift, watch = _watch(columns, rng)
        for rows, calls in ((1, 3_000), (100, 100), (1_000, 10)):
            sent = rng.normal(size=(rows, columns))
            seconds = _seconds(lambda: watch.add(sent, 0.0), 2 if short else calls) / rows  # noqa: B023  # called here
            met = "yes" if seconds <= _MOST else "NO"
            lines.append([f"{columns}", f"{rows:,}", f"{seconds * 1e6:.2f} us", "<= 20 us", met])
            drift.judge()
        window = rng.normal(size=(_WINDOW, columns))

        def judge() -> None:
            watch.add(window, 0.0)  # noqa: B023  # called here
            list(watch.judge(0.0))  # noqa: B023

        counted = _seconds(lambda: watch.add(window, 0.0), 2 if short else 20)  # noqa: B023  # called here
        list(watch.judge(0.0))
        judged = _seconds(judge, 2 if short else 100) - counted
        lines.append([f"{columns}", "a window, judged", f"{judged * 1e6:.0f} us", "", ""])
        size = sum(one.above.nbytes for one in watch._kept) + watch._above.nbytes
        lines.append([f"{columns}", "histograms", f"{size / 1024:.0f} KiB", "", ""])
    return Grid("The update, a row", ["columns", "rows at once", "each", "target", "met"], lines)


def _detections(*, short: bool) -> Grid:
    lines = []
    for name, draw in _TRAFFIC.items():
        for rows in (200, _REFERENCE):
            alarms = _false_alarms(draw, rows, references=1 if short else 20, windows=10 if short else 200)
            lines.append([f"none, {name}, reference of {rows:,}", "", f"{alarms:.2f} alarms in 100 windows", ""])
    for kind in ("sudden", "slow"):
        for shift in (0.25, 0.5, 1.0, 2.0):
            found = [_found(kind, shift, seed) for seed in range(2 if short else 100)]
            windows = [one[0] for one in found if one is not None]
            said = Counter(one[1] for one in found if one is not None)
            when = f"{median(windows):.1f} windows, at most {max(windows):.1f}" if windows else "never"
            lines.append(
                [f"{kind}, {shift:g} sigma", "30", f"{len(windows)} of {len(found)} after {when}", f"{dict(said)}"]
            )
    notes = [
        "At most 1 alarm in 100 windows is promised.",
        f"Windows of {_WINDOW} rows, a reference of {_REFERENCE:,}, one column that moves.",
        f"Slow: the shift grows over {_SLOPE} windows.",
    ]
    return Grid("Shifts of one column", ["shift", "columns", "found", "called"], lines, notes)


def _mixed(rng: np.random.Generator, rows: int) -> Array:
    """Counts, flags, whole numbers, mostly zeros, and missing values."""
    zeros = rng.exponential(size=(rows, 8)) * (rng.random((rows, 8)) < 0.1)
    lacking = np.where(rng.random((rows, 8)) < 0.02, np.nan, rng.normal(size=(rows, 8)))
    whole = [rng.poisson(0.05, (rows, 5)), rng.integers(0, 2, (rows, 5)), rng.integers(0, 12, (rows, 4))]
    return np.concatenate([zeros, lacking, *whole], axis=1)


_TRAFFIC: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "30 normal columns": lambda rng, rows: rng.normal(size=(rows, 30)),
    "784 normal columns": lambda rng, rows: rng.normal(size=(rows, 784)),
    "30 times the same column": lambda rng, rows: np.repeat(rng.normal(size=(rows, 1)), 30, axis=1),
    "30 columns of other kinds": _mixed,
}


def _false_alarms(
    draw: Callable[[np.random.Generator, int], Array], reference: int, *, references: int, windows: int
) -> float:
    """Events in a hundred windows of traffic that is as the reference, over several references."""
    found = 0
    for seed in range(references):
        rng = np.random.default_rng(seed)
        learnt = DriftMonitor.learn(draw(rng, reference))
        watch = DriftMonitor(lambda: None, reference=learnt, window=_WINDOW)._watches["input"]
        for _ in range(windows):
            watch.add(draw(rng, _WINDOW), 0.0)
            found += sum(finding.began for finding in watch.judge(0.0))
    return 100 * found / (references * windows)


def _found(kind: str, shift: float, seed: int) -> tuple[float, str] | None:
    """After how many windows a shift was found, and what it was called. It begins in the middle of a window."""
    rng = np.random.default_rng(1_000 + seed)
    _, watch = _watch(30, rng)
    for _ in range(_BEFORE):
        watch.add(rng.normal(size=(_WINDOW, 30)), 0.0)
        list(watch.judge(0.0))
    watch.add(rng.normal(size=(int(rng.integers(1, _WINDOW)), 30)), 0.0)
    for rows in range(0, 60 * _WINDOW, 50):
        moved = shift if kind == "sudden" else shift * min(1, rows / _WINDOW / _SLOPE)
        sent = rng.normal(size=(50, 30))
        sent[:, 3] += moved
        watch.add(sent, 0.0)
        for finding in watch.judge(0.0):
            if finding.began and finding.column == 3:
                return (rows + 50) / _WINDOW, finding.pace
    return None


def _seconds(call: Any, calls: int) -> float:
    times = []
    for _ in range(calls):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return float(np.median(times))
