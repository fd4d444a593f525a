"""What is locked down is refused, however somebody tries to get past it."""

import asyncio
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import APIRouter, FastAPI, Request, Security, WebSocket
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from mlguard import (
    AnyAuth,
    APIKey,
    APIKeyAuth,
    APIKeys,
    ClientAddress,
    ConfigurationError,
    JWTAuth,
    Lockdown,
    MemoryStore,
    Principal,
    StoreFullError,
    TokenIssuer,
    harden,
)
from mlguard._guard import RequestMemory
from mlguard.errors import BlockedError
from mlguard.monitoring._lockdown_middleware import OpenSocket
from mlguard.monitoring._lockdown_paths import covers, pattern_of
from mlguard.monitoring._lockdown_state import MOST, Block
from tests.asgi import Answer, call, make_scope
from tests.servers import serving, wait_until

RECORD, SECRET = APIKey.generate("alice")
OTHER, OTHER_SECRET = APIKey.generate("bob")
KEY = [(b"x-api-key", SECRET.encode())]
BOB = [(b"x-api-key", OTHER_SECRET.encode())]
SIGNING = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def lockdown(store: MemoryStore) -> Lockdown:
    return Lockdown(store=store)


def make_app(lockdown: Lockdown, *, hardened: bool = True) -> FastAPI:
    """Routes of every kind, each of which says that it was reached."""
    app = FastAPI()
    if hardened:
        harden(app)
    lockdown.install(app)
    caller = APIKeyAuth(APIKeys([RECORD, OTHER]))

    def reach(route: str) -> Callable[..., Any]:
        async def endpoint(request: Request) -> dict[str, Any]:
            return {"route": route, "label_only": RequestMemory.of(request.scope).label_only}

        return endpoint

    app.get("/health")(reach("health"))
    app.api_route("/predict", methods=["GET", "POST", "HEAD", "OPTIONS"])(reach("predict"))
    app.get("/predict/explain")(reach("explain"))
    app.get("/predictions")(reach("predictions"))
    app.get("/models/{name}/predict")(reach("model"))
    app.get("/files/{path:path}")(reach("file"))
    app.get("/mine", dependencies=[Security(caller)])(reach("mine"))
    router = APIRouter(prefix="/v2")
    router.get("/predict")(reach("router"))
    app.include_router(router)
    mounted = FastAPI()
    mounted.get("/predict")(reach("mounted"))
    mounted.get("/mine", dependencies=[Security(caller)])(reach("mounted mine"))
    if hardened:
        harden(mounted)
    app.mount("/v1", mounted)

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("open")
        await websocket.receive_text()

    @app.websocket("/mine/ws")
    async def my_ws(websocket: WebSocket, principal: Annotated[Principal, Security(caller)]) -> None:
        await websocket.accept()
        await websocket.send_text(principal.id)
        await asyncio.Event().wait()  # it never reads

    return app


def do(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def get(app: FastAPI, path: str = "/predict", **more: Any) -> Answer:
    return call(app, path, method=more.pop("method", "GET"), **more)


def statuses(app: FastAPI, *paths: str, **more: Any) -> list[int]:
    return [get(app, path, **more).status for path in paths]


# Routes and everything ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardened", [True, False])
def test_everything_but_health_is_refused(lockdown: Lockdown, hardened: bool) -> None:
    """With a 503 that says when to come back, and neither who did it nor until when. Unknown paths are no exception."""
    app = make_app(lockdown, hardened=hardened)
    assert statuses(app, "/health", "/predict", "/nowhere") == [200, 200, 404]
    block = do(lockdown.block_everything(reason="stolen keys", by="eve", ttl=3_600))
    assert statuses(app, "/health", "/predict", "/v1/predict", "/nowhere", "/docs") == [200, 503, 503, 503, 503]
    answer = get(app)
    assert answer.headers["retry-after"] == "30"
    assert (answer.json["type"], answer.json["title"]) == ("urn:mlguard:problem:out-of-service", "Service unavailable")
    assert not {"eve", "stolen"} & set(f"{answer.headers} {answer.body!r}".split())
    assert do(lockdown.lift(block)) == 1
    assert statuses(app, "/predict") == [200]
    assert do(lockdown.lift(block)) == 0


def test_nothing_of_a_body_is_read(lockdown: Lockdown) -> None:
    """Nor of what it takes to say who is calling: a refused request costs nothing."""
    app = make_app(lockdown)
    do(lockdown.block_route("/predict"))
    answer = call(app, "/predict", chunks=[b"x" * 1000] * 3)
    assert (answer.status, answer.reads) == (503, 0)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "TRACE", "NONSENSE"])
