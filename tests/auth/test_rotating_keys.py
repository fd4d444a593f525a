"""Secrets that change under API keys, tokens and signatures: who gets in before, during and after, and who never."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fastapi import Depends, FastAPI, Security
from joserfc import jwt
from joserfc.jwk import OctKey, import_key

from mlguard import (
    AnyAuth,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    JWTAuth,
    KeysUnavailableError,
    MemoryStore,
    NotAuthenticatedError,
    RateLimit,
    Rotating,
    SignatureAuth,
    TokenIssuer,
    harden,
)
from mlguard._lookout import Lookout
from mlguard.auth._jwt_keys import KeyHealth
from mlguard.auth.message_signatures import sign
from mlguard.client import HTTPSignature
from mlguard.compat.jose import jose_engine
from tests.asgi import Answer, call
from tests.clock import Clock
from tests.secrets.vaults import Vault, strong

NOW = 1_700_000_000
ONE, TWO, THREE = strong(), strong(), strong()
UNUSABLE = [
    "",
    "changeme",
    "Xq3tYxw0ZkLr8HcNfUe",
    "<html>502</html>",
    "${TOKEN}",
    '{"error": "sealed"}',
    "x" * 64,
    None,
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time, for tests that look when the thread would: there is no thread."""
    monkeypatch.setattr(Lookout, "send", lambda lookout: setattr(lookout, "is_out", True))
    return Clock(1_000.0)


class Service:
    """A service behind a guard whose secret is in a vault.

    Args:
        value: The secret at the start.
        clock: By which it is read again every 300 seconds.
        settings: More of ``Rotating``.
    """

    def __init__(self, value: str, clock: Clock, **settings: Any) -> None:
        self.vault = Vault(token=value)
        self.clock = clock
        self.secret = Rotating(self.vault, "token", clock=clock, **{"max_stale": 7_200, **settings})
        self.app = FastAPI()

    def behind(self, guard: Any, *, hardened: bool = False) -> "Service":
        @self.app.get("/me", dependencies=[Depends(guard)])
        async def me() -> None: ...

        @self.app.get("/admin", dependencies=[Security(guard, scopes=["admin"])])
        async def admin() -> None: ...

        if hardened:
            harden(self.app)
        return self

    def becomes(self, value: object) -> None:
        """The secret changes, and is read again."""
        self.vault.values["token"] = value
        self.later(300)

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.secret.look()

    def get(self, path: str = "/me", **headers: str) -> Answer:
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return call(self.app, path, method="GET", headers=sent)

    def key(self, secret: str, path: str = "/me") -> int:
        return self.get(path, x_api_key=secret).status

    def bearer(self, token: str) -> int:
        return self.get(authorization=f"Bearer {token}").status

    def signed(self, secret: str, key_id: str = "robot") -> int:
        request = HTTPSignature(key_id, secret)(httpx.Request("GET", "http://service.test/me"))
        fields = [(k.encode(), v.encode()) for k, v in request.headers.items() if k.startswith("signature")]
        return call(self.app, "/me", method="GET", headers=fields).status


# API keys -------------------------------------------------------------------------------------------------------------


def keyed(value: str, clock: Clock, **settings: Any) -> Service:
    service = Service(value, clock, **settings)
    return service.behind(APIKeyAuth(APIKeys.from_secret(service.secret, store=MemoryStore())))


def test_a_caller_is_added_and_removed_without_a_restart(clock: Clock) -> None:
    """Who has left the list is refused with the next read, overlap or not; entries stand in lines, or have commas."""
    service = keyed(f"alice={ONE},\n bob={TWO}\n", clock)
    assert [service.key(ONE), service.key(TWO), service.key(THREE)] == [200, 200, 401]
    service.becomes(f"alice={ONE}\ncarol={THREE}")
    assert [service.key(ONE), service.key(TWO), service.key(THREE)] == [200, 401, 200]


