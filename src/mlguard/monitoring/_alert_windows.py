"""Which events become alerts: one for the same thing, and few for many things, in a bounded amount of memory."""

import math
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

Level = Literal["info", "warning", "critical"]
Fact = str | int | float | None

#: What an alert is called that says how many were held back.
HELD_BACK = "alerts.held_back"

_MOST_FACTS = 20
_LONGEST_NAME = 64  # characters
_LONGEST_FACT = 200  # characters
_LARGEST = 2**53  # from there on, readers of JSON may round
_PASSING = frozenset({"request_id", "trace_id", "seq", "time", "address"})  # another one each time


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that somebody should look at.

    Attributes:
        event: What happened, such as ``"query.suspected"``; or ``"alerts.held_back"``.
        level: ``"info"``, ``"warning"`` or ``"critical"``.
        facts: What the event says, without personal data.
        count: How many events it stands for.
        first: When the first of them was.
        last: When the last of them was, which has these facts.
        id: Another one for each alert, the same each time that it is tried.
    """

    event: str
    level: Level
    facts: Mapping[str, Fact]
    count: int
    first: datetime
    last: datetime
    id: str = field(default_factory=lambda: f"alert_{secrets.token_hex(16)}")


@dataclass(slots=True)
class _Happening:
    """Events that are the same thing: the last one's facts, and how many no alert stands for yet."""

    facts: Mapping[str, Fact]
    count: int
    first: float
    last: float

    def alert(self, event: str, level: Level) -> Alert:
        return Alert(event, level, self.facts, self.count, _moment(self.first), _moment(self.last))


@dataclass(slots=True)
class _Kind:
    """The events of one name."""

    level: Level
    same: tuple[str, ...] | None
    ends: float = math.inf  # of its window; none is open
    begins: float = 0.0
    open: dict[tuple[Any, ...], _Happening] = field(default_factory=dict)
    held: _Happening | None = None


class AlertWindows:
    """The alerts that wait to be delivered, and what they stand for. Whoever calls sees to it that only one does.

    The first event of a kind opens a window. In it, each thing that happens is an alert at once; when it happens again,
    it is counted, and at the window's end one more alert says how often. There are at most ``most`` things in a window,
    for each name of an event by itself: what floods one name hides no other. What is beyond is only counted, and one
    alert at the end says how many were held back.

    Args:
        levels: The level of each name.
        same: By which facts two events of a name are the same thing, where that is not by all facts but numbers with a
            fraction and what is another one each time.
        window: Seconds.
        most: Alerts of one name in a window, beside the one that says how many were held back.
        waiting: How many alerts may wait.

    Attributes:
        held_back: Events that became no alert of their own.
    """

    def __init__(
        self,
        levels: Mapping[str, Level],
        *,
        same: Mapping[str, tuple[str, ...]],
        window: float,
        most: int,
        waiting: int,
    ) -> None:
        self._kinds = {event: _Kind(level, same.get(event)) for event, level in levels.items()}
        self._window = window
        self._most = most
        self._room = waiting
        self._queue: deque[Alert] = deque()
        self.held_back = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def due(self) -> float:
        """When the next window ends. Infinity: none is open."""
        return min((kind.ends for kind in self._kinds.values()), default=math.inf)

    def note(self, event: str, facts: Mapping[str, Fact], at: float, now: float) -> None:
        """Note an event whose name is one of those that are known.

        Args:
            event: Its name.
            facts: What it says, as ``plain_facts`` returns it.
            at: When it was, in seconds since 1970.
            now: The time of the windows.
        """
        kind = self._kinds[event]
        if not kind.begins <= now < kind.ends:
            self._end(event, kind, now)
        if kind.ends == math.inf:
            kind.begins, kind.ends = now, now + self._window
        key = _identity(facts, kind.same)
        happening = kind.open.get(key)
        if happening is not None:
            _again(happening, facts, at)
        elif len(kind.open) < self._most and len(self._queue) < self._room:
            happening = kind.open[key] = _Happening(facts, 1, at, at)
            self._queue.append(happening.alert(event, kind.level))
            happening.count = 0
        else:
            self._hold_back(event, kind, 1, at, at)

    def take(self, now: float) -> Alert | None:
        """The alert whose turn it is to be delivered."""
        for event, kind in self._kinds.items():
            if kind.ends < math.inf and not kind.begins <= now < kind.ends:
                self._end(event, kind, now)
        return self._queue.popleft() if self._queue else None

    def end(self, now: float) -> None:
        """End all windows that are open, as far as there is room for what they have to say."""
        for event, kind in self._kinds.items():
            if kind.ends < math.inf:
                self._end(event, kind, now)
                if kind.held is None:
                    kind.open, kind.ends = {}, math.inf

    def clear(self) -> int:
        """Forget everything. Returns how many alerts waited."""
        waiting = len(self._queue)
        self._queue.clear()
        for kind in self._kinds.values():
            kind.open, kind.held, kind.ends = {}, None, math.inf
        return waiting

    def _end(self, event: str, kind: _Kind, now: float) -> None:
        goes_on = {key: happening for key, happening in kind.open.items() if happening.count}
        for happening in goes_on.values():
            if len(self._queue) < self._room:
                self._queue.append(happening.alert(event, kind.level))
            else:
                self._hold_back(event, kind, happening.count, happening.first, happening.last)
            happening.count = 0
        if kind.held is not None and len(self._queue) < self._room:
            self._queue.append(kind.held.alert(HELD_BACK, kind.level))
            kind.held = None
        # What happened again goes on: its next times are counted, and are no news.
        kind.open = goes_on
        is_open = bool(goes_on) or kind.held is not None
        kind.begins, kind.ends = now, now + self._window if is_open else math.inf

    def _hold_back(self, event: str, kind: _Kind, count: int, first: float, last: float) -> None:
        self.held_back += count
        if kind.held is None:
            kind.held = _Happening({"event": event}, 0, first, last)
        kind.held.count += count
        kind.held.last = last


