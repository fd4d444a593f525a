"""Mistakes in configuration that would open a door, or show a secret, and are refused when the guard is built."""

import asyncio
import base64
import hashlib
import json
import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi.security import SecurityScopes
from starlette.requests import Request

from mlguard import (
    APIKey,
    APIKeys,
    ConfigurationError,
    JWTAuth,
    MemoryStore,
    NotAuthenticatedError,
    SignatureAuth,
    sign_request,
    verify_signature,
)
from mlguard.auth.secrets import check_strength
from mlguard.client import HTTPSignature

SECRET = "Vq3tYxw0ZkLr8HcNfUe5Rj_bPa2GsT7dMi"
PUBLIC = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
PEM = PUBLIC.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
DER = PUBLIC.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
DIGEST = "sha256:" + "5e884898da28047151d0e56f8dc62927" * 2
JWK = json.dumps({"kty": "RSA", "n": "sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri", "e": "AQAB"}).encode()


@pytest.mark.parametrize(
    "form", [PEM.replace(b"\n", b" "), DER, JWK, b"[" + JWK + b"]"], ids=["pem", "der", "jwk", "list"]
)
@pytest.mark.parametrize(
    "carry",
    [
        bytes,
        base64.b64encode,
        base64.urlsafe_b64encode,
        lambda form: base64.urlsafe_b64encode(form).rstrip(b"="),
        lambda form: form.hex().encode(),
    ],
    ids=["raw", "base64", "base64url", "unpadded", "hex"],
)
def test_public_key_in_any_form_is_no_secret(carry: Callable[[bytes], bytes], form: bytes) -> None:
    """With it, anybody who knows the public key could sign tokens."""
    with pytest.raises(ConfigurationError):
        JWTAuth(carry(form), algorithms=["HS256"])


@pytest.mark.parametrize(
    "text", ["https://issuer.test/.well-known/jwks.json", "/run/secrets/signing-key-of-the-service"]
)
def test_place_of_a_key_is_no_secret(text: str) -> None:
    """A URL or a path that nobody reads would be the secret itself."""
    with pytest.raises(ConfigurationError, match="place"):
        JWTAuth(text, algorithms=["HS256"])


@pytest.mark.parametrize(
    "build",
    [
        lambda: SignatureAuth({SECRET: "alice"}),
        lambda: SignatureAuth({"alice": SECRET}, scopes={SECRET: {"predict"}}),
        lambda: SignatureAuth({"alice": SECRET}, scopes={"alice": {SECRET + " "}}),
        lambda: SignatureAuth({"alice": SECRET}, scopes=SECRET),  # type: ignore[arg-type]  # the mistake
        lambda: SignatureAuth(SECRET),  # type: ignore[arg-type]  # the mistake
        lambda: HTTPSignature(SECRET, "alice"),
        lambda: JWTAuth("weak", algorithms=[SECRET]),
        lambda: JWTAuth({SECRET: "weak"}, algorithms=["HS256"]),
        lambda: APIKeys([f"{SECRET}=alice"]),
        lambda: APIKeys([f"alice=weak;{SECRET}"]),
        lambda: APIKeys([("alice", SECRET)]),  # type: ignore[list-item]  # the mistake
        lambda: APIKeys([SECRET.encode()]),  # type: ignore[list-item]  # the mistake
        lambda: APIKeys({"alice": SECRET}),
        lambda: APIKeys(None),  # type: ignore[arg-type]  # the mistake
        lambda: APIKey.generate("sha256"),
        lambda: APIKey.generate(5),  # type: ignore[arg-type]  # the mistake
        lambda: APIKey("alice", b"x" * 32, expires_at=5),  # type: ignore[arg-type]  # the mistake
        lambda: APIKey.parse(f"alice={DIGEST};expires={SECRET}"),
        lambda: APIKey.parse(f"alice={DIGEST};expires={SECRET};expires={SECRET}"),
        lambda: APIKey.parse(f"alice={DIGEST};[{SECRET}]"),
        lambda: APIKey.parse(f"[{SECRET}]={DIGEST}"),
        lambda: APIKeys([f"alice={DIGEST};expires={SECRET}"]),
        lambda: APIKeys.from_env(SECRET),
        lambda: APIKeys.from_env(SECRET.encode()),  # type: ignore[arg-type]  # the mistake
        lambda: sign_request(SECRET, method="GET", target="/", timestamp=SECRET),  # type: ignore[arg-type]
    ],
)
def test_swapped_or_wrong_arguments_show_no_secret(build: Callable[[], Any]) -> None:
    """A secret in the wrong place is named by its place, and no error behind the one that is raised holds it."""
    with pytest.raises(ConfigurationError) as refused:
        build()
    assert SECRET not in told(refused.value)


