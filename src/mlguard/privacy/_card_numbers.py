"""Numbers of payment cards: of a range that is issued, of its length, with Luhn's check digit (ISO/IEC 7812)."""

import re
from collections.abc import Iterator
from typing import Final

from mlguard.privacy._spans import Span

# In one piece, or in the groups that cards and forms print, with one kind of separator. Not a part of a longer number,
# and no digits behind a decimal point.
_NUMBER = re.compile(
    r"(?<![^\W_])(?<!\d[.,])(?:"
    r"\d{13,19}"
    r"|\d{4}([ ./_-])\d{4}\1\d{4}\1\d{4}(?P<more>\1\d{1,3}(?!\d))?"
    r"|\d{4}([ ./_-])\d{6}\3\d{4,5}"
    r")(?![^\W_])(?![.,]\d)",
    re.ASCII,
)
# Ranges by their first six digits, with the lengths that are issued.
_RANGES: Final = (
    (400000, 499999, frozenset({13, 16, 19})),  # Visa
    (510000, 559999, frozenset({16})),  # Mastercard
    (222100, 272099, frozenset({16})),
    (340000, 349999, frozenset({15})),  # American Express
    (370000, 379999, frozenset({15})),
    (300000, 305999, frozenset({14, 16, 17, 18, 19})),  # Diners Club
    (309500, 309599, frozenset({14, 16, 17, 18, 19})),
    (360000, 369999, frozenset({14, 15, 16, 17, 18, 19})),
    (380000, 399999, frozenset({16, 17, 18, 19})),
    (352800, 358999, frozenset({16, 17, 18, 19})),  # JCB
    (601100, 601199, frozenset({16, 17, 18, 19})),  # Discover
    (622126, 622925, frozenset({16, 17, 18, 19})),
    (644000, 659999, frozenset({16, 17, 18, 19})),
    (620000, 629999, frozenset({16, 17, 18, 19})),  # UnionPay
    (810000, 817199, frozenset({16, 17, 18, 19})),
    (500000, 509999, frozenset({16})),  # Maestro, Elo and others
    (560000, 589999, frozenset({16, 17, 18, 19})),
    (630000, 639999, frozenset({16, 17, 18, 19})),
    (670000, 679999, frozenset({16, 17, 18, 19})),
    (220000, 220499, frozenset({16, 17, 18, 19})),  # Mir
)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def find_card_numbers(text: str, start: int, end: int) -> Iterator[Span]:
    """The card numbers in this part of a plain text."""
    match = _NUMBER.search(text, start, end)
    while match:
        ends = [match.end(), *([match.start("more")] if match["more"] else [])]
        stop = next((one for one in ends if _is_card(text[match.start() : one])), None)
        if stop:
            yield Span(match.start(), stop, "card")
        # Where four digits were of something else, the number may begin with the next group.
        match = _NUMBER.search(text, stop or match.start() + 4, end)


def _is_card(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return _is_issued(digits) and has_luhn_digit(digits)


def has_luhn_digit(digits: str) -> bool:
    """Whether the last digit is that of Luhn over the others (ISO/IEC 7812-1, annex B)."""
    odd, even = digits[-1::-2], digits[-2::-2]
    return (sum(map(int, odd)) + sum([_DOUBLED[int(digit)] for digit in even])) % 10 == 0


def _is_issued(digits: str) -> bool:
    prefix = int(digits[:6])
    return any(low <= prefix <= high and len(digits) in lengths for low, high, lengths in _RANGES)
