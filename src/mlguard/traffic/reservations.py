"""Units that are counted before it is known how many it will be."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from mlguard.errors import MLGuardError
from mlguard.traffic._by import checked_units

logger = logging.getLogger("mlguard")

#: Settlements under way: an event loop keeps no task alive by itself.
_settling: set[asyncio.Task[None]] = set()


class Reservation:
    """So many units of a limit or a budget, to be settled at the end of an ``async with`` block, exactly once.

    A stream that breaks off, or whose client leaves, is charged what it had used. One whose process dies is charged
    what it had reserved.

    Attributes:
        reserved: Units counted at the beginning.
    """

    def __init__(self, reserved: int, take: Callable[[], Awaitable[Callable[[int], Any]]], *, where: str) -> None:
        self.reserved = reserved
        self._used = 0
        self._take = take
        self._where = where
        self._settle: Callable[[int], Any] | None = None

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

    async def __aenter__(self) -> Self:
        self._settle = await self._take()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        settle, self._settle = self._settle, None
        more = self._used - self.reserved
        if settle is None or more == 0:
            return
        # In a task of its own: the one that ends the block may be cancelled, because the client has gone.
        task = asyncio.ensure_future(self._settle_apart(settle, more))
        _settling.add(task)
        task.add_done_callback(_settling.discard)
        await asyncio.shield(task)

    async def _settle_apart(self, settle: Callable[[int], Any], more: int) -> None:
        try:
            await settle(more)
        except MLGuardError as refusal:  # the stream is over: there is nobody to refuse
            logger.warning("%s: a reservation was not settled: %s", self._where, refusal.reason)
