"""What other formats cost: a file beside JSON in FastAPI alone, and documents of other servers beside our own.

All apps are those of ``predict``, and answer the same. A file is compared with the endpoint without guards that gets
the same numbers as JSON. The rest is compared with our own JSON, through the same guards of the same app.
"""

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import predict
from bench.asgi import Post
from bench.report import Line, Table
from bench.timing import Call, take_turns
from mlguard.auth.api_keys import APIKey

_JSON = "application/json"
_FORMATS = ("json", "open-inference", "mlflow", "npy", "csv")


async def measure(*, short: bool) -> Table:
    """All formats."""
    one, batch, images = _values(1, 30), _values(1_000, 100), _values(1_000, 784)
    lines = [
        await _beside_bare(".npy, 1 000 x 784, float64", images, short=short, target=0.02),
        await _beside_bare(".npy, 1 000 x 784, float32", images.astype(np.float32), short=short, target=0.02),
    ]
    for name, values, calls in (("30 numbers", one, 100), ("1 000 x 100", batch, 8)):
        for form, target in (("flat", 1.3), ("nested", 1.3)):
            body = json.dumps(_tensor(values, nested=form == "nested")).encode()
            work = f"Open Inference, {form}, {name}"
            lines.append(await _beside_own(work, values, body, _JSON, calls=calls, short=short, target=target))
    names = [f"column {number}" for number in range(batch.shape[1])]
    table = {"columns": names, "index": [*range(len(batch))], "data": batch.tolist()}
    records = [dict(zip(names, row, strict=True)) for row in batch.tolist()]
    others = {
        "MLflow, dataframe_split": (json.dumps({"dataframe_split": table}).encode(), _JSON, 1.3),
        "CSV": (_csv(names, batch), "text/csv", 2),
        "records": (json.dumps({"features": records}).encode(), _JSON, 8),
    }
    for name, (body, content_type, target) in others.items():
        work = f"{name}, 1 000 x 100"
        lines.append(await _beside_own(work, batch, body, content_type, names, calls=8, short=short, target=target))
    note = 'In the lines of .npy, "bare" is FastAPI alone with the numbers as JSON; below, mlguard with our own JSON.'
    return Table("The body in other formats, in process", lines, [note])


def _values(rows: int, columns: int) -> NDArray[np.float64]:
    return np.random.default_rng(7).uniform(predict.LOW, predict.HIGH, (rows, columns))


def _tensor(values: NDArray[Any], *, nested: bool) -> dict[str, Any]:
    data = values if nested else values.ravel()
    tensor = {"name": "input", "shape": [*values.shape], "datatype": "FP64", "data": data.tolist()}
    return {"id": "1", "inputs": [tensor], "outputs": [{"name": "output"}]}


def _csv(names: list[str], values: NDArray[Any]) -> bytes:
    lines = [",".join(names), *(",".join(map(repr, row)) for row in values.tolist())]
    return "\r\n".join(lines).encode()


async def _beside_bare(work: str, values: NDArray[Any], *, short: bool, target: float) -> Line:
    file = io.BytesIO()
    np.save(file, values)
    key, secret = APIKey.generate("bench", scopes={"predict"})
    guarded = predict.guarded(values.shape[1], len(values), key, formats=_FORMATS)
    headers = {"x-api-key": secret}
    posts = {
        "bare": Post(predict.bare(predict.Batch), "/predict", json.dumps({"features": values.tolist()}).encode(), {}),
        "guarded": Post(guarded, "/predict", file.getvalue(), {**headers, "content-type": "application/x-npy"}),
    }
    return await _compared(work, values, posts, calls=8, short=short, target=target)


async def _beside_own(
    work: str,
    values: NDArray[Any],
    body: bytes,
    content_type: str,
    names: list[str] | None = None,
    *,
    calls: int,
    short: bool,
    target: float,
) -> Line:
    key, secret = APIKey.generate("bench", scopes={"predict"})
    app = predict.guarded(names or values.shape[1], len(values), key, formats=_FORMATS)
    headers = {"x-api-key": secret}
    own = json.dumps({"features": values.tolist()}).encode()
    posts = {
        "bare": Post(app, "/predict", own, headers),
        "guarded": Post(app, "/predict", body, {**headers, "content-type": content_type}),
    }
    return await _compared(work, values, posts, calls=calls, short=short, target=target)


async def _compared(
    work: str, values: NDArray[Any], posts: dict[str, Post], *, calls: int, short: bool, target: float
) -> Line:
    for name, post in posts.items():
        status, answer = await post()
        if status != 200 or not np.array_equal(np.asarray(predict.received[0]), values):
            raise AssertionError(f"{name} gave a wrong answer: {status} {answer[:200]!r}")
    contenders = {name: _paying(post) for name, post in posts.items()}
    timing = await take_turns(contenders, rounds=2 if short else 15, calls=1 if short else calls)
    return Line(work, timing, target)


def _paying(post: Post) -> Call:
    """A post that lets go of what the endpoint got, or the next contender would pay for freeing it."""

    async def call() -> None:
        await post()
        predict.received[0] = None

    return call
