"""What is locked down, made ready to be looked up for every request."""

import ipaddress
import math
from collections import defaultdict
from collections.abc import Callable, Mapping

from starlette.requests import HTTPConnection

from mlguard._guard import Principal
from mlguard.errors import BlockedError, OutOfServiceError
from mlguard.monitoring._lockdown_paths import Segments, covers, pattern_of
from mlguard.monitoring._lockdown_state import Block, State, has_ended, kept_name
from mlguard.traffic.addresses import Address

_LATER = 30  # seconds; not when it ends, which is nobody's business


class Rules:
    """What is locked down at one moment.

    Args:
        state: The record. None: one that cannot be read, so everything is.
        now: The store's time. None: not known, so nothing has ended.

    Attributes:
        everything: Whether all but health is refused.
        label_only: Whether all answers are the label alone.
        pins: The version of each model that is pinned.
        changes_at: When the next block ends, by the store's clock.
        blocks: What is in force.
    """

    __slots__ = ("_networks", "_principals", "_routes", "blocks", "changes_at", "everything", "label_only", "pins")

    def __init__(self, state: State | None, now: float | None = None) -> None:
        now = -math.inf if now is None else now
        self.blocks = tuple(block for block in (state or State()).blocks if not has_ended(block, now))
        kinds = {block.kind for block in self.blocks}
        self.everything = state is None or "everything" in kinds
        self.label_only = "label-only" in kinds
        self.pins: Mapping[str, int] = {block.target: block.version or 0 for block in self._of("pin")}
        self.changes_at = min((block.ends for block in self.blocks if block.ends is not None), default=math.inf)
        self._routes: tuple[Segments, ...] = tuple(pattern_of(block.target) for block in self._of("route"))
        self._principals: defaultdict[str, list[tuple[str | None, str | None]]] = defaultdict(list)
        for block in self._of("principal"):
            self._principals[block.target].append((block.method, block.issuer))
        #: By the version of the protocol and how many bits are the host's: the networks as numbers.
        self._networks: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for block in self._of("address"):
            network = ipaddress.ip_network(block.target)
            host_bits = network.max_prefixlen - network.prefixlen
            self._networks[network.version, host_bits].add(int(network.network_address) >> host_bits)

    def _of(self, kind: str) -> list[Block]:
        return [block for block in self.blocks if block.kind == kind]

    def judge_request(self, conn: HTTPConnection, address_of: Callable[[HTTPConnection], Address | None]) -> None:
        """Let a request through by where it comes from and where it goes, or refuse it.

        Raises:
            BlockedError: Its address is blocked, or cannot be told while some are (403).
            OutOfServiceError: Its route or everything is (503).
        """
        if self._networks:
            address = address_of(conn)
            if address is None or self._has(address):
                raise BlockedError(f"lockdown: {address or 'no address'}")
        if self.everything:
            raise OutOfServiceError("lockdown: everything", retry_after=_LATER)
        if self._routes and covers(self._routes, conn.scope):
            raise OutOfServiceError("lockdown: the route", retry_after=_LATER)

    def _has(self, address: Address) -> bool:
        value = int(address)
        return any(
            version == address.version and value >> host_bits in networks
            for (version, host_bits), networks in self._networks.items()
        )

    def judge_principal(self, principal: Principal) -> None:
        """Let a principal through, or refuse it.

        Raises:
            BlockedError: It is blocked (403).
        """
        if not self._principals:
            return
        name = kept_name(str(principal.id))  # that of an app's own may be a number or a UUID
        for method, issuer in self._principals.get(name, ()):
            if method in {None, principal.method} and issuer in {None, kept_name(principal.issuer or "")}:
                raise BlockedError(f"lockdown: {principal.method} principal {principal.id!r}")