def test_a_route_is_blocked_for_every_method(lockdown: Lockdown, method: str) -> None:
    """Also for those that it does not have."""
    app = make_app(lockdown)
    do(lockdown.block_route("/predict"))
    assert get(app, method=method).status == 503


SPELLINGS = [
    "/pre%25252564ict/../predict",
    "/predict", "/predict/", "//predict", "/predict//", "/PREDICT", "/Predict", "/predict/explain", "/./predict",
    "/x/../predict", "/predict/../predictions", "/pre%64ict", "/pre%2564ict", "/predict%2f", "/predict;x=1",
    "\\predict", "/predict\n", "/predict\r\n", "/predict ", "\t/predict", "/predict\x00", "/x/%2e%2e/predict",
    "/..%5cpredict",
]  # fmt: skip


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_spelling_of_a_path_gets_past(lockdown: Lockdown, path: str) -> None:
    """Whatever comes after may read it as it likes."""
    app = make_app(lockdown)
    do(lockdown.block_route("/predict"))
    answer = call(app, path, method="GET")  # decoded, as servers do
    assert answer.status == 503


def test_a_line_feed_at_the_end_is_no_way_in(lockdown: Lockdown) -> None:
    """Starlette takes /predict and a line feed for /predict, which is why it is looked at."""
    app = make_app(lockdown)
    assert call(app, "/predict\n", method="GET").json["route"] == "predict"
    do(lockdown.block_route("/predict"))
    assert call(app, "/predict\n", method="GET").status == 503


PIECES = st.sampled_from(
    ["/", "predict", "PREDICT", "%2f", "%", "..", ".", ";", "\\", " ", "\n", "\x00", "iris", "{", "é"]
)


@given(
    st.lists(PIECES, max_size=8).map(lambda pieces: "/" + "".join(pieces)), st.sampled_from(["", "/api", "/predict"])
)
@example("/predict\n", "")
@example("/models/a/predict\n", "/api")
@example("/models/ /predict\n", "")
@example("/models/./predict", "")
@example("/models/../predict", "")
@example("/models/\\/predict", "")
@example("/models/a;b/predict", "")
@example("/files/a/b.json/tail", "")
def test_whatever_the_router_takes_for_a_route_is_covered(path: str, root: str) -> None:
    """The router's own regular expression, asked about any path."""
    for route in ("/predict", "/models/{name}/predict", "/predict/{rest:path}", "/files/{name:path}.json/tail"):
        regex, *_ = compile_path(route)
        scope = {"path": path, "root_path": root}
        for routed in {path, path.removeprefix(root)}:
            if regex.match(routed):
                assert covers([pattern_of(route)], scope)


def test_other_routes_stay_open(lockdown: Lockdown) -> None:
    """Those that only begin alike, and those of a mounted app or a router that end alike."""
    app = make_app(lockdown)
    do(lockdown.block_route("/predict"))
    assert statuses(app, "/predictions", "/v1/predict", "/v2/predict", "/models/iris/predict") == [200] * 4


@pytest.mark.parametrize(
    ("blocked", "refused", "admitted"),
    [
        ("/v1/predict", "/v1/predict", "/predict"),
        ("/v1", "/v1/predict", "/v2/predict"),
        ("/v2/predict/", "/v2/predict", "/predict"),
        ("/models/{name}/predict", "/models/iris/predict", "/predict"),
        ("/models/iris/predict", "/models/iris/predict", "/models/wine/predict"),
        ("/files/{path:path}", "/files/a/b", "/predict"),
        ("/Files/{path:path}/c", "/files/a", "/predict"),
    ],
)
def test_what_a_path_covers(lockdown: Lockdown, blocked: str, refused: str, admitted: str) -> None:
    """Itself and all below, in mounted apps and routers too, with a route's parameters as any segment."""
    app = make_app(lockdown)
    do(lockdown.block_route(blocked))
    assert statuses(app, refused, admitted) == [503, 200]


