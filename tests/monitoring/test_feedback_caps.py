"""Nobody gets more in than their share, however many ask at once: in memory, and in a real Redis."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import MemoryStore, RedisStore, Spending, Store
from mlguard.monitoring._feedback_caps import FeedbackCaps
from mlguard.traffic.periods import Quota
from tests.redis_server import RedisServer, redis_server

NOW = 1_790_000_000.0
DAY = 86_400.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def where(request: pytest.FixtureRequest) -> str:
    """Where to count, as a URL."""
    if request.param == "memory":
        return "memory://"
    server: RedisServer = request.getfixturevalue("redis")
    server.command("FLUSHALL")
    return server.url


def store(url: str) -> Store:
    return MemoryStore() if url == "memory://" else RedisStore(url, timeout=30)


def caps(counts: Store, *, max_share: float = 0.1, at_least: int = 100, quota: str = "1000/day") -> FeedbackCaps:
    return FeedbackCaps(
        "test", Quota.parse(quota, where="test"), max_share=max_share, share_of_at_least=at_least, counts=counts
    )


def test_a_share_is_not_exceeded_by_asking_at_once(where: str) -> None:
    """Two hundred requests of one caller at once get in what one after the other would, or less, and never more."""

    async def race() -> tuple[int, int]:
        two = [
            caps(counts) for counts in ([store(where)] * 2 if where == "memory://" else [store(where), store(where)])
        ]
        got = await asyncio.gather(*(two[at % 2].admit(("alice",), 3, NOW) for at in range(200)))
        late = [await two[0].admit(("alice",), 3, NOW) for _ in range(4)]
        return sum(got) + sum(late), max(got)

    total, most = asyncio.run(race())
    assert total == 10
    assert most == 3


def test_no_share_is_exceeded_by_many_at_once(where: str) -> None:
    """Whatever others do meanwhile: of all that was accepted, nobody has more than their part."""

    async def race() -> dict[int, int]:
        one = caps(store(where), at_least=20)
        got = dict.fromkeys(range(30), 0)

        async def send(caller: int) -> None:
            for _ in range(5):
                got[caller] += await one.admit((f"{caller}",), 4, NOW)

        await asyncio.gather(*map(send, got))
        return got

    got = asyncio.run(race())
    total = sum(got.values())
    assert total > 60
    assert max(got.values()) <= max(2, total // 10)


def test_a_share_of_one_is_no_limit(where: str) -> None:
    """Who is alone may be everybody, if that was said."""

    async def alone() -> list[int]:
        one = caps(store(where), max_share=1.0, at_least=10)
        return [await one.admit(("alice",), 30, NOW) for _ in range(3)]

    assert asyncio.run(alone()) == [30, 30, 30]


@given(st.integers(0, 500), st.integers(0, 5_000), st.integers(0, 50_000), st.floats(0.001, 1.0), st.integers(1, 2_000))
def test_as_many_as_fit_and_no_more(rows: int, own: int, others: int, share: float, at_least: int) -> None:
    """With them a caller has no more than the share of all or of the least, and with one more they would have."""
    one = caps(MemoryStore(), max_share=share, at_least=at_least)
    total = own + others
    room = one._room(rows, own, total)
    assert 0 <= room <= rows
    assert room == 0 or own + room <= share * max(total + room, at_least)
    if room < rows:
        assert own + room + 1 > share * max(total + room + 1, at_least) - 1e-6


def test_the_cap_is_not_exceeded_by_asking_at_once(where: str) -> None:
    """Rows are charged all or none, and no more than there may be."""

    async def race() -> int:
        one = caps(store(where), quota="100/day")
        charges = await asyncio.gather(*(one.charge(("alice",), 7, NOW) for _ in range(50)))
        return sum(charge.spending.admitted for charge in charges)

    assert asyncio.run(race()) == 14


def test_a_total_that_lags_behind_lets_nothing_in() -> None:
    """A caller's own rows may be counted before they are in the total: then there is no more room than with them."""
    assert caps(MemoryStore(), max_share=1.0, at_least=3)._room(5, 5, 0) == 0
    assert caps(MemoryStore(), max_share=1.0, at_least=7)._room(5, 5, 0) == 2


def test_a_new_period_begins_with_nothing(where: str) -> None:
    """The next day everybody has their share again, and not that of yesterday's total."""

    async def days() -> list[int]:
        one = caps(store(where))
        for caller in range(40):
            await one.admit((f"{caller}",), 10, NOW)
        return [await one.admit(("alice",), 99, NOW), await one.admit(("alice",), 99, NOW + DAY)]

    assert asyncio.run(days()) == [44, 10]


def test_it_takes_as_many_trips_whatever_comes_of_it() -> None:
    """Or the time of an answer would tell who counts them."""

    class Watched(MemoryStore):
        trips = 0

        async def spend(self, key: bytes, units: int, *, limit: int | None, ttl: float) -> Spending:
            self.trips += 1
            return await super().spend(key, units, limit=limit, ttl=ttl)

    async def ask() -> list[int]:
        counts = Watched()
        one = caps(counts)
        trips = []
        for rows in (0, 5, 99, 5):
            before = counts.trips
            await one.admit(("alice",), rows, NOW)
            trips.append(counts.trips - before)
        return trips

    assert asyncio.run(ask()) == [4, 4, 4, 4]
