"""Prometheus metrics of several worker processes, by the files that its library keeps in a directory of theirs."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlguard.monitoring.measurements import Measurement

_OF_ONE = re.compile(r"gauge_liveall_([0-9]{1,10})\.db")


class WorkerMetrics:
    """What is watched in this process, where the others find it.

    A gauge is shown for each worker by itself, with its ``pid``; counters of all workers are added up.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415  # an extra

        self._registry = CollectorRegistry()  # read by nobody: what is read are the files
        self._metrics: dict[str, Any] = {}
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def show(self, measurements: Sequence[Measurement]) -> None:
        """Write them where the others find them."""
        for measurement in measurements:
            metric = self._metrics.get(measurement.name)
            if metric is None:
                metric = self._metrics[measurement.name] = self._declare(measurement)
            values = tuple(measurement.labels.values())
            one = metric.labels(*values) if values else metric
            if measurement.kind == "gauge":
                one.set(measurement.value)
                continue
            before = self._counted.get((measurement.name, values), 0.0)
            self._counted[measurement.name, values] = measurement.value
            # Less than before: it has begun anew.
            one.inc(measurement.value - before if measurement.value >= before else measurement.value)

    def _declare(self, measurement: Measurement) -> Any:
        from prometheus_client import Counter, Gauge  # noqa: PLC0415  # an extra

        names = [*measurement.labels]
        about = f"Of what is watched: {measurement.name}."
        if measurement.kind == "counter":
            return Counter(measurement.name, about, names, registry=self._registry)
        return Gauge(measurement.name, about, names, registry=self._registry, multiprocess_mode="liveall")


def registry_of_all(directory: str) -> Any:
    """The metrics of all workers, without the gauges of those that have ended."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415  # an extra
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415  # an extra

    for path in Path(directory).glob("gauge_liveall_*.db"):
        of_one = _OF_ONE.fullmatch(path.name)
        if of_one is not None and not _is_running(int(of_one[1])):
            with suppress(FileNotFoundError):  # another worker was faster
                path.unlink()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]  # it has no annotations
    return registry


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
