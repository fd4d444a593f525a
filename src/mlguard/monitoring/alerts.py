"""Events that somebody should look at, told to a function or a webhook, and never on the path of a request."""

import atexit
import contextlib
import inspect
import logging
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from mlguard._lookout import restart_after_fork
from mlguard._numbers import seconds, whole
from mlguard.errors import ConfigurationError
from mlguard.monitoring._alert_windows import Alert, AlertWindows, Fact, Level, plain_facts, with_facts
from mlguard.monitoring.events import logger as audit
from mlguard.monitoring.measurements import Measurement
from mlguard.privacy.redactor import Redactor
from mlguard.problems import logger

#: What is told by default, and how urgently.
ALERTING: Mapping[str, Level] = {
    "audit.dropped": "critical",
    "audit.failed": "critical",
    "audit.recovered": "info",
    "drift.found": "warning",
    "feedback.quarantined": "warning",
    "lockdown.lifted": "warning",
    "lockdown.restored": "critical",
    "lockdown.set": "critical",
    "lockdown.unreadable": "critical",
    "model.kept": "warning",
    "model.refused": "critical",
    "query.suspected": "warning",
    "secret.stale": "warning",
    "secret.unavailable": "critical",
    "store.back": "info",
    "store.down": "critical",
}

#: Facts that name who is calling or acting. They are left out with ``principals=False``.
_PRINCIPALS = frozenset({"principal", "caller", "by", "subject", "issuer", "user", "key", "key_id"})
#: Facts that are personal data, and nothing that an alert needs.
_NEVER = frozenset({"address"})
_LEVELS = ("info", "warning", "critical")
_LONGEST_WAIT = 60.0  # seconds between two attempts


