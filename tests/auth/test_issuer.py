"""Tokens of one's own: what they hold, how they are renewed, and that each is good for what it is made for."""

import asyncio
import base64
import contextlib
import json
import re
import threading
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fastapi import FastAPI, Security
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from mlguard import (
    ConfigurationError,
    InsufficientScopeError,
    JWTAuth,
    MemoryStore,
    NotAuthenticatedError,
    Principal,
    StoreFullError,
    TokenIssuer,
    Tokens,
)
from tests.asgi import acall
from tests.auth.logins import AUDIENCE, ISSUER, OTHER_SECRET, SECRET, get, make_issuer
from tests.clock import Clock

EC, OTHER_EC, ED, RSA = (
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP256R1()),
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
)


def pem(key: Any) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data


def public_pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return data


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(clock: Clock) -> TokenIssuer:
    return make_issuer(clock)


def run(result: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(result)


def segment(token: str, number: int) -> dict[str, Any]:
    """The header (0) or the claims (1) of a token, unverified."""
    text = token.split(".")[number]
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return value


def app_behind(guard: JWTAuth) -> FastAPI:
    app = FastAPI()

    @app.get("/me")
    async def me(who: Annotated[Principal, Security(guard, scopes=["predict"])]) -> str:
        return who.id

    return app


def accepts(issuer: TokenIssuer, token: str) -> bool:
    return get(app_behind(issuer.auth()), "/me", token) == 200


def open_session(issuer: TokenIssuer, **settings: Any) -> Tokens:
    tokens: Tokens = run(issuer.open_session("1", **{"scopes": {"predict", "train"}, **settings}))
    return tokens


def refresh(issuer: TokenIssuer, token: str, **settings: Any) -> Tokens:
    tokens: Tokens = run(issuer.refresh(token, **settings))
    return tokens


def is_refused(issuer: TokenIssuer, token: str) -> bool:
    try:
        refresh(issuer, token)
    except NotAuthenticatedError as refusal:
        return refusal.status_code == 401
    return False


# What tokens hold -----------------------------------------------------------------------------------------------------


def test_access_token_is_of_the_form_that_rfc_9068_gives(issuer: TokenIssuer, clock: Clock) -> None:
    """Every claim that it demands, with what was asked for."""
    tokens = open_session(issuer, client_id="notebook", amr=["pwd", "otp"])
    claims = segment(tokens.access_token, 1)
    assert segment(tokens.access_token, 0) == {"alg": "HS256", "typ": "at+jwt"}
    assert claims["jti"].startswith(claims["sid"] + ".")
    assert {name: value for name, value in claims.items() if name not in {"jti", "sid"}} == {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "1",
        "iat": clock.now,
        "exp": clock.now + 900,
        "scope": "predict train",
        "client_id": "notebook",
        "auth_time": clock.now,
        "amr": ["pwd", "otp"],
    }
    assert tokens.expires_in == 900
    assert tokens.scopes == {"predict", "train"}
    assert tokens.access_token not in repr(tokens)
    assert tokens.refresh_token not in repr(tokens)


def test_no_two_tokens_are_the_same(issuer: TokenIssuer) -> None:
    """Also of one moment and one subject."""
    tokens = [open_session(issuer) for _ in range(3)] + [refresh(issuer, open_session(issuer).refresh_token)]
    assert len({token.access_token for token in tokens} | {token.refresh_token for token in tokens}) == 8


def test_token_for_a_job_needs_no_session(issuer: TokenIssuer) -> None:
    """It holds as others do, and cannot be refreshed."""
    token = run(issuer.access_token("job", scopes={"predict"}, client_id="nightly"))
    assert accepts(issuer, token)
    assert segment(token, 1)["client_id"] == "nightly"
    assert is_refused(issuer, token)
    assert "scope" not in segment(run(issuer.access_token("job")), 1)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("HS256", SECRET),
        ("HS512", (SECRET + OTHER_SECRET).encode()),
        ("HS256", {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()}),
        ("HS256", OctKey.import_key(SECRET)),
        ("RS256", pem(RSA)),
        ("PS256", pem(RSA).decode()),
        ("ES256", pem(EC)),
        ("ES256", ECKey.import_key(pem(EC)).as_dict(private=True)),
        ("ES256", ECKey.import_key(pem(EC))),
        ("EdDSA", pem(ED)),
        ("Ed25519", pem(ED)),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 8 else type(value).__name__,
)
def test_every_algorithm_signs_what_its_guard_accepts(algorithm: str, key: Any, clock: Clock) -> None:
    """From a secret, PEM, JWK or joserfc key; and refresh tokens hold too."""
    issuer = make_issuer(clock, key=key, algorithm=algorithm)
    tokens = open_session(issuer)
    assert accepts(issuer, tokens.access_token)
    assert accepts(issuer, refresh(issuer, tokens.refresh_token).access_token)
    assert algorithm in repr(issuer)
    assert SECRET not in repr(issuer)


