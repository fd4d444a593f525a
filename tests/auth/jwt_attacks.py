"""Tokens for the tests of JWTAuth: how to mint any, and the ones that must be refused although they are well signed."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc.jwk import import_key
from joserfc.jws import JWSRegistry

NOW = 1_700_000_000
SECRET = bytes.fromhex("8f1d6a0b7c93e5421f60ad47b8ce3950d27764ab91f3c80e5d16e2a97f4b3c08")
OTHER_SECRET = bytes.fromhex("5a0c9d77e1b84236fd02c6a1837e4fb965d0ab3217c8ee49720bb6d4f1935e8c")
CLAIMS = {"sub": "alice", "exp": NOW + 60}
HEADER = {"alg": "HS256", "typ": "JWT"}

PRIVATE_KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


def private_pem(name: str) -> bytes:
    return PRIVATE_KEYS[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public(name: str, encoding: Encoding = Encoding.PEM) -> bytes:
    return PRIVATE_KEYS[name].public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def as_bytes(part: object) -> bytes:
    return part if isinstance(part, bytes) else json.dumps(part).encode()


def hs256(message: bytes, secret: bytes = SECRET) -> bytes:
    return hmac.digest(secret, message, hashlib.sha256)


def mint(claims: object = CLAIMS, header: object = HEADER, sign: Callable[[bytes], bytes] = hs256) -> bytes:
    """A token with any header and claims, well signed."""
    message = b64(as_bytes(header)) + b"." + b64(as_bytes(claims))
    return message + b"." + b64(sign(message))


def signer(algorithm: str, key: str | None = None) -> Callable[[bytes], bytes]:
    """How an issuer signs with a private key."""
    name = key or {"RS384": "RS256", "RS512": "RS256", "PS256": "RS256", "Ed25519": "EdDSA"}.get(algorithm, algorithm)
    loaded = import_key(private_pem(name), KEY_TYPES[name[:2]])  # type: ignore[call-overload]  # one of its literals
    model = JWSRegistry.algorithms["EdDSA" if algorithm == "Ed25519" else algorithm]
    return lambda message: model.sign(message, loaded)


def resigned(header: object = HEADER, **claims: object) -> bytes:
    return mint({**CLAIMS, **claims}, header)


def raw(claims: str) -> bytes:
    """A well-signed token whose payload is this JSON text."""
    return mint(claims.encode("utf-8", "surrogatepass"))


VALID = mint()
HEAD, BODY, TAIL = VALID.split(b".")
WITH_EXTRA = '{"sub":"a","exp":%d,"x":%s}'

FORM = {
    "empty": b"",
    "one part": HEAD,
    "two parts": HEAD + b"." + BODY,
    "five parts, a JWE": b64(b'{"alg":"dir","enc":"A256GCM"}') + b"..AAAA.AAAA.AAAA",
    "five full parts": b64(b'{"alg":"dir","enc":"A256GCM"}') + b".AAAA.AAAA.AAAA.AAAA",
    "trailing dot": VALID + b".",
    "trailing dots": VALID + b"..",
    "a second token": VALID + b"." + VALID,
    "a key set": json.dumps({"payload": BODY.decode(), "signatures": []}).encode(),
    "leading dot": b"." + VALID,
    "padding": HEAD + b"." + BODY + b"=." + TAIL,
    "padded signature": VALID + b"=",
    "trailing space": VALID + b" ",
    "inner space": HEAD + b" ." + BODY + b"." + TAIL,
    "newline": VALID + b"\n",
    "tab before": b"\t" + VALID,
    "standard base64": HEAD + b"." + BODY + b"." + TAIL[:-1] + b"+",
    "non-canonical bits": VALID[:-1] + (b"9" if TAIL[-1:] == b"8" else bytes([TAIL[-1] + 1])),
    "impossible length": VALID + b"AA",
    "empty signature": HEAD + b"." + BODY + b".",
    "zeros": HEAD + b"." + BODY + b"." + b64(bytes(32)),
    "no bytes but one": HEAD + b"." + BODY + b"." + b64(b"\0"),
    "not ASCII": b"\xe9" + VALID,
    "UTF-8": VALID + "é".encode(),
    "NUL": VALID + b"\0",
    "10 MB": b"A" * 10_000_000,
    "10 MB, three parts": VALID[:-43] + b"A" * 10_000_000,
    "over the cap": mint({**CLAIMS, "pad": "x" * 6200}),
    "detached payload": HEAD + b".." + TAIL,
    "another secret": mint(sign=lambda m: hs256(m, OTHER_SECRET)),
    "another body": HEAD + b"." + b64(as_bytes({**CLAIMS, "sub": "root"})) + b"." + TAIL,
}
HEADERS: dict[str, object] = {
    **{f"alg {alg}": {"alg": alg} for alg in ("none", "None", "NONE", "nOnE", "hs256", "HS512", "RS256", "", "HS256 ")},
    **{f"alg {alg!r}": {"alg": alg} for alg in (None, True, 0, ["HS256"], {"HS256": 1})},
    "no alg": {"typ": "JWT"},
    **{f"typ {typ!r}": {"alg": "HS256", "typ": typ} for typ in ("JWE", "", "dpop+jwt", "JWT ", None, 1, ["JWT"])},
    **{f"kid {kid!r}": {**HEADER, "kid": kid} for kid in (None, 1, True, ["a"], {"a": 1}, 1.5)},
    "x5u and kid": {**HEADER, "kid": "any", "x5u": "file:///etc/passwd"},
    "jwk null": {**HEADER, "jwk": None},
    "crit": {**HEADER, "crit": ["exp"]},
    "crit empty": {**HEADER, "crit": []},
    "crit b64": {**HEADER, "crit": ["b64"], "b64": False},
    "b64 false": {**HEADER, "b64": False},
    "b64 true": {**HEADER, "b64": True},
    "zip": {**HEADER, "zip": "DEF"},
    "enc": {**HEADER, "enc": "A256GCM"},
    "jwk": {**HEADER, "jwk": {"kty": "oct", "k": "AAAA"}},
    "jku": {**HEADER, "jku": "https://evil.example/jwks.json"},
    "x5u": {**HEADER, "x5u": "https://evil.example/cert.pem"},
    "x5c": {**HEADER, "x5c": ["MIIB"]},
    "duplicate alg": b'{"alg":"HS256","alg":"HS256"}',
    "duplicate alg, escaped": b'{"alg":"HS256","\\u0061lg":"none"}',
    "duplicate, nested": b'{"alg":"HS256","x":{"a":1,"a":1}}',
    "BOM": b"\xef\xbb\xbf" + as_bytes(HEADER),
    "UTF-16": json.dumps(HEADER).encode("utf-16"),
    "UTF-16 without BOM": json.dumps(HEADER).encode("utf-16-le"),
    "latin-1": b'{"alg":"HS256","x":"\xe9"}',
    "overlong": b'{"alg":"HS256","x":"\xc0\xaf"}',
    "list": b'["HS256"]',
    "string": b'"HS256"',
    "null": b"null",
    "not JSON": b"{alg: HS256}",
    "trailing text": as_bytes(HEADER) + b"{}",
    "control character": b'{"alg":"HS256","x":"\n"}',
    "NaN": b'{"alg":"HS256","x":NaN}',
    "1e999": b'{"alg":"HS256","x":1e999}',
    "5000 digits": b'{"alg":"HS256","x":' + b"9" * 5000 + b"}",
    "nested": b'{"alg":"HS256","x":' + b"[" * 1500 + b"]" * 1500 + b"}",
    "quotes that never close": b'{"alg":"HS256","x":' + b"[" * 40 + b'"\\"' * 1500,
    "ends in a backslash": b'{"alg":"HS256","x":' + b"[" * 33 + b'"\\',
}
DATES: list[object] = [None, True, False, "1700000060", "NaN", [], {}, -1, -0.5, 10**400, 1e300, (NOW + 60) * 1000]
PAYLOADS = {
    "no exp": mint({"sub": "alice"}),
    "no sub": mint({"exp": NOW + 60}),
    **{f"sub {sub!r}": resigned(sub=sub) for sub in (None, "", 1, True, ["alice"], {"a": 1})},
    "lone surrogate in sub": raw(f'{{"sub":"\\ud800","exp":{NOW + 60}}}'),
    "lone surrogate in bytes": raw(f'{{"sub":"\udc80","exp":{NOW + 60}}}'),
    "lone surrogate in iss": raw(f'{{"sub":"a","exp":{NOW + 60},"iss":"\\udfff"}}'),
    **{f"iss {iss!r}": resigned(iss=iss) for iss in (None, "", 1, ["a"])},
    **{
        f"{name} {index}": resigned(**{name: value})
        for name in ("exp", "iat", "nbf")
        for index, value in enumerate(DATES)
    },
    **{f"exp {text}": raw(f'{{"sub":"a","exp":{text}}}') for text in ("NaN", "Infinity", "-Infinity", "1e999", "01")},
    "expired": resigned(exp=NOW - 1),
    "not yet": resigned(nbf=NOW + 1),
    "from the future": resigned(iat=NOW + 1),
    **{f"aud {aud!r}": resigned(aud=aud) for aud in ("other", ["other"], "", [], None)},
    **{f"scope {scope!r}": resigned(scope=scope) for scope in (None, 1, ["read"], {"read": 1}, "a  b", " a", 'a"b')},
    **{f"scp {scp!r}": resigned(scp=scp) for scp in (None, 1, {"read": 1}, [1], [None], [["read"]], [""], ["a b"])},
    "scopes not ASCII": resigned(scopes=["lé"]),
    "scopes that disagree": resigned(scope="read", scp=["read", "admin"]),
    "duplicate sub": raw(f'{{"sub":"alice","sub":"root","exp":{NOW + 60}}}'),
    "duplicate exp": raw(f'{{"sub":"a","exp":1,"exp":{NOW + 60}}}'),
    "duplicate, nested": raw(f'{{"sub":"a","exp":{NOW + 60},"x":[{{"a":1,"a":2}}]}}'),
    "NaN in another claim": raw(f'{{"sub":"a","exp":{NOW + 60},"x":NaN}}'),
    "1e999 in another claim": raw(f'{{"sub":"a","exp":{NOW + 60},"x":[-1e999]}}'),
    "BOM": mint(b"\xef\xbb\xbf" + as_bytes(CLAIMS)),
    "UTF-16": mint(json.dumps(CLAIMS).encode("utf-16")),
    "UTF-16 without BOM": mint(json.dumps(CLAIMS).encode("utf-16-be")),
    "latin-1": mint(b'{"sub":"\xe9","exp":%d}' % (NOW + 60)),
    "list": mint([CLAIMS]),
    "string": mint(b'"alice"'),
    "empty object": mint({}),
    "nested JWT": mint(mint()),
    "trailing comma": raw(f'{{"sub":"a","exp":{NOW + 60},}}'),
    "33 levels of objects": raw(WITH_EXTRA % (NOW + 60, '{"a":' * 32 + "1" + "}" * 32)),
    "33 levels": raw(WITH_EXTRA % (NOW + 60, "[" * 32 + "]" * 32)),
}
