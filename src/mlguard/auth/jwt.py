"""Bearer tokens: JSON Web Tokens whose form, signature and claims all hold (RFC 7519, with the advice of RFC 8725).

The form is judged first, because it costs nothing; then the signature, by joserfc, with a key and an algorithm that
were bound to each other when the keys were loaded; the claims only after that.
"""

import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, ClassVar, Self, TypedDict, Unpack

from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from joserfc.jwk import Key
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal, RequestMemory
from mlguard._numbers import seconds
from mlguard._order import is_its_turn, judge, once
from mlguard.auth._failures import checked_failures, with_failures
from mlguard.auth._jwt_claims import ClaimRules
from mlguard.auth._jwt_form import RefusedError, bearer_token, read_token, refuse, verified_claims
from mlguard.auth._jwt_keys import Engine, KeyHealth, Keys
from mlguard.auth._key_sources import OpenIDProvider
from mlguard.auth._rotating_keys import RotatingKeys
from mlguard.auth._token_memory import TokenMemory, VerifiedToken
from mlguard.auth.jwks import PublishedKeys, keys_from
from mlguard.auth.revocations import MAX_LEEWAY, Revocations
from mlguard.errors import ConfigurationError, LoginTooWeakError, NotAuthenticatedError
from mlguard.secrets.rotating import Rotating
from mlguard.traffic.rate import RateLimit

_MAX_TOKEN_SIZE = 65_536  # what servers accept of all headers together
_MAX_REMEMBERED = 1_000_000
_REVOCATION_LAG = 1.0  # seconds for which a remote store's "not revoked" is believed


class JWTOptions(TypedDict, total=False):
    """The settings of ``JWTAuth`` that do not depend on where its keys come from."""

    leeway: float
    max_token_size: int
    roles: Mapping[str, Collection[str]] | None
    roles_claim: str | tuple[str, ...]
    amr: Collection[str] | None
    max_auth_age: float | None
    revocations: Revocations | None
    remember: int
    failures: RateLimit | None
    scheme_name: str | None
    description: str | None
    clock: Callable[[], float]


