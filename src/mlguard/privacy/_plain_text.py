"""A text as a person reads it: digits of every script, wide letters, odd spaces, dots and dashes in their plain form.

For looking only. Each character becomes one or none, so that what is found can be told in places of the original.
"""

import re
import unicodedata
from bisect import bisect_right
from typing import NamedTuple

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_MAX_KNOWN = 8_192  # characters whose plain form is remembered

# What looks like a dot, a dash, an at sign or a colon, and has no such compatibility form (NFKC).
_ALIKE = {
    **dict.fromkeys("\u00b7\u2022\u2027\u22c5\u30fb\u3002\uff61\u06d4\u0701\u0702\ua4f8\ua60e", "."),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58\ufe63\uff0d\u02d7", "-"),
    **dict.fromkeys("\u05c3\u0589\u0703\u0704\u2236\ua789", ":"),
    **dict.fromkeys("\u2044\u2215\u29f8", "/"),
}
# Nothing to see: Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt).
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class PlainText(NamedTuple):
    """A text in plain form.

    Attributes:
        text: The plain form.
        gaps: Before which places of it something is left out, once for each character.
    """

    text: str
    gaps: list[int]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Where a piece of the plain form, which is not empty, stands in the original."""
        return start + bisect_right(self.gaps, start), end + bisect_right(self.gaps, end - 1)


def plain_text(text: str) -> PlainText:
    """The text in plain form, in time in proportion to its length."""
    if text.isascii():
        return PlainText(text, [])
    try:
        plain = text.encode("latin-1").translate(_LATIN, _SOFT_HYPHEN).decode("latin-1")
    except UnicodeEncodeError:
        plain = _NOT_ASCII.sub(_plain_run, text)
    if len(plain) == len(text):
        return PlainText(plain, [])
    return PlainText(plain, [unseen.start() - before for before, unseen in enumerate(_UNSEEN.finditer(text))])


class _Forms(dict[int, str]):
    """The plain form of each character by its code, found when first asked for."""

    def __missing__(self, code: int) -> str:
        form = _form(chr(code))
        if len(self) < _MAX_KNOWN:
            self[code] = form
        return form


_FORMS = _Forms()


def _plain_run(run: re.Match[str]) -> str:
    return run[0].translate(_FORMS)


def _form(character: str) -> str:
    if _UNSEEN.match(character):
        return ""
    if character in _ALIKE:
        return _ALIKE[character]
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if character.isspace():
        return " "
    folded = unicodedata.normalize("NFKC", character)
    return folded if len(folded) == 1 and folded.isascii() else character


# Most texts that are not in ASCII are in Latin-1, and quicker to put in plain form: one byte for each character.
_SOFT_HYPHEN = b"\xad"
_LATIN = bytes([*range(128), *(ord(_form(chr(code)) or " ") for code in range(128, 256))])
