"""Metrics for Prometheus, by its own library, also of several worker processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, params
from starlette.responses import Response

from mlguard._fastapi import routes_of
from mlguard._guard import Control, Guard
from mlguard.errors import ConfigurationError
from mlguard.monitoring._own_metrics import OWN, Metric
from mlguard.monitoring._prometheus_workers import WorkerMetrics, registry_of_all
from mlguard.monitoring.measurements import Measurement
from mlguard.traffic.address_lists import AllowAddresses

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OF_WORKERS = "PROMETHEUS_MULTIPROC_DIR"


class PrometheusMetrics:
    """Keeps metrics for Prometheus: for ``install_metrics(app, to=...)``.

    ::

        prometheus = PrometheusMetrics()
        install_metrics(app, to=prometheus)
        app.include_router(prometheus.router(dependencies=[Security(operator, scopes=["metrics"])]))

    With several worker processes, set ``PROMETHEUS_MULTIPROC_DIR`` before they start, to a directory that is empty then
    and that nobody else may write to: each scrape is answered by one worker, for all of them. One object serves a
    process.

    Args:
        registry: A ``prometheus_client.CollectorRegistry``, such as the ``REGISTRY`` that an app shows already. None is
            one of its own. With several worker processes, all registries are shown together, as the library does.

    Raises:
        ConfigurationError: The extra ``prometheus`` is not installed, the registry is none or has mlguard's metrics
            already, or ``PROMETHEUS_MULTIPROC_DIR`` is no directory, or was set too late.
    """

    def __init__(self, *, registry: Any = None) -> None:
        try:
            import prometheus_client  # noqa: PLC0415  # an extra
        except ImportError:
            raise ConfigurationError(
                "PrometheusMetrics needs the package prometheus-client: pip install 'mlguard[prometheus]'"
            ) from None
        if registry is not None and not isinstance(registry, prometheus_client.CollectorRegistry):
            raise ConfigurationError("PrometheusMetrics(registry=...) is a CollectorRegistry, or left out")
        self._registry = prometheus_client.CollectorRegistry() if registry is None else registry
        self._directory = _directory_of_workers()
        try:
            self._metrics: dict[Metric, Any] = {metric: _declare(metric, self._registry) for metric in OWN}
            self._shown: _Shown | WorkerMetrics = WorkerMetrics() if self._directory else _Shown()
        except ValueError:
            raise ConfigurationError(
                "PrometheusMetrics(registry=...): the registry has mlguard's metrics already; use one PrometheusMetrics"
            ) from None
        if isinstance(self._shown, _Shown):
            self._registry.register(self._shown)

    def counter(self, metric: Metric, values: tuple[str, ...]) -> Callable[[], None]:
        """What adds one to a series of a counter."""
        add: Callable[[], None] = self._metrics[metric].labels(*values).inc
        return add

    def histogram(self, metric: Metric, values: tuple[str, ...]) -> Callable[[float], None]:
        """What records a number in a series of a histogram."""
        record: Callable[[float], None] = self._metrics[metric].labels(*values).observe
        return record

    def show(self, measurements: Sequence[Measurement]) -> None:
        """Show these numbers from now on, in the place of those that were shown before."""
        self._shown.show(measurements)

    def router(self, *, dependencies: Sequence[params.Depends], path: str = "/metrics") -> APIRouter:
        """A router with the page that Prometheus reads.

        Metrics tell strangers which guards there are, and how near they are to their limits. So it must be said who may
        read them.

        Args:
            dependencies: Guards: ``[Security(operator, scopes=["metrics"])]``, or ``[Depends(AllowAddresses([...]))]``
                with the network in which Prometheus is.
            path: Where.

        Raises:
            ConfigurationError: There is no dependency, or something else in its place, or only guards of which none
                tells who is asking, such as a limit; or no path.
        """
        dependencies = list(dependencies)
        if not dependencies or not all(
            isinstance(dependency, params.Depends) and callable(dependency.dependency) for dependency in dependencies
        ):
            raise ConfigurationError(
                "PrometheusMetrics.router(dependencies=[...]) says who may read metrics: "
                'give it a guard, such as Security(operator, scopes=["metrics"])'
            )
        if not isinstance(path, str) or not path.startswith("/") or set(path) & set("{}"):
            raise ConfigurationError('PrometheusMetrics.router(path=...) is a path such as "/metrics"')
        router = APIRouter()

        @router.get(path, dependencies=dependencies, include_in_schema=False, response_model=None)
        def metrics() -> Response:  # not async, so that it runs in a thread
            return Response(self.page(), media_type=_CONTENT_TYPE, headers={"Cache-Control": "no-store"})

        # What a function of the app's own does cannot be seen. A limit alone lets strangers in, only not often.
        if all(isinstance(dependency.dependency, Guard) for dependency in dependencies) and not any(
            guard.control is Control.AUTHENTICATION or isinstance(guard, AllowAddresses)
            for route in routes_of(router)
            for guard in route.guards
        ):
            raise ConfigurationError(
                "PrometheusMetrics.router(dependencies=[...]): none of these guards tells who is asking; add one that "
                "does, such as APIKeyAuth or AllowAddresses"
            )
        return router

    def page(self) -> bytes:
        """All metrics, of all worker processes, in Prometheus' text format."""
        from prometheus_client import generate_latest  # noqa: PLC0415  # an extra

        return generate_latest(registry_of_all(self._directory) if self._directory else self._registry)


def _directory_of_workers() -> str | None:
    """Where the workers of a service put their metrics, if there are several.

    Raises:
        ConfigurationError: It is no directory, or was named after prometheus_client had been imported.
    """
    from prometheus_client import values  # noqa: PLC0415  # an extra

    directory = os.environ.get(_OF_WORKERS)
    if directory is None:
        return None
    if not os.path.isdir(directory):  # noqa: PTH112  # "" is a path of pathlib's
        raise ConfigurationError(f"{_OF_WORKERS} is no directory: make it, empty, before the service starts")
    if not getattr(values.ValueClass, "_multiprocess", False):
        raise ConfigurationError(f"{_OF_WORKERS} was set after prometheus_client was imported: set it before the start")
    return directory


def _declare(metric: Metric, registry: Any) -> Any:
    from prometheus_client import Counter, Histogram  # noqa: PLC0415  # an extra

    about = (metric.prometheus_name, metric.description, metric.labels)
    if metric.buckets:
        return Histogram(*about, registry=registry, buckets=metric.buckets)
    return Counter(*about, registry=registry)


class _Shown:
    """What is watched, as it was when it was last looked at."""

    def __init__(self) -> None:
        self._measurements: Sequence[Measurement] = ()

    def show(self, measurements: Sequence[Measurement]) -> None:
        self._measurements = measurements

    def describe(self) -> list[Any]:
        return []  # nothing yet

    def collect(self) -> Iterator[Any]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415  # an extra

        families: dict[str, Any] = {}
        for measurement in self._measurements:
            family = families.get(measurement.name)
            if family is None:
                kind = CounterMetricFamily if measurement.kind == "counter" else GaugeMetricFamily
                family = families[measurement.name] = kind(measurement.name, "", labels=[*measurement.labels])
            family.add_metric([*measurement.labels.values()], measurement.value)
        yield from families.values()