def told(error: BaseException | None) -> str:
    """All that an exception and those behind it hold, whether or not a traceback would print them."""
    if error is None:
        return ""
    own = f"{error!r} {vars(error)!r}"
    return f"{own} {told(error.__cause__)} {told(error.__context__)}"


@pytest.mark.parametrize(
    "entry", ["{}=weak", "weak;{}", f"{DIGEST};expires={{}}", f"alice={DIGEST};{{}}", f"{{}}={DIGEST}"]
)
@pytest.mark.parametrize("damage", ["[{}]", "{}é", "{}\0", "2027-{}!", "{}\ud800", "{} {}"])
def test_no_part_of_a_mistyped_entry_is_kept(entry: str, damage: str) -> None:
    """Wherever a secret stands in an entry that cannot work, no error holds any eight characters of it."""
    text = entry.format(damage.format(SECRET, SECRET))
    with pytest.raises(ConfigurationError) as refused:
        APIKeys([text])
    kept = told(refused.value)
    assert not [at for at in range(len(SECRET) - 7) if SECRET[at : at + 8] in kept]


def test_refused_signature_takes_no_parser_along() -> None:
    """The 401 for a malformed field has no error of the parser behind it, which would hold what was sent."""
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b""}
    names = (b"host", b"signature-input", b"signature")
    request = Request({**scope, "headers": [(name, f"({SECRET}".encode()) for name in names]})
    with pytest.raises(NotAuthenticatedError) as refused:
        asyncio.run(SignatureAuth({"alice": SECRET}, store=MemoryStore())(request, SecurityScopes()))
    assert refused.value.__context__ is None
    assert SECRET not in told(refused.value)


