"""What ``repeat_cache`` costs and saves: a question of 30 numbers that was asked before.

Alone, as a call of the decorated endpoint, and in a whole request, beside the same route without it. The endpoint does
next to nothing, so nothing is saved by not calling it: what is left is the cost. And what noise costs.
"""

import json
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray
from starlette.requests import Request

from bench.asgi import Post
from bench.predict import HIGH, LOW
from bench.report import Extra, Grid, Table
from bench.timing import Timing, take_turns
from mlguard._fastapi import injected_response
from mlguard._guard import Principal
from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys
from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.outputs.noise import Gaussian, Laplace, add_noise
from mlguard.outputs.repeats import repeat_cache
from mlguard.outputs.truncation import truncate_output

_COLUMNS = 30
_KEY = "repeats-Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"
_ANSWER = {"label": "virginica", "probabilities": [0.0125, 0.25, 0.7375]}
_SENT = b'{"label":"virginica","probabilities":[0.01,0.25,0.74]}'

Array = NDArray[np.float64]


async def measure(*, short: bool) -> Table:
    """A hit alone, and in a whole request."""
    key, secret = APIKey.generate("bench", scopes={"predict"})
    caller = APIKeyAuth(APIKeys([key]))
    rows = Features(columns=_COLUMNS, low=LOW, high=HIGH, max_rows=1)
    app = FastAPI()
    harden(app)

    async def predict(x: Annotated[Array, Depends(rows)]) -> Any:  # noqa: ARG001  # it is what the question is
        return _ANSWER

    plain = truncate_output(decimals=2)(predict)
    kept: Any = repeat_cache(key=_KEY, model_version="1", by=caller)(plain)
    guards = [Security(caller, scopes=["predict"])]
    app.post("/bare", response_model=None, dependencies=guards)(truncate_output(decimals=2)(predict))
    app.post("/guarded", response_model=None, dependencies=guards)(kept)
    values = np.random.default_rng(7).uniform(LOW, HIGH, (1, _COLUMNS))
    body = json.dumps({"features": values[0].tolist()}).encode()
    posts = {name: Post(app, f"/{name}", body, {"x-api-key": secret}) for name in ("bare", "guarded")}
    for post in posts.values():
        if await post() != (200, _SENT):
            raise AssertionError("a wrong answer")
    timing = await take_turns(posts, rounds=2 if short else 61, calls=1 if short else 100)
    return Table(
        "A repeated question, 30 numbers",
        [
            Extra("a hit, the decorator alone", await _hits(app, kept, values, short=short), 15e-6),
            Extra("a whole request", timing, 15e-6),
        ],
        [str(_noise(short=short))],
    )


async def _hits(app: FastAPI, kept: Any, values: Array, *, short: bool) -> Timing:
    """Calls of the decorated endpoint as FastAPI makes them, beside calls of nothing."""
    route = next(route for route in app.routes if getattr(route, "path", "") == "/guarded")
    scope = {"type": "http", "method": "POST", "headers": [], "route": route}
    who = Principal("bench", frozenset({"predict"}), method="api-key")
    request, response = Request(scope), injected_response()

    async def nothing(**_: Any) -> None: ...

    async def call(function: Any) -> None:
        await function(x=values, _mlguard_request=request, _mlguard_response=response, _mlguard_who=who)

    contenders = {"bare": lambda: call(nothing), "guarded": lambda: call(kept)}
    return await take_turns(contenders, rounds=2 if short else 61, calls=1 if short else 300)


def _noise(*, short: bool) -> Grid:
    rng = np.random.default_rng(3)
    rows = []
    for mechanism in (Laplace(0.05), Gaussian(0.05)):
        cells = [repr(mechanism)]
        for number, calls in ((1, 2_000), (1_000, 30)):
            x, scores = rng.uniform(size=(number, _COLUMNS)), rng.dirichlet(np.ones(10), number)
            noisy: Any = add_noise(mechanism, key=_KEY)(_returning(scores))
            cells.append(f"{_seconds(lambda: noisy(x=x), 2 if short else calls) * 1e6:,.0f} us")  # noqa: B023  # called here
        rows.append(cells)
    return Grid("\nNoise on 10 classes", ["mechanism", "1 row", "1 000 rows"], rows)


def _returning(scores: Array) -> Any:
    def predict(x: Array) -> Array:  # noqa: ARG001  # it is what noise depends on
        return scores

    return predict


def _seconds(call: Any, calls: int) -> float:
    times = []
    for _ in range(calls):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return float(np.median(times))
