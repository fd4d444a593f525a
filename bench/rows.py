"""What reading a batch costs by what is in it: 1 000 rows of 100 numbers, beside json.loads of the same body.

Where a row cannot take the fast path, because there are texts in it, Python reads it and looks at every value.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.inputs import rows_of
from bench.report import Grid, spell_seconds
from bench.timing import take_turns
from mlguard import Features

_SHAPE = (1_000, 100)
_TEXTS = ("setosa", "versicolor", "virginica", "pumila", "sibirica")


async def measure(*, short: bool) -> Grid:
    """Each kind, in turns with ``json.loads``."""
    rows = []
    for name, (settings, batch) in _kinds().items():
        guard = Features(**{"columns": _SHAPE[1], "low": 0, "high": 10, "max_rows": _SHAPE[0], **settings})
        body = json.dumps({"features": batch}).encode()
        assert rows_of(guard, body).shape == _SHAPE
        contenders = {"guard": _call(partial(rows_of, guard), body), "json": _call(json.loads, body)}
        timing = await take_turns(contenders, rounds=2 if short else 21, calls=1 if short else 4)
        guarded, bare = spell_seconds(timing.of("guard")), spell_seconds(timing.of("json"))
        rows.append([name, bare, guarded, f"{timing.ratio('guard', 'json'):.2f}x"])
    return Grid("1 000 x 100 numbers into an array", ["numbers", "json.loads", "Features", "ratio"], rows)


def _call(work: Callable[[bytes], Any], body: bytes) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        return work(body)

    return call


def _kinds() -> dict[str, tuple[dict[str, Any], list[list[Any]]]]:
    random = np.random.default_rng(7)
    numbers = random.uniform(0, 10, _SHAPE).tolist()
    octets = random.integers(0, 255, _SHAPE)
    gappy: Any = np.array(numbers, dtype=object)
    gappy[random.random(_SHAPE) < 0.05] = None
    return {
        "float64": ({}, numbers),
        "float32": ({"dtype": np.float32}, numbers),
        "int64": ({"dtype": np.int64, "high": 2**62}, random.integers(0, 2**62, _SHAPE).tolist()),
        "uint8": ({"dtype": np.uint8, "high": 255}, octets.tolist()),
        "uint8, sent as 3.0": ({"dtype": np.uint8, "high": 255}, octets.astype(float).tolist()),
        "float64, 5 % missing": ({"missing": True}, gappy.tolist()),
        "float64, 10 % clipped": ({"high": 9, "out_of_range": "clip"}, numbers),
        "float64, one column of five numbers": ({"categories": {0: range(5)}}, _beside(range(5), numbers)),
        "float64, one column of five texts": ({"categories": {0: _TEXTS}}, _beside(_TEXTS, numbers)),
    }


def _beside(values: Sequence[Any], numbers: list[list[float]]) -> list[list[Any]]:
    """The rows, with one of the values in the first column of each."""
    return [[values[index % len(values)], *row[1:]] for index, row in enumerate(numbers)]
