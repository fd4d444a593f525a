"""What a monitor asks the store about queries: their marks, and the evidence that measures of them are."""

import asyncio
from collections import OrderedDict, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlguard._lookout import OwnLock
from mlguard.errors import ConfigurationError
from mlguard.monitoring._fingerprints import MARKS, SHARED, Fingerprints
from mlguard.monitoring._query_evidence import (
    Ranks,
    apart_step,
    chance_among,
    margins_of,
    near_step,
    shift_step,
    still_step,
)
from mlguard.monitoring.query_reference import Floats, QueryReference
from mlguard.store import NEAR, REPEAT, Sighting, Store, Watch, WatchedQuery, store_key

_SLOTS = 4_096  # marks that are kept of a caller, in 24 KB: of its latest 300 queries
_SLOTS_OF_ALL = 262_144  # and of all together, in 1.5 MB: of their latest 20 000
AT_ONCE = 128  # queries in one call of the store, so that no call takes long
_MOST_CALLERS = 10_000  # of whom a process keeps the latest measures by itself
_MOST_PENDING = 512  # margins of a caller that wait for its next request
_MOST_ANSWERS = 16  # of one request, as a stream has many, whose margins wait for the request to be noted

Measured = tuple[list[float], list[list[int]]]

_KINDS = (0, 1, 1, 2, 2, 3)  # of the sums: those that the reference has a limit for, and near-duplicates of others


class Caller:
    """What this process keeps of one caller by itself.

    Attributes:
        distance: The latest distance, as a normal number; None: there was none yet.
        margin: The same of margins, the latest one that was noted.
        pending: Margins, as normal numbers, which come after the answer: noted with the next request.
    """

    __slots__ = ("distance", "margin", "pending")

    def __init__(self) -> None:
        self.distance: float | None = None
        self.margin: float | None = None
        self.pending: deque[float] = deque(maxlen=_MOST_PENDING)


class Asked:
    """The queries of one request, which are noted now or later, and the margins of its answers.

    Args:
        key: Whose they are.
        rows: What was asked, of the reference's columns. Nobody writes into them.
        watch: Notes them.

    Attributes:
        sighting: What the store says; None: they are not noted yet.
        seen: What it has said so far of their parts, where they are many.
        change: Of the verdict, in those parts: it is told only once.
        was_tried: Whether they could not be noted before, or what the store has said was lost.
    """

    __slots__ = ("_answers", "_caller", "_watch", "change", "key", "rows", "seen", "sighting", "was_tried")

    def __init__(self, key: bytes, rows: NDArray[np.generic], watch: "QueryWatch") -> None:
        self.key = key
        self.rows = rows
        self.sighting: Sighting | None = None
        self.seen: list[int] = []
        self.change = 0
        self.was_tried = False
        self._caller: Caller | None = None
        self._answers: deque[list[float]] = deque(maxlen=_MOST_ANSWERS)
        self._watch = watch

    def see(self, scores: Floats) -> None:
        """Look at what the model has answered: a watcher of :class:`~mlguard._guard.RequestMemory`."""
        margins = self._watch.margins(scores)
        if not margins:
            return
        with self._watch.lock:  # an answer may be looked at in another thread than that which notes
            self._answers.append(margins)
            self._keep()

    def noted(self, sighting: Sighting, caller: Caller) -> None:
        """They are noted: from now on, margins are kept for the caller's next request."""
        with self._watch.lock:
            self.sighting, self._caller = sighting, caller
            self._keep()

    def forget(self) -> None:
        """Note nothing more of them."""
        self.rows = self.rows[:0]

    def _keep(self) -> None:
        """Margins are evidence. Those of repeats are none."""
        if self.sighting is None or self._caller is None:
            return
        seen = self.sighting.seen
        while self._answers:
            margins = self._answers.popleft()
            repeats = seen if len(seen) == len(margins) else (0,) * len(margins)
            self._caller.pending.extend([z for z, was in zip(margins, repeats, strict=True) if was != REPEAT])