def test_newest_key_signs_and_older_ones_verify(clock: Clock) -> None:
    """A key is replaced without anybody having to log in again; of the old one the public key is enough."""
    store = MemoryStore(clock=clock)
    first = make_issuer(clock, key={"a": pem(EC)}, algorithm="ES256", store=store)
    old = open_session(first)
    both = make_issuer(clock, key={"a": public_pem(EC), "b": pem(OTHER_EC)}, algorithm="ES256", store=store)
    assert accepts(both, old.access_token)
    new = refresh(both, old.refresh_token)
    assert segment(new.access_token, 0)["kid"] == segment(new.refresh_token, 0)["kid"] == "b"
    assert accepts(both, new.access_token)
    last = make_issuer(clock, key={"b": pem(OTHER_EC)}, algorithm="ES256", store=store)
    assert accepts(last, new.access_token)
    assert not accepts(last, old.access_token)
    assert is_refused(last, old.refresh_token)
    assert not is_refused(last, new.refresh_token)


# Each token for what it is made for -----------------------------------------------------------------------------------


def test_refresh_token_is_never_an_access_token_and_the_other_way_round(issuer: TokenIssuer, clock: Clock) -> None:
    """Neither by its type, nor for a service that looks at the audience alone."""
    tokens = open_session(issuer)
    assert not accepts(issuer, tokens.refresh_token)
    assert is_refused(issuer, tokens.access_token)
    assert segment(tokens.refresh_token, 1)["aud"] != AUDIENCE
    assert "scope" not in segment(tokens.refresh_token, 1)
    # Were somebody to write the other type over it, the audience would still be another one.
    claims = segment(tokens.refresh_token, 1)
    renamed = jwt.encode({"alg": "HS256", "typ": "at+jwt"}, claims, OctKey.import_key(SECRET))
    assert not accepts(issuer, renamed)


@pytest.mark.parametrize(
    "other", [{"key": OTHER_SECRET}, {"issuer": "https://evil.example"}, {"audience": "https://other.example"}]
)
def test_tokens_of_another_issuer_are_refused(other: dict[str, Any], issuer: TokenIssuer, clock: Clock) -> None:
    """Another key, and also another name or another service with the same key."""
    tokens = open_session(make_issuer(clock, **other))
    assert not accepts(issuer, tokens.access_token)
    assert is_refused(issuer, tokens.refresh_token)


def tampered(token: str) -> list[str]:
    """The token in ways that are not what was signed."""
    head, payload, signature = token.split(".")
    claims = json.dumps(segment(token, 1) | {"sub": "2"}).encode()
    forged = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"rt+jwt"}').rstrip(b"=").decode()
    zeros = "A" * len(signature)
    return [
        f"{head}.{forged}.{signature}",
        f"{head}.{payload}.{zeros}",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{head}..{signature}",
        f".{payload}.{signature}",
        f"{none}.{payload}.",
        f"{none}.{payload}.{signature}",
        f"{head}.{payload}.{signature}.",
        f"{head}.{payload}.!{signature[1:]}",
        f"{head}.{payload}.A",
        f"{head}.{payload}.{signature}=",
        f"{head}.{payload}.{signature}\n",
        f" {head}.{payload}.{signature}",
        "",
        ".",
        "..",
        "\ud800..",
        "é.é.é",
        token[::-1],
        "x" * 10_000_000,
        token + "x" * 9_000,
    ]