PLACEHOLDERS = [
    "[paste-the-token-of-alice-here]",
    "[INSERT THE TOKEN OF ALICE (32 CHARACTERS)]",
    "(the token of alice goes here 99)",
    "{alice_production_token_value}",
    "((alice-production-token-value))",
    "%ALICE_PRODUCTION_TOKEN_VALUE%",
    "%(ALICE_PRODUCTION_TOKEN_VALUE)s",
    "@ALICE_PRODUCTION_TOKEN_VALUE@",
    "#{AliceProductionTokenValue}#",
    "__ALICE_PRODUCTION_TOKEN_VALUE__",
    "ALICE_PRODUCTION_TOKEN_VALUE",
    '"${ALICE_PRODUCTION_TOKEN_VALUE}"',
    "$[aliceProductionTokenValue9]",
    "<%= ENV['ALICE_PRODUCTION_TOKEN'] %>",
    "prefix-$(cat /tokens/alice-9)",
    "!Ref AliceProductionTokenValue",
    "the-secret-of-the-billing-service-2026",
    "AliceProductionTokenValueOfTheGateway",
    "TODO-put-the-real-key-here-before-golive",
    "vault_production_alice_token_value",
]
REFERENCES = [
    "awssm://production/alice-token",
    "gcp-sm://project/alice-token/1",
    "azurekv://vault/alice-token-99",
    "doppler://project/prd/ALICE_TOKEN",
    "ref+awssecrets://production/alice",
    "Anything9://production/alice-token",
    "env:ALICE_PRODUCTION_TOKEN",
    "ENV:alice.production.token.9",
    "env.ALICE_PRODUCTION_TOKEN",
    "$env:ALICE_PRODUCTION_TOKEN",
    "keyring:production/alice-token",
    "secretsmanager:production/alice",
    "process.env.ALICE_PRODUCTION_TOKEN",
    "os.environ['ALICE_PRODUCTION_TOKEN']",
    "secrets.ALICE_PRODUCTION_TOKEN",
    "getenv('ALICE_PRODUCTION_TOKEN')",
    "@Microsoft.KeyVault(SecretUri=alice)",
    "ENC[AES256_GCM.data:Tr7oQ2m9Zx]",
    "projects/123/secrets/alice/versions/1",
    "C:\\secrets\\alice-production-token",
    "\\\\server\\secrets\\alice-token-99",
    "certificate-of-alice-production.pem",
    "vault.acme-corp.com:8200/v1/kv/alice",
    "alice.production@accounts.acme-gateway.com",
    "secret/data/alice/production/current",
    "alice.production.value.of.mlguard",
    "2027-01-31T00:00:00+00:00",
    "FileNotFoundError: alice-production",
]
HASHES = [
    "pbkdf2_sha256$600000$c29tZXNhbHQ$Vq3tYxw0ZkLr8HcNfUe5Rj",
    "pbkdf2:sha256:600000$c29tZXNhbHQ$5e884898da280471",
    "scrypt:32768:8:1$c29tZXNhbHQ$5e884898da280471",
    "bcrypt_sha256$$2b$12$EixZaYVK1fsbw1ZfbX3OXe",
    "argon2$argon2id$v=19$m=102400$c29tZXNhbHQ",
    "md5$c29tZXNhbHQ$5e884898da28047151d0e56f",
    "unsalted_md5$$5e884898da28047151d0e56f8dc62927",
    "crypt$$ab1Zx9Qw3rTy7uIo5pAs",
    "$pbkdf2-sha256$29000$c29tZXNhbHQ$Vq3tYxw0ZkLr8HcN",
    "$bcrypt-sha256$v=2.t=2b.r=12$EixZaYVK1fsbw1ZfbX3OXe",
    "$scrypt$ln=16.r=8.p=1$c29tZXNhbHQ$Vq3tYxw0ZkLr8HcN",
    "$argon2d$v=19$m=65536$c29tZXNhbHQ$RdescudvJCsgt3ub",
    "$6$c29tZXNhbHQ$Vq3tYxw0ZkLr8HcNfUe5RjbPa2GsT7dMi",
    "$y$j9T$c29tZXNhbHQ$Vq3tYxw0ZkLr8HcNfUe5RjbPa2GsT7",
    "$apr1$c29tZXNh$Vq3tYxw0ZkLr8HcNfUe5R.",
    "$P$Bc29tZXNhVq3tYxw0ZkLr8HcNfUe5R.",
    "{SSHA}Vq3tYxw0ZkLr8HcNfUe5RjbPa2GsT7dMi",
    "{SSHA512}Vq3tYxw0ZkLr8HcNfUe5RjbPa2GsT7dMi",
    "{SHA256-CRYPT}$5$c29tZXNhbHQ$Vq3tYxw0ZkLr8HcN",
    "{x-issha}Vq3tYxw0ZkLr8HcNfUe5RjbPa2GsT7dMi",
    "{bcrypt}$2b$12$EixZaYVK1fsbw1ZfbX3OXe",
    "{noop}Vq3tYxw0ZkLr8HcNfUe5RjbPa2GsT7dMi",
    "SCRAM-SHA-256$4096:c29tZXNhbHQ$Vq3tYxw0ZkLr8HcN",
    "alice:$2y$10$EixZaYVK1fsbw1ZfbX3OXePaWxn96p",
    "md55e884898da28047151d0e56f8dc62927",
    "*94BDCEBE19083CE2A1F959FD02F964C7AF4CFC29",
    "grub.pbkdf2.sha512.10000.5E884898DA280471.51D0E56F",
    "sha512-256:5e884898da28047151d0e56f8dc62927",
    "hmac-sha256:5e884898da28047151d0e56f8dc62927",
    "ripemd160:5e884898da28047151d0e56f8dc62927",
]


