"""Puts rows into quarantine behind the request's back, so that no answer takes longer because of it."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from mlguard.errors import UnavailableError
from mlguard.monitoring.quarantined_rows import Held

logger = logging.getLogger("mlguard")

_MOST_WAITING = 10_000  # rows that are not in the file yet


class QuarantineWriter:
    """One thread that writes. A process that is killed loses what waits; one that ends writes it first.

    Args:
        add: Keeps rows and says how many.

    Attributes:
        kept: Rows that are in quarantine, since this process began.
        dropped: Rows for which there was no room or no file. They are not accepted either.
    """

    def __init__(self, add: Callable[[Sequence[Held]], int]) -> None:
        self._add = add
        self._lock = threading.Lock()
        self.kept = self.dropped = 0
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlguard-quarantine")
        self._waiting: set[Future[None]] = set()
        self._rows_waiting = 0

    def put(self, rows: Sequence[Held]) -> None:
        """Have rows written soon."""
        if self._process != os.getpid():  # after a fork: the thread has stayed behind
            self._lock = threading.Lock()
            self._renew()
        if not self._takes(len(rows)):
            self._count(0, len(rows))
            return
        writing = self._thread.submit(self._write, rows)
        self._waiting.add(writing)
        writing.add_done_callback(self._waiting.discard)

    def _takes(self, rows: int) -> bool:
        with self._lock:
            if self._rows_waiting + rows > _MOST_WAITING:
                return False
            self._rows_waiting += rows
            return True

    def flush(self) -> None:
        """Wait until everything is written that was put so far."""
        wait([*self._waiting])

    def _write(self, rows: Sequence[Held]) -> None:
        kept = 0
        try:
            kept = self._add(rows)
        except UnavailableError as error:
            logger.error("%d rows of feedback are lost, and not accepted either: %s", len(rows), error.reason)
        except Exception:
            logger.exception("%d rows of feedback are lost, and not accepted either", len(rows))
        with self._lock:
            self._rows_waiting -= len(rows)
        self._count(kept, len(rows) - kept)

    def _count(self, kept: int, dropped: int) -> None:
        with self._lock:
            self.kept += kept
            first = dropped and not self.dropped
            self.dropped += dropped
        if first:
            logger.warning("the quarantine of feedback has no room: look at what is in it (mlguard feedback list)")
