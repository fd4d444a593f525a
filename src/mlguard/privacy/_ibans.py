"""International bank account numbers: of a country's length, with the check digits of ISO 7064 (ISO 13616)."""

import re
from collections.abc import Iterator

from mlguard.privacy._spans import Span

# SWIFT's registry of IBANs, release 101: the length of an IBAN in each country.
_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
_BEGINNING = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[ -]?\d{2}[ -]?[A-Za-z0-9]", re.ASCII)
_REACH = 48  # characters: the longest has 33, in groups of two or more
_SEPARATORS = " -"


def find_ibans(text: str, start: int, end: int) -> Iterator[Span]:
    """The IBANs that have a part in this part of a plain text."""
    for match in _BEGINNING.finditer(text, max(0, start - _REACH), end):
        length = _LENGTHS.get(match[0][:2].upper())
        stop = length and _end(text, match.start(), length)
        if stop and _has_check_digits(text[match.start() : stop]):
            yield Span(match.start(), stop, "iban")


def _end(text: str, start: int, length: int) -> int | None:
    """Where so many letters and digits end, with no more than one separator between two. None: they do not."""
    counted = 0
    for place in range(start, min(len(text), start + _REACH)):
        character = text[place]
        if character.isascii() and character.isalnum():
            counted += 1
            if counted == length:
                following = text[place + 1 : place + 2]
                return None if following.isascii() and following.isalnum() else place + 1
        elif character not in _SEPARATORS or text[place - 1] in _SEPARATORS:
            return None
    return None


def _has_check_digits(text: str) -> bool:
    """ISO 7064 MOD 97-10, with letters from 10 to 35, over the account and then the country."""
    number = text.replace(" ", "").replace("-", "")
    return int("".join([str(int(character, 36)) for character in number[4:] + number[:4]])) % 97 == 1
