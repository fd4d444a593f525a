"""Numbers and times as people read them. All times are UTC."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

DASH = "\u2013"
THIN = "\u202f"  # a narrow space at which no line breaks
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def whole(number: int) -> str:
    """A number of things: ``12 345``."""
    return f"{number:,}".replace(",", THIN)


def things(number: int, one: str, many: str | None = None) -> str:
    """A number with what it counts: ``1 row``, ``2 rows``."""
    return f"{whole(number)} {one if number == 1 else many or one + 's'}"


def short(number: float) -> str:
    """A number at an axis: ``1.2 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.3g}{THIN}{unit}"
    return f"{number:.3g}"


def percent(share: float) -> str:
    """A share: ``12 %``, ``0.4 %``. What is not all never looks like all, what is not nothing not like nothing."""
    hundred = 100 * share
    if 0 < hundred < 0.1:
        return f"<{THIN}0.1{THIN}%"
    if 99.9 < hundred < 100:
        return f">{THIN}99.9{THIN}%"
    digits = 1 if hundred < 10 or 99 < hundred < 100 else 0
    return f"{hundred:.{digits}f}".removesuffix(".0") + f"{THIN}%"


def of_all(part: float, total: float) -> str:
    """A share of a total."""
    return percent(part / total) if total else f"0{THIN}%"


def milliseconds(number: float | None) -> str:
    """A latency: ``1.2 ms``, ``3.4 s``."""
    if number is None:
        return DASH
    if number >= 1_000:
        return f"{number / 1_000:.2g}{THIN}s"
    return f"{number:.2g}{THIN}ms" if number < 100 else f"{number:.0f}{THIN}ms"


def size(number: int) -> str:
    """A length of time: ``15 minutes``."""
    for unit, seconds in (("day", _DAY), ("hour", _HOUR), ("minute", _MINUTE)):
        if number % seconds == 0:
            return things(number // seconds, unit)
    return things(number, "second")


def day(at: float) -> str:
    """A day: ``Tue 24 Nov 2026``."""
    return f"{_day(_utc(at))} {_utc(at).year}"


def minute(at: float) -> str:
    """A time: ``Tue 24 Nov 2026, 03:15``."""
    return f"{day(at)}, {_utc(at):%H:%M}"


def second(at: float) -> str:
    """A time to the second, as it sorts: ``2026-11-24 03:15:07``."""
    return f"{_utc(at):%Y-%m-%d %H:%M:%S}"


def to_the_minute(at: float) -> str:
    """A time to the minute, as it sorts: ``2026-11-24 03:15``."""
    return f"{_utc(at):%Y-%m-%d %H:%M}"


def stretch(at: float, width: int) -> str:
    """A slot of time: ``Tue 24 Nov, 03:00-04:00``."""
    start, end = _utc(at), _utc(at + width)
    if width > _DAY:
        return f"{day(at)} to {day(at + width - 1)}"
    if width == _DAY:
        return _day(start)
    form = "%H:%M" if width >= _MINUTE else "%H:%M:%S"
    return f"{_day(start)}, {start.strftime(form)}{DASH}{end.strftime(form)}"


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _day(time: datetime) -> str:
    return f"{_DAYS[time.weekday()]} {time.day} {_MONTHS[time.month - 1]}"  # whatever the locale


def round_ticks(most: float) -> Sequence[float]:
    """Where an axis from 0 is marked: three to six round numbers, of which the last is the end."""
    if most <= 0:
        return (0.0, 1.0)
    power = 10.0 ** math.floor(math.log10(most))
    step = next(power * factor for factor in (0.2, 0.25, 0.5, 1.0, 2.0, 2.5) if most / (power * factor) <= 5)
    if 1 <= most <= 5:
        step = max(step, 1.0)
    return tuple(step * number for number in range(math.ceil(most / step - 1e-9) + 1))


def log_ticks(least: float, most: float) -> Sequence[float]:
    """Powers of ten, or 1, 2 and 5 of them where there are few, from at most the least to at least the most."""
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    high = max(high, low + 1)
    if high - low > 2:
        return tuple(10.0**power for power in range(low, high + 1))
    every = [factor * 10.0**power for power in range(low, high) for factor in (1, 2, 5)] + [10.0**high]
    first = max(number for number in range(len(every)) if every[number] <= least or number == 0)
    last = min(number for number in range(len(every)) if every[number] >= most or number == len(every) - 1)
    return tuple(every[first : max(last, first + 1) + 1])


def time_ticks(numbers: range, width: int, most: int = 7) -> list[tuple[float, str]]:
    """Where an axis of time is marked: share of its length, and what stands there."""
    if not numbers:
        return []
    start, end = numbers[0] * width, (numbers[-1] + 1) * width
    steps = (1, 5, 10, 30, 60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200)
    days = (1, 2, 7, 14, 28, 91, 182, 364, 1_820, 3_640)
    ladder = [*steps, *(number * _DAY for number in days)]
    step = next((one for one in ladder if (end - start) / one <= most), ladder[-1])
    first = math.ceil(start / step) * step
    return [((at - start) / (end - start), _tick(_utc(at), step)) for at in range(first, end, step)]


def _tick(time: datetime, step: int) -> str:
    if step < _DAY:
        return time.strftime("%H:%M:%S" if step < _MINUTE else "%H:%M")
    month = _MONTHS[time.month - 1]
    return f"{time.day} {month}" if step < 182 * _DAY else f"{month} {time.year}"
