"""Tokens of the real python-jose, and python-jose as what checks signatures, under the same attacks as without it."""

import asyncio
import base64
import importlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.security import SecurityScopes
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, import_key
from starlette.requests import HTTPConnection

from mlguard import ConfigurationError, JWTAuth, NotAuthenticatedError, Principal
from mlguard.compat.jose import jose_engine
from tests.auth.jwt_attacks import (
    CLAIMS,
    FORM,
    HEADER,
    HEADERS,
    NOW,
    PAYLOADS,
    PRIVATE_KEYS,
    SECRET,
    VALID,
    hs256,
    mint,
    private_pem,
    public,
    signer,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses what newer Pythons deprecate
    from jose import jwt
    from jose.exceptions import JWTError

ENGINES: list[Any] = [None, jose_engine]
LONG_SECRET = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQsT5uVaXeYnKwPzMbJr1D3f5G7h9S2U4o6"
KINDS: dict[str, Literal["RSA", "EC"]] = {"RS256": "RSA", "ES256": "EC"}
KEYS = {"RS": "RS256", "ES256": "ES256", "ES384": "ES384"}


def keys(algorithm: str) -> tuple[str, str]:
    """What python-jose signs with, and what the service checks with."""
    if algorithm.startswith("HS"):
        return LONG_SECRET, LONG_SECRET
    name = KEYS.get(algorithm) or KEYS[algorithm[:2]]
    return private_pem(name).decode(), public(name).decode()


def encode(claims: dict[str, Any], key: str = LONG_SECRET, algorithm: str = "HS256", **options: Any) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return str(jwt.encode(claims, key, algorithm=algorithm, **options)).encode()


def guard(key: Any = LONG_SECRET, algorithm: str = "HS256", **options: Any) -> JWTAuth:
    return JWTAuth(key, algorithms=[algorithm], **options)


def who(auth: JWTAuth, token: bytes) -> Principal:
    conn = HTTPConnection({"type": "http", "headers": [(b"authorization", b"Bearer " + token)]})
    return asyncio.run(auth(conn, SecurityScopes()))


def reason(auth: JWTAuth, token: bytes) -> str:
    """Why a token is refused, in the operator's log."""
    with pytest.raises(NotAuthenticatedError) as refused:
        who(auth, token)
    assert refused.value.__context__ is None
    return refused.value.reason.removeprefix("bearer token: ")


def soon(**more: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": datetime.now(UTC) + timedelta(minutes=30), **more}


# Tokens that python-jose has made -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384"])
def test_tokens_of_every_algorithm_verify(algorithm: str, engine: Any) -> None:
    """Nothing but sub and an exp that was a datetime, as FastAPI's tutorial makes them."""
    signing, checking = keys(algorithm)
    auth = guard(checking, algorithm, engine=engine)
    token = encode(soon(), signing, algorithm)
    assert who(auth, token).identity == ("jwt", "", "alice")
    assert reason(auth, token[:-8] + b"AAAAAAAA") == "the signature does not hold"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scopes": ["me", "items"]}, {"me", "items"}),  # FastAPI's tutorial, until 2025
        ({"scopes": []}, set()),
        ({"scope": "me items"}, {"me", "items"}),  # and since
        ({"scope": ""}, set()),
        ({}, set()),
    ],
)
def test_scopes_of_the_tutorial_are_read(claims: dict[str, Any], scopes: set[str], engine: Any) -> None:
    """Both ways in which FastAPI's tutorial has written scopes are the principal's scopes."""
    assert who(guard(engine=engine), encode(soon(**claims))).scopes == scopes


@pytest.mark.parametrize(
    "expires", [time.time() + 9e3, int(time.time()) + 9000, datetime.now(UTC) + timedelta(hours=3)]
)
def test_every_way_to_write_a_date_verifies(expires: Any) -> None:
    """A float, an int or a datetime, for exp, iat and nbf."""
    past = type(expires)(0) if not isinstance(expires, datetime) else datetime.now(UTC) - timedelta(minutes=1)
    assert who(guard(), encode({"sub": "alice", "exp": expires, "iat": past, "nbf": past})).id == "alice"


