"""The rules of text: what a person sees is what the model gets.

One implementation for every way in: the body that :class:`~mlguard.Text` reads, and the fields of pydantic models.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from mlguard._numbers import whole
from mlguard.errors import ConfigurationError, InvalidInputError

Form = Literal["NFC", "NFKC"]

#: What the caller is told about each rule.
_BROKEN = {
    "string": "A text is expected",
    "length": "The text has too many or too few characters",
    "bytes": "The text has too many bytes",
    "control": "A control character stands in the text",
    "surrogate": "Half a surrogate pair stands in the text",
    "undefined": "A character stands in the text that Unicode does not define",
    "bidi": "A character stands in the text that changes its direction",
    "hidden": "A character that cannot be seen stands in the text where it has nothing to do",
    "marks": "Too many combining marks stand in a row",
    "form": "The text is not in the normal form that is expected",
    "allowed": "A character stands in the text that is not among those allowed",
}

# Stream-Safe Text Format, UAX #15, section 13. More of them need time by their square to be sorted.
_MOST_MARKS = 30
_MOST_TO_ONE = 4  # characters that a normal form makes one of: a letter and three marks

_LINES_AND_TABS = frozenset("\t\n\r")
#: Embeddings, overrides and isolates: what CVE-2021-42574 ("Trojan Source") is done with.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BIDI_MARKS = frozenset("\u061c\u200e\u200f")
#: Zero-width non-joiner and joiner, and Mongolian's selectors, which shape the letters of some scripts.
_JOINERS = frozenset("\u200c\u200d\u180b\u180c\u180d\u180e\u180f")
_EMOJI_SELECTORS = frozenset("\ufe0e\ufe0f")
#: Default_Ignorable_Code_Point (UAX #44), as far as their category does not say so.
_IGNORABLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | {chr(code) for code in range(0xFE00, 0xFE0E)}
#: Formats that can be seen: they stand around Arabic and Syriac numbers.
_VISIBLE_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
#: Symbols that become an emoji by a selector, and are no symbols by their category.
_BASES = frozenset("#*0123456789\u203c\u2049\u2139\u3030\u303d")
#: The three flags that are spelled in tags: England, Scotland and Wales (UTS #51, RGI emoji tag sequences).
_FLAG = re.compile(
    "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074"
    "|\U000e0077\U000e006c\U000e0073)\U000e007f"
)
#: Scripts whose letters change by what they are joined to: Arabic to Mongolian and India's, in blocks.
_JOINING = (
    (0x0600, 0x1CFF),
    (0xA800, 0xABFF),
    (0xFB50, 0xFDFF),
    (0xFE70, 0xFEFC),
    (0x10A00, 0x11FFF),
    (0x1E900, 0x1E95F),
)
_IDEOGRAPHS = ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
#: Blocks that Unicode keeps for emoji. Those that are newer than this Python's tables count as defined.
_PICTOGRAPHS = ((0x1F000, 0x1FAFF), (0x1FC00, 0x1FFFD))


def broken(rule: str, position: int | None = None) -> InvalidInputError:
    """The refusal for one broken rule, with the place where it is known, in characters from 0."""
    place: dict[str, Any] = {} if position is None else {"position": position}
    where = "" if position is None else f" (position {position}, counted from 0)"
    return InvalidInputError(
        f"text rule {rule!r} is broken{where}", detail=f"{_BROKEN[rule]}{where}.", broken=rule, **place
    )


class TextRules:
    """What a text must be.

    Args:
        max_length: The most characters (code points).
        min_length: The fewest.
        max_bytes: The most bytes in UTF-8. None: what ``max_length`` makes possible.
        form: The normal form.
        on_other_form: Whether a text in another one is brought into it or refused.
        on_hidden: Whether what cannot be seen is refused or taken out.
        allowed: Ranges of characters, first and last. None: all.

    Raises:
        ConfigurationError: A rule that cannot work.
    """

    def __init__(
        self,
        *,
        max_length: int,
        min_length: int,
        max_bytes: int | None,
        form: Form,
        on_other_form: Literal["normalize", "refuse"],
        on_hidden: Literal["refuse", "remove"],
        allowed: Sequence[tuple[str, str]] | None,
    ) -> None:
        self.max_length = whole("Text(max_length=...)", max_length, least=1)
        self.min_length = whole("Text(min_length=...)", min_length, least=0)
        if min_length > max_length:
            raise ConfigurationError("Text(min_length=...) must not be above max_length")
        self._max_bytes = 4 * max_length if max_bytes is None else whole("Text(max_bytes=...)", max_bytes, least=1)
        self._form = _one_of("form", form, ("NFC", "NFKC"))
        self._normalizes = _one_of("on_other_form", on_other_form, ("normalize", "refuse")) == "normalize"
        self._removes = _one_of("on_hidden", on_hidden, ("refuse", "remove")) == "remove"
        self._allowed = None if allowed is None else _ranges(allowed)

    def judge(self, text: object) -> str:
        """The text, in the normal form.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        if not isinstance(text, str):
            raise broken("string")
        if len(text) > _MOST_TO_ONE * self.max_length:
            raise broken("length")
        as_sent = text
        if self._removes and not text.isascii():
            text = _without_hidden(text)
        _check(text, placed=text is as_sent)
        if not unicodedata.is_normalized(self._form, text):
            normal = _normalized(self._form, text)
            if not self._normalizes:
                raise broken("form", _first_difference(text, normal) if text is as_sent else None)
            text = normal
            _check(text, placed=False)
        self._check_size(text)
        return text

    def _check_size(self, text: str) -> None:
        if not self.min_length <= len(text) <= self.max_length:
            raise broken("length")
        if len(text.encode()) > self._max_bytes:
            raise broken("bytes")
        if self._allowed is not None and not all(_is_in(c, self._allowed) for c in set(text)):
            raise broken("allowed")

    def schema(self) -> dict[str, Any]:
        """The JSON schema of what is accepted."""
        return {"type": "string", "minLength": self.min_length, "maxLength": self.max_length}


