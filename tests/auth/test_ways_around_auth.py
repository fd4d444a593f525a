"""Ways around who-is-calling that somebody has tried, where one part meets another, each shut."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, Security
from starlette.types import Message

from mlguard import (
    AnyAuth,
    APIKey,
    APIKeyAuth,
    APIKeys,
    JWTAuth,
    MemoryStore,
    NotAuthenticatedError,
    Revocations,
    SignatureAuth,
    User,
    Users,
    harden,
    principal_of,
    token_router,
)
from tests.asgi import call
from tests.auth.jwt_attacks import NOW as JWT_NOW
from tests.auth.jwt_attacks import SECRET as JWT_SECRET
from tests.auth.jwt_attacks import resigned
from tests.auth.logins import CHEAP, cheap_passwords, get, log_in, make_issuer
from tests.clock import Clock

NOW = 1_800_000_000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


# Either credential ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardened", [True, False])
def test_principal_of_names_who_came_with_either_credential(hardened: bool, clock: Clock) -> None:
    """A limit of somebody else's by principal_of would else count everybody by address, or answer nobody."""
    record, secret = APIKey.generate("robot", scopes=["predict"])
    key_auth = APIKeyAuth(APIKeys([record]))
    either = AnyAuth(key_auth, make_issuer(clock).auth())
    app = FastAPI()

    @app.get("/", dependencies=[Depends(either)])
    def who(request: Request) -> list[Any]:
        return [principal_of(request, guard).identity for guard in (either, key_auth)]

    @app.get("/more", dependencies=[Security(either, scopes=["explain"])])
    def more() -> None: ...

    if hardened:
        harden(app)
    key = (b"x-api-key", secret.encode())

    assert call(app, "/", method="GET", headers=[key]).json == [["api-key", "", "robot"]] * 2
    refused = call(app, "/more", method="GET", headers=[key])
    assert (refused.status, refused.headers["www-authenticate"].split()[0]) == (403, "APIKey")


@pytest.mark.parametrize("hardened", [True, False])
def test_request_handed_on_in_another_name_is_judged_anew(hardened: bool) -> None:
    """Also where the endpoint changed the very list of headers that was judged."""
    (robot, robots), (eve, eves) = APIKey.generate("robot", scopes=["predict"]), APIKey.generate("eve")
    either = AnyAuth(APIKeyAuth(APIKeys([robot, eve])), SignatureAuth({"other": JWT_SECRET}))
    app = FastAPI()

    @app.get("/predict", dependencies=[Security(either, scopes=["predict"])])
    def predict() -> None: ...

    @app.get("/batch", dependencies=[Depends(either)])
    async def batch(request: Request) -> list[int]:
        statuses: list[int] = []

        async def send(message: Message) -> None:
            statuses.append(message.get("status", 0))

        headers = request.scope["headers"]
        for other in ([], [(b"x-api-key", eves.encode())], [(b"x-api-key", robots.encode())]):
            headers[:] = [header for header in headers if header[0] != b"x-api-key"] + other
            await app({**request.scope, "path": "/predict", "raw_path": b"/predict"}, request.receive, send)
        return statuses[::2]

    if hardened:
        harden(app)
    assert call(app, "/batch", method="GET", headers=[(b"x-api-key", robots.encode())]).json == [401, 403, 200]


# Tokens of one's own --------------------------------------------------------------------------------------------------


def test_refresh_token_of_one_service_gives_no_token_for_another(clock: Clock) -> None:
    """Both are minted by one issuer with one key: user 1 of the shop would else become user 1 of the back office."""
    store = MemoryStore(clock=clock)
    shop = make_issuer(clock, store=store, audience="https://shop.example")
    office = make_issuer(clock, store=store, audience="https://office.example")

    async def cross() -> None:
        token = (await shop.open_session("1", scopes=["predict"])).refresh_token
        with pytest.raises(NotAuthenticatedError):
            await office.refresh(token)
        await office.revoke_token(token)
        assert (await shop.refresh(token)).scopes == {"predict"}  # nothing has become of it

    asyncio.run(cross())


class Waited(MemoryStore):
    """Something happens while a record is on its way."""

    suspends = True
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
        if self.meanwhile is not None:
            happen, self.meanwhile = self.meanwhile, None
            await happen()
        return await super().swap(key, old, new, ttl)


def test_token_that_is_minted_while_everything_is_revoked_is_revoked_too(clock: Clock) -> None:
    """A thief who refreshes at that very moment would else keep the access token for its whole life."""
    store = Waited(clock=clock)
    issuer = make_issuer(clock, store=store)
    app = FastAPI(dependencies=[Depends(issuer.auth())])
    app.add_api_route("/", lambda: None)
    minted = []

    async def race() -> None:
        stolen = (await issuer.open_session("1")).refresh_token

        async def refresh() -> None:
            clock.now += 0.1
            minted.append(await issuer.refresh(stolen))
            clock.now += 0.1

        store.meanwhile = refresh
        await issuer.revoke_all("1")

    asyncio.run(race())
    assert get(app, "/", minted[0].access_token) == 401


@pytest.mark.parametrize("one", [True, False])
def test_revoked_token_does_not_come_back_where_clocks_may_differ(one: bool) -> None:
    """Its revocation is gone once it has expired, when a guard with a leeway still lets it in."""
    time = Clock(JWT_NOW)
    revocations = Revocations(store=MemoryStore(clock=time), clock=time)
    guard = JWTAuth(JWT_SECRET, algorithms=["HS256"], leeway=60, revocations=revocations, clock=time)
    app = FastAPI(dependencies=[Depends(guard)])
    app.add_api_route("/", lambda: None)
    token = resigned(jti="1", iat=JWT_NOW, exp=JWT_NOW + 60).decode()

    if one:
        asyncio.run(revocations.revoke("1", issuer=None, expires_at=JWT_NOW + 60))
    else:
        asyncio.run(revocations.revoke_all("alice", issuer=None, lifetime=60))
    for time.now in (JWT_NOW + 30, JWT_NOW + 60, JWT_NOW + 119):
        assert get(app, "/", token) == 401


def test_token_is_revoked_for_as_long_as_a_guard_lets_it_in(clock: Clock) -> None:
    """A log-out after it has expired is none too late where the guard allows for clocks that differ."""
    issuer = make_issuer(clock)
    app = FastAPI(dependencies=[Depends(issuer.auth(leeway=60))])
    app.add_api_route("/", lambda: None)
    token = asyncio.run(issuer.access_token("1"))
    clock.now += 930
    assert get(app, "/", token) == 200
    asyncio.run(issuer.revoke_token(token))
    assert get(app, "/", token) == 401


# Guessing -------------------------------------------------------------------------------------------------------------


def test_account_with_nearly_the_same_name_is_no_way_to_be_known_to_another(clock: Clock) -> None:
    """Who may choose the name "älice" and logs in to it is still a stranger to "alice", from every address."""
    users = Users({"alice": User("1", CHEAP.hash("right")), "älice": User("2", CHEAP.hash("mine"))})
    app = FastAPI()
    app.include_router(token_router(users, make_issuer(clock), passwords=cheap_passwords()))
    addresses = [f"192.0.2.{number}" for number in range(4)]
    assert [log_in(app, "älice", "mine", address=address).status for address in addresses] == [200] * 4
    guesses = [log_in(app, "alice", "guess", address=address).status for address in addresses for _ in range(5)]
    assert guesses == [400] * 10 + [429] * 10
