"""Alerts: who is told of what, what never happens on the path of a request, and how it ends."""

import asyncio
import contextlib
import logging
import logging.config
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from mlguard import Lockdown, MemoryStore
from mlguard.errors import ConfigurationError
from mlguard.monitoring import alerts as alerts_file
from mlguard.monitoring._alert_windows import Alert
from mlguard.monitoring._lockdown_state import Block, set_block
from mlguard.monitoring.alerts import ALERTING, Alerts, Undelivered
from mlguard.monitoring.events import logger as audit
from mlguard.monitoring.events import record_event
from tests.asgi import acall
from tests.clock import Clock
from tests.servers import program, wait_until


class Sink(queue.Queue[Alert]):
    """Takes alerts, and may be told to fail or to hang first."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.open = threading.Event()
        self.open.set()
        self.tried = 0

    def __call__(self, alert: Alert) -> None:
        self.tried += 1
        self.open.wait(30)
        if self.failures:
            raise self.failures.pop(0)
        self.put(alert)

    def next(self) -> Alert:
        return self.get(timeout=30)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def attached() -> Iterator[Any]:
    """Make alerts that listen until the test ends."""
    made: list[Alerts] = []
    level = audit.level

    def make(send: Any, **settings: Any) -> Alerts:
        alerts = Alerts(send, **{"backoff": 0.001, "clock": Clock(), **settings})
        alerts.attach()
        made.append(alerts)
        return alerts

    yield make
    for alerts in made:
        alerts.detach()
        alerts._flush_timeout = 0.0
        alerts.close()
    audit.setLevel(level)


def numbers(alerts: Alerts) -> dict[str, float]:
    return {one.name.removeprefix("mlguard_alerts_"): one.value for one in alerts.measurements()}


def test_chosen_events_are_told_with_their_level(sink: Sink, attached: Any) -> None:
    """An event in ``on`` reaches the function with facts and level; another one does not."""
    alerts = attached(sink, on={"lockdown.set": "critical", "store.up": "info"})
    record_event("model.loaded", model="iris")
    record_event("lockdown.set", scope="route", by="operator")
    record_event("store.up", store="redis")
    first, second = sink.next(), sink.next()
    assert (first.event, first.level, first.count) == ("lockdown.set", "critical", 1)
    assert dict(first.facts) == {"scope": "route", "by": "operator"}
    assert (second.event, second.level) == ("store.up", "info")
    alerts.flush()
    assert numbers(alerts) == {"sent": 2, "failed": 0, "held_back": 0, "waiting": 0}


def test_by_default_what_needs_somebody_is_told(sink: Sink, attached: Any) -> None:
    """Without ``on``, an audit that fails is critical, drift is a warning, and a model that loads concerns nobody."""
    attached(sink)
    record_event("model.loaded", model="iris")
    record_event("audit.failed", reason="disk full")
    record_event("drift.found", measure="psi")
    assert [(alert.event, alert.level) for alert in (sink.next(), sink.next())] == [
        ("audit.failed", "critical"),
        ("drift.found", "warning"),
    ]


def test_names_alone_have_their_usual_level(sink: Sink, attached: Any) -> None:
    """A list of names is enough; one that has no usual level is a warning."""
    attached(sink, on=["audit.failed", "my.own"])
    record_event("my.own")
    record_event("audit.failed")
    assert [alert.level for alert in (sink.next(), sink.next())] == ["warning", "critical"]


def test_the_same_again_is_one_alert_with_a_count(sink: Sink, attached: Any) -> None:
    """A thousand times the same is told at once, and once more with the count when the window has ended."""
    clock = Clock()
    alerts = attached(sink, window=60, clock=clock)
    for _ in range(1_000):
        record_event("query.suspected", principal="alice")
    assert sink.next().count == 1
    clock.now = 61.0
    with alerts._changed:
        alerts._changed.notify_all()
    assert sink.next().count == 999
    alerts.flush()
    assert sink.empty()


def test_many_threads_lose_no_event(sink: Sink, attached: Any) -> None:
    """Events from many threads at once are all told or counted."""
    alerts = attached(sink, most=5)

    def record(thread: int) -> None:
        for number in range(200):
            record_event("query.suspected", principal=f"{thread}-{number % 20}")

    threads = [threading.Thread(target=record, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alerts.flush()
    told = []
    while not sink.empty():
        told.append(sink.get())
    assert sum(alert.count for alert in told) == 1_600
    assert len(told) <= 5 + 5 + 1


def test_a_hanging_receiver_holds_up_nobody_and_fills_no_memory(sink: Sink, attached: Any) -> None:
    """While the function hangs, events go on, and what waits is bounded; when it goes on, it is told what it missed."""
    sink.open.clear()
    alerts = attached(sink, waiting=3, most=1_000)
    record_event("query.suspected", principal="first")
    wait_until(lambda: sink.tried)
    for number in range(1_000):
        record_event("query.suspected", principal=f"mallory-{number}")
    assert numbers(alerts)["waiting"] == 4
    assert numbers(alerts)["held_back"] == 997
    sink.open.set()
    told = [sink.next() for _ in range(4)]
    alerts.flush()
    told.append(sink.next())
    assert (told[-1].event, told[-1].count, dict(told[-1].facts)) == (
        "alerts.held_back",
        997,
        {"event": "query.suspected"},
    )


def test_a_failed_delivery_is_tried_again_with_the_same_id(attached: Any) -> None:
    """A function that raises is called again with the very same alert."""
    seen = []

    class Twice(Sink):
        def __call__(self, alert: Alert) -> None:
            seen.append(alert.id)
            super().__call__(alert)

    sink = Twice(OSError("secret text"), Undelivered("the answer is a 503", wait=0.001))
    alerts = attached(sink)
    record_event("lockdown.set", by="operator")
    sink.next()
    alerts.flush()
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert numbers(alerts)["sent"] == 1


def test_what_cannot_be_delivered_is_logged_and_counted(attached: Any, caplog: pytest.LogCaptureFixture) -> None:
    """After so many attempts it is given up; the log names the event and the kind of error, and not its text."""
    sink = Sink(*[OSError("https://pager.example/token")] * 3)
    alerts = attached(sink, attempts=3)
    record_event("lockdown.set", by="operator")
    wait_until(lambda: numbers(alerts)["failed"])
    assert sink.tried == 3
    line = next(record.getMessage() for record in caplog.records if record.name == "mlguard")
    assert line == "the alert lockdown.set was not delivered: OSError"
    assert numbers(alerts) == {"sent": 0, "failed": 1, "held_back": 0, "waiting": 0}


def test_what_has_failed_for_good_is_not_tried_again(attached: Any) -> None:
    """A receiver that says it is gone is asked once."""
    sink = Sink(Undelivered("the answer is a 410", for_good=True))
    alerts = attached(sink)
    record_event("lockdown.set")
    wait_until(lambda: numbers(alerts)["failed"])
    assert sink.tried == 1


def test_no_personal_datum_leaves_but_who_it_was(sink: Sink, attached: Any) -> None:
    """Texts are redacted, addresses left out; the principal's id stays, even where it looks like an address."""
    attached(sink)
    facts = {"principal": "bob@corp.example", "address": "10.0.0.7", "reason": "mail from eve@example.org"}
    record_event("query.suspected", **facts, score=0.5, rows=3)
    left = dict(sink.next().facts)
    assert left["principal"] == "bob@corp.example"
    assert "address" not in left
    assert "eve@example.org" not in str(left["reason"])
    assert (left["score"], left["rows"]) == (0.5, 3)


