"""Requests signed with a shared secret: RFC 9421 HTTP message signatures, each good for one use."""

import hmac
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import ClassVar
from urllib.parse import quote

from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from mlguard._guard import Control, Guard, Principal, RequestMemory
from mlguard._order import once
from mlguard.auth._failures import checked_failures, with_failures
from mlguard.auth.message_signatures import (
    REQUIRED_COMPONENTS,
    MalformedSignatureError,
    Message,
    ReceivedSignature,
    digests_match,
    read_content_digest,
    read_signature,
    shown,
    sign,
    signature_base,
    signing_key,
)
from mlguard.errors import ConfigurationError, NotAuthenticatedError
from mlguard.secrets.rotating import Derived, Rotating
from mlguard.store import Store, default_store, store_key
from mlguard.traffic.rate import RateLimit

_CHALLENGE = "Signature"
_LONGEST = 86_400  # seconds; a larger number is a mistake, such as milliseconds
_PATH_CHARACTERS = "/:@!$&'()*+,;=~"  # what RFC 3986 allows in a path unescaped, beside letters, digits and "-._"
_AUTHORITY = re.compile(r"[^\s/?#@\\]+", re.ASCII)
_SCOPE = re.compile(r"[!#-\[\]-~]+")  # RFC 6749, section 3.3
_DESCRIPTION = (
    "RFC 9421 HTTP message signature, hmac-sha256, over @method, @authority, @path, @query and, when there is a body, "
    "content-digest (RFC 9530), with the parameters created, nonce and keyid in Signature-Input."
)


