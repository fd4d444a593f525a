"""What squeezing costs: 64 images of 28 x 28, as rows that ``Features`` has read, beside SciPy's median."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from bench.report import Grid
from bench.timing import take_turns
from mlguard import BitDepth, MedianSmoothing

_SHAPE = (28, 28)
_MOST = 1e-3  # seconds


async def measure(*, short: bool) -> Grid:
    """Both of them, in double and in single precision."""
    rows = []
    for dtype in (np.float64, np.float32):
        values = np.random.default_rng(5).random((64, 784)).astype(dtype)
        work: dict[str, tuple[Callable[[Any], Any], int | None]] = {
            "4 bits": (BitDepth(4, low=0, high=1), None),
            "median 2 x 2": (MedianSmoothing(2, shape=_SHAPE), 2),
            "median 3 x 3": (MedianSmoothing(3, shape=_SHAPE), 3),
        }
        rows += [await _timed(name, squeeze, size, values, short=short) for name, (squeeze, size) in work.items()]
    return Grid("Squeezing 64 x 784, the median of each", ["work", "dtype", "SciPy", "mlguard", "target", "met"], rows)


async def _timed(
    work: str, squeeze: Callable[[Any], Any], size: int | None, values: NDArray[Any], *, short: bool
) -> list[str]:
    contenders = {"mlguard": _call(squeeze, values)}
    if size is not None:
        contenders["SciPy"] = _call(lambda rows: _scipys(rows, size), values)
        assert np.array_equal(squeeze(values), _scipys(values, size)), "another median"
    timing = await take_turns(contenders, rounds=2 if short else 31, calls=1 if short else 20)
    seconds = timing.of("mlguard")
    scipys = f"{timing.of('SciPy') * 1e6:,.0f} us" if size is not None else ""
    met = "yes" if seconds <= _MOST else "NO"
    return [work, str(values.dtype), scipys, f"{seconds * 1e6:,.0f} us", "<= 1 000 us", met]


def _call(squeeze: Callable[[Any], Any], values: NDArray[Any]) -> Callable[[], Awaitable[object]]:
    async def call() -> object:
        return squeeze(values)

    return call


def _scipys(rows: NDArray[Any], size: int) -> NDArray[Any]:
    images = rows.reshape(-1, *_SHAPE)
    smoothed: NDArray[Any] = ndimage.median_filter(images, size=(1, size, size)).reshape(rows.shape)
    return smoothed