@pytest.mark.parametrize("aud", ["api", ["other", "api"]])
def test_audience_and_issuer_verify(aud: Any) -> None:
    """Where they are configured, as with ``jwt.decode(audience=..., issuer=...)``."""
    auth = guard(audience="api", issuer="https://login.example")
    assert who(auth, encode(soon(aud=aud, iss="https://login.example", jti="1"))).issuer == "https://login.example"


def test_published_keys_take_no_engine(tmp_path: Path) -> None:
    """Which of the keys that come and go an engine could use, nobody can say at the start."""
    published = tmp_path / "keys.json"
    jwk = ECKey.generate_key("P-256", {"kid": "1"}).as_dict(private=False)
    published.write_text(json.dumps({"keys": [jwk]}), "utf-8")
    with pytest.raises(ConfigurationError, match="engine"):
        JWTAuth.from_jwks(  # type: ignore[call-arg]  # as somebody without a type checker writes it
            published, algorithms=["ES256"], issuer="i", audience="a", engine=jose_engine
        )


def test_kid_in_the_header_chooses_the_key() -> None:
    """As in ``jwt.encode(headers={"kid": ...})``, where python-jose itself would try all keys."""
    auth = guard({"2025": LONG_SECRET, "2026": LONG_SECRET[::-1]})
    assert who(auth, encode(soon(), LONG_SECRET[::-1], headers={"kid": "2026"})).id == "alice"
    assert reason(auth, encode(soon(), LONG_SECRET[::-1], headers={"kid": "2025"})) == "the signature does not hold"


# What python-jose took and mlguard refuses, as docs/how-to/move-from-python-jose.md has it ------------------------


@pytest.mark.parametrize(
    ("claims", "options", "told"),
    [
        ({"sub": "alice"}, {}, "no exp"),
        ({"exp": datetime.now(UTC) + timedelta(minutes=30)}, {}, "sub is not a name"),
        (soon(aud="api"), {}, "meant for an audience, and none is configured"),
        (soon(exp=time.time() + 9_000, iat=time.time() + 9_000), {}, "expired, or of the future: compare clocks"),
        (soon(), {"headers": {"typ": "my+jwt"}}, "another typ than JWT or at+jwt"),
        (soon(), {"headers": {"crit": ["exp"]}}, "the header has a member that is not accepted"),
        (soon(scope="a", scopes=["b"]), {}, "the scope claims disagree"),
    ],
)
def test_what_is_refused_is_told_in_the_log(claims: dict[str, Any], options: dict[str, Any], told: str) -> None:
    """python-jose decodes each of these, some of them by mistake; the log has the words of the docs."""
    assert reason(guard(), encode(claims, **options)) == told


def test_audience_or_issuer_that_is_missing_is_refused() -> None:
    """python-jose takes a token without aud or iss although the caller of ``decode`` demands them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert jwt.decode(encode(soon()).decode(), LONG_SECRET, algorithms=["HS256"], audience="api")
    assert reason(guard(audience="api"), encode(soon())) == "aud is missing or malformed"
    assert reason(guard(issuer="https://login.example"), encode(soon())) == "another issuer, or none"


@pytest.mark.parametrize(
    "secret",
    ["hunter2", "a-short-secret-of-31-characters", "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7"],
)
def test_secret_that_can_be_guessed_is_a_configuration_error(secret: str) -> None:
    """python-jose signs with any secret: a short one, or the one of FastAPI's tutorial."""
    assert encode(soon(), secret)
    for engine in ENGINES:
        with pytest.raises(ConfigurationError) as refused:
            guard(secret, engine=engine)
        assert secret not in str(refused.value)


def test_es512_is_no_algorithm_of_ours() -> None:
    """The one signature algorithm of python-jose that has no counterpart."""
    with pytest.raises(ConfigurationError, match="algorithms, entry 1"):
        guard(LONG_SECRET, "ES512")


# python-jose as the engine: the same attacks --------------------------------------------------------------------------

HS256 = JWTAuth(SECRET, algorithms=["HS256"], engine=jose_engine, clock=lambda: NOW)
PLAIN = JWTAuth(SECRET, algorithms=["HS256"], clock=lambda: NOW)
ATTACKS = {
    **FORM,
    **{name: mint(header=header) for name, header in HEADERS.items()},
    **{f"{name}, payload": token for name, token in PAYLOADS.items()},
    **{f"{name}, unsigned": mint(header=header, sign=lambda _: b"") for name, header in HEADERS.items()},
}