@pytest.mark.parametrize("blocked", ["/predict", "/api/predict"])
@pytest.mark.parametrize("path", ["/predict", "/api/predict"])
def test_a_root_path_may_be_named_or_not(lockdown: Lockdown, blocked: str, path: str) -> None:
    """Whether the path has it depends on the proxy and the server, so each is read both ways."""
    app = make_app(lockdown)
    do(lockdown.block_route(blocked))
    assert call(app, path, method="GET", root_path="/api").status == 503
    assert call(app, "/api/health", method="GET", root_path="/api").status == 200


@pytest.mark.parametrize(
    "path", ["/health/", "/HEALTH", "//health", "/health\n", "/x/../health", "/healthy", "/v1/health"]
)
def test_health_is_its_very_path(lockdown: Lockdown, path: str) -> None:
    """What is open for probes is open as written, and no spelling of anything else is."""
    app = make_app(lockdown)
    do(lockdown.block_everything())
    assert call(app, path, method="GET").status == 503


@pytest.mark.parametrize(("method", "is_probe"), [("HEAD", True), ("OPTIONS", True), ("POST", False), ("get", False)])
def test_a_probe_only_asks(lockdown: Lockdown, method: str, is_probe: bool) -> None:
    """What is posted to such a path may be a question to a model."""
    assert lockdown.is_health({"type": "http", "method": method, "path": "/health"}) is is_probe


def test_a_websocket_to_health_is_none(lockdown: Lockdown) -> None:
    """Probes ask over HTTP."""
    assert lockdown.is_health({"type": "http", "method": "GET", "path": "/health"})
    assert not lockdown.is_health({"type": "websocket", "path": "/health"})


def test_a_long_path_takes_no_longer(lockdown: Lockdown) -> None:
    """Thirty thousand segments are looked at once, not once for each."""
    app = make_app(lockdown)
    do(lockdown.block_route("/models/{a}/{b}/predict"))
    assert call(app, "/a" * 30_000, method="GET").status == 404


def test_a_long_path_of_strange_spelling_is_not_looked_at(lockdown: Lockdown) -> None:
    """While a route is blocked it is refused, as what it is costs every other request too much to find out."""
    app = make_app(lockdown)
    path = "/a%2e" * 2_000
    do(lockdown.block_principal("bob"))
    assert get(app, path).status == 404
    do(lockdown.block_route("/predict"))
    assert get(app, path).status == 503
    assert get(app, "/a%2e").status == 404
    assert not covers((), {"path": path})


# Principals -----------------------------------------------------------------------------------------------------------


def test_a_principal_is_refused_on_every_route(lockdown: Lockdown) -> None:
    """Without a word in the route, and nobody else is; the answer tells neither who nor why."""
    app = make_app(lockdown)
    do(lockdown.block_principal("alice", reason="scraping"))
    assert statuses(app, "/mine", "/v1/mine", "/predict", headers=KEY) == [403, 403, 200]
    assert statuses(app, "/mine", "/v1/mine", headers=BOB) == [200, 200]
    answer = get(app, "/mine", headers=KEY)
    assert answer.json["type"] == "urn:mlguard:problem:blocked"
    assert b"alice" not in answer.body
    assert b"principal" not in answer.body


def both_kinds(lockdown: Lockdown) -> tuple[FastAPI, list[tuple[bytes, bytes]]]:
    """An app that takes alice's key and alice's token, and the token."""
    issuer = TokenIssuer(SIGNING, algorithm="HS256", issuer="https://id", audience="https://api", store=MemoryStore())
    app = FastAPI()
    lockdown.install(app)
    key, token = APIKeyAuth(APIKeys([RECORD, OTHER])), issuer.auth(token_url="token")
    plain = JWTAuth(SIGNING, algorithms=["HS256"], issuer="https://id", audience="https://api")
    app.get("/key", dependencies=[Security(key)])(lambda: None)
    app.get("/token", dependencies=[Security(token)])(lambda: None)
    app.get("/plain", dependencies=[Security(plain)])(lambda: None)
    app.get("/any", dependencies=[Security(AnyAuth(key, token))])(lambda: None)
    access_token = do(issuer.access_token("alice"))
    return app, [(b"authorization", f"Bearer {access_token}".encode())]


