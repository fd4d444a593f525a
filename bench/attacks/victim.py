"""Who is attacked: a model behind a key, a budget in rows, an input guard and an output guard.

An attacker has what a customer has: a key, and JSON in and out. Nothing here hands out an array behind the app's back.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import Depends, FastAPI
from numpy.typing import NDArray

from bench.asgi import Post
from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    BitDepth,
    Features,
    Laplace,
    MedianSmoothing,
    MemoryStore,
    QueryBudget,
    add_noise,
    harden,
    truncate_output,
)

Rows = NDArray[np.float64]
Labels = NDArray[np.intp]
Policy = Callable[[Callable[..., Any]], Callable[..., Any]]
Change = Callable[[Rows, np.random.Generator], Rows]

_BATCH = 2_000  # rows a request: batches are allowed, and make the attacks quicker
_BODY = 64 * 1_048_576  # bytes
_PLENTY = 10**12  # rows
_NOISE_KEY = hashlib.sha256(b"of the benches").digest()  # the same in every run


@dataclass(frozen=True)
class Noise:
    """Laplace noise on every score, clipped at 0 and made to add up to 1 again.

    Attributes:
        scale: Of the Laplace distribution, where scores are probabilities.
        keyed: Whether the same input gets the same noise each time.
        keep_best: Whether the best class stays the best.
        input_decimals: To which every input is rounded first, for the noise and for the model.
    """

    scale: float
    keyed: bool = True
    keep_best: bool = False
    input_decimals: int | None = None

    def guard(self) -> Policy:
        """As mlguard has it."""
        return add_noise(
            Laplace(self.scale),
            key=_NOISE_KEY,
            keep_argmax=self.keep_best,
            inputs=["x"],
            input_decimals=self.input_decimals,
        )

    def add(self, scores: Rows, fresh: np.random.Generator) -> Rows:
        """The same, but drawn anew: for services without mlguard, and for attackers, who try it out at home."""
        drawn = fresh.uniform(-0.5, 0.5, scores.shape)
        laplace = -self.scale * np.sign(drawn) * np.log1p(-2.0 * np.abs(drawn))
        noisy: Rows = np.maximum(scores + laplace, 0.0) + 1e-12
        if self.keep_best:
            rows = np.arange(len(scores))
            best, found = scores.argmax(axis=1), noisy.argmax(axis=1)
            noisy[rows, best], noisy[rows, found] = noisy[rows, found], noisy[rows, best]
        shares: Rows = noisy / noisy.sum(axis=1, keepdims=True)
        return shares


@dataclass(frozen=True, eq=False)
class Defence:
    """What stands between the model and its callers, as plain data.

    Attributes:
        name: As in the tables.
        output: The options of ``truncate_output``. None: all digits.
        noise: On the scores, before they are truncated.
        change: What is done to the input before the model sees it.
    """

    name: str
    output: Mapping[str, Any] | None = None
    noise: Noise | None = None
    change: Change | None = field(default=None, repr=False)


def _two_bits(x: Rows, fresh: np.random.Generator) -> Rows:  # noqa: ARG001
    squeezed: Rows = BitDepth(2, low=0.0, high=1.0)(x)
    return squeezed


def _median(x: Rows, fresh: np.random.Generator) -> Rows:  # noqa: ARG001
    squeezed: Rows = MedianSmoothing(2, shape=(8, 8))(x)
    return squeezed


def blurred(x: Rows, fresh: np.random.Generator) -> Rows:
    """Gaussian noise of standard deviation 0.1 on every pixel. Not in mlguard: it is here to compare with."""
    noisy: Rows = x + fresh.normal(0.0, 0.1, x.shape)
    return noisy


ALL_DIGITS = Defence("all digits")
THREE_DECIMALS = Defence("three decimals", {"decimals": 3})
TWO_DECIMALS = Defence("two decimals", {"decimals": 2})
ONE_DECIMAL = Defence("one decimal", {"decimals": 1})
BEST_CLASS = Defence("best class, two decimals", {"decimals": 2, "top_k": 1})
LABEL_ONLY = Defence("label only", {"label_only": True})
LABEL_IF_SURE = Defence("label only, none below 0.5", {"label_only": True, "min_confidence": 0.5})
LIGHT_NOISE = Defence("noise of 0.05", noise=Noise(0.05))
HEAVY_NOISE = Defence("noise of 0.2", noise=Noise(0.2))
HEAVY_NOISE_BEST_KEPT = Defence("noise of 0.2, best class kept", noise=Noise(0.2, keep_best=True))
FRESH_NOISE = Defence("fresh noise of 0.05", noise=Noise(0.05, keyed=False))
ROUNDED_NOISE = Defence("noise of 0.05, inputs rounded to two decimals", noise=Noise(0.05, input_decimals=2))
TWO_BITS = Defence("squeezed to 2 bits", change=_two_bits)
MEDIAN = Defence("median of 2 x 2", change=_median)
INPUT_NOISE = Defence("noise on the input", change=blurred)


class RefusedError(Exception):
    """The budget is used up."""


class Victim:
    """A model that is served with guards, and its attacker's only way to it.

    Args:
        model: Has ``predict_proba``, with a column for each class from 0 on.
        defence: What guards it.
        columns: Of its input.
        low: The smallest value that the service takes.
        high: The largest.
        budget: How many rows it answers.
        seed: Of what is drawn at random in the service.

    Attributes:
        asked: How many rows were asked so far.
    """

    def __init__(
        self,
        model: Any,
        defence: Defence,
        *,
        columns: int,
        low: float = 0.0,
        high: float = 1.0,
        budget: int = _PLENTY,
        seed: int = 0,
    ) -> None:
        self.asked = 0
        self._classes = len(model.classes_)
        self._app, self._key = guarded(model, defence, columns=columns, low=low, high=high, budget=budget, seed=seed)
        self._runner = asyncio.Runner()

    def __enter__(self) -> "Victim":
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.close()

    def ask(self, x: Rows) -> Rows:
        """What the answers say of each class: the scores, as far as they are told.

        A label alone says 1 for its class. Of classes that are left out, each is given the same share of what is
        missing; where the service abstains, of everything.

        Raises:
            RefusedError: The budget does not hold so many rows any more.
        """
        return np.concatenate([self._ask(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)])

    def label(self, x: Rows) -> Labels:
        """The best class of each row."""
        best: Labels = self.ask(x).argmax(axis=1)
        return best

    def _ask(self, x: Rows) -> Rows:
        body = orjson.dumps({"features": np.ascontiguousarray(x)}, option=orjson.OPT_SERIALIZE_NUMPY)
        status, content = self._runner.run(Post(self._app, "/predict", body, {"x-api-key": self._key})())
        if status == 429:
            raise RefusedError
        assert status == 200, content
        self.asked += len(x)
        return read_answer(orjson.loads(content)["probabilities"], self._classes)


def read_answer(answer: list[Any], classes: int) -> Rows:
    """What an attacker makes of the JSON of one answer, as in ``Victim.ask``."""
    first = next((row for row in answer if isinstance(row, list)), None)
    if isinstance(first, list) and isinstance(first[0], float):
        return np.array(answer)
    scores = np.full((len(answer), classes), np.nan)
    for row, told in enumerate(answer):
        if isinstance(told, int):
            scores[row] = 0.0
            scores[row, told] = 1.0
        elif isinstance(told, list):  # else the service abstains
            for one in told:
                scores[row, one["label"]] = one["score"]
    untold = np.isnan(scores)
    share = (1.0 - np.nansum(scores, axis=1)) / np.maximum(untold.sum(axis=1), 1)
    return np.where(untold, share[:, np.newaxis], scores)


def _as_it_is(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    return endpoint


def guarded(
    model: Any, defence: Defence, *, columns: int, low: float, high: float, budget: int, seed: int
) -> tuple[FastAPI, str]:
    """The app, and a key to it."""
    app = FastAPI()
    harden(app, max_body_size=_BODY)
    key, secret = APIKey.generate("mallory")
    caller = APIKeyAuth(APIKeys([key]))
    rows = Features(columns=columns, low=low, high=high, max_rows=_BATCH)
    spent = QueryBudget(f"{budget}/year", by=caller, cost=rows, store=MemoryStore())
    fresh = np.random.default_rng(seed)
    policy: Policy = truncate_output(**defence.output) if defence.output is not None else _as_it_is

    noise = defence.noise.guard() if defence.noise is not None and defence.noise.keyed else _as_it_is

    @app.post("/predict", dependencies=[Depends(spent)])
    @policy
    @noise
    async def predict(x: Annotated[Rows, Depends(rows)]) -> Any:
        probabilities = model.predict_proba(x if defence.change is None else defence.change(x, fresh))
        if defence.noise is not None and not defence.noise.keyed:
            probabilities = defence.noise.add(probabilities, fresh)
        return {"probabilities": probabilities if defence.output is not None else probabilities.tolist()}

    return app, secret
