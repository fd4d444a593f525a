"""Telephone numbers, as the package phonenumbers (libphonenumber) judges them: right in length and area code."""

import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Final

from mlguard.errors import ConfigurationError
from mlguard.privacy._spans import Span

FindIn = Callable[[str, int, int], Iterator[Span]]

#: Shorter ones are codes and counts.
LEAST_DIGITS: Final = 7

_MAX_REGIONS = 8  # each is tried at every number
_MOST_DIGITS = 15  # ITU-T E.164
_MAX_STARTS = 3  # groups of digits at which a number is tried to begin, where it has no country code
# A run that a number can stand in. Its length is bounded, and so is the time for it.
_INTERNATIONAL = re.compile(r"(?<![^\W_])\+[\d(][\d ()./-]{5,40}", re.ASCII)
_ANY = re.compile(r"(?<![^\W_])(?<!\d[.,])(?:\+[\d(]|[\d(])[\d ()./-]{5,40}", re.ASCII)
_DATE_OR_DECIMAL = re.compile(r"(?:19|20)\d\d-[01]\d-[0-3]\d(?: [0-2]\d(?!\d))?[ .]*|\d{1,2}\.\d+[ .]*", re.ASCII)
_GROUP = re.compile(r"\+?\(?\d+", re.ASCII)


def is_installed() -> bool:
    """Whether the extra is there."""
    return find_spec("phonenumbers") is not None


def phone_finder(regions: Sequence[str]) -> FindIn:
    """What finds telephone numbers.

    Args:
        regions: Countries in two letters (ISO 3166) whose numbers are found without ``+`` and country code too.

    Raises:
        ConfigurationError: phonenumbers is not installed; a region that it does not know; too many.
    """
    if not is_installed():
        raise ConfigurationError("kind 'phone' needs the package phonenumbers: pip install 'mlguard[phonenumbers]'")
    from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415  # an extra

    if isinstance(regions, str) or len(regions) > _MAX_REGIONS or not set(regions) <= SUPPORTED_REGIONS:
        raise ConfigurationError(
            f"PIISearch(regions=...) are up to {_MAX_REGIONS} countries in two capital letters, such as ('DE', 'FR')"
        )
    form = _ANY if regions else _INTERNATIONAL
    is_number = _judge(tuple(regions))

    def find(text: str, start: int, end: int) -> Iterator[Span]:
        match = form.search(text, start, end)
        while match:
            span = _number_in(text, match.start(), match.end(), is_number)
            if span:
                yield span
            match = form.search(text, span.end if span else match.end(), end)

    return find


def _number_in(text: str, start: int, end: int, is_number: Callable[[str], bool]) -> Span | None:
    """The longest number at one of the first groups of a run, whatever digits stand behind it."""
    other = _DATE_OR_DECIMAL.match(text, start, end)
    groups = [group.span() for group in _GROUP.finditer(text, other.end() if other else start, end)]
    starts = groups[:1] if text[start] == "+" else groups[:_MAX_STARTS]
    for first, (begin, _) in enumerate(starts):
        digits = 0
        stops = []
        for count, (at, stop) in enumerate(groups[first:]):
            digits += stop - at
            # Groups have two digits and more, but for one or two. What has only single ones is a row of numbers.
            if LEAST_DIGITS <= digits <= _MOST_DIGITS + 2 and digits >= 2 * count:
                stops.append(stop)
        for stop in reversed(stops):
            if is_number(text[begin:stop]):
                return Span(begin, stop, "phone")
    return None


def _judge(regions: tuple[str, ...]) -> Callable[[str], bool]:
    """Says whether a text is a number that can be, in any of the regions or with its country code."""
    import phonenumbers  # noqa: PLC0415  # an extra, and slow to load

    def is_number(text: str) -> bool:
        for region in (None,) if text[0] == "+" else regions:
            try:
                if phonenumbers.is_valid_number(phonenumbers.parse(text, region)):
                    return True
            except phonenumbers.NumberParseException:
                continue
        return False

    return is_number
