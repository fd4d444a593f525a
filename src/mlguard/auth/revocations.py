"""Tokens that were taken back before they expired, in the shared store."""

import math
import time
from collections.abc import Callable

from mlguard.errors import ConfigurationError
from mlguard.monitoring.events import record_event
from mlguard.store import Store, default_store, store_key

#: Seconds by which a JWTAuth may let clocks differ: "no more than a few minutes", RFC 7519, section 4.1.4. So much
#: longer than its token's ``exp`` a revocation is kept, or the token would hold once more.
MAX_LEEWAY = 300.0


class Revocations:
    """Which tokens no longer hold, although they have not expired.

    Kept in the shared store, so that a token that was revoked in one process is refused in all that share the store.
    The store holds digests: no token ids and no names.

    Args:
        store: Where they are kept. The process's own by default, which other processes do not see.
        clock: Seconds since 1970; for tests.

    Raises:
        ConfigurationError: ``store`` is no store.
    """

    def __init__(self, *, store: Store | None = None, clock: Callable[[], float] = time.time) -> None:
        self.store = default_store() if store is None else store
        if not isinstance(self.store, Store):
            raise ConfigurationError("Revocations(store=...) must be a mlguard store, such as MemoryStore()")
        self._clock = clock
        self.suspends = self.store.suspends

    async def revoke(self, jti: str, *, issuer: str | None, expires_at: float) -> None:
        """Revoke one token, by its ``jti``, or a whole family of tokens.

        Args:
            jti: The token's id. Of an id such as ``"family.token"``, the part before the dot revokes the whole family:
                those tokens of one session that a ``TokenIssuer`` has minted.
            issuer: Its ``iss``.
            expires_at: Its ``exp``, in seconds since 1970. Until then, and for as long as a guard may let clocks
                differ, the revocation is kept.

        Raises:
            ValueError: ``expires_at`` is not finite.
            StoreFullError: There is no room to remember it (503).
        """
        if not math.isfinite(expires_at):
            raise ValueError("expires_at must be seconds since 1970")
        ttl = expires_at + MAX_LEEWAY - self._clock()
        if ttl > 0:
            await self.store.put(_token_key(jti, issuer), b"", ttl)
            record_event("token.revoked", jti=jti, issuer=issuer)

    async def revoke_all(self, subject: str, *, issuer: str | None, lifetime: float) -> None:
        """Revoke all tokens of one subject that were issued up to now: when the store has taken it.

        Args:
            subject: The tokens' ``sub``.
            issuer: Their ``iss``.
            lifetime: Seconds after which the last of them has expired. For so long, and for as long as a guard may
                let clocks differ, the revocation is kept; an earlier one that lasts longer goes on to.

        Raises:
            ValueError: ``lifetime`` is not a positive, finite number.
            StoreFullError: There is no room to remember it (503).
        """
        await self.erase(subject, issuer=issuer, lifetime=lifetime)
        record_event("token.revoked", subject=subject, issuer=issuer)

    async def erase(self, subject: str, *, issuer: str | None, lifetime: float) -> None:
        """The same as :meth:`revoke_all`, and the log for audits is not told whose: for who is to be erased."""
        if not 0 < lifetime < math.inf:
            raise ValueError("lifetime must be a positive number of seconds")
        key = _subject_key(subject, issuer)
        began = await self._revoke_until_now(key, lifetime)
        # Tokens that were issued while this was on its way to the store are refused too: who issued them looked there
        # before it had arrived.
        if self._clock() > began:
            await self._revoke_until_now(key, lifetime)

    async def _revoke_until_now(self, key: bytes, lifetime: float) -> float:
        while True:
            now = self._clock()
            (known,) = await self.store.get(key)
            until, kept_until = now, now + lifetime + MAX_LEEWAY
            if known is not None:
                known_until, known_kept_until = map(float, known.split())
                until, kept_until = max(until, known_until), max(kept_until, known_kept_until)
            if await self.store.swap(key, known, f"{until!r} {kept_until!r}".encode(), kept_until - now):
                return now

    async def covers(self, jti: str | None, *, subject: str, issuer: str | None, issued_at: float | None) -> bool:
        """Whether a token was revoked. One that does not say when it was issued falls with all of its subject's.

        Args:
            jti: The token's id, if it has one.
            subject: Its ``sub``.
            issuer: Its ``iss``.
            issued_at: Its ``iat``, in seconds since 1970, if it has one.
        """
        return await self.cover_any(revocation_keys(jti, subject=subject, issuer=issuer), issued_at)

    async def cover_any(self, keys: tuple[bytes, ...], issued_at: float | None) -> bool:
        """The same, for one who asks about a token again and again: with the keys of :func:`revocation_keys`."""
        found = await self.store.get(*keys)
        if found.count(None) == len(found):  # nearly always
            return False
        all_until, *this = found
        if any(revoked is not None for revoked in this):
            return True
        return all_until is not None and (-math.inf if issued_at is None else issued_at) <= float(all_until.split()[0])


def revocation_keys(jti: str | None, *, subject: str, issuer: str | None) -> tuple[bytes, ...]:
    """Under which keys of the store a token may have been revoked: its subject's, its own, and its session's.

    An id such as ``"session.token"`` falls with ``"session"``.
    """
    keys = [_subject_key(subject, issuer)]
    if jti is not None:
        keys.append(_token_key(jti, issuer))
        session, dot, _ = jti.partition(".")
        if dot:
            keys.append(_token_key(session, issuer))
    return tuple(keys)


def _token_key(jti: str, issuer: str | None) -> bytes:
    return store_key("revoked token", *_issuer_parts(issuer), jti)


def _subject_key(subject: str, issuer: str | None) -> bytes:
    return store_key("revoked subject", *_issuer_parts(issuer), subject)


def _issuer_parts(issuer: str | None) -> tuple[str, ...]:
    return ("no issuer",) if issuer is None else ("issuer", issuer)