def test_principals_are_left_out_where_they_should_be(sink: Sink, attached: Any) -> None:
    """With ``principals=False`` no alert says who it was."""
    attached(sink, principals=False)
    record_event("lockdown.set", principal="alice", by="carol", key="k-1", scope="principal")
    assert dict(sink.next().facts) == {"scope": "principal"}


@pytest.mark.parametrize(
    ("block", "named", "unnamed"),
    [
        (
            Block("principal", "alice@corp.example", "api-key"),
            {"what": "principal", "principal": "api-key: alice@corp.example", "by": "eve", "why": "", "until": None},
            {"what": "principal", "why": "", "until": None},
        ),
        (
            Block("address", "203.0.113.7/32"),
            {"what": "address", "by": "eve", "why": "", "until": None},
            {"what": "address", "why": "", "until": None},
        ),
        (
            Block("route", "/predict"),
            {"what": "route /predict", "by": "eve", "why": "", "until": None},
            {"what": "route /predict", "why": "", "until": None},
        ),
    ],
)
def test_a_lockdown_names_nobody_who_is_not_to_be_named(
    sink: Sink, attached: Any, block: Block, named: Any, unnamed: Any
) -> None:
    """It says who is blocked in full, or not at all; and no address."""
    lockdown = Lockdown(store=MemoryStore())
    asyncio.run(set_block(lockdown.store, replace(block, by="eve"), ttl=None))
    other = Sink()
    attached(sink)
    attached(other, principals=False)
    asyncio.run(lockdown.blocks())
    assert (dict(sink.next().facts), dict(other.next().facts)) == (named, unnamed)


