"""Callers whose queries are watched, in this process: sums of evidence, and marks of earlier queries.

Sums are Page's (1954): they grow with what speaks for an attack, and never fall below 0, so that an honest past is no
credit. Marks are kept in a table of fixed size, each in its place, where the next one drives it out.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from mlguard.store import NEAR, NEW, REPEAT, Sighting, Watch, WatchedQuery

_LOOKS = 8  # callers that are looked at to find the one to forget
_NUMBERS = 65_535


def place_of(mark: int, slots: int) -> tuple[int, int]:
    """Where a mark is kept, and what is kept of it: 16 bits that are not 0."""
    return mark & (slots - 1), (mark >> 48) or 1


class Watched:
    """What is known of one caller.

    Args:
        rule: What is kept.
    """

    __slots__ = ("count", "ends", "marks", "sums", "votes", "whole")

    def __init__(self, rule: Watch) -> None:
        self.count = 0
        self.ends = 0.0
        self.votes = 0
        self.sums = [0.0] * len(rule.limits)
        #: 16 bits of the mark, and 16 of the number of the query that it is of.
        self.marks = array("I", bytes(4 * rule.slots))
        #: 16 bits of the first mark. A table of their own, in which they outlive the others: an exact repeat that is no
        #: longer known for one would be a near-duplicate.
        self.whole = array("H", bytes(2 * rule.slots))

    def note(self, queries: Sequence[WatchedQuery], rule: Watch, now: float) -> Sighting:
        """Note queries, and judge."""
        change = voting = 0
        if 0 < self.ends <= now:
            self.ends, self.votes, change = 0.0, 0, -1
            self.sums = [0.0] * len(self.sums)
        seen = []
        for query in queries:
            was = NEW
            if query.marks:
                was = self._see(query.marks, rule)
                seen.append(was)
            if was != REPEAT and self.sums:
                voting = self._add(query, rule, is_near=was == NEAR)
                if voting.bit_count() >= rule.votes:
                    change = change if self.ends else 1
                    self.ends, self.votes = now + rule.hold, voting
        votes, left = (self.votes, self.ends - now) if self.ends else (voting, 0.0)
        return Sighting(tuple(seen), self.count, votes, left, change, rule.evidence(self.sums))

    def _see(self, marks: Sequence[int], rule: Watch) -> int:
        place, tag = place_of(marks[0], rule.slots)
        if self.whole[place] == tag:
            return REPEAT
        self.whole[place] = tag
        self.count += 1
        number = self.count % _NUMBERS + 1
        shared: dict[int, int] = {}
        table, mask = self.marks, rule.slots - 1
        for mark in marks[1:]:  # as place_of says, without a call for each
            place, entry = mark & mask, ((mark >> 48) or 1) << 16 | number
            before = table[place]
            table[place] = entry
            if 0 < before ^ entry < 65_536:  # the same mark, of another query
                other = before & 0xFFFF
                shared[other] = shared.get(other, 0) + 1
        return NEAR if shared and max(shared.values()) >= rule.shared else NEW

    def _add(self, query: WatchedQuery, rule: Watch, *, is_near: bool) -> int:
        """Add to the sums. Which kinds vote now."""
        voting = 0
        sums = []
        steps = query.near if is_near else query.apart
        for before, step, limit, kind in zip(self.sums, steps, rule.limits, rule.kinds, strict=True):
            total = before + step
            if total >= limit:
                voting |= 1 << kind
                total = min(total, 2 * limit)
            sums.append(max(0.0, total))
        self.sums = sums
        return voting

    def weight(self, rule: Watch, now: float) -> float:
        """How much there is to lose if this is forgotten: with a verdict most, else by the largest sum."""
        if self.ends > now:
            return 2.0
        return max(rule.evidence(self.sums), default=2.0) / 2


class WatchedCallers:
    """Those of one process, bounded. Not thread-safe: whoever uses it holds a lock.

    Where there is no room for another caller, the one of the eight unseen for longest goes against whom the least
    speaks, and the others stay. So a flood of new callers drives itself out, and not the one against whom something
    speaks: for that, as much must speak against each of the others.

    Args:
        most: How many there are at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._callers: OrderedDict[bytes, tuple[Watched, Watch, float]] = OrderedDict()

    def note(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, now: float, *, forget: bool) -> Sighting:
        """As :meth:`Store.watch` says."""
        known = self._callers.pop(key, None)
        if forget or known is None or known[2] <= now:
            known = None
        if known is None and not queries:
            return Sighting((), 0, 0, 0.0, 0, rule.evidence([0.0] * len(rule.limits)))
        if known is None:
            self._make_room(now)
            watched = Watched(rule)
        else:
            watched = known[0]
        sighting = watched.note(queries, rule, now)
        self._callers[key] = (watched, rule, now + rule.ttl if queries or known is None else known[2])
        return sighting

    def _make_room(self, now: float) -> None:
        while len(self._callers) >= self._most:
            oldest = list(islice(self._callers.items(), _LOOKS))
            weights = [
                (-1.0 if expires <= now else watched.weight(rule, now), number)
                for number, (_, (watched, rule, expires)) in enumerate(oldest)
            ]
            least = min(weights)
            for weight, number in weights:  # spared, and not looked at again until all others were
                if weight > least[0] or weight >= 0.25:
                    self._callers.move_to_end(oldest[number][0])
            del self._callers[oldest[least[1]][0]]
