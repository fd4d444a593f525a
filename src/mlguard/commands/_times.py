"""Times as operators write them: how long, and when."""

import argparse
import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LENGTH = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)


def length(text: str) -> timedelta:
    """How long, ``2h``.

    Raises:
        ArgumentTypeError: It is none, or nothing.
    """
    match = _LENGTH.fullmatch(text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError("write a number and s, m, h, d or w, such as 2h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def past(text: str) -> datetime:
    """How long ago, ``2h``, or a date and time; without a zone it is of UTC.

    Raises:
        ArgumentTypeError: It is neither.
    """
    try:
        if _LENGTH.fullmatch(text):
            return datetime.now(UTC) - length(text)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError("a time ago, such as 15m, 2h or 7d, or a date and time") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
