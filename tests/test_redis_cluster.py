"""State in a real Redis Cluster, and under a real Sentinel: where keys are, and what happens when that changes."""

import asyncio
import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastapi import Depends, FastAPI
from redis.crc import key_slot

from mlguard import (
    ConfigurationError,
    RateLimit,
    RedisStore,
    StoreFullError,
    UnavailableError,
    Window,
    harden,
    store_from_url,
)
from mlguard._redis_cluster import RedisCluster
from mlguard.store import store_key
from tests.asgi import acall
from tests.redis_server import Cluster, RedisServer, Watched, redis_cluster, redis_server, watched_redis
from tests.servers import wait_until
from tests.traffic.test_rate import start

T = TypeVar("T")
LONG = 30.0  # seconds of time-out where the machine may be busy and no time-out is wanted
SECRET = "correct-horse-battery-Xk3v9"
_numbers = itertools.count()


def do(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    return asyncio.run(main())


def key() -> bytes:
    """A key that no other test has."""
    return store_key("cluster", str(next(_numbers)))


def key_of(third: int) -> bytes:
    """A key of the master with this number."""
    return next(one for one in iter(key, None) if key_slot(one.hex().encode()) * 3 // 16_384 == third)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with redis_cluster() as running:
        yield running


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """One that a test may break."""
    with redis_cluster() as running:
        yield running


async def use_all(store: RedisStore) -> None:
    """Every call, with keys on every node."""
    for third in range(3):
        one = key_of(third)
        assert (await store.hit("b", one, (Window(2, 60), Window(9, 3_600)), 2)).admitted
        refused = await store.hit("b", one, (Window(2, 60), Window(9, 3_600)), 1)
        assert (refused.admitted, refused.remaining) == (False, (0, 7))
        await store.settle("b", one, (Window(2, 60), Window(9, 3_600)), -1, at=refused.at)
        assert await store.add_nonce(key(), 60, owner=one)
        assert [(await store.spend(one, 3, limit=4, ttl=60)).admitted for _ in range(2)] == [True, False]
        assert [(await store.take_lease(one, who, limit=1, ttl=60)).held for who in (b"a", b"b")] == [True, False]
        await store.end_lease(one, b"a")
        assert (await store.take_lease(one, b"b", limit=1, ttl=60)).held
        assert await store.swap(one, None, b"v", 60)
        assert not await store.swap(one, None, b"w", 60)


# A Cluster ------------------------------------------------------------------------------------------------------------


def test_everything_works_wherever_its_keys_are(cluster: Cluster) -> None:
    """Also several values of several nodes in one call, in the order asked."""
    store = RedisStore(cluster.url, timeout=LONG)

    async def work() -> None:
        await use_all(store)
        keys = [key_of(third) for third in (2, 0, 1, 0)]
        for number, one in enumerate(keys[:3]):
            await store.put(one, str(number).encode(), 60)
        assert await store.get(*keys) == (b"0", b"1", b"2", None)
        assert await store.get() == ()

    do(work)


def test_callers_share_exactly_the_limit(cluster: Cluster) -> None:
    """Many at once, through two stores that each found out by themselves who has what."""
    stores = [RedisStore(cluster.url, timeout=LONG) for _ in range(2)]
    callers = [key_of(third) for third in range(3)]

    async def work() -> None:
        asked = itertools.product(stores, callers, range(20))
        hits = [store.hit("race", caller, (Window(7, 3_600),), 1) for store, caller, _ in asked]
        assert [hit.admitted for hit in await asyncio.gather(*hits)].count(True) == 21

    do(work)


def test_one_node_that_is_known_is_enough(cluster: Cluster) -> None:
    """It names the others; nodes that are away are passed over."""
    one = f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.masters[1].port}"
    do(lambda: use_all(RedisStore(one, timeout=LONG)))
    replica = f"redis+cluster://127.0.0.1:{cluster.replica.port}"
    do(lambda: use_all(RedisStore(replica, timeout=LONG)))


def test_slots_that_have_moved_are_followed(own_cluster: Cluster) -> None:
    """While they are on their way, and once they have arrived."""
    first, second, _ = own_cluster.masters
    store, moved = RedisStore(own_cluster.url, timeout=LONG), key_of(0)
    slot = str(key_slot(moved.hex().encode()))
    names = [next(line for line in server.lines("CLUSTER", "MYID") if len(line) == 40) for server in (first, second)]

    async def work() -> None:
        assert await store.get(moved) == (None,)
        assert second.command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0]) == "+OK"
        assert first.command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1]) == "+OK"
        await store.put(moved, b"asked", 60)  # the new node is asked for a key that the old one has not
        for server in own_cluster.masters:
            server.command("CLUSTER", "SETSLOT", slot, "NODE", names[1])
        assert await store.get(moved) == (b"asked",)
        assert (await store.hit("b", moved, (Window(1, 60),), 1)).admitted

    do(work)