def _again(happening: _Happening, facts: Mapping[str, Fact], at: float) -> None:
    if not happening.count:
        happening.first = at
    happening.count += 1
    happening.facts, happening.last = facts, at


def _identity(facts: Mapping[str, Fact], same: tuple[str, ...] | None) -> tuple[Any, ...]:
    """What two events agree in that are the same thing."""
    if same is not None:
        return tuple((name, facts.get(name)) for name in same)
    return tuple(
        sorted(
            (name, str(fact)) for name, fact in facts.items() if not isinstance(fact, float) and name not in _PASSING
        )
    )


def _moment(seconds: float) -> datetime:
    """Seconds since 1970 as a date. A clock that is beyond all dates is taken for the beginning."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def plain_facts(facts: object) -> dict[str, Fact]:
    """What an event says, as what can be shown on one line and written as JSON, in a bounded amount of memory."""
    if not isinstance(facts, Mapping):
        return {}
    pairs = zip(range(_MOST_FACTS), facts.items(), strict=False)
    return {_shown(str(name), _LONGEST_NAME): _plain(fact) for _, (name, fact) in pairs}


def _plain(fact: object) -> Fact:
    if fact is None or isinstance(fact, bool):
        return fact
    if isinstance(fact, str):
        return _shown(fact, _LONGEST_FACT)
    if isinstance(fact, int):
        return int(fact) if -_LARGEST < fact < _LARGEST else "a very large number"
    if isinstance(fact, float):
        return float(fact) if math.isfinite(fact) else str(fact)
    return f"a {type(fact).__name__[:_LONGEST_NAME]}"  # its text may be of any length, or an exception


def _shown(text: str, most: int) -> str:
    """The beginning of a text, without line feeds, terminal escapes and halves of characters."""
    text = text[:most]
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def with_facts(alert: Alert, facts: Mapping[str, Fact]) -> Alert:
    """The same alert with other facts."""
    return replace(alert, facts=facts)
