"""Where a caller comes from."""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Literal, get_args

from starlette.requests import HTTPConnection

from mlguard.errors import ConfigurationError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Header = Literal["x-forwarded-for", "forwarded"]

_MOST_HOPS = 32  # proxies behind one another that are followed
_LONGEST_ELEMENT = 8_192  # characters of an element of Forwarded, which may hold the host that the caller has asked for

# One parameter of an element of Forwarded, and a whole element (RFC 7239, section 4).
_PAIR = r"""[ \t]*([A-Za-z0-9!#$%&'*+.^_`|~-]+)=("(?:[^"\\]|\\.)*"|[^\s",;=\\]+)[ \t]*"""
_PARAMETER = re.compile(_PAIR, re.ASCII)
_ELEMENT = re.compile(rf"{_PAIR}(?:;{_PAIR})*", re.ASCII)
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
    return parse_address(conn.client.host) if conn.client is not None else None


class ClientAddress:
    """The address of the caller behind proxies that are trusted: ``RateLimit(by=ClientAddress(trusted_proxies=...))``.

    Guards against callers who write the header themselves: it is read from the right, where the nearest proxy has
    written, and only for as long as what it says is a trusted proxy too. The first address that is no proxy is the
    caller's. Where that cannot be read, the last trusted proxy stands for the caller, and never what is further left.

    Either the server reads the header or this does. uvicorn does it by itself for a proxy on 127.0.0.1, and for whom
    ``FORWARDED_ALLOW_IPS`` names: start it with ``--no-proxy-headers``. Otherwise, with ``header="forwarded"``, callers
    choose what is taken for the socket's other end.

    Args:
        trusted_proxies: Networks, ``["10.0.0.0/8", "2001:db8::/32"]``, and ``"unix"`` for whoever comes through a Unix
            socket. Each trusted proxy must append to the header that is read. Callers in these networks are trusted
            too: name the proxies rather than the network that they share with others.
        header: ``"x-forwarded-for"`` or ``"forwarded"`` (RFC 7239), the one that they write. The other one is not read,
            because callers can write it.

    Raises:
        ConfigurationError: No networks, one that is none or that has bits beside its mask, or networks that hold all
            addresses, which would trust the callers.
    """

    def __init__(self, *, trusted_proxies: Sequence[str], header: Header = "x-forwarded-for") -> None:
        if header not in get_args(Header):
            raise ConfigurationError('ClientAddress(header=...) is "x-forwarded-for" or "forwarded"')
        self._trusts_unix = isinstance(trusted_proxies, list | tuple) and "unix" in trusted_proxies
        listed = [one for one in trusted_proxies if one != "unix"] if self._trusts_unix else trusted_proxies
        needs_networks = listed or not self._trusts_unix
        self._trusted = networks(listed, where="ClientAddress(trusted_proxies=...)") if needs_networks else ()
        if _hold_all(self._trusted):
            raise ConfigurationError(
                "ClientAddress(trusted_proxies=...): networks of all addresses trust the callers themselves; name "
                "those of your proxies"
            )
        #: The name of the header that is read.
        self.header_name = header.encode()
        self._elements = _forwarded if header == "forwarded" else _listed

    def __call__(self, conn: HTTPConnection) -> str:
        """Whose bucket it is: the address, of IPv6 its /64.

        Where the address cannot be told it is the last trusted proxy's, or ``""`` if that has none.
        """
        return _name(self._trace(conn)[0], conn)

    def address(self, conn: HTTPConnection) -> Address | None:
        """The caller's address itself; None where it cannot be told, also where a proxy's would stand for it."""
        address, is_told = self._trace(conn)
        return address if is_told else None

    def _trace(self, conn: HTTPConnection) -> tuple[Address | None, bool]:
        """The first address that is no trusted proxy's, or the last that is; and whether it is the caller's."""
        address = peer_address(conn)
        if not (self._trusts_unix if conn.client is None else self._trusts(address)):
            return address, True
        lines = [value for name, value in conn.scope["headers"] if name == self.header_name]
        hops = (element for line in reversed(lines) for element in self._elements(line.decode("latin-1")))
        for count, hop in enumerate(hops):
            named = _parse_hop(hop)
            if named is None or count == _MOST_HOPS:  # hidden, unknown, nonsense, or a chain without an end
                return address, False
            address = named
            if not self._trusts(address):
                break
        return address, True

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)

    def __repr__(self) -> str:
        return f"client address by {self.header_name.decode()}"


def networks(listed: Sequence[str], *, where: str) -> tuple[Network, ...]:
    """Networks as they are written, ``["10.0.0.0/8", "2001:db8::1"]``; of IPv4 in IPv6 as those of IPv4.

    Raises:
        ConfigurationError: None at all, or one that is none.
    """
    if isinstance(listed, str | bytes) or not isinstance(listed, Sequence) or not listed:
        raise ConfigurationError(f'{where} is a list of networks, such as ["10.0.0.0/8"]')
    return tuple(_network(one, where=where) for one in listed)


def _network(text: str, *, where: str) -> Network:
    if not isinstance(text, str):
        raise ConfigurationError(f'{where} is a list of networks in text, such as ["10.0.0.0/8"]')
    if "%" in text:
        raise ConfigurationError(f"{where}: {text!r} has a zone; leave it out, as no zone is looked at")
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))


def _hold_all(listed: Sequence[Network]) -> bool:
    """Whether networks hold all addresses there are, of one kind, be it in parts."""
    four = [*collapse_addresses(network for network in listed if isinstance(network, IPv4Network))]
    six = [*collapse_addresses(network for network in listed if isinstance(network, IPv6Network))]
    return four == [IPv4Network("0.0.0.0/0")] or six == [IPv6Network("::/0")]


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
        is_too_long = end - position > _LONGEST_ELEMENT
        if position < 0 or is_too_long or (line[position] == "," and not quoted):
            yield "" if is_too_long else _for(line[position + 1 : end])
            end = position
        elif line[position] == '"' and not _is_escaped(line, position):
            quoted = not quoted


def _is_escaped(line: str, position: int) -> bool:
    """Whether an odd number of backslashes stands before."""
    before = position
    while before and line[before - 1] == "\\":
        before -= 1
    return (position - before) % 2 == 1


def _for(element: str) -> str:
    if not _ELEMENT.fullmatch(element):
        return ""
    named = [value for name, value in _PARAMETER.findall(element) if name.lower() == "for"]
    return re.sub(r"\\(.)", r"\1", named[0].strip('"')) if len(named) == 1 else ""


def _parse_hop(text: str) -> Address | None:
    """The address in an element, with or without a port."""
    match = _WITH_PORT.fullmatch(text)
    return parse_address((match[1] or match[2]) if match is not None else text)


def parse_address(text: str) -> Address | None:
    """An address, without its zone, which is this machine's business; an IPv4 address in an IPv6 one as what it is."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or IPv6Address(int(address)) if isinstance(address, IPv6Address) else address


def _name(address: Address | None, conn: HTTPConnection) -> str:
    if address is None:
        return conn.client.host if conn.client is not None else ""
    return caller_at(address)


def caller_at(address: Address) -> str:
    """Who is counted at an address: an IPv6 address by its /64."""
    if isinstance(address, IPv6Address):
        return str(IPv6Address(int(address) >> 64 << 64)) + "/64"
    return str(address)
