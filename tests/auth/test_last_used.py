"""When keys were last used: kept in the store, and never in the way of a request."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI

from mlguard import APIKey, APIKeyAuth, APIKeys, ConfigurationError, MemoryStore, StoreFullError
from mlguard.auth._last_used import LastUsed
from tests.asgi import acall
from tests.clock import Clock

ALICE, ALICE_SECRET = APIKey.generate("alice")
OTHER, OTHER_SECRET = APIKey.generate("alice")
BOB, _ = APIKey.generate("bob")
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()


class CountingStore(MemoryStore):
    """Counts what is put into it, and can be made to fail or to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.puts = 0
        self.fails = False
        self.hangs: asyncio.Event | None = None

    async def put(self, key: bytes, value: bytes, ttl: float) -> None:
        self.puts += 1
        if self.hangs is not None:
            await self.hangs.wait()
        if self.fails:
            raise StoreFullError("full", retry_after=1)
        await super().put(key, value, ttl)


async def ask(app: FastAPI, secret: str) -> int:
    status = (await acall(app, "/", method="GET", headers=[(b"x-api-key", secret.encode())])).status
    await asyncio.sleep(0)  # what was begun beside the request
    return status


def app_with(keys: APIKeys, clock: Clock) -> FastAPI:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(APIKeyAuth(keys, clock=clock))])
    async def ready() -> None: ...

    return app


def test_uses_are_noted_once_a_minute() -> None:
    """By record, by caller and by key id; refused keys are not used."""
    store, clock = CountingStore(), Clock(NOON)
    keys = APIKeys([ALICE, OTHER, BOB], store=store)
    app = app_with(keys, clock)

    async def go() -> None:
        assert await keys.last_used("alice") is None
        for now in (0.0, 1.0, 59.9, 60.0, 61.0, 119.0):
            clock.now = NOON + now
            assert await ask(app, ALICE_SECRET) == 200
        assert await ask(app, "wrong") == 401
        clock.now = NOON + 90
        assert await ask(app, OTHER_SECRET) == 200
        assert store.puts == 3
        assert await keys.last_used(ALICE) == datetime.fromtimestamp(NOON + 60, UTC)
        assert await keys.last_used(ALICE.key_id) == datetime.fromtimestamp(NOON + 60, UTC)
        assert await keys.last_used("alice") == datetime.fromtimestamp(NOON + 90, UTC)
        assert await keys.last_used("bob") is None
        assert await keys.last_used("nobody") is None

    asyncio.run(go())


def test_a_store_that_fails_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """One line says that it does, and another one when it does so again."""
    store, clock = CountingStore(), Clock(NOON)
    app = app_with(APIKeys([ALICE], store=store), clock)

    async def go(fails: Sequence[bool]) -> None:
        for store.fails in fails:
            clock.now += 60
            assert await ask(app, ALICE_SECRET) == 200

    asyncio.run(go([True, True]))
    assert [record.getMessage() for record in caplog.records] == [
        "API keys: the store does not take when keys were last used: StoreFullError"
    ]
    asyncio.run(go([False, True]))
    assert len(caplog.records) == 2


def test_a_store_that_hangs_slows_no_request() -> None:
    """Nor do ever more notes pile up: at most 64 are under way, and the next ones are made later."""
    store = CountingStore()
    made = [APIKey("caller", number.to_bytes(32, "big")) for number in range(200)]

    async def go() -> None:
        store.hangs = asyncio.Event()
        last_used = LastUsed(store)
        for key in made:
            last_used.note(key, NOON)
        await asyncio.sleep(0)
        assert store.puts == 64
        store.hangs.set()
        await asyncio.sleep(0.001)
        for key in made:
            last_used.note(key, NOON)
        await asyncio.sleep(0)
        assert store.puts == 128

    asyncio.run(go())


def test_a_clock_that_went_backwards_stops_nothing() -> None:
    """A note from the future is replaced, not waited for."""
    store = CountingStore()

    async def go() -> None:
        last_used = LastUsed(store)
        for now in (NOON + 86_400, NOON):
            last_used.note(ALICE, now)
            await asyncio.sleep(0)
        assert await last_used.read([ALICE]) == datetime.fromtimestamp(NOON, UTC)

    asyncio.run(go())


def test_another_event_loop_is_no_reason_to_refuse() -> None:
    """Trio, say: the use is not noted, and that is all."""
    store = CountingStore()
    LastUsed(store).note(ALICE, NOON)
    assert store.puts == 0


def test_processes_that_share_a_store_share_the_times() -> None:
    """Without ``store=`` it is the one that all guards share."""
    clock = Clock(NOON)
    key, secret = APIKey.generate("alice")

    async def go() -> None:
        assert await ask(app_with(APIKeys([key]), clock), secret) == 200
        assert await APIKeys([key]).last_used(key) == datetime.fromtimestamp(NOON, UTC)
        assert await APIKeys([key], store=MemoryStore()).last_used(key) is None

    asyncio.run(go())


def test_what_is_no_longer_in_the_file_is_forgotten(tmp_path: Path) -> None:
    """Years of rotated keys take no room in a process."""
    path = tmp_path / "keys.toml"

    def write(*records: APIKey) -> None:
        path.write_text("".join(f'[[keys]]\nid = "{r.id}"\ndigest = "sha256:{r.digest.hex()}"\n' for r in records))

    write(ALICE, BOB)
    keys = APIKeys.from_file(path, store=CountingStore())

    async def go() -> None:
        for record in (ALICE, BOB):
            keys.note_use(record, NOON)
        write(BOB)
        keys.refresh()
        assert [*keys._last_used._noted] == [BOB.digest]

    asyncio.run(go())


def test_a_store_must_be_one() -> None:
    """A URL is not taken for a store."""
    with pytest.raises(ConfigurationError, match=r"APIKeys\(store=...\)"):
        APIKeys([ALICE], store="redis://")  # type: ignore[arg-type]
