"""Queries that are noted a moment later: none is lost, none is noted twice, and no request waits for it."""

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard import (
    AuditLog,
    MemoryStore,
    RedisStore,
    RequestIds,
    Sighting,
    UnavailableError,
    Watch,
    WatchedQuery,
    install_audit_log,
)
from mlguard.monitoring.query_reference import Floats
from mlguard.store import REPEAT
from tests.clock import Clock
from tests.monitoring.test_query_monitor import COLUMNS, KEY, USUAL, Away, Events, Service, events, scores, walk
from tests.redis_server import redis_server

__all__ = ["events"]  # the fixture


class Busy(MemoryStore):
    """A store whose answers come when they are let through."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.asked = asyncio.Event()

    async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
        self.asked.set()
        await self.let.wait()
        return await super().watch(key, queries, rule, **more)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is noted before the event loop ends, however slow the machine is."""
    monkeypatch.setattr("mlguard.monitoring._query_queue._LINGER", 60.0)


def test_no_request_waits_for_the_store(events: Events) -> None:
    """All are answered while it does not; then every query is noted, in order."""

    async def work() -> Service:
        store = Busy()
        service = Service(store=store)
        assert set(await service.send(walk(40))) == {200}
        await store.asked.wait()
        assert set(await service.send(walk(60)[40:])) == {200}
        assert "queries_watched" not in service.numbers
        store.let.set()
        return service

    service = asyncio.run(work())
    assert service.numbers["queries_watched"] == 60
    (event,) = events()
    assert event["queries"] <= 25


def test_what_waits_is_noted_while_the_loop_goes_on(events: Events) -> None:
    """Soon, without another request, and when many have come."""
    service = Service()

    async def work() -> None:
        await service.send(walk(200))
        while service.numbers.get("queries_watched") != 200:  # noqa: ASYNC110  # the monitor has no event for it
            await asyncio.sleep(0.01)
        assert len(events()) == 1
        assert "queries_queued" not in service.numbers

    asyncio.run(asyncio.wait_for(work(), 30))


@pytest.mark.parametrize(("setting", "status"), [("refuse", 503), ("allow", 200)])
def test_few_wait_for_a_store_that_is_away(
    setting: str, status: int, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    """As many as may; then it is as with any other act. What has waited is noted when the store is back."""
    monkeypatch.setattr("mlguard.monitoring._query_queue._MOST", 30)
    store = Away()
    service = Service(store=store, on_store_error=setting)

    async def work() -> None:
        assert await service.send(walk(33)) == [*[200] * 30, *[status] * 3]
        assert service.numbers["queries_queued"] == 30

    asyncio.run(work())
    assert service.numbers["queries_queued"] == 30, "and it was tried when the loop ended"
    store.down = False
    asyncio.run(service.send(USUAL[:1], "honest"))
    assert service.numbers["queries_watched"] == 31
    assert len(events()) == 1


def test_large_rows_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends as much as may wait, waits for more of it to be noted."""
    monkeypatch.setattr("mlguard.monitoring._query_queue._MOST_NUMBERS", 130 * COLUMNS)
    service = Service(store=Away(), on_store_error="allow")

    async def work() -> None:
        await service.send(np.stack([USUAL[:60], USUAL[60:120], USUAL[120:180]]))

    asyncio.run(work())
    assert service.numbers["queries_queued"] == 2
    assert service.numbers["queries_unwatched"] == 1


def test_a_store_that_is_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again and again, without another request."""
    monkeypatch.setattr("mlguard.monitoring._query_queue._LINGER", 0.0)
    monkeypatch.setattr("mlguard.monitoring._query_queue._AGAIN", 0.0)
    store = Away()
    service = Service(store=store)

    async def work() -> None:
        await service.send(USUAL[:3])
        await asyncio.sleep(0.02)
        assert service.numbers == {"queries_queued": 3}
        store.down = False
        while service.numbers.get("queries_watched") != 3:  # noqa: ASYNC110  # the monitor has no event for it
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(work(), 30))