@pytest.mark.parametrize(("algorithm", "key"), [("HS256", SECRET), ("ES256", pem(EC)), ("RS256", pem(RSA))])
def test_tampered_tokens_are_refused_and_harm_nobody(algorithm: str, key: Any, clock: Clock) -> None:
    """None is accepted or crashes, and none ends or revokes anything of the session that it names."""
    issuer = make_issuer(clock, key=key, algorithm=algorithm)
    tokens = open_session(issuer)
    for bad in [*tampered(tokens.refresh_token), *tampered(tokens.access_token)]:
        assert is_refused(issuer, bad)
        run(issuer.revoke_token(bad))
    assert accepts(issuer, tokens.access_token)
    assert accepts(issuer, refresh(issuer, tokens.refresh_token).access_token)


@pytest.mark.parametrize(
    "change",
    [{"seq": "0"}, {"seq": None}, {"sub": 1}, {"sid": 7}, {"granted": ["predict"]}, {"exp": "9"}, {"auth_time": None}],
)
def test_refresh_token_of_another_form_is_refused(change: dict[str, Any], issuer: TokenIssuer) -> None:
    """Signed with the right key, by some other program."""
    claims = segment(open_session(issuer).refresh_token, 1) | change
    key = OctKey.import_key(SECRET)
    for header in ({"alg": "HS256", "typ": "rt+jwt"}, {"typ": "rt+jwt", "alg": "HS256"}):
        token = jwt.encode(header, claims, key, default_type=None)
        assert is_refused(issuer, token)
        run(issuer.revoke_token(token))


# One use --------------------------------------------------------------------------------------------------------------


def test_refresh_token_gives_new_tokens_that_hold(issuer: TokenIssuer, clock: Clock) -> None:
    """Again and again, with what was granted at the login."""
    tokens = open_session(issuer, client_id="notebook", amr=["pwd"])
    began, session = clock.now, segment(tokens.access_token, 1)["sid"]
    for _ in range(5):
        clock.now += 800
        tokens = refresh(issuer, tokens.refresh_token)
        claims = segment(tokens.access_token, 1)
        assert accepts(issuer, tokens.access_token)
        assert (claims["auth_time"], claims["sid"], claims["amr"]) == (began, session, ["pwd"])
        assert claims["client_id"] == "notebook"
        assert tokens.scopes == {"predict", "train"}


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_stolen_refresh_token_ends_the_session_for_thief_and_owner(steps: int, issuer: TokenIssuer) -> None:
    """Whoever of the two comes second: all refresh tokens are refused, and the access tokens too."""
    session = [open_session(issuer)]
    for _ in range(steps):
        session.append(refresh(issuer, session[-1].refresh_token))
    other = open_session(issuer)
    assert is_refused(issuer, session[0].refresh_token)
    assert all(is_refused(issuer, tokens.refresh_token) for tokens in session)
    assert not any(accepts(issuer, tokens.access_token) for tokens in session)
    # Another session of the same user goes on.
    assert accepts(issuer, other.access_token)
    assert not is_refused(issuer, other.refresh_token)


def test_reuse_is_logged_without_the_token(issuer: TokenIssuer, caplog: pytest.LogCaptureFixture) -> None:
    """The operator hears of a theft."""
    token = open_session(issuer).refresh_token
    refresh(issuer, token)
    assert is_refused(issuer, token)
    assert "a refresh token of '1' was used twice: its session has ended" in caplog.text
    assert token not in caplog.text


def test_of_those_who_refresh_at_once_no_two_get_on(clock: Clock) -> None:
    """Among threads too, which read the same number before any of them counts on; and the theft is seen."""
    for _ in range(20):
        issuer = make_issuer(clock)
        token = open_session(issuer).refresh_token
        together = threading.Barrier(4)
        won: list[Tokens] = []

        def use(issuer: TokenIssuer = issuer, token: str = token, together: threading.Barrier = together) -> None:
            together.wait(10)
            with contextlib.suppress(NotAuthenticatedError):
                won.append(refresh(issuer, token))  # noqa: B023  # joined before the next round

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(won) <= 1
        assert is_refused(issuer, token)
        assert not [tokens for tokens in won if accepts(issuer, tokens.access_token)]
        assert all(is_refused(issuer, tokens.refresh_token) for tokens in won)


