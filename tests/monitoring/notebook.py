"""An exporter for tests."""

import asyncio
import threading
from collections.abc import Callable, Sequence

from mlguard import Measurement
from mlguard.monitoring._own_metrics import DECISIONS, Metric

Values = tuple[str, ...]


class Notebook:
    """An exporter that writes down what it is told."""

    def __init__(self) -> None:
        self.counts: dict[Values, int] = {}
        self.numbers: dict[tuple[str, Values], list[float]] = {}
        self.shown: list[Measurement] = []
        self._lock = threading.Lock()
        self._renewed = asyncio.Event()

    def counter(self, metric: Metric, values: Values) -> Callable[[], None]:
        assert metric is DECISIONS
        assert len(values) == len(metric.labels) == len(metric.attributes)
        self.counts.setdefault(values, 0)

        def add() -> None:
            with self._lock:
                self.counts[values] += 1

        return add

    def histogram(self, metric: Metric, values: Values) -> Callable[[float], None]:
        assert len(values) == len(metric.labels) == len(metric.attributes)
        return self.numbers.setdefault((metric.name, values), []).append

    def show(self, measurements: Sequence[Measurement]) -> None:
        self.shown = list(measurements)
        self._renewed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as what is shown meets a condition."""
        async with asyncio.timeout(30):
            while not condition():
                self._renewed.clear()
                await self._renewed.wait()
