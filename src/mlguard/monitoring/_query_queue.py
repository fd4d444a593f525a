"""Queries that nobody waits for: noted a moment later, many at a time, off the way of their requests.

Where a monitor only observes, no answer depends on what it finds. To measure a hundred rows takes little longer than to
measure one, and no request waits for the store.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import numpy as np

from mlguard._lookout import OwnLock, restart_after_fork
from mlguard.errors import UnavailableError
from mlguard.monitoring._query_watch import AT_ONCE, Asked, Measured, QueryWatch
from mlguard.monitoring.log_context import Served, current_request
from mlguard.store import Sighting

logger = logging.getLogger("mlguard")

_LINGER = 0.1  # seconds for which queries are gathered
_AGAIN = 1.0  # seconds after which a store that does not answer is asked again
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
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

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
        task = self._task
        loop = asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not loop:
            # In no request's context, which would be the one that came first.
            self._task = task = loop.create_task(self._note_later(), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def forget(self, key: bytes) -> None:
        """Note nothing of what a caller has asked."""
        with self._lock:
            self._replace([one for one in self._waiting if one.asked.key != key])

    async def _note_later(self) -> None:
        wait = _LINGER
        try:
            while self._waiting:
                await asyncio.sleep(wait)
                wait = _LINGER if await self.note_all() else _AGAIN
        except asyncio.CancelledError:  # the event loop ends
            await self.note_all()
            raise

    async def note_all(self) -> bool:
        """Note what waits now. Returns whether the store has answered; what it has not noted goes on waiting."""
        while part := self._take():
            callers = self._by_caller(part)
            if self._at_once and len(callers) > 1:
                answered = await asyncio.gather(*map(self._note, callers))
            else:
                answered = [await self._note(one) for one in callers]
            if not all(answered):
                return False
            await asyncio.sleep(0)  # requests have their turn
        return True

    def _take(self) -> list[Waiting]:
        """A part of what waits, of one kind of number: the same row in another kind is another query."""
        part: list[Waiting] = []
        room = AT_ONCE
        with self._lock:
            while self._waiting:
                rows = self._waiting[0].asked.rows
                room -= len(rows)
                if part and (room < 0 or rows.dtype != part[0].asked.rows.dtype):
                    break
                self._numbers -= rows.size
                part.append(self._waiting.popleft())
        return part

    def _by_caller(self, part: list[Waiting]) -> list[deque[Part]]:
        """What each caller has asked, measured; of a single request with many rows, that is left to who notes it."""
        if len(part) == 1:
            return [deque([(part[0], None)])]
        distances, marks = self._watch.measured(np.concatenate([one.asked.rows for one in part]))
        callers: dict[bytes, deque[Part]] = {}
        begin = 0
        for one in part:
            end = begin + len(one.asked.rows)
            callers.setdefault(one.asked.key, deque()).append((one, (distances[begin:end], marks[begin:end])))
            begin = end
        return [*callers.values()]

    async def _note(self, queries: deque[Part]) -> bool:
        """Note what one caller has asked, in its order. Returns whether the store has answered."""
        try:
            while queries:
                waiting, measured = queries[0]
                sighting = await self._watch.note(waiting.asked, measured)
                queries.popleft()
                before = current_request.set(waiting.served)
                try:
                    await self._tell(waiting.asked, waiting.caller, sighting)
                finally:
                    current_request.reset(before)
        except UnavailableError:
            return False
        except Exception:
            logger.exception("what a caller has asked could not be noted")
            queries.popleft()
            return True
        finally:
            if queries:
                self._put_back([waiting for waiting, _ in queries])
        return True

    def _put_back(self, left: list[Waiting]) -> None:
        with self._lock:
            self._replace([*left, *self._waiting])

    def _replace(self, waiting: list[Waiting]) -> None:
        self._waiting = deque(waiting)
        self._numbers = sum(one.asked.rows.size for one in waiting)
