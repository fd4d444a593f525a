"""Which addresses may ask at all."""

from collections.abc import Sequence
from typing import ClassVar

from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard
from mlguard._order import once
from mlguard.errors import AddressNotAllowedError, ConfigurationError
from mlguard.traffic.addresses import ClientAddress, networks, peer_address


class _AddressList(Guard):
    """Judges by the address, before anything else: who may not ask may not guess keys either.

    An address that cannot be told, as on a Unix socket, is refused by both kinds of list.
    """

    control = Control.ADDRESS
    statuses = (403,)
    suspends = False
    admits_listed: ClassVar[bool]

    def __init__(self, addresses: Sequence[str], *, address: ClientAddress | None = None) -> None:
        name = type(self).__name__
        self._networks = networks(addresses, where=f"{name}(addresses)")
        if address is not None and not isinstance(address, ClientAddress):
            raise ConfigurationError(f"{name}(address=...) is a ClientAddress, or left out for the socket's own")
        self._address = peer_address if address is None else address.address

    async def __call__(self, conn: HTTPConnection) -> None:
        """Let the request through, or refuse it (403)."""

        async def judge() -> None:
            address = self._address(conn)
            listed = address is not None and any(address in network for network in self._networks)
            if address is None or listed is not self.admits_listed:
                raise AddressNotAllowedError(f"{type(self).__name__}: {address or 'no address'}")

        await once(conn, self, judge)


class AllowAddresses(_AddressList):
    """Admits the listed addresses and refuses all others with 403.

    Judged before every other guard, and before the body. It does not say who is calling: whoever shares an address
    shares the admission.

    Args:
        addresses: Networks, ``["10.0.0.0/8", "2001:db8::/32"]``.
        address: Whose address it is behind proxies. None: the other end of the socket.

    Raises:
        ConfigurationError: No networks, or one that is none.
        AddressNotAllowedError: The address is not listed, or cannot be told (403).
    """

    admits_listed = True


class DenyAddresses(_AddressList):
    """Refuses the listed addresses with 403 and admits all others.

    Judged before every other guard, and before the body. Whoever has another address gets past it.

    Args:
        addresses: As for :class:`AllowAddresses`.
        address: As for :class:`AllowAddresses`.

    Raises:
        ConfigurationError: No networks, or one that is none.
        AddressNotAllowedError: The address is listed, or cannot be told (403).
    """

    admits_listed = False
