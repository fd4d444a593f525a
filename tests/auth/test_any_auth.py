"""Either credential: who carries one is judged by it, and nobody gains by carrying two."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Security
from starlette.types import Message
from starlette.websockets import WebSocket

from mlguard import (
    AnyAuth,
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    JWTAuth,
    MemoryStore,
    Principal,
    RateLimit,
    Revocations,
    SignatureAuth,
    harden,
)
from mlguard.client import HTTPSignature
from tests.asgi import Answer, acall, call, make_scope
from tests.auth.jwt_attacks import NOW, SECRET, mint, resigned
from tests.servers import serving

RECORD, KEY = APIKey.generate("robot", scopes={"predict"})
WITH_KEY = (b"x-api-key", KEY.encode())
WRONG_KEY = (b"x-api-key", b"wrong")
WITH_TOKEN = (b"authorization", b"Bearer " + resigned(scope="predict explain"))
WRONG_TOKEN = (b"authorization", b"Bearer wrong")


def key_auth(**options: Any) -> APIKeyAuth:
    return APIKeyAuth(APIKeys([RECORD]), **options)


def token_auth(**options: Any) -> JWTAuth:
    return JWTAuth(SECRET, algorithms=["HS256"], clock=lambda: NOW, **options)


def service(either: AnyAuth, *, hardened: bool = True, limit: RateLimit | None = None) -> FastAPI:
    """An endpoint that reads a body, one that demands more, and one that tells who is calling."""
    app = FastAPI()
    counted = [Depends(limit)] if limit else []

    @app.post("/predict", dependencies=[Security(either, scopes=["predict"]), *counted])
    async def predict(body: dict[str, Any]) -> None: ...

    @app.get("/explain", dependencies=[Security(either, scopes=["explain"])])
    async def explain() -> None: ...

    @app.get("/me")
    async def me(who: Annotated[Principal, Depends(either)]) -> list[str]:
        return [*who.identity, *sorted(who.scopes)]

    if hardened:
        harden(app, docs=True)
    return app


def ask(app: FastAPI, *headers: tuple[bytes, bytes], path: str = "/me") -> Answer:
    return call(app, path, method="GET", headers=headers)


@pytest.mark.parametrize("hardened", [True, False])
def test_either_credential_is_enough(hardened: bool) -> None:
    """The principal is that of the guard whose credential was carried."""
    app = service(AnyAuth(key_auth(), token_auth()), hardened=hardened)
    assert ask(app, WITH_KEY).json == ["api-key", "", "robot", "predict"]
    assert ask(app, WITH_TOKEN).json == ["jwt", "", "alice", "explain", "predict"]


def test_every_refusal_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credential, a wrong one, and a wrong one beside a good one: one 401 with all challenges."""
    app = service(AnyAuth(key_auth(), token_auth()))
    answers = [
        ask(app, *headers)
        for headers in (
            [],
            [WRONG_KEY],
            [WRONG_TOKEN],
            [WITH_KEY, WRONG_TOKEN],
            [WRONG_KEY, WITH_TOKEN],
            [WITH_KEY, WITH_KEY],
            [WITH_TOKEN, WITH_TOKEN],
            [(b"authorization", WITH_KEY[1])],
            [(b"x-api-key", WITH_TOKEN[1])],
        )
    ]
    assert {answer.status for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"APIKey, Bearer"}
    assert len({str({**answer.json, "request_id": ""}) for answer in answers}) == 1


def test_of_two_callers_the_first_guard_names_one() -> None:
    """And only its scopes count: a key that may not explain does not borrow from a token that may."""
    both = [WITH_KEY, WITH_TOKEN]
    key_first, token_first = AnyAuth(key_auth(), token_auth()), AnyAuth(token_auth(), key_auth())
    assert ask(service(key_first), *both).json == ["api-key", "", "robot", "predict"]
    assert ask(service(token_first), *both).json == ["jwt", "", "alice", "explain", "predict"]
    refused = ask(service(key_first), *both, path="/explain")
    assert refused.status == 403
    assert refused.headers["www-authenticate"] == 'APIKey error="insufficient_scope", scope="explain"'
    assert ask(service(token_first), *both, path="/explain").status == 200


def test_another_scheme_is_no_token() -> None:
    """A proxy's Basic credentials beside a key are not ours to judge. Alone they let nobody in."""
    app = service(AnyAuth(key_auth(), token_auth()))
    basic = (b"authorization", b"Basic YTpi")
    assert [ask(app, basic, WITH_KEY).status, ask(app, basic).status] == [200, 401]
    assert [ask(app, basic, WITH_TOKEN).status, ask(app, WITH_TOKEN, basic).status] == [401, 401]
    assert ask(app, (b"authorization", b"bEaReR " + mint())).status == 200


