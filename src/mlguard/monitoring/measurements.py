"""What has numbers says them in one way, whoever shows them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number at one moment.

    Attributes:
        name: What it counts or measures: ``"mlguard_alerts_sent"``.
        value: The number.
        labels: From small fixed sets, never a principal or anything else that callers choose.
        kind: ``"counter"``: it only grows while the process lives. ``"gauge"``: it goes up and down.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["counter", "gauge"] = "gauge"


@runtime_checkable
class Measured(Protocol):
    """Something that has numbers."""

    def measurements(self) -> Iterable[Measurement]:
        """The numbers as they are now."""
        ...  # pragma: no cover  # a protocol
