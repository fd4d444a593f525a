"""The way to a Redis that Sentinels watch over: which server is the master, and which one is when it has changed."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from mlguard._redis_connection import RedisConnection, Script
from mlguard._redis_url import Place, RedisAddress
from mlguard.errors import UnavailableError

_EVERY = 0.25  # seconds between two questions who is the master, at least


class RedisSentinel:
    """Asks the server that the Sentinels call the master. They are asked again whenever it has failed.

    The user and the password are the servers'. The Sentinels are asked without.

    Args:
        address: Of the Sentinels.
        timeout: Seconds that one call may take.
    """

    def __init__(self, address: RedisAddress, *, timeout: float) -> None:
        self._options = address.options
        self._service = address.service
        self._timeout = timeout
        guest = {**address.options, "db": 0, "username": None, "password": None}
        self._sentinels = [self._connection(place, guest, "Redis Sentinel") for place in address.places]
        self._master: RedisConnection | None = None
        self._place: Place | None = None
        self._asked_at = -math.inf
        #: An event loop keeps no task alive by itself.
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self, script: Script, key: str, *arguments: bytes | float | str) -> Any:
        """Have the master run a script."""
        return await self._ask(lambda master: master.run(script, key, *arguments))

    async def ask(self, *command: bytes | float | str) -> Any:
        """Have the master run a command."""
        return await self._ask(lambda master: master.ask(*command))

    async def get(self, *keys: str) -> list[bytes | None]:
        """Several values at once."""
        found: list[bytes | None] = await self._ask(lambda master: master.get(*keys))
        return found

    @property
    def connections(self) -> list[RedisConnection]:
        """The Sentinels, and the master if it is known."""
        return [*self._sentinels, *([] if self._master is None else [self._master])]

    async def _ask(self, ask: Callable[[RedisConnection], Awaitable[Any]]) -> Any:
        master = self._master or await self._find()
        try:
            return await ask(master)
        except UnavailableError:  # also a server that is the master no more, and takes nothing
            if time.monotonic() >= self._asked_at + _EVERY:
                task = asyncio.ensure_future(self._find_quietly())
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            raise

    async def _find_quietly(self) -> None:
        try:
            await self._find()
        except UnavailableError:  # then the next one who fails has them asked again
            return

    async def _find(self) -> RedisConnection:
        """Find out which server is the master, from the first Sentinel that knows.

        Raises:
            UnavailableError: None does (503).
        """
        self._asked_at = time.monotonic()
        # Another one first each time: one that is cut off from the others may go on naming a master that is dead.
        self._sentinels.append(self._sentinels.pop(0))
        for sentinel in sorted(self._sentinels, key=lambda sentinel: sentinel.is_down):
            try:
                found = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            except UnavailableError:
                continue
            if found is None:  # it watches over others
                continue
            place = Place(found[0].decode(), int(found[1]))
            if self._master is None or place != self._place:
                self._place, self._master = place, self._connection(place, self._options, "Redis")
            return self._master
        raise UnavailableError("Redis Sentinel: none of them knows the service", retry_after=1)

    def _connection(self, place: Place, options: dict[str, Any], name: str) -> RedisConnection:
        return RedisConnection(place, options, timeout=self._timeout, name=f"{name} {place.host}:{place.port}")