class SignatureAuth(SecurityBase, Guard):
    """Who is calling, by a signature over the request (RFC 9421, ``hmac-sha256``).

    Guards against requests that are forged, changed on the way or sent a second time, also where TLS ends at a proxy.
    The secret itself never travels. Exactly one signature must cover ``@method``, ``@authority``, ``@path``, ``@query``
    and, when there is a body, ``content-digest`` (RFC 9530); it may cover more, but no component parameters. It must
    carry ``created``, ``nonce`` and ``keyid``. Headers, signature and nonce are judged before the body is read (with
    ``harden``), the digest before the endpoint sees the body. The caller's side is ``mlguard.client.HTTPSignature``.

    It does not hide anything: use TLS. Whoever holds the secret can sign as the caller, the service included. A proxy
    in between must pass path and query on as they came.

    A store in memory forgets its nonces when the process ends. With such a store, a signature that was created more
    than ``restart_grace`` before the guard was built is refused, because it may have been used. What is left: after a
    restart, a request captured in the last ``restart_grace`` and one second before it can be replayed once in each
    process, and one of a caller whose clock runs ahead also that much earlier (``max_skew`` at most). Refusing these
    too would refuse every caller for ``max_skew`` after each start; a store that outlives the process leaves nothing.

    Each key id has its own share of the room for nonces, 100 000 in ``MemoryStore()``: a caller that fills it gets a
    503 until nonces expire, and nobody else does.

    Args:
        keys: The shared secrets by key id, as str (UTF-8) or bytes, at least 128 bits each. To rotate, add the new key
            under a new id, move the callers over, then remove the old one; or pass :class:`~mlguard.Rotating`, whose
            value before is accepted for its overlap.
        scopes: What each key id may do, for ``Security(caller, scopes=[...])``. None by default.
        max_age: Seconds after ``created`` during which a signature holds, 300 by default, at most a day.
        max_skew: Seconds by which ``created`` may lie in the future, because clocks differ, 30 by default.
        restart_grace: Seconds before the guard was built in which a signature may have been created, 1 by default. A
            caller whose clock is behind by more is refused for that long after each start, and each second of grace is
            one more in which a captured request can be replayed. It has no effect with a store that outlives the
            process.
        store: Where used nonces are kept; one store refuses a replay everywhere it is used. The process's own by
            default, which other worker processes do not see.
        authority: The public ``host[:port]`` of this service. Set it where a proxy rewrites ``Host``, and where one
            secret is used for several services. By default the ``Host`` field is believed.
        failures: A limit on failed credentials, such as ``RateLimit("10/minute", name="failures")``, by address or by a
            plain function of the connection. Judged before anything else. Only failures count, and a success erases
            none. Several guards may share one. Default: none.
        scheme_name: The name of the security scheme in OpenAPI.
        description: Its description in OpenAPI.
        clock: Seconds since 1970; for tests.

    Returns:
        When called: a ``Principal`` with the key id and the method ``"signature"``.

    Raises:
        ConfigurationError: A key, scope, time or authority that cannot work. When built.
        NotAuthenticatedError: No signature, or one that does not hold, or a replay; the caller cannot tell which (401).
        InsufficientScopeError: The key lacks a scope that the route demands (403).
        StoreFullError: No room to remember another nonce of this key id (503).
        RateLimitedError: Too many failures (429).
        KeysUnavailableError: The key is a secret that could not be read for too long (503).
    """

    control: ClassVar[Control] = Control.AUTHENTICATION
    statuses: tuple[int, ...] = (401, 403, 503)
    challenge = _CHALLENGE
    #: The header that carries the credential, and how it begins. For ``AnyAuth``.
    credential = (b"signature-input", b"")

    def __init__(
        self,
        keys: Mapping[str, str | bytes | Rotating],
        *,
        scopes: Mapping[str, Collection[str]] | None = None,
        max_age: float = 300,
        max_skew: float = 30,
        restart_grace: float = 1,
        store: Store | None = None,
        authority: str | None = None,
        failures: RateLimit | None = None,
        scheme_name: str | None = None,
        description: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(keys, Mapping) or not keys:
            raise ConfigurationError("SignatureAuth needs at least one key: SignatureAuth({'key id': secret})")
        self._keys = {
            key_id: _accepted(key_id, secret, where=f"SignatureAuth, key {number}")
            for number, (key_id, secret) in enumerate(keys.items(), 1)
        }
        self._tries = 1 + any(isinstance(accepted, Derived) for accepted in self._keys.values())
        self._scopes = _checked_scopes(scopes or {}, self._keys)
        self._max_age = _seconds("max_age", max_age, positive=True)
        self._max_skew = _seconds("max_skew", max_skew, positive=False)
        self._restart_grace = _seconds("restart_grace", restart_grace, positive=False)
        self.store = default_store() if store is None else store
        if not isinstance(self.store, Store):
            raise ConfigurationError(
                "SignatureAuth(store=...) must be a mlguard store, such as MemoryStore(), with all members of Store"
            )
        if authority is not None and not (isinstance(authority, str) and _AUTHORITY.fullmatch(authority)):
            raise ConfigurationError(
                "SignatureAuth(authority=...) must be host or host:port, such as 'api.example.com'"
            )
        # Callers leave the default port out. Which one that is, the service behind a proxy cannot know.
        self._authority = authority and re.sub(r":(80|443)$", "", authority)
        self._clock = clock
        self._begin()
        self._unknown_key = secrets.token_bytes(32)  # signs for unknown key ids, so that they cost the same time
        self._failures = checked_failures(failures, where="SignatureAuth")
        if failures is not None:
            self.statuses = tuple(sorted({*self.statuses, *failures.statuses}))
        self.stores = (self.store, *(failures.stores if failures is not None else ()))
        self.suspends = any(store.suspends for store in self.stores)
        self.scheme_name = scheme_name or type(self).__name__
        self.model = APIKey.model_validate(
            {"in": APIKeyIn.header, "name": "Signature", "description": description or _DESCRIPTION}
        )

    @property
    def label(self) -> str:
        """As of every guard: without its key ids."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key ids: {', '.join(map(repr, self._keys))})"

    def check(self) -> None:
        """Have the secrets looked after that change."""
        for accepted in self._keys.values():
            if isinstance(accepted, Derived):
                accepted.secret.watch()

    def _begin(self) -> None:
        """Note from when on a signature cannot have been used in a process before this one."""
        self._process = os.getpid()
        # The second as a whole, because that is how signers count.
        started = math.floor(self._clock()) if self.store.forgets_on_restart else -math.inf
        self._not_before = started - self._restart_grace

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        """Prove who is calling, and check the scopes."""
        principal = await once(
            conn, self, lambda: with_failures(conn, self._failures, lambda: self._authenticate(conn))
        )
        principal.require(security_scopes, challenge=_CHALLENGE)
        return principal

    async def _authenticate(self, conn: HTTPConnection) -> Principal:
        signature, check_body = self._genuine(conn.scope)
        await self._use(signature)
        await _expect(conn, check_body)
        return Principal(signature.key_id, self._scopes.get(signature.key_id, frozenset()), "signature")

    def _genuine(self, scope: Scope) -> tuple[ReceivedSignature, Callable[[bytes], None]]:
        """The signature, if it is one of a known key over the head of this request, and what checks the body."""
        try:
            message = _message(scope, self._authority)
            signature = read_signature(message.fields)
            check_body = _body_check(message, signature)
            self._verify(message, signature)
        except MalformedSignatureError as error:
            reason = str(error)
        else:
            return signature, check_body
        raise _refusal(reason)  # out here, so that it takes no other error along as its context

    def _verify(self, message: Message, signature: ReceivedSignature) -> None:
        missing = [name for name in REQUIRED_COMPONENTS if name not in signature.components]
        if missing:
            raise MalformedSignatureError(f"the signature does not cover {', '.join(missing)}")
        base = signature_base(message, signature.components, signature.params)
        accepted = self._keys.get(signature.key_id, ())
        secrets_now = accepted.value if isinstance(accepted, Derived) else accepted
        # As many for each key id, so that the time tells neither which there are nor which have just changed.
        tried = [*secrets_now, *[self._unknown_key] * (self._tries - len(secrets_now))]
        genuine = [hmac.compare_digest(sign(key, base), signature.value) for key in tried]
        if not secrets_now:
            raise MalformedSignatureError(f"unknown key id {shown(signature.key_id)}")
        if not any(genuine[: len(secrets_now)]):
            raise MalformedSignatureError(f"the signature of key id {signature.key_id!r} does not match")

    async def _use(self, signature: ReceivedSignature) -> None:
        """Spend the nonce of a genuine signature, if it is of this time."""
        now = self._clock()
        if signature.created > now + self._max_skew:
            raise _refusal(f"the signature of key id {signature.key_id!r} was created in the future; compare clocks")
        if signature.created < now - self._max_age or (signature.expires is not None and signature.expires < now):
            raise _refusal(f"the signature of key id {signature.key_id!r} is too old; compare clocks")
        if self._process != os.getpid():  # a worker forked from the process that built the guard, and not the first one
            self._begin()
        if signature.created < self._not_before:
            raise _refusal(
                f"the signature of key id {signature.key_id!r} is from before this process started, "
                "and may have been used then; sign again, or compare clocks"
            )
        # Another worker's clock may run behind by the skew: the nonce must outlive the signature there too.
        ttl = signature.created + self._max_age + self._max_skew + 1 - now
        nonce = store_key("nonce", signature.key_id, signature.nonce)
        if not await self.store.add_nonce(nonce, ttl, owner=store_key("nonces of", signature.key_id)):
            raise _refusal(f"replay: a nonce of key id {signature.key_id!r} was used before")


def _refusal(reason: str) -> NotAuthenticatedError:
    return NotAuthenticatedError(reason, challenge=_CHALLENGE)


# What was sent ------------------------------------------------------------------------------------------------------


def _message(scope: Scope, authority: str | None) -> Message:
    fields: dict[str, list[bytes]] = {}
    for name, value in scope["headers"]:
        fields.setdefault(name.decode("latin-1").lower(), []).append(value)
    if authority is None:
        hosts = fields.get("host", [])
        if len(hosts) != 1:
            raise MalformedSignatureError(f"there are {len(hosts)} lines of host, not one")
        authority = hosts[0].decode("latin-1")
    raw_path: bytes | None = scope.get("raw_path")
    if raw_path is None:  # optional in ASGI
        raw_path = quote(scope["path"], safe=_PATH_CHARACTERS, errors="surrogatepass").encode("ascii")
    return Message(
        method=scope.get("method", "GET"),  # a WebSocket's handshake is a GET
        scheme=scope.get("scheme", "http"),
        authority=authority,
        path=raw_path.partition(b"?")[0].decode("latin-1"),
        query=(scope.get("query_string") or b"").decode("latin-1"),  # optional for WebSockets
        fields=fields,
    )


def _body_check(message: Message, signature: ReceivedSignature) -> Callable[[bytes], None]:
    """What the body must be, so far as the header says it.

    Returns:
        A function that takes the whole body and raises ``NotAuthenticatedError`` if it is not the one that was signed.

    Raises:
        MalformedSignatureError: A body is announced and no digest of it is signed, or the digest cannot be read.
    """
    fields = message.fields
    if "content-digest" in signature.components:
        digests = read_content_digest(fields.get("content-digest", ()))
    elif "transfer-encoding" in fields or any(length != b"0" for length in fields.get("content-length", ())):
        raise MalformedSignatureError("there is a body, and the signature does not cover content-digest")
    else:
        digests = None

    def check(body: bytes) -> None:
        if not (digests_match(digests, body) if digests else body == b""):
            raise _refusal(f"the body is not the one that key id {signature.key_id!r} signed")

    return check


async def _expect(conn: HTTPConnection, check: Callable[[bytes], None]) -> None:
    """Have the body checked before the endpoint sees any of it."""
    if conn.scope["type"] != "http":
        check(b"")
        return
    body = RequestMemory.of(conn.scope).body
    if body is not None:
        await body.expect(check)
        return
    if not isinstance(conn, Request):
        raise ConfigurationError("SignatureAuth cannot reach the body here: call harden(app)")
    received = None
    with suppress(RuntimeError):  # it was read as a stream
        received = await conn.body()
    if received is None:
        raise ConfigurationError(
            "SignatureAuth on an endpoint that takes a form needs harden(app): here the body is parsed unchecked"
        )
    check(received)


# Configuration ------------------------------------------------------------------------------------------------------


def _accepted(
    key_id: object, secret: str | bytes | Rotating, *, where: str
) -> tuple[bytes, ...] | Derived[tuple[bytes, ...]]:
    """The secrets of one key id: one, or two while one replaces the other.

    Raises:
        ConfigurationError: The key id cannot be sent, or the secret is too weak.
    """
    if not isinstance(secret, Rotating):
        return (signing_key(key_id, secret, where=where),)
    return secret.derive(
        lambda values: tuple(signing_key(key_id, value.get_secret_value(), where=where) for value in values)
    )


def _checked_scopes(scopes: Mapping[str, Collection[str]], keys: Collection[str]) -> dict[str, frozenset[str]]:
    if not isinstance(scopes, Mapping):
        raise ConfigurationError("SignatureAuth(scopes=...) must be a mapping, such as {'key id': {'predict'}}")
    for number, (key_id, granted) in enumerate(scopes.items(), 1):
        where = f"SignatureAuth(scopes=...), entry {number}"
        if key_id not in keys:
            raise ConfigurationError(f"{where}: there is no key with this key id")
        if isinstance(granted, str) or not isinstance(granted, Collection) or not all(map(_is_scope, granted)):
            raise ConfigurationError(f"{where}: what a key id may do is a set of names, such as {{'predict'}}")
    return {key_id: frozenset(granted) for key_id, granted in scopes.items()}


def _is_scope(name: object) -> bool:
    return isinstance(name, str) and _SCOPE.fullmatch(name) is not None


def _seconds(name: str, value: object, *, positive: bool) -> float:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if 0 <= number <= _LONGEST and (number > 0 or not positive):  # false for NaN too
        return float(number)
    least = "more than 0" if positive else "at least 0"
    raise ConfigurationError(f"SignatureAuth({name}=...) must be seconds, {least} and at most {_LONGEST} (a day)")
