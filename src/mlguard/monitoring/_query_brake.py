"""What holds up or refuses a suspect before the body of its request is read."""

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard
from mlguard._order import once
from mlguard.traffic._by import By, signature


class QueryBrake(Guard):
    """The part of a monitor that needs no body: it stops those who are suspects already.

    Args:
        monitor: Whose part it is.
        by: Whose queries.
        stop: Waits, or refuses.
        statuses: The refusals it can give.
        waits: Whether it waits.
    """

    control = Control.DETECTION
    turn = 2**62  # a limit that refuses anyway does so before

    def __init__(
        self,
        monitor: Guard,
        by: By,
        stop: Callable[[HTTPConnection, Any], Any],
        statuses: tuple[int, ...],
        *,
        waits: bool,
    ) -> None:
        self.part_of = monitor
        self._stop = stop
        self.suspends = waits
        self.statuses = statuses
        self.__signature__ = signature(by)

    async def __call__(self, conn: HTTPConnection, who: Any = None) -> None:
        """Stop a suspect."""
        await once(conn, self, partial(self._stop, conn, who))
