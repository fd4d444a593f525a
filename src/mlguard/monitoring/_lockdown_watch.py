"""What one process knows of the lockdown in the store, and that it is never older than it may be."""

import asyncio
import contextvars
import logging
import math
import threading
from collections.abc import Callable
from typing import NamedTuple

from mlguard.errors import MLGuardError
from mlguard.monitoring._lockdown_histories import newest
from mlguard.monitoring._lockdown_rules import Rules
from mlguard.monitoring._lockdown_state import (
    State,
    UnreadableError,
    read_state,
    spell_time,
    store_clock,
    stored,
    swap,
    without_ended,
)
from mlguard.monitoring.events import record_event
from mlguard.store import Store, store_key

logger = logging.getLogger("mlguard")

_EVERY = 0.5  # seconds between two reads
#: Seconds after which a request waits for the next read. Whatever was set a second ago holds for it, then, also where
#: something has kept the event loop from running.
STALE = 0.9
_PATIENCE = 3.0  # seconds for one read or its upkeep, of whatever store: requests may be waiting
_CLOCK_EVERY = 60.0  # seconds between two looks at the store's clock
_TOLD = store_key("lockdown", "told")
_TOLD_KEPT = 100 * 365 * 86_400.0  # seconds


class _Reader(NamedTuple):
    """What reads for one event loop."""

    lock: asyncio.Lock
    task: "asyncio.Task[None]"


class Watch:
    """Reads the record again and again, from the first use in an event loop until that ends.

    What was read last stays in force while the store does not answer. A record that is gone, or is an older copy of the
    one that was read before, is put back: a store that has lost its data lifts nothing, as long as one process knows.

    Args:
        store: Where it is.
        clock: Seconds, never going backwards.
        on_change: Called when something else is in force.

    Attributes:
        read_at: When the last reading that succeeded began.
        is_readable: Whether the record could be read.
    """

    def __init__(self, store: Store, clock: Callable[[], float], on_change: Callable[[], None]) -> None:
        self.read_at = -math.inf
        self.is_readable = True
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.RLock()  # a process may have several event loops
        self._state = State()
        #: What the store had when it was read last, and whether what is known is just that.
        self._record: bytes | None = None
        self._is_stored = False
        self._rules = Rules(State())
        #: The store's clock less ours, and when that was found out.
        self._ahead: float | None = None
        self._ahead_at = -math.inf
        self._changes_at = math.inf
        self._told = 0  # the last revision that was told, of what is known now
        self._health = _Health(
            "the store does not answer; what was read last stays in force", "the store answers again"
        )
        self._upkeep = _Health(
            "the store takes no changes; what has changed is told when it does", "the store takes changes again"
        )
        self._readers: dict[asyncio.AbstractEventLoop, _Reader] = {}

    @property
    def rules(self) -> Rules:
        """What is in force now, as far as this process knows."""
        if self._clock() >= self._changes_at:
            self._apply(self._state if self.is_readable else None)
        return self._rules

    @property
    def age(self) -> float:
        """Seconds since the record was read."""
        return self._clock() - self.read_at

    def start(self) -> _Reader:
        """Have this event loop read it again and again, if it does not yet."""
        loop = asyncio.get_running_loop()
        reader = self._readers.get(loop)
        if reader is None or reader.task.done():
            for other in [one for one in list(self._readers) if one.is_closed()]:
                self._readers.pop(other, None)
            lock = asyncio.Lock()
            # In no request's context, which would be the one that came first, for ever.
            task = loop.create_task(self._keep_reading(lock), context=contextvars.Context())
            reader = self._readers[loop] = _Reader(lock, task)
        return reader

    def stop(self) -> None:
        """End what :meth:`start` has begun in this event loop."""
        reader = self._readers.pop(asyncio.get_running_loop(), None)
        if reader is not None:
            reader.task.cancel()

    async def freshen(self) -> None:
        """Wait for the record to be read, if it is too old. Not while the store fails: then nobody waits."""
        reader = self.start()
        if self.age > STALE and not self._health.is_failing:
            async with reader.lock:
                if self.age > STALE and not self._health.is_failing:
                    await self.read()

    async def _keep_reading(self, lock: asyncio.Lock) -> None:
        while True:
            async with lock:
                if self.age >= _EVERY / 2:  # another event loop of the process may have read it
                    await self.read()
            await asyncio.sleep(_EVERY)

    async def read(self) -> None:
        """Read the record now. Where that cannot be done, what was read before stays in force."""
        began = self._clock()
        try:
            async with asyncio.timeout(_PATIENCE):
                record = await stored(self._store)
        except Exception as error:  # of whatever kind: the reader must go on
            self._health.note(error)
            return
        self._take(record)
        self.read_at = began
        self._health.note(None)
        await self._look_after()

    async def take_own(self, record: bytes) -> None:
        """Have in force at once what this process has written."""
        self._take(record)
        await self._look_after()

    def _take(self, record: bytes | None) -> None:
        """Have what the record says in force."""
        with self._lock:
            self._take_it(record)

    def _take_it(self, record: bytes | None) -> None:
        if self._is_stored and record == self._record:
            return
        try:
            state = read_state(record)
        except UnreadableError:
            was_readable, self.is_readable = self.is_readable, False
            self._apply(None)
            self._record, self._is_stored = record, True
            if was_readable:
                _tell_unreadable()
            return
        known = self._state
        kept = newest(known, state)
        if kept.origin != known.origin:
            self._told = 0
        self._state, self.is_readable = kept, True
        self._apply(kept)
        self._record, self._is_stored = record, kept is state

    async def _look_after(self) -> None:
        """What has to be done once what the record says is in force. What cannot be done now is done after a read."""
        try:
            async with asyncio.timeout(_PATIENCE):
                if self.is_readable and not self._is_stored:
                    await self._put_back()
                if self.is_readable and self._is_stored:
                    await self._end_what_has_ended()
                    await self._tell(self._state)
        except Exception as error:
            self._upkeep.note(error)
        else:
            self._upkeep.note(None)

    async def _put_back(self) -> None:
        kept = self._state
        written = await swap(self._store, self._record, kept)
        if written is None:  # somebody else was quicker: the next read sees what they have written
            return
        self._record, self._is_stored = written, True
        logger.error("lockdown: the store had lost what is locked down, or a part of it; it was put back")
        record_event("lockdown.restored", revision=kept.revision, blocks=len(kept.blocks))
        (told,) = await self._store.get(_TOLD)
        await self._keep_told(told, kept.origin, max(self._told, _read_told(told, kept.origin)))

    async def _end_what_has_ended(self) -> None:
        now = self._clock()
        if self._rules.changes_at < math.inf and now - self._ahead_at >= _CLOCK_EVERY:
            time = await store_clock(self._store)
            self._ahead, self._ahead_at = time - (now + self._clock()) / 2, now
            self._apply(self._state)
        if self._ahead is not None:
            rest = without_ended(self._state, self._clock() + self._ahead)
            if rest is not self._state:
                written = await swap(self._store, self._record, rest)
                if written is not None:
                    self._take(written)

    def _apply(self, state: State | None) -> None:
        """Put a record in force; None: one that cannot be read."""
        with self._lock:
            now = None if self._ahead is None else self._clock() + self._ahead
            rules = Rules(state, now)
            if state is None:  # or a version that is not to be trusted would be loaded again meanwhile
                rules.pins = self._rules.pins
            if rules.blocks == self._rules.blocks and rules.everything == self._rules.everything:
                rules = self._rules  # the same, and whoever has looked at it need not again
            self._changes_at = math.inf if self._ahead is None else rules.changes_at - self._ahead
            changed, self._rules = rules is not self._rules, rules
        if changed:
            self._on_change()

    async def _tell(self, state: State) -> None:
        """Record what was changed, in one of all the processes that see it."""
        if state.revision <= self._told:
            return
        (known,) = await self._store.get(_TOLD)
        told = max(self._told, _read_told(known, state.origin))
        if told < state.revision:
            if not await self._keep_told(known, state.origin, state.revision):
                return  # another process is telling it, which the next read sees
            for change in state.changes:
                if change.revision > told:
                    record_event(
                        f"lockdown.{change.event}",
                        **_named(change.what),
                        by=change.by,
                        why=change.reason,
                        until=spell_time(change.until),
                    )
        self._told = max(told, state.revision)

    async def _keep_told(self, known: bytes | None, origin: str, revision: int) -> bool:
        return await self._store.swap(_TOLD, known, f"{origin} {revision}".encode(), _TOLD_KEPT)


