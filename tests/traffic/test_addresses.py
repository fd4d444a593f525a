"""Who is one caller by address."""

import pytest
from starlette.requests import HTTPConnection

from mlguard.traffic.addresses import client_address


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_address_is_one_caller(host: str, caller: str) -> None:
    """An IPv6 customer owns a /64 and is one caller; a mapped IPv4 address is the IPv4 address."""
    assert client_address(HTTPConnection({"type": "http", "client": (host, 1)})) == caller


def test_no_address_is_one_caller() -> None:
    """Behind a Unix socket nobody has an address, so all are one caller and the limit still holds."""
    assert client_address(HTTPConnection({"type": "http", "client": None})) == ""
