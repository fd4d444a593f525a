"""What ``QueryMonitor`` costs: a query in this process, alone and in a whole request, and what is kept of a caller.

Each query is a new one, as from a caller who never repeats himself: repeats are cheaper.
"""

import itertools
from collections.abc import Awaitable, Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI
from numpy.typing import NDArray

from bench.asgi import Post
from bench.attacks.watching import bytes_of_caller
from bench.report import Extra, Line, Table
from bench.timing import Call, Timing, take_turns
from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.memory_store import MemoryStore
from mlguard.monitoring._query_watch import QueryWatch
from mlguard.monitoring.query_monitor import QueryMonitor
from mlguard.monitoring.query_reference import QueryReference
from mlguard.outputs.truncation import truncate_output
from mlguard.store import store_key

_KEY = b"of the benches, the same in every run"
_CALLER = store_key("bench")
_CLASSES = 10
_MOST = 70_000  # bytes

Array = NDArray[np.float64]


async def measure(*, short: bool) -> Table:
    """One query on 30 and on 784 columns, alone and in a whole request."""
    lines: list[Line] = []
    for columns, target in ((30, 60e-6), (784, 200e-6)):
        fresh = np.random.default_rng(5)
        usual = fresh.normal(size=(400 if short else 1_000, columns))
        scores = fresh.dirichlet(np.ones(_CLASSES), len(usual))
        reference = QueryMonitor.calibrate(usual, scores=scores)
        alone = await _alone(reference, usual, scores, short=short)
        whole = await _request(reference, usual, scores, short=short)
        lines += [
            Extra(f"a query, {columns} numbers", alone, target),
            Extra(f"a whole request, {columns} numbers", whole, target),
        ]
    kept = await bytes_of_caller(QueryMonitor.calibrate(np.random.default_rng(5).normal(size=(200, 30))))
    size = f"\n{kept:,} bytes are kept of a caller (<= {_MOST:,})."
    return Table("Queries watched, every one new", lines, [size])


async def _alone(reference: QueryReference, usual: Array, scores: Array, *, short: bool) -> Timing:
    """The watch itself, and a look at the answer's scores: beside a call of nothing."""
    watch = QueryWatch(reference, _KEY, MemoryStore(), bucket="", hold=60, ttl=60, across=True)
    numbers = itertools.count()

    def query() -> tuple[Array, Array]:
        number = next(numbers)
        row = usual[number % len(usual)] + number * 1e-3  # no repeat, and no near-duplicate
        return row[np.newaxis], scores[number % len(usual)][np.newaxis]

    async def bare() -> None:
        query()

    async def guarded() -> None:
        row, told = query()
        asked = watch.asked(_CALLER, row)
        await watch.note(asked)
        asked.see(told)

    return await _turns(bare, guarded, short=short)


async def _request(reference: QueryReference, usual: Array, scores: Array, *, short: bool) -> Timing:
    """A whole request with and without the monitor."""
    rows = Features(columns=usual.shape[1], low=-1e6, high=1e6, max_rows=1)
    monitor = QueryMonitor(rows, reference=reference, store=MemoryStore())
    app = FastAPI()
    harden(app)

    async def predict(x: Annotated[Array, Depends(rows)]) -> Any:
        return {"probabilities": scores[: len(x)]}

    app.post("/bare", response_model=None)(truncate_output(decimals=2)(predict))
    app.post("/guarded", response_model=None, dependencies=[Depends(monitor)])(truncate_output(decimals=2)(predict))
    posts = {path: _posts(app, f"/{path}", usual) for path in ("bare", "guarded")}
    if (await next(posts["guarded"])())[0] != 200:
        raise AssertionError("a wrong answer")

    def ask(path: str) -> Awaitable[object]:
        return next(posts[path])()

    assert monitor._queue is not None
    return await _turns(partial(ask, "bare"), partial(ask, "guarded"), short=short, later=monitor._queue.note_all)


def _posts(app: FastAPI, path: str, usual: Array) -> Iterator[Post]:
    for number in itertools.count():
        row = usual[number % len(usual)] + number * 1e-3
        yield Post(app, path, f'{{"features":{row.tolist()}}}'.encode(), {})


async def _turns(bare: Call, guarded: Call, *, short: bool, later: Call | None = None) -> Timing:
    return await take_turns(
        {"bare": bare, "guarded": guarded},
        rounds=2 if short else 61,
        calls=1 if short else 100,
        settle={} if later is None else {"guarded": later},
    )
