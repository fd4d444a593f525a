"""A bounded number of series: whatever callers send, no metric has more."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Add = TypeVar("Add", bound=Callable[..., None])

#: Of one metric in one process. What comes after them is counted in one series more.
MAX_SERIES = 1_000
_MAX_LABEL = 100  # characters of one value
REST = "other"


def label(value: str) -> str:
    """A value that is safe in a label: short, printable, in ASCII."""
    if value.isascii() and value.isprintable():
        return value[:_MAX_LABEL]
    return ascii(value[:_MAX_LABEL])[1:-1][:_MAX_LABEL]


class Series(Generic[Add]):
    """The series of one metric, each opened when it is first needed.

    Args:
        opener: Opens a series, given the values of its labels, and returns what adds to it.
        width: How many labels there are.
    """

    def __init__(self, opener: Callable[[tuple[str, ...]], Add], width: int) -> None:
        self._open = opener
        self._rest = (REST,) * width
        self._known: dict[tuple[str, ...], Add] = {}
        self._lock = threading.Lock()

    def of(self, values: tuple[str, ...]) -> Add:
        """What adds to the series with these values, or to the one of the rest."""
        add = self._known.get(values)
        return self._new(values) if add is None else add

    def _new(self, values: tuple[str, ...]) -> Add:
        # Only what is safe is kept: a guard of the app's own may have the megabyte of a caller in its rule.
        values = tuple(label(value) for value in values)
        with self._lock:
            if values not in self._known and len(self._known) >= MAX_SERIES:
                values = self._rest
            add = self._known.get(values) or self._open(values)
            self._known[values] = add
            return add
