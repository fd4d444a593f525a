"""Which addresses may ask at all."""

import pytest
from fastapi import Depends, FastAPI, Security, WebSocket
from tests.asgi import Answer, call
from tests.servers import serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from mlguard import (
    AllowAddresses,
    APIKey,
    APIKeyAuth,
    APIKeys,
    ClientAddress,
    ConfigurationError,
    DenyAddresses,
    MemoryStore,
    RateLimit,
    harden,
)

RECORD, SECRET = APIKey.generate("alice")
KEY = (b"x-api-key", SECRET.encode())


def service(guard: AllowAddresses | DenyAddresses) -> FastAPI:
    """Behind a key, a limit on wrong keys and one on requests, all listed before the addresses."""
    store = MemoryStore()
    caller = APIKeyAuth(APIKeys([RECORD]), failures=RateLimit("2/minute", name="failures", store=store))
    steady = RateLimit("3/minute", by=caller, store=store)
    app = FastAPI()
    harden(app)
    app.post("/predict", dependencies=[Security(caller), Depends(steady), Depends(guard)])(lambda: None)
    return app


def ask(app: FastAPI, host: str | None, *headers: tuple[bytes, bytes]) -> Answer:
    client = None if host is None else (host, 1)
    return call(app, headers=headers, chunks=[b"{}"], client=client)


@pytest.mark.parametrize(
    ("guard", "admitted", "refused"),
    [
        (AllowAddresses(["192.0.2.0/24", "2001:db8::/32"]), ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.9"],
         ["192.0.3.1", "2001:db9::1", "testclient", None]),
        (DenyAddresses(["192.0.2.7", "2001:db8:1::/48"]), ["192.0.2.8", "2001:db8:2::1"],
         ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8:1::1", "testclient", None]),
        (DenyAddresses(["::ffff:192.0.2.0/120"]), ["192.0.3.8", "2001:db8:2::1"], ["192.0.2.7", "::ffff:192.0.2.7"]),
    ],
)  # fmt: skip
def test_lists(guard: AllowAddresses, admitted: list[str], refused: list[str | None]) -> None:
    """IPv6 and IPv4; an address that cannot be told is on neither."""
    app = service(guard)
    assert {ask(app, host, KEY).status for host in admitted} == {200}
    answers = [ask(app, host, KEY) for host in refused]
    assert {(answer.status, answer.reads) for answer in answers} == {(403, 0)}
    assert answers[0].json["type"] == "urn:mlguard:problem:address-not-allowed"


def test_who_may_not_ask_learns_nothing_about_keys() -> None:
    """Right and wrong ones are answered alike, and nothing is counted for or against anybody."""
    app = service(AllowAddresses(["192.0.2.0/24"]))
    wrong = (b"x-api-key", SECRET[::-1].encode())
    answers = [ask(app, "203.0.113.5", *headers) for headers in ([KEY], [wrong], [], [wrong], [KEY], [KEY], [KEY])]
    assert {answer.status for answer in answers} == {403}
    assert [ask(app, "192.0.2.1", KEY).status for _ in range(4)] == [200, 200, 200, 429]


def test_behind_a_proxy_it_is_the_whole_address_of_the_caller() -> None:
    """Not the proxy's, and not a network's that counts as one caller elsewhere."""
    behind = ClientAddress(trusted_proxies=["10.0.0.0/8"])
    app = service(AllowAddresses(["203.0.113.5", "2001:db8::1"], address=behind))
    asked = [b"203.0.113.5", b"2001:db8::1", b"2001:db8::2", b"10.0.0.9", b"203.0.113.5, 198.51.100.1"]
    answers = [ask(app, "10.0.0.1", KEY, (b"x-forwarded-for", who)).status for who in asked]
    assert answers == [200, 200, 403, 403, 403]
    assert ask(app, "192.0.2.1", KEY, (b"x-forwarded-for", b"203.0.113.5")).status == 403


def test_a_proxy_does_not_stand_for_a_caller_who_cannot_be_told() -> None:
    """Though the proxy may ask itself, and is on no list of who may not."""
    behind = ClientAddress(trusted_proxies=["10.0.0.0/8"])
    for guard in (AllowAddresses(["10.0.0.0/8"], address=behind), DenyAddresses(["192.0.2.7"], address=behind)):
        app = service(guard)
        assert ask(app, "10.0.0.1", KEY).status == 200
        for hidden in (b"unknown", b"_hidden", b"192.0.2.7, ", b"192.0.2.07"):
            assert ask(app, "10.0.0.1", KEY, (b"x-forwarded-for", hidden)).status == 403


def test_websockets_are_judged_too() -> None:
    """Before they are accepted."""
    app = FastAPI()
    harden(app)

    @app.websocket("/ws", dependencies=[Depends(DenyAddresses(["127.0.0.0/8"]))])
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()

    with serving(app) as url, pytest.raises(InvalidStatus, match="403"):
        connect(url.replace("http", "ws") + "/ws")


def test_without_harden_it_is_a_dependency_like_any_other() -> None:
    """And once is enough, however often it is listed."""
    guard = AllowAddresses(["192.0.2.1"])
    app = FastAPI()
    app.post("/predict", dependencies=[Depends(guard), Depends(guard)])(lambda: None)
    assert [ask(app, host).status for host in ("192.0.2.1", "192.0.2.2")] == [200, 403]


def test_the_document_shows_403() -> None:
    """As an answer of the route, beside that for a missing scope."""
    app = service(AllowAddresses(["192.0.2.1"]))
    app.get("/list", dependencies=[Depends(DenyAddresses(["192.0.2.1"]))])(lambda: None)
    paths = app.openapi()["paths"]
    assert paths["/predict"]["post"]["responses"]["403"]["description"] == "Insufficient scope / Address not allowed"
    assert paths["/list"]["get"]["responses"]["403"]["description"] == "Address not allowed"


@pytest.mark.parametrize("addresses", [[], "10.0.0.0/8", None, ["10.0.0.1/8"], ["host"], [None], [""]])
@pytest.mark.parametrize("kind", [AllowAddresses, DenyAddresses])
def test_a_list_that_cannot_work(kind: type[AllowAddresses], addresses: list[str]) -> None:
    """It stops the start: an empty list would admit everybody, or nobody."""
    with pytest.raises(ConfigurationError, match=r"(Allow|Deny)Addresses\(addresses\)"):
        kind(addresses)


@pytest.mark.parametrize("address", ["x-forwarded-for", lambda conn: "192.0.2.1"])
def test_an_address_that_cannot_work(address: ClientAddress) -> None:
    """It stops the start."""
    with pytest.raises(ConfigurationError, match=r"address=\.\.\."):
        AllowAddresses(["10.0.0.0/8"], address=address)
