"""API keys: who may call, kept as digests."""

import hmac
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import NoReturn

from fastapi.openapi.models import APIKey as APIKeyScheme
from fastapi.openapi.models import APIKeyIn
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal, RequestMemory
from mlguard._order import is_its_turn, judge, once
from mlguard.auth._failures import checked_failures, with_failures
from mlguard.auth._key_table import KeyTable
from mlguard.auth._last_used import LastUsed
from mlguard.auth._rotating_keys import api_keys_of
from mlguard.auth._watched_file import FileHealth, WatchedFile
from mlguard.auth.key_files import file_format, read_keys
from mlguard.auth.key_format import claims_form, is_test_key, is_whole
from mlguard.auth.key_records import LIVE, APIKey, refuse_quotes
from mlguard.errors import ConfigurationError, NotAuthenticatedError
from mlguard.secrets.rotating import Derived, Rotating, Values
from mlguard.settings import load_settings
from mlguard.store import Store
from mlguard.traffic.rate import RateLimit

__all__ = ["APIKey", "APIKeyAuth", "APIKeys", "require_api_key"]

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}", re.ASCII)
_MOST = 8_192  # bytes of a key that are looked at
_NO_DIGEST = bytes(32)


class APIKeys:
    """The keys that are live.

    Args:
        keys: Records from :meth:`APIKey.generate`, or entries as :meth:`APIKey.parse` reads them.
        store: Where it is kept when each key was last used. None is the store that all guards share.

    Raises:
        ConfigurationError: No key, a secret that is listed twice, or an entry that cannot work.
    """

    def __init__(self, keys: Iterable[APIKey | str], *, store: Store | None = None) -> None:
        if isinstance(keys, str | bytes | Mapping) or not isinstance(keys, Iterable):
            raise ConfigurationError(
                "APIKeys takes a list of keys, such as [f'alice={secret}']; for text with commas use APIKeys.from_env, "
                "for a file APIKeys.from_file, for a secret that changes APIKeys.from_secret"
            )
        table = KeyTable()
        for number, key in enumerate(keys, start=1):
            record = key if isinstance(key, APIKey) else APIKey.parse(key, where=f"APIKeys, entry {number}")
            if not table.add(record):
                raise ConfigurationError(f"APIKeys: entry {number} has the same secret or key id as an earlier one")
        if not table:
            raise ConfigurationError("APIKeys needs at least one key; make one with APIKey.generate")
        self._hold(table, store)

    def _hold(self, table: KeyTable, store: Store | None) -> None:
        if store is not None and not isinstance(store, Store):
            raise ConfigurationError("APIKeys(store=...) must be a Store, such as MemoryStore()")
        self._table = table
        self._changing: WatchedFile[KeyTable] | Derived[KeyTable] | None = None
        self._health = FileHealth(ok=True, loaded_at=datetime.now(UTC))
        self._last_used = LastUsed(store)
        self.note_use = self._last_used.note
        self._takes_test_keys = load_settings().env != "production"

    @classmethod
    def from_env(cls, name: str = "MLGUARD_API_KEYS", *, store: Store | None = None) -> "APIKeys":
        """Read the keys from an environment variable: entries separated by commas.

        ``MLGUARD_API_KEYS`` is read from where ``MLGUARD_SECRETS`` says, if the environment does not have it.

        Args:
            name: The variable. Each entry is ``secret``, ``id=secret`` or ``id=sha256:<hex>``, with ``;scope`` behind
                it for each scope. A secret without an id is a principal of its own, with a stable id that reveals
                nothing; it may not end in ``=``.
            store: Where it is kept when each key was last used. None is the store that all guards share.

        Raises:
            ConfigurationError: The variable is unset or empty, or an entry cannot work. No value is quoted.
        """
        if name == "MLGUARD_API_KEYS":
            text = load_settings().secret("api_keys").get_secret_value()
        else:
            text = os.environ.get(name, "") if isinstance(name, str) and name.isascii() else ""
        if not text.strip():
            # from_env(os.environ[...]) passes the keys in the place of the name.
            known = isinstance(name, str) and _VARIABLE.fullmatch(name)
            called = name if known else "the variable with the name that APIKeys.from_env was given"
            raise ConfigurationError(
                f"{called} is not set; give it one or more keys separated by commas, for example the output of: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        refuse_quotes(text, name)
        entries = [entry.strip() for entry in text.split(",")]
        keys = [APIKey.parse(entry, where=f"{name}, entry {n}") for n, entry in enumerate(entries, start=1)]
        return cls(keys, store=store)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str] | None = None, *, store: Store | None = None) -> "APIKeys":
        """Read the keys from a file, and again whenever it changes, without a restart.

        A change is in effect within a second; with 100 000 keys, within two. A file that cannot be used, or is gone,
        leaves the keys that were read before in effect: one line in the log says so, and :attr:`health`. ``mlguard
        keys`` writes such files.

        Args:
            path: A ``.toml`` or ``.json`` file of digests. None: ``MLGUARD_API_KEYS_FILE``.
            store: Where it is kept when each key was last used. None is the store that all guards share.

        Raises:
            ConfigurationError: The file cannot be read now, holds a secret, no key or an entry that cannot work, or, in
                production, every user of the machine may write to it. Nothing of the file is quoted.
        """
        settings = load_settings()
        chosen = settings.api_keys_file if path is None else path
        if not chosen:
            raise ConfigurationError("APIKeys.from_file needs a path, or MLGUARD_API_KEYS_FILE")
        suffix = file_format(chosen)
        keys = cls.__new__(cls)
        keys._hold(KeyTable(), store)
        last_used = keys._last_used  # and not keys itself, which holds the file

        def read(content: bytes, breathe: Callable[[], None]) -> KeyTable:
            table = read_keys(content, suffix, breathe)
            last_used.forget_all_but(table)
            return table

        keys._changing = WatchedFile(chosen, read, what="API keys", production=settings.env == "production")
        return keys

    @classmethod
    def from_secret(cls, secret: Rotating, *, store: Store | None = None) -> "APIKeys":
        """Read the keys from a secret that changes, and follow it without a restart.

        The secret has entries as ``MLGUARD_API_KEYS`` has, separated by commas or line ends. A change is in effect once
        the secret is read again. Who has left the list is refused from then on, and so is a secret that has left it: to
        let a caller move over in peace, list both for a while. Only where the one secret of an id was replaced by one
        other is the old one accepted for the ``overlap`` of the secret; it gives what the new one gives, and no more.

        Args:
            secret: The secret.
            store: Where it is kept when each key was last used. None is the store that all guards share.

        Raises:
            ConfigurationError: An entry cannot work, or there is none. No value is quoted. A change to such a value
                does not take effect: the log and :attr:`health` say so.
        """
        if not isinstance(secret, Rotating):
            raise ConfigurationError("APIKeys.from_secret takes Rotating(source, name)")
        keys = cls.__new__(cls)
        keys._hold(KeyTable(), store)
        last_used = keys._last_used  # and not keys itself, which holds the secret

        where = f"the secret {secret.name!r}"

        def read(values: Values) -> KeyTable:
            table = api_keys_of(values, where=where)
            last_used.forget_all_but(table)
            return table

        keys._changing = secret.derive(read)
        return keys

    @property
    def is_rotating(self) -> bool:
        """Whether they come from a secret that may become too old to be used."""
        return isinstance(self._changing, Derived)

    @property
    def health(self) -> FileHealth:
        """Whether the keys in effect are what their file or secret says: ``ok``, ``loaded_at`` and ``error``.

        Always so where they come from neither.
        """
        return self._health if self._changing is None else self._changing.health

    def refresh(self) -> None:
        """Look at the file now, and read it if it has changed. It is looked at five times a second anyway.

        A secret is read in any case. That blocks until it was.
        """
        if self._changing is not None:
            self._changing.refresh()

    def find(self, secret: bytes) -> APIKey | None:
        """The key with this secret, if there is one.

        What begins as mlguard's own keys do, and is not whole or is a test key in production, is not looked up. The
        look-up is by digest, so its timing depends on nothing an attacker can steer towards a live secret; the digests
        are then compared in constant time. No key is longer than 8 KiB.
        """
        if len(secret) > _MOST:  # hashing it is work that nobody should be able to ask for
            return None
        table = self._table if self._changing is None else self._changing.value
        digest = sha256(secret).digest()
        record = table.used.get(digest)
        if record is None:
            if self._why_refused(secret) is None:
                record = table.get(digest)
            if record is not None:
                table.used[digest] = record
        if not hmac.compare_digest(_NO_DIGEST if record is None else record.digest, digest):
            return None
        return record

    async def last_used(self, key: APIKey | str) -> datetime | None:
        """When a key was last used, to the minute, as far as the store knows.

        Args:
            key: A record, the id of a caller (then the latest of all their keys) or a ``key_id``.

        Returns:
            None if it was not used within the last 400 days. With the store in memory: not in this process.
        """
        if isinstance(key, APIKey):
            return await self._last_used.read([key])
        return await self._last_used.read(self._live().named(key))

    def why_unknown(self, secret: bytes) -> str:
        """Why :meth:`find` found nothing, for the operator's log."""
        return self._why_refused(secret) or "unknown API key"

    def _why_refused(self, secret: bytes) -> str | None:
        """Why a key need not be looked up, if so."""
        if not claims_form(secret):
            return None
        if not is_whole(secret):
            return "malformed API key"
        return None if self._takes_test_keys or not is_test_key(secret) else "test key in production"

    def _live(self) -> KeyTable:
        return self._table if self._changing is None else self._changing.value

    def __iter__(self) -> Iterator[APIKey]:
        return iter(self._live())

    def __len__(self) -> int:
        return len(self._live())

    def __repr__(self) -> str:
        return f"APIKeys({len(self)} keys)"


