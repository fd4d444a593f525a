"""What stands in the place of a datum."""

from collections.abc import Collection
from typing import Protocol

from mlguard._numbers import whole
from mlguard.errors import ConfigurationError
from mlguard.privacy.pii_search import SECRET_KINDS
from mlguard.privacy.pseudonyms import Pseudonymiser

_HIDDEN = "*"


class Mask(Protocol):
    """Says what stands in the place of a datum. What it says must be no datum itself, nor be said of what it says."""

    def __call__(self, kind: str, value: str) -> str:
        """What is shown of a value of this kind."""


def label(kind: str, value: str) -> str:  # noqa: ARG001  # nothing of the value is shown
    """The kind alone, in brackets: ``[email]``."""
    return f"[{kind}]"


class KeepLast:
    """Shows the last characters of numbers, as on receipts: ``********1111``. Of everything else, the kind alone.

    Args:
        count: How many letters and digits are shown, 1 to 4, of at least three times as many.
        kinds: Of which kinds.

    Raises:
        ConfigurationError: A count out of its range.
    """

    def __init__(self, count: int = 4, *, kinds: Collection[str] = ("card", "iban", "phone")) -> None:
        self._count = whole("KeepLast(count)", count, least=1, most=4)
        self._kinds = kinds

    def __call__(self, kind: str, value: str) -> str:
        """The end of the value behind stars, or its kind."""
        bare = "".join([one for one in value if one.isalnum()])
        if kind not in self._kinds or len(bare) < 3 * self._count:
            return value if kind in self._kinds and self._is_own(value) else label(kind, value)
        return _HIDDEN * 8 + bare[-self._count :]

    def _is_own(self, value: str) -> bool:
        return value.startswith(_HIDDEN * 8) and len(value) == 8 + self._count and value[8:].isalnum()


class PseudonymMask:
    """Shows a pseudonym for each value, so that one can count and join, and not read.

    Args:
        pseudonymiser: Who makes them.
        purpose: What they are for. Each kind has pseudonyms of its own.
        kinds: Of which kinds. None: all but secrets, which nobody needs to join. Of the others the kind is shown.

    Raises:
        ConfigurationError: Something else than a Pseudonymiser, or no purpose.
    """

    def __init__(self, pseudonymiser: Pseudonymiser, *, purpose: str, kinds: Collection[str] | None = None) -> None:
        if not isinstance(pseudonymiser, Pseudonymiser):
            raise ConfigurationError("PseudonymMask needs a Pseudonymiser")
        pseudonymiser.pseudonym("", purpose=purpose)
        self._pseudonymiser = pseudonymiser
        self._purpose = purpose
        self._kinds = kinds

    def __call__(self, kind: str, value: str) -> str:
        """The value's pseudonym, or its kind."""
        if kind in SECRET_KINDS if self._kinds is None else kind not in self._kinds:
            return label(kind, value)
        if self.spans(value) == [(0, len(value))]:
            return value
        return self._pseudonymiser.pseudonym(value.encode("utf-8", "surrogatepass"), purpose=f"{self._purpose}/{kind}")

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where pseudonyms stand already, which are left as they are."""
        return self._pseudonymiser.spans(text)
