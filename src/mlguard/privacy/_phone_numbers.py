"""Telephone numbers, as the package phonenumbers (libphonenumber) judges them: right in length and area code."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Final

from mlguard.errors import ConfigurationError
from mlguard.privacy._spans import Span

FindIn = Callable[[str, int, int], Iterator[Span]]

_MAX_REGIONS = 8  # each is tried at every number
LEAST_DIGITS: Final = 7  # shorter ones are codes and counts
# A run that a number can stand in, of bounded length; phonenumbers takes longer than by proportion.
_INTERNATIONAL = re.compile(r"(?<![^\W_])\+[\d(][\d ()./-]{5,40}", re.ASCII)
_ANY = re.compile(r"(?<![^\W_])(?<!\d[.,])(?:\+[\d(]|[\d(])[\d ()./-]{5,40}", re.ASCII)
_DECIMAL = re.compile(r"\d{1,2}\.\d+|\d{4}-\d\d-\d\d(?: \d\d)?", re.ASCII)
_AROUND = 3  # characters on either side, by which phonenumbers tells a part of something longer


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

    for region in regions:
        if region not in SUPPORTED_REGIONS:
            raise ConfigurationError(
                "PIISearch(regions=...) are countries in two capital letters, such as ('DE', 'FR')"
            )
    if len(regions) > _MAX_REGIONS:
        raise ConfigurationError(f"PIISearch(regions=...): at most {_MAX_REGIONS}")
    form, places = (_ANY, tuple(regions)) if regions else (_INTERNATIONAL, (None,))

    def find(text: str, start: int, end: int) -> Iterator[Span]:
        for match in form.finditer(text, start, end):
            if not _DECIMAL.fullmatch(match[0].strip(" -./()")):
                yield from _in_window(text, match.start(), match.end(), places)

    return find


def _in_window(text: str, start: int, end: int, regions: tuple[str | None, ...]) -> Iterator[Span]:
    phonenumbers = _phonenumbers()
    first = max(0, start - _AROUND)
    window = text[first : end + _AROUND]
    for region in regions:
        for found in phonenumbers.PhoneNumberMatcher(window, region, phonenumbers.Leniency.VALID, 16):
            if sum(map(str.isdigit, found.raw_string)) >= LEAST_DIGITS:
                yield Span(first + found.start, first + found.end, "phone")


@cache
def _phonenumbers():  # type: ignore[no-untyped-def]
    import phonenumbers  # noqa: PLC0415  # an extra, and slow to load

    return phonenumbers
