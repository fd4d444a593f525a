"""How long a malformed credential is looked at: the worst of many tokens and keys that somebody made up."""

import base64
import json
import secrets
import time
from statistics import median

from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from bench.report import Grid, spell_seconds
from mlguard import APIKey, APIKeyAuth, APIKeys, JWTAuth, NotAuthenticatedError

_SECRET = secrets.token_bytes(32)
_MOST = 0.001  # seconds


def _part(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _token(header: str, claims: str, signature: str = "A" * 43) -> str:
    return f"{_part(header)}.{_part(claims)}.{signature}"


_HEADER, _CLAIMS = '{"alg":"HS256"}', '{"sub":"a","exp":9999999999}'
_TOKENS = {
    "10 MB": "A" * 10_000_000,
    "8 KB of base64url": f"{_part(_HEADER)}.{'A' * 8_000}.{'A' * 43}",
    "8 000 dots": "." * 8_000,
    "a header of depth 4 000": _token("[" * 4_000, _CLAIMS),
    "claims of depth 1 500": _token(_HEADER, '{"a":' * 1_000),
    "800 equal claims": _token(_HEADER, "{" + ",".join(['"a":1'] * 800) + "}"),
    "a date of 4 000 digits": _token(_HEADER, '{"sub":"a","exp":' + "9" * 4_000 + "}"),
    "a long key id": _token(json.dumps({"alg": "HS256", "kid": "../" * 1_500}), _CLAIMS),
    "alg none": _token('{"alg":"none"}', _CLAIMS, ""),
    "a signature of zeros": _token(_HEADER, _CLAIMS),
}
_KEYS = {"10 MB": "x" * 10_000_000, "our prefix, 8 KB": "mlg_live_" + "A" * 8_000, "a stranger's": "x" * 43}


async def measure(*, short: bool) -> Grid:
    """Each of them; the median of its turns."""
    turns = 3 if short else 200
    token = JWTAuth(_SECRET, algorithms=["HS256"])
    key = APIKeyAuth(APIKeys([APIKey.generate("alice")[0]]))
    rows = []
    for name, text in _TOKENS.items():
        rows.append([f"token: {name}", *await _timed(token, "authorization", f"Bearer {text}", turns)])
    for name, text in _KEYS.items():
        rows.append([f"key: {name}", *await _timed(key, "x-api-key", text, turns)])
    return Grid("Malformed credentials, the median of each", ["credential", "time", "target", "met"], rows)


async def _timed(guard: JWTAuth | APIKeyAuth, header: str, value: str, turns: int) -> list[str]:
    raw = value.encode()
    times = []
    for _ in range(turns):
        conn = HTTPConnection({"type": "http", "headers": [(header.encode(), raw)], "client": ("192.0.2.1", 1)})
        began = time.perf_counter()
        try:
            await guard(conn, SecurityScopes())
        except NotAuthenticatedError:
            times.append(time.perf_counter() - began)
    assert len(times) == turns, "it was let in"
    slow = median(times)
    return [spell_seconds(slow), "<= 1 ms", "yes" if slow <= _MOST else "NO"]
