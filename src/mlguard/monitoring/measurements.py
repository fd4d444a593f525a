"""Numbers that an operator watches, as the objects that have them hand them out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number, now.

    Attributes:
        name: What is counted or measured, such as ``mlguard_audit_dropped``.
        value: How much.
        labels: From small fixed sets: never a principal, an address or anything else that callers choose.
        kind: ``"counter"``: it only grows, until the process ends. ``"gauge"``: it goes up and down.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["counter", "gauge"] = "gauge"


@runtime_checkable
class Measured(Protocol):
    """An object that has numbers."""

    def measurements(self) -> Iterable[Measurement]:
        """Its numbers, now. Cheap, and never waits."""