class _Health:
    """Whether something works, told when that changes and not each time.

    Args:
        problem: What is to be said where it does not.
        end: What is to be said where it does again.
    """

    def __init__(self, problem: str, end: str) -> None:
        self.is_failing = False
        self._problem = problem
        self._end = end

    def note(self, error: Exception | None) -> None:
        """How it went."""
        was_failing, self.is_failing = self.is_failing, error is not None
        if was_failing == self.is_failing:
            return
        if error is None:
            logger.warning("lockdown: %s", self._end)
        else:
            reason = error.reason if isinstance(error, MLGuardError) else type(error).__name__
            logger.error("lockdown: %s (%s)", self._problem, reason)


def _named(what: str) -> dict[str, str]:
    """What was changed, as facts. Who and which network are facts of their own: not everybody is to be told of them."""
    kind, _, target = what.partition(" ")
    return {"what": kind, kind: target} if kind in {"principal", "address"} else {"what": what}


def _tell_unreadable() -> None:
    logger.error(
        "lockdown: the record in the store cannot be read, so everything is refused: mlguard lockdown reset begins it "
        "anew"
    )
    record_event("lockdown.unreadable")


def _read_told(record: bytes | None, origin: str) -> int:
    """The last revision of a record that was told, as the store has it."""
    of, _, revision = (record or b"").partition(b" ")
    return int(revision) if of == origin.encode() and revision.isdigit() and len(revision) < 20 else 0
