"""What guards cost a prediction: one endpoint, without guards, with mlguard's, and guarded the usual way.

The endpoint does next to nothing, and is ``async``, so that nothing hides the guards. It gets lists of floats from
pydantic and an array from ``Features``; turning the lists into the array that a model needs is not charged to them. It
has no return type, as most have none. Numbers are sent with all their digits, as ``json.dumps(x.tolist())`` writes
them: with fewer digits ``json.loads``, and so the bare endpoint, takes about half the time on large bodies.
"""

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray
from pydantic import BaseModel

from bench.asgi import Post
from bench.report import Line, Table
from bench.timing import take_turns
from bench.usual import usual, usual_token
from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys
from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.outputs.truncation import truncate_output
from mlguard.traffic.rate import RateLimit

LOW, HIGH = 0.0, 10.0
LIMITS = ("1000000000/minute", "1000000000/day")  # counted, never used up
ANSWER = {"label": "virginica", "probabilities": [0.0125, 0.25, 0.7375]}
TRUNCATED = {"label": "virginica", "probabilities": [0.01, 0.25, 0.74]}

#: What the endpoint got, kept so that it can be compared with what was sent. All apps do it, so all pay for it.
received: list[Any] = [None]


class Row(BaseModel):
    """A body with one row."""

    features: list[float]


class Batch(BaseModel):
    """A body with several rows."""

    features: list[list[float]]


def answer(features: Any) -> Any:
    """The endpoint's work, the same in all apps."""
    received[0] = features
    return ANSWER


def bare(model: Any) -> FastAPI:
    """The endpoint as FastAPI's tutorial has it, guarded by nothing."""
    app = FastAPI()

    @app.post("/predict", response_model=None)
    async def predict(body: model) -> Any:
        return answer(body.features)

    return app


def guarded(columns: int | list[str], max_rows: int, key: APIKey, formats: Sequence[str] = ("json",)) -> FastAPI:
    """The endpoint behind mlguard: key, scope, two windows, features, truncated output, hardened."""
    app = FastAPI()
    harden(app, max_body_size=16 * 1_048_576)
    caller = APIKeyAuth(APIKeys([key]))
    rows = Features(columns=columns, low=LOW, high=HIGH, max_rows=max_rows, formats=formats)
    steady = RateLimit(*LIMITS, by=caller)

    @app.post("/predict", response_model=None, dependencies=[Security(caller, scopes=["predict"]), Depends(steady)])
    @truncate_output(decimals=2)
    async def predict(x: Annotated[NDArray[np.float64], Depends(rows)]) -> Any:
        return answer(x)

    return app


async def measure(*, short: bool) -> Table:
    """All sizes."""
    lines = [
        await _compare("30 numbers", 1, 30, calls=100, short=short, target=1.5),
        await _compare("300 numbers", 1, 300, calls=100, short=short, target=0.9),
        await _compare("3 000 numbers", 1, 3_000, calls=30, short=short, target=0.28),
        await _compare("1 000 x 100 numbers", 1_000, 100, calls=8, short=short, target=0.15),
    ]
    return Table("A prediction, in process", lines)


async def _compare(work: str, rows: int, columns: int, *, calls: int, short: bool, target: float) -> Line:
    values = np.random.default_rng(7).uniform(LOW, HIGH, (rows, columns))
    sent = values.tolist() if rows > 1 else values[0].tolist()
    apps, headers = _apps(rows, columns)
    body = json.dumps({"features": sent}).encode()
    posts = {name: Post(app, "/predict", body, headers) for name, app in apps.items()}
    for name, post in posts.items():
        await _check(name, post, values)
    timing = await take_turns(posts, rounds=2 if short else 31, calls=1 if short else calls)
    return Line(work, timing, target)


def _apps(rows: int, columns: int) -> tuple[dict[str, FastAPI], dict[str, str]]:
    """The contenders, and the headers with which all of them are called."""
    key, secret = APIKey.generate("bench", scopes={"predict"})
    apps = {
        "bare": bare(Row if rows == 1 else Batch),
        "guarded": guarded(columns, rows, key),
        "usual": usual(answer, columns=columns, max_rows=rows, low=LOW, high=HIGH, limits=LIMITS, secret=secret),
    }
    return apps, {"x-api-key": secret, "authorization": f"Bearer {usual_token()}"}


async def _check(name: str, post: Callable[[], Any], values: NDArray[np.float64]) -> None:
    status, body = await post()
    expected = TRUNCATED if name == "guarded" else ANSWER
    got = np.asarray(received[0]).reshape(values.shape)
    if status != 200 or json.loads(body) != expected or not np.array_equal(got, values):
        raise AssertionError(f"{name} gave a wrong answer: {status} {body[:200]!r}")