class Interrupted(MemoryStore):
    """A store where somebody else comes in between the look at a record and the step that follows from it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.between: Callable[[], Coroutine[Any, Any, Any]] | None = None

    async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
        between, self.between = self.between, None
        if between is not None:
            await between()
        return await super().swap(key, old, new, ttl)


def test_who_comes_in_between_wins_and_the_other_ends_the_session(clock: Clock) -> None:
    """The race in slow motion."""
    store = Interrupted(clock)
    issuer = make_issuer(clock, store=store)
    token = open_session(issuer).refresh_token
    won: list[Tokens] = []

    async def be_first() -> None:
        won.append(await issuer.refresh(token))

    store.between = be_first
    assert is_refused(issuer, token)
    assert len(won) == 1
    assert is_refused(issuer, won[0].refresh_token)
    assert not accepts(issuer, won[0].access_token)


def test_within_the_grace_the_last_token_but_one_is_a_retry(clock: Clock) -> None:
    """A lost answer need not end a session, where that was chosen; a token from before that does."""
    issuer = make_issuer(clock, retry_grace=10)
    first = open_session(issuer)
    second = refresh(issuer, first.refresh_token)
    clock.now += 9.5
    retried = refresh(issuer, first.refresh_token)
    assert accepts(issuer, retried.access_token)
    third = refresh(issuer, retried.refresh_token)
    assert accepts(issuer, third.access_token)
    clock.now += 10
    assert is_refused(issuer, second.refresh_token)  # as good as the retried one, until that was used
    assert is_refused(issuer, third.refresh_token)
    assert not accepts(issuer, third.access_token)


def test_older_tokens_end_the_session_within_the_grace_too(clock: Clock) -> None:
    """Only the last but one is a retry."""
    issuer = make_issuer(clock, retry_grace=60)
    first = open_session(issuer)
    latest = refresh(issuer, refresh(issuer, first.refresh_token).refresh_token)
    assert is_refused(issuer, first.refresh_token)
    assert is_refused(issuer, latest.refresh_token)


def test_store_that_went_back_in_time_ends_the_session(clock: Clock) -> None:
    """After a restore, tokens from the future must not make used ones good again."""
    store = MemoryStore(clock=clock)
    issuer = make_issuer(clock, store=store)
    first = open_session(issuer)
    saved = dict(store._records._values)
    second = refresh(issuer, first.refresh_token)
    store._records._values.update(saved)
    assert is_refused(issuer, second.refresh_token)
    assert is_refused(issuer, first.refresh_token)


def test_session_is_one_record_however_often_it_is_refreshed(clock: Clock) -> None:
    """No names and no tokens in the store, and room for all."""
    store = MemoryStore(clock=clock, max_records=1)
    issuer = make_issuer(clock, store=store)
    token = open_session(issuer).refresh_token
    for _ in range(100):
        token = refresh(issuer, token).refresh_token
    [(key, (value, *_))] = store._records._values.items()
    assert len(key) == 16
    assert re.fullmatch(rb"100 [0-9.]+", value)
    with pytest.raises(StoreFullError):
        open_session(issuer)


def test_session_ends_although_the_store_is_full(clock: Clock) -> None:
    """A thief gains nothing by filling it."""
    issuer = make_issuer(clock, store=MemoryStore(clock=clock, max_records=1))
    first = open_session(issuer)
    second = refresh(issuer, first.refresh_token)
    with pytest.raises(StoreFullError):
        refresh(issuer, first.refresh_token)
    assert is_refused(issuer, second.refresh_token)


# Its end --------------------------------------------------------------------------------------------------------------


def test_tokens_expire(clock: Clock) -> None:
    """The access token first, the refresh token when it is not used, and the session whatever is done."""
    issuer = make_issuer(clock, access_lifetime=60, refresh_lifetime=100, session_lifetime=250)
    tokens = open_session(issuer)
    clock.now += 62
    assert not accepts(issuer, tokens.access_token)
    idle = open_session(issuer)
    for _ in range(2):
        tokens = refresh(issuer, tokens.refresh_token)
        clock.now += 90
    assert is_refused(issuer, idle.refresh_token)
    last = refresh(issuer, tokens.refresh_token)
    assert last.expires_in == 8
    clock.now += 8
    assert is_refused(issuer, last.refresh_token)
    clock.now += 2
    assert not accepts(issuer, last.access_token)


def test_shorter_session_lifetime_holds_for_sessions_there_are(clock: Clock) -> None:
    """It is not what a token says, but what is configured."""
    store = MemoryStore(clock=clock)
    tokens = open_session(make_issuer(clock, store=store))
    clock.now += 700
    assert is_refused(make_issuer(clock, store=store, session_lifetime=600, refresh_lifetime=600), tokens.refresh_token)


def test_store_that_forgot_refuses(clock: Clock) -> None:
    """Without its record, nobody can tell whether a token was used."""
    tokens = open_session(make_issuer(clock))
    assert is_refused(make_issuer(clock), tokens.refresh_token)


def test_revoked_refresh_token_takes_its_session_with_it(issuer: TokenIssuer, clock: Clock) -> None:
    """A log-out: also with a refresh token from before, and a stolen one is worth nothing any more."""
    for later in (0, 1):
        tokens = [open_session(issuer)]
        for _ in range(later):
            tokens.append(refresh(issuer, tokens[-1].refresh_token))
        run(issuer.revoke_token(tokens[0].refresh_token))
        assert not any(accepts(issuer, one.access_token) for one in tokens)
        assert all(is_refused(issuer, one.refresh_token) for one in tokens)
        run(issuer.revoke_token(tokens[0].refresh_token))


def test_revoked_access_token_is_refused_alone(issuer: TokenIssuer) -> None:
    """Its session goes on with other tokens."""
    tokens = open_session(issuer)
    run(issuer.revoke_token(tokens.access_token))
    assert not accepts(issuer, tokens.access_token)
    assert accepts(issuer, refresh(issuer, tokens.refresh_token).access_token)


def test_tokens_and_sessions_are_revoked_by_their_ids(issuer: TokenIssuer, clock: Clock) -> None:
    """The jti of a token, or the sid of a session, for as long as it could last."""
    alone = run(issuer.access_token("job", scopes={"predict"}))
    run(issuer.revoke(segment(alone, 1)["jti"]))
    assert not accepts(issuer, alone)
    tokens = open_session(issuer)
    claims = segment(tokens.access_token, 1)
    run(issuer.revoke(claims["jti"]))
    assert not accepts(issuer, tokens.access_token)
    tokens = refresh(issuer, tokens.refresh_token)
    run(issuer.revoke(claims["sid"]))
    assert not accepts(issuer, tokens.access_token)
    clock.now += 600_000
    assert is_refused(issuer, tokens.refresh_token)


def test_expired_tokens_need_no_room_when_they_are_revoked(clock: Clock) -> None:
    """Nobody fills the store with old tokens."""
    store = MemoryStore(clock=clock)
    issuer = make_issuer(clock, store=store, session_lifetime=60, refresh_lifetime=60, access_lifetime=60)
    tokens = open_session(issuer)
    clock.now += 60 + 300
    before = dict(store._records._values)
    run(issuer.revoke_token(tokens.access_token))
    run(issuer.revoke_token(tokens.refresh_token))
    run(issuer.revoke_token(open_session(make_issuer(clock, issuer="https://other.example")).access_token))
    assert store._records._values == before


def test_all_of_a_subject_is_revoked_and_a_login_directly_after_holds(issuer: TokenIssuer, clock: Clock) -> None:
    """In the same second, even in the same millisecond."""
    before = [open_session(issuer), run(issuer.open_session("2", scopes={"predict"}))]
    run(issuer.revoke_all("1"))
    clock.now += 0.000_01
    after = open_session(issuer)
    assert [accepts(issuer, tokens.access_token) for tokens in (*before, after)] == [False, True, True]
    assert [is_refused(issuer, tokens.refresh_token) for tokens in (*before, after)] == [True, False, False]


def test_revocation_outlives_what_it_revokes(clock: Clock) -> None:
    """Also where a guard allows for clocks that differ, and for sessions that last for weeks."""
    issuer = make_issuer(clock)
    app = app_behind(issuer.auth(leeway=300))
    tokens = open_session(issuer)
    run(issuer.revoke_token(tokens.access_token))
    clock.now += 900 + 299
    assert get(app, "/me", tokens.access_token) == 401
    tokens = open_session(issuer)
    run(issuer.revoke_all("1"))
    clock.now += 604_000
    assert is_refused(issuer, tokens.refresh_token)


def test_login_that_began_before_everything_was_revoked_gives_nothing(issuer: TokenIssuer, clock: Clock) -> None:
    """The password was checked, then it was changed: the old one must not open a session."""
    began = clock.now
    clock.now += 0.1
    run(issuer.revoke_all("1"))
    clock.now += 0.1
    with pytest.raises(NotAuthenticatedError):
        open_session(issuer, authenticated_at=began)


def test_refresh_that_crosses_a_revocation_gives_nothing(clock: Clock) -> None:
    """Between the check and the new tokens there is no moment in which they could slip through."""
    store = Interrupted(clock)
    issuer = make_issuer(clock, store=store)
    token = open_session(issuer).refresh_token

    async def revoke() -> None:
        clock.now += 1
        await issuer.revoke_all("1")
        clock.now += 1

    store.between = revoke
    assert is_refused(issuer, token)


# Scopes ---------------------------------------------------------------------------------------------------------------


def test_refresh_gives_what_the_subject_may_do_now(issuer: TokenIssuer) -> None:
    """A scope that was taken away is gone with the next token, and comes back when it is given back."""

    async def entitled(subject: str) -> set[str]:
        assert subject == "1"
        return held

    held = {"train", "admin"}
    tokens = refresh(issuer, open_session(issuer).refresh_token, entitled=entitled)
    assert tokens.scopes == {"train"}
    assert segment(tokens.access_token, 1)["scope"] == "train"
    held = {"predict", "train", "admin"}
    assert refresh(issuer, tokens.refresh_token, entitled=entitled).scopes == {"predict", "train"}


def test_refresh_for_less_is_granted_and_for_more_is_not(issuer: TokenIssuer) -> None:
    """A request that is refused for its scopes does not use the token up."""
    token = open_session(issuer).refresh_token
    for more in ({"admin"}, {"predict", "admin"}):
        with pytest.raises(InsufficientScopeError):
            refresh(issuer, token, scopes=more)
    less = refresh(issuer, token, scopes={"train"})
    assert less.scopes == {"train"}
    assert refresh(issuer, less.refresh_token).scopes == {"predict", "train"}


def test_nothing_is_left_of_what_is_asked_for(issuer: TokenIssuer) -> None:
    """It is said, instead of handing out a token that allows nothing; and a subject without scopes has tokens."""

    async def entitled(subject: str) -> set[str]:
        return {"train"}

    token = open_session(issuer).refresh_token
    with pytest.raises(InsufficientScopeError):
        refresh(issuer, token, scopes={"predict"}, entitled=entitled)
    assert refresh(issuer, open_session(issuer, scopes=()).refresh_token).scopes == frozenset()


def test_subject_that_is_gone_gets_nothing(issuer: TokenIssuer) -> None:
    """Its session is not used up: it may have been shut out by mistake."""

    async def nobody(subject: str) -> None:
        return None

    token = open_session(issuer).refresh_token
    with pytest.raises(NotAuthenticatedError):
        refresh(issuer, token, entitled=nobody)
    assert refresh(issuer, token).scopes == {"predict", "train"}


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"algorithm": "none"}, "algorithms"),
        ({"algorithm": ["HS256"]}, "algorithm"),
        ({"algorithm": "ES256"}, "key"),
        ({"key": "changeme"}, "key"),
        ({"key": {}}, "algorithms"),
        ({"key": public_pem(EC), "algorithm": "ES256"}, "private key"),
        ({"key": {"a": pem(EC), "b": public_pem(OTHER_EC)}, "algorithm": "ES256"}, "private key"),
        ({"key": ECKey.import_key(public_pem(EC)), "algorithm": "ES256"}, "private key"),
        ({"key": ECKey.import_key(pem(EC)).as_dict(private=False), "algorithm": "ES256"}, "private key"),
        ({"issuer": ""}, "issuer"),
        ({"audience": None}, "audience"),
        ({"audience": "a\nb"}, "audience"),
        ({"audience": f"{ISSUER}#refresh"}, "audience"),
        ({"access_lifetime": 0}, "access_lifetime"),
        ({"access_lifetime": 86_401}, "access_lifetime"),
        ({"access_lifetime": 900.0}, "access_lifetime"),
        ({"access_lifetime": True}, "access_lifetime"),
        ({"session_lifetime": 10**9}, "session_lifetime"),
        ({"refresh_lifetime": 2_592_001}, "refresh_lifetime"),
        ({"retry_grace": 61}, "retry_grace"),
        ({"retry_grace": -1}, "retry_grace"),
        ({"retry_grace": float("nan")}, "retry_grace"),
        ({"retry_grace": True}, "retry_grace"),
        ({"store": "redis://"}, "store"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(wrong: dict[str, Any], name: str, clock: Clock) -> None:
    """With the setting in the text, and no key in it or behind it."""
    with pytest.raises(ConfigurationError, match=name) as refusal:
        make_issuer(clock, **wrong)
    assert "BEGIN" not in str(refusal.value)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize("subject", ["", None, 7, "\ud800", "a\nb"])
def test_subject_must_be_one(subject: Any, issuer: TokenIssuer) -> None:
    """A mistake of the service's, found before a token is signed that no guard would take."""
    with pytest.raises(ValueError, match="subject"):
        run(issuer.open_session(subject))
    with pytest.raises(ValueError, match="subject"):
        run(issuer.access_token(subject))


