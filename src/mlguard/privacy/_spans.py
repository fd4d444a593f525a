"""Pieces of a text, and what they are."""

from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of a text, from the character ``start`` up to but not including ``end``, and the kind of what it is."""

    start: int
    end: int
    kind: str


def merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that overlap made one, which is of the kind of the longest of them."""
    joined: list[Span] = []
    longest = 0
    for span in sorted(spans, key=lambda one: (one.start, -one.end)):
        length = span.end - span.start
        if joined and span.start < joined[-1].end:
            last = joined[-1]
            kind = span.kind if length > longest else last.kind
            joined[-1] = Span(last.start, max(last.end, span.end), kind)
            longest = max(longest, length)
        elif length:
            joined.append(span)
            longest = length
    return joined
