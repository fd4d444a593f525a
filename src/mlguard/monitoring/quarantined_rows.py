"""Labelled rows that nobody believes yet, as they go into quarantine and as they come out."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from mlguard.store import store_key

State = Literal["held", "released"]

_LONGEST_ID = 200  # characters of a caller's id; what is longer is told apart by its digest


class Held(NamedTuple):
    """A row that goes into quarantine.

    Attributes:
        who: Method, issuer and id of who has sent it.
        reason: Why.
        label: As it was sent.
        features: The row.
    """

    who: tuple[str, str, str]
    reason: str
    label: str | int
    features: NDArray[Any]


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row in quarantine.

    Attributes:
        id: Its number in the file, never given twice.
        at: When it came, in UTC.
        state: ``"held"``, or ``"released"`` and not fetched yet.
        method: How the caller was proved, such as ``"api-key"``; ``"name"`` for what a function in ``by=`` returns.
        issuer: Who vouches for the caller, if anybody.
        caller: Its id.
        reason: Why: ``"model"``, ``"neighbours"``, ``"model+neighbours"``, ``"far"`` or ``"share"``.
        label: As it was sent.
        features: The row, of the shape and dtype of the service's.
    """

    id: int
    at: datetime
    state: State
    method: str
    issuer: str
    caller: str
    reason: str
    label: str | int
    features: NDArray[Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ReleasedFeedback:
    """What an operator has released: for the training data.

    Attributes:
        x: The rows, shape ``(rows, columns)`` or ``(rows, *shape)``.
        y: Their labels, shape ``(rows,)``.
        who: Method, issuer and id of who has sent each row. Keep it beside the row: a release may turn out to be wrong.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    who: tuple[tuple[str, str, str], ...] = ()


def bounded(name: str) -> str:
    """A name as the file has it: not too long, and text in UTF-8. A long one keeps a digest, so that two stay two."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _LONGEST_ID else f"{text[: _LONGEST_ID - 33]}…{store_key(name).hex()}"
