"""HTML that is built of elements, so that no text becomes one, and texts that obey nothing and hide nothing."""

import html
import unicodedata
from collections.abc import Iterable

_MOST = 80  # characters that are shown of a name
_NO_NAME = '""'
_MARKS = 2  # combining marks on one letter: more of them reach into the lines around
_MARK = frozenset({"Mn", "Me"})
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
    cut = text[:most]
    if not (cut.isascii() and cut.isprintable()):
        cut = _written_out(cut)
    return cut if len(text) <= most else f"{cut}… ({len(text)} characters)"


def _written_out(text: str) -> str:
    parts, marks = [], 0
    for one in text:
        marks = marks + 1 if unicodedata.category(one) in _MARK else 0
        hidden = not one.isprintable() or marks > _MARKS
        parts.append(f"\\u{{{ord(one):x}}}" if hidden else one)
    return "".join(parts)


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return html.escape(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
