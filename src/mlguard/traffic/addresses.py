"""Where a caller comes from."""

from ipaddress import IPv6Address, ip_address

from starlette.requests import HTTPConnection


def client_address(conn: HTTPConnection) -> str:
    """The address of the peer, as one caller: an IPv6 address by its /64, which one customer owns whole.

    It is the address of the socket's other end, so behind a proxy all callers are one. No header is trusted.

    Returns:
        The address, or ``""`` where the server gives none (a Unix socket): then all callers are one.
    """
    if conn.client is None:
        return ""
    try:
        address = ip_address(conn.client.host)
    except ValueError:
        return conn.client.host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> 64 << 64)) + "/64"
    return str(address)
