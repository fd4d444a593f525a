"""A service that logs its users in, over a real socket, as its callers see it."""

import asyncio
import time
from collections.abc import Iterator
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Security

from mlguard import MemoryStore, Principal, TokenIssuer, User, Users, harden, token_router
from tests.auth.logins import CHEAP, SECRET, cheap_passwords
from tests.servers import serving


def service() -> FastAPI:
    app = FastAPI()
    harden(app)
    issuer = TokenIssuer(
        SECRET, algorithm="HS256", issuer="https://id.example", audience="https://api.example", store=MemoryStore()
    )
    users = Users({"alice": User("1", CHEAP.hash("right"), {"predict"})})
    app.include_router(token_router(users, issuer, passwords=cheap_passwords(concurrency=2, max_waiting=20)))
    caller = issuer.auth(token_url="token")

    @app.post("/predict")
    async def predict(who: Annotated[Principal, Security(caller, scopes=["predict"])]) -> dict[str, str]:
        return {"who": who.id}

    return app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(service()) as url:
        yield url


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=60)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_log_in_predict_refresh_predict_revoke(url: str) -> None:
    """The whole way, with the clock and the sockets that there are."""
    with client(url) as http:
        login = http.post("/token", data={"username": "alice", "password": "right", "scope": "predict"})
        assert login.status_code == 200
        first = login.json()
        assert abs(first["expires_in"] - 900) <= 1
        assert http.post("/predict", headers=bearer(first["access_token"])).json() == {"who": "1"}
        second = http.post("/token/refresh", data={"refresh_token": first["refresh_token"]}).json()
        assert http.post("/predict", headers=bearer(second["access_token"])).status_code == 200
        assert http.post("/token/revoke", data={"token": second["refresh_token"]}).status_code == 200
        for tokens in (first, second):
            assert http.post("/predict", headers=bearer(tokens["access_token"])).status_code == 401
            refused = http.post("/token/refresh", data={"refresh_token": tokens["refresh_token"]})
            assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def test_two_clients_refresh_at_once(url: str) -> None:
    """No two of them get on, and none is left with a session."""

    async def race(token: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
            return await asyncio.gather(*(http.post("/token/refresh", data={"refresh_token": token}) for _ in range(5)))

    with client(url) as http:
        token = http.post("/token", data={"username": "alice", "password": "right"}).json()["refresh_token"]
        answers = asyncio.run(race(token))
        assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400, 400]
        [won] = [answer.json() for answer in answers if answer.status_code == 200]
        assert http.post("/predict", headers=bearer(won["access_token"])).status_code == 401
        assert http.post("/token/refresh", data={"refresh_token": won["refresh_token"]}).status_code == 400


def test_hundred_logins_at_once_are_answered_and_the_service_goes_on(url: str) -> None:
    """Each is right or told to come back, and an endpoint that hashes nothing answers meanwhile."""

    async def flood(token: str) -> tuple[list[httpx.Response], httpx.Response]:
        limits = httpx.Limits(max_connections=110)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30, limits=limits) as http:
            form = {"username": "alice", "password": "right"}
            logins = [asyncio.create_task(http.post("/token", data=form)) for _ in range(100)]
            meanwhile = await http.post("/predict", headers=bearer(token))
            return await asyncio.gather(*logins), meanwhile

    with client(url) as http:
        token = http.post("/token", data={"username": "alice", "password": "right"}).json()["access_token"]
    answers, meanwhile = asyncio.run(flood(token))
    assert meanwhile.status_code == 200
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert sum(answer.status_code == 200 for answer in answers) >= 22
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 503)


def test_login_directly_after_everything_was_revoked(url: str) -> None:
    """With the real clock, in the same handler as it were."""

    async def change_password(issuer: TokenIssuer) -> list[bool]:
        outcomes = []
        for _ in range(20):
            before = await issuer.open_session("1")
            await issuer.revoke_all("1")
            after = await issuer.open_session("1")
            outcomes += [await is_good(issuer, before.refresh_token), await is_good(issuer, after.refresh_token)]
        return outcomes

    async def is_good(issuer: TokenIssuer, token: str) -> bool:
        try:
            await issuer.refresh(token)
        except Exception:
            return False
        return True

    issuer = TokenIssuer(SECRET, algorithm="HS256", issuer="i", audience="a", store=MemoryStore(), clock=time.time)
    assert asyncio.run(change_password(issuer)) == [False, True] * 20
