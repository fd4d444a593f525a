"""Text as a model may read it, for comparing only: what looks the same or like nothing is written in one way."""

import re
import unicodedata
from itertools import chain, groupby, islice

# What has no width of its own: Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt).
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ufdfa\ufdfb]"  # and two ligatures that stand for whole phrases: NFKC makes 18 and 8 characters of them
)


# As in text_rules, after UAX #15, section 13. More of them need time by their square to be sorted: 2 seconds for 80 kB.
_MOST_MARKS = 30


def bare(text: str) -> str:
    """The text without invisible characters, and with compatibility forms such as fullwidth letters made plain (NFKC).

    Of more than 30 combining marks in a row the first 30 are left. At most six times as long as the text, in time in
    proportion to it.
    """
    return text if text.isascii() else unicodedata.normalize("NFKC", _with_few_marks(_INVISIBLE.sub("", text)))


def _with_few_marks(text: str) -> str:
    # A few characters that do not look like marks are made of nothing else.
    marks = {c for c in set(text) if unicodedata.combining(unicodedata.normalize("NFKD", c)[0])}
    if not marks:
        return text
    runs = groupby(text, marks.__contains__)
    return "".join(chain.from_iterable(islice(run, _MOST_MARKS) if are_marks else run for are_marks, run in runs))
