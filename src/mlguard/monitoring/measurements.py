"""Numbers for an operator's charts."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Protocol


class Measurement(NamedTuple):
    """One number, as it is now.

    Attributes:
        name: What is measured, such as ``mlguard_audit_dropped``.
        value: The number.
        labels: Of what, from small fixed sets. Never a principal.
        kind: ``"counter"`` only grows while the process lives, ``"gauge"`` goes up and down.
    """

    name: str
    value: float
    labels: Mapping[str, str]
    kind: Literal["counter", "gauge"]


class Measured(Protocol):
    """Something that has numbers."""

    def measurements(self) -> Iterable[Measurement]:
        """The numbers, as they are now. It never waits."""
