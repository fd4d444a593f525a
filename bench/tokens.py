"""What a token costs, beside joserfc alone and, once it is remembered, beside a dependency that does nothing.

The guard is called as FastAPI calls it, on a request of its own each time. Of joserfc it is the same work: decode, and
validate the claims that the guard demands.
"""

import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import Key, OctKey, RSAKey

from bench.asking import Nothing, ask, fastest
from bench.report import Extra, Line, Table
from bench.timing import Call, take_turns
from mlguard import JWTAuth, MemoryStore, Revocations

_ISSUER = "https://login.example"
_AUDIENCE = "https://api.example"


class _RemoteStore(MemoryStore):
    """Stands for a store outside the process, whose answers are believed for a moment."""

    suspends = True


async def measure(*, short: bool) -> Table:
    """RS256 and HS256, first and remembered."""
    rsa_key = RSAKey.import_key(rsa.generate_private_key(65537, 2048))
    oct_key = OctKey.generate_key(256)
    lines = []
    for algorithm, key in (("RS256", rsa_key), ("HS256", oct_key)):
        lines.append(await _first(algorithm, key, short=short))
        lines.append(await _remembered(algorithm, key, short=short))
    return Table("A token, in process", lines, ["bare: of the first verification, joserfc alone."])


async def _first(algorithm: str, key: Key, *, short: bool) -> Line:
    token = _token(algorithm, key)
    guard = JWTAuth(_verifying(key), algorithms=[algorithm], issuer=_ISSUER, audience=_AUDIENCE, remember=0)
    registry = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": _ISSUER},
        aud={"essential": True, "value": _AUDIENCE},
        exp={"essential": True},
        sub={"essential": True},
    )
    alone = key if isinstance(key, OctKey) else RSAKey.import_key(_verifying(key))

    async def joserfc() -> None:
        registry.validate(jwt.decode(token, alone, algorithms=[algorithm]).claims)

    calls: dict[str, Call] = {"bare": joserfc, "guarded": ask(guard, authorization=f"Bearer {token}")}
    return Line(f"{algorithm}, first", await _time(calls, short=short), 1.3)


async def _remembered(algorithm: str, key: Key, *, short: bool) -> Line:
    token = _token(algorithm, key)
    guard = JWTAuth(
        _verifying(key),
        algorithms=[algorithm],
        issuer=_ISSUER,
        audience=_AUDIENCE,
        revocations=Revocations(store=_RemoteStore()),
    )

    bearer = f"Bearer {token}"
    calls = {"bare": ask(Nothing(), authorization=bearer), "guarded": ask(guard, authorization=bearer)}
    return Extra(f"{algorithm}, remembered", await fastest(calls, 2 if short else 1_000), 4e-6)


async def _time(calls: dict[str, Call], *, short: bool) -> Any:
    for call in calls.values():
        await call()  # raises unless the token is accepted
    return await take_turns(calls, rounds=2 if short else 31, calls=1 if short else 300)


def _token(algorithm: str, key: Key) -> str:
    now = int(time.time())
    claims = {
        "iss": _ISSUER,
        "aud": _AUDIENCE,
        "sub": "bench",
        "jti": "0b8f8c52-5d0e-4a8e-8a53-5b8f5a1d2c77",
        "iat": now,
        "exp": now + 3_600,
        "scope": "predict explain",
    }
    return jwt.encode({"alg": algorithm, "typ": "JWT", "kid": "2026-07"}, claims, key)


def _verifying(key: Key) -> Any:
    if isinstance(key, OctKey):
        return key.raw_value
    return key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
