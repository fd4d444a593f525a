"""Queries that nobody waits for: noted a moment later, many at a time, off the way of their requests.

Where a monitor only observes, no answer depends on what it finds. To measure a hundred rows takes little longer than to
measure one, and no request waits for the store.
"""

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlguard._lookout import OwnLock, restart_after_fork
from mlguard.errors import UnavailableError
from mlguard.monitoring._query_watch import AT_ONCE, Asked, Measured, QueryWatch
from mlguard.monitoring.log_context import Served, current_request
from mlguard.store import Sighting

logger = logging.getLogger("mlguard")

_LINGER = 0.1  # seconds for which queries are gathered
_AGAIN = 1.0  # seconds after which a store that does not answer is asked again
_AT_END = 5.0  # seconds for which an event loop that ends waits for it
_MOST = 4_096  # requests that wait
_MOST_NUMBERS = 2_000_000  # in their rows: 16 MB


class Waiting(NamedTuple):
    """The queries of one request, whose they are, and that request, so that events name it."""

    asked: Asked
    caller: Any
    served: Served | None


#: What waits, and what was measured of it, where that was done together with others.
Part = tuple[Waiting, Measured | None]


class QueryQueue:
    """Queries that wait to be noted, bounded.

    An event loop notes them 0.1 s after the first one, and when it ends.

    Args:
        watch: Notes them.
        tell: Called with whose they are and what the store has said, as a part of the request that they are of.
        at_once: Whether several callers' queries are noted at a time, because the store has others wait.
    """

    def __init__(
        self, watch: QueryWatch, tell: Callable[[Asked, Any, Sighting], Awaitable[None]], *, at_once: bool
    ) -> None:
        self._watch = watch
        self._tell = tell
        self._at_once = at_once
        self._lock = OwnLock()
        self.restart_in_child()
        restart_after_fork(self)

    def restart_in_child(self) -> None:
        """After a fork, in the child: what waits is noted by the parent."""
        self._waiting: deque[Waiting] = deque()
        self._numbers = 0
        self._parts: list[list[Waiting]] = []  # which are being noted
        self._tasks: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """How many requests' queries wait."""
        return len(self._waiting)

    def put(self, asked: Asked, caller: Any) -> bool:
        """Have queries noted later. False: too much waits, and somebody must wait for these."""
        self._wake()
        with self._lock:
            if len(self._waiting) >= _MOST or self._numbers + asked.rows.size > _MOST_NUMBERS:
                return False
            asked.rows = asked.rows.copy()  # the model may write into its input
            self._numbers += asked.rows.size
            self._waiting.append(Waiting(asked, caller, current_request.get()))
        return True

    def _wake(self) -> None:
        """See to it that this event loop notes what waits."""
        loop = asyncio.get_running_loop()
        task = self._tasks.get(loop)
        if task is None or task.done():
            # In no request's context, which would be the one that came first.
            task = self._tasks[loop] = loop.create_task(self._note_later(), context=contextvars.Context())
            task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        if self._tasks.get(task.get_loop()) is task:
            del self._tasks[task.get_loop()]

    def forget(self, key: bytes) -> None:
        """Note nothing of what a caller has asked."""
        with self._lock:
            self._replace([one for one in self._waiting if one.asked.key != key])
            for one in chain.from_iterable(self._parts):
                if one.asked.key == key:
                    one.asked.forget()

    async def _note_later(self) -> None:
        wait = _LINGER
        try:
            while self._waiting:
                await asyncio.sleep(wait)
                wait = _LINGER if await self.note_all() else _AGAIN
        except asyncio.CancelledError:  # the event loop ends
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AT_END):
                    await self.note_all()
            raise

    async def note_all(self) -> bool:
        """Note what waits now. Returns whether the store has answered; what it has not noted goes on waiting."""
        while part := self._take():
            callers: list[deque[Part]] = []
            try:
                callers += self._by_caller(part)
                answered = await self._note_callers(callers)
            finally:  # also what nobody has come to yet when the event loop ends
                self._put_back(part, [waiting for queries in callers for waiting, _ in queries])
            if not answered:
                return False
            await asyncio.sleep(0)  # requests have their turn
        return True

    async def _note_callers(self, callers: list[deque[Part]]) -> bool:
        """Note what each caller has asked. What is left in the end was not noted."""
        if not self._at_once or len(callers) == 1:
            return all([await self._note(one) for one in callers])
        async with asyncio.TaskGroup() as group:  # which ends when all of them have, also when it is cancelled
            tasks = [group.create_task(self._note(one)) for one in callers]
        return not any(task.cancelled() or not task.result() for task in tasks)

    def _take(self) -> list[Waiting]:
        """A part of what waits, of one kind of number: the same row in another kind is another query."""
        part: list[Waiting] = []
        room = AT_ONCE
        with self._lock:
            while self._waiting:
                rows = self._waiting[0].asked.rows
                room -= len(rows) or 1
                if part and (room < 0 or rows.dtype != part[0].asked.rows.dtype):
                    break
                self._numbers -= rows.size
                part.append(self._waiting.popleft())
            if part:
                self._parts.append(part)
        return part

    def _by_caller(self, part: list[Waiting]) -> list[deque[Part]]:
        """What each caller has asked, measured; of a single request with many rows, that is left to who notes it."""
        if len(part) == 1:
            return [deque([(part[0], None)])]
        rows = [one.asked.rows for one in part]
        distances, marks = self._watch.measured(_together(rows))
        callers: dict[bytes, deque[Part]] = {}
        begin = 0
        for one, its in zip(part, rows, strict=True):
            end = begin + len(its)
            callers.setdefault(one.asked.key, deque()).append((one, (distances[begin:end], marks[begin:end])))
            begin = end
        return [*callers.values()]

    async def _note(self, queries: deque[Part]) -> bool:
        """Note what one caller has asked, in its order. Returns whether the store has answered."""
        while queries:
            waiting, measured = queries[0]
            before = current_request.set(waiting.served)
            try:
                sighting = await self._watch.note(waiting.asked, measured)
                queries.popleft()
                await self._tell(waiting.asked, waiting.caller, sighting)
            except UnavailableError:
                return False
            except Exception:
                logger.exception("what a caller has asked could not be noted")
                if waiting.asked.sighting is None:  # or it is noted, and something else has failed
                    queries.popleft()
            finally:
                current_request.reset(before)
        return True

    def _put_back(self, part: list[Waiting], left: list[Waiting]) -> None:
        with self._lock:
            self._parts = [one for one in self._parts if one is not part]
            if left:
                self._replace([*left, *self._waiting])

    def _replace(self, waiting: list[Waiting]) -> None:
        self._waiting = deque(waiting)
        self._numbers = sum(one.asked.rows.size for one in waiting)


def _together(rows: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Rows of one kind of number, in which they stay: numpy would turn their bytes around where they are not native."""
    return np.concatenate(rows, dtype=rows[0].dtype)
