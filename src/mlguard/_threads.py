"""Threads for what is costly: few at a time, a line of those who wait, and a refusal beyond its end."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from mlguard._numbers import whole
from mlguard.errors import OverloadedError

T = TypeVar("T")


class FewThreads:
    """Runs costly work in threads, so that the event loop goes on, and never more than a few at a time.

    Args:
        work: What is done, for errors and names of threads: ``"passwords"``.
        where: Whose settings these are, for errors.
        concurrency: How many work at the same time in this process. None: one less than there are cores.
        max_waiting: How many may wait for their turn.

    Attributes:
        concurrency: How many work at the same time.
        retry_after: Seconds after which who was refused may try again.

    Raises:
        ConfigurationError: A setting out of its range.
    """

    def __init__(self, work: str, *, where: str, concurrency: int | None, max_waiting: int) -> None:
        self.concurrency = (
            _spare_cores() if concurrency is None else whole(f"{where}(concurrency=...)", concurrency, least=1)
        )
        self.retry_after = 1
        self._max_waiting = whole(f"{where}(max_waiting=...)", max_waiting, least=0)
        self._work = work
        self._threads = self._new_threads()
        self._process = os.getpid()
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}
        self._lock = threading.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Turn"]:
        """Wait for a place among those who may work, and hold it.

        Raises:
            OverloadedError: Too many are waiting (503).
        """
        line = self._line()
        if line.is_full:
            raise OverloadedError(f"too much is waiting already: {self._work}", retry_after=self.retry_after)
        await line.enter()
        turn = Turn(self._threads)
        try:
            yield turn
        finally:
            turn.call_when_done(line.leave)

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.concurrency, thread_name_prefix=f"mlguard-{self._work}")

    def _line(self) -> "_Line":
        loop = asyncio.get_running_loop()
        if self._process != os.getpid():  # after a fork: the threads have stayed behind, and nobody would work
            self._threads, self._lines, self._lock = self._new_threads(), {}, threading.Lock()
            self._process = os.getpid()
        with self._lock:
            line = self._lines.get(loop)
            if line is None:
                for ended in [other for other in self._lines if other.is_closed()]:
                    del self._lines[ended]
                line = self._lines[loop] = _Line(self.concurrency, self._max_waiting)
            return line


class Turn:
    """A place among those who may work at the same time. See :meth:`FewThreads.turn`."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._running: asyncio.Future[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Have a thread do something, and wait for what comes of it."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        self._running = running
        return await asyncio.shield(running)  # a thread goes on when its caller is cancelled

    def call_when_done(self, leave: Callable[[], None]) -> None:
        """Call when no thread works for this turn any more: who hangs up half way holds the place until then."""
        if self._running is None or self._running.done():
            leave()
        else:
            self._running.add_done_callback(lambda _: leave())


class _Line:
    """Who may work now, and who waits, on one event loop."""

    def __init__(self, places: int, max_waiting: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._max_waiting = max_waiting
        self._waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether whoever comes now can neither work nor wait."""
        return self._places.locked() and self._waiting >= self._max_waiting

    async def enter(self) -> None:
        """Wait for a place."""
        if not self._places.locked():
            await self._places.acquire()  # at once
            return
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1

    def leave(self) -> None:
        """Give the place to the next one."""
        self._places.release()


def _spare_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)