@pytest.mark.parametrize(
    ("method", "issuer", "by_key", "by_token"),
    [
        (None, None, 403, 403),
        ("api-key", None, 403, 200),
        ("jwt", None, 200, 403),
        ("jwt", "https://id", 200, 403),
        ("jwt", "https://other", 200, 200),
        ("jwt", "", 200, 200),
        ("api-key", "", 403, 200),
        ("signature", None, 200, 200),
    ],
)
def test_who_a_block_means(
    lockdown: Lockdown, method: str | None, issuer: str | None, by_key: int, by_token: int
) -> None:
    """The key alice and the token of alice are two callers, unless the block says alice however proved."""
    app, token = both_kinds(lockdown)
    for _ in range(2):  # a token that was verified is remembered
        assert (
            statuses(app, "/key", "/any", headers=KEY) + statuses(app, "/token", "/plain", headers=token) == [200] * 4
        )
    do(lockdown.block_principal("alice", method=method, issuer=issuer))
    assert statuses(app, "/key", "/any", headers=KEY) == [by_key, by_key]
    assert statuses(app, "/token", "/any", "/plain", headers=token) == [by_token] * 3
    assert statuses(app, "/any", headers=[*token, *BOB]) == [by_token]  # each credential must hold


def test_a_principal_is_blocked_as_a_guard_has_said(lockdown: Lockdown) -> None:
    """What a monitor hands on names one caller, and not others of the same id."""
    app, token = both_kinds(lockdown)
    do(lockdown.block_principal(Principal("alice", method="jwt", issuer="https://id")))
    assert statuses(app, "/token", headers=token) + statuses(app, "/key", headers=KEY) == [403, 200]


def test_a_long_name_is_no_way_around(lockdown: Lockdown) -> None:
    """Whoever signs tokens decides how long subjects are. What the record has of it is short, and lifted as any is."""
    long, issuer = "a" * 257, "https://id/" + "b" * 257
    caller = Principal(long, method="jwt", issuer=issuer)
    block = do(lockdown.block_principal(caller))
    assert (block.target[:7], len(block.target), len(block.issuer or "")) == ("sha256:", 71, 71)
    with pytest.raises(BlockedError):
        lockdown.admit(caller)
    for other in (
        Principal(long[1:], method="jwt", issuer=issuer),
        Principal(long, method="jwt", issuer=issuer + "b"),
        Principal(long + "a", method="jwt", issuer=issuer),
    ):
        lockdown.admit(other)
    assert do(lockdown.lift(block)) == 1
    do(lockdown.block_principal(long, issuer=issuer))
    assert do(lockdown.lift(Block("principal", long, None, issuer))) == 1
    lockdown.admit(caller)


@pytest.mark.parametrize("name", [7, UUID(int=7)])
def test_an_id_of_the_apps_own_may_be_no_text(lockdown: Lockdown, name: Any) -> None:
    """Such as the number of a row, which the command line cannot tell from its digits."""
    do(lockdown.block_principal(str(name)))
    with pytest.raises(BlockedError):
        lockdown.admit(Principal(name))
    do(lockdown.lift(*do(lockdown.blocks())))
    assert do(lockdown.block_principal(Principal(name))).target == str(name)


def test_handing_a_request_on_is_no_way_around(lockdown: Lockdown) -> None:
    """An endpoint that calls another one with other credentials calls it for a caller who is blocked all the same."""
    app = make_app(lockdown)
    caller = APIKeyAuth(APIKeys([RECORD, OTHER]))

    @app.post("/batch", dependencies=[Security(caller)])
    async def batch(request: Request) -> dict[str, Any]:
        headers = [pair for pair in request.scope["headers"] if pair[0] != b"x-api-key"] + KEY
        scope = {**request.scope, "path": "/mine", "raw_path": b"/mine", "method": "GET", "headers": headers}
        answer = Answer()

        async def send(message: Any) -> None:
            answer.messages.append(message)

        await app.router(scope, request.receive, send)
        return {"status": answer.status}

    assert call(app, "/batch", headers=BOB).json == {"status": 200}
    do(lockdown.force_label_only())
    do(lockdown.block_principal("alice"))
    assert call(app, "/batch", headers=BOB).status in {200, 403}
    assert call(app, "/batch", headers=BOB).body != b'{"status":200}'