@pytest.mark.parametrize("token", ATTACKS.values(), ids=ATTACKS.keys())
def test_every_attack_is_refused_as_without_the_engine(token: bytes) -> None:
    """The whole table, for the same reason, because everything around the signature is the same."""
    assert reason(HS256, token) == reason(PLAIN, token)


def test_valid_tokens_of_the_table_pass() -> None:
    """The table's own valid token is let in, or the refusals above would say nothing."""
    assert who(HS256, VALID) == who(PLAIN, VALID)


@pytest.mark.parametrize("name", ["RS256", "ES256"])
@pytest.mark.parametrize("form", ["PEM", "stripped PEM", "DER", "OpenSSH", "raw", "JWK"])
def test_public_key_is_no_secret(name: str, form: str) -> None:
    """CVE-2024-33663: a public key in a form that python-jose did not know for one served it as a secret."""
    key = PRIVATE_KEYS[name].public_key()
    secret = {
        "PEM": lambda: public(name),
        "stripped PEM": lambda: public(name).strip(),
        "DER": lambda: public(name, Encoding.DER),
        "OpenSSH": lambda: key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "raw": lambda: public(name, Encoding.DER)[-65:],
        "JWK": lambda: json.dumps(import_key(public(name), KINDS[name]).as_dict()).encode(),
    }[form]()
    auth = guard(public(name), name, engine=jose_engine, clock=lambda: NOW)
    for algorithm in ("HS256", "HS384", "HS512", name):
        token = mint(header={"alg": algorithm}, sign=lambda message: hs256(message, secret))
        assert reason(auth, token) in {"another alg than its key is bound to", "the signature does not hold"}


def test_forms_of_a_public_key_are_refused_as_a_secret() -> None:
    """Nor can a service be set up so that its public key is the secret."""
    key = PRIVATE_KEYS["ES256"].public_key()
    for form in (
        public("ES256"),
        public("ES256", Encoding.DER),
        key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        base64.b64encode(public("ES256", Encoding.DER)),
    ):
        with pytest.raises(ConfigurationError):
            guard(form, engine=jose_engine)


def test_each_key_keeps_its_own_algorithms() -> None:
    """A secret and a public key side by side: neither serves for the other."""
    auth = JWTAuth(
        {"s": SECRET, "p": public("RS256")}, algorithms=["HS256", "RS256"], engine=jose_engine, clock=lambda: NOW
    )
    assert who(auth, mint(header={"alg": "RS256", "kid": "p"}, sign=signer("RS256"))).id == "alice"
    assert who(auth, mint(header={"alg": "HS256", "kid": "s"})).id == "alice"
    forged = mint(header={"alg": "HS256", "kid": "p"}, sign=lambda message: hs256(message, public("RS256")))
    assert reason(auth, forged) == "another alg than its key is bound to"


@given(st.sampled_from(["RS256", "ES256", "ES384"]), st.binary(max_size=300))
def test_arbitrary_signatures_are_refused(algorithm: str, signature: bytes) -> None:
    """Signatures of any length and content are a refusal, and never a crash of python-jose."""
    auth = ASYMMETRIC[algorithm]
    assert reason(auth, mint(header={"alg": algorithm}, sign=lambda _: signature or b"\0"))


ASYMMETRIC = {
    name: guard(public(name), name, engine=jose_engine, clock=lambda: NOW) for name in ("RS256", "ES256", "ES384")
}


