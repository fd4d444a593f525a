"""The way to a Redis Cluster: which node has a key, and finding that out again when it has changed.

redis-py has a client for it. That one sends a command again whose answer did not come, which may then count twice or
meet its own nonce, and it asks a node that is down for as long as it likes. Here each node has its own time-out and its
own pause after a failure, so that one that is down is nothing to the callers of the others.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mlguard._redis_connection import Redirected, RedisConnection, Script
from mlguard._redis_url import Place, RedisAddress
from mlguard.errors import UnavailableError

_SLOTS = 16_384
_MOST_HOPS = 5  # from node to node, while slots are on the move
_EVERY = 0.25  # seconds between two looks at who has what, at least


class RedisCluster:
    """Asks the node of a Cluster that has a key.

    Args:
        address: Of some nodes, which know the others.
        timeout: Seconds that one call of one node may take.
    """

    def __init__(self, address: RedisAddress, *, timeout: float) -> None:
        self._starts = address.places
        self._options = address.options
        self._timeout = timeout
        self._nodes: dict[Place, RedisConnection] = {place: self._connection(place) for place in address.places}
        self._slots: dict[int, Place] = {}
        self._looked_at = -math.inf
        #: An event loop keeps no task alive by itself.
        self._looking: set[asyncio.Task[None]] = set()

    async def run(self, script: Script, key: str, *arguments: bytes | float | str) -> Any:
        """Have the node that has the key run a script."""
        return await self._ask(key, lambda node, asking: node.run(script, key, *arguments, asking=asking))

    async def ask(self, *command: bytes | float | str) -> Any:
        """Have the node that has the key, which comes second, run a command."""
        return await self._ask(str(command[1]), lambda node, asking: node.ask(*command, asking=asking))

    async def get(self, *keys: str) -> list[bytes | None]:
        """Several values at once, each from its node."""
        return list(await asyncio.gather(*[self.ask("GET", key) for key in keys]))

    @property
    def connections(self) -> list[RedisConnection]:
        """The nodes that are known."""
        return list(self._nodes.values())

    async def _ask(self, key: str, ask: Callable[[RedisConnection, bool], Awaitable[Any]]) -> Any:
        slot = _slot(key)
        place, asking = await self._place_of(slot), False
        for _ in range(_MOST_HOPS):
            try:
                return await ask(self._node(place), asking)
            except Redirected as redirected:
                place, asking = redirected.place, redirected.is_asking
                if not asking:
                    self._slots[slot] = place
                    self._look_soon()
            except UnavailableError:
                self._look_soon()
                raise
        raise UnavailableError("Redis Cluster: its nodes do not agree who has a key", retry_after=1)

    async def _place_of(self, slot: int) -> Place:
        if slot not in self._slots and (not self._slots or self._may_look):
            await asyncio.shield(self._look_now())  # others may wait for it, too
        place = self._slots.get(slot)
        if place is None:
            raise UnavailableError("Redis Cluster: no node has a part of the keys", retry_after=1)
        return place

    @property
    def _may_look(self) -> bool:
        return time.monotonic() >= self._looked_at + _EVERY

    def _look_soon(self) -> None:
        """Find out who has what, for the next one who asks."""
        if self._may_look:
            self._look_now()

    def _look_now(self) -> asyncio.Task[None]:
        """One look for all of this event loop who need one: at a start, that is every request."""
        loop = asyncio.get_running_loop()
        under_way = [task for task in self._looking if task.get_loop() is loop]
        if under_way:
            return under_way[0]
        task = loop.create_task(self._look_quietly())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)
        return task

    async def _look_quietly(self) -> None:
        try:
            await self._look()
        except UnavailableError:  # then the next one who fails has it looked for again
            return

    async def _look(self) -> None:
        """Find out who has what, from the first node that says so.

        Raises:
            UnavailableError: None does (503).
        """
        self._looked_at = time.monotonic()
        known = dict.fromkeys([*self._slots.values(), *self._starts])
        for place in sorted(known, key=lambda place: self._node(place).is_down):  # those first that should answer
            try:
                ranges = await self._node(place).ask("CLUSTER", "SLOTS")
            except UnavailableError:
                continue
            self._slots = dict(itertools.chain.from_iterable(_slots_of(each, place) for each in ranges))
            self._forget(known)
            return
        raise UnavailableError("Redis Cluster: none of its nodes can be asked", retry_after=1)

    def _forget(self, known: Mapping[Place, None]) -> None:
        """Forget nodes that have nothing any more: in Kubernetes, each restart is another address."""
        serving = {*self._slots.values(), *self._starts}
        for place in known:
            if place not in serving:
                self._nodes.pop(place, None)

    def _node(self, place: Place) -> RedisConnection:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = self._connection(place)
        return node

    def _connection(self, place: Place) -> RedisConnection:
        name = f"Redis {place.host}:{place.port}"
        return RedisConnection(place, self._options, timeout=self._timeout, name=name, redirects=True)


def _slot(key: str) -> int:
    from redis.crc import key_slot  # noqa: PLC0415  # an extra

    return int(key_slot(key.encode(), _SLOTS))


def _slots_of(entry: Any, asked: Place) -> list[tuple[int, Place]]:
    """The slots of one entry of CLUSTER SLOTS, each with the node that has it."""
    first, last, (host, port, *_), *_ = entry
    place = Place(host.decode() if host else asked.host, port)  # it may not know its own name
    return [(slot, place) for slot in range(first, last + 1)]
