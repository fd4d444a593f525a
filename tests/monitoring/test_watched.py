"""What is watched is shown, and cannot hurt the request, the page or the number of series."""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from mlguard import Control, Measurement, RateLimit, RedisStore, harden, install_metrics
from mlguard._guard import Guard
from mlguard.monitoring._watched import MAX_NAMES, MAX_SERIES, Watched
from tests.asgi import acall, call
from tests.monitoring.notebook import Notebook
from tests.redis_server import RedisServer


class Source:
    """Has the numbers that it was given."""

    def __init__(self, *measurements: Any) -> None:
        self.given = measurements

    def measurements(self) -> Iterable[Measurement]:
        return self.given


class Crashing:
    """Has numbers, and then none."""

    def measurements(self) -> Iterator[Measurement]:
        yield Measurement("mlguard_before", 1)
        raise RuntimeError("secret=hunter2")


def failures(*times: tuple[str, int]) -> list[Measurement]:
    return [Measurement("mlguard_measurements_failed", n, {"source": source}, "counter") for source, n in times]


def test_numbers_are_shown_as_they_are() -> None:
    """A counter and a gauge come through, labels in one order."""
    queue = Measurement("mlguard_audit_queue", 12)
    dropped = Measurement("mlguard_audit_dropped", 3, {"b": "2", "a": "1"}, "counter")
    read = Watched([Source(queue, dropped)]).read()
    assert read == [queue, Measurement("mlguard_audit_dropped", 3, {"a": "1", "b": "2"}, "counter")]
    assert list(read[1].labels) == ["a", "b"]


def test_several_of_a_kind_are_put_together() -> None:
    """Counters with one name and the same labels are added up; of gauges the largest is shown."""
    first = Source(Measurement("a_counter_total", 2, {}, "counter"), Measurement("a_gauge", 5))
    second = Source(Measurement("a_counter_total", 3, {}, "counter"), Measurement("a_gauge", 4))
    watched = Watched([first, first])
    watched.add([second, first])
    assert watched.read() == [Measurement("a_counter", 5, {}, "counter"), Measurement("a_gauge", 5)]


def test_a_sum_does_not_fall_when_one_of_them_fails() -> None:
    """A counter that fell would be taken for one that had begun anew, and all of it be counted a second time."""
    failing = Source(Measurement("a_counter", 5, {}, "counter"), Measurement("a_gauge", 9))
    watched = Watched([Source(Measurement("a_counter", 3, {}, "counter")), failing])
    assert watched.read() == [Measurement("a_counter", 8, {}, "counter"), Measurement("a_gauge", 9)]
    failing.given = (None,)
    assert watched.read() == [Measurement("a_counter", 8, {}, "counter"), *failures(("Source", 1))]
    failing.given = (Measurement("a_counter", 2, {}, "counter"),)  # it has begun anew
    assert watched.read()[0] == Measurement("a_counter", 5, {}, "counter")


