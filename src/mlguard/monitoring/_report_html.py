"""HTML that is built of elements, so that no text becomes one, and texts that obey nothing and hide nothing."""

import html
import re
import unicodedata
from collections.abc import Iterable

_MOST = 80  # characters that are shown of a name
_NO_NAME = '""'
_MARKS = 2  # combining marks on one letter: more of them reach into the lines around
_MARK = frozenset({"Mn", "Me"})
# Letters, marks and symbols without a picture: Python and Unicode call them printable. With one of them somebody takes
# a name that looks like another's. A variation selector is one too, and costs an emoji its colour here.
_BLANK = frozenset(
    map(
        chr,
        [
            0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2800, 0x3164, *range(0xFE00, 0xFE10),
            0xFFA0, 0x13441, 0x13442, 0x16FE4, 0x1D159, *range(0xE0100, 0xE01F0),
        ],
    )
)  # fmt: skip
# A browser shows several spaces as one, and none at an end. What looks as if it had been written out was not.
_UNCLEAR = re.compile(r"^ | $|(?<= ) |\\(?=u\{)")
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"


class Html(str):
    """What is HTML already. Whatever is made of it by other means than here is a text again, and is escaped."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | float | None) -> Html:
    """An element.

    Args:
        name: Of the element.
        *children: What is in it. A text is escaped, ``Html`` is not, None is left out.
        **attributes: With ``_`` in the place of ``-``; one at the end is taken off. None is left out. Numbers are
            rounded to hundredths.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>{joined(children)}</{name}>")


def joined(parts: Iterable[str | None]) -> Html:
    """Several parts, one after another."""
    return Html("".join([part if isinstance(part, Html) else html.escape(part) for part in parts if part is not None]))


def name_of(text: str, most: int = _MOST) -> Html:
    """A name that somebody else has chosen: shown as one, and apart from what stands around it."""
    return element("bdi", shown(text, most) or _NO_NAME, class_="name")


def isolated(text: str, most: int = _MOST) -> str:
    """The same for places where there are only texts."""
    return f"{_ISOLATE}{shown(text, most)}{_END_ISOLATE}"


def shown(text: str, most: int = _MOST) -> str:
    """A text as it can be shown: cut, and what is not to be seen, or moves what is, written out."""
    cut = _UNCLEAR.sub(lambda found: _number_of(found[0]), text[:most])
    if not (cut.isascii() and cut.isprintable()):
        cut = _written_out(cut)
    return cut if len(text) <= most else f"{cut}… ({len(text)} characters)"


def _written_out(text: str) -> str:
    parts, marks = [], 0
    for one in text:
        marks = marks + 1 if unicodedata.category(one) in _MARK else 0
        hidden = not one.isprintable() or one in _BLANK or marks > _MARKS
        parts.append(_number_of(one) if hidden else one)
    return "".join(parts)


def _number_of(one: str) -> str:
    return f"\\u{{{ord(one):x}}}"


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return html.escape(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
