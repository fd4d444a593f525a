"""Who is one caller by address."""

from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection
from tests.asgi import call

from mlguard import ClientAddress, ConfigurationError, MemoryStore, RateLimit
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


# Behind proxies -------------------------------------------------------------------------------------------------------

PROXIES = ["10.0.0.0/8", "2001:db8:ffff::/48"]
PROXY = "10.0.0.1"
XFF, FORWARDED = "x-forwarded-for", "forwarded"


def seen(*lines: str, peer: str | None = PROXY, header: Any = XFF, name: str | None = None, **options: Any) -> str:
    """Who the caller is, by these lines of the header."""
    settings = {"trusted_proxies": PROXIES, "header": header, **options}
    headers = [((name or header).encode(), line.encode("latin-1")) for line in lines]
    client = None if peer is None else (peer, 1)
    return ClientAddress(**settings)(HTTPConnection({"type": "http", "client": client, "headers": headers}))


@pytest.mark.parametrize(
    ("lines", "caller"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7"], "192.0.2.7"),
        (["203.0.113.9,192.0.2.7, 10.2.3.4"], "192.0.2.7"),
        (["203.0.113.9", "192.0.2.7", "10.2.3.4"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7", "10.2.3.4 ,\t10.9.9.9"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        (["[2001:db8:1:2:3::4]"], "2001:db8:1:2::/64"),
        (["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        (["192.0.2.7, 2001:db8:ffff::1"], "192.0.2.7"),
        (["::ffff:192.0.2.7, ::ffff:10.0.0.9"], "192.0.2.7"),
        (["fe80::1%eth0"], "fe80::/64"),
        # What cannot be read, or is not there: the last proxy that can be trusted.
        ([], PROXY),
        ([""], PROXY),
        (["203.0.113.9,"], PROXY),
        (["203.0.113.9, unknown"], PROXY),
        (["203.0.113.9, unknown, 10.2.3.4"], "10.2.3.4"),
        (["203.0.113.9, 010.0.0.1"], PROXY),
        (["203.0.113.9, 167772161"], PROXY),
        (["203.0.113.9, 192.0.2.7."], PROXY),
        (["203.0.113.9, \xe9"], PROXY),
        (["203.0.113.9, 192.0.2.7:"], PROXY),
        (["203.0.113.9, 192.0.2.7:123456"], PROXY),
        (["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        (["192.0.2.7" + ", 10.0.0.1" * 31], "192.0.2.7"),
        (["192.0.2.7" + ", 10.0.0.2" * 32], "10.0.0.2"),
    ],
)
def test_the_first_that_is_no_proxy_is_the_caller(lines: Sequence[str], caller: str) -> None:
    """Read from the right, over all lines; what cannot be read ends at the proxy that has written it."""
    assert seen(*lines) == caller


@pytest.mark.parametrize(
    ("lines", "caller"),
    [
        (["for=192.0.2.7"], "192.0.2.7"),
        (['FOR="192.0.2.7:4711";Proto=https;by=10.0.0.1'], "192.0.2.7"),
        (['proto=http; for="[2001:db8:1:2:3::4]:4711"'], "2001:db8:1:2::/64"),
        (['for="[2001:db8:1:2:3::4]"'], "2001:db8:1:2::/64"),
        (["for=203.0.113.9, for=192.0.2.7;proto=http , for=10.2.3.4"], "192.0.2.7"),
        (["for=203.0.113.9", "for=192.0.2.7", "for=10.2.3.4"], "192.0.2.7"),
        (['for=203.0.113.9, for=192.0.2.7;host="a, for=198.51.100.1"'], "192.0.2.7"),
        (['for="x, for=192.0.2.7'], "192.0.2.7"),
        (["for=203.0.113.9, for=_hidden"], PROXY),
        (["for=203.0.113.9, for=unknown"], PROXY),
        (["for=203.0.113.9, proto=http"], PROXY),
        (["for=203.0.113.9, for=192.0.2.7;for=198.51.100.1"], PROXY),
        (['for=203.0.113.9, for="192.0.2.\\7"'], PROXY),
        (["for=203.0.113.9, for="], PROXY),
        (["for=203.0.113.9, 192.0.2.7"], PROXY),
        (["for=203.0.113.9,"], PROXY),
        ([""], PROXY),
    ],
)
def test_forwarded_is_read_as_its_rfc_says(lines: Sequence[str], caller: str) -> None:
    """RFC 7239: quotes, ports, other parameters, hidden names; and from the right, past quotes that were left open."""
    assert seen(*lines, header=FORWARDED) == caller


def test_headers_of_strangers_are_not_read() -> None:
    """Nor one that the proxies do not write, nor any by default."""
    assert seen("203.0.113.9", peer="192.0.2.7") == "192.0.2.7"
    assert seen("for=203.0.113.9", name=FORWARDED) == PROXY
    assert seen("203.0.113.9", header=FORWARDED, name=XFF) == PROXY
    headers = [(b"x-forwarded-for", b"203.0.113.9"), (b"forwarded", b"for=203.0.113.9")]
    assert client_address(HTTPConnection({"type": "http", "client": (PROXY, 1), "headers": headers})) == PROXY


def test_a_unix_socket_is_trusted_by_name() -> None:
    """Whoever comes through one has no address; the proxy at its other end says whose it is."""
    assert seen("203.0.113.9", peer=None) == ""
    assert seen("203.0.113.9", peer=None, trusted_proxies=["unix"]) == "203.0.113.9"
    assert seen("203.0.113.9, 10.0.0.7", peer=None, trusted_proxies=["unix", "10.0.0.0/8"]) == "203.0.113.9"
    assert seen("203.0.113.9", peer=PROXY, trusted_proxies=["unix"]) == PROXY
    assert seen("unknown", peer=None, trusted_proxies=["unix"]) == ""
    assert seen("203.0.113.9", peer="testclient", trusted_proxies=["unix"]) == "testclient"


lines_of_strangers = st.lists(
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40), max_size=4
)


@given(lines_of_strangers, st.sampled_from([XFF, FORWARDED]))
@example(['for="'], FORWARDED)
@example(['for="a\\'], FORWARDED)
@example(["10.0.0.1, 10.0.0.1"], XFF)
def test_what_a_caller_writes_changes_nothing(lines: list[str], header: Any) -> None:
    """Whatever stands left of what the proxy has appended, on its line or on others."""
    own = "for=192.0.2.7;proto=http" if header == FORWARDED else "192.0.2.7"
    assert seen(*lines, own, header=header) == "192.0.2.7"
    if lines:
        *before, last = lines
        assert seen(*before, f"{last}, {own}", header=header) == "192.0.2.7"


@given(lines_of_strangers, st.sampled_from([XFF, FORWARDED]))
def test_anything_is_an_address_or_the_proxy(lines: list[str], header: Any) -> None:
    """Never an error, and never a name that is none."""
    assert seen(*lines, header=header).replace("/64", "").replace(":", "").replace(".", "").isalnum()


def test_long_headers_are_little_work() -> None:
    """Only so many proxies are followed, so a header of 100 KB is read for as far as that."""
    assert seen(("1.2.3.4," * 12_000) + "192.0.2.7") == "192.0.2.7"
    assert seen('for="' + "," * 50_000 + '", for=192.0.2.7', header=FORWARDED) == "192.0.2.7"


def test_a_limit_by_it_counts_callers_behind_a_proxy() -> None:
    """Each has a bucket, which is called the same in every process."""
    limit = RateLimit("1/minute", by=ClientAddress(trusted_proxies=PROXIES), store=MemoryStore())
    assert limit.name == "1/minute by client address by x-forwarded-for"
    assert limit.needs_only_connection
    app = FastAPI()
    app.get("/", dependencies=[Depends(limit)])(lambda: None)
    asked = [b"192.0.2.1", b"192.0.2.2", b"192.0.2.1", b"203.0.113.5, 192.0.2.2"]
    answers = [call(app, "/", method="GET", headers=[(b"x-forwarded-for", who)], client=(PROXY, 1)) for who in asked]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]


@pytest.mark.parametrize(
    "options",
    [
        {"trusted_proxies": []},
        {"trusted_proxies": "10.0.0.0/8"},
        {"trusted_proxies": None},
        {"trusted_proxies": [10]},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"trusted_proxies": ["proxy.internal"]},
        {"trusted_proxies": ["*"]},
        {"trusted_proxies": ["0.0.0.0/0"]},
        {"trusted_proxies": ["10.0.0.0/8", "::/0"]},
        {"trusted_proxies": ["unix", "10.0.0.1/8"]},
        {"trusted_proxies": PROXIES, "header": "X-Real-IP"},
        {"trusted_proxies": PROXIES, "header": None},
    ],
)
def test_a_setting_that_cannot_work(options: Any) -> None:
    """It stops the start, and says which."""
    with pytest.raises(ConfigurationError, match=r"ClientAddress\((trusted_proxies|header)=\.\.\."):
        ClientAddress(**options)
