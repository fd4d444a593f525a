"""How units are counted in one window, in this process: sliding, fixed, or a bucket that leaks.

Each counter knows nothing of other windows: a store decides several as one. Times are seconds by the store's clock.
"""

import math
from typing import Protocol

from mlguard.store import PARTS, Kind, Window


class Counter(Protocol):
    """Units of one caller in one window.

    Attributes:
        total: Units that count at the moment to which it was moved.
    """

    total: float

    def move(self, window: Window, now: float) -> None:
        """Bring it up to ``now``: forget what counts no more."""

    def add(self, cost: int) -> None:
        """Count units, at the moment to which it was moved."""

    def give_back(self, units: int, at: float, window: Window) -> None:
        """Take back units that were counted at ``at``, as far as they still count. Never units of somebody else."""

    def seconds_until(self, room: int, window: Window, now: float) -> float:
        """Seconds until ``room`` units fit; infinity for never."""

    def seconds_until_reset(self, window: Window, now: float) -> float:
        """Seconds until the oldest units count no more."""


class SlidingCounter:
    """Units by part of the window. The oldest part is counted whole. Parts without units take no space."""

    __slots__ = ("current", "parts", "total")

    def __init__(self) -> None:
        self.current = 0
        self.total: float = 0
        self.parts: list[int] = []  # number of the part, units in it, oldest first: [17, 3, 19, 1]

    def move(self, window: Window, now: float) -> None:
        self.current = current = int(now * PARTS / window.seconds)
        parts = self.parts
        while parts and parts[0] < current - PARTS:
            self.total -= parts[1]
            del parts[:2]

    def add(self, cost: int) -> None:
        parts = self.parts
        if parts and parts[-2] >= self.current:  # >=: a clock that went backwards
            parts[-1] += cost
        else:
            parts += (self.current, cost)
        self.total += cost

    def give_back(self, units: int, at: float, window: Window) -> None:
        part, parts = int(at * PARTS / window.seconds), self.parts
        for position in range(0, len(parts), 2):
            if parts[position] == part:
                units = min(units, parts[position + 1])
                parts[position + 1] -= units
                self.total -= units
                if not parts[position + 1]:
                    del parts[position : position + 2]
                return

    def seconds_until(self, room: int, window: Window, now: float) -> float:
        excess = self.total + room - window.limit
        width = window.seconds / PARTS
        for position in range(0, len(self.parts), 2):
            excess -= self.parts[position + 1]
            if excess <= 0:
                return (self.parts[position] + PARTS + 1) * width - now
        return math.inf

    def seconds_until_reset(self, window: Window, now: float) -> float:
        return (self.parts[0] + PARTS + 1) * window.seconds / PARTS - now if self.parts else 0.0


class FixedCounter:
    """Units since the window began, at a multiple of its length."""

    __slots__ = ("number", "total")

    def __init__(self) -> None:
        self.number = -1
        self.total: float = 0

    def move(self, window: Window, now: float) -> None:
        number = int(now / window.seconds)
        if number > self.number:  # else the same one, or a clock that went backwards
            self.number = number
            self.total = 0

    def add(self, cost: int) -> None:
        self.total += cost

    def give_back(self, units: int, at: float, window: Window) -> None:
        if int(at / window.seconds) == self.number:
            self.total -= min(units, self.total)

    def seconds_until(self, room: int, window: Window, now: float) -> float:
        return math.inf if room > window.limit else self.seconds_until_reset(window, now)

    def seconds_until_reset(self, window: Window, now: float) -> float:
        return (self.number + 1) * window.seconds - now if self.total else 0.0


class LeakingCounter:
    """Units in a bucket that empties evenly: the generic cell rate algorithm (GCRA, ITU-T I.371), as a level."""

    __slots__ = ("at", "total")

    def __init__(self) -> None:
        self.at = 0.0
        self.total: float = 0

    def move(self, window: Window, now: float) -> None:
        if now > self.at:  # else a clock that went backwards
            self.total = max(0.0, self.total - (now - self.at) * window.limit / window.seconds)
            self.at = now

    def add(self, cost: int) -> None:
        self.total += cost

    def give_back(self, units: int, at: float, window: Window) -> None:
        # Part of them may have leaked since, if the bucket was empty meanwhile: at most what leaks in that time.
        left = units - max(0.0, self.at - at) * window.limit / window.seconds
        self.total = max(0.0, self.total - max(0.0, left))

    def seconds_until(self, room: int, window: Window, now: float) -> float:  # noqa: ARG002  # it was moved there
        if room > window.limit:
            return math.inf
        return (self.total + room - window.limit) * window.seconds / window.limit

    def seconds_until_reset(self, window: Window, now: float) -> float:  # noqa: ARG002  # as above
        # Until one more whole unit fits.
        return (self.total - math.ceil(self.total) + 1) * window.seconds / window.limit if self.total > 0 else 0.0


def new_counter(kind: Kind) -> Counter:
    """A counter without units."""
    return _KINDS[kind]()


_KINDS: dict[Kind, type[SlidingCounter] | type[FixedCounter] | type[LeakingCounter]] = {
    "sliding": SlidingCounter,
    "fixed": FixedCounter,
    "gcra": LeakingCounter,
}
