"""When something is loaded again, one load at a time, and what came of it. What was loaded stays with its owner."""

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from random import SystemRandom

from mlguard.errors import ConfigurationError

_RETRY = 5.0  # seconds until the second attempt after a failed one; then twice as many each time
_LONGEST_RETRY = 60.0
_DAY = 86_400.0
_random = SystemRandom()


class Loading:
    """Loads in threads, and never two loads at once.

    Thread-safe, and bound to no event loop.

    Args:
        load: Does it, which may take long, and returns what puts the result in its place, which may not.
        failed: Is told of each failed load: why, and whether that is news, because the one before did not fail, or
            what there was may not be used any more.
        every: Seconds between two loads. Up to a tenth less, so that many processes do not all load at once.
        max_stale: Seconds for which what was loaded may be used.
        speaking: The exceptions of ``load`` whose text may be shown. Of others only the kind is.
        name: Of the threads.
        clock: Seconds, never going backwards.

    Attributes:
        running: The load that is under way.
        loaded_at: When the last one that succeeded began.
        due_at: When the next one is due.
        fresh_until: Until when there is nothing to be done.
        failures: How many have failed since.
        failure: Why the last one failed; None if it did not.
        mistake: The same, if it will never succeed.
    """

    def __init__(
        self,
        load: Callable[[], Callable[[], None]],
        *,
        failed: Callable[[str, bool], None],
        every: float,
        max_stale: float,
        speaking: type[Exception],
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._failed = failed
        self._every = every
        self._max_stale = max_stale
        self._speaking = speaking
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._was_stale = False
        self._overdue: Future[None] | None = None
        self.running: Future[None] | None = None
        self.loaded_at = self.due_at = self.fresh_until = -math.inf
        self.failures = 0
        self.failure: str | None = None
        self.mistake: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether something was loaded, and not too long ago."""
        return self._clock() < self.loaded_at + self._max_stale

    @property
    def retry_after(self) -> int:
        """Seconds until it is worth another attempt."""
        return math.ceil(max(1, min(self.due_at - self._clock(), _DAY)))

    def begin(self, is_due: Callable[[float], bool] | None = None) -> Future[None] | None:
        """The load that is under way, or a new one if it is time.

        Args:
            is_due: Says so at this time, instead of ``due_at``. Asked only if none is under way, and never by two
                threads at once.
        """
        if self._process != os.getpid():  # after a fork: whatever thread was loading has stayed behind
            self._lock, self.running, self._process = threading.Lock(), None, os.getpid()
        with self._lock:
            now = self._clock()
            if self.running is not None or not (now >= self.due_at if is_due is None else is_due(now)):
                return self.running
            running: Future[None] = Future()
            thread = threading.Thread(target=self._run, args=(running, now), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads to be had, or the process is ending
                news = self._put_off("no thread to load in")
            else:
                self.running = running
                return running
        self._failed("no thread to load in", news)
        return None

    def now(self) -> None:
        """Load in this thread."""
        self._run(Future(), self._clock())

    def put_off(self, running: Future[None], failure: str) -> None:
        """Count a load as failed that has no end, again when another one would be due.

        It stays the only one, and may succeed yet.
        """
        with self._lock:
            if self.running is not running:  # it has just come to an end
                return
            if self._overdue is running and self._clock() < self.due_at:  # somebody else was faster to say so
                return
            self._overdue = running
            news = self._put_off(failure)
        self._failed(failure, news)

    def _run(self, running: Future[None], started_at: float) -> None:
        mistake: str | None = None
        failure: str | None = None
        news = False
        try:
            take = self._load()
        except self._speaking as error:
            failure = str(error)
        except ConfigurationError as error:
            failure = mistake = str(error)
        except BaseException as error:  # also what ends a task or a process: a thread that ends here would load no more
            failure = type(error).__name__
        with self._lock:
            self.running = None
            self.mistake = mistake
            if failure is None:
                take()
                self.failures, self.failure, self._was_stale = 0, None, False
                self.loaded_at = started_at
                self.due_at = self.fresh_until = started_at + self._every * _random.uniform(0.9, 1)
            else:
                news = self._put_off(failure)
        try:
            if failure is not None:
                self._failed(failure, news)
        finally:  # also where a log has no room, or whoever listens to it fails
            running.set_result(None)

    def _put_off(self, failure: str) -> bool:
        now = self._clock()
        is_stale = now >= self.loaded_at + self._max_stale
        news = self.failure is None or is_stale != self._was_stale
        self._was_stale = is_stale
        self.failures += 1
        self.failure = failure
        pause = min(_RETRY * 2 ** min(self.failures - 1, 8), _LONGEST_RETRY, self._every)
        self.due_at = now + pause * _random.uniform(0.9, 1)
        self.fresh_until = min(self.due_at, self.loaded_at + self._max_stale)
        return news
