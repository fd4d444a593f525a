"""What guards have done in one request, put into numbers. Nothing in them says who was calling."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.types import Scope

from mlguard._fastapi import matched_route
from mlguard._guard import Guard, RequestMemory, _Refusal
from mlguard.errors import InsufficientScopeError, MLGuardError
from mlguard.monitoring._own_metrics import DECISIONS, DURATION, LEFT, Exporter, Metric
from mlguard.monitoring._refusals import last_proof, rule_of
from mlguard.monitoring._series import Series
from mlguard.traffic.budget import QueryBudget
from mlguard.traffic.rate import RateLimit

NO_GUARD = "none"  # harden itself, or FastAPI
_ADMITTED, _REFUSED = "admitted", "refused"
_QUOTA = re.compile(r";q=([0-9]+)")
_REMAINING = re.compile(r";r=([0-9]+)")


def decisions_of(memory: RequestMemory) -> list[tuple[str, str]]:
    """Which guards have decided, by class, and by which rule each has refused; "" where it has admitted."""
    rules: dict[Guard, str] = {}
    for guard, decision in memory.decisions.items():
        rule = rule_of(decision.error) if type(decision) is _Refusal else ""
        rules[guard.whole] = rules.get(guard.whole) or rule
    answer = memory.refused_with
    if answer is None or any(rules.values()):
        return _named(rules)
    proof = last_proof(memory) if isinstance(answer, InsufficientScopeError) else None
    if proof is not None:
        rules[proof] = answer.rule if isinstance(answer, MLGuardError) else ""
        return _named(rules)
    found = _named(rules)
    if isinstance(answer, MLGuardError | RequestValidationError):
        found.append((NO_GUARD, rule_of(answer)))
    return found


def _named(rules: Mapping[Guard, str]) -> list[tuple[str, str]]:
    return [(type(guard).__name__, rule) for guard, rule in rules.items()]


def first_refusal(memory: RequestMemory) -> tuple[str, str] | None:
    """The guard that has refused and its rule, if one has."""
    return next((decision for decision in decisions_of(memory) if decision[1]), None)


def shares_left(memory: RequestMemory) -> Iterator[tuple[Guard, float]]:
    """The part that is left of each limit that was counted, from 0 to 1: of several windows, the smallest.

    Read from the fields that the answer carries, so that guards do nothing for it.
    """
    limits = [guard for guard in memory.decisions if isinstance(guard, RateLimit | QueryBudget)]
    policies = [value.decode("latin-1") for name, value in memory.headers if name == b"ratelimit-policy"]
    fields = [value.decode("latin-1") for name, value in memory.headers if name == b"ratelimit"]
    for guard in limits:
        decision = memory.decisions[guard]
        if type(decision) is _Refusal:
            headers = getattr(decision.error, "headers", None) or {}
            share = _share(headers.get("RateLimit-Policy", ""), headers.get("RateLimit", ""))
        elif policies and fields:  # in the order in which they were decided
            share = _share(policies.pop(0), fields.pop(0))
        else:
            return
        if share is not None:
            yield guard, share


def _share(policy: str, field: str) -> float | None:
    quotas, remaining = _QUOTA.findall(policy), _REMAINING.findall(field)
    if not quotas or len(quotas) != len(remaining):
        return None
    return min([int(left) / max(1, int(quota)) for left, quota in zip(remaining, quotas, strict=True)])


class Judged:
    """Counts what guards decide, and takes the time of some of them.

    Args:
        exporters: Where to.
        timed_per_second: Requests of a second of which the time and what is left of limits are recorded.
        clock: Seconds, never going backwards.
    """

    def __init__(
        self, exporters: Sequence[Exporter], timed_per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._exporters = exporters
        self._clock = clock
        self._gap = 1 / timed_per_second
        self._next = 0.0
        self._decisions = Series[Callable[[], None]](partial(self._open_counter, DECISIONS), len(DECISIONS.labels))
        self._durations = Series[Callable[[float], None]](partial(self._open_histogram, DURATION), len(DURATION.labels))
        self._left = Series[Callable[[float], None]](partial(self._open_histogram, LEFT), len(LEFT.labels))

    def record(self, scope: Scope, memory: RequestMemory) -> None:
        """Record one request, once its guards have decided."""
        if not memory.decisions and memory.refused_with is None:
            return
        route = _template(memory.routed_scope or scope)
        for guard, rule in decisions_of(memory):
            self._decisions.of((guard, _REFUSED if rule else _ADMITTED, rule, route))()
        if memory.timings is not None and self._is_timed():
            for timed, nanoseconds in list(memory.timings.items()):
                self._durations.of((type(timed).__name__,))(nanoseconds / 1e9)
            for limit, share in shares_left(memory):
                self._left.of((type(limit).__name__, getattr(limit, "name", "")))(share)

    def wants_times(self) -> bool:
        """Whether a request that begins now should be timed. Taking the time costs something too."""
        return self._clock() >= self._next

    def _is_timed(self) -> bool:
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._gap
        return True

    def _open_counter(self, metric: Metric, values: tuple[str, ...]) -> Callable[[], None]:
        return _all([exporter.counter(metric, values) for exporter in self._exporters])

    def _open_histogram(self, metric: Metric, values: tuple[str, ...]) -> Callable[[float], None]:
        return _all([exporter.histogram(metric, values) for exporter in self._exporters])


def _all(adds: list[Callable[..., None]]) -> Callable[..., None]:
    """One function that calls all of them."""
    if len(adds) == 1:
        return adds[0]

    def add(*numbers: Any) -> None:
        for one in adds:
            one(*numbers)

    return add


def _template(scope: Scope) -> str:
    """The path of the route as it was declared, not as it was asked for; "" where none has matched."""
    route = matched_route(scope)
    return str(getattr(route, "path_format", None) or getattr(route, "path", None) or "")