# Characters -----------------------------------------------------------------------------------------------------------


def _check(text: str, *, placed: bool) -> None:
    fault = next(_faults(text), None)
    if fault is not None:
        raise broken(fault[0], fault[1] if placed else None)


def _faults(text: str) -> Iterator[tuple[str, int]]:
    """Each broken rule of characters and where, in reading order. Takes time by the length of the text."""
    kinds = {c: kind for c in set(text) if (kind := _kind(c))}
    if not kinds:
        return
    if "tag" in kinds.values():
        text = _FLAG.sub("\U0001f3f4......", text)  # of the same length
    right_to_left = "bidi mark" in kinds.values() and _has_right_to_left(text)
    marks = 0
    for at, c in enumerate(text):
        kind = kinds.get(c, "")
        marks = marks + 1 if kind == "mark" else 0
        if marks > _MOST_MARKS:
            yield "marks", at
        elif kind in _BROKEN:
            yield kind, at
        elif kind == "bidi mark" and not (right_to_left and text[at - 1 : at] not in _BIDI_MARKS):
            yield "bidi", at
        elif kind in _IN_PLACES and not _IN_PLACES[kind](text[at - 1 : at], c, text[at + 1 : at + 2]):
            yield "hidden", at


@lru_cache(maxsize=65_536)
def _kind(c: str) -> str:
    """The rule that a character breaks, or the kind of what is fine in some places; empty for all others."""
    category = unicodedata.category(c)
    for kind, characters in _KINDS.items():
        if c in characters:
            return kind
    code = ord(c)
    if category == "Cn" and not _is_in(c, _PICTOGRAPHS):
        return "undefined"
    if 0xE0020 <= code <= 0xE007F:
        return "tag"
    if 0xE0100 <= code <= 0xE01EF:
        return "ideograph selector"
    if category in _CATEGORIES:
        return _CATEGORIES[category]
    # A few characters that do not look like marks are made of nothing else.
    return "mark" if unicodedata.combining(unicodedata.normalize("NFKD", c)[0]) else ""


_KINDS = {
    "": _LINES_AND_TABS | _VISIBLE_FORMATS,
    "bidi": _BIDI,
    "bidi mark": _BIDI_MARKS,
    "joiner": _JOINERS,
    "emoji selector": _EMOJI_SELECTORS,
    "hidden": _IGNORABLE,
}
_CATEGORIES = {"Cc": "control", "Cs": "surrogate", "Co": "undefined", "Cf": "hidden"}


def _may_join(before: str, c: str, after: str) -> bool:
    if c == "\u200d" and (_is_symbol(before) or before in _EMOJI_SELECTORS):
        return _is_symbol(after)  # a woman and a rocket are joined to an astronaut
    return _is_in(before, _JOINING) and before not in _JOINERS and unicodedata.category(before)[0] in "LM"


#: What cannot be seen, and whether it does something between two characters, of which each may be missing.
_IN_PLACES: dict[str, Callable[[str, str, str], bool]] = {
    "joiner": _may_join,
    "emoji selector": lambda before, *_: _is_symbol(before) or before in _BASES,
    "ideograph selector": lambda before, *_: _is_in(before, _IDEOGRAPHS),
    "tag": lambda *_: False,  # it is not in a flag
}


def _is_symbol(c: str) -> bool:
    return c != "" and (unicodedata.category(c)[0] == "S" or _is_in(c, _PICTOGRAPHS))


def _has_right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(c) in {"R", "AL"} and c not in _BIDI_MARKS for c in set(text))


def _is_in(c: str, ranges: Iterable[tuple[int, int]]) -> bool:
    return c != "" and any(first <= ord(c) <= last for first, last in ranges)


def _without_hidden(text: str) -> str:
    hidden = {at for rule, at in _faults(text) if rule in {"bidi", "hidden"}}
    return "".join(c for at, c in enumerate(text) if at not in hidden) if hidden else text


def _normalized(form: Form, text: str) -> str:
    if form == "NFKC":  # takes the selector away with the symbol that it is for, as in ™️
        text = re.sub("(.)[\ufe0e\ufe0f]", _unless_replaced, text, flags=re.DOTALL)
    return unicodedata.normalize(form, text)


def _unless_replaced(pair: re.Match[str]) -> str:
    return pair[0] if unicodedata.is_normalized("NFKC", pair[1]) else pair[1]


def _first_difference(text: str, normal: str) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(text, normal, strict=False)) if a != b), min(len(text), len(normal))
    )


# Configuration --------------------------------------------------------------------------------------------------------


def _one_of(setting: str, value: Any, choices: Sequence[str]) -> Any:
    if value not in choices:
        raise ConfigurationError(f"Text({setting}=...) is one of {', '.join(map(repr, choices))}")
    return value


def _ranges(allowed: object) -> tuple[tuple[int, int], ...]:
    ranges = tuple(allowed) if isinstance(allowed, Iterable) and not isinstance(allowed, str) else ()
    if not ranges or not all(map(_is_range, ranges)):
        raise ConfigurationError('Text(allowed=...) is a list of first and last characters, such as [(" ", "~")]')
    return tuple((ord(first), ord(last)) for first, last in ranges)


def _is_range(pair: Any) -> bool:
    ends = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(end, str) and len(end) == 1 for end in pair)
    return ends and pair[0] <= pair[1]
