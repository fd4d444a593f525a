"""Places that requests hold: taken in turn, kept while they run, given back exactly once."""

import asyncio
import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from mlguard.store import Lease
from mlguard.traffic._leases import Leases
from mlguard.traffic.outages import Counts

T = TypeVar("T")

Departure = Callable[[], Coroutine[Any, Any, bool]]

_POLL = 0.05  # seconds between two looks for a place that another process gave back


class Places:
    """Places under many keys, as the event loops of one process see them.

    Args:
        counts: Where they are.
        limit: How many there are under each key.
        wait: Seconds for which one may be waited for.
        ttl: Seconds after which one ends that is not kept, as when its process has crashed; infinity where places do
            not outlive the process. The store then answers without waiting for anything.
    """

    def __init__(self, counts: Counts, limit: int, *, wait: float, ttl: float) -> None:
        self._counts = counts
        self._limit = limit
        self._wait = wait
        self._ttl = ttl
        self._is_local = math.isinf(ttl)
        self._lines: defaultdict[bytes, deque[_Turn]] = defaultdict(deque)
        self._leases: WeakKeyDictionary[asyncio.AbstractEventLoop, Leases] = WeakKeyDictionary()
        #: An event loop keeps no task alive by itself.
        self._tasks: set[asyncio.Task[Any]] = set()

    async def take(self, key: bytes, holder: bytes, departure: Departure) -> bool:
        """Take a place, after those who have waited for longer.

        Args:
            key: Which places.
            holder: Who wants one.
            departure: Waits until nobody waits for the answer any more; False if that cannot be told. Asked only while
                there is no place, and cancelled then.

        Returns:
            False if there was none in time, the line is full, or nobody waits any more.

        Raises:
            UnavailableError: The store does not answer (503).
        """
        line = self._lines.get(key)
        if not line and (await self._ask(key, holder)).held:
            return True
        if self._wait <= 0 or len(self._lines[key]) >= self._limit:
            return False
        turn = _Turn(asyncio.get_running_loop())
        watch = self._start(departure())
        watch.add_done_callback(turn.note_departure)
        try:
            held = await self._take_in_turn(key, holder, turn)
        finally:
            watch.cancel()
        try:
            await asyncio.wait([watch])  # the endpoint may want to receive by itself
        except asyncio.CancelledError:
            self.give_back(key, holder)
            raise
        return held

    async def _take_in_turn(self, key: bytes, holder: bytes, turn: "_Turn") -> bool:
        line = self._lines[key]
        due = turn.loop.time() + self._wait
        line.append(turn)
        try:
            while not turn.has_left and (left := due - turn.loop.time()) > 0:
                polls = not self._is_local and line[0] is turn
                await turn.wait(min(left, _POLL * random.uniform(0.5, 1.5)) if polls else left)  # noqa: S311  # no secret
                if not turn.has_left and line[0] is turn and (await self._ask(key, holder)).held:
                    return True
            return False
        finally:
            line.remove(turn)
            self._wake(key)

    def give_back(self, key: bytes, holder: bytes) -> None:
        """Give a place back, from a task that may be cancelled at any moment: nothing is waited for."""
        if self._is_local:
            _finish(self._counts.end_lease(key, holder))
            self._wake(key)
        else:
            self._start(self._give_back(key, holder))

    async def _give_back(self, key: bytes, holder: bytes) -> None:
        try:
            await self._leases_here().end(key, holder)
        finally:
            self._wake(key)

    def _wake(self, key: bytes) -> None:
        line = self._lines.get(key)
        if line:
            line[0].wake()
        else:
            self._lines.pop(key, None)

    async def _ask(self, key: bytes, holder: bytes) -> Lease:
        """Ask for a place. If the caller is cancelled meanwhile, the answer is waited for, and the place given back."""
        if self._is_local:
            return await self._counts.take_lease(key, holder, limit=self._limit, ttl=self._ttl)
        asking = self._start(self._leases_here().take(key, holder))
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

    def _leases_here(self) -> Leases:
        loop = asyncio.get_running_loop()
        leases = self._leases.get(loop)
        if leases is None:
            leases = self._leases[loop] = Leases(self._counts, self._limit, self._ttl)
        return leases


class _Turn:
    """Somebody who waits in a line. Woken from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.has_left = False
        self._woken = asyncio.Event()

    def note_departure(self, watch: "asyncio.Task[bool]") -> None:
        """The watch has ended."""
        if not watch.cancelled() and watch.result():
            self.has_left = True
            self._woken.set()

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop has ended
            self.loop.call_soon_threadsafe(self._woken.set)

    async def wait(self, seconds: float) -> None:
        """Wait until woken, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Do at once what waits for nothing. There may be no event loop any more that could do it later."""
    with suppress(StopIteration):
        work.send(None)
