"""What it costs to watch a caller: time a query, and bytes."""

import asyncio
import gc
import tracemalloc
from itertools import pairwise
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from mlguard import MemoryStore, QueryReference
from mlguard.monitoring._query_watch import QueryWatch
from mlguard.store import store_key

_KEY = b"of the benches, the same in every run"
_CALLERS = 100
_ROUNDS = 20


def cost(reference: QueryReference, rows: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, float]:
    """Of different rows, which are queries of one caller, one by one, as far as nothing is done about them."""
    with asyncio.Runner() as runner:
        seconds = runner.run(_seconds(reference, rows, scores))
        size = runner.run(bytes_of_caller(reference))
    return {"columns": float(rows.shape[1]), "microseconds": seconds * 1e6, "bytes": float(size)}


async def _seconds(reference: QueryReference, rows: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    watch = _watch(reference)
    ends = np.linspace(0, len(rows), _ROUNDS + 1).astype(int)
    took: list[float] = []
    for begin, end in pairwise(ends.tolist()):
        start = perf_counter()
        for row in range(begin, end):
            asked = watch.asked(b"caller", rows[row : row + 1])
            await watch.note(asked)
            asked.see(scores[row : row + 1])
        took.append((perf_counter() - start) / (end - begin))
    return median(took)


async def bytes_of_caller(reference: QueryReference) -> int:
    """What is kept of one, in the store and beside it."""
    watch = _watch(reference, across=False)
    row = np.zeros((1, reference.columns))
    await watch.note(watch.asked(store_key("bench"), row))
    gc.collect()
    tracemalloc.start()
    for number in range(_CALLERS):
        await watch.note(watch.asked(store_key(str(number)), row))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size // _CALLERS


def _watch(reference: QueryReference, *, across: bool = True) -> QueryWatch:
    return QueryWatch(reference, _KEY, MemoryStore(), bucket="", hold=60, ttl=60, across=across)
