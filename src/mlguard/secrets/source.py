"""What every source of secrets is: something that is asked for one secret by its name."""

from typing import Protocol, runtime_checkable

from pydantic import SecretStr


@runtime_checkable
class SecretSource(Protocol):
    """Where a secret is read from."""

    def read(self, name: str) -> SecretStr:
        """Read the current value of one secret. Blocks, so call it in a thread and never on the event loop.

        Args:
            name: Which one, as this source names it.

        Raises:
            SecretUnavailableError: There is none of this name, or the source cannot be asked, or what it said is no
                secret. The text names the source and the secret, never a value.
        """
        ...  # pragma: no cover  # a protocol
