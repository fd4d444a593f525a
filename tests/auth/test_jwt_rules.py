"""What JWTAuth judges beyond the token itself, from roles to revocations, and what it remembers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Security
from fastapi.security import SecurityScopes
from joserfc.jws import JWSRegistry
from starlette.requests import HTTPConnection

from mlguard import (
    ConfigurationError,
    JWTAuth,
    LoginTooWeakError,
    MemoryStore,
    NotAuthenticatedError,
    Principal,
    RateLimit,
    Revocations,
    harden,
)
from tests.asgi import Answer, call
from tests.auth.jwt_attacks import CLAIMS, NOW, OTHER_SECRET, SECRET, hs256, mint, resigned
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


def guard(clock: Callable[[], float] = lambda: NOW, **options: Any) -> JWTAuth:
    return JWTAuth(SECRET, algorithms=["HS256"], clock=clock, **options)


def judge(auth: JWTAuth, token: bytes, scopes: list[str] | None = None) -> Principal:
    conn = HTTPConnection({"type": "http", "headers": [(b"authorization", b"Bearer " + token)]})
    return asyncio.run(auth(conn, SecurityScopes(scopes)))


def refused(auth: JWTAuth, token: bytes) -> str:
    """Why: for the log."""
    with pytest.raises(NotAuthenticatedError) as refusal:
        judge(auth, token)
    assert refusal.value.__context__ is None
    return refusal.value.reason


# Roles --------------------------------------------------------------------------------------------------------------

ROLES = {"analyst": ["predict", "explain"], "data owner": {"train"}, "guest": []}


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, set()),
        ({"roles": []}, set()),
        ({"roles": ["analyst"]}, {"predict", "explain"}),
        ({"roles": ["analyst", "data owner", "guest"]}, {"predict", "explain", "train"}),
        ({"roles": "data owner"}, {"train"}),
        ({"roles": ["Analyst", "analyst ", "admin", ""]}, set()),
        ({"roles": "analyst guest"}, set()),
        ({"roles": ["analyst"], "scope": "read"}, {"predict", "explain", "read"}),
        ({"realm_access": {"roles": ["analyst"]}}, set()),
    ],
)
def test_roles_give_scopes(claims: dict[str, Any], scopes: set[str]) -> None:
    """Those that are listed, beside the scopes that the token has itself. Others give nothing."""
    assert judge(guard(roles=ROLES), resigned(**claims)).scopes == scopes


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"realm_access": {"roles": ["analyst"]}}, {"predict", "explain"}),
        ({"realm_access": {}}, set()),
        ({"roles": ["analyst"]}, set()),
    ],
)
def test_roles_may_lie_deeper(claims: dict[str, Any], scopes: set[str]) -> None:
    """As Keycloak has them."""
    auth = guard(roles=ROLES, roles_claim=("realm_access", "roles"))
    assert judge(auth, resigned(**claims)).scopes == scopes


@pytest.mark.parametrize("roles", [None, 1, True, {"analyst": 1}, ["analyst", 1], [["analyst"]], [None]])
def test_malformed_roles_are_refused(roles: object) -> None:
    """As malformed scopes are."""
    assert "roles" in refused(guard(roles=ROLES), resigned(roles=roles))
    auth = guard(roles=ROLES, roles_claim=("realm_access", "roles"))
    assert "roles" in refused(auth, resigned(realm_access={"roles": roles}))
    assert "roles" in refused(auth, resigned(realm_access="roles"))
    assert judge(guard(), resigned(roles=roles)).scopes == set(), "not read at all"


def test_a_role_is_enough_for_a_route() -> None:
    """The route demands scopes, and knows nothing of roles."""
    auth = guard(roles=ROLES)
    assert judge(auth, resigned(roles=["analyst"]), ["predict"]).id == "alice"
    with pytest.raises(Exception, match="does not carry a scope"):
        judge(auth, resigned(roles=["guest"]), ["predict"])


# Factors and the age of the login -----------------------------------------------------------------------------------


def test_a_login_without_a_factor_must_be_stepped_up() -> None:
    """All values that are demanded must be there; the answer says what to do (RFC 9470)."""
    auth = guard(amr={"otp", "pwd"})
    assert judge(auth, resigned(amr=["pwd", "otp", "mfa"])).id == "alice"
    for token in (mint(), *(resigned(amr=amr) for amr in ([], ["pwd"], ["OTP", "pwd"]))):
        with pytest.raises(LoginTooWeakError) as refusal:
            judge(auth, token)
        headers = {"WWW-Authenticate": 'Bearer error="insufficient_user_authentication"'}
        assert (refusal.value.status_code, refusal.value.headers) == (401, headers)
    for amr in (None, "otp", 1, [1], {"otp": 1}):
        assert "amr" in refused(auth, resigned(amr=amr))


def test_a_login_long_ago_must_be_repeated(clock: Clock) -> None:
    """Each time, also while the token is remembered."""
    auth = guard(clock, max_auth_age=300, leeway=10)
    token = resigned(auth_time=NOW - 300, exp=NOW + 3_600)
    assert judge(auth, token).id == "alice"
    clock.now += 10
    assert judge(auth, token).id == "alice"
    clock.now += 0.5
    for weak in (token, resigned(exp=NOW + 3_600)):
        with pytest.raises(LoginTooWeakError) as refusal:
            judge(auth, weak)
        assert refusal.value.headers == {
            "WWW-Authenticate": 'Bearer error="insufficient_user_authentication", max_age="300"'
        }
    for auth_time in (None, "1", True, -1, NOW * 1_000, [NOW], NOW + 21):
        refused(auth, resigned(auth_time=auth_time, exp=NOW + 3_600))
    assert judge(guard(), resigned(auth_time="long ago")).id == "alice", "not read at all"


def test_a_forged_token_is_told_nothing_about_logins() -> None:
    """Only who carries a genuine token hears that the login is too weak."""
    auth = guard(amr={"otp"}, max_auth_age=300)
    refused(auth, mint(sign=lambda message: hs256(message, OTHER_SECRET)))
    refused(auth, resigned(exp=NOW - 1))


def test_a_weak_login_is_no_failure_and_a_problem_of_its_own() -> None:
    """Nobody is shut out for having to log in again."""
    failures = RateLimit("1/minute", name="failures", store=MemoryStore())
    app = FastAPI()

    @app.get("/me", dependencies=[Depends(guard(amr={"otp"}, failures=failures))])
    async def me() -> None: ...

    harden(app)
    answers = [call(app, "/me", method="GET", headers=[(b"authorization", b"Bearer " + mint())]) for _ in range(3)]
    assert [answer.status for answer in answers] == [401] * 3
    assert answers[0].json["type"] == "urn:mlguard:problem:insufficient-user-authentication"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"roles": {}}, "^roles must"),
        ({"roles": ["analyst"]}, "^roles must"),
        ({"roles": {"": ["predict"]}}, "^roles, entry 1"),
        ({"roles": {1: ["predict"]}}, "^roles, entry 1"),
        ({"roles": {"a": "predict"}}, "^roles, entry 1"),
        ({"roles": {"a": 1}}, "^roles, entry 1"),
        ({"roles": {"a": [], "b": ["two words"]}}, "^roles, entry 2"),
        ({"roles": {"a": [1]}}, "^roles, entry 1"),
        ({"roles": ROLES, "roles_claim": ""}, "^roles_claim"),
        ({"roles": ROLES, "roles_claim": ()}, "^roles_claim"),
        ({"roles": ROLES, "roles_claim": ("a", "")}, "^roles_claim"),
        ({"roles": ROLES, "roles_claim": ["a"]}, "^roles_claim"),
        ({"roles_claim": "groups"}, "no effect without roles"),
        ({"amr": "otp"}, "^amr must"),
        ({"amr": []}, "^amr must"),
        ({"amr": [1]}, "^amr must"),
        ({"max_auth_age": 0}, "^max_auth_age"),
        ({"max_auth_age": float("nan")}, "^max_auth_age"),
        ({"max_auth_age": "300"}, "^max_auth_age"),
        ({"revocations": MemoryStore()}, "^revocations"),
        ({"remember": -1}, "^remember"),
        ({"remember": True}, "^remember"),
        ({"remember": 10**7}, "^remember"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(options: dict[str, Any], text: str) -> None:
    """At construction, in words that name it."""
    with pytest.raises(ConfigurationError, match=text):
        guard(**options)


# Revocations --------------------------------------------------------------------------------------------------------


class RemoteStore(MemoryStore):
    """Stands for a store outside the process."""

    suspends = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.asked = 0

    async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().get(*keys)


def test_a_revoked_token_is_refused_at_once() -> None:
    """With a store in this process, also where it is remembered; the answer is the one of any other bad token."""
    revocations = Revocations(store=MemoryStore(), clock=lambda: NOW)
    auth = guard(revocations=revocations)
    one, two = resigned(jti="1", iat=NOW), resigned(jti="2", iat=NOW)
    assert [judge(auth, token).id for token in (one, two, one)] == ["alice"] * 3
    asyncio.run(revocations.revoke("1", issuer=None, expires_at=NOW + 60))
    assert refused(auth, one) == "bearer token: revoked"
    assert judge(auth, two).id == "alice"
    asyncio.run(revocations.revoke_all("alice", issuer=None, lifetime=60))
    assert refused(auth, two) == "bearer token: revoked"
    assert refused(auth, mint()) == "bearer token: revoked", "it does not say when it was issued"
    assert judge(auth, resigned(sub="bob")).id == "bob"


@pytest.mark.parametrize("failures", [None, RateLimit("9/minute", name="failed tokens", store=MemoryStore())])
def test_a_revocation_elsewhere_is_seen_within_a_second(clock: Clock, failures: RateLimit | None) -> None:
    """The store is asked once a second for each token, and never believed for longer."""
    store = RemoteStore(clock=clock)
    revocations = Revocations(store=store, clock=clock)
    auth = guard(clock, revocations=revocations, failures=failures)
    token = resigned(jti="1", iat=NOW)
    assert auth.suspends
    assert [judge(auth, token).id for _ in range(5)] == ["alice"] * 5
    assert store.asked == 1
    asyncio.run(revocations.revoke("1", issuer=None, expires_at=NOW + 60))
    clock.now += 0.99
    assert judge(auth, token).id == "alice"
    clock.now += 0.01
    assert refused(auth, token) == refused(auth, token) == "bearer token: revoked"
    clock.now -= 0.5
    assert refused(auth, token) == "bearer token: revoked"


def test_a_clock_that_is_put_back_makes_no_revocation_late(clock: Clock) -> None:
    """What the store said before is not believed then."""
    store = RemoteStore(clock=lambda: NOW)
    revocations = Revocations(store=store, clock=lambda: NOW)
    auth = guard(clock, revocations=revocations)
    token = resigned(jti="1")
    judge(auth, token)
    asyncio.run(revocations.revoke("1", issuer=None, expires_at=NOW + 60))
    clock.now -= 3_600
    assert refused(auth, token) == "bearer token: revoked"


def test_a_remote_store_is_asked_each_time_about_what_is_not_remembered() -> None:
    """There is nowhere to note its answer."""
    store = RemoteStore()
    auth = guard(revocations=Revocations(store=store), remember=0)
    for _ in range(3):
        judge(auth, resigned(jti="1"))
    assert store.asked == 3


@pytest.mark.parametrize("jti", [None, 1, "", ["1"], "\ud800"])
def test_an_id_that_is_none_is_refused_where_it_matters(jti: object) -> None:
    """Where tokens can be revoked, one whose jti cannot be compared is refused. Elsewhere it is nobody's business."""
    assert "jti" in refused(guard(revocations=Revocations(store=MemoryStore())), resigned(jti=jti))
    assert judge(guard(), resigned(jti=jti)).id == "alice"


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What joserfc has verified, while it goes on verifying."""
    done: list[bytes] = []
    model = JWSRegistry.algorithms["HS256"]
    verify = model.verify

    def counted(message: bytes, signature: bytes, key: Any) -> bool:
        done.append(message)
        return verify(message, signature, key)

    monkeypatch.setattr(model, "verify", counted)
    return done


def test_a_verified_token_is_not_verified_again(verifications: list[bytes]) -> None:
    """The second request costs a digest; the principal is the same."""
    auth = guard()
    assert judge(auth, mint()) is judge(auth, mint())
    assert len(verifications) == 1
    forgetful = guard(remember=0)
    for _ in range(2):
        judge(forgetful, mint())
    assert len(verifications) == 3


def test_times_are_judged_each_time(clock: Clock) -> None:
    """A remembered token expires to the second, and is of the future again once the clock was put back."""
    auth = guard(clock)
    token = resigned(nbf=NOW)
    assert judge(auth, token).id == "alice"
    for now, holds in ((NOW + 59.9, True), (NOW + 60, False), (NOW - 1, False), (float("nan"), False), (NOW, True)):
        clock.now = now
        if holds:
            assert judge(auth, token).id == "alice"
        else:
            refused(auth, token)


def test_forged_tokens_take_nobodys_place(verifications: list[bytes]) -> None:
    """Only what was verified is remembered."""
    auth = guard(remember=1)
    judge(auth, mint())
    for number in range(20):
        refused(auth, mint({**CLAIMS, "sub": str(number)}, sign=lambda message: hs256(message, OTHER_SECRET)))
        refused(auth, resigned(exp=NOW - 1 - number))
    verifications.clear()
    judge(auth, mint())
    assert verifications == []


def test_a_token_that_differs_in_a_bit_is_another_one() -> None:
    """Whatever is remembered, each byte of a token counts."""
    auth = guard()
    token = mint()
    judge(auth, token)
    for position in range(len(token)):
        refused(auth, token[:position] + bytes([token[position] ^ 1]) + token[position + 1 :])


def test_what_is_remembered_is_bounded(clock: Clock, verifications: list[bytes]) -> None:
    """The oldest make room, and those that have expired; no token itself is kept."""
    auth = guard(clock, remember=3)
    tokens = [resigned(sub=str(number), exp=NOW + 60 + number) for number in range(5)]
    for token in tokens:
        judge(auth, token)
    _, remembered = auth._memory._verified
    assert [proof.principal.id for proof in remembered.values()] == ["2", "3", "4"]
    assert not any(token in repr((auth.__dict__, remembered)).encode() for token in tokens)
    clock.now = NOW + 63
    judge(auth, tokens[4])
    judge(auth, resigned(sub="new", exp=NOW + 600))
    assert [proof.principal.id for proof in remembered.values()] == ["4", "new"]


def test_threads_share_what_is_remembered() -> None:
    """Many at once, with more tokens than there is room for: each one is told who it is."""
    auth = guard(remember=8)
    tokens = {str(number): resigned(sub=str(number)) for number in range(32)}

    def ask_all(_: int) -> bool:
        return all(judge(auth, token).id == name for name, token in tokens.items())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask_all, range(16)))
    assert len(auth._memory._verified[1]) == 8


def test_scopes_of_a_route_are_judged_each_time() -> None:
    """A remembered token has the scopes that it has, on every route."""
    app = FastAPI()
    auth = guard()

    @app.get("/read", dependencies=[Security(auth, scopes=["read"])])
    async def read() -> None: ...

    @app.get("/admin", dependencies=[Security(auth, scopes=["admin"])])
    async def admin() -> None: ...

    def ask(path: str) -> Answer:
        return call(app, path, method="GET", headers=[(b"authorization", b"Bearer " + resigned(scope="read"))])

    assert [ask(path).status for path in ("/read", "/admin", "/read", "/admin")] == [200, 403, 200, 403]
