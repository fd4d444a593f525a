"""Units that are counted before it is known how many it will be."""

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from starlette.requests import HTTPConnection

from mlguard._guard import RequestMemory
from mlguard.errors import ConfigurationError, MLGuardError
from mlguard.traffic._by import checked_units

logger = logging.getLogger("mlguard")

#: What is under way: an event loop keeps no task alive by itself.
_tasks: set[asyncio.Task[Any]] = set()

#: Corrects what was counted by so many units more, or fewer.
Settle = Callable[[int], Awaitable[Any]]


class Reservation:
    """So many units of a limit or a budget, to be settled at the end of an ``async with`` block, exactly once.

    ``await`` it to count them, so that a refusal is still an answer of its own; ``async with`` does it where that was
    not done. A stream that breaks off, or whose client leaves, is charged what it had used: count a unit before it is
    sent. A reservation whose block never begins is given back when the request is over, under ``harden``. One whose
    process dies, or whose store does not answer at the end, is charged what it had reserved.

    Attributes:
        reserved: Units counted at the beginning.
    """

    def __init__(
        self,
        reserved: int,
        take: Callable[[], Coroutine[Any, Any, Settle]],
        *,
        where: str,
        conn: HTTPConnection,
    ) -> None:
        self.reserved = reserved
        self._used = 0
        self._take = take
        self._where = where
        self._at_end = RequestMemory.of(conn.scope).at_end
        self._has_begun = False
        self._settle: Settle | None = None

    def __del__(self) -> None:
        if not self._has_begun:  # as Python does with coroutines: a forgotten await would be no limit at all
            warnings.warn(f"{self._where}: a reservation was never awaited, and counts nothing", RuntimeWarning, 2)

    @property
    def used(self) -> int:
        """Units used so far. Set it, or add to it.

        Raises:
            ConfigurationError: When set: no whole number of at least 0.
        """
        return self._used

    @used.setter
    def used(self, units: int) -> None:
        self._used = checked_units(units, where="reservation.used")

    def __await__(self) -> Generator[Any, None, Self]:
        return self._begin_early().__await__()

    async def __aenter__(self) -> Self:
        if not self._has_begun:
            await self._begin()
        elif self._settle is None:
            raise ConfigurationError(f"{self._where}: a reservation holds for one block; make one for each")
        with suppress(ValueError):  # from here on, the block is what ends it
            self._at_end.remove(self._end_unused)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = self._end()
        if task is not None:
            await asyncio.shield(task)

    async def _begin_early(self) -> Self:
        await self._begin()
        self._at_end.append(self._end_unused)
        return self

    async def _begin(self) -> None:
        if self._has_begun:
            raise ConfigurationError(f"{self._where}: a reservation is counted once; make one for each")
        self._has_begun = True
        taking = apart(self._take())
        try:
            await asyncio.wait([taking])
        except asyncio.CancelledError:  # the store may have counted them all the same
            apart(self._give_back(taking))
            raise
        self._settle = taking.result()

    async def _give_back(self, taking: "asyncio.Task[Settle]") -> None:
        await asyncio.wait([taking])
        if not taking.cancelled() and taking.exception() is None:
            self._settle = taking.result()
            self._end()

    def _end_unused(self) -> None:
        self._end()

    def _end(self) -> "asyncio.Task[None] | None":
        """Settle, once, in a task of its own: the one that ends the block may be cancelled, as the client has gone."""
        settle, self._settle = self._settle, None
        more = self._used - self.reserved
        return None if settle is None or more == 0 else apart(self._settle_apart(settle, more))

    async def _settle_apart(self, settle: Settle, more: int) -> None:
        try:
            await settle(more)
        except MLGuardError as refusal:  # the stream is over: there is nobody to refuse
            logger.warning("%s: a reservation was not settled: %s", self._where, refusal.reason)
        except Exception:  # nor may this take the place of how the stream has ended
            logger.exception("%s: a reservation was not settled", self._where)


def apart(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Have work done that goes on when its caller is cancelled."""
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task