streams = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["walk", "usual"]), st.integers(1, 200)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=20)
@given(streams)
def test_what_is_noted_later_is_what_would_be_noted_now(stream: list[tuple[str, str, int]]) -> None:
    """Whoever asks what, in whatever parts: the same queries are new, near or repeated, and the same are suspects."""
    now, later = [Service(act=act, across_callers=False, key=KEY) for act in ("coarsen", "observe")]
    kinds = {"walk": walk(200), "usual": USUAL}

    async def work(service: Service) -> None:
        for number, (client, kind, rows) in enumerate(stream):
            await service.ask(kinds[kind][number : number + rows], client)

    for service in (now, later):
        asyncio.run(work(service))
    names = ("queries_watched", "queries_near", "queries_repeated", "queries_suspected", "query_suspects")
    assert {name: now.numbers.get(name) for name in names} == {name: later.numbers.get(name) for name in names}


def test_a_model_that_writes_into_its_input_changes_nothing() -> None:
    """What was asked is noted, and not what was made of it."""

    def model(x: Floats) -> Floats:
        told = scores(x)
        x[:] = 0.0
        return told

    service = Service(model=model)
    asyncio.run(service.send(USUAL[:5]))
    assert service.numbers == {"queries_watched": 5}


def test_a_row_in_another_kind_of_number_is_another_query() -> None:
    """As it is where it is noted at once."""
    kinds = iter([np.float64, np.float32, np.float32, np.float64])

    def rows() -> Any:
        return USUAL[:1].astype(next(kinds))

    service = Service(features=rows)
    asyncio.run(service.send([[0.0]] * 4))
    assert service.numbers["queries_watched"] == 4
    assert service.numbers["queries_repeated"] == 2


def test_events_name_the_request(events: Events, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """That of the query that was too much, although it is over."""
    service = Service()
    install_audit_log(service.app, log := AuditLog(tmp_path, key=secrets.token_urlsafe(32)))
    caplog.handler.addFilter(RequestIds())

    async def work() -> list[str]:
        return [(await service.ask(row)).headers["x-request-id"] for row in walk(60)]

    ids = asyncio.run(work())
    log.close()
    (event,) = events()
    (record,) = [one for one in caplog.records if vars(one).get("event") == "query.suspected"]
    assert vars(record)["request_id"] == ids[event["queries"] - 1]


@pytest.mark.usefixtures("patience")
def test_who_is_cleared_is_not_suspected_for_what_still_waits(events: Events) -> None:
    """Others are."""
    service = Service(across_callers=False)

    async def work() -> None:
        for client in ("mallory", "eve"):
            await service.send(walk(40), client)
        await service.monitor.clear("mallory")

    asyncio.run(work())
    assert [event["event"] for event in events()] == ["query.cleared", "query.suspected"]
    assert service.numbers["queries_watched"] == 40


def test_a_fault_is_logged_and_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """Of a store of somebody's own, say."""

    class Faulty(MemoryStore):
        async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
            if len(queries) == 7:
                raise ValueError("seven")
            return await super().watch(key, queries, rule, **more)

    service = Service(store=Faulty(), across_callers=False)

    async def work() -> None:
        for rows in (USUAL[:7], USUAL[7:10], USUAL[10:12]):
            await service.ask(rows)

    asyncio.run(work())
    assert service.numbers == {"queries_watched": 5}
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "what a caller has asked could not be noted"
    ]


def test_many_callers_are_noted_at_a_time_in_redis(events: Events) -> None:
    """Each of them in the order in which it has asked."""
    with redis_server() as server:
        service = Service(store=RedisStore(server.url, timeout=30.0), key=KEY, across_callers=False)

        async def work() -> None:
            await asyncio.gather(*[service.send(walk(40, seed=number), f"mallory {number}") for number in range(5)])

        asyncio.run(work())
    assert len(events()) == 5
    assert all(event["queries"] <= 25 for event in events())
    assert service.numbers["queries_watched"] == 200


