"""The simple signed header ``timestamp.signature``, for callers that cannot make RFC 9421 signatures."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from functools import lru_cache

from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError, NotAuthenticatedError

_WHERE = "a secret of verify_signature"
_HEADER = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})")


def sign_request(
    secret: str | bytes,
    *,
    method: str,
    target: str,
    body: bytes = b"",
    timestamp: int | None = None,
) -> str:
    """The header value ``timestamp.signature`` for a request.

    The signature is the HMAC-SHA256, in lower-case hex, of four netstrings, one after the other: the timestamp in
    decimal, the method, the target, and the SHA-256 of the body in lower-case hex. A netstring is the length in bytes,
    a colon, the bytes and a comma, so that no two requests sign the same text::

        10:1618884473,4:POST,12:/predict?v=2,64:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855,

    There is no nonce: who records a call can send it again until it is ``max_age`` seconds old. Host and other headers
    are not covered. Use ``SignatureAuth`` with ``mlguard.client.HTTPSignature`` (RFC 9421) wherever the caller can.

    Args:
        secret: The shared secret, as str (UTF-8) or bytes, at least 128 bits.
        method: The request method, as sent: ``"POST"``.
        target: Path and query as sent, percent-encoded: ``"/predict?v=2"``.
        body: The whole body.
        timestamp: Seconds since 1970; now by default.

    Returns:
        The value to send in a header of your choice.

    Raises:
        ConfigurationError: The secret is too weak, or the timestamp is no number.
    """
    if timestamp is not None and not isinstance(timestamp, int | float):
        raise ConfigurationError("sign_request(timestamp=...) must be seconds since 1970")
    key = secret_bytes(secret, where="the secret of sign_request")
    created = str(int(time.time() if timestamp is None else timestamp))
    return f"{created}.{_signature(key, created, method, target, body)}"


def verify_signature(
    secret: str | bytes | Iterable[str | bytes],
    header: str | bytes | None,
    *,
    method: str,
    target: str | bytes,
    body: bytes = b"",
    max_age: float = 300,
    max_skew: float = 30,
    clock: Callable[[], float] = time.time,
) -> None:
    """Check a header made by :func:`sign_request`.

    Guards against a request that is forged, changed or old. Not against one that is sent again within ``max_age``: use
    ``SignatureAuth`` (RFC 9421) for that, or make the call harmless to repeat.

    Args:
        secret: The shared secret, or several of them while one replaces another.
        header: The header's value as received, as str or bytes; ``None`` if it is absent.
        method: The request method: ``request.method``.
        target: Path and query as received, percent-encoded, as str or bytes: ``scope["raw_path"]``, and ``b"?"`` with
            ``query_string`` if there is one. Not ``request.url.path``, which is decoded.
        body: The whole body.
        max_age: Seconds during which a signature holds.
        max_skew: Seconds by which it may lie in the future, because clocks differ.
        clock: Seconds since 1970; for tests.

    Raises:
        NotAuthenticatedError: The header is absent, malformed, too old, or not of this request and secret (401).
        ConfigurationError: There is no secret, or one that is too weak, or a time that cannot work.
    """
    listed = [secret] if isinstance(secret, str | bytes) else list(secret)
    keys = [_checked(each) if isinstance(each, str | bytes) else secret_bytes(each, where=_WHERE) for each in listed]
    if not keys:
        raise ConfigurationError("verify_signature needs at least one secret")
    if not 0 < max_age < float("inf") or not 0 <= max_skew < float("inf"):
        raise ConfigurationError("verify_signature needs max_age > 0 and max_skew >= 0, in seconds")
    match = _HEADER.fullmatch(header.decode("latin-1") if isinstance(header, bytes) else header or "")
    if match is None:
        raise _refusal("the timestamp signature is absent or malformed")
    created, received = match.groups()
    # Every key is tried, so that the time taken does not say which one fits.
    fits = [hmac.compare_digest(_signature(key, created, method, target, body), received) for key in keys]
    if not any(fits):
        raise _refusal("the timestamp signature does not match")
    if not -max_skew <= clock() - int(created) <= max_age:
        raise _refusal("the timestamp signature is too old or from the future; compare clocks")


@lru_cache(maxsize=16)  # or each request would pay for looking at the same secret again
def _checked(secret: str | bytes) -> bytes:
    return secret_bytes(secret, where=_WHERE)


def _refusal(reason: str) -> NotAuthenticatedError:
    return NotAuthenticatedError(reason, challenge="Signature")


def _signature(key: bytes, created: str, method: str, target: str | bytes, body: bytes) -> str:
    parts = (created, method, target, hashlib.sha256(body).hexdigest())
    encoded = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in parts]
    return hmac.digest(key, b"".join(b"%d:%s," % (len(part), part) for part in encoded), "sha256").hex()
