"""A source of secrets that tests can change, break and hold up."""

import secrets
import threading
from typing import Any

from pydantic import SecretStr

from mlguard.errors import SecretNotFoundError, SecretUnavailableError


def strong() -> str:
    """A secret that nobody has seen before."""
    return secrets.token_urlsafe(48)


class Vault:
    """Secrets by name.

    Args:
        values: What it holds. Each is returned as a ``SecretStr`` if it is text, else as it is.

    Attributes:
        is_down: Whether it cannot be asked.
        asked: How often it was.
        at_once: The most that have asked at the same time.
        open: While cleared, whoever asks waits.
        entered: Set whenever somebody asks.
    """

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.is_down = False
        self.crash: BaseException | None = None
        self.asked = 0
        self.at_once = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self._asking = 0
        self._lock = threading.Lock()

    def read(self, name: str) -> SecretStr:
        """The value as it was when somebody began to ask."""
        with self._lock:
            self.asked += 1
            self._asking += 1
            self.at_once = max(self.at_once, self._asking)
            value = self.values.get(name)
        self.entered.set()
        self.open.wait()
        with self._lock:
            self._asking -= 1
        if self.crash is not None:
            raise self.crash
        if self.is_down:
            raise SecretUnavailableError(name, "a vault", "it cannot be asked")
        if name not in self.values:
            raise SecretNotFoundError(name, "a vault", "there is none")
        answer: Any = SecretStr(value) if isinstance(value, str) else value
        return answer  # type: ignore[no-any-return]  # what lies keeps to no type
