"""The largest of what was seen lately, for a chart that is looked at now and then."""

from collections.abc import Callable, Sequence

from mlguard._lookout import OwnLock

_PART = 60.0  # seconds


class RecentPeaks:
    """The largest values of the last minute, and of up to a minute before.

    Args:
        number: How many values there are.
        clock: Seconds, never going backwards.
    """

    def __init__(self, number: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = OwnLock()
        self._number = number
        self._began = clock()
        self._now, self._before = self._none(), self._none()

    def note(self, values: Sequence[float]) -> None:
        """Note values, as many as there are at the most."""
        with self._lock:
            self._turn()
            for place, value in enumerate(values):
                if value > self._now[place]:  # noqa: PLR1730  # as in Watch.evidence
                    self._now[place] = value

    def read(self) -> list[float]:
        """The largest of each; 0 where there was none."""
        with self._lock:
            self._turn()
            return [max(pair) for pair in zip(self._now, self._before, strict=True)]

    def _turn(self) -> None:
        """Begin the next part, once this one is over."""
        passed = self._clock() - self._began
        if passed >= _PART:
            self._before = self._now if passed < 2 * _PART else self._none()
            self._now = self._none()
            self._began += passed // _PART * _PART

    def _none(self) -> list[float]:
        return [0.0] * self._number
