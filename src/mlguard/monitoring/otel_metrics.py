"""Metrics through OpenTelemetry's API, to wherever the app's SDK sends them."""

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mlguard.errors import ConfigurationError
from mlguard.monitoring._own_metrics import Metric
from mlguard.monitoring.measurements import Measurement

_serial = itertools.count(1)


class OpenTelemetryMetrics:
    """Sends metrics to OpenTelemetry: for ``install_metrics(app, to=...)``, which makes one by default.

    Only the API is used: without an SDK nothing is recorded, and the app goes on. What is counted is kept here and
    handed out when the SDK collects, because its counters cost several microseconds each time.

    Args:
        meter_provider: The provider, such as the SDK's ``MeterProvider``. None is the global one, which may be set
            later.

    Raises:
        ConfigurationError: The extra ``otel`` is not installed, or something else than a provider was given.
    """

    def __init__(self, *, meter_provider: Any = None) -> None:
        try:
            from opentelemetry import metrics  # noqa: PLC0415  # an extra
        except ImportError:
            raise ConfigurationError(
                "OpenTelemetryMetrics needs the package opentelemetry-api: pip install 'mlguard[otel]'"
            ) from None
        if meter_provider is not None and not isinstance(meter_provider, metrics.MeterProvider):
            raise ConfigurationError("OpenTelemetryMetrics(meter_provider=...) is a MeterProvider, or left out")
        # A second instrument of one name in one scope would be given the first one's numbers.
        number = next(_serial)
        attributes = {"mlguard.exporter": number} if number > 1 else None
        self._observation = metrics.Observation
        self._meter = metrics.get_meter("mlguard", meter_provider=meter_provider, attributes=attributes)
        self._lock = threading.Lock()
        self._tallies: dict[Metric, dict[tuple[str, ...], _Tally]] = {}
        self._histograms: dict[Metric, Any] = {}
        self._shown: dict[str, list[Measurement]] = {}
        self._known: set[str] = set()

    def counter(self, metric: Metric, values: tuple[str, ...]) -> Callable[[], None]:
        """What adds one to a series of a counter."""
        with self._lock:
            is_new = metric not in self._tallies
            tally = self._tallies.setdefault(metric, {}).setdefault(
                values, _Tally(dict(zip(metric.attributes, values, strict=True)))
            )
        if is_new:
            self._meter.create_observable_counter(
                metric.name, [partial(self._observe_tallies, metric)], metric.unit, metric.description
            )
        return tally.add

    def histogram(self, metric: Metric, values: tuple[str, ...]) -> Callable[[float], None]:
        """What records a number in a series of a histogram."""
        with self._lock:
            if metric not in self._histograms:
                self._histograms[metric] = self._meter.create_histogram(
                    metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.buckets
                )
            histogram = self._histograms[metric]
        attributes = dict(zip(metric.attributes, values, strict=True))
        return lambda number: histogram.record(number, attributes)

    def show(self, measurements: Sequence[Measurement]) -> None:
        """Show these numbers from now on, in the place of those that were shown before."""
        shown = defaultdict(list)
        for measurement in measurements:
            shown[measurement.name].append(measurement)
        self._shown = dict(shown)
        for name in shown.keys() - self._known:
            self._known.add(name)
            observe = [partial(self._observe_shown, name)]
            if shown[name][0].kind == "counter":
                self._meter.create_observable_counter(name, observe)
            else:
                self._meter.create_observable_gauge(name, observe)

    def _observe_tallies(self, metric: Metric, options: object) -> Iterator[Any]:  # noqa: ARG002  # OpenTelemetry's
        with self._lock:
            tallies = list(self._tallies[metric].values())
        for tally in tallies:
            yield self._observation(tally.count, tally.attributes)

    def _observe_shown(self, name: str, options: object) -> Iterator[Any]:  # noqa: ARG002  # as above
        for measurement in self._shown.get(name, ()):
            yield self._observation(measurement.value, dict(measurement.labels))


class _Tally:
    """How often something happened, exact in threads too."""

    __slots__ = ("_lock", "attributes", "count")

    def __init__(self, attributes: dict[str, str]) -> None:
        self.attributes = attributes
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1
