"""The keys and settings of JWTAuth: what cannot work is refused when the guard is built."""

import base64
import datetime
import gzip
import json
import zlib
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from mlguard.auth.jwt import JWTAuth
from mlguard.errors import ConfigurationError

SECRET = bytes.fromhex("8f1d6a0b7c93e5421f60ad47b8ce3950d27764ab91f3c80e5d16e2a97f4b3c08")
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate().public_key()
P256 = ec.generate_private_key(ec.SECP256R1())
SPKI = PublicFormat.SubjectPublicKeyInfo
PEM = RSA.public_key().public_bytes(Encoding.PEM, SPKI)
DER = RSA.public_key().public_bytes(Encoding.DER, SPKI)
PRIVATE_PEM = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
JWK = RSAKey.import_key(PEM).as_dict()


def certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, RSA.public_key(), 1, start, start + datetime.timedelta(days=1))
    return builder.sign(RSA, hashes.SHA256())


def shown(error: BaseException | None) -> str:
    """The error and all that a traceback would print under it."""
    return "" if error is None else f"{error!r} {shown(error.__cause__)} {shown(error.__context__)}"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (SECRET, "HS256"),
        (SECRET.hex(), "HS256"),
        (OctKey.import_key(SECRET), "HS256"),
        ({"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode()}, "HS256"),
        (PEM, "RS256"),
        (PEM.decode(), "PS256"),
        (PRIVATE_PEM, "RS256"),
        (RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()), "RS256"),
        (dict(JWK), "RS256"),
        ({**JWK, "use": "sig", "alg": "RS256", "key_ops": ["verify"]}, "RS256"),
        (RSAKey.import_key(PRIVATE_PEM), "RS256"),
        (ECKey.generate_key("P-256"), "ES256"),
        (OKPKey.generate_key("Ed25519").as_dict(private=True), "EdDSA"),
        ({"a": PEM, "b": SECRET, "c": dict(JWK)}, "RS256"),
    ],
)
def test_keys_are_taken_in_every_usual_form(key: Any, algorithm: str) -> None:
    """Secrets, PEM, JWK and joserfc keys all work, and the guard's repr shows none of them."""
    algorithms = [algorithm, "HS256"] if isinstance(key, dict) and "a" in key else [algorithm]
    auth = JWTAuth(key, algorithms=algorithms)
    assert repr(auth) == f"JWTAuth({3 if len(algorithms) == 2 else 1} keys for {', '.join(algorithms)}, issuer=None)"


@pytest.mark.parametrize(
    "key", [PRIVATE_PEM, RSAKey.import_key(PRIVATE_PEM), RSAKey.import_key(PRIVATE_PEM).as_dict(True)]
)
def test_of_a_private_key_only_the_public_part_is_kept(key: Any) -> None:
    """A service that only verifies holds nothing that could sign."""
    keys = JWTAuth(key, algorithms=["RS256"])._keys.fresh()
    assert keys is not None
    found = keys.find({})
    assert found is not None
    assert not found["RS256"][1].is_private