@pytest.mark.parametrize("blocking", [0, 1])
def test_a_mounted_app_with_a_lockdown_of_its_own_is_under_both(blocking: int) -> None:
    """Whichever of them a principal is blocked in."""
    lockdowns = [Lockdown(store=MemoryStore()) for _ in range(2)]
    outer, inner = FastAPI(), FastAPI()
    for app, lockdown in zip((outer, inner), lockdowns, strict=True):
        harden(app)
        lockdown.install(app)
    caller = APIKeyAuth(APIKeys([RECORD, OTHER]))
    inner.get("/mine", dependencies=[Security(caller)])(lambda: None)

    @inner.websocket("/mine/ws")
    async def ws(websocket: WebSocket, principal: Annotated[Principal, Security(caller)]) -> None:
        await websocket.accept()
        await websocket.send_text(principal.id)

    outer.mount("/v1", inner)
    do(lockdowns[blocking].block_principal("alice"))
    assert (get(outer, "/v1/mine", headers=KEY).status, get(outer, "/v1/mine", headers=BOB).status) == (403, 200)
    with serving(outer) as url:
        address = f"{url.replace('http', 'ws', 1)}/v1/mine/ws"
        with pytest.raises(InvalidStatus), connect(address, additional_headers={"X-API-Key": SECRET}):
            pass
        with connect(address, additional_headers={"X-API-Key": OTHER_SECRET}) as socket:
            assert socket.recv() == "bob"


def test_a_caller_of_the_apps_own_is_told(lockdown: Lockdown) -> None:
    """A dependency that knows who is calling in its own way asks by itself."""
    do(lockdown.block_principal("alice", method="ldap"))
    with pytest.raises(Exception, match="403"):
        lockdown.admit(Principal("alice", method="ldap"))
    lockdown.admit(Principal("bob", method="ldap"))


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "peer", "status"),
    [
        ("203.0.113.0/24", "203.0.113.77", 403),
        ("203.0.113.0/24", "203.0.114.1", 200),
        ("203.0.113.7", "203.0.113.7", 403),
        ("203.0.113.7", "::ffff:203.0.113.7", 403),
        ("203.0.113.7", "::ffff:cb00:7107", 403),
        ("::ffff:203.0.113.0/120", "203.0.113.9", 403),
        ("2001:db8::/32", "2001:db8:1::5", 403),
        ("2001:db8::/32", "2001:DB8:1::5%eth0", 403),
        ("2001:db8::/32", "2001:db9::5", 200),
        ("0.0.0.0/0", "2001:db9::5", 200),
        ("0.0.0.0/0", "198.51.100.1", 403),
        ("203.0.113.7", "not an address", 403),
    ],
)
def test_a_network_is_refused(lockdown: Lockdown, network: str, peer: str, status: int) -> None:
    """However its addresses are written, and what is no address while one is blocked; health stays open."""
    app = make_app(lockdown)
    do(lockdown.block_address(network))
    assert statuses(app, "/predict", client=(peer, 1)) == [status]
    assert statuses(app, "/health", client=(peer, 1)) == [200]


def test_an_address_that_is_not_told_is_refused_while_one_is_blocked(lockdown: Lockdown) -> None:
    """On a Unix socket nobody knows who it is. While none is blocked, that is no matter."""
    app = make_app(lockdown)
    assert statuses(app, "/predict", client=None) == [200]
    do(lockdown.block_address("203.0.113.7"))
    assert statuses(app, "/predict", client=None) == [403]


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        ("10.0.0.5", "203.0.113.7", 403),
        ("10.0.0.5", "198.51.100.1, 203.0.113.7", 403),  # what the caller wrote stands further left
        ("10.0.0.5", "203.0.113.7, 198.51.100.1", 200),
        ("203.0.113.7", "198.51.100.1", 403),  # not through the proxy
        ("198.51.100.1", "203.0.113.7", 200),  # nobody can have somebody else blocked
        ("10.0.0.5", "unknown", 403),
        ("10.0.0.5", "::ffff:203.0.113.7", 403),
    ],
)
def test_a_forged_header_is_no_way_around(store: MemoryStore, peer: str, forwarded: str, status: int) -> None:
    """Behind a proxy the address is the one that the proxy has written."""
    lockdown = Lockdown(store=store, address=ClientAddress(trusted_proxies=["10.0.0.5"]))
    app = make_app(lockdown)
    do(lockdown.block_address("203.0.113.7"))
    assert statuses(app, "/predict", client=(peer, 1), headers=[(b"x-forwarded-for", forwarded.encode())]) == [status]


