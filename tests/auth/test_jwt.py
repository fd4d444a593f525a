"""JWTAuth against forged, altered, expired, foreign and ambiguous tokens."""

import asyncio
import hashlib
import hmac
import json
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI, Security
from fastapi.security import SecurityScopes
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import import_key
from joserfc.jws import JWSRegistry
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Principal
from mlguard.auth.jwt import JWTAuth
from mlguard.errors import NotAuthenticatedError
from tests.auth.jwt_attacks import (
    CLAIMS,
    FORM,
    HEADER,
    HEADERS,
    NOW,
    OTHER_SECRET,
    PAYLOADS,
    SECRET,
    VALID,
    WITH_EXTRA,
    hs256,
    mint,
    private_pem,
    public,
    raw,
    resigned,
    signer,
)


def guard(key: Any = SECRET, *, algorithms: Sequence[str] = ("HS256",), **options: Any) -> JWTAuth:
    return JWTAuth(key, algorithms=algorithms, clock=lambda: NOW, **options)


def service(auth: JWTAuth, scopes: Sequence[str] = ()) -> FastAPI:
    app = FastAPI()

    @app.get("/me")
    def me(caller: Annotated[Principal, Security(auth, scopes=list(scopes))]) -> dict[str, Any]:
        return {"id": caller.id, "scopes": sorted(caller.scopes), "issuer": caller.issuer}

    return app


def call(app: FastAPI, *authorization: bytes) -> httpx.Response:
    """Call a service with these Authorization headers. A crash in it is raised, and fails the test."""

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get("/me", headers=[(b"Authorization", value) for value in authorization])

    return asyncio.run(get())


def ask(auth: JWTAuth, token: bytes, scopes: Sequence[str] = ()) -> httpx.Response:
    return call(service(auth, scopes), b"Bearer " + token)


HS256_SERVICE = service(guard())


def outcome(response: httpx.Response) -> tuple[object, ...]:
    """All that a caller can see."""
    return response.status_code, response.content, sorted(response.headers.items())


REFUSED = outcome(call(HS256_SERVICE))


# What is let in -----------------------------------------------------------------------------------------------------


def test_a_valid_token_names_its_caller() -> None:
    """A token with only sub and exp is enough."""
    assert ask(guard(), mint()).json() == {"id": "alice", "scopes": [], "issuer": None}


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"])
def test_every_public_key_algorithm_verifies(algorithm: str) -> None:
    """Tokens of every allowed signature algorithm verify with the public key alone."""
    name = {"ES256": "ES256", "ES384": "ES384"}.get(algorithm, "EdDSA" if algorithm.startswith("Ed") else "RS256")
    token = mint(header={"alg": algorithm}, sign=signer(algorithm))
    assert ask(guard(public(name), algorithms=[algorithm]), token).status_code == 200


