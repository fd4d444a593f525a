"""A text with something else in the place of its data."""

from mlguard.privacy._plain_text import plain_text
from mlguard.privacy._spans import Span
from mlguard.privacy.masks import Mask, PseudonymMask
from mlguard.privacy.pii_search import PIISearch

_PASSES = 10  # what stood beside a datum may be one without it


def masked_text(text: str, spans: list[Span], search: PIISearch, mask: Mask) -> str:
    """The text with what the mask says in the place of each datum. The same text, if there is none.

    Args:
        text: The text.
        spans: Where data are in it.
        search: What is looked for in what has come of it.
        mask: What stands in the place of a datum.
    """
    for _ in range(_PASSES):
        masked = _replaced(text, _without_own(spans, text, mask), mask) if spans else text
        if masked == text:
            break
        text, spans = masked, search.spans(masked)
    return text


def masked_value(kind: str, value: str, mask: Mask) -> str:
    """What the mask says in the place of a value. Odd digits and spaces of the value make no difference."""
    return mask(kind, plain_text(value).text)


def _without_own(spans: list[Span], text: str, mask: Mask) -> list[Span]:
    """The spans that do not lie within what this mask has written before."""
    own = mask.spans(text) if isinstance(mask, PseudonymMask) else []
    if not own:
        return spans
    kept, place = [], 0
    for span in spans:
        while place < len(own) and own[place][1] < span.end:
            place += 1
        if place == len(own) or not own[place][0] <= span.start:
            kept.append(span)
    return kept


def _replaced(text: str, spans: list[Span], mask: Mask) -> str:
    pieces, place = [], 0
    for start, end, kind in spans:
        pieces += [text[place:start], masked_value(kind, text[start:end], mask)]
        place = end
    return "".join([*pieces, text[place:]])
