"""Limits as slowapi writes them: ``"5/minute"``, ``"5 per minute"``, ``"100/day;10 per 2 hours"``."""

import re
from functools import lru_cache

from mlguard.errors import ConfigurationError
from mlguard.traffic.limits import Limits

# As the limits package has it: a month is 30 days, a year 12 of them.
_UNITS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "month": 2_592_000, "year": 31_104_000}
_LIMIT = re.compile(
    rf"\s*([1-9][0-9]{{0,11}})\s*(?:/|\s+per\s+)\s*(?:([1-9][0-9]{{0,4}})\s*)?({'|'.join(_UNITS)})s?\s*",
    re.ASCII | re.IGNORECASE,
)


@lru_cache(1_024)
def parse_limits(text: str) -> Limits:
    """All of them, as one decision. Of two for the same stretch of time, the lower one is left.

    Raises:
        ConfigurationError: One cannot be read. slowapi logs that, and lets every request through.
    """
    lowest: dict[int, int] = {}
    for part in re.split(r"[;,|]", text):
        match = _LIMIT.fullmatch(part)
        if match is None:
            raise ConfigurationError(f'{part!r} is no limit; write them as "5/minute" or "5/minute;100 per day"')
        seconds = int(match[2] or 1) * _UNITS[match[3].lower()]
        lowest[seconds] = min(int(match[1]), lowest.get(seconds, int(match[1])))
    return Limits.parse([f"{limit}/{_spell(seconds)}" for seconds, limit in lowest.items()], where="limiter.limit")


def _spell(seconds: int) -> str:
    unit = next(unit for unit in ("day", "hour", "minute", "second") if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]} {unit}s"