LOOKALIKES = {
    "PEM": PEM,
    "PEM text": PEM.decode(),
    "PEM without line breaks": PEM.replace(b"\n", b"\\n"),
    "private PEM": PRIVATE_PEM,
    "encrypted PEM": RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")),
    "certificate": certificate().public_bytes(Encoding.PEM),
    "DER": DER,
    "private DER": RSA.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    "DER certificate": certificate().public_bytes(Encoding.DER),
    "DER in base64": base64.b64encode(DER),
    "DER in base64, in lines": base64.encodebytes(DER).decode(),
    "JWK text": json.dumps(JWK),
    "JWK bytes": json.dumps(JWK).encode(),
    "JWK": dict(JWK),
    "OpenSSH": RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    "OpenSSH EC": P256.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
    "OpenSSH private": RSA.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
    "PEM in UTF-16": PEM.decode().encode("utf-16"),
    "DER in quotes": f'"{base64.b64encode(DER).decode()}"',
    "certificate in base64": base64.b64encode(certificate().public_bytes(Encoding.DER)),
    "JWKS text": json.dumps({"keys": [JWK]}),
    "OpenSSH without its name": RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1],
    "SSH2": b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAAB3NzaC1yc2EAAAADAQABAAABAQ\n---- END SSH2 PUBLIC KEY ----",
    "public key in an oct JWK": {"kty": "oct", "k": base64.urlsafe_b64encode(DER).rstrip(b"=").decode()},
    "PEM in an OctKey": OctKey(PEM, PEM),
    "URL-encoded PEM": quote(PEM),
    "URL-encoded PEM, lower case": quote(PEM).replace("%2B", "%2b").replace("%0A", "%0a"),
    "URL-encoded form": quote_plus(PEM),
    "URL-encoded twice": quote(quote(PEM)).replace("-", "%2D"),
    "JSON string": json.dumps(PEM.decode()),
    "JSON-escaped dashes": PEM.decode().replace("-", "\\u002d").replace("\n", "\\n"),
    "JSON-escaped twice": json.dumps(json.dumps(PEM.decode())),
    "JWK in a JSON string": json.dumps(json.dumps(JWK)),
    "JWK in single quotes": str(dict(JWK)),
    "JWK in YAML": "".join(f"{name}: {value}\n" for name, value in JWK.items()).encode(),
    "XML": b"<RSAKeyValue>\n<Modulus>%s</Modulus>\n</RSAKeyValue>" % base64.b64encode(DER[30:280]),
    "PEM without white space": PEM.decode().replace(" ", "").replace("\n", ""),
    "PEM without dashes": PEM.decode().replace("-", ""),
    "PEM in gzip": gzip.compress(PEM),
    "DER in zlib": zlib.compress(DER),
    "PEM in gzip in base64": base64.b64encode(gzip.compress(PEM)),
    "DER in gzip in hex": gzip.compress(DER).hex(),
    "PEM in base64": base64.b64encode(PEM),
    "PEM in base64 in base64": base64.b64encode(base64.b64encode(PEM)),
    "DER in base64 in base64": base64.b64encode(base64.b64encode(DER)).decode().rstrip("="),
    "DER in base64 in hex": base64.b64encode(DER).hex(),
    "DER in base64, URL-encoded": quote(base64.b64encode(DER), safe=""),
    "DER in base64, with escaped line breaks": base64.encodebytes(DER).decode().replace("\n", "\\n"),
    "DER in base64, in JSON escapes": base64.b64encode(DER).decode().replace("M", "\\u004d"),
    "JSON of a service account": json.dumps({"type": "service_account", "project_id": "acme-production-4711"}),
    "DER in base64, named": f"PUBLIC_KEY={base64.b64encode(DER).decode()}",
    "DER in base64, cut short": base64.b64encode(DER)[:64],
    "DER in hex with colons": DER.hex(":"),
    "JWK in gzip in base64 in base64": base64.b64encode(base64.b64encode(gzip.compress(json.dumps(JWK).encode()))),
    "Ed25519 in base64": base64.b64encode(ED25519.public_bytes(Encoding.DER, SPKI)),
    "PKCS #1": base64.b64encode(RSA.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)),
    "OpenSSH with an option": b"restrict " + ED25519.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
}


@pytest.mark.parametrize("key", LOOKALIKES.values(), ids=LOOKALIKES.keys())
def test_a_public_key_never_becomes_a_secret(key: Any) -> None:
    """A key in any form is refused as an HMAC secret, in words that do not quote it."""
    with pytest.raises(ConfigurationError, match=r"^key ") as refused:
        JWTAuth(key, algorithms=["HS256"])
    assert str(JWK["n"])[:20] not in shown(refused.value)
    assert PEM.decode().splitlines()[2] not in shown(refused.value)


