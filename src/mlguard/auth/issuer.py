"""Tokens of one's own: minted, renewed and taken back."""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from joserfc.jwk import Key

from mlguard._numbers import seconds
from mlguard.auth._issued_token_auth import IssuedTokenAuth
from mlguard.auth._issuer_keys import ACCESS, REFRESH, IssuerKeys
from mlguard.auth._refresh_families import RefreshFamilies, ReusedError
from mlguard.auth._rotating_keys import RotatingIssuerKeys
from mlguard.auth._scopes import checked_scopes
from mlguard.auth._sessions import Refresh, Session, read_refresh, refresh_claims
from mlguard.auth.jwt import JWTAuth
from mlguard.auth.revocations import Revocations
from mlguard.errors import ConfigurationError, InsufficientScopeError, NotAuthenticatedError
from mlguard.monitoring.events import record_event
from mlguard.secrets.rotating import Rotating
from mlguard.store import Store, default_store

logger = logging.getLogger("mlguard")

_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Tokens:
    """What somebody gets who has logged in.

    Attributes:
        access_token: For the services: a JWT after RFC 9068.
        refresh_token: For :meth:`TokenIssuer.refresh`, once.
        expires_in: Seconds for which the access token holds.
        scopes: What it allows.
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    scopes: frozenset[str]


class TokenIssuer:
    """Mints short-lived access tokens and the refresh tokens to renew them with, and takes them back.

    It guards against stolen tokens. An access token holds for minutes. A refresh token holds for one use: when one is
    used a second time, somebody has a copy, and the whole session ends, for the thief and for the owner, with its
    access tokens (RFC 9700, section 4.14.2). Of several who use the same one at once, exactly one gets new tokens. A
    session ends after ``session_lifetime`` at the latest, however often it is refreshed.

    Access tokens follow RFC 9068 (``typ`` is ``at+jwt``). Refresh tokens are JWTs too, with a ``typ`` and an ``aud`` of
    their own, so that none is ever taken for the other; the store keeps one number a session and no names, and a forged
    token never gets as far as the store. Both have ``iat`` to the microsecond, so that a login directly after
    :meth:`revoke_all` holds.

    Args:
        key: What tokens are signed with: a secret for HS256/384/512, a private key in PEM or as a JWK for the others;
            to rotate, ``{kid: key}``, oldest first. The newest signs, all verify; of older ones the public key is
            enough. Give the first one a name already: tokens of a key without a name end when a second one comes. Or
            :class:`~mlguard.Rotating`: the new value signs once it is older than the ``ttl``, when all processes have
            read it, and refresh tokens of the value before hold for its overlap.
        algorithm: ``"ES256"``, ``"EdDSA"``, ``"RS256"``, ``"HS256"``, or one of their relatives that ``JWTAuth`` knows.
        issuer: ``iss``: who mints the tokens, usually a URL.
        audience: ``aud`` of access tokens: the service that they are for.
        access_lifetime: Seconds for which an access token holds, at most a day. Default 900.
        refresh_lifetime: Seconds after which a refresh token that was not used expires. Default 604 800, a week.
        session_lifetime: Seconds after which somebody has to log in again, at most a year. Default 2 592 000, 30 days.
        retry_grace: Seconds for which the last refresh token but one is taken for the retry of a caller whose answer
            was lost, at most 60, instead of for a theft. A thief who is as fast is then found out only at the next
            refresh. Default 0.
        store: Where the state of sessions and revocations is kept. None: the store that all guards of the process
            share. With several processes it must be one that they share, or sessions are refused in all but one.
        clock: Seconds since 1970; for tests.

    Raises:
        ConfigurationError: At construction: a key that cannot sign, is weak or does not fit, or a setting out of its
            range.
    """

    def __init__(
        self,
        key: str | bytes | Key | Mapping[str, Any] | Rotating,
        *,
        algorithm: str,
        issuer: str,
        audience: str,
        access_lifetime: int = 900,
        refresh_lifetime: int = 604_800,
        session_lifetime: int = 2_592_000,
        retry_grace: float = 0,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys: IssuerKeys | RotatingIssuerKeys
        if isinstance(key, Rotating):
            self._keys = RotatingIssuerKeys(key, algorithm)
        else:
            self._keys = IssuerKeys(key, algorithm)
        self._key, self._algorithm = key, algorithm
        self.issuer = _checked_name("issuer", issuer)
        self.audience = _checked_name("audience", audience)
        self._refresh_audience = f"{issuer}#refresh"
        if audience == self._refresh_audience:
            raise ConfigurationError("TokenIssuer(audience=...) is that of its refresh tokens: name the service")
        self._access_lifetime = _checked_seconds("access_lifetime", access_lifetime, _DAY)
        self._session_lifetime = _checked_seconds("session_lifetime", session_lifetime, 366 * _DAY)
        self._refresh_lifetime = _checked_seconds("refresh_lifetime", refresh_lifetime, session_lifetime)
        grace = seconds("TokenIssuer(retry_grace=...)", retry_grace, least=0, most=60)
        self.store = default_store() if store is None else store
        self.revocations = Revocations(store=self.store, clock=clock)
        self._families = RefreshFamilies(self.store, issuer, grace=grace, clock=clock)
        self.clock = clock

    def auth(
        self,
        *,
        token_url: str | None = None,
        scopes: Mapping[str, str] | None = None,
        leeway: float = 2,
        scheme_name: str | None = None,
        description: str | None = None,
        **settings: Any,
    ) -> JWTAuth:
        """The guard that takes these access tokens, and no others.

        It has the same keys, algorithm, issuer and audience, and refuses what was revoked.

        Args:
            token_url: Where :func:`token_router` has its ``/token``, relative to the page: usually ``"token"``. The
                Authorize button of ``/docs`` then asks for name and password.
            scopes: The scopes that the button offers, each with a description.
            leeway: Seconds by which the clocks of the machines that mint and verify may differ. Default 2.
            scheme_name: The name of the security scheme in OpenAPI.
            description: Its description in OpenAPI.
            **settings: More of :class:`~mlguard.JWTAuth`, such as ``failures``.
        """
        return IssuedTokenAuth(
            self._key,
            algorithms=[self._algorithm],
            issuer=self.issuer,
            audience=self.audience,
            leeway=leeway,
            scheme_name=scheme_name,
            description=description,
            revocations=self.revocations,
            token_url=token_url,
            offered_scopes=scopes,
            clock=self.clock,
            **settings,
        )

    async def access_token(self, subject: str, *, scopes: Collection[str] = (), client_id: str | None = None) -> str:
        """Mint an access token that cannot be refreshed, for a job or another service, say.

        Args:
            subject: ``sub``: the id of whom it is for.
            scopes: What it allows.
            client_id: The program that it is for, if that is known.
        """
        now = self.clock()
        claims = {
            **self._claims(self.audience, _checked_subject(subject), now, now + self._access_lifetime),
            "jti": secrets.token_urlsafe(16),
            **_scope_claim("scope", checked_scopes(scopes, where="scopes")),
            **({} if client_id is None else {"client_id": client_id}),
        }
        [token] = await self._sign((ACCESS, claims))
        record_event("token.issued", subject=subject, jti=claims["jti"], issuer=self.issuer)
        return token

    async def open_session(
        self,
        subject: str,
        *,
        scopes: Collection[str] = (),
        authenticated_at: float | None = None,
        client_id: str | None = None,
        amr: Collection[str] = (),
    ) -> Tokens:
        """Mint the first tokens of a session, for somebody who has just logged in.

        Args:
            subject: ``sub``: the id of whom they are for.
            scopes: What they allow, now and after every refresh.
            authenticated_at: When the login began, in seconds since 1970: what was revoked since then is refused.
                Default: now.
            client_id: The program that they are for, if that is known.
            amr: How the login was proved, such as ``["pwd", "otp"]`` (RFC 8176).

        Raises:
            NotAuthenticatedError: Everything of this subject was revoked since the login began (401).
            StoreFullError: There is no room to remember the session (503).
        """
        session = Session(
            secrets.token_urlsafe(16),
            _checked_subject(subject),
            checked_scopes(scopes, where="scopes"),
            self.clock() if authenticated_at is None else authenticated_at,
            client_id,
            tuple(amr),
        )
        await self._families.begin(session.id, self._refresh_lifetime)
        return await self._mint(session, session.scopes, 0)

    async def refresh(
        self,
        refresh_token: str,
        *,
        scopes: Collection[str] | None = None,
        entitled: Callable[[str], Awaitable[Collection[str] | None]] | None = None,
    ) -> Tokens:
        """Take a refresh token for new tokens. It holds for one use.

        Args:
            refresh_token: The latest one of its session.
            scopes: What the access token shall allow, at most what was granted at the login. Default: all of it.
            entitled: Is called with the subject, and says what it may do now; None if it may not be here any more.

        Raises:
            NotAuthenticatedError: The token does not hold, or its subject may not be here any more (401). If it was
                used before, its whole session has ended.
            InsufficientScopeError: A scope was not granted, or nothing of what is asked for is left (403).
        """
        refresh = self._read_refresh(refresh_token)
        session = refresh.session
        if not self.clock() < min(refresh.expires, self._end_of(session)):
            _refuse("refresh token: expired")
        asked = session.scopes if scopes is None else checked_scopes(scopes, where="scopes")
        granted = asked & session.scopes
        if entitled is not None:
            entitlement = await entitled(session.subject)
            if entitlement is None:
                _refuse(f"refresh token: its subject {session.subject!r} is not let in any more")
            granted &= frozenset(entitlement)
        if not asked <= session.scopes or (asked and not granted):
            raise InsufficientScopeError(f"refresh token of {session.subject!r}: not granted what it asks for")
        now = self.clock()
        lasts = self._end_of(session) - now
        try:
            number = await self._families.advance(
                session.id, refresh.number, ttl=min(self._refresh_lifetime, lasts), end_ttl=lasts
            )
        except ReusedError:
            logger.warning("a refresh token of %r was used twice: its session has ended", session.subject)
            await self._revoke_id(session.id, self._end_of(session))
            raise
        return await self._mint(session, granted, number)

    async def revoke(self, id: str) -> None:  # noqa: A002  # either a jti or a sid
        """Take back an access token by its ``jti``, or a whole session by its ``sid``.

        Args:
            id: ``principal.claims["jti"]`` or ``principal.claims["sid"]``.

        Raises:
            StoreFullError: There is no room to remember it (503).
        """
        lifetime = self._access_lifetime if "." in id else self._longest_lifetime
        await self._revoke_id(id, self.clock() + lifetime)

    async def revoke_token(self, token: str) -> None:
        """Take back a token that somebody hands in (RFC 7009): an access token, or with a refresh token its session.

        Nothing happens for a token that is unknown or has expired.

        Raises:
            StoreFullError: There is no room to remember it (503).
        """
        kind, claims = self._keys.read(token) or ("", {})
        if kind == REFRESH:
            try:
                refresh = self._read_refresh(token)
            except NotAuthenticatedError:
                return
            lasts = self._end_of(refresh.session) - self.clock()
            if self.clock() < refresh.expires and lasts > 0:
                await self._families.end(refresh.session.id, lasts)
                await self._revoke_id(refresh.session.id, self._end_of(refresh.session))
        elif claims.get("iss") == self.issuer:
            # Also if it has expired: a guard may let it in for some time yet.
            await self._revoke_id(claims["jti"], claims["exp"])

    async def revoke_all(self, subject: str) -> None:
        """Take back every token of one subject: access and refresh tokens of all sessions that began up to now.

        Call it when a password was changed, and when somebody is shut out.

        Raises:
            StoreFullError: There is no room to remember it (503).
        """
        await self.revocations.revoke_all(subject, issuer=self.issuer, lifetime=self._longest_lifetime)

    @property
    def _longest_lifetime(self) -> int:
        return max(self._access_lifetime, self._session_lifetime)

    async def _revoke_id(self, id: str, expires_at: float) -> None:  # noqa: A002  # as above
        await self.revocations.revoke(id, issuer=self.issuer, expires_at=expires_at)

    def _end_of(self, session: Session) -> float:
        return session.authenticated_at + self._session_lifetime

    async def _mint(self, session: Session, granted: frozenset[str], number: int) -> Tokens:
        now = self.clock()
        end = self._end_of(session)
        access = {
            **self._claims(self.audience, session.subject, now, min(now + self._access_lifetime, end)),
            "jti": f"{session.id}.{secrets.token_urlsafe(9)}",  # revoked by itself, or with its session
            **_scope_claim("scope", granted),
            **session.claims(),
        }
        refresh = {
            **self._claims(self._refresh_audience, session.subject, now, min(now + self._refresh_lifetime, end)),
            "access_aud": self.audience,  # who signs for several services with one key has an issuer for each
            **refresh_claims(session, number),
        }
        access_token, refresh_token = await self._sign((ACCESS, access), (REFRESH, refresh))
        # Last of all: who is revoked while this runs gets nothing, or tokens from before, which are revoked too.
        if await self.revocations.covers(
            session.id, subject=session.subject, issuer=self.issuer, issued_at=session.authenticated_at
        ):
            _refuse(f"everything of {session.subject!r} was revoked since the login")
        record_event("token.issued", subject=session.subject, jti=access["jti"], issuer=self.issuer, refresh=number)
        return Tokens(access_token, refresh_token, math.floor(access["exp"] - now), granted)

    def _claims(self, audience: str, subject: str, now: float, expires: float) -> dict[str, Any]:
        return {"iss": self.issuer, "aud": audience, "sub": subject, "iat": now, "exp": math.ceil(expires)}

    async def _sign(self, *tokens: tuple[str, Mapping[str, Any]]) -> list[str]:
        def sign() -> list[str]:
            return [self._keys.sign(kind, claims) for kind, claims in tokens]

        return await asyncio.to_thread(sign) if self._keys.is_slow else sign()

    def _read_refresh(self, token: str) -> Refresh:
        kind, claims = self._keys.read(token) or ("", {})
        named = (claims.get("iss"), claims.get("aud"), claims.get("access_aud"))
        if kind != REFRESH or named != (self.issuer, self._refresh_audience, self.audience):
            _refuse("refresh token: not one of this issuer's")
        refresh = read_refresh(claims)
        if refresh is None:
            _refuse("refresh token: not of the form that this issuer writes")
        return refresh

    def __repr__(self) -> str:
        return f"TokenIssuer({self._keys.algorithm}, issuer={self.issuer!r})"


def _refuse(reason: str) -> NoReturn:
    raise NotAuthenticatedError(reason, challenge="Bearer")


def _scope_claim(name: str, scopes: frozenset[str]) -> dict[str, str]:
    return {name: " ".join(sorted(scopes))} if scopes else {}


def _checked_subject(subject: object) -> str:
    if not _is_name(subject):
        raise ValueError("the subject of a token is text that is not empty")
    return str(subject)


def _checked_name(setting: str, value: object) -> str:
    if not _is_name(value):
        raise ConfigurationError(f"TokenIssuer({setting}=...) must be text that is not empty")
    return str(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _checked_seconds(setting: str, value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigurationError(f"TokenIssuer({setting}=...) must be a whole number of seconds between 1 and {most}")
    return value
