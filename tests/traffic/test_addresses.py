"""Who is one caller by address."""

from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection
from tests.asgi import call
from tests.servers import serving

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
        (["203.0.113.9, 192.0.2.7%eth0"], PROXY),
        (["203.0.113.9, fe80::1%"], PROXY),
        (['203.0.113.9, "192.0.2.7"'], PROXY),
        (["203.0.113.9, 192.0.2.7\xa0"], PROXY),
        (["203.0.113.9, 192.0.2.7\x00"], PROXY),
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
        (['for=203.0.113.9, for="192.0.2.\\7"'], "192.0.2.7"),
        (["for=203.0.113.9, for=192.0.2.\\7"], PROXY),
        (['for=203.0.113.9, for=192.0.2.7;host="a\\", for=198.51.100.1;by=\\"b"'], "192.0.2.7"),
        (['for=203.0.113.9, for=192.0.2.7;host="a\\\\";proto=http'], "192.0.2.7"),
        (['for=203.0.113.9, for=192.0.2.7;host="a"b"'], PROXY),
        (["for=203.0.113.9, for=192.0.2.7;host=" + "a" * 9_000], PROXY),
        (["for=203.0.113.9, for = 192.0.2.7"], PROXY),
        (["for=203.0.113.9, xfor=198.51.100.1;for=192.0.2.7"], "192.0.2.7"),
        (["for=203.0.113.9, for="], PROXY),
        (["for=203.0.113.9, 192.0.2.7"], PROXY),
        (["for=203.0.113.9,"], PROXY),
        ([""], PROXY),
    ],
)
def test_forwarded_is_read_as_its_rfc_says(lines: Sequence[str], caller: str) -> None:
    """RFC 7239: quotes, ports, other parameters, hidden names; and from the right, past quotes that were left open."""
    assert seen(*lines, header=FORWARDED) == caller


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["2001:db8:1:2:3::4"], "2001:db8:1:2:3::4"),
        ([], PROXY),
        (["10.1.1.1"], "10.1.1.1"),
        (["203.0.113.9, unknown"], None),
        (["203.0.113.9, unknown, 10.2.3.4"], None),
        (["192.0.2.7" + ", 10.0.0.2" * 32], None),
    ],
)
def test_an_address_that_cannot_be_told_is_none(lines: Sequence[str], address: str | None) -> None:
    """A proxy's stands for it where callers are counted, and not where addresses are judged: a proxy may ask."""
    headers = [(b"x-forwarded-for", line.encode()) for line in lines]
    conn = HTTPConnection({"type": "http", "client": (PROXY, 1), "headers": headers})
    found = ClientAddress(trusted_proxies=PROXIES).address(conn)
    assert (None if found is None else str(found)) == address


def test_networks_of_ipv4_in_ipv6_are_those_of_ipv4() -> None:
    """Addresses are read as what they are, so else such a network would hold none of them."""
    assert seen("192.0.2.7", trusted_proxies=["::ffff:10.0.0.0/104"]) == "192.0.2.7"
    assert seen("192.0.2.7", trusted_proxies=["::ffff:10.0.0.1"]) == "192.0.2.7"
    assert seen("192.0.2.7", peer="10.0.0.2", trusted_proxies=["::ffff:10.0.0.1"]) == "10.0.0.2"


@pytest.mark.parametrize("header", [XFF, FORWARDED])
def test_on_a_real_server_it_reads_what_the_proxy_wrote(header: Any) -> None:
    """With uvicorn's own reading turned off: else it takes what callers write in a header that no proxy does."""
    behind = ClientAddress(trusted_proxies=["127.0.0.1"], header=header)
    app = FastAPI()

    @app.get("/")
    def who(request: Request) -> str:
        return behind(request)

    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    written = {XFF: "203.0.113.9, 192.0.2.7", FORWARDED: 'for="203.0.113.9", for=192.0.2.7;host="localhost:80"'}
    with serving(app, proxy_headers=False) as url:
        assert httpx.get(url, headers={**forged, header.title(): written[header]}).json() == "192.0.2.7"


def test_a_header_without_commas_is_read_for_as_far_as_an_element_goes() -> None:
    """A caller who is in a trusted network can make it long, and no more."""
    assert seen("x" * 100_000, header=FORWARDED) == PROXY
    assert seen("x" * 100_000, "for=10.0.0.9", header=FORWARDED) == "10.0.0.9"


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
@example(['for=10.0.0.1;host="\\'], FORWARDED)
@example(["for=10.0.0.1;by=" + "\\" * 9_000], FORWARDED)
def test_what_a_caller_writes_changes_nothing(lines: list[str], header: Any) -> None:
    """Whatever stands left of what the proxy has appended, on its line or on others."""
    own = "for=192.0.2.7;proto=http" if header == FORWARDED else "192.0.2.7"
    assert seen(*lines, own, header=header) == "192.0.2.7"
    hosts = 'for=192.0.2.7;host="a\\", for=198.51.100.1;by=\\"b"'  # the caller's too, as a proxy writes it down
    if header == FORWARDED:
        assert seen(*lines, hosts, header=header) == "192.0.2.7"
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


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
@example('a", for=198.51.100.1;by="')
@example("a\\")
def test_what_a_proxy_quotes_is_no_element(host: str) -> None:
    """A caller chooses the host that it asks for, which proxies write down: as RFC 9110 says, with backslashes."""
    quoted = host.replace("\\", "\\\\").replace('"', '\\"')
    assert seen(f'for=192.0.2.7;host="{quoted}";proto=http', header=FORWARDED) == "192.0.2.7"
    assert seen(f'for=192.0.2.7;host="{quoted}", for=10.0.0.9;host="{quoted}"', header=FORWARDED) == "192.0.2.7"


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
        {"trusted_proxies": ["0.0.0.0/1", "128.0.0.0/1"]},
        {"trusted_proxies": ["::ffff:0:0/96"]},
        {"trusted_proxies": ["fe80::%eth0/64"]},
        {"trusted_proxies": b"10.0.0.0/8"},
        {"trusted_proxies": {"10.0.0.0/8"}},
        {"trusted_proxies": ["unix", "10.0.0.1/8"]},
        {"trusted_proxies": PROXIES, "header": "X-Real-IP"},
        {"trusted_proxies": PROXIES, "header": None},
    ],
)
def test_a_setting_that_cannot_work(options: Any) -> None:
    """It stops the start, and says which."""
    with pytest.raises(ConfigurationError, match=r"ClientAddress\((trusted_proxies|header)=\.\.\."):
        ClientAddress(**options)
