"""What is locked down is in a store that may be slow, down, emptied, or written to by others."""

import asyncio
import functools
import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from mlguard import (
    ConfigurationError,
    Lockdown,
    MemoryStore,
    Principal,
    RedisStore,
    StoreFullError,
    UnavailableError,
    harden,
)
from mlguard.monitoring import _lockdown_state as states
from mlguard.monitoring._lockdown_histories import united
from mlguard.monitoring._lockdown_state import Block, State, UnreadableError, read_state, write_state
from mlguard.monitoring._lockdown_watch import _TOLD
from mlguard.store import default_store
from tests.asgi import Answer, acall, call
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server
from tests.servers import wait_until
from tests.traffic.test_rate import start


class Flaky(MemoryStore):
    """A store that can be taken down, and counts how often it is read."""

    suspends = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.is_down = False
        self.reads = 0

    async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
        self.reads += 1
        if self.is_down:
            raise UnavailableError("the store is down", retry_after=1)
        await asyncio.sleep(0)
        return await super().get(*keys)

    async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
        if self.is_down:
            raise UnavailableError("the store is down", retry_after=1)
        return await super().swap(key, old, new, ttl)


@pytest.fixture
def store() -> Flaky:
    return Flaky()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def make_app(lockdown: Lockdown) -> FastAPI:
    app = FastAPI()
    harden(app)
    lockdown.install(app)
    app.get("/predict")(lambda: None)
    app.get("/health")(lambda: None)
    return app


