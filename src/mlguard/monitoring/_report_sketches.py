"""Counts of many things in bounded memory: those that weigh most are kept, however many others come by."""

import hashlib
import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_LEAST_HASHES = 512  # the estimate is off by 1/sqrt(512), about 4 %
_SPACE = 2**64


class Entry:
    """What is known of one thing since it was last admitted.

    Attributes:
        weight: What it is ranked by.
        missed: At most this weight came before.
        requests: How many requests.
        refused: How many of them were refused.
        rows: How many rows were answered.
        first: Time of the first, in seconds since 1970.
        last: Time of the last.
        series: Its weight by the number of a slot of time.
        note: What was said of it last.
    """

    __slots__ = ("first", "last", "missed", "note", "refused", "requests", "rows", "series", "weight")

    def __init__(self, missed: int) -> None:
        self.missed = missed
        self.weight = self.requests = self.refused = self.rows = 0
        self.first, self.last = float("inf"), float("-inf")
        self.note = ""
        self.series: dict[int, int] = {}


class Heaviest(Generic[Key]):
    """The things of most weight: Frequent (Misra and Gries 1982), with weights, in batches (Anderson et al. 2017).

    Where more than ``most`` things come by, the lighter half is let go of. What has more than twice the total weight
    divided by ``most`` is certainly there, and no more than that is missing from what is told of it.

    Args:
        most: How many things are kept.

    Attributes:
        entries: What is kept.
        total: Weight of all, also of what was let go of.
        missed: At most this weight has whatever is not there.
    """

    def __init__(self, most: int) -> None:
        self.entries: dict[Key, Entry] = {}
        self.total = 0
        self.missed = 0
        self._most = most

    def add(self, key: Key, slot: int, at: float, weight: int = 1) -> Entry:
        """Count a thing."""
        entry = self.entries.get(key)
        if entry is None:
            if len(self.entries) >= self._most:
                self._let_go()
            entry = self.entries[key] = Entry(self.missed)
        self.total += weight
        entry.weight += weight
        series = entry.series
        series[slot] = series.get(slot, 0) + weight
        entry.first = min(at, entry.first)
        entry.last = max(at, entry.last)
        return entry

    def ranked(self) -> list[tuple[Key, Entry]]:
        """What is kept, the heaviest first."""
        return sorted(self.entries.items(), key=lambda item: (-item[1].weight, str(item[0])))

    def coarsen(self, factor: int) -> None:
        """Make slots of time longer."""
        for entry in self.entries.values():
            coarser: dict[int, int] = {}
            for slot, weight in entry.series.items():
                coarser[slot // factor] = coarser.get(slot // factor, 0) + weight
            entry.series = coarser

    def _let_go(self) -> None:
        ranks = sorted(entry.weight + entry.missed for entry in self.entries.values())
        self.missed = ranks[len(ranks) // 2]
        self.entries = {key: entry for key, entry in self.entries.items() if entry.weight + entry.missed > self.missed}


class Distinct:
    """About how many different things came by: from the smallest of their hashes (Bar-Yossef et al. 2002)."""

    def __init__(self) -> None:
        self._largest_first: list[int] = []
        self._kept: set[int] = set()

    def add(self, text: str) -> None:
        """Count a thing, if it is a new one."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        if number in self._kept:
            return
        if len(self._kept) < _LEAST_HASHES:
            heapq.heappush(self._largest_first, -number)
        elif number < -self._largest_first[0]:
            self._kept.remove(-heapq.heapreplace(self._largest_first, -number))
        else:
            return
        self._kept.add(number)

    @property
    def is_exact(self) -> bool:
        """Whether it is no estimate."""
        return len(self._kept) < _LEAST_HASHES

    @property
    def count(self) -> int:
        """How many there were."""
        if self.is_exact:
            return len(self._kept)
        return round((_LEAST_HASHES - 1) * _SPACE / (1 - self._largest_first[0]))
