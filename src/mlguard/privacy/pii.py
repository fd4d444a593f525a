"""Personal data and secrets in data: find them, or have a copy without them."""

from functools import cache
from typing import TypeVar

from mlguard.privacy._data_walks import DataWalk, Finding
from mlguard.privacy.masks import Mask, label
from mlguard.privacy.pii_search import PIISearch

T = TypeVar("T")


def find_pii(data: object, *, search: PIISearch | None = None) -> list[Finding]:
    """Where personal data and secrets are, by the names of fields and by patterns that are checked.

    Looks into texts, bytes (as UTF-8), numbers of seven and more digits, mappings with their keys, lists, tuples, sets,
    dataclasses, pydantic models and arrays of texts. Arrays of numbers are measurements, and are not looked into. What
    cannot be read is found as ``"unread"``: other objects (a pandas frame: give ``frame.to_dict("list")``), what is
    deeper than 64, what is in itself, and all beyond five million values.

    It misses some: see ``PIISearch``. The page "personal data" of the documentation has what was measured.

    Args:
        data: What to look through. It is not changed.
        search: What to look for. None: ``PIISearch()``.

    Returns:
        The findings, in the order of the data. They have kinds and places, and no values.
    """
    walk = DataWalk(search or _everything(), None)
    walk.copied(data)
    return walk.findings


def mask_pii(data: T, *, search: PIISearch | None = None, mask: Mask = label) -> T:
    """A copy of the data with something else in the place of what ``find_pii`` finds.

    Masking what is masked changes nothing. A number becomes a text, a mapping a dict, an array of texts a list, and
    what cannot be read ``"[unread]"``. A model or dataclass keeps its type and is not validated again; private
    attributes of a model are copied as they are. If two keys become the same, one has a number behind it.

    Args:
        data: What to copy. It is not changed.
        search: What to look for. None: ``PIISearch()``.
        mask: What stands in its place: ``label``, which shows the kind, a ``KeepLast`` or a ``PseudonymMask``.

    Returns:
        The copy.
    """
    masked: T = DataWalk(search or _everything(), mask).copied(data)
    return masked


@cache
def _everything() -> PIISearch:
    return PIISearch()