def test_a_valid_token_is_no_way_to_guess_keys() -> None:
    """Wrong keys count beside a good token too, and then shut the address out."""
    failures = RateLimit("3/minute", name="failures", store=MemoryStore())
    app = service(AnyAuth(token_auth(), key_auth(failures=failures)))
    assert [ask(app, WITH_TOKEN, WRONG_KEY).status for _ in range(4)] == [401, 401, 401, 429]
    assert [ask(app, WITH_TOKEN, WITH_KEY).status, ask(app, WITH_TOKEN).status] == [429, 200]


@pytest.mark.parametrize("hardened", [True, False])
def test_a_limit_counts_each_caller_once(hardened: bool) -> None:
    """By whoever it is, once a request, and nothing for who is refused."""
    either = AnyAuth(key_auth(), token_auth())
    limit = RateLimit("2/minute", by=either, store=MemoryStore())
    app = service(either, hardened=hardened, limit=limit)

    def post(*headers: tuple[bytes, bytes]) -> int:
        return call(app, headers=[(b"content-type", b"application/json"), *headers], chunks=[b"{}"]).status

    assert [post(WRONG_KEY) for _ in range(3)] == [401] * 3
    assert [post(WITH_KEY) for _ in range(3)] == [200, 200, 429]
    assert [post(WITH_TOKEN) for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("headers", [[], [WRONG_KEY], [WRONG_TOKEN], [WITH_KEY, WRONG_TOKEN]])
def test_a_refused_request_has_no_byte_read(headers: list[tuple[bytes, bytes]]) -> None:
    """It is judged before the body."""
    app = service(AnyAuth(key_auth(), token_auth()))
    refused = call(app, headers=[(b"content-type", b"application/json"), *headers], chunks=[b"{"] * 9)
    assert (refused.status, refused.reads) == (401, 0)


def test_a_guard_that_waits_is_waited_for() -> None:
    """A store outside the process, with many requests at once, each in its own memory."""

    class RemoteStore(MemoryStore):
        suspends = True

        async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
            await asyncio.sleep(0)
            return await super().get(*keys)

    either = AnyAuth(key_auth(), token_auth(revocations=Revocations(store=RemoteStore())))
    assert either.suspends
    assert not AnyAuth(key_auth(), token_auth()).suspends
    app = service(either)

    async def many() -> list[Any]:
        names = [f"user {number}" for number in range(30)]
        answers = await asyncio.gather(
            *(
                acall(app, "/me", method="GET", headers=[(b"authorization", b"Bearer " + resigned(sub=name))])
                for name in names
            )
        )
        return [name for name, answer in zip(names, answers, strict=True) if answer.json[2] != name]

    assert asyncio.run(many()) == []


def test_a_signature_is_an_alternative_too() -> None:
    """Its body is checked as always, and its nonce is good for one use."""
    secret = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQsT5uV"
    signed = SignatureAuth({"billing": secret}, scopes={"billing": {"predict"}}, store=MemoryStore())
    app = service(AnyAuth(key_auth(), signed))
    httpx = pytest.importorskip("httpx")
    with serving(app) as url:
        request = httpx.Client(auth=HTTPSignature("billing", secret))
        with request as client:
            answer = client.post(url + "/predict", json={})
            assert answer.status_code == 200
            again = dict(answer.request.headers)
        assert httpx.post(url + "/predict", content=answer.request.content, headers=again).status_code == 401
        assert httpx.post(url + "/predict", json={}, headers={"x-api-key": KEY}).status_code == 200
        again["x-api-key"] = KEY
        assert httpx.post(url + "/predict", content=answer.request.content, headers=again).status_code == 401


def test_a_websocket_is_let_in_by_either() -> None:
    """The credential is in the handshake."""
    app = FastAPI()

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, who: Annotated[Principal, Depends(AnyAuth(key_auth(), token_auth()))]) -> None:
        await websocket.accept()
        await websocket.send_text(who.id)
        await websocket.close()

    harden(app)

    def connect(*headers: tuple[bytes, bytes]) -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = make_scope("GET", "/ws", headers, type="websocket", subprotocols=[], extensions={})
        asyncio.run(app(scope, receive, send))
        return sent

    for header, who in ((WITH_KEY, "robot"), (WITH_TOKEN, "alice")):
        assert connect(header)[1]["text"] == who
    for header in (WRONG_KEY, WRONG_TOKEN):
        assert [message["type"] for message in connect(header)] == ["websocket.close"]


