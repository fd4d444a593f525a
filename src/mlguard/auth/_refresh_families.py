"""Which refresh token of a session is the next one to be accepted.

A session's refresh tokens are numbered, and the store keeps one number for all of them: a stolen token that is used
after its owner has gone on, or before, shows as a number that is not the next (RFC 9700, section 4.14.2). That costs
one small record a session, however often it is refreshed.
"""

from collections.abc import Callable

from mlguard.errors import NotAuthenticatedError
from mlguard.store import Store, store_key

_ENDED = b"ended"


class ReusedError(NotAuthenticatedError):
    """A refresh token was used that is not the latest of its family. The family has been ended (401)."""


class RefreshFamilies:
    """The families of one issuer's refresh tokens.

    Args:
        store: Where their records are.
        issuer: Whose they are.
        grace: Seconds for which the last token but one is taken for a retry; 0 for none.
        clock: Seconds since 1970.
    """

    def __init__(self, store: Store, issuer: str, *, grace: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._issuer = issuer
        self._grace = grace
        self._clock = clock

    async def begin(self, family: str, ttl: float) -> None:
        """Expect token 0 of a new family.

        Raises:
            StoreFullError: There is no room to remember it (503).
        """
        await self._store.put(self._key(family), self._record(0), ttl)

    async def advance(self, family: str, number: int, *, ttl: float, end_ttl: float) -> int:
        """Use a token. Of all who use the same one, exactly one gets on.

        Args:
            family: The family.
            number: The token's number.
            ttl: Seconds for which the next token will hold.
            end_ttl: Seconds in which every token of the family will have expired.

        Returns:
            The number of the next token.

        Raises:
            ReusedError: It is not the one that is expected. Now none is any more (401).
            NotAuthenticatedError: The family is unknown, has expired or was ended (401).
        """
        key = self._key(family)
        record = await self._get(key)
        if _number(record) == number:
            if await self._store.swap(key, record, self._record(number + 1), ttl):
                return number + 1
            record = await self._get(key)  # somebody else was first
        expected = _number(record)
        if expected is None:
            raise NotAuthenticatedError("refresh token: its session has ended or expired", challenge="Bearer")
        if number == expected - 1 and self._is_retry(record):
            return expected
        await self.end(family, end_ttl)
        raise ReusedError("refresh token: used a second time, so its session was ended", challenge="Bearer")

    async def end(self, family: str, ttl: float) -> None:
        """Accept no token of a family any more. Needs no room in the store if the family is known there."""
        await self._store.put(self._key(family), _ENDED, ttl)

    async def _get(self, key: bytes) -> bytes | None:
        return (await self._store.get(key))[0]

    def _key(self, family: str) -> bytes:
        return store_key("refresh family", self._issuer, family)

    def _record(self, expected: int) -> bytes:
        return f"{expected} {self._clock()!r}".encode()

    def _is_retry(self, record: bytes | None) -> bool:
        since = float((record or b"0 inf").split()[1])
        return 0 <= self._clock() - since < self._grace


def _number(record: bytes | None) -> int | None:
    """The number of the token that is expected; None where none is."""
    return None if record is None or record == _ENDED else int(record.split()[0])
