"""What ``FeedbackGuard`` costs: labels that are right, beside the same rows without labels and with no look at them.

64 columns, ten classes, the 5 000 rows of reference that are kept by default. The model is one matrix.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI
from numpy.typing import NDArray

from bench.asgi import Post
from bench.report import Grid
from bench.timing import take_turns
from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys
from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.memory_store import MemoryStore
from mlguard.monitoring.feedback import Feedback, FeedbackGuard
from mlguard.monitoring.feedback_quarantine import FeedbackQuarantine

_COLUMNS, _CLASSES, _REFERENCE = 64, 10, 5_000
_ROWS = {1: 200, 20: 50, 1_000: 3}  # rows a request, and how many requests make a turn

Array = NDArray[np.float64]


async def measure(*, short: bool) -> Grid:
    """Requests of one row and of many."""
    random = np.random.default_rng(5)
    centres = random.normal(0.0, 3.0, (_CLASSES, _COLUMNS))
    codes = random.integers(0, _CLASSES, _REFERENCE)
    x = centres[codes] + random.normal(size=(_REFERENCE, _COLUMNS))
    key, secret = APIKey.generate("bench")
    caller = APIKeyAuth(APIKeys([key]))
    rows = Features(columns=_COLUMNS, low=-100.0, high=100.0, max_rows=1_000)

    def predict(x: Array) -> Array:
        scores = np.exp(x @ centres.T - np.max(x @ centres.T, axis=1, keepdims=True))
        shares: Array = scores / scores.sum(axis=1, keepdims=True)
        return shares

    with tempfile.TemporaryDirectory() as folder:
        feedback = FeedbackGuard(
            rows,
            by=caller,
            labels=[*range(_CLASSES)],
            predict=predict,
            reference=(x, codes),
            cap="1000000000/day",
            max_share=1.0,
            quarantine=FeedbackQuarantine(Path(folder) / "feedback.db"),
            store=MemoryStore(),
        )
        app = FastAPI()
        harden(app, max_body_size=4 * 1_048_576)

        @app.post("/bare", dependencies=[Depends(caller)])
        async def take_rows(x: Annotated[Array, Depends(rows)]) -> int:
            return len(x)

        @app.post("/feedback")
        async def take(sent: Annotated[Feedback, Depends(feedback)]) -> int:
            return len(sent.x)

        cells = []
        for number, calls in _ROWS.items():
            content: dict[str, Any] = {"features": x[:number].tolist()}
            bodies = {"bare": content, "feedback": {**content, "labels": codes[:number].tolist()}}
            posts = {
                name: Post(app, f"/{name}", json.dumps(body).encode(), {"x-api-key": secret})
                for name, body in bodies.items()
            }
            for name, post in posts.items():
                if (answer := await post()) != (200, str(number).encode()):
                    raise AssertionError(f"a wrong answer: {name} {answer}")
            timing = await take_turns(posts, rounds=2 if short else 15, calls=1 if short else calls)
            took = [timing.of(name) for name in posts]
            cells.append([f"{number:,}", *(f"{seconds * 1e6:,.0f} us" for seconds in took)])
    return Grid("Rows with labels, 64 columns, 5 000 rows of reference", ["rows", "rows alone", "with labels"], cells)