class JWTAuth(SecurityBase, Guard):
    """Lets in who carries a valid JSON Web Token: ``Authorization: Bearer …`` (RFC 6750).

    It guards against forged, altered, expired and foreign tokens, and against those that parsers read in two ways. A
    token must have the three parts of a signed JWT in canonical base64url, an ``alg`` that its key is pinned to, a
    ``typ`` of ``JWT``, ``at+jwt`` or none, unique members, no header that changes how it is read or where its key is
    (``crit``, ``b64``, ``zip``, ``jwk``, ``jku``, ``x5u``, ``x5c``), an ``exp`` in the future, and a ``sub``. It does
    not see that a token was stolen: keep ``exp`` short.

    Scopes are read from ``scope`` (a string separated by spaces, RFC 8693) or from ``scp`` or ``scopes`` (such a
    string, or a list). Where several of them are present, they must agree.

    Args:
        key: What signatures are checked with: a secret (``str`` or ``bytes``) for HS256/384/512, as long as the hash at
            least; a public key in PEM for the others; a JWK as a ``dict``; a joserfc ``Key``; or, to rotate keys,
            ``{kid: any of these}``; or :class:`~mlguard.Rotating`, for a secret or a PEM that changes while the service
            runs: the value before is accepted for its overlap, and tokens of a value that is no more accepted are
            refused, remembered or not. Of a private key only the public part is kept. The bare bytes of a public key
            cannot be told from a secret: never pass them. Two guards with different keys whose tokens have no ``iss``
            share their identities: the same ``sub`` is the same principal to rate limits. For keys that somebody
            publishes, see :meth:`from_oidc` and :meth:`from_jwks`.
        algorithms: Which of HS256, HS384, HS512, RS256, RS384, RS512, PS256, ES256, ES384, EdDSA and Ed25519 are used.
            Each key is pinned to those that fit it, so a public key can never serve as a secret.
        issuer: What ``iss`` must be, exactly. Default: not checked.
        audience: What ``aud`` must name: one name, or several of which one suffices. Default: a token with an ``aud``
            is refused, because it is meant for somebody else (RFC 7519, section 4.1.3).
        leeway: Seconds by which the clocks of issuer and service may differ, at most 300. Default 0.
        max_token_size: Bytes of the longest token that is looked at. Default 8192.
        roles: What each role may do, such as ``{"analyst": ["predict"]}``: its scopes are added to those that the token
            has itself. Roles that are not listed give nothing. Default: roles are not read.
        roles_claim: Where the roles are: a claim, or a path such as ``("realm_access", "roles")``. A list of names, or
            one name.
        amr: How the user must have logged in, such as ``{"otp"}``: all of these values must be in ``amr`` (RFC 8176).
            Default: in any way.
        max_auth_age: Seconds since the login (``auth_time``), at most. Default: any.
        revocations: Where revoked tokens are looked up. A revocation in a store outside this process is seen within one
            second, one in its memory at once. Default: none are.
        remember: How many verified tokens are remembered until they expire, by a digest, so that their signature is not
            computed again; 0 for none. Times and revocations are judged each time. Default 4096.
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
        LoginTooWeakError: When called: the token holds, and its login lacks a factor or is too old (401, RFC 9470). No
            failure in the sense of ``failures``.
        InsufficientScopeError: When called: the token lacks a scope that the route demands (403).
        RateLimitedError: When called: too many failures (429).
        KeysUnavailableError: When called: published keys, or a secret that changes, could not be loaded for too long
            (503).
    """

    control = Control.AUTHENTICATION
    statuses: tuple[int, ...] = (401, 403)
    challenge: ClassVar[str] = "Bearer"
    #: The header that carries the credential, and how it begins. For ``AnyAuth``.
    credential = (b"authorization", b"bearer ")

    def __init__(
        self,
        key: str | bytes | Key | Mapping[str, Any] | PublishedKeys | Rotating,
        *,
        algorithms: Collection[str],
        issuer: str | None = None,
        audience: str | Collection[str] | None = None,
        leeway: float = 0,
        max_token_size: int = 8192,
        roles: Mapping[str, Collection[str]] | None = None,
        roles_claim: str | tuple[str, ...] = "roles",
        amr: Collection[str] | None = None,
        max_auth_age: float | None = None,
        revocations: Revocations | None = None,
        remember: int = 4096,
        failures: RateLimit | None = None,
        engine: Engine | None = None,
        scheme_name: str | None = None,
        description: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        published = isinstance(key, PublishedKeys)
        self._keys: Keys | PublishedKeys | RotatingKeys
        if isinstance(key, PublishedKeys):
            self._keys = key
        elif isinstance(key, Rotating):
            self._keys = RotatingKeys(key, algorithms, engine)
        else:
            self._keys = Keys(key, algorithms, engine)
        if published and engine is not None:
            raise ConfigurationError("engine works with keys that are given here; leave it out for published ones")
        if revocations is not None and not isinstance(revocations, Revocations):
            raise ConfigurationError("revocations must be Revocations(), with the store that they are kept in")
        self._rules = ClaimRules(
            issuer=issuer,
            audience=audience,
            roles=roles,
            roles_claim=roles_claim,
            amr=amr,
            max_auth_age=max_auth_age,
            revocable=revocations is not None,
        )
        if type(max_token_size) is not int or not 1 <= max_token_size <= _MAX_TOKEN_SIZE:
            raise ConfigurationError(f"max_token_size must be a number of bytes between 1 and {_MAX_TOKEN_SIZE}")
        if type(remember) is not int or not 0 <= remember <= _MAX_REMEMBERED:
            raise ConfigurationError(f"remember must be a number of tokens between 0 and {_MAX_REMEMBERED}")
        self._leeway = seconds("leeway", leeway, least=0, most=MAX_LEEWAY)
        self._max_token_size = max_token_size
        self._max_auth_age = max_auth_age
        self._demands_login = amr is not None or max_auth_age is not None
        self._asks_more = self._demands_login or failures is not None
        self._revocations = revocations
        self._memory = TokenMemory(remember)
        self._failures = checked_failures(failures, where="JWTAuth")
        self._clock = clock
        self.stores = tuple(part.store for part in (failures, revocations) if part is not None)
        self.suspends = published or any(store.suspends for store in self.stores)
        if published or isinstance(key, Rotating) or (revocations is not None and revocations.suspends):
            self.statuses = (401, 403, 503)
        if failures is not None:
            self.statuses = tuple(sorted({*self.statuses, *failures.statuses}))
        self.model = HTTPBearer(bearerFormat="JWT", description=description)
        self.scheme_name = scheme_name or type(self).__name__

    @classmethod
    def from_jwks(
        cls,
        source: str | os.PathLike[str],
        *,
        algorithms: Collection[str],
        issuer: str,
        audience: str | Collection[str] | None,
        refresh_every: float | None = None,
        max_stale: float = 86_400,
        timeout: float = 5,
        **options: Unpack[JWTOptions],
    ) -> Self:
        """Verify with the keys of a JWK Set, in a file or at a URL, and follow it as it changes.

        A URL is loaded in a thread: at start-up under ``harden``, else on first use, and then in the background as long
        as there are requests. A token whose ``kid`` is unknown has the set loaded again, at most once in 30 seconds,
        and waits for that, so that the first token of a new key is let in. When loading fails, the keys of before are
        used for up to ``max_stale`` seconds, and the log says so once. A key that has left the set verifies nothing
        more, remembered or not.

        Args:
            source: An https URL (http for this machine only), or the path of a file.
            algorithms: Which are used, none of them symmetric. Keys for others are left out.
            issuer: What ``iss`` must be, exactly.
            audience: What ``aud`` must name. None refuses every token that names one.
            refresh_every: Seconds between two loads. None is 300 for a URL, and 1 for a file.
            max_stale: Seconds for which keys are used that can no longer be loaded. Default a day.
            timeout: Seconds that loading may take, and that a request may wait for it.
            **options: As for the class.

        Raises:
            ConfigurationError: A setting that cannot work; a URL that is not https; httpx is not installed
                (``pip install 'mlguard[oidc]'``); a file that cannot be read, that has no usable key, or that has a
                weak, private or symmetric one. In a set from a URL such keys are left out, and logged.
        """
        keys = keys_from(source, algorithms, refresh_every=refresh_every, max_stale=max_stale, timeout=timeout)
        return cls(keys, algorithms=algorithms, issuer=_demanded(issuer), audience=audience, **options)

    @classmethod
    def from_oidc(
        cls,
        issuer: str,
        *,
        audience: str | Collection[str] | None,
        algorithms: Collection[str] = ("RS256",),
        refresh_every: float = 300,
        max_stale: float = 86_400,
        timeout: float = 5,
        **options: Unpack[JWTOptions],
    ) -> Self:
        """Verify tokens of an OpenID provider, with the keys that its discovery document points to.

        As :meth:`from_jwks`, with the URL of the set taken from ``issuer`` + ``/.well-known/openid-configuration``
        (OpenID Connect Discovery 1.0). The document must name the very same issuer.

        Args:
            issuer: The provider: an https URL, spelled as in the ``iss`` of its tokens, with or without a slash at its
                end.
            audience: What ``aud`` must name. None refuses every token that names one.
            algorithms: Which are used, whatever the document says. Default RS256, which every provider has.
            refresh_every: Seconds between two loads.
            max_stale: Seconds for which keys are used that can no longer be loaded. Default a day.
            timeout: Seconds that loading may take, and that a request may wait for it.
            **options: As for the class.

        Raises:
            ConfigurationError: A setting that cannot work; httpx is not installed (``pip install 'mlguard[oidc]'``). At
                start-up under ``harden``: the provider calls itself something else.
        """
        keys = PublishedKeys(
            OpenIDProvider(issuer), algorithms, refresh_every=refresh_every, max_stale=max_stale, timeout=timeout
        )
        return cls(keys, algorithms=algorithms, issuer=issuer, audience=audience, **options)

    @property
    def label(self) -> str:
        """As of every guard: without its keys."""
        return f"{type(self).__name__}(issuer={self._rules.issuer!r})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._keys}, issuer={self._rules.issuer!r})"

    @property
    def health(self) -> KeyHealth:
        """Whether tokens can be verified at the moment: the keys there are, their age, and why loading failed."""
        return self._keys.health

    def check(self) -> None:
        """Load published keys now, so that the first caller finds them there."""
        self._keys.check()

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        """Say who carries the token, or refuse (401, 403)."""
        memory = RequestMemory.of(conn.scope)
        if not is_its_turn(memory):
            await judge(conn, memory)
        decision: Any = memory.decisions.get(self)
        if decision is None:
            found = self._remembered(conn)  # no coroutine: it waits for nothing
            if found is not None:
                decision = memory.decide(self, lambda _: found, conn)
        if type(decision) is not Principal:  # nothing, or a refusal
            authenticate = partial(self._authenticate, conn)
            if self._failures is not None:
                authenticate = partial(with_failures, conn, self._failures, authenticate)
            decision = await once(conn, self, authenticate)
        principal: Principal = decision
        principal.require(security_scopes, challenge=self.challenge)
        return principal

    def _remembered(self, conn: HTTPConnection) -> Principal | None:
        """Whom the token proves, if that is remembered and nothing else has to be asked. None says nothing at all."""
        if self._asks_more or (keys := self._keys.fresh()) is None:
            return None
        try:
            proof = self._memory.find(sha256(bearer_token(conn.scope["headers"], self._max_token_size)).digest(), keys)
            if proof is None:
                return None
            now = self._clock()
            self._check_times(proof, now)
        except RefusedError:  # found once more, and told, by who asks in full
            return None
        if self._revocations is not None and not self._is_unrevoked(proof, self._revocations, now):
            return None
        return proof.principal

    async def _authenticate(self, conn: HTTPConnection) -> Principal:
        try:
            token = bearer_token(conn.scope["headers"], self._max_token_size)
            digest = sha256(token).digest()
            keys = self._keys.fresh()
            proof = None if keys is None else self._memory.find(digest, keys)
            now = self._clock()
            if proof is None:
                proof = await self._verify(token, digest, keys)
            else:
                self._check_times(proof, now)
            if self._revocations is not None:
                await self._refuse_revoked(proof, self._revocations, now)
        except RefusedError as refusal:
            reason = str(refusal)
        else:
            if self._demands_login:
                self._check_login(proof)
            return proof.principal
        # Raised out here, so that no context of the exception keeps the token.
        raise NotAuthenticatedError(f"bearer token: {reason}", challenge=self.challenge)

    async def _verify(self, token: bytes, digest: bytes, keys: Keys | None) -> VerifiedToken:
        """What a token proves that is not remembered."""
        signed = read_token(token)  # before anything is waited for: what is malformed waits for no keys
        if keys is None:
            keys = await self._keys.newer_than(None)
            proof = self._memory.find(digest, keys)
            if proof is not None:
                self._check_times(proof, self._clock())
                return proof
        verifiers = keys.find(signed.header)
        if verifiers is None and isinstance(signed.header.get("kid"), str):
            keys = await self._keys.newer_than(keys)
            verifiers = keys.find(signed.header)
        if verifiers is None:
            refuse("no key for its kid")
        proof = self._rules.judge(verified_claims(signed, verifiers))
        now = self._clock()
        self._check_times(proof, now)
        self._memory.keep(digest, keys, proof, now=now)
        return proof

    def _check_times(self, token: VerifiedToken, now: float) -> None:
        if not token.starts - self._leeway <= now < token.expires + self._leeway:
            refuse("expired, or of the future: compare clocks")

    @staticmethod
    def _is_unrevoked(token: VerifiedToken, revocations: Revocations, now: float) -> bool:
        """Whether that is known without asking. What this process itself remembers is asked each time."""
        # 0 <=: not if the clock was put back since.
        return revocations.suspends and 0 <= now - token.unrevoked_at < _REVOCATION_LAG

    async def _refuse_revoked(self, token: VerifiedToken, revocations: Revocations, now: float) -> None:
        if self._is_unrevoked(token, revocations, now):
            return
        if await revocations.cover_any(token.revocation_keys, token.issued_at):
            token.unrevoked_at = -math.inf
            refuse("revoked")
        token.unrevoked_at = now

    def _check_login(self, token: VerifiedToken) -> None:
        """Demand the login that the settings demand (RFC 9470). The token is genuine, so its bearer may know why."""
        if not token.has_factors:
            raise LoginTooWeakError("bearer token: amr lacks a factor", challenge=self._step_up())
        if self._max_auth_age is not None:
            logged_in_at = token.logged_in_at
            if logged_in_at is None or not self._clock() - logged_in_at <= self._max_auth_age + self._leeway:
                raise LoginTooWeakError("bearer token: no auth_time, or too long ago", challenge=self._step_up())

    def _step_up(self) -> str:
        age = "" if self._max_auth_age is None else f', max_age="{int(self._max_auth_age)}"'
        return f'{self.challenge} error="insufficient_user_authentication"{age}'


def _demanded(issuer: object) -> str:
    if not isinstance(issuer, str) or not issuer:
        raise ConfigurationError("JWTAuth.from_jwks(issuer=...) must be what the tokens have as iss")
    return issuer