class APIKeyAuth(SecurityBase, Guard):
    """Demands an API key in a header.

    Guards against anonymous and unentitled use. Use it with ``Depends(caller)``, or with
    ``Security(caller, scopes=["predict"])`` to demand scopes as well.

    Args:
        keys: The live keys, or a function that loads them on first use (and at start-up under ``harden``).
        header: The header that carries the key.
        failures: A limit on failed credentials, such as ``RateLimit("10/minute", name="failures")``, by address or by a
            plain function of the connection. Judged before anything else. Only failures count, and a success erases
            none. Several guards may share one. Default: none.
        scheme_name: Name of the scheme in OpenAPI.
        description: Text of the scheme in OpenAPI.
        clock: Seconds since the epoch, for expiry.

    Returns:
        Called by FastAPI: the :class:`Principal`, with ``method="api-key"``.

    Raises:
        ConfigurationError: The header's name is empty or no token (RFC 9110, section 5.1).
        NotAuthenticatedError: No key, several, or one that is malformed, unknown, expired, not yet valid, disabled, or
            a test key in production: always the same 401.
        InsufficientScopeError: The key lacks a scope (403).
        RateLimitedError: Too many failures (429).
        KeysUnavailableError: The keys come from a secret that could not be read for too long (503).
    """

    control = Control.AUTHENTICATION
    statuses: tuple[int, ...] = (401, 403)
    challenge = "APIKey"

    def __init__(
        self,
        keys: APIKeys | Callable[[], APIKeys],
        *,
        header: str = "X-API-Key",
        failures: RateLimit | None = None,
        scheme_name: str | None = None,
        description: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", header, re.ASCII):
            raise ConfigurationError("APIKeyAuth(header=...) must be the name of a header, such as 'X-API-Key'")
        if not isinstance(keys, APIKeys) and not callable(keys):
            raise ConfigurationError(
                "APIKeyAuth takes APIKeys([...]), APIKeys.from_env(), APIKeys.from_file(path) or "
                "APIKeys.from_secret(Rotating(source, name))"
            )
        self._keys = keys
        self._header = header.lower().encode()
        #: The header that carries the credential, and how it begins. For ``AnyAuth``.
        self.credential = (self._header, b"")
        self._failures = checked_failures(failures, where="APIKeyAuth")
        if isinstance(keys, APIKeys) and keys.is_rotating:
            self.statuses = (401, 403, 503)
        if failures is not None:
            self.statuses = tuple(sorted({*self.statuses, *failures.statuses}))
        self._clock = clock
        self.suspends = failures is not None and failures.suspends
        self.stores = failures.stores if failures is not None else ()
        self.header = header
        self.model = APIKeyScheme.model_validate({"in": APIKeyIn.header, "name": header, "description": description})
        self.scheme_name = scheme_name or type(self).__name__

    @property
    def keys(self) -> APIKeys:
        """The live keys, loaded on first use."""
        if not isinstance(self._keys, APIKeys):
            self._keys = self._keys()
        return self._keys

    def check(self) -> None:
        """Load the keys now, so that a missing setting stops the start-up and not the first request."""
        len(self.keys)

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        """Prove who is calling, and check the scopes."""
        if self._failures is None:
            memory = RequestMemory.of(conn.scope)
            if not is_its_turn(memory):
                await judge(conn, memory)
            principal: Principal = memory.decide(self, self._prove, conn)  # no coroutine: it waits for nothing
        else:
            principal = await once(conn, self, lambda: with_failures(conn, self._failures, lambda: self._attempt(conn)))
        principal.require(security_scopes, challenge="APIKey")
        return principal

    async def _attempt(self, conn: HTTPConnection) -> Principal:
        return self._prove(conn)

    def _prove(self, conn: HTTPConnection) -> Principal:
        # Raw bytes: a header such as b"\xe9" is no str that compare_digest could take.
        wanted = self._header
        secret: bytes | None = None
        for name, value in conn.scope["headers"]:
            if name == wanted:
                if secret is not None:
                    self._refuse(f"several {self.header} headers")
                secret = value
        if secret is None:
            self._refuse(f"no {self.header} header")
        keys = self._keys
        if not isinstance(keys, APIKeys):
            keys = self.keys
        record = keys.find(secret)
        if record is None:
            self._refuse(keys.why_unknown(secret))
        now = self._clock()
        state = record.state(now)
        if state != LIVE:
            self._refuse(f"API key {record.key_id} of {record.id!r} is {state}")
        keys.note_use(record, now)
        return record.principal

    def _refuse(self, reason: str) -> NoReturn:
        raise NotAuthenticatedError(reason, challenge="APIKey")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(header={self.header!r})"


def _configured_keys() -> APIKeys:
    """The keys from wherever the environment says they are."""
    settings = load_settings()
    if not settings.api_keys_file:
        return APIKeys.from_env()
    if settings.api_keys.get_secret_value():
        raise ConfigurationError("MLGUARD_API_KEYS and MLGUARD_API_KEYS_FILE are both set; keep one of them")
    return APIKeys.from_file()


#: Demands one of the keys in ``MLGUARD_API_KEYS`` or in the file ``MLGUARD_API_KEYS_FILE``. Importing it reads nothing;
#: the first request, or the start-up under ``harden``, does.
require_api_key = APIKeyAuth(_configured_keys)
