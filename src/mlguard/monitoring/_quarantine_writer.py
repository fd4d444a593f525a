"""Puts rows into quarantine behind the request's back, so that no answer takes longer because of it."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from mlguard._lookout import OwnLock, restart_after_fork
from mlguard.errors import UnavailableError
from mlguard.monitoring.quarantined_rows import Held

logger = logging.getLogger("mlguard")

_MOST_WAITING = 10_000  # rows that are not in the file yet
_MOST_BYTES = 64 * 1_048_576  # of these rows: one of an image is as large as hundreds of others


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
        self._lock = OwnLock()
        self.restart_in_child()
        restart_after_fork(self)

    def restart_in_child(self) -> None:
        """Begin anew after a fork: the thread has stayed behind, and what waits is the parent's to write."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlguard-quarantine")
        self._waiting: set[Future[None]] = set()
        self._rows_waiting = self._bytes_waiting = 0
        self.kept = self.dropped = 0

    def put(self, rows: Sequence[Held]) -> None:
        """Have rows written soon."""
        if not self._takes(len(rows), _bytes_of(rows)):
            self._count(0, len(rows))
            return
        writing = self._thread.submit(self._write, rows)
        self._waiting.add(writing)
        writing.add_done_callback(self._waiting.discard)

    def _takes(self, rows: int, size: int) -> bool:
        with self._lock:
            # What comes alone is taken however large it is: a body has a bound of its own.
            too_large = self._bytes_waiting and self._bytes_waiting + size > _MOST_BYTES
            if self._rows_waiting + rows > _MOST_WAITING or too_large:
                return False
            self._rows_waiting += rows
            self._bytes_waiting += size
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
            self._bytes_waiting -= _bytes_of(rows)
        self._count(kept, len(rows) - kept)

    def _count(self, kept: int, dropped: int) -> None:
        with self._lock:
            self.kept += kept
            first = dropped and not self.dropped
            self.dropped += dropped
        if first:
            logger.warning(
                "the quarantine of feedback drops rows: it is full, or cannot be written. Look at what is in it "
                "(mlguard feedback list)"
            )


def _bytes_of(rows: Sequence[Held]) -> int:
    return sum(row.features.nbytes for row in rows)