def test_without_a_proxy_no_header_is_read(lockdown: Lockdown) -> None:
    """It is the socket that counts."""
    app = make_app(lockdown)
    do(lockdown.block_address("203.0.113.7"))
    for value in (b"198.51.100.1", b"203.0.113.7"):
        headers = [(b"x-forwarded-for", value), (b"forwarded", b"for=" + value)]
        assert statuses(app, "/predict", client=("203.0.113.7", 1), headers=headers) == [403]
        assert statuses(app, "/predict", client=("198.51.100.1", 1), headers=headers) == [200]


def test_answers_to_addresses_and_principals_are_alike(lockdown: Lockdown) -> None:
    """Nobody learns by which of the two they are known."""
    app = make_app(lockdown)
    do(lockdown.block_address("203.0.113.7"))
    do(lockdown.block_principal("alice"))
    by_address, by_key = get(app, "/mine", client=("203.0.113.7", 1)), get(app, "/mine", headers=KEY)
    for answer in (by_address, by_key):
        answer.json["request_id"] = ""
    assert {**by_address.json, "request_id": ""} == {**by_key.json, "request_id": ""}


# Label only -----------------------------------------------------------------------------------------------------------


def test_label_only_is_said_to_every_request(lockdown: Lockdown) -> None:
    """To those whose truncate_output looks there."""
    app = make_app(lockdown)
    assert not get(app).json["label_only"]
    block = do(lockdown.force_label_only())
    assert [get(app, path).json["label_only"] for path in ("/predict", "/v1/predict", "/v2/predict")] == [True] * 3
    do(lockdown.lift(block))
    assert not get(app).json["label_only"]


# WebSockets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(lockdown: Lockdown) -> Iterator[str]:
    with serving(make_app(lockdown)) as url:
        yield url.replace("http", "ws")


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (lambda lockdown: lockdown.block_everything(), 503),
        (lambda lockdown: lockdown.block_route("/ws"), 503),
        (lambda lockdown: lockdown.block_address("127.0.0.1"), 403),
    ],
)
def test_websockets_are_refused_and_closed(lockdown: Lockdown, server: str, block: Any, status: int) -> None:
    """New ones before they are accepted, and those that are open at once."""
    with connect(f"{server}/ws") as open_one:
        assert open_one.recv() == "open"
        do(block(lockdown))
        with pytest.raises(ConnectionClosedError) as closed:
            open_one.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{server}/ws").close()
    assert refused.value.response.status_code == status


def test_a_blocked_principals_websocket_is_closed(lockdown: Lockdown, server: str) -> None:
    """Also one that never reads what it is sent; and not that of somebody else."""
    with (
        connect(f"{server}/mine/ws", additional_headers={"x-api-key": SECRET}) as alices,
        connect(f"{server}/mine/ws", additional_headers={"x-api-key": OTHER_SECRET}) as bobs,
        connect(f"{server}/ws") as anybodys,
    ):
        assert (alices.recv(), bobs.recv(), anybodys.recv()) == ("alice", "bob", "open")
        do(lockdown.block_principal("alice"))
        with pytest.raises(ConnectionClosedError):
            alices.recv(timeout=60)
        bobs.ping().wait(10)
        anybodys.ping().wait(10)
    wait_until(lambda: {m.name: m.value for m in lockdown.measurements()}["mlguard_lockdown_websockets_closed"] == 1)
    with pytest.raises(InvalidStatus):
        connect(f"{server}/mine/ws", additional_headers={"x-api-key": SECRET}).close()


