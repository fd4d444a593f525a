"""The form of a token and its signature: what can be judged without knowing what a claim means.

Strict, because parsers that read one token in two ways are how tokens are forged: one canonical base64url, one reading
of the JSON, and no header that changes how the token is read or says where its key is.
"""

import base64
import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from mlguard.auth._jwt_keys import Verifiers

_MAX_DEPTH = 32
_SEGMENTS = re.compile(rb"([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)")
#: Headers that would change how the token is read, or say where its key is.
_REFUSED_HEADERS = frozenset({"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"})
_TYPES = frozenset({"jwt", "at+jwt"})


class RefusedError(Exception):
    """Why a token does not hold, in words of ours only: nothing of the token is in it."""


def refuse(reason: str) -> NoReturn:
    """Refuse a token.

    Raises:
        RefusedError: Always.
    """
    raise RefusedError(reason)


def bearer_token(headers: Iterable[tuple[bytes, bytes]], max_size: int) -> bytes:
    """The token that a request carries (RFC 6750, section 2.1).

    Args:
        headers: Of the request, as in ASGI.
        max_size: Bytes of the longest token that is looked at.

    Raises:
        RefusedError: It carries none, several, another credential, or one that is too long.
    """
    value: bytes | None = None
    for name, content in headers:
        if name == b"authorization":
            if value is not None:
                refuse("several Authorization headers")
            value = content
    if value is None:
        refuse("no Authorization header")
    if value[:7].lower() != b"bearer ":
        refuse("another scheme than Bearer")
    if len(value) > max_size + 7:
        refuse("longer than max_token_size")
    return value[7:].lstrip(b" ")


class SignedToken(NamedTuple):
    """A token whose form holds, and whose signature was not looked at.

    Attributes:
        header: Its header.
        signed: What is signed: header and payload, as they were sent.
        payload: The payload in base64url.
        signature: The signature in base64url.
    """

    header: dict[str, Any]
    signed: bytes
    payload: bytes
    signature: bytes


def read_token(token: bytes) -> SignedToken:
    """Take a token apart.

    Raises:
        RefusedError: It is not exactly a signed JWT, or its header has what is not accepted.
    """
    segments = _SEGMENTS.fullmatch(token)
    if segments is None:
        refuse("not three segments of base64url")
    header = json_object(_decoded(segments[1]), "header")
    if not _REFUSED_HEADERS.isdisjoint(header):
        refuse("the header has a member that is not accepted")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        refuse("another typ than JWT or at+jwt")
    if not isinstance(header.get("alg"), str):
        refuse("no alg")
    return SignedToken(header, token[: segments.end(2)], segments[2], segments[3])


def verified_claims(token: SignedToken, verifiers: Verifiers) -> dict[str, Any]:
    """The claims, if the signature holds.

    Args:
        token: The token.
        verifiers: Its key, by the algorithms that the key is bound to.

    Raises:
        RefusedError: The key is not bound to the token's algorithm, the signature does not hold, or what it signs is
            not an object.
    """
    verifier = verifiers.get(token.header["alg"])
    if verifier is None:
        refuse("another alg than its key is bound to")
    model, key = verifier
    # The signature alone is left to joserfc: were it given the token, it would parse the header a second time, in its
    # own way, which costs five times as much.
    if not model.verify(token.signed, _decoded(token.signature), key):
        refuse("the signature does not hold")
    return json_object(_decoded(token.payload), "payload")


def _decoded(segment: bytes) -> bytes:
    """Decode base64url in its one canonical spelling: no padding, and no bits left over (RFC 4648, section 3.5)."""
    data = b"" if len(segment) % 4 == 1 else base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment:
        refuse("base64url that is not canonical")
    return data


# Strict JSON ----------------------------------------------------------------------------------------------------------

#: A string, to its end or to the end of the text.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse an object in UTF-8 that can be read in one way only (RFC 8259; RFC 8725, section 2.4).

    Args:
        data: The text.
        what: What it is, for the reason.

    Raises:
        RefusedError: It is no object, repeats a member, is nested deeply, or has a number that is not finite.
    """
    value = None
    with suppress(ValueError):
        if not _too_deep(data):
            value = _STRICT_JSON.decode(data.decode())
    if not isinstance(value, dict):
        refuse(f"the {what} is not a strict JSON object")
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