@given(st.integers(0, len(VALID) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_every_mutation_of_a_valid_token_is_refused(position: int, inserted: bytes, removed: int) -> None:
    """A token with any piece of it changed, added or taken away does not hold."""
    mutant = VALID[:position] + inserted + VALID[position + removed :]
    if mutant.lstrip(b" ") != VALID:
        assert reason(HS256, mutant)


def test_parsers_of_python_jose_are_never_imported() -> None:
    """Its holes are in jose.jwt, jose.jws and jose.jwe (CVE-2024-33664: a compressed JWE), which nothing here loads."""
    source = """
import asyncio, sys
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from mlguard import JWTAuth, NotAuthenticatedError
from mlguard.compat.jose import jose_engine

auth = JWTAuth(sys.argv[1], algorithms=["HS256"], engine=jose_engine)
for token in (b"x", b"e30.e30.AAAA", b"eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0.AAAA.AAAA.AAAA.AAAA"):
    conn = HTTPConnection({"type": "http", "headers": [(b"authorization", b"Bearer " + token)]})
    try:
        asyncio.run(auth(conn, SecurityScopes()))
    except NotAuthenticatedError:
        pass
print(*sorted(name for name in sys.modules if name.startswith("jose.")))
"""
    done = subprocess.run([sys.executable, "-c", source, LONG_SECRET], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "jose.jwk" in loaded
    assert loaded.isdisjoint({"jose.jwt", "jose.jws", "jose.jwe"})


# The seam -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["PS256", "EdDSA", "Ed25519"])
def test_algorithm_that_python_jose_lacks_is_a_configuration_error(algorithm: str) -> None:
    """At construction, with the fix."""
    name = "RS256" if algorithm == "PS256" else "EdDSA"
    with pytest.raises(ConfigurationError, match=f"the engine cannot check {algorithm}; take it out of algorithms"):
        guard(public(name), algorithm, engine=jose_engine)


@pytest.mark.parametrize("algorithm", ["none", "A128KW", "dir", "RSA1_5", "ECDH-ES", ""])
def test_what_is_no_signature_algorithm_is_refused_by_the_engine_itself(algorithm: str) -> None:
    """Also where it is called by hand."""
    with pytest.raises(Exception, match="does not have this signature algorithm"):
        jose_engine(algorithm, LONG_SECRET.encode())


@pytest.mark.parametrize("engine", ["jose", 1, True, object()])
def test_engine_that_is_no_function_is_a_configuration_error(engine: Any) -> None:
    """Such as the name of one."""
    with pytest.raises(ConfigurationError, match="engine must be a function"):
        guard(engine=engine)


def test_engine_gets_the_key_and_the_pinned_algorithm() -> None:
    """A secret as it is, a public key in PEM, whatever form they were given in; a private key never."""
    asked: list[tuple[str, bytes]] = []

    def engine(algorithm: str, key: bytes) -> Callable[[bytes, bytes], bool]:
        asked.append((algorithm, key))
        return jose_engine(algorithm, key)

    JWTAuth({"a": SECRET, "b": private_pem("RS256")}, algorithms=["HS256", "RS256", "RS384"], engine=engine)
    assert asked == [("HS256", SECRET), ("RS256", public("RS256")), ("RS384", public("RS256"))]


def test_error_of_an_engine_does_not_show_the_key() -> None:
    """python-jose quotes keys in some of its errors; none of it is in ours."""

    def engine(algorithm: str, key: bytes) -> Callable[[bytes, bytes], bool]:
        raise ValueError(key)

    with pytest.raises(ConfigurationError) as refused:
        guard(engine=engine)
    assert LONG_SECRET not in str(refused.value)
    assert refused.value.__context__ is None


@pytest.mark.parametrize("answer", [1, "yes", {"sub": "alice"}, None, [True], ValueError(SECRET)])
def test_only_a_plain_yes_lets_in(answer: Any) -> None:
    """An engine that returns claims, a truthy object or a crash lets nobody in."""

    def verify(signing_input: bytes, signature: bytes) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    auth = guard(SECRET, engine=lambda algorithm, key: verify, clock=lambda: NOW)
    assert reason(auth, mint(CLAIMS, HEADER)) == "the signature does not hold"


def test_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed it reads what to install."""
    monkeypatch.delitem(sys.modules, "mlguard.compat.jose")
    monkeypatch.setitem(sys.modules, "jose", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mlguard\[jose\]"'):
        importlib.import_module("mlguard.compat.jose")


def test_python_jose_decodes_what_it_is_said_to_decode() -> None:
    """What the docs say of python-jose itself: no exp and a secret of one character are fine with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert jwt.decode(encode({"sub": "alice"}, "x").decode(), "x", algorithms=["HS256"]) == {"sub": "alice"}
        with pytest.raises(JWTError):
            jwt.decode(encode(soon(aud="api")).decode(), LONG_SECRET, algorithms=["HS256"])