def test_a_test_can_put_another_caller_in_its_place() -> None:
    """dependency_overrides works as for any dependency."""
    either = AnyAuth(key_auth(), token_auth())
    app = service(either)
    app.dependency_overrides[either] = lambda: Principal("test")
    assert ask(app).json == ["", "", "test"]


def names(schema: dict[str, Any], path: str, method: str = "get") -> list[set[str]]:
    return [{*entry} for entry in schema["paths"][path][method]["security"]]


@pytest.mark.parametrize("hardened", [True, False])
def test_openapi_shows_alternatives(hardened: bool) -> None:
    """One entry for each guard, not one that needs both; both are described."""
    schema = service(AnyAuth(key_auth(), token_auth()), hardened=hardened).openapi()
    assert names(schema, "/me") == [{"APIKeyAuth"}, {"JWTAuth"}]
    assert {*map(frozenset, names(schema, "/predict", "post"))} == {frozenset({"APIKeyAuth"}), frozenset({"JWTAuth"})}
    assert {scheme["type"] for scheme in schema["components"]["securitySchemes"].values()} == {"apiKey", "http"}


def test_openapi_shows_what_is_needed_together() -> None:
    """Under harden: a key and a signature, either of two beside a signature, and no more than is needed."""
    key, token, signed = key_auth(), token_auth(), SignatureAuth({"b": SECRET}, store=MemoryStore())
    either = AnyAuth(key, token)
    app = FastAPI()
    routes: dict[str, list[Any]] = {
        "/both": [Depends(key), Depends(signed)],
        "/either-and-signed": [Depends(either), Depends(signed)],
        "/either-and-key": [Depends(either), Security(key, scopes=["predict"])],
        "/open": [],
    }
    for path, guards in routes.items():
        app.add_api_route(path, lambda: None, dependencies=guards)
    harden(app, docs=True)
    schema = app.openapi()
    assert names(schema, "/both") == [{"APIKeyAuth", "SignatureAuth"}]
    assert names(schema, "/either-and-signed") == [{"APIKeyAuth", "SignatureAuth"}, {"JWTAuth", "SignatureAuth"}]
    assert names(schema, "/either-and-key") == [{"APIKeyAuth"}]
    assert "security" not in schema["paths"]["/open"]["get"]
    assert schema["paths"]["/both"]["get"]["responses"].keys() >= {"401", "403", "503"}


def test_openapi_leaves_schemes_of_others_alone() -> None:
    """How they stand to each other, only their author knows."""
    from fastapi.security import HTTPBasic

    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(HTTPBasic()), Depends(key_auth())])
    harden(app, docs=True)
    assert names(app.openapi(), "/") == [{"HTTPBasic"}, {"APIKeyAuth"}]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (AnyAuth, "two guards or more"),
        (lambda: AnyAuth(key_auth()), "two guards or more"),
        (lambda: AnyAuth([key_auth(), token_auth()]), "two guards or more"),  # type: ignore[arg-type]
        (lambda: AnyAuth(key_auth(), "x"), "guard 2"),  # type: ignore[arg-type]
        (lambda: AnyAuth(key_auth(), RateLimit("1/minute", store=MemoryStore())), "guard 2"),  # type: ignore[arg-type]
        (lambda: AnyAuth(key_auth(), JWTAuth), "guard 2"),  # type: ignore[arg-type]
        (lambda: AnyAuth(key_auth(), AnyAuth(token_auth(), key_auth())), "guard 2"),  # type: ignore[arg-type]
        (lambda: AnyAuth(token_auth(), token_auth(scheme_name="b")), "same header"),
        (lambda: AnyAuth(token_auth(), key_auth(header="Authorization")), "same header"),
        (lambda: AnyAuth(key_auth(), key_auth(header="X-Key")), "scheme_name"),
    ],
)
def test_guards_that_cannot_stand_side_by_side_are_refused(make: Callable[[], object], text: str) -> None:
    """At construction: one header holds one credential."""
    with pytest.raises(ConfigurationError, match=text):
        make()


def test_it_names_its_guards() -> None:
    """The name of a limit by it is the same in every process, so its repr is."""
    either = AnyAuth(key_auth(), key_auth(header="X-Key", scheme_name="other"))
    assert repr(either) == "AnyAuth(APIKeyAuth(header='X-API-Key'), APIKeyAuth(header='X-Key'))"
    assert either.statuses == (401, 403)


def test_settings_are_checked_at_start_up() -> None:
    """A guard of which the environment lacks the keys stops the start, inside too."""
    app = service(AnyAuth(APIKeyAuth(APIKeys.from_env), token_auth()))
    with pytest.raises(ConfigurationError, match="MLGUARD_API_KEYS"):  # a server without lifespan: the first request
        ask(app)
