"""Brakes on guessing passwords: by address, and by account in a way that shuts nobody out of their own.

A limit by address does not stop many addresses that guess at one account, and a limit by account lets anybody shut its
owner out. So strangers to an account, all together, have one count, and every address from which it was logged in to of
late has a count of its own (the idea of OWASP's device cookies, with addresses in the place of cookies).
"""

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard
from mlguard._order import once
from mlguard.auth._failures import checked_failures
from mlguard.errors import ConfigurationError, StoreFullError
from mlguard.store import Store, store_key
from mlguard.traffic.rate import RateLimit

_BUCKET = "mlguard.login"  # in the scope of a request
#: What is to be ignored by default (Unicode, Default_Ignorable_Code_Point) and is neither a format nor combines.
_IGNORED = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
#: What sorts with another letter in the Unicode Collation Algorithm, and so is the same name to MySQL, without being
#: composed of it.
_ALIKE = str.maketrans({"đ": "d", "ħ": "h", "ł": "l", "ø": "o", "ŧ": "t", "æ": "ae", "œ": "oe"})
_REMEMBERED = 30 * 86_400  # seconds since the last login from an address


class FailureBrake(Guard):
    """Refuses an address with too many failures before the body of its request is read. It counts nothing itself.

    Args:
        failures: The limit on failures.
        store: Where the rest about logins is kept.
    """

    control = Control.RATE_LIMIT

    def __init__(self, failures: RateLimit, store: Store) -> None:
        self._failures = failures
        self.statuses = failures.statuses
        self.stores = (failures.store, store)
        self.suspends = failures.suspends

    async def __call__(self, conn: HTTPConnection) -> None:
        """Refuse if the limit is used up (429)."""
        await once(conn, self, partial(self._failures.ensure_room, conn))

    def __repr__(self) -> str:
        return f"FailureBrake({self._failures!r})"


class LoginBrakes:
    """What failed logins are counted by.

    Args:
        by_account: Limits for one account.
        by_address: Limits for one address, or a ``RateLimit`` that says what an address is.
        issuer: Whose accounts they are.
        store: Where to count.

    Raises:
        ConfigurationError: A limit that cannot be read, or one that needs more than the connection.
    """

    def __init__(
        self, by_account: Sequence[str], by_address: RateLimit | Sequence[str], *, issuer: str, store: Store
    ) -> None:
        self._issuer = issuer
        self._store = store
        limits = _listed("failures_by_account", by_account)
        self._by_account = RateLimit(*limits, by=_bucket_of, name="failed logins by account", store=store)
        if not isinstance(by_address, RateLimit):
            limits = _listed("failures_by_address", by_address)
            by_address = RateLimit(*limits, name="failed logins by address", store=store)
        checked_failures(by_address, where="token_router")
        self._by_address = by_address
        self.guard = FailureBrake(by_address, store)

    async def look_up(self, conn: HTTPConnection, name: str) -> None:
        """Find out by what a login with this name is counted. To be called before anything else."""
        account = _account(name)
        address = str(self._by_address._caller(conn))
        # By the name as it was typed: who has the account "älice" is not known to "alice" for it.
        known = store_key("logged in from", self._issuer, name, address)
        is_known = (await self._store.get(known))[0] is not None
        bucket = store_key("account", self._issuer, account, *([address] if is_known else []))
        conn.scope[_BUCKET] = (bucket.hex(), known)

    async def ensure_room(self, conn: HTTPConnection) -> None:
        """Refuse if there were too many failures.

        Raises:
            RateLimitedError: From this address, or for this account (429).
        """
        await self._by_address.ensure_room(conn)
        await self._by_account.ensure_room(conn)

    async def charge(self, conn: HTTPConnection) -> None:
        """Count a failure."""
        await self._by_address.charge(conn)
        await self._by_account.charge(conn)

    async def remember(self, conn: HTTPConnection) -> None:
        """Remember that this address has logged in to this account. That takes back no failure."""
        _, known = conn.scope[_BUCKET]
        with suppress(StoreFullError):  # a convenience, for which nobody is refused
            await self._store.put(known, b"", _REMEMBERED)


def _bucket_of(conn: HTTPConnection) -> str:
    bucket: str = conn.scope[_BUCKET][0]
    return bucket


def _account(name: str) -> str:
    """One spelling for all those that some database may take for the same name.

    They differ in case, accents, strokes, width, white space and what cannot be seen. Else each spelling would be
    another count for the same account.
    """
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    seen = _IGNORED.sub("", letters).translate(_ALIKE)
    return "".join(one for one in seen if one.isprintable() and not one.isspace() and not unicodedata.combining(one))


def _listed(setting: str, limits: object) -> Sequence[str]:
    if isinstance(limits, str) or not isinstance(limits, Sequence):
        raise ConfigurationError(f'token_router({setting}=...) is a list of limits, such as ["10/15 minutes"]')
    return limits
