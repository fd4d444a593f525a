"""What mlguard measures of every request, and what an exporter of it must be able to do."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from mlguard.monitoring.measurements import Measurement


class Metric(NamedTuple):
    """One metric of requests.

    Attributes:
        name: In OpenTelemetry.
        prometheus_name: In Prometheus, without the suffix that its library adds to counters.
        unit: In OpenTelemetry.
        description: One line.
        attributes: What its series are told apart by, in OpenTelemetry.
        labels: The same in Prometheus.
        buckets: The upper edges of a histogram. None: it is a counter.
    """

    name: str
    prometheus_name: str
    unit: str
    description: str
    attributes: tuple[str, ...]
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


DECISIONS = Metric(
    "mlguard.guard.decisions",
    "mlguard_guard_decisions",
    "{decision}",
    "What guards have decided.",
    ("mlguard.guard", "mlguard.outcome", "mlguard.rule", "http.route"),
    ("guard", "outcome", "rule", "route"),
)
DURATION = Metric(
    "mlguard.guard.duration",
    "mlguard_guard_duration_seconds",
    "s",
    "What guards have taken to decide, of a sample of the requests.",
    ("mlguard.guard",),
    ("guard",),
    (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 2.5),
)
LEFT = Metric(
    "mlguard.limit.left",
    "mlguard_limit_left_ratio",
    "1",
    "The part of a limit or budget that a caller has left after a request, of a sample of the requests.",
    ("mlguard.guard", "mlguard.limit"),
    ("guard", "limit"),
    (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 0.9, 1.0),
)

OWN = (DECISIONS, DURATION, LEFT)


class Exporter(Protocol):
    """Where metrics go: :class:`~mlguard.OpenTelemetryMetrics` or :class:`~mlguard.PrometheusMetrics`."""

    def counter(self, metric: Metric, values: tuple[str, ...]) -> Callable[[], None]:
        """What adds one to a series of a counter.

        Args:
            metric: Which.
            values: Of its labels, in their order.
        """

    def histogram(self, metric: Metric, values: tuple[str, ...]) -> Callable[[float], None]:
        """What records a number in a series of a histogram."""

    def show(self, measurements: Sequence[Measurement]) -> None:
        """Show these numbers from now on, in the place of those that were shown before."""