@pytest.mark.parametrize(
    ("key", "algorithms", "text"),
    [
        (SECRET[:31], ["HS256"], "secret of 31 bytes"),
        (SECRET, ["HS384"], "HS384 .a secret of at least 48 bytes"),
        (SECRET, ["HS256", "HS512"], "HS512 .a secret of at least 64 bytes"),
        (b"", ["HS256"], "shorter"),
        ("hunter2", ["HS256"], "shorter"),
        ("09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7", ["HS256"], "documentation"),
        ("a1b2c3d4" * 8, ["HS256"], "pattern"),
        ("\ud800" * 32, ["HS256"], "control characters"),
        (SECRET, ["RS256"], "fits none"),
        (PEM, ["ES256"], "RSA key, which fits none"),
        (PEM, ["RS256", "HS256"], "HS256 .a secret of at least 32 bytes"),
        (P256.public_key().public_bytes(Encoding.PEM, SPKI), ["ES384"], "P-256 key"),
        (ec.generate_private_key(ec.SECP521R1()).public_key().public_bytes(Encoding.PEM, SPKI), ["ES256"], "secp521r1"),
        (x25519.X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, SPKI), ["EdDSA"], "unsupported"),
        (rsa.generate_private_key(65537, 1024).public_key().public_bytes(Encoding.PEM, SPKI), ["RS256"], "1024 bits"),
        ({**JWK, "alg": "RS512"}, ["RS256"], "made for RS512"),
        ({**JWK, "use": "enc"}, ["RS256"], "not for signatures"),
        ({**JWK, "key_ops": ["encrypt"]}, ["RS256"], "not for signatures"),
        ({**JWK, "key_ops": []}, ["RS256"], "not for signatures"),
        ({"kty": "RSA"}, ["RS256"], "valid JWK"),
        ({"kty": "EC", "crv": "P-000", "x": "AA", "y": "AA"}, ["ES256"], "valid JWK"),
        ({"keys": [dict(JWK)]}, ["RS256"], "for a JWK Set pass"),
        ({}, ["RS256"], "no key fits"),
        ({"": SECRET}, ["HS256"], "each kid a string"),
        ({1: SECRET}, ["HS256"], "each kid a string"),
        ({"a": SECRET, "b": SECRET[:31]}, ["HS256"], "entry 2 of the key mapping"),
        (None, ["HS256"], "must be a secret"),
        (P256, ["ES256"], "must be a secret"),
        (ed25519.Ed25519PrivateKey.generate().public_key(), ["EdDSA"], "must be a secret"),
    ],
)
def test_a_key_that_cannot_work_is_refused(key: Any, algorithms: list[str], text: str) -> None:
    """A weak key, or one that no algorithm fits, is a ConfigurationError that says what would."""
    with pytest.raises(ConfigurationError, match=text) as refused:
        JWTAuth(key, algorithms=algorithms)
    assert SECRET.hex()[:16] not in shown(refused.value)
    assert "hunter2" not in shown(refused.value)


def test_a_curve_that_joserfc_does_not_know_is_refused() -> None:
    """A joserfc key on such a curve is a ConfigurationError, not a crash inside joserfc."""
    native = ec.generate_private_key(ec.BrainpoolP256R1())
    with pytest.raises(ConfigurationError, match="joserfc Key"):
        JWTAuth(ECKey(native, native), algorithms=["ES256"])


@pytest.mark.parametrize(
    "algorithms",
    [
        [],
        (),
        "HS256",
        None,
        1,
        ["none"],
        ["None"],
        ["NONE"],
        ["hs256"],
        ["HS256", "none"],
        [""],
        [None],
        [["HS256"]],
        ["RSA1_5"],
    ],
)
def test_algorithms_are_an_allow_list(algorithms: Any) -> None:
    """The name none in any case, unknown names and an empty list are refused."""
    with pytest.raises(ConfigurationError, match=r"^algorithms"):
        JWTAuth(SECRET, algorithms=algorithms)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("leeway", [-1, 301, 1e9, float("nan"), float("inf"), True, "60", None]),
        ("max_token_size", [0, -1, 65_537, 1.5, True, None]),
        ("issuer", ["", 1, ["a"]]),
        ("audience", ["", [], set(), [""], [1], 1]),
    ],
)
def test_a_setting_that_cannot_work_is_refused(name: str, values: list[Any]) -> None:
    """A setting out of its range is a ConfigurationError that names it."""
    for value in values:
        with pytest.raises(ConfigurationError, match=f"^{name} (must be|is a number of seconds from)"):
            JWTAuth(SECRET, algorithms=["HS256"], **{name: value})
