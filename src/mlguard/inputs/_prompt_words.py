"""The words of a text by what they mean, also where they are disguised.

One pass over the words, a few lookups in dictionaries for each. Nothing is searched for twice, and nothing backtracks.
"""

import codecs
import re
import unicodedata
from collections.abc import Generator, Iterator
from functools import cache

from mlguard.inputs._prompt_rules import DISGUISED, MEANINGS

Meanings = tuple[int, ...]

#: The number of each meaning.
NUMBER = {meaning: number for number, meaning in enumerate(MEANINGS)}

_WORD = re.compile(r"[^\W_]++(?:[$@][^\W_]++)*+")  # possessive: what was taken is never given back
_LEET = str.maketrans("013457$@", "oieastsa")
_LETTERS_ALIKE = str.maketrans(
    "авекмнорстухіјѕԁԛԝһӏαβεικνορτυχγ",  # that they look alike is the point
    "abekmhopctyxijsdqwhiabeiknoptuxy",
)
_LEAST_JOINED = 14  # letters of a word that may be several without spaces
_FIRST_WITHOUT_SPACES = "\u0e00"  # Thai; from here on most scripts put no spaces between words

#: How places are counted: a word, and what a letter is of a word, in scripts without spaces and in others.
WORD, _LETTER_WITHOUT_SPACES, _LETTER = 10, 5, 2


class Vocabulary:
    """Looks words up. Made once in a process, by :func:`vocabulary`, because that takes a while."""

    def __init__(self) -> None:
        # Accents, vowel signs and all other marks.
        self._marks = dict.fromkeys(code for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")
        self._words: dict[str, Meanings] = {}
        stems: dict[str, Meanings] = {}
        for number, words in enumerate(MEANINGS.values()):
            for word in words.split():
                known = stems if word.endswith("*") else self._words
                folded = self.fold(word.rstrip("*"))
                known[folded] = (*known.get(folded, ()), number)
        self._stems = _by_beginning(stems)
        self._within = _by_beginning(
            {word: self._words.get(word, ()) + stems.get(word, ()) for word in self._words | stems if _is_long(word)}
        )
        self._disguised: dict[str, Meanings] = {}
        for word in DISGUISED.split():
            for disguise in _disguises(word):
                self._disguised.setdefault(disguise, self._plain(word))

    def fold(self, text: str) -> str:
        """The text without case and accents."""
        text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").replace("n't", " not")
        if text.isascii():
            return text.lower()
        decomposed = unicodedata.normalize("NFKD", text).translate(self._marks)
        return unicodedata.normalize("NFC", decomposed).casefold()

    def read(self, text: str) -> Iterator[tuple[int, Meanings]]:
        """The words that mean something, with their places, in tenths of a word.

        Args:
            text: Folded.
        """
        place = 0
        letters: list[str] = []  # one by one, as in "i g n o r e"
        for word in _WORD.findall(text):
            if len(word) == 1:
                letters.append(word)
                continue
            if letters:
                place = yield from self._read_within("".join(letters), place)
                letters.clear()
            place += WORD
            meanings = self._meanings(word)
            if meanings:
                yield place, meanings
            if len(word) >= _LEAST_JOINED or word[0] >= _FIRST_WITHOUT_SPACES:
                place = yield from self._read_within(word, place)
        yield from self._read_within("".join(letters), place)

    def _meanings(self, word: str) -> Meanings:
        """What a word means, plain or disguised."""
        meanings = self._plain(word) or self._disguised.get(word, ())
        if not meanings and not word.isalpha():
            meanings = self._plain(word.translate(_LEET))
        if not meanings and not word.isascii():
            alike = word.translate(_LETTERS_ALIKE)
            meanings = self._plain(alike) if alike.isascii() else ()
        return meanings

    def _plain(self, word: str) -> Meanings:
        meanings = self._words.get(word, ())
        for stem, more in self._stems.get(word[:2], ()):
            if word.startswith(stem):
                meanings += more
        return meanings

    def _read_within(self, letters: str, place: int) -> Generator[tuple[int, Meanings], None, int]:
        """The words in letters that no space parts, and then the place where they end.

        All of them, also those that overlap: who knows what is meant, and what else was put in front?
        """
        for at, letter in enumerate(letters):
            place += _LETTER_WITHOUT_SPACES if letter >= _FIRST_WITHOUT_SPACES else _LETTER
            for word, meanings in self._within.get(letters[at : at + 2], ()):
                if letters.startswith(word, at):
                    yield place, meanings
        return place


@cache
def vocabulary() -> Vocabulary:
    """The one vocabulary of this process."""
    return Vocabulary()


def _by_beginning(words: dict[str, Meanings]) -> dict[str, list[tuple[str, Meanings]]]:
    """Words by their first two letters, so that nearly all others are done with after one look."""
    beginnings: dict[str, list[tuple[str, Meanings]]] = {}
    for word, meanings in words.items():
        beginnings.setdefault(word[:2], []).append((word, meanings))
    return beginnings


def _is_long(word: str) -> bool:
    """Whether a word is looked for within others: short ones are in many."""
    return len(word) >= 4 or (len(word) >= 2 and word[0] >= _FIRST_WITHOUT_SPACES)


def _disguises(word: str) -> Iterator[str]:
    yield word[::-1]
    yield codecs.encode(word, "rot13")
    if len(word) >= 6:
        for at in range(1, len(word)):
            yield word[:at] + word[at + 1 :]  # a letter left out
            yield word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]  # two swapped