@pytest.mark.parametrize(("algorithm", "digest"), [("HS384", "sha384"), ("HS512", "sha512")])
def test_the_longer_hmacs_verify(algorithm: str, digest: str) -> None:
    """HS384 and HS512 work with a secret as long as their hash."""
    secret = hashlib.sha512(b"a secret of this test").digest()
    token = mint(header={"alg": algorithm}, sign=lambda message: hmac.digest(secret, message, digest))
    assert ask(guard(secret, algorithms=[algorithm]), token).status_code == 200


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
def test_tokens_of_python_jose_verify(algorithm: str) -> None:
    """A token service built on python-jose keeps working, with nothing but sub and exp in its tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # python-jose's own, on newer Pythons
        from jose import jwt

        signing = SECRET.hex() if algorithm == "HS256" else private_pem(algorithm).decode()
        token = jwt.encode({"sub": "alice", "exp": NOW + 60}, signing, algorithm=algorithm)
    key = SECRET.hex() if algorithm == "HS256" else public(algorithm).decode()
    assert ask(guard(key, algorithms=[algorithm]), token.encode()).json()["id"] == "alice"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"])
def test_types_of_access_tokens_are_accepted(typ: str) -> None:
    """The media type may be spelled in any case and in full (RFC 7515, section 4.1.9)."""
    assert ask(guard(), mint(header={"alg": "HS256", "typ": typ})).status_code == 200


def test_unknown_headers_are_ignored() -> None:
    """A header that this guard does not know changes nothing (RFC 7515, section 4)."""
    header = {**HEADER, "kid": "any", "x5t": "hint", "org.example": {"a": [1]}}
    assert ask(guard(), mint(header=header)).status_code == 200


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"Bearer    "])
def test_the_scheme_is_case_insensitive(scheme: bytes) -> None:
    """RFC 9110, section 11.1: the scheme in any case, then one or more spaces."""
    assert call(HS256_SERVICE, scheme + mint()).status_code == 200


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "read predict"}, ["predict", "read"]),
        ({"scope": ""}, []),
        ({"scp": "read"}, ["read"]),
        ({"scp": ["read", "predict"]}, ["predict", "read"]),
        ({"scopes": ["read"]}, ["read"]),
        ({"scope": "read predict", "scp": ["predict", "read"]}, ["predict", "read"]),
    ],
)
def test_scopes_are_read_from_the_usual_claims(claims: dict[str, Any], scopes: list[str]) -> None:
    """Scopes come from scope (RFC 8693), scp or scopes."""
    assert ask(guard(), mint({**CLAIMS, **claims})).json()["scopes"] == scopes


def test_a_missing_scope_is_a_403() -> None:
    """A valid token without the scope that the route demands is told so, and which."""
    token = mint({**CLAIMS, "scope": "read"})
    response = ask(guard(), token, scopes=["read", "predict"])
    assert response.status_code == 403
    assert response.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="read predict"'
    assert ask(guard(), token, scopes=["read"]).status_code == 200


@pytest.mark.parametrize("aud", ["api", ["api"], ["other", "api"]])
@pytest.mark.parametrize("configured", ["api", ["api", "old"], {"api"}])
def test_a_token_for_this_audience_is_accepted(aud: object, configured: Any) -> None:
    """One name in common is enough, whichever side lists several."""
    assert ask(guard(audience=configured), mint({**CLAIMS, "aud": aud})).status_code == 200


def test_the_issuer_is_kept() -> None:
    """The issuer is part of who the caller is, configured or not."""
    token = mint({**CLAIMS, "iss": "https://id.example"})
    assert ask(guard(issuer="https://id.example"), token).json()["issuer"] == "https://id.example"
    assert ask(guard(), token).json()["issuer"] == "https://id.example"


@pytest.mark.parametrize("leeway", [0, 2.5, 300])
def test_dates_hold_to_the_second_and_the_leeway(leeway: float) -> None:
    """A token is dead at exp plus leeway and alive just before; iat and nbf live from exactly their time on."""
    auth = guard(leeway=leeway)
    assert outcome(ask(auth, mint({"sub": "a", "exp": NOW - leeway}))) == REFUSED
    assert ask(auth, mint({"sub": "a", "exp": NOW - leeway + 0.5})).status_code == 200
    for name in ("iat", "nbf"):
        assert ask(auth, mint({**CLAIMS, name: NOW + leeway})).status_code == 200
        assert outcome(ask(auth, mint({**CLAIMS, name: NOW + leeway + 0.5}))) == REFUSED


def test_keys_rotate_by_kid() -> None:
    """Old and new key live side by side, each under its own kid, and one does not verify for the other."""
    auth = guard({"2023": SECRET, "2024": OTHER_SECRET})
    assert ask(auth, mint(header={"alg": "HS256", "kid": "2023"})).status_code == 200
    new = mint(header={"alg": "HS256", "kid": "2024"}, sign=lambda m: hs256(m, OTHER_SECRET))
    assert ask(auth, new).status_code == 200
    assert outcome(ask(auth, mint(header={"alg": "HS256", "kid": "2024"}))) == REFUSED
    assert outcome(ask(auth, mint())) == REFUSED, "no kid, and several keys"


def test_one_key_under_a_kid_needs_no_kid() -> None:
    """With one key there is nothing to choose, but a kid that is given must be its own."""
    auth = guard({"2023": SECRET})
    assert ask(auth, mint()).status_code == 200
    assert outcome(ask(auth, mint(header={"alg": "HS256", "kid": "2024"}))) == REFUSED


def test_each_key_is_pinned_to_its_own_algorithms() -> None:
    """With a secret and a public key side by side, neither is used with the other's algorithm."""
    auth = guard({"s": SECRET, "p": public("RS256")}, algorithms=["HS256", "RS256"])
    assert ask(auth, mint(header={"alg": "RS256", "kid": "p"}, sign=signer("RS256"))).status_code == 200
    assert ask(auth, mint(header={"alg": "HS256", "kid": "s"})).status_code == 200
    for form in (public("RS256"), public("RS256", Encoding.DER), public("RS256").strip()):
        forged = mint(header={"alg": "HS256", "kid": "p"}, sign=lambda m, form=form: hs256(m, form))  # type: ignore[misc]  # mypy cannot infer a default
        assert outcome(ask(auth, forged)) == REFUSED


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", FORM.values(), ids=FORM.keys())
def test_a_malformed_token_is_refused(token: bytes) -> None:
    """What is not exactly a canonical, short enough, well-signed token is the one 401."""
    assert outcome(call(HS256_SERVICE, b"Bearer " + token)) == REFUSED


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_lies_is_refused(header: object) -> None:
    """Another algorithm, a header that changes the reading, or an ambiguous one: refused although it is well signed."""
    assert outcome(call(HS256_SERVICE, b"Bearer " + mint(header=header))) == REFUSED