def test_a_dead_node_is_nothing_to_the_callers_of_others(own_cluster: Cluster) -> None:
    """They are answered at once, and its own callers are refused until its replica has taken over, by itself."""
    known = ",".join(f"127.0.0.1:{server.port}" for server in own_cluster.masters[1:])
    store = RedisStore(f"redis+cluster://{known}", timeout=0.25)
    theirs, others = key_of(0), [key_of(1), key_of(2)]
    app = FastAPI()
    harden(app)
    asked: list[bytes] = [theirs]
    limit = RateLimit("100000/hour", by=lambda conn: asked[0].hex(), store=store)
    app.get("/", dependencies=[Depends(limit)])(lambda: None)

    async def work() -> None:
        for one in (theirs, *others):
            await store.put(one, b"kept", 600)
        await asyncio.to_thread(_wait_for_replica, own_cluster)
        own_cluster.masters[0].kill()
        seen: Counter[str] = Counter()
        for _ in range(20):
            assert await store.get(*others) == (b"kept", b"kept")
            try:
                await store.get(theirs)
            except UnavailableError as refusal:
                seen[refusal.reason.rpartition(" is ")[2]] += 1
        assert sum(seen.values()) == 20
        assert seen["not asked: it failed a moment ago"] >= 15
        await asyncio.to_thread(own_cluster.wait_for_failover)
        assert await _until_answered(store, theirs) == (b"kept",)
        assert (await acall(app, "/", method="GET")).status == 200

    do(work)
    serving = {*own_cluster.masters[1:], own_cluster.replica}
    assert {one.server for one in store.health()} == {f"Redis 127.0.0.1:{server.port}" for server in serving}
    assert all(one.available for one in store.health())


def _wait_for_replica(cluster: Cluster) -> None:
    """Until it has what the master has."""
    assert cluster.masters[0].command("WAIT", "1", "10000") in {":1", ":0"}


async def _until_answered(store: RedisStore, one: bytes) -> tuple[bytes | None, ...]:
    async with asyncio.timeout(LONG):
        while True:
            try:
                return await store.get(one)
            except UnavailableError:
                await asyncio.sleep(0.05)


def test_a_cluster_that_is_away_refuses(own_cluster: Cluster) -> None:
    """503 and no more than that, and all is well when it is back."""
    store = RedisStore(own_cluster.url, timeout=0.25)
    app = FastAPI()
    harden(app)
    app.get("/", dependencies=[Depends(RateLimit("1000/hour", store=store))])(lambda: None)

    async def work() -> None:
        assert (await acall(app, "/", method="GET")).status == 200
        for server in (*own_cluster.masters, own_cluster.replica):
            server.pause()
        assert [(await acall(app, "/", method="GET")).status for _ in range(4)] == [503] * 4
        await asyncio.to_thread(wait_until, lambda: not any(one.available for one in store.health()))
        for server in (*own_cluster.masters, own_cluster.replica):
            server.resume()
        assert await _until_answered(store, key()) == (None,)
        assert (await acall(app, "/", method="GET")).status == 200

    do(work)


def test_slots_that_nobody_has_are_refused(own_cluster: Cluster) -> None:
    """Those callers alone."""
    store, gone, there = RedisStore(own_cluster.url, timeout=LONG), key_of(2), key_of(1)

    async def work() -> None:
        for server in own_cluster.masters:
            server.command("CLUSTER", "DELSLOTS", str(key_slot(gone.hex().encode())))
        assert await store.get(there) == (None,)
        with pytest.raises(UnavailableError):
            await store.get(gone)

    do(work)


