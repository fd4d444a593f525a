"""How an app's stores are, and what its guards have numbers of."""

from collections.abc import Iterator

from fastapi import FastAPI

from mlguard import _fastapi
from mlguard._guard import Guard
from mlguard.monitoring.measurements import Measured, Measurement
from mlguard.redis_store import RedisStore
from mlguard.store import Store
from mlguard.traffic._counting import CountingGuard


class AppHealth:
    """Measures the stores of an app's guards, and shows the guards that have measurements.

    Args:
        app: The app. Its routes are looked at once, when it is first asked for measurements.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._guards: tuple[Guard, ...] | None = None

    def measured_guards(self) -> list[Measured]:
        """The guards of the app's routes that have measurements."""
        return [guard for guard in self._known_guards() if isinstance(guard, Measured)]

    def measurements(self) -> Iterator[Measurement]:
        """Whether each store answers and how fast, and how often it was done without."""
        guards = self._known_guards()
        stores: dict[int, Store] = {id(store): store for guard in guards for store in guard.stores}
        for number, store in enumerate(stores.values(), 1):
            if isinstance(store, RedisStore):
                yield from _of_store(store, str(number))
        for guard in guards:
            if isinstance(guard, CountingGuard):
                labels = {"guard": type(guard).__name__, "limit": guard.name}
                yield Measurement(
                    "mlguard_limit_decided_without_store", guard.decided_without_store, labels, kind="counter"
                )

    def _known_guards(self) -> tuple[Guard, ...]:
        if self._guards is None:
            routes = _fastapi.routes_of(self._app)
            self._guards = tuple(dict.fromkeys(guard for route in routes for guard in route.guards))
        return self._guards


def _of_store(store: RedisStore, number: str) -> Iterator[Measurement]:
    """How each server of a store has served this process."""
    for health in store.health():
        labels = {"store": number, "server": health.server}
        yield Measurement("mlguard_store_up", float(health.available), labels)
        yield Measurement("mlguard_store_seconds", health.seconds, labels, kind="counter")
        for outcome, calls in (
            ("answered", health.answered),
            ("failed", health.failed),
            ("not_asked", health.not_asked),
        ):
            yield Measurement("mlguard_store_calls", calls, {**labels, "outcome": outcome}, kind="counter")