@pytest.mark.parametrize("header", [header for name, header in HEADERS.items() if name.startswith("alg ")])
def test_an_unsigned_token_is_refused(header: object) -> None:
    """No spelling of "none", and nothing else, makes an empty signature good."""
    assert outcome(call(HS256_SERVICE, b"Bearer " + mint(header=header, sign=lambda _: b""))) == REFUSED


@pytest.mark.parametrize("token", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_claims_that_do_not_hold_are_refused(token: bytes) -> None:
    """A good signature does not make a bad claim good."""
    assert outcome(call(HS256_SERVICE, b"Bearer " + token)) == REFUSED


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [VALID],
        [b"Basic " + VALID],
        [b"Bearer\t" + VALID],
        [b"Bearer\xa0" + VALID],
        [b" Bearer " + VALID],
        [b"Bearer " + VALID + b", Bearer " + VALID],
        [b"Bearer " + VALID, b"Bearer " + VALID],
        [b"Bearer " + VALID, b""],
        [b"\xe9"],
        [b"\xff\xfe Bearer " + VALID],
    ],
)
def test_anything_but_one_bearer_header_is_refused(values: list[bytes]) -> None:
    """Two headers, another scheme or raw bytes are the one 401, never a 500."""
    assert outcome(call(HS256_SERVICE, *values)) == REFUSED


@pytest.mark.parametrize(
    "kid", ["../../dev/null", "/etc/passwd", "' OR 1=1 --", "a\0b", "2023 ", "2023\ud800", "", "\uff12023"]
)
def test_a_kid_is_only_compared(kid: str) -> None:
    """A kid that is a path, SQL or worse finds no key."""
    auth = guard({"2023": SECRET, "2024": OTHER_SECRET})
    assert outcome(ask(auth, mint(header={"alg": "HS256", "kid": kid}))) == REFUSED


@pytest.mark.parametrize("form", ["PEM", "stripped PEM", "DER", "JWK", "modulus"])
def test_a_public_key_is_no_secret(form: str) -> None:
    """Signing with HS256 and the public RSA key, in any of its forms, does not forge a token."""
    jwk = import_key(public("RS256"), "RSA").as_dict()
    secret = {
        "PEM": public("RS256"),
        "stripped PEM": public("RS256").strip(),
        "DER": public("RS256", Encoding.DER),
        "JWK": json.dumps(jwk).encode(),
        "modulus": str(jwk["n"]).encode(),
    }[form]
    for algorithm in ("HS256", "RS256"):
        forged = mint(header={"alg": algorithm}, sign=lambda m: hs256(m, secret))
        assert outcome(ask(guard(public("RS256"), algorithms=["RS256"]), forged)) == REFUSED