@pytest.mark.parametrize(
    "secret",
    [
        "${ALICE_PRODUCTION_TOKEN_VALUE}",
        "$ALICE_PRODUCTION_TOKEN_VALUE_9",
        "prefix-${ALICE_PRODUCTION_TOKEN}",
        "{{.Values.mlguard.aliceToken9}}x",
        "<paste-the-token-of-alice-here>",
        "op://vault/alice/production-token",
        "arn:aws:secretsmanager:eu:1:alice9",
        "vault:secret/data/alice#token-9x",
        "/run/secrets/alice-production-token",
        "sha-256:" + "5e884898da28047151d0e56f8dc62927" * 2,
        "sha512:" + "5e884898da28047151d0e56f8dc62927" * 4,
        "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW",
        "$argon2id$v=19$m=65536$c29tZXNhbHQ$RdescudvJCsgt3ub",
        *PLACEHOLDERS,
        *REFERENCES,
        *HASHES,
    ],
)
def test_what_stands_for_a_secret_is_none(secret: str) -> None:
    """Templates that nobody filled in, references that nobody read, and hashes."""
    with pytest.raises(ConfigurationError):
        APIKeys([f"alice={secret}"])
    with pytest.raises(ConfigurationError, match=r"^SignatureAuth, key 1: ") as refused:
        SignatureAuth({"alice": secret})
    assert secret not in told(refused.value)
    assert ": pass " in str(refused.value)


@pytest.mark.parametrize(
    "entry",
    [
        "AcmeProductionGatewayEU=",
        "recommendation-service-production==",
        "sha256=7b1e94c2d8f03a5f61e07c2b9a4d385e",
        "MD5=7b1e94c2d8f03a5f61e07c2b9a4d385e",
        "sha-512=7b1e94c2d8f03a5f61e07c2b9a4d385e",
    ],
)
def test_name_of_a_key_does_not_become_the_key(entry: str) -> None:
    """``id=$SECRET`` with an unset variable, and a digest written with the wrong sign."""
    with pytest.raises(ConfigurationError):
        APIKeys([entry])


@pytest.mark.parametrize("secret", [SECRET + "\n", " " + SECRET, SECRET[:9] + "\x00" + SECRET[9:]])
def test_white_space_around_a_secret_is_refused(secret: str) -> None:
    """The line feed at the end of a secret file would make every honest call fail."""
    for build in (
        lambda: JWTAuth(secret, algorithms=["HS256"]),
        lambda: SignatureAuth({"alice": secret}),
        lambda: HTTPSignature("alice", secret),
    ):
        with pytest.raises(ConfigurationError, match="white space"):
            build()


def test_secrets_of_the_usual_makers_are_accepted() -> None:
    """What ``secrets``, uuid4 and openssl make is never taken for weak, patterned or a placeholder."""
    # Seeded, because one in 150 000 secrets of token_urlsafe(16) has a single case, and then under 128 bits.
    make = random.Random("mlguard").randbytes
    for _ in range(500):
        for secret in (
            *(base64.urlsafe_b64encode(make(size)).rstrip(b"=") for size in (16, 20, 24, 28, 32)),
            *(make(size).hex().encode() for size in (16, 32)),
            str(uuid.UUID(bytes=make(16), version=4)).encode(),
            *(base64.b64encode(make(size)) for size in (16, 24, 32)),
        ):
            check_strength(secret, where="here")


def test_simple_signature_takes_what_asgi_has() -> None:
    """``scope["raw_path"]`` and header values are bytes."""
    header = sign_request(SECRET, method="POST", target="/predict?x=1", body=b"{}")
    verify_signature(SECRET, header.encode(), method="POST", target=b"/predict?x=1", body=b"{}")


def test_default_port_of_a_configured_authority_is_left_out() -> None:
    """Callers leave it out, and a service behind a proxy cannot know which one it is."""
    for authority in ("api.test", "api.test:443", "api.test:80"):
        assert SignatureAuth({"alice": SECRET}, authority=authority)._authority == "api.test"


@pytest.mark.parametrize("form", [PEM, PEM.replace(b"\n", b"\\n"), base64.b64encode(DER), DER.hex().encode(), JWK])
def test_public_key_signs_no_request(form: bytes) -> None:
    """Whoever knows the public key could sign with it, were it taken for the secret that a caller shares."""
    for build in (
        lambda: SignatureAuth({"alice": form}),
        lambda: HTTPSignature("alice", form),
        lambda: sign_request(form, method="GET", target="/"),
    ):
        with pytest.raises(ConfigurationError, match="public"):
            build()


def test_digest_of_a_common_word_is_no_key() -> None:
    """An entry that holds the digest of ``password`` would let in everybody who sends ``password``."""
    with pytest.raises(ConfigurationError, match="common word"):
        APIKeys(["alice=sha256:" + hashlib.sha256(b"password").hexdigest()])
    with pytest.raises(ConfigurationError, match="common word"):
        APIKey("alice", hashlib.sha256(b"").digest())