class Undelivered(Exception):  # noqa: N818  # never leaves this package
    """An attempt to deliver an alert has failed.

    Args:
        reason: Why, without anything that the other side has said.
        for_good: Whether another attempt is of no use.
        wait: Seconds that the other side asks to wait.
    """

    def __init__(self, reason: str, *, for_good: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.for_good = for_good
        self.wait = wait


class Alerts(logging.Handler):
    """Tells somebody of events that matter: a suspect, a lockdown, drift, an audit that fails.

    It listens to the logger ``mlguard.audit``, picks events by name, and hands each as an :class:`Alert` to a function,
    or to a :class:`Webhook`. That happens in a thread of its own, which is there while there is something to tell: no
    request waits for it, whatever the other side does::

        alerts = Alerts(Webhook("https://pager.example/hooks/mlguard"))
        alerts.install(app)

    The first event is told at once. The same again within ``window`` is counted, and told once at its end, with the
    count: the same are events of one name whose facts agree, but for numbers with a fraction, request ids and
    addresses. Of one name, ``most`` alerts go out in a window. What is beyond is counted, and one alert
    ``alerts.held_back`` says how many there were. Each name has its own, so who can cause one event in any number hides
    no other with it.

    What an alert says is bounded in size, has nothing that moves a terminal's cursor, and is redacted. Addresses are
    left out. Who is calling or acting is named, unless ``principals`` is False. An alert that cannot be delivered is
    tried again, ``attempts`` times in all with longer and longer waits, then logged and counted.

    It does not keep alerts beyond the process: what a killed process had to tell is in the audit log at best. With
    several processes, each tells what happens in it. It does not see what nobody records as an event.

    Args:
        send: What is called with each alert, in a thread: a plain function, or a ``Webhook``. An exception means that
            it is to be tried again. It must not wait for ever, or no alert comes after.
        on: Names of events and the level of each, ``"info"``, ``"warning"`` or ``"critical"``; or only the names, which
            then have their usual level, or ``"warning"``. None: those of ``ALERTING``.
        same: By which facts two events of a name are the same thing, such as ``{"query.suspected": ["principal"]}``.
        window: Seconds, 1 to 86 400.
        most: Alerts of one name in a window, 1 to 1 000.
        waiting: How many alerts may wait to be delivered, 1 to 100 000. What is beyond is held back.
        attempts: How often the delivery of one is tried, 1 to 20.
        backoff: Seconds to wait at most before the second attempt. Each wait may be twice as long as the one before, up
            to a minute, and is shortened at random by up to a half.
        flush_timeout: Seconds that the end of the service waits for alerts that are not delivered yet, 0 to 60.
        principals: Whether alerts name who is calling or acting.
        redactor: What masks personal data in texts. None: ``Redactor()``.
        clock: Seconds, never going backwards; for tests.

    Raises:
        ConfigurationError: A setting that cannot work.
    """

    def __init__(
        self,
        send: Callable[[Alert], Any],
        *,
        on: Mapping[str, Level] | Iterable[str] | None = None,
        same: Mapping[str, Sequence[str]] | None = None,
        window: float = 300.0,
        most: int = 10,
        waiting: int = 1_000,
        attempts: int = 5,
        backoff: float = 1.0,
        flush_timeout: float = 5.0,
        principals: bool = True,
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(send) or isinstance(send, type) or _is_async(send):
            raise ConfigurationError(
                "Alerts(send) is a plain function that takes an alert, or a Webhook: it is called in a thread"
            )
        levels = _levels(on)
        self._windows = AlertWindows(
            levels,
            same=_same(same, levels),
            window=seconds("Alerts(window=...)", window, least=1, most=86_400),
            most=whole("Alerts(most=...)", most, least=1, most=1_000),
            waiting=whole("Alerts(waiting=...)", waiting, least=1, most=100_000),
        )
        self._names = frozenset(levels)
        self._send = send
        self._attempts = whole("Alerts(attempts=...)", attempts, least=1, most=20)
        self._backoff = seconds("Alerts(backoff=...)", backoff, least=0, most=_LONGEST_WAIT)
        self._flush_timeout = seconds("Alerts(flush_timeout=...)", flush_timeout, least=0, most=60)
        if not isinstance(principals, bool):
            raise ConfigurationError("Alerts(principals=...) is True or False")
        if not isinstance(redactor, Redactor | None):
            raise ConfigurationError("Alerts(redactor=...) is a Redactor(...)")
        self._principals = principals
        self._redactor = redactor or Redactor()
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._busy = self._hurry = False
        self._sent = self._failed = 0
        super().__init__()
        self._changed = threading.Condition(self.lock)
        _all.add(self)
        restart_after_fork(self)

    # Where it listens -------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Listen from now on. Events are of the level INFO: where the logger would drop these, it does no longer."""
        audit.disabled = False  # as logging.config leaves loggers that it is not told of
        if not audit.isEnabledFor(logging.INFO):
            audit.setLevel(logging.INFO)
        audit.addHandler(self)

    def detach(self) -> None:
        """Listen no longer. What has happened is still told."""
        audit.removeHandler(self)

    def install(self, app: FastAPI) -> None:
        """Listen from now on, and until the app has ended; then wait for what is not told yet.

        Args:
            app: The app. Its own lifespan runs inside.

        Raises:
            ConfigurationError: It is no app.
        """
        if not isinstance(app, FastAPI):
            raise ConfigurationError("Alerts.install takes the app itself: alerts.install(app)")
        self.attach()
        inner = app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            self.attach()
            try:
                async with inner(app) as state:
                    yield state
            finally:
                self.detach()
                await run_in_threadpool(self.flush)

        app.router.lifespan_context = lifespan

    def emit(self, record: logging.LogRecord) -> None:
        """Take an event. It is what ``logging`` calls, and takes microseconds."""
        try:
            event = getattr(record, "event", None)
            if not isinstance(event, str) or event not in self._names:
                return
            facts = plain_facts(getattr(record, "facts", None))
            with self._changed:
                self._windows.note(event, facts, record.created, self._clock())
                if len(self._windows) or self._thread is None:  # or it was only counted
                    self._work()
        except Exception:  # whoever records an event has done nothing wrong
            self.handleError(record)

    # How it ends ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Tell at once what was only counted so far, and wait until all is told, for ``flush_timeout`` at most.

        What is not delivered by then is given up, logged and counted. Blocks: not for the event loop.
        """
        ends = time.monotonic() + self._flush_timeout
        with self._changed:
            self._windows.end(self._clock())
            self._hurry = True  # wait for no other side that failed
            if len(self._windows):
                self._work()
            self._changed.notify_all()
            while (self._busy or len(self._windows)) and (left := ends - time.monotonic()) > 0:
                self._changed.wait(left)
            given_up = self._windows.clear() + self._busy
            self._busy = self._hurry = False
            self._failed += given_up
        if given_up:
            logger.error("%d alerts were given up: they were not delivered within the end's bound", given_up)

    def close(self) -> None:
        """Do as :meth:`flush` does. What happens after is told too: ``logging.config`` closes handlers still in use."""
        self.flush()
        super().close()

    def restart_in_child(self) -> None:
        """After a fork, in the child: there is no thread, and what waited is told by the parent."""
        self._thread = None
        self._busy = self._hurry = False
        self._changed = threading.Condition(self.lock)
        self._windows.clear()

    def measurements(self) -> Iterable[Measurement]:
        """How many alerts were sent, failed and held back, and how many wait."""
        yield Measurement("mlguard_alerts_sent", self._sent, kind="counter")
        yield Measurement("mlguard_alerts_failed", self._failed, kind="counter")
        yield Measurement("mlguard_alerts_held_back", self._windows.held_back, kind="counter")
        yield Measurement("mlguard_alerts_waiting", len(self._windows) + self._busy)

    def __repr__(self) -> str:
        return f"Alerts({self._send!r})"

    # In the thread ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Have the thread look. Whoever calls has the lock."""
        if self._thread is not None:
            self._changed.notify_all()
            return
        thread = threading.Thread(target=self._tell_all, name="mlguard-alerts", daemon=True)
        with contextlib.suppress(RuntimeError):  # where there can be no thread now, perhaps there can be one later
            thread.start()
            self._thread = thread

    def _tell_all(self) -> None:
        while (alert := self._next()) is not None:
            self._tell(alert)

    def _next(self) -> Alert | None:
        """The next alert, as soon as there is one. None: there is nothing to wait for, and the thread ends."""
        with self._changed:
            while True:
                self._busy = False
                now = self._clock()
                alert = self._windows.take(now)
                if alert is not None:
                    self._busy = True
                    return alert
                self._changed.notify_all()  # who waits in ``flush``
                due = self._windows.due
                if due == float("inf"):
                    self._thread = None
                    return None
                self._changed.wait(max(due - now, 0))

    def _tell(self, alert: Alert) -> None:
        try:
            alert = with_facts(alert, self._released(alert.facts))
            failure = self._delivered(alert)
        except Exception as error:  # of the redactor: then nothing of it may leave
            failure = f"it could not be redacted ({type(error).__name__})"
        if failure is not None:
            logger.error("the alert %s was not delivered: %s", alert.event, failure)
        with self._changed:
            if self._busy:  # or it was given up meanwhile, and counted then
                self._sent += failure is None
                self._failed += failure is not None

    def _delivered(self, alert: Alert) -> str | None:
        """Try to deliver an alert. Returns why it could not be, or None."""
        for attempt in range(1, self._attempts + 1):
            try:
                self._send(alert)
            except Undelivered as failure:
                reason, wait = str(failure), failure.wait
                if failure.for_good:
                    break
            except Exception as error:
                reason, wait = f"{type(error).__name__}", 0.0  # its text may be of any length, and quote the other side
            else:
                return None
            if attempt < self._attempts:
                longest = min(self._backoff * 2.0 ** (attempt - 1), _LONGEST_WAIT)
                self._pause(max(longest * random.uniform(0.5, 1.0), min(wait, _LONGEST_WAIT)))  # noqa: S311  # no secret
        return reason

    def _pause(self, seconds: float) -> None:
        """Wait, unless the end waits for this."""
        ends = time.monotonic() + seconds
        with self._changed:
            while not self._hurry and (left := ends - time.monotonic()) > 0:
                self._changed.wait(left)

    def _released(self, facts: Mapping[str, Fact]) -> dict[str, Fact]:
        """What may leave of the facts."""
        released: dict[str, Fact] = {}
        for name, fact in facts.items():
            if name in _NEVER or (name in _PRINCIPALS and not self._principals):
                continue
            is_text = isinstance(fact, str) and name not in _PRINCIPALS
            released[name] = self._redactor.text(str(fact)) if is_text else fact
        return released


_all: "weakref.WeakSet[Alerts]" = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    """At the end of the process. Not left to ``logging``, whose configuration forgets handlers that are in use."""
    for alerts in list(_all):
        alerts.flush()


def _is_async(send: Any) -> bool:
    return any(map(inspect.iscoroutinefunction, (send, getattr(send, "__call__", None))))  # noqa: B004  # or an object


def _levels(on: Any) -> dict[str, Level]:
    if on is None:
        return dict(ALERTING)
    if isinstance(on, str) or not isinstance(on, Iterable):
        raise ConfigurationError('Alerts(on=...) has names of events, as in {"lockdown.set": "critical"}')
    levels = dict(on) if isinstance(on, Mapping) else {name: ALERTING.get(name, "warning") for name in on}
    for name, level in levels.items():
        if not isinstance(name, str) or "." not in name:
            raise ConfigurationError('Alerts(on=...): the name of an event has a dot, as in "lockdown.set"')
        if level not in _LEVELS:
            raise ConfigurationError(f"Alerts(on=...): the level of {name!r} is one of {', '.join(_LEVELS)}")
    if not levels:
        raise ConfigurationError("Alerts(on=...) has no names, and nothing would ever be told")
    return levels


def _same(same: Any, levels: Mapping[str, Level]) -> dict[str, tuple[str, ...]]:
    if same is None:
        return {}
    if not isinstance(same, Mapping) or not all(
        name in levels and not isinstance(facts, str) and isinstance(facts, Sequence) for name, facts in same.items()
    ):
        raise ConfigurationError(
            'Alerts(same=...) has lists of facts by the names in on=..., as in {"query.suspected": ["principal"]}'
        )
    return {name: tuple(map(str, facts)) for name, facts in same.items()}