def test_only_the_raw_form_of_an_ecdsa_signature_is_taken() -> None:
    """A DER signature, one of zeros, and one by another curve are refused (RFC 7518, section 3.4)."""
    auth = guard(public("ES256"), algorithms=["ES256"])
    header = {"alg": "ES256"}
    sign = signer("ES256")

    def der(message: bytes) -> bytes:
        signature = sign(message)
        return encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))

    assert ask(auth, mint(header=header, sign=sign)).status_code == 200
    assert decode_dss_signature(der(b"message")), "the DER form itself is well made"
    for forge in (der, lambda _: bytes(64), lambda _: bytes(96), lambda _: b"\xff" * 64, lambda m: sign(m) + b"\0"):
        assert outcome(ask(auth, mint(header=header, sign=forge))) == REFUSED
    other_curve = JWSRegistry.algorithms["ES384"]
    key = import_key(private_pem("ES384"), "EC")
    for name in ("ES256", "ES384"):
        assert outcome(ask(auth, mint(header={"alg": name}, sign=lambda m: other_curve.sign(m, key)))) == REFUSED


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_signatures_of_any_length_are_only_refused(algorithm: str) -> None:
    """A signature of zeros or of a wrong length never crashes the verifier."""
    auth = guard(public(algorithm), algorithms=[algorithm])
    for length in (1, 32, 64, 255, 256, 257, 2000):
        token = mint(header={"alg": algorithm}, sign=lambda _, length=length: bytes(length))  # type: ignore[misc]  # mypy cannot infer a default
        assert outcome(ask(auth, token)) == REFUSED


def test_pss_and_pkcs1_are_not_mixed() -> None:
    """An RSA signature with the other padding does not hold, even if the header names the right one."""
    auth = guard(public("RS256"), algorithms=["RS256"])
    assert outcome(ask(auth, mint(header={"alg": "RS256"}, sign=signer("PS256", "RS256")))) == REFUSED
    assert outcome(ask(auth, mint(header={"alg": "PS256"}, sign=signer("PS256", "RS256")))) == REFUSED


@pytest.mark.parametrize("iss", ["https://id.example/", "HTTPS://id.example", "https://id.example.evil", ""])
def test_another_issuer_is_refused(iss: str) -> None:
    """The issuer is compared exactly, and must be there."""
    auth = guard(issuer="https://id.example")
    assert outcome(ask(auth, resigned(iss=iss))) == REFUSED
    assert outcome(ask(auth, mint())) == REFUSED


@pytest.mark.parametrize("aud", [None, "", "API", "api ", [], ["other"], ["api", 1], [["api"]], {"api": 1}, True, 1])
def test_a_token_for_another_audience_is_refused(aud: object) -> None:
    """Where an audience is configured, the token must name it in a well-formed claim."""
    auth = guard(audience="api")
    assert outcome(ask(auth, resigned(aud=aud))) == REFUSED
    assert outcome(ask(auth, mint())) == REFUSED


def test_depth_never_crashes() -> None:
    """100 000 levels, in header or payload, signed or not, are a 401, also where long tokens are allowed."""
    auth = guard(max_token_size=65_536)
    deep = b'{"sub":"a","alg":"HS256","x":' + b"[" * 22_000
    assert outcome(ask(auth, mint(header=deep))) == REFUSED
    assert outcome(ask(auth, mint(deep))) == REFUSED
    assert outcome(ask(auth, mint(b'{"x":' * 4_000))) == REFUSED
    assert outcome(ask(auth, mint(b"[" * 100_000))) == REFUSED


def test_the_size_cap_is_exact() -> None:
    """A token as long as max_token_size passes, one byte more does not."""
    assert ask(guard(max_token_size=len(VALID)), VALID).status_code == 200
    assert outcome(ask(guard(max_token_size=len(VALID) - 1), VALID)) == REFUSED


def test_brackets_in_strings_are_not_depth() -> None:
    """Only real nesting counts: 32 levels pass, whatever stands in strings and beside each other."""
    text = json.dumps('[{"' * 100)
    beside = ",".join(["[[]]"] * 50)
    token = raw(WITH_EXTRA % (NOW + 60, f"[{text},{beside},{'[' * 30}{']' * 30}]"))
    assert ask(guard(), token).status_code == 200


def test_a_clock_that_fails_lets_nobody_in() -> None:
    """A clock that returns NaN makes every token expired."""
    auth = JWTAuth(SECRET, algorithms=["HS256"], clock=lambda: float("nan"))
    assert outcome(ask(auth, mint())) == REFUSED


