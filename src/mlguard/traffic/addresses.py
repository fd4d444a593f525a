"""Where a caller comes from."""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, get_args

from starlette.requests import HTTPConnection

from mlguard.errors import ConfigurationError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Header = Literal["x-forwarded-for", "forwarded"]

_MOST_HOPS = 32  # proxies behind one another that are followed

# One element of Forwarded (RFC 7239, section 4), without backslashes, which no address needs.
_PAIR = r'[ \t]*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)=("[^"\\]*"|[^\s",;=]+)[ \t]*'
_ELEMENT = re.compile(rf"{_PAIR}(?:;{_PAIR})*", re.ASCII)
_FOR = re.compile(r'(?:^|;)[ \t]*for=("[^"\\]*"|[^\s",;=]+)', re.ASCII | re.IGNORECASE)
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?", re.ASCII)


def client_address(conn: HTTPConnection) -> str:
    """The address of the peer, as one caller: an IPv6 address by its /64, which one customer owns whole.

    It is the address of the socket's other end, so behind a proxy all callers are one. No header is trusted: that is
    what :class:`ClientAddress` is for.

    Returns:
        The address, or ``""`` where the server gives none (a Unix socket): then all callers are one.
    """
    return _name(peer_address(conn), conn)


def peer_address(conn: HTTPConnection) -> Address | None:
    """The address of the socket's other end; None where there is none."""
    return _parse(conn.client.host) if conn.client is not None else None


class ClientAddress:
    """The address of the caller behind proxies that are trusted: ``RateLimit(by=ClientAddress(trusted_proxies=...))``.

    Guards against callers who write the header themselves: it is read from the right, where the nearest proxy has
    written, and only for as long as what it says is a trusted proxy too. The first address that is no proxy is the
    caller's. Where that cannot be read, the last trusted proxy is the caller, and never what stands further left.

    The server must not do the same: with uvicorn, leave out ``--forwarded-allow-ips`` or give it nothing.

    Args:
        trusted_proxies: Networks, ``["10.0.0.0/8", "2001:db8::/32"]``, and ``"unix"`` for whoever comes through a Unix
            socket. Each trusted proxy must append to the header that is read.
        header: ``"x-forwarded-for"`` or ``"forwarded"`` (RFC 7239), the one that they write. The other one is not read,
            because callers can write it.

    Raises:
        ConfigurationError: No networks, one that is none or that has bits beside its mask, or one that holds all
            addresses, which would trust the callers.
    """

    def __init__(self, *, trusted_proxies: Sequence[str], header: Header = "x-forwarded-for") -> None:
        if header not in get_args(Header):
            raise ConfigurationError('ClientAddress(header=...) is "x-forwarded-for" or "forwarded"')
        self._trusts_unix = isinstance(trusted_proxies, list | tuple) and "unix" in trusted_proxies
        listed = [one for one in trusted_proxies if one != "unix"] if self._trusts_unix else trusted_proxies
        needs_networks = listed or not self._trusts_unix
        self._trusted = networks(listed, where="ClientAddress(trusted_proxies=...)") if needs_networks else ()
        if any(network.prefixlen == 0 for network in self._trusted):
            raise ConfigurationError(
                "ClientAddress(trusted_proxies=...): a network of all addresses trusts the callers themselves"
            )
        self._header = header.encode()
        self._elements = _forwarded if header == "forwarded" else _listed

    def __call__(self, conn: HTTPConnection) -> str:
        """The address as one caller: an IPv6 address by its /64, and ``""`` where it cannot be told."""
        return _name(self.address(conn), conn)

    def address(self, conn: HTTPConnection) -> Address | None:
        """The address itself; None where it cannot be told."""
        address = peer_address(conn)
        if not (self._trusts_unix if conn.client is None else self._trusts(address)):
            return address
        lines = [value.decode("latin-1") for name, value in conn.scope["headers"] if name == self._header]
        hops = (element for line in reversed(lines) for element in self._elements(line))
        for _, hop in zip(range(_MOST_HOPS), hops, strict=False):
            named = _parse_hop(hop)
            if named is None:  # hidden, unknown or nonsense
                return address
            address = named
            if not self._trusts(address):
                return address
        return address

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)

    def __repr__(self) -> str:
        return f"client address by {self._header.decode()}"


def networks(listed: Sequence[str], *, where: str) -> tuple[Network, ...]:
    """Networks as they are written, ``["10.0.0.0/8", "2001:db8::1"]``.

    Raises:
        ConfigurationError: None at all, or one that is none.
    """
    if isinstance(listed, str) or not isinstance(listed, Sequence) or not listed:
        raise ConfigurationError(f'{where} is a list of networks, such as ["10.0.0.0/8"]')
    found = []
    for one in listed:
        try:
            found.append(ip_network(one) if isinstance(one, str) else None)
        except ValueError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    if None in found:
        raise ConfigurationError(f'{where} is a list of networks in text, such as ["10.0.0.0/8"]')
    return tuple(one for one in found if one is not None)


def _listed(line: str) -> Iterator[str]:
    """The elements of a line of X-Forwarded-For, from the right."""
    rest, comma = line, ","
    while comma:
        rest, comma, element = rest.rpartition(",")
        yield element.strip(" \t")


def _forwarded(line: str) -> Iterator[str]:
    """What ``for`` is in the elements of a line of Forwarded, from the right; ``""`` where it cannot be read.

    Read from the right, so that a quote that a caller has opened takes in nothing that a proxy has written.
    """
    end, quoted = len(line), False
    for position in range(len(line) - 1, -2, -1):
        character = line[position] if position >= 0 else ","
        if character == '"':
            quoted = not quoted
        elif character == "," and (not quoted or position < 0):
            yield _for(line[position + 1 : end])
            end = position


def _for(element: str) -> str:
    named = _FOR.findall(element)
    if len(named) != 1 or not _ELEMENT.fullmatch(element):
        return ""
    value: str = named[0]
    return value.strip('"')


def _parse_hop(text: str) -> Address | None:
    """The address in an element, with or without a port."""
    match = _WITH_PORT.fullmatch(text)
    return _parse((match[1] or match[2]) if match is not None else text)


def _parse(text: str) -> Address | None:
    """An address, an IPv4 address in an IPv6 one as what it is."""
    try:
        address = ip_address(text.partition("%")[0])  # without the zone, which is this machine's business
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _name(address: Address | None, conn: HTTPConnection) -> str:
    if address is None:
        return conn.client.host if conn.client is not None else ""
    if isinstance(address, IPv6Address):
        return str(IPv6Address(int(address) >> 64 << 64)) + "/64"
    return str(address)