def test_scope_with_a_space_is_not_two_scopes(issuer: TokenIssuer) -> None:
    """Nobody becomes an administrator by a name."""
    with pytest.raises(ValueError, match="scope"):
        open_session(issuer, scopes={"predict admin"})


def test_token_that_no_guard_would_read_is_not_minted(issuer: TokenIssuer) -> None:
    """It is told at the login, and not at every request after it."""
    with pytest.raises(ValueError, match="too many scopes"):
        run(issuer.access_token("1", scopes={f"scope-{number:0100}" for number in range(100)}))


# The guard ------------------------------------------------------------------------------------------------------------


def test_guard_shows_the_password_flow_in_openapi(issuer: TokenIssuer) -> None:
    """The Authorize button of /docs asks for name and password."""
    app = app_behind(issuer.auth(token_url="token", scopes={"predict": "ask the model"}, description="log in"))
    assert app.openapi()["components"]["securitySchemes"] == {
        "OAuth2PasswordBearer": {
            "type": "oauth2",
            "description": "log in",
            "flows": {
                "password": {
                    "tokenUrl": "token",
                    "refreshUrl": "token/refresh",
                    "scopes": {"predict": "ask the model"},
                }
            },
        }
    }
    [requirement] = app.openapi()["paths"]["/me"]["get"]["security"]
    assert requirement.keys() == {"OAuth2PasswordBearer"}  # older FastAPIs list no scopes here


