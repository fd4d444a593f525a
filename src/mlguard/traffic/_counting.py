"""What guards have in common that count in a store."""

import itertools
from typing import Any

from mlguard._guard import Guard
from mlguard.errors import ConfigurationError
from mlguard.store import Store, default_store
from mlguard.traffic.outages import OnStoreError, counts_of, decided_without_store

_serial = itertools.count(1)


class CountingGuard(Guard):
    """A guard whose counts have a name, in a store that may be away.

    Args:
        name: Names the counts, as the developer has said.
        otherwise: What they are called where that was not said: the same in every process.
        store: Where they are. None is the store that all guards share.
        on_store_error: What happens while the store does not answer.
        local_share: The part of each limit that one process admits by itself, with ``"local"``.

    Attributes:
        name: Names the counts.
        named: Whether the developer has said how.
        quota: What two guards must agree on to share a name.
        store: Where the counts are.
        on_store_error: What happens while the store does not answer.

    Raises:
        ConfigurationError: An argument that cannot work.
    """

    quota: Any

    def __init__(
        self,
        *,
        name: str | None,
        otherwise: str,
        store: Store | None,
        on_store_error: OnStoreError,
        local_share: float,
    ) -> None:
        kind = type(self).__name__
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigurationError(f"{kind}(name=...) is a text that is not empty, or left out")
        if store is not None and not isinstance(store, Store):
            raise ConfigurationError(f"{kind}(store=...) must be a Store, such as MemoryStore()")
        self.named = name is not None
        self.name = name or otherwise
        self.store = default_store() if store is None else store
        self.stores = (self.store,)
        self.on_store_error: OnStoreError = on_store_error
        self._counts = counts_of(self.store, on_store_error, local_share, where=f"{kind} {self.name!r}")
        self.suspends = self.store.suspends
        self.statuses = (429, 503) if self.suspends and on_store_error != "local" else (429,)
        # In this process's memory, counts without a name are their object's own: two apps in one process share none.
        self._own = f" #{next(_serial)}" if self.store.forgets_on_restart and not self.named else ""

    @property
    def decided_without_store(self) -> int:
        """How many times this process has decided while the store did not answer, for metrics. It only grows."""
        return decided_without_store(self._counts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"
