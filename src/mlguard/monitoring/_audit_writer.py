"""The thread that writes an audit log: what it is handed is chained, written and on the disk, or is not called so."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Literal, Protocol

from mlguard._lookout import restart_after_fork
from mlguard.monitoring._audit_chain import Chain, Point
from mlguard.monitoring._audit_keys import ChainKeys
from mlguard.monitoring._audit_marks import ChainEnd, Flush, Mark, tell
from mlguard.monitoring._audit_records import CLOSED, DROPPED, Record, written_time
from mlguard.monitoring._audit_sinks import Sink
from mlguard.monitoring.events import record_event
from mlguard.problems import logger

_LINGER = 0.05  # seconds for which events are gathered that nobody waits for
_AT_ONCE = 1_024  # events of one write
_BREATH = 32  # events after which whoever serves requests gets a turn: every millisecond, about
_BREATH_BEHIND = 128  # where the queue fills faster: each turn may cost milliseconds, on a machine that is busy
_BEHIND = 1_024  # events that wait: the thread has too little of the processor
_EVERY = 128  # events of those, after which who hands them over gives way
_WAY = 0.004  # seconds for which it does; so many events take 3 ms
_FIRST_RETRY, _LAST_RETRY = 0.05, 2.0  # seconds
_SAY_AGAIN = 60.0  # seconds between two alarms about the same

Event = tuple[float, Mapping[str, Any]]


class Heads(Protocol):
    """Keeps how far chains have come, elsewhere."""

    def reached(self, point: Point) -> None:
        """A chain has come this far. Must not wait."""

    def keep(self) -> None:
        """Keep what was reached now."""


class AuditWriter:
    """Writes events, in a thread that starts with the first of them.

    Args:
        sink: Takes the lines.
        keys: Returns the keys that hold now.
        form: Makes a record of an event. An exception is a failure of the log, not of the event.
        max_queue: How many events may wait.
        timeout: Seconds after which a write that has no end counts as failed.
        heads: Keeps how far the chain has come.
        clock: Seconds since 1970.

    Attributes:
        written: Events that are on the disk.
        dropped: Events that never will be.
        failures: Writes that failed.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        keys: Callable[[], ChainKeys],
        form: Callable[[Mapping[str, Any]], Record],
        max_queue: int,
        timeout: float,
        heads: Heads | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.written = self.dropped = self.failures = 0
        self._sink = sink
        self._keys = keys
        self._form = form
        self._max_queue = max_queue
        self._timeout = timeout
        self._heads = heads
        self._clock = clock
        self._is_closed = False
        self._start_anew()
        restart_after_fork(self)

    def _start_anew(self) -> None:
        self._queue: SimpleQueue[Event | Mark | Flush | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._urgent = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._chain: Chain | None = None
        self._reason = "start"
        self._has_failed = self._is_ending_chain = False
        self._busy_since: float | None = None
        self._dropped_before = self.dropped
        self._next_alarm = self._next_drop_alarm = 0.0

    def restart_in_child(self) -> None:
        """After a fork, in the child: what waits is written by the parent, and the child begins a chain of its own."""
        self.written = self.dropped = self.failures = 0
        self._start_anew()
        self._sink.leave_to_parent()
        self._reason = "fork"

    # On the way of a request --------------------------------------------------------------------------------------

    def put(self, event: Mapping[str, Any]) -> None:
        """Hand an event over. Never raises, and waits for nothing.

        An event loop that is never idle lets go of the interpreter's lock for microseconds only, too short for a thread
        to wake: it would write nothing. So where the thread is far behind, it is given a few milliseconds now and then.
        """
        waiting = self._queue.qsize()
        if waiting >= self._max_queue or self._is_closed:
            self._drop()
            return
        if waiting > _BEHIND and waiting % _EVERY == 0 and not self.is_down:
            time.sleep(_WAY)
        self._queue.put((self._clock(), event))
        if self._thread is None:
            self._start()

    def put_mark(self, mark: Mark | Flush) -> None:
        """Have somebody told when everything that was put before is written."""
        self._queue.put(mark)
        self._urgent.set()
        if self._thread is None:
            self._start()

    @property
    def is_down(self) -> bool:
        """Whether events cannot be written now."""
        since = self._busy_since
        return self._has_failed or self._is_closed or (since is not None and time.monotonic() > since + self._timeout)

    @property
    def has_ended(self) -> bool:
        """Whether it was closed, and has nothing left to write."""
        is_running = self._thread is not None and self._thread.is_alive()
        return self._is_closed and not is_running and not self._has_failed

    @property
    def is_full(self) -> bool:
        """Whether no further event can wait."""
        return self._queue.qsize() >= self._max_queue

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return self._queue.qsize()

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, and end. Returns whether all of it is written."""
        self._is_closed = True
        if self._thread is None and not self._queue.empty():
            self._start()
        with self._lock:
            thread = self._thread
        if thread is None:
            return self._queue.empty() or self._lose(0)
        self._over.set()
        flush = Flush()
        self.put_mark(flush)
        thread.join(timeout)
        return flush.is_written

    def end_soon(self) -> None:
        """Have the thread write what waits, and end. Waits for nothing: for the middle of a garbage collection."""
        self._queue.put(None)  # takes no lock that this thread could hold

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="mlguard-audit", daemon=True)
                with suppress(RuntimeError):  # there can be none now, perhaps there can be one for the next event
                    thread.start()
                    self._thread = thread

    def _drop(self) -> None:
        with self._lock:
            self.dropped += 1
            now = time.monotonic()
            is_told = now < self._next_drop_alarm
            if not is_told:
                self._next_drop_alarm = now + _SAY_AGAIN
        if not is_told:
            _alarm("audit.dropped", f"events are dropped, {self.dropped} up to now", count=self.dropped)

    # In the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        events: list[Event] = []
        marks: list[Mark | Flush] = []
        retry = _FIRST_RETRY
        while True:
            is_over = self._over.is_set()  # before the look: whatever was put until then is found by it
            try:
                self._gather(events, marks)
                self._busy_since = time.monotonic()
                is_end = self._is_ending_chain
                self._write(events, is_over=is_end or (is_over and self._queue.empty()))
                if is_end:
                    self._let_go()
            except BaseException as error:  # a sink that wants to end the process is one that fails
                self._fail(error, events)
                tell(marks, is_written=False)
                if is_over:
                    self._lose(len(events))
                    break
                self._over.wait(retry)
                retry = min(2 * retry, _LAST_RETRY)
                continue
            finally:
                self._busy_since = None
            retry = _FIRST_RETRY
            self._recover()
            tell(marks, is_written=True)
            if is_over and self._queue.empty():
                break
        self._sink.abandon()
        if self._heads is not None:
            self._heads.keep()

    def _gather(self, events: list[Event], marks: list[Mark | Flush]) -> None:
        """Take what waits. Only where nothing is left of before, wait for it."""
        if not events and not self._over.is_set():
            self._take(self._queue.get(), events, marks)
            self._urgent.wait(_LINGER)
        self._urgent.clear()
        while len(events) < _AT_ONCE:
            try:
                self._take(self._queue.get_nowait(), events, marks)
            except Empty:
                break
        else:
            self._urgent.set()  # there may be more, and who waits for it

    def _take(self, item: Event | Mark | Flush | None, events: list[Event], marks: list[Mark | Flush]) -> None:
        if isinstance(item, tuple):
            events.append(item)
        elif item is not None:
            marks.append(item)
            self._is_ending_chain |= isinstance(item, ChainEnd)
        else:
            self._is_closed = True
            self._over.set()

    def _write(self, events: list[Event], *, is_over: bool) -> None:
        """Write events, and forget them.

        Raises:
            Exception: They are not written. Those that are left are to be written again.
        """
        now = written_time(self._clock())
        dropped = self.dropped - self._dropped_before
        lines = []
        if events or (dropped and self._chain is not None):
            lines = self._opened(written_time(events[0][0]) if events else now)
        chain = self._chain
        if chain is None:
            return
        if dropped:
            lines.append(chain.line({"event": DROPPED, "facts": {"count": dropped}}, time=now))
        notes = len(lines)
        breath = _BREATH if len(events) < _AT_ONCE else _BREATH_BEHIND
        for number, (at, event) in enumerate(events, 1):
            # One record at a time: a thousand would grow old together, and the garbage collector stop all for them.
            lines.append(chain.line(self._form(event), time=written_time(at)))
            if number % breath == 0:
                time.sleep(0)
        if is_over:
            lines.append(chain.line({"event": CLOSED, "facts": {}}, time=now))
        if lines:
            self._hand_over(lines, events, notes)
            self._dropped_before += dropped
            if self._heads is not None:
                self._heads.reached(chain.point)

    def _let_go(self) -> None:
        """The chain has ended, and the process may, without another word."""
        self._is_ending_chain = False
        self._chain, self._reason = None, "start"
        self._sink.abandon()
        if self._heads is not None:
            self._heads.keep()

    def _hand_over(self, lines: list[bytes], events: list[Event], notes: int) -> None:
        count = len(events)
        try:
            self._sink.write(lines)
        except BaseException:
            count = min(max(self._sink.taken - notes, 0), count)  # these must not be handed over twice
            raise
        finally:
            del events[:count]
            self.written += count

    def _opened(self, now: str) -> list[bytes]:
        """The chain is there to be gone on with. Returns what its next file begins with, if it needs one."""
        key = self._keys()[0]
        chain, reason = self._chain, "next file"
        if chain is None:
            chain, reason = Chain(key), self._reason
        elif chain.key_id != key.id:
            reason = "another key"
        elif not self._sink.wants_another:
            return []
        self._chain = None  # if this fails, nobody goes on with it
        try:
            self._sink.begin(chain.id, chain.file + 1)
        except FileExistsError:  # somebody has made it: it is not ours
            chain = Chain(key)
            self._sink.begin(chain.id, chain.file + 1)
        self._chain = chain
        return [chain.opening(key, time=now, reason=reason, others=self._sink.others(chain.id))]

    def _fail(self, error: BaseException, events: list[Event]) -> None:
        self.failures += 1
        self._has_failed = True
        self._chain = None  # nobody knows how much of it is on the disk: the next attempt begins another one
        self._reason = "failure"
        self._sink.abandon()
        now = time.monotonic()
        if now >= self._next_alarm:
            self._next_alarm = now + _SAY_AGAIN
            wrong = type(error).__name__
            _alarm("audit.failed", f"it cannot be written ({wrong})", error=wrong, waiting=len(events) + self.waiting)

    def _recover(self) -> None:
        if self._has_failed:
            self._has_failed = False
            self._next_alarm = 0.0
            _say(logging.WARNING, "audit.recovered", "it is written again", dropped=self.dropped)

    def _lose(self, count: int) -> Literal[False]:
        """The end has come, and these are not written, nor what waits."""
        with self._lock:
            count += self._queue.qsize()
            self.dropped += count
            self._queue = SimpleQueue()
        _alarm("audit.dropped", f"it ends with {count} events that cannot be written", count=self.dropped)
        return False


def _alarm(event: str, text: str, **facts: str | int) -> None:
    _say(logging.ERROR, event, text, **facts)


def _say(level: int, event: str, text: str, **facts: str | int) -> None:
    """Tell the operator. The log itself does not record it: the handler leaves out what is about the log."""
    with suppress(Exception):  # of somebody's handler, for which neither a request nor the log can do anything
        logger.log(level, "audit log: %s", text, extra={"event": event, "facts": facts})
    with suppress(Exception):
        record_event(event, **facts)