@pytest.mark.usefixtures("frequent_switches")
def test_several_event_loops_share_what_waits() -> None:
    """As the threads of a server may: every query is noted exactly once."""
    service = Service(across_callers=False)
    rows = np.random.default_rng(5).normal(size=(4, 100, COLUMNS))

    def work(number: int) -> None:
        asyncio.run(service.send(rows[number], f"client {number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert service.numbers["queries_watched"] == 400
    assert "queries_queued" not in service.numbers


class Overtaking(MemoryStore):
    """A store whose first answer is looked at while another thread is given a whole one."""

    def __init__(self) -> None:
        super().__init__()
        self.overtake: list[Callable[[], None]] = []

    async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
        sighting = await super().watch(key, queries, rule, **more)
        return sighting._replace(seen=Overtaken(sighting.seen, self.overtake))


class Overtaken(tuple[int, ...]):
    """Which another thread overtakes when its repeats are counted."""

    overtake: list[Callable[[], None]]

    def __new__(cls, seen: tuple[int, ...], overtake: list[Callable[[], None]]) -> "Overtaken":
        made = super().__new__(cls, seen)
        made.overtake = overtake
        return made

    def count(self, value: object) -> int:
        if value == REPEAT and self.overtake:
            thread = threading.Thread(target=self.overtake.pop())
            thread.start()
            thread.join()
        return super().count(value)


@pytest.mark.parametrize("act", ["observe", "coarsen"])
def test_no_count_is_lost_to_another_thread(act: Any) -> None:
    """Of two event loops that count at the same time."""
    store = Overtaking()
    service = Service(store=store, across_callers=False, act=act)

    def send(row: Floats, client: str) -> None:
        asyncio.run(service.send([row, row], client))

    store.overtake = [lambda: send(USUAL[0], "bob")]
    send(USUAL[1], "alice")
    assert not store.overtake
    assert service.numbers == {"queries_watched": 4, "queries_repeated": 2}


@pytest.mark.usefixtures("patience")
def test_a_child_of_a_fork_leaves_what_waits_to_its_parent() -> None:
    """Or it would be noted twice."""
    service = Service()

    async def work() -> None:
        await service.send(USUAL[:3])
        assert service.monitor._queue is not None
        service.monitor._queue.restart_in_child()
        await service.send(USUAL[3:5])

    asyncio.run(work())
    assert service.numbers == {"queries_watched": 2}


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("suspends", [True, False])
def test_nothing_is_lost_where_an_event_loop_ends_in_the_middle(suspends: bool) -> None:
    """Also what was taken out of the queue, and nobody has begun to note."""

    class Slow(MemoryStore):
        async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
            await asyncio.sleep(0)
            return await super().watch(key, queries, rule, **more)

    store = Slow()
    store.suspends = suspends
    service = Service(store=store, across_callers=False)

    async def work() -> None:
        for client in "abcde":
            await service.send(USUAL[:2], client)
        assert service.monitor._queue is not None
        noting = asyncio.create_task(service.monitor._queue.note_all())
        while "queries_queued" in service.numbers:  # noqa: ASYNC110  # the monitor has no event for it
            await asyncio.sleep(0)
        noting.cancel()
        await asyncio.wait([noting])
        assert "queries_queued" in service.numbers, "it was put back"

    asyncio.run(work())
    assert service.numbers == {"queries_watched": 10}


def test_an_event_loop_ends_also_where_the_store_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it could not note waits for another one."""
    monkeypatch.setattr("mlguard.monitoring._query_queue._AT_END", 0.0)
    service = Service(store=Busy())
    asyncio.run(asyncio.wait_for(service.send(USUAL[:3]), 30))
    assert service.numbers == {"queries_queued": 3}


def test_event_loops_have_one_task_each_while_the_store_is_away() -> None:
    """Also where they take turns: it might be away for long."""
    service = Service(store=Away())
    loops = [asyncio.Runner(), asyncio.Runner()]
    for number in range(10):
        loops[number % 2].run(service.send(USUAL[number : number + 1]))
    assert [len(asyncio.all_tasks(one.get_loop())) for one in loops] == [1, 1]
    for one in loops:
        one.close()
    assert service.numbers == {"queries_queued": 10}


def test_what_cannot_be_told_costs_no_other_query(caplog: pytest.LogCaptureFixture) -> None:
    """A store that fails when it is asked for the end of a verdict: what was noted is noted, and so is what comes."""

    class Forgetful(MemoryStore):
        async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
            if not queries:
                raise ValueError("nothing")
            return await super().watch(key, queries, rule, **more)

    clock = Clock()
    service = Service(store=Forgetful(clock=clock), across_callers=False, clock=clock, hold=10.0)
    asyncio.run(service.send(walk(40)))
    assert service.numbers["query_suspects"] == 1
    clock.now = 11.0

    async def work() -> None:
        for client in "abc":
            await service.send(USUAL[:4], client)

    asyncio.run(work())
    assert service.numbers["queries_watched"] == 52
    assert "what a caller has asked could not be noted" in caplog.messages


def test_a_row_that_is_not_in_native_bytes_is_the_same_alone_and_among_others() -> None:
    """It was noted alone once, and then twice with others: no near-duplicate."""
    service = Service(features=lambda: USUAL[:1].astype(">f8"))
    for rows in (1, 3):
        asyncio.run(service.send([[0.0]] * rows))
    assert service.numbers == {"queries_watched": 4, "queries_repeated": 3}


def test_what_was_tried_before_is_evidence_as_it_would_have_been(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query is not compared with itself because the store was away."""
    monkeypatch.setattr("mlguard.monitoring._query_evidence.random.random", lambda: 0.5)
    noted: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}

    class Noting(Away):
        async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
            sighting = await super().watch(key, queries, rule, **more)
            noted[is_away].extend([query.apart for query in queries])
            return sighting

    for is_away in (True, False):
        store = Noting()
        service = Service(store=store, across_callers=False, key=KEY)
        store.down = False
        asyncio.run(service.send(USUAL[:1]))
        store.down = is_away
        asyncio.run(service.send(USUAL[1:2]))
        store.down = False
        asyncio.run(service.send(USUAL[2:3]))
    assert np.allclose(noted[True], noted[False], atol=1e-4)  # measured alone or together, they differ by rounding


def test_many_rows_that_were_noted_in_part_are_noted_to_the_end(events: Events) -> None:
    """Where the store went away in between: no row twice, and the verdict in the first part is an event."""

    class Shaky(MemoryStore):
        calls = 0

        async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
            self.calls += 1
            if self.calls == 2:
                raise UnavailableError("away", retry_after=1)
            return await super().watch(key, queries, rule, **more)

    service = Service(store=Shaky(), across_callers=False)
    asyncio.run(service.ask(walk(300)))
    asyncio.run(service.send(USUAL[:1], "honest"))
    assert service.numbers["queries_watched"] == 301
    assert "queries_repeated" not in service.numbers
    assert [event["event"] for event in events()] == ["query.suspected"]


@pytest.mark.parametrize("rows", [1, 200])
def test_a_verdict_that_was_lost_on_its_way_is_an_event(rows: int, events: Events) -> None:
    """The store tells only once that it began, and has answered too late, or just when the event loop ended."""

    class Late(MemoryStore):
        async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
            sighting = await super().watch(key, queries, rule, **more)
            if sighting.change:
                raise UnavailableError("late", retry_after=1)
            return sighting

    service = Service(store=Late(), across_callers=False)
    asyncio.run(service.send(walk(200).reshape(-1, rows, COLUMNS)))
    asyncio.run(service.send(USUAL[:1], "honest"))
    assert [event["event"] for event in events()] == ["query.suspected"]
    assert service.numbers["queries_suspected"] == 1


@pytest.mark.usefixtures("patience")
def test_requests_without_rows_are_noted_few_at_a_time() -> None:
    """Each of them is a call of the store."""
    most = 0

    class Counting(MemoryStore):
        calls = 0
        suspends = True

        async def watch(self, *what: Any, **more: Any) -> Sighting:
            nonlocal most
            self.calls += 1
            most = max(most, self.calls)
            await asyncio.sleep(0)
            self.calls -= 1
            return await super().watch(*what, **more)

    service = Service(features=lambda: USUAL[:0], store=Counting())

    async def work() -> None:
        await asyncio.gather(*[service.ask([], f"client {number}") for number in range(300)])

    asyncio.run(work())
    assert most == 128


@pytest.mark.parametrize("rows", [1, 256])
def test_who_is_cleared_is_not_suspected_for_what_is_being_noted(rows: int, events: Events) -> None:
    """But for what the store has been given before: one call."""
    asked = np.concatenate([USUAL[:128], walk(128)]) if rows > 1 else np.concatenate([USUAL[:1], walk(40)])

    async def work() -> None:
        store = Busy()
        service = Service(store=store, across_callers=False)
        await service.send(asked.reshape(-1, rows, COLUMNS))
        await service.send(USUAL[130:131], "eve")
        await store.asked.wait()
        clearing = asyncio.create_task(service.monitor.clear("mallory"))
        await asyncio.sleep(0)
        store.let.set()
        await clearing

    asyncio.run(work())
    assert [event["event"] for event in events()] == ["query.cleared"]
