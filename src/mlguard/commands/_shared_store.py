"""The store of the service, from the command line."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from mlguard.errors import ConfigurationError, UnavailableError
from mlguard.store import Store, default_store

T = TypeVar("T")


def shared_store() -> Store:
    """The store that ``MLGUARD_STORE_URL`` names.

    Raises:
        ConfigurationError: It is one that no other process sees.
    """
    store = default_store()
    if store.forgets_on_restart:
        raise ConfigurationError(
            "MLGUARD_STORE_URL is memory://: what a process keeps there, nobody else sees; set it to the "
            "Redis of the service, such as redis://host:6379/0"
        )
    return store


def ask(work: Awaitable[T]) -> T:
    """What the store answers.

    Raises:
        ConfigurationError: It does not.
    """

    async def main() -> T:
        return await work

    try:
        return asyncio.run(main())
    except UnavailableError as refusal:
        reason = refusal.reason
    raise ConfigurationError(f"MLGUARD_STORE_URL: {reason}")