def test_what_is_told_by_default_is_recorded_somewhere() -> None:
    """A name that nothing records would promise an alert that never comes; and the page has them all."""
    package = Path(alerts_file.__file__).parents[1]
    texts = [path.read_text() for path in package.rglob("*.py") if path.name != "alerts.py"]
    recorded = "".join(text for text in texts if "import record_event" in text)
    elsewhere = {"lockdown.set", "lockdown.lifted"}  # tests/monitoring/test_lockdown_store.py
    elsewhere |= {"query.suspected"}  # of whoever watches queries
    assert {name for name in ALERTING if f'"{name}"' not in recorded} <= elsewhere
    page = package.parents[1] / "docs" / "how-to" / "alerts.md"
    rows = [line.split("|")[1:3] for line in page.read_text().splitlines() if line.startswith("| `")]
    told = {name.strip(" `"): level.strip(" `") for names, level in rows for name in names.split(",")}
    assert told == dict(ALERTING)


def test_what_cannot_be_redacted_does_not_leave(sink: Sink, attached: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A redactor that fails lets nothing out: the alert is logged as failed."""
    alerts = attached(sink)
    alerts._redactor = None  # as a broken one
    record_event("lockdown.set", reason="eve@example.org")
    wait_until(lambda: numbers(alerts)["failed"])
    assert sink.tried == 0
    assert "could not be redacted" in caplog.text
    assert "eve@" not in next(record for record in caplog.records if record.name == "mlguard").getMessage()


def test_records_that_are_no_events_hurt_nobody(sink: Sink, attached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes to the logger by hand, with whatever, gets no exception; nor does one of our own get through."""
    alerts = attached(sink)
    audit.info("hello")
    audit.info("hello", extra={"event": ["audit.failed"], "facts": 3})
    audit.info("hello", extra={"event": "audit.failed", "facts": 3})
    assert dict(sink.next().facts) == {}

    def broken() -> float:
        raise RuntimeError("a clock")

    with monkeypatch.context() as at_fault:
        at_fault.setattr(alerts, "_clock", broken)
        at_fault.setattr(logging, "raiseExceptions", False)
        record_event("audit.failed")


def test_listening_sees_to_it_that_there_is_something_to_hear(sink: Sink, attached: Any) -> None:
    """Events are INFO, which logging drops by default, and a configuration may have disabled the logger."""
    audit.setLevel(logging.CRITICAL)
    audit.disabled = True
    attached(sink)
    record_event("audit.failed")
    assert sink.next().event == "audit.failed"


def test_after_detaching_nothing_is_told(sink: Sink, attached: Any) -> None:
    """What happens after is not told; what happened before is."""
    alerts = attached(sink)
    record_event("audit.failed")
    alerts.detach()
    record_event("lockdown.set")
    alerts.flush()
    assert sink.next().event == "audit.failed"
    assert sink.empty()


def test_logging_configured_anew_ends_no_alerts(sink: Sink, attached: Any) -> None:
    """Servers configure logging after the app was imported, which closes every handler: alerts go on."""
    attached(sink)
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    record_event("audit.failed")
    assert sink.next().event == "audit.failed"


def test_with_the_app_it_begins_and_ends(sink: Sink) -> None:
    """Installed, it listens from then on and until the app has ended, inside of which the app's own lifespan runs."""
    order = []
    level = audit.level

    async def own(_: Any) -> Any:
        order.append("begins")
        yield {"model": "iris"}
        record_event("lockdown.lifted", by="the end")
        order.append("ends")

    app = FastAPI(lifespan=contextlib.asynccontextmanager(own))

    @app.get("/")
    async def index() -> dict[str, str]:
        record_event("lockdown.set", by="operator")
        return {}

    async def live(app: FastAPI) -> None:
        async with app.router.lifespan_context(app) as state:
            assert state == {"model": "iris"}
            await acall(app, "/", method="GET")

    alerts = Alerts(sink)
    alerts.install(app)
    try:
        record_event("model.refused", reason="at import")
        asyncio.run(live(app))
        record_event("audit.failed")
        told = [sink.get_nowait().event for _ in range(3)]  # all are told when the app has ended
        assert told == ["model.refused", "lockdown.set", "lockdown.lifted"]
        assert order == ["begins", "ends"]
        assert sink.empty()
    finally:
        alerts.detach()
        audit.setLevel(level)


def test_the_end_waits_no_longer_than_it_may(sink: Sink, attached: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that hangs does not keep the service from ending; what is lost is said."""
    sink.open.clear()
    alerts = attached(sink, flush_timeout=0.01)
    record_event("audit.failed")
    wait_until(lambda: sink.tried)
    record_event("lockdown.set")
    alerts.flush()
    assert "2 alerts were given up" in caplog.text
    assert numbers(alerts) == {"sent": 0, "failed": 2, "held_back": 0, "waiting": 0}
    sink.open.set()
    sink.next()  # what was under way comes late, and is not counted twice
    wait_until(lambda: alerts._thread is None)
    assert numbers(alerts)["sent"] == 0


def test_the_end_does_not_wait_for_the_next_attempt(attached: Any) -> None:
    """While an alert waits to be tried again, the end has it tried at once."""
    sink = Sink(OSError())
    alerts = attached(sink, backoff=60.0)
    record_event("audit.failed")
    wait_until(lambda: sink.tried)
    alerts.flush()
    assert sink.get_nowait().event == "audit.failed"


def test_the_thread_is_there_only_while_there_is_something_to_tell(sink: Sink, attached: Any) -> None:
    """After the window no thread is left; the next event starts another one."""
    clock = Clock()
    alerts = attached(sink, window=60, clock=clock)
    assert alerts._thread is None
    for now in (0.0, 100.0):
        clock.now = now
        record_event("audit.failed")
        sink.next()
        clock.now = now + 61
        with alerts._changed:
            alerts._changed.notify_all()
        wait_until(lambda: alerts._thread is None)


def test_where_no_thread_can_be_started_the_next_event_tries_again(
    sink: Sink, attached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process at its limit of threads records events as before, and tells of them when it can."""
    attached(sink)

    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as at_the_limit:
        at_the_limit.setattr(threading.Thread, "start", refuse)
        record_event("audit.failed")
    assert sink.empty()
    record_event("lockdown.set")
    assert {sink.next().event, sink.next().event} == {"audit.failed", "lockdown.set"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_worker_tells_what_happens_in_it_and_nothing_twice(tmp_path: Path) -> None:
    """What waited at the fork is told by the parent alone; the child has a thread of its own."""
    script = tmp_path / "forks.py"
    script.write_text(
        "import os, threading\n"
        "from mlguard.monitoring.alerts import Alerts\n"
        "from mlguard.monitoring.events import record_event\n"
        "goes_on = threading.Event()\n"
        "def send(alert):\n"
        "    goes_on.wait(30)\n"
        "    os.write(1, f'{os.getpid() == parent} {alert.event} {alert.facts}\\n'.encode())\n"
        "parent = os.getpid()\n"
        "alerts = Alerts(send)\n"
        "alerts.attach()\n"
        "record_event('audit.failed', n=1)\n"
        "record_event('audit.failed', n=2)\n"
        "child = os.fork()\n"
        "goes_on.set()\n"
        "if not child:\n"
        "    record_event('audit.failed', n=3)\n"
        "    alerts.flush()\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    with program("-W", "ignore:This process:DeprecationWarning", str(script)) as running:
        assert running.process.wait(30) == 0  # the end of the process has told the rest
        lines = sorted(running.output.splitlines())
    assert lines == [
        "False audit.failed {'n': 3}",
        "True audit.failed {'n': 1}",
        "True audit.failed {'n': 2}",
    ]


def test_in_the_child_of_a_fork_nothing_waits(sink: Sink, attached: Any) -> None:
    """What the parent was about to tell is not the child's; what happens next in it is."""
    sink.open.clear()
    alerts = attached(sink)
    record_event("audit.failed", n=1)
    record_event("audit.failed", n=2)
    wait_until(lambda: sink.tried)
    alerts.restart_in_child()
    assert numbers(alerts)["waiting"] == 0
    sink.open.set()
    sink.next()  # of the thread that has stayed behind
    record_event("audit.failed", n=2)
    assert sink.next().facts["n"] == 2


def test_which_facts_make_two_events_the_same_can_be_said(sink: Sink, attached: Any) -> None:
    """With ``same``, other facts make no difference."""
    attached(sink, same={"query.suspected": ["principal"]})
    for detector in ("cusum", "sketch"):
        record_event("query.suspected", principal="alice", detector=detector)
    record_event("audit.failed")
    assert [sink.next().event, sink.next().event] == ["query.suspected", "audit.failed"]


def test_recording_never_waits_for_a_running_loop(sink: Sink, attached: Any) -> None:
    """From a coroutine, with a receiver that hangs, an event is recorded and the loop goes on."""
    sink.open.clear()
    attached(sink)

    async def record() -> str:
        record_event("audit.failed")
        await asyncio.sleep(0)
        return "went on"

    assert asyncio.run(record()) == "went on"
    sink.open.set()
    sink.next()


async def _async(_: Alert) -> None: ...


class _AsyncObject:
    async def __call__(self, _: Alert) -> None: ...


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"send": None}, "plain function"),
        ({"send": Sink}, "plain function"),
        ({"send": _async}, "plain function"),
        ({"send": _AsyncObject()}, "plain function"),
        ({"on": "lockdown.set"}, "on=..."),
        ({"on": 3}, "on=..."),
        ({"on": []}, "no names"),
        ({"on": ["lockdown"]}, "has a dot"),
        ({"on": [3]}, "has a dot"),
        ({"on": {"lockdown.set": "loud"}}, "level"),
        ({"same": {"lockdown.set": "by"}}, "same=..."),
        ({"same": {"unknown.event": ["by"]}}, "same=..."),
        ({"same": 3}, "same=..."),
        ({"window": 0}, "window"),
        ({"window": float("nan")}, "window"),
        ({"most": 0}, "most"),
        ({"waiting": True}, "waiting"),
        ({"attempts": 0}, "attempts"),
        ({"backoff": -1}, "backoff"),
        ({"flush_timeout": float("inf")}, "flush_timeout"),
        ({"principals": "no"}, "principals"),
        ({"redactor": str}, "redactor"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], named: str) -> None:
    """Each is named when the object is built."""
    with pytest.raises(ConfigurationError, match=named):
        Alerts(**{"send": Sink(), **settings})


def test_only_an_app_has_alerts_installed(sink: Sink) -> None:
    """What is no app is refused."""
    with pytest.raises(ConfigurationError, match="takes the app itself"):
        Alerts(sink).install(FastAPI().router)  # type: ignore[arg-type]


def test_it_does_not_show_more_than_who_is_told(sink: Sink) -> None:
    """The repr is that of the receiver."""
    assert repr(Alerts(print)) == f"Alerts({print!r})"


def test_at_the_end_of_the_process_all_are_flushed(sink: Sink, attached: Any) -> None:
    """What waits when the process ends is told."""
    attached(sink)
    record_event("audit.failed")
    alerts_file._flush_all()
    assert sink.get_nowait().event == "audit.failed"
