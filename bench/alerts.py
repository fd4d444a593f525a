"""What an event costs whoever records it, more where ``Alerts`` listen than where nobody does."""

import logging
from collections.abc import Awaitable, Callable
from itertools import count

from bench.report import Extra, Table
from bench.timing import take_turns
from mlguard.monitoring.alerts import Alerts
from mlguard.monitoring.events import logger as audit
from mlguard.monitoring.events import record_event

_EVENTS = {
    "the same again": ("query.suspected", 1),
    "another one each time": ("query.suspected", 10**9),
    "one that is not chosen": ("model.loaded", 1),
}


async def measure(*, short: bool) -> Table:
    """Three kinds of events, beside the same with a handler that does nothing."""
    alerts, silent = Alerts(lambda _: None), logging.NullHandler()
    propagates, audit.propagate = audit.propagate, False
    alerts.attach()
    lines = []
    for work, (event, callers) in _EVENTS.items():
        contenders = {"bare": _recording(silent, event, callers), "guarded": _recording(alerts, event, callers)}
        timing = await take_turns(contenders, rounds=2 if short else 61, calls=1 if short else 300)
        lines.append(Extra(work, timing, 20e-6))
    alerts.detach()
    alerts.flush()
    audit.propagate = propagates
    return Table("An event, with alerts that listen", lines)


def _recording(handler: logging.Handler, event: str, callers: int) -> Callable[[], Awaitable[object]]:
    numbers = count()

    async def record() -> None:
        audit.handlers = [handler]
        record_event(event, principal=f"caller-{next(numbers) % callers}", detector="margin")

    return record