def test_what_raises_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in measurements() costs the others nothing, and its text goes nowhere."""
    watched = Watched([Crashing(), Source(Measurement("mlguard_after", 2))])
    for times in (1, 2):
        assert watched.read() == [
            Measurement("mlguard_before", 1), Measurement("mlguard_after", 2), *failures(("Crashing", times))
        ]  # fmt: skip
    assert caplog.text.count("Crashing cannot be measured: RuntimeError") == 1
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "measurement",
    [
        Measurement("mlguard_x", float("nan"), {}, "counter"),
        Measurement("mlguard_x", float("inf"), {}, "counter"),
        Measurement("mlguard_x_total", 1),
        Measurement("mlguard_x_created", 1),
        Measurement("mlguard_limit_left_ratio_count", 1),
        Measurement("mlguard_x", -1, {}, "counter"),
        Measurement("mlguard_x", 1, {}, "histogram"),  # type: ignore[arg-type]  # a mistake
        Measurement("mlguard_x", "many"),  # type: ignore[arg-type]  # a mistake
        Measurement("mlguard_x", 1, {"le": "1"}),
        Measurement("mlguard_x", 1, {"": "1"}),
        Measurement("mlguard_x", 1, {"a b": "1"}),
        Measurement("mlguard_x", 1, None),  # type: ignore[arg-type]  # a mistake
        Measurement("", 1),
        Measurement("mlguard x", 1),
        Measurement("mlguard_x\n# EOF", 1),
        Measurement("x" * 101, 1),
        Measurement("mlguard_guard_decisions", 1, {}, "counter"),
        Measurement("mlguard_measurements_failed", 1, {}, "counter"),
        None,
        ("mlguard_x", 1),
    ],
)
def test_what_is_no_measurement_is_not_shown(measurement: Any) -> None:
    """A number that is none, and a name or label that cannot be, are failures of who said them."""
    assert Watched([Source(measurement)]).read() == failures(("Source", 1))


def test_one_wrong_number_leaves_the_others() -> None:
    """What is wrong with one measurement costs the next ones nothing."""
    after = Measurement("mlguard_after", 2)
    assert Watched([Source(None, after, None)]).read() == [after, *failures(("Source", 2))]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gauge_without_a_number_is_not_shown(value: float) -> None:
    """A gauge that has no number yet is no failure, and shows none."""
    after = Measurement("mlguard_after", -2)
    assert Watched([Source(Measurement("mlguard_x", value), after)]).read() == [after]


def test_a_name_means_one_thing() -> None:
    """A name that is used again as another kind, or with other labels, is a failure."""
    first = Measurement("mlguard_x", 1, {"a": "1"})
    for other in (Measurement("mlguard_x", 1, {"a": "1"}, "counter"), Measurement("mlguard_x", 1, {"b": "1"})):
        assert Watched([Source(first), Source(other)]).read() == [first, *failures(("Source", 1))]


def test_series_are_bounded_over_time() -> None:
    """A label that is another one each second makes at most 100 series, and no more later."""
    source = Source()
    watched = Watched([source])
    seen = set()
    for number in range(MAX_SERIES * 3):
        source.given = (Measurement("mlguard_x", 1, {"who": f"caller {number}"}),)
        seen |= {m.labels["who"] for m in watched.read() if m.name == "mlguard_x"}
    assert len(seen) == MAX_SERIES


def test_names_are_bounded_over_time() -> None:
    """A source that makes up names makes at most 200."""
    source = Source()
    watched = Watched([source])
    seen = set()
    for number in range(MAX_NAMES * 3):
        source.given = (Measurement(f"mlguard_x{number}", 1),)
        seen |= {m.name for m in watched.read()}
    assert len(seen - {"mlguard_measurements_failed"}) == MAX_NAMES


def test_an_endless_source_ends() -> None:
    """A source that never stops is read up to a bound."""

    class Endless:
        def measurements(self) -> Iterator[Measurement]:
            while True:
                yield Measurement("mlguard_x", 1, {}, "counter")

    assert Watched([Endless()]).read() == [Measurement("mlguard_x", 1_000, {}, "counter")]


@given(
    st.text(max_size=30),
    st.one_of(st.floats(), st.integers(), st.text(), st.none()),
    st.one_of(st.none(), st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), st.text(max_size=200))),
    st.sampled_from(["counter", "gauge", "x", None]),
)
def test_nothing_that_is_said_raises(name: Any, value: Any, labels: Any, kind: Any) -> None:
    """Whatever a measurement holds, reading it gives numbers with sound names and labels, or a failure."""
    logging.getLogger("mlguard").disabled = True
    try:
        read = Watched([Source(Measurement(name, value, labels, kind))]).read()
    finally:
        logging.getLogger("mlguard").disabled = False
    assert len(read) <= 1
    for measurement in read:
        assert measurement.name.isidentifier()
        assert all(text.isascii() and len(text) <= 100 for pair in measurement.labels.items() for text in pair)


class Watching(Guard):
    """A guard that has numbers, as detectors are."""

    control = Control.INPUT_VALIDATION

    async def __call__(self, conn: HTTPConnection) -> None:
        """Admit."""

    def measurements(self) -> Iterable[Measurement]:
        return [Measurement("mlguard_watching", 7)]


def test_guards_with_numbers_are_watched_by_themselves() -> None:
    """A guard of a route is shown without being named; one that is named too is shown once."""
    watching = Watching()
    notebook = Notebook()
    app = FastAPI()
    harden(app)

    @app.get("/x", dependencies=[Depends(watching)])
    def endpoint() -> None:
        """Nothing."""

    install_metrics(app, to=notebook, watch=[watching])
    call(app, "/x", method="GET")
    assert [m for m in notebook.shown if m.name == "mlguard_watching"] == [Measurement("mlguard_watching", 7)]


def test_what_is_watched_is_looked_at_again() -> None:
    """A number that changes is shown as it is now, without a request."""
    source = Source(Measurement("mlguard_x", 1))
    notebook = Notebook()
    app = FastAPI()
    install_metrics(app, to=notebook, watch=[source], every=0.001)

    async def watch() -> None:
        await acall(app, "/nowhere", method="GET")
        assert Measurement("mlguard_x", 1) in notebook.shown
        source.given = (Measurement("mlguard_x", 2),)
        await notebook.until(lambda: Measurement("mlguard_x", 2) in notebook.shown)

    asyncio.run(watch())


def test_only_the_newest_event_loop_looks() -> None:
    """An app that is served by another event loop than before is looked at by that one."""
    looks: list[asyncio.AbstractEventLoop] = []

    class Counting(Source):
        def measurements(self) -> Iterable[Measurement]:
            looks.append(asyncio.get_running_loop())
            return ()

    notebook = Notebook()
    app = FastAPI()
    install_metrics(app, to=notebook, watch=[Counting()], every=0.001)

    async def ask(needed: int) -> asyncio.AbstractEventLoop:
        await acall(app, "/nowhere", method="GET")
        await notebook.until(lambda: len(looks) >= needed)
        return asyncio.get_running_loop()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(ask(3))
        seen = len(looks)
        newest = second.run(ask(seen + 3))
        assert set(looks[seen:]) == {newest}
        seen = len(looks)
        first.run(asyncio.sleep(0.01))  # in which it would have looked
        assert len(looks) == seen


def store_numbers(notebook: Notebook) -> dict[tuple[str, str], float]:
    return {
        (m.name, m.labels.get("outcome", "")): m.value for m in notebook.shown if m.name.startswith("mlguard_store")
    }


def test_a_store_says_that_it_is_down(tmp_path: Any) -> None:
    """A Redis that dies is shown as down, with calls that it has not answered, and how often it was done without."""
    pytest.importorskip("redis")
    server = RedisServer(tmp_path)
    server.start()
    notebook = Notebook()
    app = FastAPI()
    harden(app)
    limit = RateLimit("100/minute", store=RedisStore(server.url, timeout=5), on_store_error="local", name="steady")

    @app.get("/x")
    async def endpoint(_: Annotated[None, Depends(limit)]) -> None:
        """Nothing."""

    install_metrics(app, to=notebook, every=0.001)

    async def play() -> None:
        await acall(app, "/x", method="GET")
        await notebook.until(lambda: store_numbers(notebook).get(("mlguard_store_calls", "answered")) == 1)
        up = store_numbers(notebook)
        assert up["mlguard_store_up", ""] == 1
        assert up["mlguard_store_seconds", ""] > 0
        assert up["mlguard_store_calls", "failed"] == 0
        server.kill()
        await acall(app, "/x", method="GET")
        await acall(app, "/x", method="GET")
        await notebook.until(lambda: store_numbers(notebook)["mlguard_store_up", ""] == 0 and without().value == 2)

    def without() -> Measurement:
        return next(m for m in notebook.shown if m.name == "mlguard_limit_decided_without_store")

    try:
        asyncio.run(play())
    finally:
        server.kill()
    assert store_numbers(notebook)["mlguard_store_calls", "failed"] >= 1
    assert without().labels == {"guard": "RateLimit", "limit": "steady"}