def test_a_replaced_secret_is_accepted_for_the_overlap(clock: Clock) -> None:
    """The old one of the same id; then no longer."""
    service = keyed(f"alice={ONE}", clock)
    assert [service.key(ONE), service.key(TWO)] == [200, 401]
    service.becomes(f"alice={TWO}")
    assert [service.key(ONE), service.key(TWO)] == [200, 200]
    clock.now += 3_600
    assert [service.key(ONE), service.key(TWO)] == [401, 200]


def test_an_old_secret_gives_what_the_new_one_gives(clock: Clock) -> None:
    """Nobody keeps a scope by keeping an old secret, and nobody who was disabled or has expired gets in by one."""
    service = keyed(f"alice={ONE};admin", clock)
    assert service.key(ONE, "/admin") == 200
    service.becomes(f"alice={TWO}")
    assert [service.key(ONE), service.key(ONE, "/admin")] == [200, 403]
    service.becomes(f"alice={THREE};disabled=true")
    assert [service.key(TWO), service.key(THREE)] == [401, 401]
    service.becomes(f"alice={ONE}")
    assert [service.key(ONE), service.key(THREE)] == [200, 401], "what was disabled is not revived"
    service.becomes(f"alice={TWO};expires=2020-01-01T00:00:00+00:00")
    assert [service.key(ONE), service.key(TWO)] == [401, 401]


@pytest.mark.parametrize(
    ("old", "new", "lives"),
    [
        ("", ";expires=2999-01-01T00:00:00+00:00", True),
        (";expires=2020-01-01T00:00:00+00:00", "", False),
        (";not_before=2998-01-01T00:00:00+00:00", ";expires=2997-01-01T00:00:00+00:00", False),
        (";not_before=2020-01-01T00:00:00+00:00", ";not_before=2998-01-01T00:00:00+00:00", True),
        (";key=k1", ";key=k1", True),
        (";key=k1", ";key=k2", True),
    ],
)
def test_the_times_of_an_old_secret_are_its_own(old: str, new: str, lives: bool, clock: Clock) -> None:
    """It ends when either ends, and begins when it did."""
    service = keyed(f"alice={ONE}{old}", clock)
    service.becomes(f"alice={TWO}{new}")
    assert (service.key(ONE) == 200) is lives


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ONE, TWO),  # without ids
        (f"alice={ONE}", f"bob={TWO}"),
        (f"alice={ONE},alice={THREE}", f"alice={THREE}"),  # both were listed, to move over in peace
        (f"alice={ONE}", f"alice={TWO},alice={THREE}"),
        (f"alice={ONE}", f"alice={TWO},alice=sha256:{hashlib.sha256(ONE.encode()).hexdigest()};disabled=true"),
    ],
)
def test_what_was_not_replaced_one_by_one_ends_at_once(before: str, after: str, clock: Clock) -> None:
    """Where it is not plain that one secret took the place of another, the list means what it says."""
    service = keyed(before, clock)
    assert service.key(ONE) == 200
    service.becomes(after)
    assert service.key(ONE) == 401


