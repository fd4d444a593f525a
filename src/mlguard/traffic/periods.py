"""Budgets as they are written, and the calendar periods that they are for. UTC throughout."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from mlguard.errors import ConfigurationError

#: ``ever``: what is spent stays spent.
Unit = Literal["hour", "day", "week", "month", "year", "ever"]

_QUOTA = re.compile(rf"([1-9][0-9]{{0,14}}) ?/ ?({'|'.join(get_args(Unit))})", re.ASCII)
#: About how long they are, to tell the longer from the shorter.
_SECONDS: dict[Unit, int] = {
    "hour": 3_600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
    "ever": 10**12,
}
_FORM = "write a number, '/', and hour, day, week, month or year, such as \"50000/month\""


@dataclass(frozen=True, slots=True)
class Quota:
    """So many units in each calendar period.

    Attributes:
        limit: Units.
        unit: The period: an hour, a day, a week that begins on Monday, a month, a year, or the only one there is.
    """

    limit: int
    unit: Unit

    @classmethod
    def parse(cls, text: str, *, where: str, may_end: bool = False) -> "Quota":
        """Read ``"50000/month"``.

        Args:
            text: What is written.
            where: What carries it, for the error.
            may_end: Whether it may be for ever, and so come to an end.

        Raises:
            ConfigurationError: It cannot be read.
        """
        match = _QUOTA.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None or (match[2] == "ever" and not may_end):
            raise ConfigurationError(f"{where}: {text!r} is no budget; {_FORM}")
        unit: Unit = match[2]  # type: ignore[assignment]  # the pattern names no others
        return cls(int(match[1]), unit)

    @property
    def seconds(self) -> int:
        """About how long the period is."""
        return _SECONDS[self.unit]

    def __str__(self) -> str:
        return f"{self.limit}/{self.unit}"


@dataclass(frozen=True, slots=True)
class Period:
    """One calendar period.

    Attributes:
        name: The same everywhere: ``2026-11`` for a month, ``2026-W48`` for a week.
        begins: Its first moment, in UTC.
        ends: The first moment after it.
    """

    name: str
    begins: datetime
    ends: datetime

    @classmethod
    def at(cls, unit: Unit, seconds: float) -> "Period":
        """The period of a moment.

        Args:
            unit: How long it is.
            seconds: The moment, in seconds since 1970.
        """
        if unit == "ever":
            return cls(unit, datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
        now = datetime.fromtimestamp(seconds, UTC)
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if unit == "hour":
            begins = day.replace(hour=now.hour)
            return cls(f"{begins:%Y-%m-%dT%H}", begins, begins + timedelta(hours=1))
        if unit == "day":
            return cls(f"{day:%Y-%m-%d}", day, day + timedelta(days=1))
        if unit == "week":
            begins = day - timedelta(days=day.weekday())
            return cls(f"{begins:%G-W%V}", begins, begins + timedelta(days=7))
        if unit == "month":
            begins = day.replace(day=1)
            return cls(f"{begins:%Y-%m}", begins, (begins + timedelta(days=31)).replace(day=1))
        begins = day.replace(month=1, day=1)
        return cls(f"{begins:%Y}", begins, begins.replace(year=begins.year + 1))

    @property
    def seconds(self) -> int:
        """How long it is."""
        return int((self.ends - self.begins).total_seconds())


class Calendar:
    """The periods of one unit. The last one is kept: nearly every request is in it.

    Args:
        unit: How long they are.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit: Unit = unit
        self._last = (0.0, 0.0, Period.at(unit, 0.0))

    def at(self, seconds: float) -> Period:
        """The period of a moment, in seconds since 1970."""
        begins, ends, period = self._last
        if begins <= seconds < ends:
            return period
        period = Period.at(self._unit, seconds)
        self._last = period.begins.timestamp(), period.ends.timestamp(), period
        return period
