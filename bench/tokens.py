"""What a token costs, beside joserfc alone and, once it is remembered, beside a dependency that does nothing.

The guard is called as FastAPI calls it, on a request of its own each time. Of joserfc it is the same work: decode, and
validate the claims that the guard demands.
"""

import time
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.security import SecurityScopes
from joserfc import jwt
from joserfc.jwk import Key, OctKey, RSAKey
from starlette.requests import HTTPConnection

from bench.report import Line, Table
from bench.timing import Call, Timing, take_turns
from mlguard import JWTAuth, MemoryStore, Principal, Revocations
from mlguard._guard import RequestMemory

_ISSUER = "https://login.example"
_AUDIENCE = "https://api.example"
_CALLS = 200  # of one turn, where microseconds count
_SCOPES = SecurityScopes(["predict"])
_NOBODY = Principal("nobody")


class _RemoteStore(MemoryStore):
    """Stands for a store outside the process, whose answers are believed for a moment."""

    suspends = True


@dataclass(frozen=True, slots=True)
class Extra(Line):
    """A measurement of the fastest turns whose target is a difference, in microseconds."""

    def cells(self) -> list[str]:
        """As texts, in the order of the table's head."""
        bare, guarded = (min(self.timing.seconds[name]) * 1e6 for name in ("bare", "guarded"))
        extra = guarded - bare
        times = [f"{bare:.1f} us", f"{guarded:.1f} us"]
        met = "yes" if extra <= self.target else "NO"
        return [self.work, *times, "", "", f"+{extra:.1f} us", f"<= +{self.target:g} us", met]


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

    calls = {"bare": joserfc, "guarded": _call(guard, token)}
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

    async def nothing(conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:  # noqa: ARG001
        return _NOBODY

    calls = {"bare": _call(nothing, token), "guarded": _call(guard, token)}
    return Extra(f"{algorithm}, remembered", await _fastest(calls, short=short), 4)


async def _fastest(calls: dict[str, Call], *, short: bool) -> Timing:
    """Many short turns, without a pause between calls: the fastest one is what the code costs, without the machine."""
    turns = 2 if short else 1_000
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            start = perf_counter()
            for _ in range(_CALLS):
                await call()
            seconds[name].append((perf_counter() - start) / _CALLS)
    return Timing(seconds)


async def _time(calls: dict[str, Call], *, short: bool) -> Any:
    for call in calls.values():
        await call()  # raises unless the token is accepted
    return await take_turns(calls, rounds=2 if short else 31, calls=1 if short else 300)


def _call(dependency: Any, token: str) -> Call:
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"connection", b"keep-alive"),
        (b"user-agent", b"python-httpx/0.28.1"),
        (b"content-length", b"60"),
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + token.encode()),
    ]

    async def call() -> None:
        conn = HTTPConnection({"type": "http", "headers": headers})
        RequestMemory.of(conn.scope)  # there already under harden, whatever the guards are
        await dependency(conn, _SCOPES)

    return call


def _token(algorithm: str, key: Key) -> str:
    now = int(time.time())
    claims = {
        "iss": _ISSUER,
        "aud": _AUDIENCE,
        "sub": "8f4f9a6e-3a52-4d5e-9b0c-2f0d5a7b6c11",
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
