"""Places that requests hold: taken in turn, kept while they run, given back exactly once."""

import asyncio
import math
import random
from collections import defaultdict, deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from mlguard.errors import UnavailableError
from mlguard.store import Lease
from mlguard.traffic.outages import Counts

T = TypeVar("T")

_POLL = 0.05  # seconds between two looks for a place that another process gave back


class Places:
    """Places under many keys, as the event loops of one process see them.

    Args:
        counts: Where they are.
        limit: How many there are under each key.
        wait: Seconds for which one may be waited for.
        ttl: Seconds after which one ends that is not kept, as when its process has crashed; infinity where places do
            not outlive the process.
    """

    def __init__(self, counts: Counts, limit: int, *, wait: float, ttl: float) -> None:
        self._counts = counts
        self._limit = limit
        self._wait = wait
        self._ttl = ttl
        self._is_local = math.isinf(ttl)
        self._lines: defaultdict[bytes, deque[_Turn]] = defaultdict(deque)
        self._keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Keeper] = WeakKeyDictionary()
        #: An event loop keeps no task alive by itself.
        self._tasks: set[asyncio.Task[Any]] = set()

    async def take(self, key: bytes, holder: bytes) -> bool:
        """Take a place, after those who have waited for longer. False if there was none in time, or the line is full.

        Raises:
            UnavailableError: The store does not answer (503).
        """
        line = self._lines.get(key)
        if not line and (await self._ask(key, holder)).held:
            return True
        if self._wait <= 0 or len(self._lines[key]) >= self._limit:
            return False
        return await self._take_in_turn(key, holder)

    async def _take_in_turn(self, key: bytes, holder: bytes) -> bool:
        line, turn = self._lines[key], _Turn(asyncio.get_running_loop())
        due = turn.loop.time() + self._wait
        line.append(turn)
        try:
            while (left := due - turn.loop.time()) > 0:
                await turn.wait(left if self._is_local else min(left, _POLL * random.uniform(0.5, 1.5)))  # noqa: S311
                if line[0] is turn and (await self._ask(key, holder)).held:
                    return True
            return False
        finally:
            line.remove(turn)
            self._wake(key)

    def give_back(self, key: bytes, holder: bytes) -> None:
        """Give a place back, from a task that may be cancelled at any moment: nothing is waited for."""
        self._start(self._give_back(key, holder))

    async def _give_back(self, key: bytes, holder: bytes) -> None:
        with suppress(UnavailableError):  # then it ends by itself
            await self._keeper().release(key, holder)
        self._wake(key)

    def _wake(self, key: bytes) -> None:
        line = self._lines.get(key)
        if line:
            line[0].wake()
        else:
            self._lines.pop(key, None)

    async def _ask(self, key: bytes, holder: bytes) -> Lease:
        """Ask for a place. If the caller is cancelled meanwhile, the answer is waited for, and the place given back."""
        if self._is_local:  # it answers at once
            return await self._keeper().take(key, holder)
        asking = self._start(self._keeper().take(key, holder))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda _: self.give_back(key, holder))
            raise

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _keeper(self) -> "_Keeper":
        loop = asyncio.get_running_loop()
        keeper = self._keepers.get(loop)
        if keeper is None:
            keeper = self._keepers[loop] = _Keeper(self._counts, self._limit, self._ttl)
        return keeper


class _Turn:
    """Somebody who waits in a line. Woken from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._woken = asyncio.Event()

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop has ended
            self.loop.call_soon_threadsafe(self._woken.set)

    async def wait(self, seconds: float) -> None:
        """Wait until woken, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()


class _Keeper:
    """Keeps the places that one event loop holds from ending by themselves."""

    def __init__(self, counts: Counts, limit: int, ttl: float) -> None:
        self._counts = counts
        self._limit = limit
        self._ttl = ttl
        self._held: dict[bytes, bytes] = {}  # keys by holder
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def take(self, key: bytes, holder: bytes) -> Lease:
        lease = await self._counts.take_lease(key, holder, limit=self._limit, ttl=self._ttl)
        if lease.held and not math.isinf(self._ttl):
            self._held[holder] = key
            if self._task is None:
                self._task = asyncio.ensure_future(self._keep())
        return lease

    async def release(self, key: bytes, holder: bytes) -> None:
        self._held.pop(holder, None)
        if not math.isinf(self._ttl):
            async with self._lock:  # after a renewal that is under way, which would take it again
                pass
        await self._counts.end_lease(key, holder)

    async def _keep(self) -> None:
        try:
            while self._held:
                await asyncio.sleep(self._ttl / 3)
                for holder in [*self._held]:
                    await self._renew(holder)
        finally:
            self._task = None

    async def _renew(self, holder: bytes) -> None:
        async with self._lock:
            key = self._held.get(holder)
            if key is not None:
                with suppress(UnavailableError):  # the request goes on, and the next time comes
                    await self._counts.take_lease(key, holder, limit=self._limit, ttl=self._ttl)