class QueryWatch:
    """Notes queries, and says what the store makes of them.

    Args:
        reference: What usual queries are like.
        key: Where fingerprints are drawn from.
        store: Where callers are remembered.
        bucket: Names what is remembered.
        hold: Seconds for which a verdict holds.
        ttl: Seconds for which a caller is remembered.
        across: Whether near-duplicates of other callers' queries count.

    Attributes:
        bucket: Names what is remembered.
    """

    def __init__(
        self,
        reference: QueryReference,
        key: bytes,
        store: Store,
        *,
        bucket: str,
        hold: float,
        ttl: float,
        across: bool,
    ) -> None:
        self.bucket = bucket
        self._columns = reference.columns
        self._fingerprints = Fingerprints(reference, key)
        self._distances = Ranks(reference.distances)
        self._margins = None if reference.margins is None else Ranks(reference.margins)
        self._output_centre = reference.output_centre
        self._store = store
        self._rule = Watch(
            _SLOTS, SHARED, (*reference.limits, reference.limits[0]), _KINDS, votes=2, hold=hold, ttl=ttl
        )
        self._rule_of_all = Watch(_SLOTS_OF_ALL, SHARED, ttl=ttl)
        self._all = store_key("queries of all", bucket) if across else None
        own = chance_among(reference.chance, _SLOTS // MARKS)
        others = chance_among(reference.chance, _SLOTS_OF_ALL // MARKS)
        self._near, self._apart = near_step(own), apart_step(own)
        self._near_another, self._apart_others = near_step(others), apart_step(others)
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()
        self.lock = OwnLock()

    def asked(self, key: bytes, value: Any) -> Asked:
        """The queries of one request.

        Raises:
            ConfigurationError: They are not of the reference's columns.
        """
        rows = np.asarray(value)
        if rows.dtype.kind not in "fiub" or rows.size % self._columns:
            raise ConfigurationError("QueryMonitor: the rows have another number of columns than the reference")
        return Asked(key, rows.reshape(-1, self._columns), self)

    async def note(self, asked: Asked, measured: Measured | None = None) -> Sighting:
        """Note the queries of one request.

        Args:
            asked: Those.
            measured: What :meth:`measured` says of them, where they are at most ``AT_ONCE`` and that is known.

        Raises:
            UnavailableError: The store does not answer (503).
        """
        rows, caller = asked.rows, self._caller(asked.key)
        try:
            if not len(rows):
                sighting = await self.look(asked.key)
            elif len(rows) <= AT_ONCE:
                sighting = await self._note_part(asked.key, caller, *(measured or self.measured(rows)))
            else:
                sighting = await self._note_parts(asked, caller, len(rows))
        except BaseException:
            asked.was_tried = True
            raise
        asked.noted(sighting, caller)
        return sighting

    def measured(self, rows: NDArray[np.generic]) -> Measured:
        """Distances and marks of rows, whoever has asked them."""
        return self._fingerprints.of(rows)

    async def _note_parts(self, asked: Asked, caller: Caller, number: int) -> Sighting:
        """Note many, part by part; where that was cut short before, what was left then."""
        for start in range(len(asked.seen), number, AT_ONCE):
            if start:
                await asyncio.sleep(0)  # others have their turn
            measured = self.measured(asked.rows[start : start + AT_ONCE])
            sighting = await self._note_part(asked.key, caller, *measured)
            asked.seen += sighting.seen
            asked.change = sighting.change or asked.change
        return sighting._replace(seen=tuple(asked.seen), change=asked.change)

    async def _note_part(self, key: bytes, caller: Caller, distances: list[float], marks: list[list[int]]) -> Sighting:
        queries = []
        last_distance = caller.distance
        for distance, of_row in zip(distances, marks, strict=True):
            measured = (0.0, 0.0, *self._steps(caller, distance))
            near, apart = (self._near, *measured, 0.0), (self._apart, *measured, self._apart_others)
            queries.append(WatchedQuery(tuple(of_row), near, apart))
        with self.lock:  # another event loop may note the same caller's
            last, before = caller.margin, [caller.pending.popleft() for _ in range(min(AT_ONCE, len(caller.pending)))]
        if before:
            caller.margin = before[-1]
        try:
            if self._all is not None:
                queries = await self._compared(self._all, key, queries)
            return await self._store.watch(key, [*_of_margins(last, before), *queries], self._rule)
        except BaseException:
            caller.distance, caller.margin = last_distance, last
            caller.pending.extendleft(reversed(before))
            raise

    async def look(self, key: bytes) -> Sighting:
        """What is known of a caller, and whether a verdict has ended."""
        return await self._store.watch(key, (), self._rule)

    async def forget(self, key: bytes) -> None:
        """Forget a caller."""
        await self._store.watch(key, (), self._rule, forget=True)
        with self.lock:
            self._callers.pop(key, None)

    def margins(self, scores: Floats) -> list[float]:
        """The margins of an answer, as normal numbers; none where the reference has none."""
        ranks = self._margins
        return [] if ranks is None else [ranks.normal(margin) for margin in margins_of(scores, self._output_centre)]

    async def _compared(self, everybody: bytes, key: bytes, queries: list[WatchedQuery]) -> list[WatchedQuery]:
        """The same, where a near-duplicate of another caller's query is one, too, and of a kind of its own.

        What is near an own query, too, is counted as that by the store. Beside each query, everybody's memory has a
        mark of who has asked it: an own repeat is known there for longer than among the caller's few marks.
        """
        owner = int.from_bytes(key[:8], "little")
        asked = [one for query in queries for one in (query, WatchedQuery((query.marks[0] ^ owner,)))]
        seen = (await self._store.watch(everybody, asked, self._rule_of_all)).seen
        if not any(seen):
            return queries
        return [
            self._compared_query(query, was, is_own=own == REPEAT)
            for query, was, own in zip(queries, seen[::2], seen[1::2], strict=True)
        ]

    def _compared_query(self, query: WatchedQuery, seen: int, *, is_own: bool) -> WatchedQuery:
        measured = query.apart[1:-1]
        if is_own:  # that it is near itself says nothing: as good as any query that is near none
            return query._replace(near=query.apart)
        if seen == NEAR:
            return query._replace(apart=(self._near_another, *measured, self._near_another))
        if seen == REPEAT:  # of another's: no evidence of many accounts. Near own queries it may be all the same, or
            # an attacker would ask everything with another account before.
            return query._replace(apart=(*query.apart[:-1], 0.0))
        return query

    def _steps(self, caller: Caller, distance: float) -> tuple[float, float]:
        z = self._distances.normal(distance)
        still = 0.0 if caller.distance is None else still_step(z, caller.distance)
        caller.distance = z
        return shift_step(z), still

    def _caller(self, key: bytes) -> Caller:
        with self.lock:
            caller = self._callers.get(key)
            if caller is None:
                caller = self._callers[key] = Caller()
                if len(self._callers) > _MOST_CALLERS:
                    self._callers.popitem(last=False)
            else:
                self._callers.move_to_end(key)
            return caller


def _of_margins(last: float | None, margins: list[float]) -> list[WatchedQuery]:
    """The evidence that margins are, after the last one before them."""
    found = []
    for z in margins:
        still = 0.0 if last is None else still_step(z, last)
        found.append(WatchedQuery(apart=(0.0, shift_step(-z), still, 0.0, 0.0, 0.0)))
        last = z
    return found