@pytest.mark.parametrize(
    "value", [*UNUSABLE, f"alice={ONE},", f"alice={ONE},bob=changeme", f"alice={ONE},b={ONE}", f'"{ONE},{TWO}"']
)
def test_a_list_that_cannot_work_changes_nothing(value: object, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Half a list is none: the last good one stays, whatever is in the other half, and the log quotes nothing."""
    service = keyed(f"alice={ONE},bob={TWO}", clock)
    auth_keys = APIKeys.from_secret(service.secret, store=MemoryStore())
    service.becomes(value)
    assert [service.key(ONE), service.key(TWO)] == [200, 200]
    assert not auth_keys.health.ok
    assert len(auth_keys) == 2
    service.becomes(f"alice={ONE}")
    assert [service.key(ONE), service.key(TWO)] == [200, 401]
    auth_keys.refresh()
    assert auth_keys.health.ok
    assert ONE not in caplog.text
    assert TWO not in caplog.text


@pytest.mark.parametrize("value", [value for value in UNUSABLE if value])
def test_no_start_with_a_list_that_cannot_work(value: str, clock: Clock) -> None:
    """The error names the secret, and quotes nothing of it."""
    with pytest.raises(ConfigurationError, match="the secret 'token'") as refusal:
        keyed(value, clock)
    assert value not in str(refusal.value)


def test_keys_come_from_a_rotating_secret_only_as_one() -> None:
    """The mistakes that are near: the source, or the text itself."""
    for mistake in (Vault(token=ONE), ONE):
        with pytest.raises(ConfigurationError, match="Rotating"):
            APIKeys.from_secret(mistake)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="from_secret"):
        APIKeyAuth(Rotating(Vault(token=ONE), "token"))  # type: ignore[arg-type]


def test_nothing_is_kept_of_who_has_left(clock: Clock) -> None:
    """When a key was last used is asked of keys that there are."""
    service = Service(f"alice={ONE},bob={TWO}", clock)
    keys = APIKeys.from_secret(service.secret, store=MemoryStore())
    service.behind(APIKeyAuth(keys, clock=lambda: NOW))
    assert [service.key(ONE), service.key(TWO)] == [200, 200]
    service.becomes(f"alice={ONE}")
    assert asyncio.run(keys.last_used("alice")) == datetime.fromtimestamp(NOW, UTC)
    assert asyncio.run(keys.last_used("bob")) is None
    assert len(keys._last_used._noted) == 1


# Tokens ---------------------------------------------------------------------------------------------------------------


def token(secret: Any, algorithm: str = "HS256", **claims: Any) -> str:
    key = OctKey.import_key(secret) if isinstance(secret, str) else import_key(pem(secret).decode(), kty(secret))
    claims = {"sub": "alice", "exp": int(time.time()) + 100_000, **claims}
    return jwt.encode({"alg": algorithm}, claims, key, algorithms=[algorithm])


def kty(key: Any) -> Any:
    return "EC" if isinstance(key, ec.EllipticCurvePrivateKey) else "RSA"


def pem(key: Any) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data


def public(key: Any) -> str:
    data: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return data.decode()


#: Of a key that nobody has.
PUBLIC = public(ec.generate_private_key(ec.SECP256R1()))


def borne(value: str, clock: Clock, **settings: Any) -> Service:
    service = Service(value, clock, **settings)
    return service.behind(JWTAuth(service.secret, algorithms=["HS256"]))


@pytest.mark.parametrize("engine", [None, jose_engine])
def test_tokens_of_either_secret_are_accepted_for_the_overlap(engine: Any, clock: Clock) -> None:
    """Then those of the secret before are refused, remembered or not."""
    service = Service(ONE, clock)
    service.behind(JWTAuth(service.secret, algorithms=["HS256"], engine=engine))
    old, new = token(ONE), token(TWO)
    assert [service.bearer(old), service.bearer(old), service.bearer(new)] == [200, 200, 401]
    service.becomes(TWO)
    assert [service.bearer(old), service.bearer(new), service.bearer(token(THREE))] == [200, 200, 401]
    clock.now += 3_600
    assert [service.bearer(old), service.bearer(token(ONE)), service.bearer(new)] == [401, 401, 200]


def test_a_stolen_secret_ends_at_once_without_an_overlap(clock: Clock) -> None:
    """What was remembered of its tokens is forgotten with it."""
    service = borne(ONE, clock, overlap=0)
    old = token(ONE)
    assert [service.bearer(old)] * 2 == [200, 200]
    service.becomes(TWO)
    assert [service.bearer(old), service.bearer(token(TWO))] == [401, 200]


@pytest.mark.parametrize("value", [*UNUSABLE, PUBLIC, "Xq3tYxw0ZkLr8HcNfUe5Rj_bPa2GsT7"], ids=range(10))
def test_what_cannot_verify_is_never_taken(value: object, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a weak secret, nor one too short for the algorithm, nor a public key in the place of a secret."""
    service = borne(ONE, clock)
    service.becomes(value)
    assert [service.bearer(token(ONE)), service.secret.health.ok] == [200, False]
    if isinstance(value, str) and len(value) >= 31:
        assert service.bearer(token(strong())) == 401
        assert value not in caplog.text


@pytest.mark.parametrize(
    ("algorithm", "keys"),
    [
        ("ES256", [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]),
        ("RS256", [rsa.generate_private_key(65537, bits) for bits in (2048, 3072, 2048)]),
    ],
)
def test_a_public_key_changes_too(algorithm: str, keys: list[Any], clock: Clock) -> None:
    """PEM as it is in files and secret stores, also with keys of several sizes."""
    one, two, three = keys
    service = Service(public(one), clock)
    service.behind(JWTAuth(service.secret, algorithms=[algorithm]))
    service.becomes(public(two))
    answers = [service.bearer(token(key, algorithm)) for key in keys]
    assert answers == [200, 200, 401]
    clock.now += 3_600
    assert [service.bearer(token(key, algorithm)) for key in (one, two, three)] == [401, 200, 401]


def test_a_token_that_names_a_key_is_judged_like_any_other(clock: Clock) -> None:
    """The secret has no name that a kid could be compared with."""
    service = borne(ONE, clock)
    key = OctKey.import_key(ONE)
    claims = {"sub": "alice", "exp": int(time.time()) + 100}
    assert service.bearer(jwt.encode({"alg": "HS256", "kid": "x"}, claims, key)) == 200
    assert service.bearer("a.b.c") == 401


# Signatures -----------------------------------------------------------------------------------------------------------


def signed(value: str, clock: Clock, **settings: Any) -> Service:
    service = Service(value, clock, **settings)
    return service.behind(SignatureAuth({"robot": service.secret, "fixed": THREE}, store=MemoryStore()))


def test_signatures_of_either_secret_hold_for_the_overlap(clock: Clock) -> None:
    """Each for its own key id; a key id whose secret does not change is as it was."""
    service = signed(ONE, clock)
    assert [service.signed(ONE), service.signed(TWO)] == [200, 401]
    service.becomes(TWO)
    assert [service.signed(ONE), service.signed(TWO), service.signed(THREE)] == [200, 200, 401]
    assert [service.signed(THREE, "fixed"), service.signed(ONE, "fixed"), service.signed(TWO, "nobody")] == [
        200,
        401,
        401,
    ]
    clock.now += 3_600
    assert [service.signed(ONE), service.signed(TWO)] == [401, 200]


@pytest.mark.parametrize("value", UNUSABLE)
def test_a_secret_that_is_none_signs_nothing(value: object, clock: Clock) -> None:
    """Whatever the source says in its place."""
    service = signed(ONE, clock)
    service.becomes(value)
    assert [service.signed(ONE), service.secret.health.ok] == [200, False]


def test_the_time_tells_nothing_of_key_ids(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many signatures are computed for a key id that there is not as for one whose secret has just changed."""
    counted: list[bytes] = []

    def count(key: bytes, base: bytes) -> bytes:
        counted.append(key)
        return sign(key, base)

    monkeypatch.setattr("mlguard.auth.signing.sign", count)
    service = signed(ONE, clock)
    work = []
    for change in (None, TWO):
        if change:
            service.becomes(change)
        for key_id in ("robot", "fixed", "nobody"):
            counted.clear()
            service.signed(strong(), key_id)
            work.append(len(counted))
    assert work == [2] * 6


def test_the_key_id_is_checked_as_ever(clock: Clock) -> None:
    """Also where its secret changes."""
    secret = Service(ONE, clock).secret
    with pytest.raises(ConfigurationError, match="key id"):
        SignatureAuth({"": secret}, store=MemoryStore())


# An issuer ------------------------------------------------------------------------------------------------------------


def issuer_of(service: Service, algorithm: str = "HS256") -> TokenIssuer:
    return TokenIssuer(
        service.secret,
        algorithm=algorithm,
        issuer="https://id.example",
        audience="https://api.example",
        store=MemoryStore(),
    )


def test_an_issuer_signs_with_what_others_know(clock: Clock) -> None:
    """With the new secret once it is older than the ttl: until then another process may not have read it."""
    service = Service(ONE, clock)
    issuer = issuer_of(service)
    service.behind(issuer.auth())
    assert not service.secret._lookout.is_out, "a server may fork until the first use"

    def is_of(secret: str) -> bool:
        minted = asyncio.run(issuer.access_token("alice"))
        assert service.bearer(minted) == 200
        try:
            jwt.decode(minted, OctKey.import_key(secret), algorithms=["HS256"])
        except ValueError:
            return False
        return True

    assert is_of(ONE)
    service.becomes(TWO)
    assert is_of(ONE)
    service.later(299)
    assert is_of(ONE)
    service.later(1)
    assert is_of(TWO)


def test_sessions_outlive_a_change(clock: Clock) -> None:
    """A refresh token of the secret before is taken during the overlap, and not after it."""
    service = Service(ONE, clock)
    issuer = issuer_of(service)
    first, second = (asyncio.run(issuer.open_session(name)) for name in ("alice", "bob"))
    service.becomes(TWO)
    assert asyncio.run(issuer.refresh(first.refresh_token)).access_token
    clock.now += 3_600
    with pytest.raises(NotAuthenticatedError):
        asyncio.run(issuer.refresh(second.refresh_token))


def test_an_issuer_with_a_private_key_that_changes(clock: Clock) -> None:
    """In PEM; one that cannot sign is not taken."""
    one, two = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    service = Service(pem(one).decode(), clock, overlap=0)
    issuer = issuer_of(service, "ES256")
    service.behind(issuer.auth())
    old = asyncio.run(issuer.access_token("alice"))
    service.becomes(public(two))
    assert not service.secret.health.ok
    assert service.bearer(old) == 200
    service.becomes(pem(two).decode())
    assert [service.bearer(old), service.bearer(asyncio.run(issuer.access_token("alice")))] == [401, 200]


# An outage ------------------------------------------------------------------------------------------------------------


def asks_with_a_key(service: Service) -> int:
    return service.key(ONE)


def asks_with_a_token(service: Service) -> int:
    return service.bearer(token(ONE))


def asks_with_a_signature(service: Service) -> int:
    return service.signed(ONE)


GUARDS: dict[str, tuple[Callable[[Rotating], Any], Callable[[Service], int]]] = {
    "key": (lambda secret: APIKeyAuth(APIKeys.from_secret(secret, store=MemoryStore())), asks_with_a_key),
    "key with failures": (
        lambda secret: APIKeyAuth(
            APIKeys.from_secret(secret, store=MemoryStore()),
            failures=RateLimit("1/minute", name="failures", store=MemoryStore()),
        ),
        asks_with_a_key,
    ),
    "token": (lambda secret: JWTAuth(secret, algorithms=["HS256"]), asks_with_a_token),
    "signature": (lambda secret: SignatureAuth({"robot": secret}, store=MemoryStore()), asks_with_a_signature),
    "any": (
        lambda secret: AnyAuth(
            APIKeyAuth(APIKeys.from_secret(secret, store=MemoryStore())),
            JWTAuth({"k": THREE}, algorithms=["HS256"]),
        ),
        asks_with_a_key,
    ),
}


@pytest.mark.parametrize("kind", GUARDS)
@pytest.mark.parametrize("hardened", [False, True])
def test_an_outage_is_a_503_once_the_value_is_too_old(kind: str, hardened: bool, clock: Clock) -> None:
    """Never a 401, which would tell good callers that their credential is wrong, and never an open door."""
    make, ask = GUARDS[kind]
    service = Service(ONE if kind in {"token", "signature"} else f"alice={ONE}", clock)
    service.behind(make(service.secret), hardened=hardened)
    assert ask(service) == 200
    service.vault.is_down = True
    service.later(300)
    assert ask(service) == 200
    service.later(6_899)
    assert ask(service) == 200
    service.later(1)
    assert [ask(service), ask(service)] == [503, 503]
    service.vault.is_down = False
    service.later(60)
    assert ask(service) == 200


@pytest.mark.parametrize("kind", GUARDS)
def test_the_503_is_documented(kind: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAPI has it among the refusals of the guard."""
    monkeypatch.setenv("MLGUARD_ENV", "development")
    make, _ = GUARDS[kind]
    service = Service(ONE if kind in {"token", "signature"} else f"alice={ONE}", clock)
    service.behind(make(service.secret), hardened=True)
    assert "503" in service.app.openapi()["paths"]["/me"]["get"]["responses"]


def test_health_tells_of_an_outage(clock: Clock) -> None:
    """For a page that says how the service is: no value is in it, only names, times and reasons."""
    service = Service(ONE, clock)
    auth = JWTAuth(service.secret, algorithms=["HS256"])
    assert auth.health == KeyHealth(1, 0.0, None)
    service.vault.is_down = True
    service.later(300)
    health = auth.health
    assert (health.keys, health.age) == (1, 300.0)
    assert "cannot be asked" in str(health.failure)
    service.later(7_000)
    assert auth.health.keys == 0


def test_minting_ends_with_an_outage(clock: Clock) -> None:
    """A secret that nobody can verify with any more signs nothing either."""
    service = Service(ONE, clock)
    issuer = issuer_of(service)
    service.vault.is_down = True
    service.later(7_200)
    with pytest.raises(KeysUnavailableError):
        asyncio.run(issuer.access_token("alice"))


@pytest.mark.parametrize("kind", GUARDS)
def test_the_start_has_the_secret_looked_after(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ``harden``, in the process that serves, before the first request."""
    sent: list[Lookout] = []

    def note(lookout: Lookout) -> None:
        sent.append(lookout)

    monkeypatch.setattr(Lookout, "send", note)
    make, _ = GUARDS[kind]
    service = Service(ONE if kind in {"token", "signature"} else f"alice={ONE}", Clock())
    guard = make(service.secret)
    assert sent == []
    guard.check()
    assert sent


def test_nobody_is_refused_while_a_secret_changes(clock: Clock) -> None:
    """Callers in several threads, each with a credential that is accepted before and after the change."""
    tokens, keys, signatures = (Service(f"alice={ONE}" if kind == "key" else ONE, clock) for kind in ("", "key", ""))
    tokens.behind(JWTAuth(tokens.secret, algorithms=["HS256"], remember=1))
    keys.behind(APIKeyAuth(APIKeys.from_secret(keys.secret, store=MemoryStore())))
    signatures.behind(SignatureAuth({"robot": signatures.secret}, store=MemoryStore()))
    asks = [partial(tokens.bearer, token(ONE)), partial(keys.key, ONE), partial(signatures.signed, ONE)]
    answers: set[int] = set()
    over = threading.Event()

    def keep_asking(ask: Callable[[], int]) -> None:
        while not over.is_set():
            answers.add(ask())

    callers = [threading.Thread(target=keep_asking, args=(ask,)) for ask in asks]
    for caller in callers:
        caller.start()
    for value in (TWO, ONE, THREE, ONE, TWO):
        for service in (tokens, keys, signatures):
            service.vault.values["token"] = f"alice={value}" if service is keys else value
            service.secret.refresh()
    over.set()
    for caller in callers:
        caller.join()
    assert answers == {200}


# What is shown --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GUARDS)
def test_no_guard_shows_its_secret(kind: str, clock: Clock) -> None:
    """Neither its repr nor its label, before and after a change."""
    make, _ = GUARDS[kind]
    values = (ONE, TWO) if kind in {"token", "signature"} else (f"alice={ONE}", f"alice={TWO}")
    service = Service(values[0], clock)
    guard = make(service.secret)
    service.becomes(values[1])
    for shown in (repr(guard), guard.label, str(guard), repr(getattr(guard, "keys", ""))):
        assert ONE not in shown
        assert TWO not in shown