def test_a_block_that_another_event_loop_reads_of_meanwhile(
    lockdown: Lockdown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moment that a WebSocket is judged and the one from which on it would be told."""
    app = make_app(lockdown)
    judge = lockdown.judge

    def slowly(*judged: Any) -> None:
        judge(*judged)
        other = Thread(target=do, args=(lockdown.block_everything(),))
        other.start()
        other.join()

    async def main() -> None:
        sent: list[Any] = []

        async def receive() -> Any:
            if not sent:
                return {"type": "websocket.connect"}
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {**make_scope("GET", "/ws"), "type": "websocket", "subprotocols": []}
        await asyncio.wait_for(app(scope, receive, send), 20)
        assert sent[-1]["type"] == "websocket.close"

    monkeypatch.setattr(lockdown, "judge", slowly)
    do(main())


def test_a_time_out_of_the_apps_own_is_its_own(lockdown: Lockdown) -> None:
    """It is no end by lockdown."""
    app = FastAPI()
    lockdown.install(app)

    @app.websocket("/late")
    async def late(websocket: WebSocket) -> None:
        raise TimeoutError("the app's own")

    async def main() -> None:
        scope = {**make_scope("GET", "/late"), "type": "websocket", "subprotocols": []}
        with pytest.raises(TimeoutError, match="own"):
            await app(scope, lambda: asyncio.sleep(0, {"type": "websocket.connect"}), lambda _: asyncio.sleep(0))

    do(main())
    assert {m.name: m.value for m in lockdown.measurements()}["mlguard_lockdown_websockets_closed"] == 0


def test_a_socket_whose_loop_has_ended_is_no_matter(lockdown: Lockdown) -> None:
    """As when a worker is stopped just then."""

    async def open_one() -> OpenSocket:
        conn = HTTPConnection({"type": "websocket", "path": "/ws", "headers": [], "client": None})
        async with asyncio.timeout(None) as limit:
            socket = OpenSocket(lockdown, conn, limit)
            lockdown.opened(socket)
            await asyncio.sleep(0)
        await lockdown.block_everything()
        await asyncio.sleep(0)  # it has looked, and it was over
        return socket

    socket = do(open_one())
    do(lockdown.block_route("/a"))
    lockdown.closed(socket, by_lockdown=False)


def test_measurements_say_what_is_shut(lockdown: Lockdown) -> None:
    """By kind, and what was refused; no label names a caller."""
    app = make_app(lockdown)
    do(lockdown.block_principal("alice"))
    do(lockdown.block_route("/predict"))
    statuses(app, "/mine", "/mine", "/predict", headers=KEY)
    found = {(m.name, *m.labels.values()): (m.value, m.kind) for m in lockdown.measurements()}
    assert found["mlguard_lockdown_blocks", "principal"] == (1, "gauge")
    assert found["mlguard_lockdown_blocks", "everything"] == (0, "gauge")
    assert found["mlguard_lockdown_refused", "principal"] == (2, "counter")
    assert found["mlguard_lockdown_refused", "request"] == (1, "counter")
    assert found["mlguard_lockdown_readable",] == (1, "gauge")
    assert "alice" not in str(found)


# What can be kept -----------------------------------------------------------------------------------------------------


def test_a_flood_of_blocks_is_bounded(lockdown: Lockdown) -> None:
    """What blocks by itself runs into a limit; an operator can still block what matters, and lift some."""

    async def flood() -> None:
        for number in range(MOST["route"]):
            await lockdown.block_route(f"/{number}")
        for number in range(100_000):
            await lockdown.block_route(f"/more/{number}")

    with pytest.raises(StoreFullError) as full:
        do(flood())
    assert "lift some" in full.value.reason
    do(lockdown.block_route("/7", reason="again"))  # what is blocked already needs no room
    do(lockdown.block_everything())
    blocks = do(lockdown.blocks())
    assert len(blocks) == MOST["route"] + 1
    assert do(lockdown.lift(*blocks)) == len(blocks)
    do(lockdown.block_route("/one"))
    assert [str(block) for block in do(lockdown.blocks())] == ["route /one"]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (lambda lockdown: lockdown.block_principal(""), "an id"),
        (lambda lockdown: lockdown.block_principal(None), "are texts"),
        (lambda lockdown: lockdown.block_principal("a", issuer=7), "are texts"),
        (lambda lockdown: lockdown.block_principal("\ud800"), "256 characters"),
        (lambda lockdown: lockdown.block_address("localhost"), "localhost"),
        (lambda lockdown: lockdown.block_address("203.0.113.7/24"), "host bits"),
        (lambda lockdown: lockdown.block_route("predict"), "a path such as"),
        (lambda lockdown: lockdown.block_route("/"), "block everything"),
        (lambda lockdown: lockdown.block_route("//"), "block everything"),
        (lambda lockdown: lockdown.block_everything(ttl=0), "more than 0"),
        (lambda lockdown: lockdown.block_everything(ttl=-1), "more than 0"),
        (lambda lockdown: lockdown.block_everything(ttl=float("nan")), "more than 0"),
        (lambda lockdown: lockdown.block_everything(ttl=float("inf")), "ten years"),
        (lambda lockdown: lockdown.block_everything(by="eve\x1b[2J"), "one line"),
        (lambda lockdown: lockdown.block_everything(reason="a\nlockdown.lifted"), "one line"),
        (lambda lockdown: lockdown.block_everything(reason="a" * 257), "256 characters"),
        (lambda lockdown: lockdown.pin_model("../iris", 1), "a name such as"),
        (lambda lockdown: lockdown.pin_model("iris", 0), "256 characters"),
    ],
)
def test_what_cannot_be_meant_is_told(lockdown: Lockdown, block: Any, said: str) -> None:
    """And changes nothing."""
    with pytest.raises(ConfigurationError, match=said):
        do(block(lockdown))
    assert do(lockdown.blocks()) == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"store": "redis://"}, "store="),
        ({"health": "/health"}, "health="),
        ({"health": ["health"]}, "health="),
        ({"address": "10.0.0.1"}, "address="),
        ({"on_store_error": "local"}, "on_store_error="),
        ({"max_age": 0}, "max_age="),
        ({"max_age": float("inf")}, "max_age="),
        ({"max_age": True}, "max_age="),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], said: str) -> None:
    """They are told where it is built."""
    with pytest.raises(ConfigurationError, match=said):
        Lockdown(**options)


def test_it_is_installed_once_and_in_time(lockdown: Lockdown) -> None:
    """In an app, before it serves."""
    app = FastAPI()
    lockdown.install(app)
    with pytest.raises(ConfigurationError, match="already"):
        Lockdown(store=MemoryStore()).install(app)
    get(app)
    with pytest.raises(ConfigurationError, match="before the app serves"):
        lockdown.install(app)
    with pytest.raises(ConfigurationError, match="the app itself"):
        lockdown.install(make_app)  # type: ignore[arg-type]  # on purpose
    assert "MemoryStore" in repr(lockdown)


class _Other:
    """A middleware that says that it was asked."""

    def __init__(self, app: ASGIApp, seen: list[str], name: str) -> None:
        self._app, self._seen, self._name = app, seen, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._seen.append(self._name)
        await self._app(scope, receive, send)


class _Watching(_Other):
    observes = True


@pytest.mark.parametrize("first", [True, False])
def test_its_place_is_before_all_that_act(lockdown: Lockdown, first: bool) -> None:
    """In whatever order middlewares are added; those that only watch see what it refuses."""
    seen: list[str] = []
    app = FastAPI()
    if first:
        lockdown.install(app)
        harden(app)
    app.add_middleware(_Watching, seen=seen, name="watches")
    app.add_middleware(_Other, seen=seen, name="acts")
    if not first:
        harden(app)
        lockdown.install(app)
    do(lockdown.block_everything())
    answer = get(app)
    assert (answer.status, seen) == (503, ["watches"])
    assert answer.headers["x-request-id"]
    assert "strict-transport-security" in answer.headers


def test_it_is_one_of_the_middlewares_from_the_start() -> None:
    """Whoever looks at what an app has finds it before it has started."""
    app = FastAPI(middleware=[Middleware(_Other, seen=[], name="acts")])
    Lockdown(store=MemoryStore()).install(app)
    assert any(getattr(one.cls, "locks_down", False) for one in app.user_middleware)