# What the operator sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [b"mallory", mint(header={"alg": "mallory"}), mint(header={"alg": "HS256", "kid": 1}), resigned(aud="mallory")],
)
def test_the_reason_holds_nothing_of_the_token(token: bytes) -> None:
    """The operator reads why in fixed words; neither they nor the exception's context keep the token."""
    conn = HTTPConnection({"type": "http", "headers": [(b"authorization", b"Bearer " + token)]})
    with pytest.raises(NotAuthenticatedError) as refused:
        asyncio.run(guard()(conn, SecurityScopes()))
    assert refused.value.reason.startswith("bearer token: ")
    assert "mallory" not in refused.value.reason
    assert refused.value.__context__ is None


def test_the_claims_are_read_only_and_not_shown() -> None:
    """The principal carries the verified claims, cannot be changed through them, and its repr leaves them out."""
    token = resigned(email="alice@example.org")
    conn = HTTPConnection({"type": "http", "headers": [(b"authorization", b"Bearer " + token)]})
    principal = asyncio.run(guard()(conn, SecurityScopes()))
    assert principal.method == "jwt"
    assert principal.claims["email"] == "alice@example.org"
    assert "example.org" not in repr(principal)
    with pytest.raises(TypeError):
        principal.claims["sub"] = "root"  # type: ignore[index]  # that is the point


def test_the_docs_show_a_padlock() -> None:
    """OpenAPI describes the bearer scheme, so /docs can authorise."""
    auth = guard(scheme_name="token", description="from id.example")
    schema = service(auth).openapi()
    expected = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "from id.example"}
    assert schema["components"]["securitySchemes"] == {"token": expected}
    assert schema["paths"]["/me"]["get"]["security"] == [{"token": []}]
    assert (guard().scheme_name, auth.control, auth.statuses) == ("JWTAuth", Control.AUTHENTICATION, (401, 403))


# Properties ---------------------------------------------------------------------------------------------------------

SEGMENT = st.text("ABCDEFabcdef0123456789-_", max_size=60)


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: b"Bearer " + tail)))
def test_arbitrary_header_bytes_are_refused(value: bytes) -> None:
    """No bytes in the header are let in, and none crash the service."""
    assert outcome(call(HS256_SERVICE, value)) == REFUSED


@given(st.lists(SEGMENT, min_size=1, max_size=6).map(".".join))
def test_arbitrary_tokens_are_refused(token: str) -> None:
    """Nothing that merely looks like a token is let in, and none crash the service."""
    assert outcome(call(HS256_SERVICE, b"Bearer " + token.encode())) == REFUSED


@given(st.integers(0, len(VALID) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_every_mutation_of_a_valid_token_is_refused(position: int, inserted: bytes, removed: int) -> None:
    """A token with any piece of it changed, added or taken away does not hold."""
    mutant = VALID[:position] + inserted + VALID[position + removed :]
    if mutant.lstrip(b" ") != VALID:
        assert outcome(call(HS256_SERVICE, b"Bearer " + mutant)) == REFUSED


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([NOW, NOW + 60, "api"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = st.sampled_from(["sub", "exp", "iat", "nbf", "iss", "aud", "scope", "scp", "scopes", "x"])


@given(st.dictionaries(MEMBERS, JSON_VALUES))
def test_arbitrary_signed_claims_never_crash(claims: dict[str, Any]) -> None:
    """Whatever an issuer signs is a good answer or the one 401, and good only with a live exp and a named sub."""
    response = call(HS256_SERVICE, b"Bearer " + mint(claims))
    if outcome(response) != REFUSED:
        assert response.status_code == 200
        assert response.json()["id"] == claims["sub"] != ""
        assert claims["exp"] > NOW


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "x"]), JSON_VALUES))
def test_arbitrary_signed_headers_never_crash(header: dict[str, Any]) -> None:
    """Whatever stands in a header, only a pinned alg is let in."""
    response = call(HS256_SERVICE, b"Bearer " + mint(header=header))
    if outcome(response) != REFUSED:
        assert (response.status_code, header["alg"]) == (200, "HS256")


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_signed_bytes_never_crash(header: bytes, payload: bytes) -> None:
    """Parts that are not JSON at all are the one 401."""
    assert outcome(call(HS256_SERVICE, b"Bearer " + mint(payload, header))) == REFUSED
    assert outcome(call(HS256_SERVICE, b"Bearer " + mint(payload))) == REFUSED
