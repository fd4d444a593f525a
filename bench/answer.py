"""What a guarded answer costs: 1 000 rows of 10 probabilities, out of the model's array and into JSON.

And what each policy costs by itself, on one row and on as many: truncating what the endpoint returned, and its JSON.

The bare endpoint returns them as a dict of lists, which is what FastAPI can write. It is compared as most people write
it, without a return type, and again with one: FastAPI then has pydantic write the JSON, which takes much less time.
"""

import json
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray

from bench.asgi import Post
from bench.predict import HIGH, LIMITS, LOW, Row
from bench.report import Grid, Line, Table
from bench.timing import Call, take_turns
from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys
from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.outputs._endpoint import policies_of, to_json
from mlguard.outputs.policy import PRESETS, OutputPolicy
from mlguard.outputs.truncation import truncate_output
from mlguard.traffic.rate import RateLimit

_DECIMALS = 2
_COLUMNS = 30

Probabilities = NDArray[np.float64]


def bare(probabilities: Probabilities) -> FastAPI:
    """All digits, as a dict of lists: at ``/predict`` without a return type, at ``/typed`` with one."""
    app = FastAPI()

    @app.post("/predict", response_model=None)  # None: as if no return type stood there
    @app.post("/typed")
    async def predict(body: Row) -> dict[str, list[list[float]]]:  # noqa: ARG001  # it is what the answer is about
        return {"probabilities": probabilities.tolist()}

    return app


def guarded(probabilities: Probabilities, key: APIKey) -> FastAPI:
    """Two decimals, from the array, behind all guards."""
    app = FastAPI()
    harden(app)
    caller = APIKeyAuth(APIKeys([key]))
    rows = Features(columns=_COLUMNS, low=LOW, high=HIGH, max_rows=1)
    steady = RateLimit(*LIMITS, by=caller)

    @app.post("/predict", response_model=None, dependencies=[Security(caller, scopes=["predict"]), Depends(steady)])
    @truncate_output(decimals=_DECIMALS)
    async def predict(x: Annotated[Probabilities, Depends(rows)]) -> Any:  # noqa: ARG001  # as above
        return {"probabilities": probabilities}

    return app


async def measure(*, short: bool) -> Table:
    """The one size."""
    probabilities = np.random.default_rng(11).dirichlet(np.ones(10), size=1_000)
    key, secret = APIKey.generate("bench", scopes={"predict"})
    headers = {"x-api-key": secret}
    body = json.dumps({"features": np.linspace(LOW, HIGH, _COLUMNS).tolist()}).encode()
    bare_app = bare(probabilities)
    posts = {
        "bare": Post(bare_app, "/predict", body, headers),
        "typed": Post(bare_app, "/typed", body, headers),
        "guarded": Post(guarded(probabilities, key), "/predict", body, headers),
    }
    for name, post in posts.items():
        _check(name, *await post(), probabilities)
    timing = await take_turns(posts, rounds=2 if short else 21, calls=1 if short else 15)
    typed = timing.ratio("typed", "bare")
    guarded_typed = timing.ratio("guarded", "typed")
    note = f"With a return type, bare FastAPI needs {typed:.3f}x of bare; guarded is {guarded_typed:.3f}x of that."
    return Table("An answer, in process", [Line("1 000 x 10 probabilities", timing, 0.06)], [note])


def _check(name: str, status: int, body: bytes, probabilities: Probabilities) -> None:
    got = np.array(json.loads(body)["probabilities"]) if status == 200 else np.zeros(0)
    if got.shape != probabilities.shape:
        right = False
    elif name == "guarded":
        unit = 10.0**-_DECIMALS
        right = (
            np.array_equal(got, np.round(got, _DECIMALS))
            and bool(np.all(np.abs(got - probabilities) < 2 * unit))
            and np.allclose(got.sum(axis=1), 1.0)
            and np.array_equal(got.argmax(axis=1), probabilities.argmax(axis=1))
        )
    else:
        right = np.array_equal(got, probabilities)
    if not right:
        raise AssertionError(f"{name} gave a wrong answer: {status} {body[:200]!r}")


# Each policy ---------------------------------------------------------------------------------------------------------

_ONE_ROW = 30e-6  # seconds that a policy may take
_THOUSAND_ROWS = 1e-3

_POLICIES = {
    **{f'"{name}"': policy for name, policy in PRESETS.items()},
    "decimals=1": OutputPolicy(decimals=1),
    "significant=3": OutputPolicy(significant=3),
    "top_k=3": OutputPolicy(top_k=3),
    'top_k=3, rest="other"': OutputPolicy(top_k=3, rest="other"),
    "top_k=10": OutputPolicy(top_k=10),
    "confidence=1.0": OutputPolicy(confidence=1.0),
    "min_confidence=0.5": OutputPolicy(min_confidence=0.5),
    "min_confidence=0.5, label_only": OutputPolicy(min_confidence=0.5, label_only=True),
    "bins": OutputPolicy(bins=[0, 0.25, 0.5, 0.75, 1]),
    "bins, edges": OutputPolicy(bins=[0, 0.25, 0.5, 0.75, 1], bins_as="edges"),
}


async def measure_policies(*, short: bool) -> Grid:
    """Every policy on one row and on a thousand, out of an array and into JSON."""
    probabilities = np.random.default_rng(11).dirichlet(np.ones(10), size=1_000)
    rounds = 2 if short else 41
    one = await take_turns(_calls(probabilities[:1]), rounds=rounds, calls=20)
    many = await take_turns(_calls(probabilities), rounds=rounds, calls=2)
    rows = []
    for name in _POLICIES:
        single, batch = (
            min(one.seconds[name]),
            min(many.seconds[name]),
        )  # the fastest turns, as of all bounds in seconds
        met = single <= _ONE_ROW and batch <= _THOUSAND_ROWS
        rows.append([name, f"{single * 1e6:.1f} us", f"{batch * 1e6:,.0f} us", "yes" if met else "NO"])
    head = ["policy", "1 x 10", "1 000 x 10", "<= 30 us and <= 1 ms"]
    return Grid("A policy by itself: truncated, and written as JSON", head, rows)


def _calls(scores: Probabilities) -> dict[str, Call]:
    return {name: _call(policy, scores) for name, policy in _POLICIES.items()}


def _call(policy: OutputPolicy, scores: Probabilities) -> Call:
    labels = None if policy.bins is not None else [f"class {number}" for number in range(scores.shape[1])]
    endpoint = truncate_output(policy=policy, labels=labels)(lambda: {"probabilities": scores})
    policies = policies_of(endpoint)
    assert policies is not None
    truncation = policies.default

    async def call() -> bytes:
        return to_json(truncation.release({"probabilities": scores}, for_json=True))

    ready = to_json(truncation.release({"probabilities": scores}, for_json=True))
    if json.loads(ready) != json.loads(to_json(endpoint())):
        raise AssertionError(f"{policy} sends something else than it releases")
    return call
