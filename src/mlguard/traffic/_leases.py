"""Leases that one event loop holds in a store outside this process: renewed while they are needed, ended after."""

import asyncio
import contextvars
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from mlguard.errors import OverloadedError, UnavailableError
from mlguard.store import Lease
from mlguard.traffic.outages import Counts

_AGAIN = 1.0  # seconds until a store that has failed is asked again to end a lease
_MOST_OWED = 10_000  # about 2 MB; those beyond end by themselves


class Leases:
    """Leases of one guard.

    A store that fails for a moment must not keep places taken for as long as a lease holds: what could not be ended is
    ended once it answers again, and so is what it may have given without being able to say so.

    Args:
        counts: Where they are.
        limit: How many there are under each key.
        ttl: Seconds for which one holds. Renewed three times in that time.
    """

    def __init__(self, counts: Counts, limit: int, ttl: float) -> None:
        self._counts = counts
        self._limit = limit
        self._ttl = ttl
        self._held: dict[bytes, bytes] = {}  # keys by holder
        self._owed: dict[bytes, tuple[bytes, float]] = {}  # by holder, the key, and when it ends by itself; in order
        self._keeping: asyncio.Task[None] | None = None
        self._repaying: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def take(self, key: bytes, holder: bytes) -> Lease:
        """Take one, and keep it if it was given.

        Raises:
            UnavailableError: The store does not answer (503).
        """
        try:
            lease = await self._counts.take_lease(key, holder, limit=self._limit, ttl=self._ttl)
        except OverloadedError:  # it was not asked
            raise
        except UnavailableError:
            self._owe(key, holder)
            raise
        if lease.held:
            self._held[holder] = key
            if self._keeping is None:
                self._keeping = _apart(self._keep())
        return lease

    async def end(self, key: bytes, holder: bytes) -> None:
        """End one, now or once the store answers again. Nothing happens if it was not held."""
        self._held.pop(holder, None)
        async with self._lock:  # after a renewal that is under way, which would take it again
            pass
        try:
            await self._counts.end_lease(key, holder)
        except UnavailableError:
            self._owe(key, holder)

    async def _keep(self) -> None:
        try:
            while self._held:
                await asyncio.sleep(self._ttl / 3)
                for holder in [*self._held]:
                    await self._renew(holder)
        finally:
            self._keeping = None

    async def _renew(self, holder: bytes) -> None:
        async with self._lock:
            key = self._held.get(holder)
            if key is not None:
                with suppress(UnavailableError):  # the request goes on, and the next time comes
                    await self._counts.take_lease(key, holder, limit=self._limit, ttl=self._ttl)

    def _owe(self, key: bytes, holder: bytes) -> None:
        if len(self._owed) < _MOST_OWED:
            self._owed[holder] = key, asyncio.get_running_loop().time() + self._ttl
        if self._repaying is None:
            self._repaying = _apart(self._repay())

    async def _repay(self) -> None:
        try:
            while self._owed:
                await asyncio.sleep(_AGAIN)
                with suppress(UnavailableError):
                    await self._end_owed()
        finally:
            self._repaying = None

    async def _end_owed(self) -> None:
        for holder, (key, ends) in [*self._owed.items()]:
            if ends > asyncio.get_running_loop().time():
                await self._counts.end_lease(key, holder)
            del self._owed[holder]


def _apart(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that is no part of the request in which it began: its log lines are not about that."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())
