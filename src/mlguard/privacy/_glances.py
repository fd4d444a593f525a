"""A glance at a text: which kinds of datum can be in it at all, and where. Most records hold none, and cost this only.

A glance may say yes where there is nothing. It may not say no where there is something, so it asks for what every
datum of a kind has: an @, seven digits with nothing but separators between them, a word such as "secret". It asks by
translating bytes and by searching them for a few, which is faster than any pattern.
"""

import itertools
import re
import string
import sys
from typing import NamedTuple

_REACH = 4  # characters around digits that are of the same number, such as the letter of a Spanish one


def _table(*classes: tuple[str, str]) -> bytes:
    """A table for ``bytes.translate``: the characters of each class become one, and all others a comma."""
    table = bytearray(b"," * 256)
    for characters, name in classes:
        for code in characters.encode():
            table[code] = ord(name)
    return bytes(table)


_SHAPES = _table((string.ascii_letters, "a"), (string.digits, "0"), (" ", " "), (".", "."), ("-/()_+", "-"))
_DIGITS = re.compile(rb"0[0 .-]{6,}+")
_DATES = frozenset({b"0000-00-00", b"0000-00-00 ", b"0000-00-00 00"})  # with the hour, too
_CENTURIES = ("19", "20")
_DECIMALS = re.compile(rb"(?:0{1,2}\.0++[ .]?+(?![0 .-])[^0]*+)++")  # as many as there are, up to the next digit
_NINO = b"aa000000a"  # in one piece, it has too few digits
_LEAST = 6  # in a National Insurance number with spaces
# What shows that digits are a part of a word. A single letter may belong to a number.
_BEFORE = frozenset({b"aa", b"0a"})
_BEHIND = frozenset({b"aa", b"a0"})
_FISCAL_CODE = b"aaaaaa00a00a000a"
_WORDS = _table((string.ascii_letters + string.digits + "_-", "a"))
_TOKEN = b"a" * 20  # tokens of every form have so many such characters in a row
# Before a value that a name is given. The longest name is shorter, with the quote and the spaces behind it.
_SETTERS = (b"=", b":", b"%3d")
_BEFORE_QUOTES = re.compile(rb",\s{0,8}+b?[\"']")
_FEW = 16
_NAME_REACH = 48
_HEX = string.hexdigits.encode()
_SEVEN = b":::::::"


class Digits(NamedTuple):
    """A part of a text in which a number may stand.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        digits: How many digits the number has at most.
        in_word: Whether they stand within a word, as in a digest in hex: of all numbers only an IBAN does so.
    """

    start: int
    end: int
    digits: int
    in_word: bool


class Glance:
    """What a plain text may hold.

    Args:
        text: The plain text.
    """

    __slots__ = ("_bytes", "_lower", "_named", "_shapes", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._bytes = text.encode("ascii", "replace")  # in the same places: one byte for each character
        self._lower = b""
        self._shapes = b""
        self._named = b""

    def sees_an_at(self) -> bool:
        """Whether there is an @, as it is or as URLs write it."""
        return "@" in self._text or ("%" in self._text and "%40" in self._text)

    def places_of(self, word: bytes) -> list[int]:
        """Where a word of lower-case ASCII stands, in whatever case."""
        lower = self._lower = self._lower or self._bytes.lower()
        return _places(lower, word)

    def places_of_name(self, word: bytes) -> list[int]:
        """Where such a word stands, if it can be in a name that has a value: ``word=``, ``"word": ``, ``word,"``."""
        named = self._named = self._named or self._before_setters()
        return self.places_of(word) if word in named else []

    def _before_setters(self) -> bytes:
        """What stands before signs that give a value. Where there are many signs, all of the text."""
        lower = self._lower = self._lower or self._bytes.lower()
        places: list[int] = []
        for sign in _SETTERS:
            places += _places(lower, sign, _FEW) if sign[:1] in lower else []  # one byte is found faster than three
            if len(places) >= _FEW:
                return lower
        if b'"' in lower or b"'" in lower:
            places += [match.start() for match in _BEFORE_QUOTES.finditer(lower)]
        return b"\n".join([lower[max(0, place - _NAME_REACH) : place] for place in places]) or b"\n"

    def long_words(self) -> list[tuple[int, int]]:
        """Where twenty or more letters, digits, ``-`` and ``_`` stand in a row, up to where that ends."""
        words = self._bytes.translate(_WORDS)
        found = []
        start = words.find(_TOKEN)
        while start >= 0:
            end = words.find(b",", start)
            found.append((start, end if end >= 0 else len(words)))
            start = words.find(_TOKEN, end) if end >= 0 else -1
        return found

    def like_a_nino(self) -> list[tuple[int, int]]:
        """Where letters and digits stand as in a British National Insurance number without spaces."""
        return self._like(_NINO)

    def like_a_fiscal_code(self) -> list[tuple[int, int]]:
        """Where letters and digits stand as in an Italian fiscal code."""
        return self._like(_FISCAL_CODE)

    def _like(self, shape: bytes) -> list[tuple[int, int]]:
        """Where a shape stands, and one character more, by which one sees that it ends there."""
        return [(place, place + len(shape) + 1) for place in _places(self._shaped(), shape)]

    def sees_colons(self) -> bool:
        """Whether there are as many colons as in an IPv6 address."""
        few = _places(self._bytes, b":", len(_SEVEN))
        if len(few) < len(_SEVEN):
            return any(after - before == 1 for before, after in itertools.pairwise(few))
        return b"::" in self._bytes or _SEVEN in self._bytes.translate(None, _HEX)

    def around_digits(self) -> list[Digits]:
        """The parts of the text in which seven digits or more stand together that are no date and no decimal.

        No two of them overlap, so that whoever searches them all looks at each character once.
        """
        parts: list[Digits] = []
        shapes = self._shaped()
        end = 0
        while match := _DIGITS.search(shapes, end):
            run, (start, end) = match[0], match.span()
            decimals = _DECIMALS.match(shapes, start)
            if decimals:
                end = decimals.end()
                continue
            if run in _DATES and self._text.startswith(_CENTURIES, start):
                continue
            count = run.count(b"0")
            if count < _LEAST and run.count(b".") < 3:  # but an IPv4 address may have four
                continue
            in_word = run.isalnum() and (shapes[start - 2 : start] in _BEFORE or shapes[end : end + 2] in _BEHIND)
            part = Digits(max(0, start - _REACH), min(len(shapes), end + _REACH), count, in_word)
            if parts and part.start <= parts[-1].end:
                last = parts.pop()
                part = Digits(last.start, part.end, last.digits + part.digits, last.in_word and in_word)
            parts.append(part)
        return parts

    def _shaped(self) -> bytes:
        shapes = self._shapes = self._shapes or self._bytes.translate(_SHAPES)
        return shapes


def _places(text: bytes, piece: bytes, most: int = sys.maxsize) -> list[int]:
    """Where a piece stands, up to so many times."""
    places: list[int] = []
    place = text.find(piece)
    while place >= 0 and len(places) < most:
        places.append(place)
        place = text.find(piece, place + len(piece))
    return places
