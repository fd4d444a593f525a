"""The whole table of bad tokens again: with a JWK Set, remembered and revocable, beside another credential."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from mlguard import AnyAuth, APIKey, APIKeyAuth, APIKeys, JWTAuth, MemoryStore, NotAuthenticatedError, Revocations
from mlguard._guard import Principal
from tests.auth.jwt_attacks import FORM, HEADER, HEADERS, NOW, PAYLOADS, SECRET, VALID, b64, mint, signer
from tests.auth.provider import jwk, jwks, private_key, token

RECORD, _ = APIKey.generate("robot")
DATES = ("NaN", "Infinity", "-Infinity", "1e999", "-1e-9", '"1"', "true", "null", "[1]", "1" + "0" * 400)


def judge(auth: JWTAuth | AnyAuth, bearer: bytes) -> Principal:
    conn = HTTPConnection({"type": "http", "headers": [(b"authorization", b"Bearer " + bearer)]})
    return asyncio.run(auth(conn, SecurityScopes()))


def why(auth: JWTAuth | AnyAuth, bearer: bytes) -> str:
    with pytest.raises(NotAuthenticatedError) as refused:
        judge(auth, bearer)
    return refused.value.reason


def of_a_set(folder: Path, **options: Any) -> JWTAuth:
    """A guard with the provider's keys in a file, which its requests have reread all the time."""
    path = folder / "keys.json"
    path.write_bytes(jwks("one", "two"))
    options = {"issuer": "https://login.example", "audience": "api", "clock": lambda: NOW, **options}
    return JWTAuth.from_jwks(path, algorithms=["RS256"], **options)


def resign(bad: bytes) -> bytes:
    """The same token, signed by the provider."""
    header, payload, _ = bad.split(b".")
    sign = signer_of("one")
    told = json.loads(base64.urlsafe_b64decode(header + b"=="))
    return mint(
        base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)), {**told, "alg": "RS256", "kid": "one"}, sign
    )


def signer_of(kid: str) -> Callable[[bytes], bytes]:
    from joserfc.jws import JWSRegistry

    return lambda message: JWSRegistry.algorithms["RS256"].sign(message, private_key(kid))


def as_rs256(header: object) -> object:
    if isinstance(header, bytes):
        return header.replace(b"HS256", b"RS256")
    if isinstance(header, dict):
        changed = {"kid": "one", **header}
        swapped = {"HS256": "RS256", "RS256": "HS256"}
        return {**changed, "alg": swapped[header["alg"]]} if header.get("alg") in (*swapped,) else changed
    return header


def test_a_set_lets_in_what_it_should(tmp_path: Path) -> None:
    """Or the tests below would show nothing."""
    auth = of_a_set(tmp_path)
    assert [judge(auth, token(kid)).id for kid in ("one", "two", "one")] == ["alice"] * 3
    assert judge(auth, mint(CLAIMS, as_rs256(HEADER), signer_of("one"))).id == "alice"


CLAIMS = {"sub": "alice", "exp": NOW + 60, "iss": "https://login.example", "aud": "api"}


def test_no_bad_token_passes_a_set(tmp_path: Path) -> None:
    """Malformed ones, headers that lie, and claims that do not hold although the provider signed them."""
    auth = of_a_set(tmp_path)
    for bad in FORM.values():
        why(auth, bad)
    for header in HEADERS.values():
        why(auth, mint(CLAIMS, as_rs256(header), signer_of("one")))
        why(auth, mint(CLAIMS, as_rs256(header), lambda _: b""))
    bare = of_a_set(tmp_path, audience=None)
    bare._rules.issuer = None  # or every claim set of the table would fail for its issuer alone
    for bad in PAYLOADS.values():
        why(bare, resign(bad))
    for name in ("exp", "iat", "nbf"):
        for text in DATES:
            claims = json.dumps({**CLAIMS, name: "DATE"}).replace('"DATE"', text).encode()
            why(auth, mint(claims, {"alg": "RS256", "kid": "one"}, signer_of("one")))


def test_no_bad_token_passes_beside_another_credential() -> None:
    """AnyAuth judges a token as JWTAuth does, remembered or not."""
    revocations = Revocations(store=MemoryStore())
    jwt = JWTAuth(SECRET, algorithms=["HS256"], clock=lambda: NOW, revocations=revocations)
    auth = AnyAuth(APIKeyAuth(APIKeys([RECORD])), jwt)
    assert judge(auth, VALID).id == judge(auth, VALID).id == "alice"
    for bad in (*FORM.values(), *(mint(header=header) for header in HEADERS.values()), *PAYLOADS.values()):
        why(auth, bad)


@pytest.mark.parametrize("form", ["PEM", "DER", "JWK", "JWK Set", "modulus"])
def test_a_published_key_is_no_secret(tmp_path: Path, form: str) -> None:
    """What everybody can read signs nothing."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = private_key("one").public_key
    secret = {
        "PEM": spki.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "DER": spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "JWK": json.dumps(jwk("one")).encode(),
        "JWK Set": jwks("one", "two"),
        "modulus": str(jwk("one")["n"]).encode(),
    }[form]
    auth = of_a_set(tmp_path)
    for algorithm in ("HS256", "RS256"):
        header = {"alg": algorithm, "kid": "one"}
        why(auth, mint(CLAIMS, header, lambda message: hmac.digest(secret, message, hashlib.sha256)))


def test_a_key_of_ones_own_brought_along_is_not_used(tmp_path: Path) -> None:
    """In the header, by value or by URL, and although the token is well signed with it."""
    auth = of_a_set(tmp_path)
    for brought in ({"jwk": jwk("own")}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/x"}):
        for kid in ("one", "own"):
            header = {"alg": "RS256", "kid": kid, **brought}
            assert "not accepted" in why(auth, mint(CLAIMS, header, signer_of("own")))
    assert why(auth, token("own")) == "bearer token: no key for its kid"
    assert why(auth, token("one", signed_by="own")) == "bearer token: the signature does not hold"
    assert why(auth, token("one", signed_by="two")) == "bearer token: the signature does not hold"
    for kid in ("../one", "one\0", "' OR 1=1 --", "/etc/passwd", "ONE", "one ", "", "\ud800"):
        assert why(auth, token(kid, signed_by="one")) == "bearer token: no key for its kid"


@pytest.mark.parametrize(
    "long",
    [
        VALID[:-43] + b"A" * 10_000_000,
        b64(b'{"alg":"HS256","x":' + b"[" * 100_000) + VALID[VALID.index(b".") :],
        mint({"sub": "a", "exp": NOW + 60, "pad": "x" * 9_000}),
        b"." * 10_000,
        b"\xff" * 10_000_000,
    ],
)
def test_nothing_is_parsed_beyond_the_cap(long: bytes) -> None:
    """Whatever is wrong with a token that is too long, its length is all that was looked at."""
    assert why(JWTAuth(SECRET, algorithms=["HS256"]), long) == "bearer token: longer than max_token_size"


def test_hmac_and_public_keys_are_not_mixed_by_a_set(tmp_path: Path) -> None:
    """A set with an RSA key does not verify another signature scheme under its kid."""
    auth = of_a_set(tmp_path)
    for algorithm in ("PS256", "RS384", "RS512"):
        header = {"alg": algorithm, "kid": "one"}
        assert "another alg" in why(auth, mint(CLAIMS, header, signer(algorithm, "RS256")))