def do(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def status(app: FastAPI, path: str = "/predict") -> int:
    return call(app, path, method="GET").status


def texts(blocks: Sequence[Block]) -> list[str]:
    return sorted(map(str, blocks))


def overwrite(store: MemoryStore, record: bytes) -> None:
    do(store.put(states._STATE, record, 1e9))


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    records = [record.__dict__ for record in caplog.records]
    return [record["facts"] for record in records if record.get("event") == name]


# A store that is down -------------------------------------------------------------------------------------------------


def test_a_block_outlives_its_store(store: Flaky) -> None:
    """Who can take the store down lifts nothing."""
    clock = Clock(1000.0)
    lockdown = Lockdown(store=store, on_store_error="allow", clock=clock)
    app = make_app(lockdown)
    do(lockdown.block_everything())
    store.is_down = True
    for _ in range(3):
        clock.now += 100_000
        assert (status(app), status(app, "/health")) == (503, 200)


def test_without_a_store_for_long_nothing_is_known(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    """So everything but health is refused: a block may be there that did not arrive. It is told once, and its end."""
    clock = Clock(1000.0)
    app = make_app(Lockdown(store=store, max_age=10, clock=clock))
    assert status(app) == 200
    store.is_down = True
    clock.now += 9.9
    assert status(app) == 200
    clock.now += 0.2
    assert (status(app), status(app, "/health")) == (503, 200)
    store.is_down = False
    caplog.set_level(logging.WARNING, "mlguard")

    async def come_back() -> None:
        lockdown = Lockdown(store=store, clock=clock)
        app = make_app(lockdown)
        store.is_down = True
        assert (await acall(app, method="GET")).status == 503
        store.is_down = False
        assert await lockdown.blocks() == ()
        assert (await acall(app, method="GET")).status == 200

    do(come_back())
    assert [message for message in caplog.messages if "answers again" in message] == [
        "lockdown: the store answers again"
    ]
    assert len([message for message in caplog.messages if "does not answer" in message]) == 2  # of each lockdown


def test_a_process_that_starts_without_its_store(store: Flaky) -> None:
    """Knows nothing: it refuses, or admits where that was chosen, until it can read."""
    store.is_down = True
    assert status(make_app(Lockdown(store=store))) == 503
    assert status(make_app(Lockdown(store=store, on_store_error="allow"))) == 200


def test_nobody_waits_for_a_store_that_fails(store: Flaky) -> None:
    """While it does, requests are judged by what is known: one read in the background, not one for each of them."""
    clock = Clock(1000.0)
    app = make_app(Lockdown(store=store, clock=clock))

    async def ask() -> int:
        assert (await acall(app, method="GET")).status == 200
        store.is_down = True
        clock.now += 5
        await acall(app, method="GET")
        reads = store.reads
        answers = [await acall(app, method="GET") for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        return store.reads - reads

    assert do(ask()) <= 1


def test_a_store_that_hangs_holds_nobody_for_long(store: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that does not end is one that has failed."""
    monkeypatch.setattr("mlguard.monitoring._lockdown_watch._PATIENCE", 0.05)
    clock = Clock(1000.0)
    lockdown = Lockdown(store=store, clock=clock)
    app = make_app(lockdown)
    do(lockdown.block_route("/predict"))
    do(lockdown.blocks())
    clock.now += 5

    async def hang(*_: bytes) -> Any:
        await asyncio.Event().wait()

    store.get = hang  # type: ignore[method-assign]
    assert do(asyncio.wait_for(acall(app, method="GET"), 20)).status == 503
    assert do(asyncio.wait_for(acall(app, "/nowhere", method="GET"), 20)).status == 404


def test_upkeep_that_hangs_holds_nobody_for_long(store: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests may wait for the reader, which must not wait for ever to tell what has changed."""
    monkeypatch.setattr("mlguard.monitoring._lockdown_watch._PATIENCE", 0.05)
    clock = Clock(1000.0)
    lockdown = Lockdown(store=store, clock=clock)
    app = make_app(lockdown)
    do(states.set_block(store, Block("route", "/predict"), ttl=None))

    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    store.swap = hang  # type: ignore[method-assign,assignment]
    assert do(asyncio.wait_for(acall(app, method="GET"), 20)).status == 503


def test_one_read_serves_many_requests(store: Flaky) -> None:
    """A crowd that meets an old record has it read once; nobody is judged by the old one."""
    clock = Clock(1000.0)
    mine, others = Lockdown(store=store, clock=clock), Lockdown(store=store)
    app = make_app(mine)

    async def ask() -> tuple[set[int], int]:
        assert (await acall(app, method="GET")).status == 200
        await others.block_everything()
        clock.now += 1
        reads = store.reads
        answers = await asyncio.gather(*(acall(app, method="GET") for _ in range(50)))
        return {answer.status for answer in answers}, store.reads - reads

    statuses, reads = do(ask())
    assert statuses == {503}
    assert reads <= 3  # the record, and who tells of the change


def test_a_loop_that_was_held_up_judges_by_nothing_old(store: Flaky) -> None:
    """What was set while something kept the event loop from running holds for the first request after."""
    mine, others = Lockdown(store=store), Lockdown(store=store)
    app = make_app(mine)

    async def ask() -> tuple[int, int]:
        before = (await acall(app, method="GET")).status
        blocked = threading.Event()

        def block() -> None:
            do(others.block_everything())
            blocked.set()

        threading.Thread(target=block).start()
        assert blocked.wait(10)
        held_until = time.monotonic() + 1.0
        while time.monotonic() < held_until:  # as a model that computes in an async endpoint does
            pass
        return before, (await acall(app, method="GET")).status

    assert do(ask()) == (200, 503)


# What the store has lost ----------------------------------------------------------------------------------------------


def test_what_a_store_has_lost_is_put_back(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """By whoever still knows: a Redis that was emptied has lifted nothing, and new processes find it there again."""
    caplog.set_level(logging.INFO, "mlguard")
    mine, others = Lockdown(store=RedisStore(redis.url, timeout=30)), Lockdown(store=RedisStore(redis.url, timeout=30))
    redis.command("FLUSHALL")
    do(mine.block_principal("alice", ttl=3_600))
    do(mine.block_route("/predict"))
    assert len(do(others.blocks())) == 2
    redis.command("FLUSHALL")
    known = do(mine.blocks())
    assert texts(known) == ["principal any method: alice", "route /predict"]
    assert do(others.blocks()) == known
    assert do(Lockdown(store=RedisStore(redis.url, timeout=30)).blocks()) == known
    assert len(events(caplog, "lockdown.restored")) == 1
    assert len(events(caplog, "lockdown.set")) == 2


def test_an_older_copy_does_not_come_back(store: Flaky) -> None:
    """A replica that lagged or a backup of last week is not what was set since."""
    lockdown = Lockdown(store=store)
    first = do(lockdown.block_route("/a"))
    (backup,) = do(store.get(states._STATE))
    assert backup is not None
    do(lockdown.lift(first))
    do(lockdown.block_route("/b"))
    overwrite(store, backup)
    assert texts(do(lockdown.blocks())) == ["route /b"]
    assert texts(do(Lockdown(store=store).blocks())) == ["route /b"]


@pytest.mark.parametrize("since", [1, 3])
def test_what_was_set_on_an_older_copy_stays_too(store: Flaky, since: int, caplog: pytest.LogCaptureFixture) -> None:
    """An operator who was quicker than those who know more, and has made as many changes, has lifted nothing."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    lockdown, others = Lockdown(store=store), Lockdown(store=store)
    do(lockdown.block_route("/a"))
    (backup,) = do(store.get(states._STATE))
    do(lockdown.block_principal("mallory"))
    do(others.blocks())
    overwrite(store, backup or b"")
    for number in range(since):
        do(states.set_block(store, Block("route", f"/b{number}"), ttl=None))
    known = do(lockdown.blocks())
    added = [f"route /b{number}" for number in range(since)]
    assert texts(known) == ["principal any method: mallory", "route /a", *added]
    assert do(others.blocks()) == do(lockdown.blocks()) == do(Lockdown(store=store).blocks()) == known
    assert [facts["what"] for facts in events(caplog, "lockdown.set")] == ["route /a", "principal", *added]
    do(others.lift(*known))
    assert do(lockdown.blocks()) == do(others.blocks()) == ()


def test_more_changes_than_are_remembered_are_taken_as_they_are(store: Flaky) -> None:
    """A worker that has slept through hundreds of them brings nothing back that was lifted."""
    lockdown = Lockdown(store=store)
    do(lockdown.block_principal("mallory"))
    do(states.lift_blocks(store, lambda _: True, by="eve", reason=""))
    for _ in range(states._CHANGES):
        do(states.set_block(store, Block("everything"), ttl=None))
    assert texts(do(lockdown.blocks())) == ["everything"]


def test_what_was_set_on_an_emptied_store_stays_too(store: Flaky) -> None:
    """An operator who was quicker than those who know has lost nothing, and nor have they."""
    lockdown, others = Lockdown(store=store), Lockdown(store=store)
    do(lockdown.block_route("/a", ttl=100))
    do(lockdown.block_route("/b", reason="before"))
    do(others.blocks())
    overwrite(store, b"{}")
    do(states.set_block(store, Block("route", "/b", reason="after"), ttl=None))
    do(states.set_block(store, Block("route", "/c"), ttl=None))
    assert texts(do(lockdown.blocks())) == ["route /a", "route /b", "route /c"]
    assert {block.reason for block in do(lockdown.blocks()) if block.target == "/b"} == {"after"}
    revision = read_state(do(store.get(states._STATE))[0]).revision
    assert texts(do(others.blocks())) == ["route /a", "route /b", "route /c"]
    assert read_state(do(store.get(states._STATE))[0]).revision == revision  # they agree, and it ends


def test_a_store_that_fails_while_it_is_put_back(store: Flaky) -> None:
    """Then it is put back at the next read."""
    lockdown = Lockdown(store=store)
    do(lockdown.block_everything())
    overwrite(store, b"{}")
    swap = store.swap

    async def fail(*_: Any, **__: Any) -> bool:
        raise UnavailableError("not now", retry_after=1)

    store.swap = fail  # type: ignore[method-assign]
    assert texts(do(lockdown.blocks())) == ["everything"]
    store.swap = swap  # type: ignore[method-assign]
    assert texts(do(Lockdown(store=store).blocks())) == []
    assert texts(do(lockdown.blocks())) == ["everything"]
    assert texts(do(Lockdown(store=store).blocks())) == ["everything"]


def test_more_than_there_is_room_for_is_not_put_back() -> None:
    """What was set last stays."""
    most = states.MOST["route"]
    mine = State(origin="a", revision=9, blocks=tuple(Block("route", f"/a{n}") for n in range(most)))
    theirs = State(origin="b", revision=1, blocks=(Block("route", "/b"), Block("everything")))
    both = united(mine, theirs)
    assert (len(both.blocks), both.revision, both.origin) == (most + 1, 2, "b")
    assert {"/b", f"/a{most - 1}"} < {block.target for block in both.blocks}
    assert "/a0" not in {block.target for block in both.blocks}
    assert read_state(write_state(both)) == both


# What nobody can read -------------------------------------------------------------------------------------------------

TAMPERED = [
    b"", b"null", b"[]", b"nonsense", b"\xff\xfe", b"{", b'{"mlguard":"Other"}', b'{"revision":-1}',
    b'{"revision":1.5}', b'{"revision":"1"}', b'{"extra":1}', b'{"blocks":[{}]}', b'{"blocks":[{"kind":"nobody"}]}',
    b'{"blocks":[{"kind":"route","target":"predict"}]}', b'{"blocks":[{"kind":"address","target":"0/0"}]}',
    b'{"blocks":[{"kind":"address","target":"10.0.0.1/8"}]}', b'{"blocks":[{"kind":"everything","ends":NaN}]}',
    b'{"blocks":[{"kind":"everything","ends":1e999}]}', b'{"blocks":[{"kind":"everything","until":1e12}]}',
    b'{"blocks":[{"kind":"everything","since":-1e11}]}',
    b'{"blocks":[{"kind":"everything"},{"kind":"everything"}]}',
    b'{"blocks":[{"kind":"principal","target":1}]}', b'{"blocks":[{"kind":"address","target":"10.0.0.1"}]}',
    b'{"blocks":[{"kind":"pin","target":"iris"}]}',
    b'{"blocks":[{"kind":"pin","target":"iris","version":0}]}', b'{"blocks":[{"kind":"everything","target":"x"}]}',
    b'{"blocks":[{"kind":"route","target":"/a","issuer":"x"}]}', b'{"blocks":' + b"[" * 100_000,
    b'{"blocks":[' + b",".join([b'{"kind":"route","target":"/a"}'] * 200) + b"]}",
    b'{"origin":"' + b"a" * (9 << 20) + b'"}',
]  # fmt: skip


@pytest.mark.parametrize("record", TAMPERED, ids=range(len(TAMPERED)))
def test_what_cannot_be_read_shuts_everything(store: Flaky, record: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows what it was to lock down. It is told once, quotes nothing, and an operator begins it anew."""
    caplog.set_level(logging.INFO, "mlguard")
    lockdown = Lockdown(store=store)
    app = make_app(lockdown)
    do(lockdown.block_route("/other"))
    overwrite(store, record)
    do(lockdown.blocks())
    do(lockdown.blocks())
    assert (status(app), status(app, "/health")) == (503, 200)
    overwrite(store, b"other " + record[:100])
    do(lockdown.blocks())
    assert len(events(caplog, "lockdown.unreadable")) == 1
    assert "nobody" not in caplog.text
    assert {m.name: m.value for m in lockdown.measurements()}["mlguard_lockdown_readable"] == 0
    with pytest.raises(ConfigurationError, match="reset"):
        do(lockdown.block_everything())
    do(states.reset(store, by="eve", reason=""))
    assert texts(do(lockdown.blocks())) == ["route /other"]  # what was known is there again
    assert status(app) == 200


def test_pins_outlive_a_record_that_cannot_be_read(store: Flaky) -> None:
    """Or the bad version would be loaded, and answer the first requests once the record can be read again."""
    lockdown = Lockdown(store=store)
    do(lockdown.pin_model("iris", 3))
    overwrite(store, b"nonsense")
    do(lockdown.blocks())
    assert lockdown.pinned("iris") == 3
    do(states.reset(store, by="eve", reason=""))
    do(lockdown.blocks())
    assert lockdown.pinned("iris") == 3
    do(lockdown.lift(*do(lockdown.blocks())))
    assert lockdown.pinned("iris") is None


def test_a_record_is_in_force_before_it_is_told(store: Flaky) -> None:
    """A handler of somebody's that raises opens nothing."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ZeroDivisionError

    lockdown = Lockdown(store=store)
    do(lockdown.blocks())
    overwrite(store, b"nonsense")
    handler = Broken()
    logger = logging.getLogger("mlguard")
    logger.addHandler(handler)
    try:
        with suppress(ZeroDivisionError):
            do(lockdown.blocks())
    finally:
        logger.removeHandler(handler)
    do(lockdown.blocks())
    assert lockdown._watch.rules.everything


MEMBERS = st.sampled_from(["blocks", "kind", "target", "revision", "changes"]) | st.text()
JSON = st.recursive(
    st.none() | st.text() | st.floats() | st.integers(),
    lambda below: st.lists(below) | st.dictionaries(MEMBERS, below),
    max_leaves=10,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_there_is_read_or_refused(record: bytes) -> None:
    """And nothing else happens."""
    try:
        state = read_state(record)
    except UnreadableError:
        return
    assert read_state(write_state(state)) == state


NAMES = st.text(min_size=1, max_size=256).filter(
    lambda text: text.isprintable() and text.encode("utf-8", "ignore").decode() == text
)


@given(NAMES, st.none() | NAMES, st.none() | NAMES, NAMES, st.none() | st.floats(1, 3e8))
def test_what_is_set_is_what_is_read(
    target: str, method: str | None, issuer: str | None, reason: str, ttl: float | None
) -> None:
    """Whatever callers are called."""
    lockdown = Lockdown(store=MemoryStore())
    block = do(lockdown.block_principal(target, method=method, issuer=issuer, reason=reason, ttl=ttl))
    assert do(lockdown.blocks()) == (block,)
    assert do(Lockdown(store=lockdown.store).blocks()) == (block,)
    with pytest.raises(Exception, match="403"):
        lockdown.admit(Principal(target, method=method or "any", issuer=issuer))


# What ends by itself --------------------------------------------------------------------------------------------------


def test_what_ends_by_itself_does(caplog: pytest.LogCaptureFixture) -> None:
    """By the store's clock, and it is in the audit log who had set it, and that it has ended."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    clock = Clock(1_000.0)
    store = Flaky(clock=clock)
    lockdown = Lockdown(store=store, clock=clock)
    app = make_app(lockdown)
    do(lockdown.block_route("/predict", ttl=60, reason="trial", by="eve"))
    do(lockdown.block_route("/other"))
    clock.now += 59
    assert status(app) == 503
    clock.now += 1.1
    assert status(app) == 200
    assert texts(do(lockdown.blocks())) == ["route /other"]
    assert texts(read_state(do(store.get(states._STATE))[0]).blocks) == ["route /other"]
    (lifted,) = events(caplog, "lockdown.lifted")
    assert (lifted["what"], lifted["by"], lifted["why"]) == ("route /predict", "expiry", "trial")


def test_it_ends_while_the_store_is_down() -> None:
    """Nobody has to ask the store for that."""
    clock = Clock(1_000.0)
    store = Flaky(clock=clock)
    lockdown = Lockdown(store=store, clock=clock, on_store_error="allow")
    app = make_app(lockdown)
    do(lockdown.block_route("/predict", ttl=60))
    assert status(app) == 503
    store.is_down = True
    clock.now += 61
    assert status(app) == 200


@pytest.mark.parametrize("skew", [-7_200.0, 7_200.0])
def test_clocks_that_differ_do_not_matter(skew: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of the workers nor that of the operator: the store's clock says when it ends."""
    now = Clock(1_000.0)
    store = Flaky(clock=now)
    skewed = Lockdown(store=store, clock=lambda: now.now + skew)
    app = make_app(skewed)
    monkeypatch.setattr(time, "time", lambda: 5_000.0 - skew)
    do(states.set_block(store, Block("everything"), ttl=60))
    now.now += 59
    assert status(app) == 503
    now.now += 2
    assert status(app) == 200


def test_what_has_ended_takes_no_room() -> None:
    """And setting something drops it, with the word that it has ended."""
    clock = Clock(0.0)
    store = MemoryStore(clock=clock)
    for number in range(states.MOST["route"]):
        do(states.set_block(store, Block("route", f"/{number}"), ttl=10))
    clock.now = 11
    do(states.set_block(store, Block("route", "/new"), ttl=None))
    state = read_state(do(store.get(states._STATE))[0])
    assert texts(state.blocks) == ["route /new"]
    assert [change.by for change in state.changes[-3:]] == ["expiry", "expiry", ""]


# Several at once ------------------------------------------------------------------------------------------------------


def operate(url: str, name: str) -> None:
    """Block forty and lift twenty of them, as commands do."""

    async def work() -> None:
        store = RedisStore(url, timeout=30)
        for number in range(20):
            await states.set_block(store, Block("principal", f"{name}-{number}"), ttl=None)
            gone = f"{name}-gone-{number}"
            await states.set_block(store, Block("principal", gone), ttl=60)
            lifted, _ = await states.lift_blocks(store, functools.partial(is_about, target=gone), by="", reason="")
            assert len(lifted) == 1

    do(work())


def is_about(block: Block, target: str) -> bool:
    return block.target == target


def test_operators_at_the_same_time_lose_nothing(redis: RedisServer) -> None:
    """Each compares before it writes. They share nothing but the store."""
    redis.command("FLUSHALL")
    names = ["a", "b", "c", "d"]
    with ThreadPoolExecutor(len(names)) as operators:
        list(operators.map(functools.partial(operate, redis.url), names))
    blocks = do(Lockdown(store=RedisStore(redis.url, timeout=30)).blocks())
    assert {block.target for block in blocks} == {f"{name}-{number}" for name in names for number in range(20)}


def test_it_gives_up_at_some_time() -> None:
    """A store in which somebody always is quicker is no reason to try for ever."""

    class Contended(MemoryStore):
        async def swap(self, *_: Any, **__: Any) -> bool:
            return False

    for attempt in (
        states.set_block(Contended(), Block("everything"), ttl=None),
        states.reset(Contended(), by="", reason=""),
    ):
        with pytest.raises(UnavailableError) as refused:
            do(attempt)
        assert "too many" in refused.value.reason


def test_each_change_is_told_once(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    """By one of all the processes that see it, with what, by whom, why and until when; also where some start later."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    workers = [Lockdown(store=store) for _ in range(4)]
    do(states.set_block(store, Block("principal", "alice", "jwt", "https://id", by="eve", reason="scraping"), ttl=60))
    do(states.set_block(store, Block("pin", "iris", version=3), ttl=None))
    do(states.lift_blocks(store, lambda block: block.kind == "pin", by="eve", reason="mended"))

    async def all_read() -> None:
        await asyncio.gather(*(worker.blocks() for worker in workers))

    do(all_read())
    do(all_read())
    do(Lockdown(store=store).blocks())
    (one, two), (lifted,) = events(caplog, "lockdown.set"), events(caplog, "lockdown.lifted")
    assert {**one, "until": None} == {
        "what": "principal", "principal": "jwt of https://id: alice", "by": "eve", "why": "scraping", "until": None,
    }  # fmt: skip
    assert one["until"] is not None
    assert (two["what"], two["until"]) == ("pin iris@3", None)
    assert lifted == {"what": "pin iris@3", "by": "eve", "why": "mended", "until": None}
    do(store.put(_TOLD, b"nonsense", 1e9))  # is no reason to tell it again
    do(all_read())
    assert len(events(caplog, "lockdown.set")) == 2


def test_nothing_is_written_that_would_not_be_read(store: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names whose characters take six bytes each are no way to shut everything."""
    monkeypatch.setattr(states, "_LARGEST", 8_000)
    lockdown = Lockdown(store=store)

    async def flood() -> None:
        for number in range(100):
            await lockdown.block_principal("\x01" * 200 + str(number))

    with pytest.raises(StoreFullError) as full:
        do(flood())
    assert "lift some" in full.value.reason
    assert status(make_app(lockdown)) == 200
    assert status(make_app(Lockdown(store=store))) == 200


def test_a_record_at_the_end_of_all_numbers_is_begun_anew(store: Flaky) -> None:
    """Who wrote that has shut everything, and lifted nothing."""
    lockdown = Lockdown(store=store)
    overwrite(store, b'{"origin":"a","revision":%d,"blocks":[{"kind":"route","target":"/a"}]}' % (2**62 - 1))
    assert texts(do(lockdown.blocks())) == ["route /a"]
    do(states.set_block(store, Block("route", "/b"), ttl=None))
    do(lockdown.blocks())
    assert status(make_app(lockdown)) == 503
    do(states.reset(store, by="", reason=""))
    assert texts(do(lockdown.blocks())) == ["route /a"]
    do(states.set_block(store, Block("route", "/b"), ttl=None))
    assert texts(do(lockdown.blocks())) == ["route /a", "route /b"]


def test_only_some_changes_are_remembered(store: Flaky) -> None:
    """Those that nobody has told by then are those that were set last."""
    for number in range(250):
        do(states.set_block(store, Block("everything", reason=str(number)), ttl=None))
    state = read_state(do(store.get(states._STATE))[0])
    assert (len(state.changes), state.changes[-1].reason) == (200, "249")


# In the background ----------------------------------------------------------------------------------------------------


def test_it_is_read_without_a_request(store: Flaky) -> None:
    """And requests have it read no more often, however many there are."""
    lockdown, others = Lockdown(store=store), Lockdown(store=store)
    app = make_app(lockdown)

    async def main() -> int:
        await acall(app, method="GET")
        await others.block_everything()
        await asyncio.to_thread(wait_until, lambda: lockdown._watch.rules.everything)
        reads = store.reads
        for _ in range(500):
            await acall(app, method="GET")
        return store.reads - reads

    assert do(main()) < 50


def test_whatever_happens_it_is_read_again(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the store that is none of mlguard's does not end the reader."""
    lockdown = Lockdown(store=store)

    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret inside")

    get = store.get
    store.get = broken  # type: ignore[method-assign]
    assert do(lockdown.blocks()) == ()
    assert "ZeroDivisionError" in caplog.text
    assert "secret inside" not in caplog.text
    do(states_set(store, get, lockdown))


async def states_set(store: Flaky, get: Any, lockdown: Lockdown) -> None:
    await lockdown.start()
    store.get = get  # type: ignore[method-assign]
    await states.set_block(store, Block("everything"), ttl=None)
    await asyncio.to_thread(wait_until, lambda: lockdown._watch.rules.everything)
    lockdown.stop()
    lockdown.stop()
    await lockdown.start()


def test_what_a_process_sets_holds_there_at_once(store: Flaky) -> None:
    """Also if the store is down a moment later."""
    lockdown = Lockdown(store=store)
    app = make_app(lockdown)
    swap, swaps = store.swap, []

    async def swap_once(*args: Any) -> bool:
        swaps.append(args)
        store.is_down = len(swaps) > 1
        return await swap(*args)

    store.swap = swap_once  # type: ignore[method-assign,assignment]
    do(lockdown.block_everything())
    assert status(app) == 503


def test_a_store_that_takes_no_changes_is_told_once(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    """Such as one that is full: what is locked down is in force, and is told to the audit log when there is room."""
    lockdown = Lockdown(store=store)
    do(states.set_block(store, Block("everything"), ttl=None))
    swap = store.swap

    async def full(*_: Any, **__: Any) -> bool:
        raise StoreFullError("no memory left", retry_after=1)

    caplog.set_level(logging.INFO, "mlguard")
    store.swap = full  # type: ignore[method-assign]
    for _ in range(3):
        assert texts(do(lockdown.blocks())) == ["everything"]
    assert caplog.text.count("takes no changes") == 1
    assert status(make_app(lockdown)) == 503
    store.swap = swap  # type: ignore[method-assign]
    do(lockdown.blocks())
    assert len(events(caplog, "lockdown.set")) == 1
    assert caplog.text.count("takes changes again") == 1
    assert "answers again" not in caplog.text


def test_who_is_slower_leaves_it_to_the_other(store: Flaky) -> None:
    """Putting back, ending and telling are done by one of those who see it; the others go by what that one wrote."""
    clock = Clock(0.0)
    lockdown = Lockdown(store=store, clock=clock)
    do(lockdown.block_route("/a", ttl=10))
    do(lockdown.block_route("/b"))
    swap = store.swap

    async def beaten(*_: Any, **__: Any) -> bool:
        return False

    store.swap = beaten  # type: ignore[method-assign]
    clock.now += 11
    assert texts(do(lockdown.blocks())) == ["route /b"]
    (record,) = do(store.get(states._STATE))
    overwrite(store, b"{}")
    assert texts(do(lockdown.blocks())) == ["route /b"]
    overwrite(store, record or b"")
    do(store.put(_TOLD, b"", 1e9))
    fresh = Lockdown(store=store, clock=clock)
    assert texts(do(fresh.blocks())) == ["route /a", "route /b"]  # by its own clock it is not over
    store.swap = swap  # type: ignore[method-assign]
    assert texts(do(lockdown.blocks())) == ["route /b"]


def test_two_event_loops_of_a_process(store: Flaky) -> None:
    """Share what they know, and each reads for itself once the other has ended."""
    lockdown, others = Lockdown(store=store), Lockdown(store=store)
    app = make_app(lockdown)
    do(others.block_everything())
    found: list[Answer] = []
    threads = [threading.Thread(target=lambda: found.append(call(app, method="GET"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in found] == [503] * 4


def test_a_store_of_one_process_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where it starts: an operator's command would not reach it."""
    app = make_app(Lockdown(store=MemoryStore()))
    do(start(app))
    assert "MLGUARD_STORE_URL" in caplog.text


def test_a_store_that_lets_nobody_in_stops_the_start(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    """As under harden."""

    class Elsewhere(Flaky):
        forgets_on_restart = False

    app = FastAPI()
    Lockdown(store=Elsewhere()).install(app)
    assert [message["type"] for message in do(start(app))] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert "MLGUARD_STORE_URL" not in caplog.text

    async def refuse() -> None:
        raise ConfigurationError("the password is wrong")

    store.check_access = refuse  # type: ignore[method-assign]
    app = FastAPI()
    Lockdown(store=store).install(app)
    assert do(start(app)) == [{"type": "lifespan.startup.failed", "message": "the password is wrong"}]


def test_a_flood_does_not_hold_it_up(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has connections of its own, so the line for those of the guards is none for it."""
    monkeypatch.setenv("MLGUARD_STORE_URL", redis.url)
    lockdown = Lockdown()
    assert repr(lockdown) == "Lockdown(store=RedisStore(prefix='mlguard'))"
    assert lockdown.store is not default_store()
    monkeypatch.setenv("MLGUARD_STORE_URL", "memory://")
    monkeypatch.setattr("mlguard.store._default", None)
    assert Lockdown().store is default_store()


def test_a_test_client_leaves_nothing_behind(store: Flaky) -> None:
    """With a lifespan or without, each request in an event loop of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older ones import what anyio has moved
        from starlette.testclient import TestClient
    lockdown = Lockdown(store=store)
    app = make_app(lockdown)
    client = TestClient(app)
    assert [client.get("/predict").status_code for _ in range(3)] == [200] * 3
    do(lockdown.block_everything())
    assert client.get("/predict").status_code == 503
    with TestClient(app) as living:
        assert [living.get("/predict").status_code, living.get("/health").status_code] == [503, 200]
