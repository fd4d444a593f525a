"""Bearer tokens: JSON Web Tokens whose form, signature and claims all hold (RFC 7519, with the advice of RFC 8725).

The form is judged first, because it costs nothing; then the signature, by joserfc, with a key and an algorithm that
were bound to each other when the guard was built; the claims only after that.
"""

import base64
import json
import math
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from joserfc.jwk import Key
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal
from mlguard._order import once
from mlguard.auth._failures import checked_failures, with_failures
from mlguard.auth._jwt_keys import Engine, Keys
from mlguard.errors import ConfigurationError, NotAuthenticatedError
from mlguard.traffic.rate import RateLimit

_MAX_LEEWAY = 300.0  # "no more than a few minutes", RFC 7519, section 4.1.4
_MAX_TOKEN_SIZE = 65_536  # what servers accept of all headers together
_LAST_DATE = 253_402_300_799  # 9999-12-31T23:59:59Z; also refuses dates in milliseconds, which would never expire
_MAX_DEPTH = 32


class _RefusedError(Exception):
    """Why a token does not hold, in words of ours only: nothing of the token is in it."""


class JWTAuth(SecurityBase, Guard):
    """Lets in who carries a valid JSON Web Token: ``Authorization: Bearer …`` (RFC 6750).

    It guards against forged, altered, expired and foreign tokens, and against those that parsers read in two ways. A
    token must have the three parts of a signed JWT in canonical base64url, an ``alg`` that its key is pinned to, a
    ``typ`` of ``JWT``, ``at+jwt`` or none, unique members, no header that changes how it is read or where its key is
    (``crit``, ``b64``, ``zip``, ``jwk``, ``jku``, ``x5u``, ``x5c``), an ``exp`` in the future, and a ``sub``. It does
    not see that a token was stolen or revoked: keep ``exp`` short.

    Scopes are read from ``scope`` (a string separated by spaces, RFC 8693) or from ``scp`` or ``scopes`` (such a
    string, or a list). Where several of them are present, they must agree.

    Args:
        key: What signatures are checked with: a secret (``str`` or ``bytes``) for HS256/384/512, as long as the hash at
            least; a public key in PEM for the others; a JWK as a ``dict``; a joserfc ``Key``; or, to rotate keys,
            ``{kid: any of these}``. Of a private key only the public part is kept. The bare bytes of a public key
            cannot be told from a secret: never pass them. Two guards with different keys whose tokens have no ``iss``
            share their identities: the same ``sub`` is the same principal to rate limits.
        algorithms: Which of HS256, HS384, HS512, RS256, RS384, RS512, PS256, ES256, ES384, EdDSA and Ed25519 are used.
            Each key is pinned to those that fit it, so a public key can never serve as a secret.
        issuer: What ``iss`` must be, exactly. Default: not checked.
        audience: What ``aud`` must name: one name, or several of which one suffices. Default: a token with an ``aud``
            is refused, because it is meant for somebody else (RFC 7519, section 4.1.3).
        leeway: Seconds by which the clocks of issuer and service may differ, at most 300. Default 0.
        max_token_size: Bytes of the longest token that is looked at. Default 8192.
        failures: A limit on failed credentials, such as ``RateLimit("10/minute", name="failures")``, by address or by a
            plain function of the connection. Judged before anything else. Only failures count, and a success erases
            none. Several guards may share one. Default: none.
        engine: What checks signatures in the place of joserfc, such as ``mlguard.compat.jose.jose_engine``: given an
            algorithm and a key (the bytes of a secret, or a public key in PEM), it returns a function that takes the
            signing input and the signature, and returns True if it holds. All other checks stay as they are.
        scheme_name: The name of the security scheme in OpenAPI. Default: the name of the class.
        description: Its description in OpenAPI.
        clock: Returns the time in seconds since 1970.

    Returns:
        When called, a :class:`~mlguard.Principal` with the token's ``sub`` as ``id``, ``iss`` as ``issuer``, its scopes
        and its claims (read-only).

    Raises:
        ConfigurationError: At construction: a key that fits none of the algorithms or is too weak, an algorithm that no
            key can use or that is not allowed (such as ``none``) or that the engine cannot check, or a setting out of
            its range.
        NotAuthenticatedError: When called: no token, or one that does not hold. All look the same (401).
        InsufficientScopeError: When called: the token lacks a scope that the route demands (403).
        RateLimitedError: When called: too many failures (429).
    """

    control = Control.AUTHENTICATION
    statuses = (401, 403)

    def __init__(
        self,
        key: str | bytes | Key | Mapping[str, Any],
        *,
        algorithms: Collection[str],
        issuer: str | None = None,
        audience: str | Collection[str] | None = None,
        leeway: float = 0,
        max_token_size: int = 8192,
        failures: RateLimit | None = None,
        engine: Engine | None = None,
        scheme_name: str | None = None,
        description: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = Keys(key, algorithms, engine)
        self._issuer = None if issuer is None else _checked_name("issuer", issuer)
        self._audience = None if audience is None else _checked_audience(audience)
        if not _is_number(leeway) or not 0 <= leeway <= _MAX_LEEWAY:
            raise ConfigurationError(f"leeway must be a number of seconds between 0 and {_MAX_LEEWAY:.0f}")
        if type(max_token_size) is not int or not 1 <= max_token_size <= _MAX_TOKEN_SIZE:
            raise ConfigurationError(f"max_token_size must be a number of bytes between 1 and {_MAX_TOKEN_SIZE}")
        self._leeway = leeway
        self._max_token_size = max_token_size
        self._failures = checked_failures(failures, where="JWTAuth")
        self._clock = clock
        self.suspends = failures is not None and failures.suspends
        self.model = HTTPBearer(bearerFormat="JWT", description=description)
        self.scheme_name = scheme_name or type(self).__name__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._keys}, issuer={self._issuer!r})"

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        """Say who carries the token, or refuse (401, 403)."""
        principal = await once(
            conn, self, partial(with_failures, conn, self._failures, partial(self._authenticate, conn))
        )
        principal.require(security_scopes, challenge="Bearer")
        return principal

    async def _authenticate(self, conn: HTTPConnection) -> Principal:
        try:
            return self._principal(_verified_payload(self._token(conn), self._keys))
        except _RefusedError as refusal:
            reason = str(refusal)
        # Raised out here, so that no context of the exception keeps the token.
        raise NotAuthenticatedError(f"bearer token: {reason}", challenge="Bearer")

    def _token(self, conn: HTTPConnection) -> bytes:
        values = [value for name, value in conn.scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            _refuse("several Authorization headers" if values else "no Authorization header")
        scheme, _, token = values[0].partition(b" ")
        if scheme.lower() != b"bearer":
            _refuse("another scheme than Bearer")
        if len(token) > self._max_token_size:
            _refuse("longer than max_token_size")
        return bytes(token.lstrip(b" "))

    def _principal(self, claims: dict[str, Any]) -> Principal:
        """Judge the claims of a token whose signature holds."""
        now = self._clock()
        if "exp" not in claims or not now < _date(claims, "exp") + self._leeway:
            _refuse("no exp, or expired")
        for name in ("iat", "nbf"):
            if name in claims and not _date(claims, name) <= now + self._leeway:
                _refuse(f"{name} is in the future")
        subject = _name(claims, "sub")
        issuer = _name(claims, "iss") if "iss" in claims else None
        if self._issuer is not None and issuer != self._issuer:
            _refuse("another issuer, or none")
        self._check_audience(claims)
        return Principal(subject, _scopes(claims), "jwt", issuer, MappingProxyType(claims))

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        if self._audience is None:
            if "aud" in claims:
                _refuse("meant for an audience, and none is configured")
            return
        audience = claims.get("aud")
        named = [audience] if isinstance(audience, str) else audience
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            _refuse("aud is missing or malformed")
        if self._audience.isdisjoint(named):
            _refuse("meant for another audience")


# The token, before and at its signature -------------------------------------------------------------------------------

_SEGMENTS = re.compile(rb"([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)")
#: Headers that would change how the token is read, or say where its key is.
_REFUSED_HEADERS = frozenset({"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"})
_TYPES = frozenset({"jwt", "at+jwt"})


def _refuse(reason: str) -> NoReturn:
    raise _RefusedError(reason)


def _verified_payload(token: bytes, keys: Keys) -> dict[str, Any]:
    """The claims of a token whose form and signature hold."""
    segments = _SEGMENTS.fullmatch(token)
    if segments is None:
        _refuse("not three segments of base64url")
    header = _json_object(_decoded(segments[1]), "header")
    if not _REFUSED_HEADERS.isdisjoint(header):
        _refuse("the header has a member that is not accepted")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        _refuse("another typ than JWT or at+jwt")
    verifiers = keys.find(header)
    if verifiers is None:
        _refuse("no key for its kid")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in verifiers:
        _refuse("another alg than its key is bound to")
    model, key = verifiers[algorithm]
    # The signature alone is left to joserfc: were it given the token, it would parse the header a second time, in its
    # own way, which costs five times as much.
    if not model.verify(token[: segments.end(2)], _decoded(segments[3]), key):
        _refuse("the signature does not hold")
    return _json_object(_decoded(segments[2]), "payload")


def _decoded(segment: bytes) -> bytes:
    """Decode base64url in its one canonical spelling: no padding, and no bits left over (RFC 4648, section 3.5)."""
    data = b"" if len(segment) % 4 == 1 else base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment:
        _refuse("base64url that is not canonical")
    return data


# Strict JSON ----------------------------------------------------------------------------------------------------------

#: A string, to its end or to the end of the text.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse an object in UTF-8 that can be read in one way only (RFC 8259; RFC 8725, section 2.4)."""
    value = None
    with suppress(ValueError):
        if not _too_deep(data):
            value = _STRICT_JSON.decode(data.decode())
    if not isinstance(value, dict):
        _refuse(f"the {what} is not a strict JSON object")
    return value


def _too_deep(data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= _MAX_DEPTH:  # no deeper than it has brackets: nearly every token
        return False
    brackets = _STRING.sub(b"", data).translate(_TO_SQUARE, _NO_BRACKETS)
    for _ in range(_MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # takes away the innermost level
    return bool(brackets)


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError
    return value


# "NaN" and the infinities are handed to parse_constant by name, so that _finite refuses them too.
_STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique_members, parse_float=_finite, parse_constant=_finite)


# Claims ---------------------------------------------------------------------------------------------------------------

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # scope-token, RFC 6749, section 3.3


def _is_number(value: object) -> bool:
    return type(value) in {int, float}  # True is an int, and no number


def _date(claims: Mapping[str, Any], name: str) -> float:
    value: Any = claims[name]
    if not _is_number(value) or not 0 <= value <= _LAST_DATE:
        _refuse(f"{name} is not a date")
    return value  # type: ignore[no-any-return]  # an int or a float


def _name(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value or _SURROGATE.search(value):
        _refuse(f"{name} is not a name")
    return value


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    found = {_scope_names(name, claims[name]) for name in ("scope", "scp", "scopes") if name in claims}
    if len(found) > 1:
        _refuse("the scope claims disagree")
    return found.pop() if found else frozenset()


def _scope_names(name: str, value: object) -> frozenset[str]:
    if isinstance(value, str):
        value = value.split(" ") if value else []
    elif name == "scope":
        value = None  # RFC 8693, section 4.2: a string
    if not isinstance(value, list) or not all(isinstance(one, str) and _SCOPE.fullmatch(one) for one in value):
        _refuse(f"{name} is malformed")
    return frozenset(value)


# Settings and keys ----------------------------------------------------------------------------------------------------


def _checked_name(setting: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{setting} must be a string that is not empty; leave it out not to check it")
    return value


def _checked_audience(audience: str | Collection[str]) -> frozenset[str]:
    names = [audience] if isinstance(audience, str) else audience
    if not isinstance(names, Collection) or not names:
        raise ConfigurationError('audience must be a name or a list of names, such as audience="https://api.example"')
    return frozenset(_checked_name("audience", name) for name in names)
