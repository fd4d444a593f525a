"""When each key was last used, in the store: once a minute a key, and never in the way of a request."""

import asyncio
import contextvars
from collections.abc import Container, Iterable
from datetime import UTC, datetime

from mlguard.auth.key_records import APIKey
from mlguard.problems import logger
from mlguard.store import Store, default_store, store_key

_EVERY = 60.0  # seconds between two notes of one key in one process
_KEPT = 400 * 86_400.0  # seconds that a note is kept: a year, and some days to look at the list
_AT_ONCE = 64  # notes under way; while a store hangs, further ones wait for a later request


class LastUsed:
    """Notes and reads when keys were last used.

    Args:
        store: Where it is kept. None is the store that all guards share, from the first note on.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._noted: dict[bytes, float] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._failing = False

    def note(self, key: APIKey, now: float) -> None:
        """Note that a key was used, unless that was noted within the last minute.

        Args:
            key: The key.
            now: Seconds since 1970.
        """
        if -_EVERY < now - self._noted.get(key.digest, 0.0) < _EVERY or len(self._under_way) >= _AT_ONCE:
            return
        self._noted[key.digest] = now
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # another kind of event loop, which guards can do with and this cannot
            return
        # Apart from the request: it waits for nothing here, and nothing of it is kept by a store that hangs.
        task = loop.create_task(self._write(key, now), context=contextvars.Context())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def forget_all_but(self, digests: Container[bytes]) -> None:
        """Let go of keys that are no more."""
        self._noted = {digest: noted for digest, noted in self._noted.copy().items() if digest in digests}

    async def read(self, keys: Iterable[APIKey]) -> datetime | None:
        """When the last of these keys was used; None if none was, as far as the store knows."""
        places = [_place(key) for key in keys]
        noted = [float(value) for value in await self._open().get(*places) if value is not None] if places else []
        return datetime.fromtimestamp(max(noted), UTC) if noted else None

    async def _write(self, key: APIKey, now: float) -> None:
        try:
            await self._open().put(_place(key), repr(now).encode(), _KEPT)
        except Exception as error:  # what a key was last used for is worth no request
            self._say_once(failing=True, why=type(error).__name__)
        else:
            self._say_once(failing=False)

    def _say_once(self, *, failing: bool, why: str = "") -> None:
        if failing and not self._failing:
            logger.warning("API keys: the store does not take when keys were last used: %s", why)
        self._failing = failing

    def _open(self) -> Store:
        if self._store is None:
            self._store = default_store()
        return self._store


def _place(key: APIKey) -> bytes:
    return store_key("api key last used", key.digest.hex())
