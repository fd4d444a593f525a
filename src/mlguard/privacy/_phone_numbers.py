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
# A run that a number can stand in. Its length is bounded, and so is the time for it.
_INTERNATIONAL = re.compile(r"\+[\d(][\d ()./-]{5,40}", re.ASCII)
_ANY = re.compile(r"(?:\+[\d(]|(?<![^\W_])(?<!\d[.,])(?<![^\W_]-)[\d(])[\d ()./-]{5,40}", re.ASCII)
_DATE = re.compile(r"(?:19|20)\d\d-[01]\d-[0-3]\d", re.ASCII)
_DATE_OR_DECIMAL = re.compile(rf"{_DATE.pattern}(?: [0-2]\d(?!\d))?[ .]*|\d+\.\d+(?![./-]?\d)[ .]*", re.ASCII)
_GROUP = re.compile(r"\+?\(?\d+", re.ASCII)
_GOES_ON = re.compile(r"-?[^\W\d]", re.ASCII)  # it is a part of a code with letters


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
    """The number in a run. With a country code it may have digits behind it, without one only a date."""
    other = _DATE_OR_DECIMAL.match(text, start, end)
    begin = other.end() if other else start
    date = _DATE.search(text, begin, end)
    groups = [group.span() for group in _GROUP.finditer(text, begin, date.start() if date else end)]
    if not groups:
        return None
    begin, last = groups[0][0], groups[-1][1]
    ends = [one for one in _possible_ends(text, groups) if text[start] == "+" or one == last]
    return next((Span(begin, one, "phone") for one in reversed(ends) if is_number(text[begin:one])), None)


def _possible_ends(text: str, groups: list[tuple[int, int]]) -> list[int]:
    """Behind which groups of digits a number may end that begins with the first of them."""
    begin, digits, ends = groups[0][0], 0, []
    for count, (start, end) in enumerate(groups):
        digits += end - start
        # Groups have two digits and more, but for one or two: what has only single ones is a row of numbers. What has
        # one group is the number of an order, unless it begins as at home, with a nought.
        is_like_one = digits >= 2 * count and (count > 0 or text[begin] in "+0")
        if LEAST_DIGITS <= digits <= _MOST_DIGITS + 2 and is_like_one and not _GOES_ON.match(text, end):
            ends.append(end)
    return ends


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