def test_guard_without_a_token_url_shows_a_bearer_token(issuer: TokenIssuer) -> None:
    """For a service whose users log in elsewhere."""
    schemes = app_behind(issuer.auth(scheme_name="Ours")).openapi()["components"]["securitySchemes"]
    assert schemes == {"Ours": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}


def test_plain_guard_with_the_same_settings_takes_the_same_tokens(issuer: TokenIssuer, clock: Clock) -> None:
    """Another service needs nothing but the key and the names."""
    guard = JWTAuth(SECRET, algorithms=["HS256"], issuer=ISSUER, audience=AUDIENCE, clock=clock)
    tokens = open_session(issuer)
    assert get(app_behind(guard), "/me", tokens.access_token) == 200
    assert get(app_behind(guard), "/me", tokens.refresh_token) == 401


def test_guard_passes_settings_on(clock: Clock, issuer: TokenIssuer) -> None:
    """What a JWTAuth takes, this one takes."""
    app = app_behind(issuer.auth(max_token_size=100))
    assert get(app, "/me", open_session(issuer).access_token) == 401


def test_missing_scope_is_a_403(issuer: TokenIssuer) -> None:
    """Scopes are demanded as with every other guard."""
    token = run(issuer.access_token("job", scopes={"train"}))
    headers = [(b"authorization", f"Bearer {token}".encode())]
    assert run(acall(app_behind(issuer.auth()), "/me", method="GET", headers=headers)).status == 403
