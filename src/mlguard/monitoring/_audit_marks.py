"""Who waits until events of an audit log are on the disk."""

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress


class Mark:
    """Somebody who waits until everything before it is written.

    Args:
        future: Set to whether it is, in its loop.
    """

    __slots__ = ("future", "loop")

    def __init__(self, future: "asyncio.Future[bool]") -> None:
        self.future = future
        self.loop = future.get_loop()

    def tell(self, is_written: bool) -> None:
        """Say whether it is. Called in the loop."""
        if not self.future.done():
            self.future.set_result(is_written)


class ChainEnd(Mark):
    """The same, for who wants the chain to end there. What is put later begins another one."""


class Flush:
    """The same, for who waits in a thread."""

    __slots__ = ("is_written", "told")

    def __init__(self) -> None:
        self.told = threading.Event()
        self.is_written = False


def tell(marks: list[Mark | Flush], *, is_written: bool) -> None:
    """Tell all who wait, with one call into each of their loops."""
    loops: dict[asyncio.AbstractEventLoop, list[Mark]] = {}
    for mark in marks:
        if isinstance(mark, Mark):
            loops.setdefault(mark.loop, []).append(mark)
        else:
            mark.is_written = is_written
            mark.told.set()
    marks.clear()
    for loop, theirs in loops.items():
        with suppress(RuntimeError):  # it was closed meanwhile
            loop.call_soon_threadsafe(_tell_all, theirs, is_written)


def _tell_all(marks: Iterable[Mark], is_written: bool) -> None:
    for mark in marks:
        mark.tell(is_written)