def test_a_crowd_at_the_start_looks_once(cluster: Cluster) -> None:
    """Not each of them for itself, which would keep the first requests waiting."""
    store = RedisStore(cluster.url, timeout=LONG)

    async def work() -> None:
        await asyncio.gather(*[store.get(key_of(third)) for third in range(3) for _ in range(50)])
        assert sum(one.answered for one in store.health()) == 150 + 1

    do(work)


def test_a_key_that_nobody_has_is_not_looked_for_at_each_request(cluster: Cluster) -> None:
    """Or those who ask for it would have every node tell all that it knows, again and again."""
    store, gone = RedisStore(cluster.url, timeout=LONG), key_of(0)

    async def work() -> None:
        await store.get(gone)
        way = store._redis
        assert isinstance(way, RedisCluster)
        way._slots = {slot: place for slot, place in way._slots.items() if slot != key_slot(gone.hex().encode())}
        before = sum(one.answered for one in store.health())
        for _ in range(20):
            with pytest.raises(UnavailableError):
                await store.get(gone)
        assert sum(one.answered for one in store.health()) == before
        way._looked_at = 0
        assert await store.get(gone) == (None,)

    do(work)


def test_nodes_that_do_not_agree_are_not_asked_for_ever(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is sent on a few times, and then refused."""
    from mlguard._redis_connection import Redirected, RedisConnection

    async def elsewhere(self: RedisConnection, *command: Any, asking: bool = False) -> Any:
        raise Redirected(self._place, is_asking=False)

    store = RedisStore(cluster.url, timeout=LONG)

    async def work() -> None:
        await store.get(key())
        monkeypatch.setattr(RedisConnection, "ask", elsewhere)
        with pytest.raises(UnavailableError) as refusal:
            await store.get(key())
        assert "do not agree" in refusal.value.reason

    do(work)


def test_one_server_is_no_cluster_and_a_node_is_no_server(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Who mixes them up is told by the log."""
    caplog.set_level(logging.ERROR, "mlguard")
    with redis_server() as server:
        alone = RedisStore(server.url.replace("redis://", "redis+cluster://").removesuffix("/0"), timeout=LONG)
        with pytest.raises(UnavailableError):
            do(lambda: alone.get(key()))
    node = RedisStore(f"redis://127.0.0.1:{cluster.masters[0].port}", timeout=LONG)
    with pytest.raises(UnavailableError) as refusal:
        do(lambda: node.get(key_of(1)))
    assert refusal.value.reason == "Redis is a node of a Cluster: its URL begins with redis+cluster://"


def test_a_wrong_password_stops_the_start() -> None:
    """As with one server; and a right one is used for all nodes, also those that others name."""
    with redis_server("--cluster-enabled", "yes", "--requirepass", SECRET) as server:
        place = server.url.removeprefix("redis://").removesuffix("/0")
        app = FastAPI()
        harden(app)
        store = RedisStore(f"redis+cluster://:wrong-password-1@{place}")
        app.get("/", dependencies=[Depends(RateLimit("1/hour", store=store))])(lambda: None)
        (failed,) = do(lambda: start(app))
        assert "does not accept the user or the password" in failed["message"]
        assert "wrong-password-1" not in failed["message"]
        assert [one.available for one in store.health()] == [False]


def test_a_full_node_is_told_from_one_that_is_away(own_cluster: Cluster) -> None:
    """A request that finds no room is refused, and nobody else is."""
    for server in own_cluster.masters:
        assert server.command("CONFIG", "SET", "maxmemory", "1") == "+OK"
    store = RedisStore(own_cluster.url, timeout=LONG)
    with pytest.raises(StoreFullError):
        do(lambda: store.put(key(), b"value", 60))
    assert all(one.available for one in store.health())


def test_the_setting_names_a_cluster(cluster: Cluster) -> None:
    """As the environment has it, with Valkey's name too."""
    store = store_from_url(cluster.url.replace("redis+", "valkey+"))
    assert isinstance(store, RedisStore)
    do(store.check_access)
    do(lambda: use_all(store))


# Sentinel -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched() -> Iterator[Watched]:
    with watched_redis() as running:
        yield running


def test_a_new_master_is_found(watched: Watched) -> None:
    """When the old one dies, requests are refused until the Sentinel names another; nothing has to be restarted."""
    store, one = RedisStore(watched.url, timeout=0.25), key()

    async def work() -> None:
        await use_all(store)
        await store.put(one, b"kept", 600)
        await asyncio.to_thread(lambda: watched.master.command("WAIT", "1", "10000"))
        assert await store.get(one, key()) == (b"kept", None)
        watched.master.kill()
        with pytest.raises(UnavailableError):
            await store.get(one)
        await asyncio.to_thread(watched.wait_for_failover)
        assert await _until_answered(store, one) == (b"kept",)
        await store.put(one, b"new", 60)

    do(work)
    servers = {health.server: health.available for health in store.health()}
    assert servers[f"Redis 127.0.0.1:{watched.replica.port}"]


def test_a_master_that_is_one_no_more_is_left(watched: Watched) -> None:
    """It answers, and takes nothing: the Sentinel is asked who does."""
    store, one = RedisStore(watched.url, timeout=LONG), key()

    async def work() -> None:
        await store.put(one, b"kept", 600)
        fail_over = ("SENTINEL", "FAILOVER", "iris")  # refused until it has seen that the replica is well
        await asyncio.to_thread(wait_until, lambda: watched.sentinel.command(*fail_over) == "+OK")
        await asyncio.to_thread(watched.wait_for_failover)
        async with asyncio.timeout(LONG):
            while True:
                try:
                    await store.put(one, b"new", 60)
                except UnavailableError:
                    await asyncio.sleep(0.05)
                else:
                    break

    do(work)


def test_a_sentinel_that_is_away_is_asked_again(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """A master that only hung is the master still, and one that died is found when a Sentinel is back."""
    store, one = RedisStore(watched.url, timeout=0.25), key()

    async def refused() -> None:
        with pytest.raises(UnavailableError):
            await store.get(one)

    async def work() -> None:
        await store.put(one, b"kept", 600)
        watched.master.pause()
        await refused()
        watched.master.resume()
        assert await _until_answered(store, one) == (b"kept",)
        watched.sentinel.kill()
        watched.master.pause()
        await refused()
        looked_in_vain = f"Sentinel 127.0.0.1:{watched.sentinel.port} cannot be reached"
        await asyncio.to_thread(wait_until, lambda: looked_in_vain in caplog.text)
        watched.sentinel.start()
        watched.master.resume()
        assert await _until_answered(store, one) == (b"kept",)

    do(work)


def test_a_sentinel_that_is_behind_is_not_believed_for_ever(watched: Watched) -> None:
    """One that is cut off from the others goes on naming a master that is dead; the others are asked, too."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "sentinel.conf")
        settings.write_text("sentinel monitor iris 127.0.0.1 1 2\n", "ascii")
        behind = RedisServer(Path(folder), settings=[str(settings), "--sentinel", "--bind", "127.0.0.1"])
        behind.start()
        url = f"redis+sentinel://127.0.0.1:{behind.port},127.0.0.1:{watched.sentinel.port}/iris"
        store, one = RedisStore(url, timeout=0.25), key()

        async def work() -> None:
            assert await _until_answered(store, one) == (None,)
            await store.put(one, b"kept", 600)

        try:
            do(work)
        finally:
            behind.kill()


def test_sentinels_that_know_nothing_refuse(watched: Watched) -> None:
    """A service that they do not watch over, or none that answers."""
    port = watched.sentinel.port
    for url in (f"redis+sentinel://127.0.0.1:{port}/other", "redis+sentinel://127.0.0.1:1/iris"):
        store = RedisStore(url, timeout=LONG)
        for _ in range(2):
            with pytest.raises(UnavailableError) as refusal:
                do(lambda store=store: store.get(key()))  # type: ignore[misc]
            assert "none of them knows the service" in refusal.value.reason


def test_a_watched_server_refuses_a_wrong_password(watched: Watched) -> None:
    """At start-up, as one server does."""
    assert watched.master.command("CONFIG", "SET", "requirepass", SECRET) == "+OK"
    store = RedisStore(watched.url.replace("://", "://:wrong-password-1@"), timeout=LONG)
    with pytest.raises(ConfigurationError, match="does not accept"):
        do(store.check_access)
    right = RedisStore(watched.url.replace("://", f"://:{SECRET}@"), timeout=LONG)
    do(right.check_access)
