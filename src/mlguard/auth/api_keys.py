"""API keys: who may call, kept as digests."""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from fastapi.openapi.models import APIKey as APIKeyScheme
from fastapi.openapi.models import APIKeyIn
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal
from mlguard._order import once
from mlguard.auth._failures import checked_failures, with_failures
from mlguard.auth._stand_ins import HASH_NAME, is_digest_of_a_common_word
from mlguard.auth.secrets import check_strength
from mlguard.errors import ConfigurationError, NotAuthenticatedError
from mlguard.traffic.rate import RateLimit

_ID = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)
_SCOPE = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)
_SECRET = re.compile(r"[!-+\--:<-~]{1,512}", re.ASCII)  # visible ASCII but "," and ";", which separate entries
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}", re.ASCII)
_NO_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True)
class APIKey:
    """What the service keeps of a key: a digest, no secret.

    Attributes:
        id: Names the caller. Several keys may carry one id, so that a secret can be replaced while the old one lives.
        digest: SHA-256 of the secret. A fast hash is right here: the secret has 128 bits or more, so it cannot be
            searched, unlike a password.
        scopes: What the caller may do.
        expires_at: From when on the key is refused; None for never.
        principal: Whom the key proves.
    """

    id: str
    digest: bytes = field(repr=False)
    scopes: frozenset[str] = frozenset()
    expires_at: datetime | None = None
    principal: Principal = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Nothing is quoted: in a mistyped entry, a secret can stand in any place.
        if not _matches(_ID, self.id):
            raise ConfigurationError("an API key's id is text of 1 to 64 letters, digits, '.', '_', '@' and '-'")
        if HASH_NAME.fullmatch(self.id):
            raise ConfigurationError(
                "an API key's id is the name of a hash: write a digest as id=sha256:<64 hex digits>"
            )
        if not isinstance(self.digest, bytes) or len(self.digest) != 32:
            raise ConfigurationError("an API key's digest must be the 32 bytes of a SHA-256")
        if is_digest_of_a_common_word(self.digest):
            raise ConfigurationError(
                "an API key's digest is that of a common word, so everybody knows its secret: use APIKey.generate"
            )
        if isinstance(self.scopes, str) or not isinstance(self.scopes, Collection):
            raise ConfigurationError("an API key's scopes are a set of names, such as {'predict'}, not one text")
        if not all(_matches(_SCOPE, scope) for scope in self.scopes):
            raise ConfigurationError("an API key's scope has 1 to 64 letters, digits, '.', '_', ':', '/' and '-'")
        object.__setattr__(self, "scopes", frozenset(self.scopes))
        if self.expires_at is not None and (
            not isinstance(self.expires_at, datetime) or self.expires_at.tzinfo is None
        ):
            raise ConfigurationError("an API key's expiry is a datetime with a time zone, such as datetime.UTC")
        object.__setattr__(self, "principal", Principal(self.id, self.scopes, method="api-key"))

    @classmethod
    def generate(
        cls,
        id: str,  # noqa: A002  # the field's name
        *,
        scopes: Collection[str] = (),
        expires_at: datetime | None = None,
    ) -> tuple["APIKey", str]:
        """Make a key for somebody.

        Args:
            id: Names the caller.
            scopes: What the caller may do.
            expires_at: From when on the key is refused, with a time zone.

        Returns:
            The record to keep, and the secret (256 bits) to hand out, once: it cannot be had again.
        """
        secret = "mlg_" + secrets.token_urlsafe(32)
        # The constructor checks the scopes, and makes a set of them.
        return cls(id, _digest(secret.encode()), scopes, expires_at), secret  # type: ignore[arg-type]  # see above

    @classmethod
    def parse(cls, entry: str, *, where: str = "APIKeys") -> "APIKey":
        """Read an entry: ``secret``, ``id=secret`` or ``id=sha256:<hex>``, then ``;scope`` for each scope.

        ``;expires=2027-01-31T00:00:00+00:00`` sets the expiry. A secret that ends in ``=`` needs an id before it.

        Raises:
            ConfigurationError: The entry is malformed or its secret is weak. The text never quotes the entry.
        """
        if not isinstance(entry, str):
            raise ConfigurationError(
                f"{where}: an entry must be text, such as f'alice={{secret}}', or a record of APIKey.generate"
            )
        credential, *options = (part.strip() for part in entry.split(";"))
        name, rest = _split(credential)
        if not rest.strip("="):
            # What is left of id=$SECRET where the variable is unset must not become the secret.
            raise ConfigurationError(
                f"{where}: an entry has no secret behind its id; write id=secret, also for a secret that ends in ="
            )
        if given := _DIGEST.fullmatch(rest):
            digest = bytes.fromhex(given[1])
        elif _SECRET.fullmatch(rest):
            check_strength(rest.encode(), where=where)
            digest = _digest(rest.encode())
        else:
            raise ConfigurationError(
                f"{where}: an entry is not of the form secret, id=secret or id=sha256:<64 hex digits>, "
                "with ;scope behind it for each scope, entries separated by commas"
            )
        scopes = frozenset(option for option in options if not option.startswith("expires="))
        dates = [option.removeprefix("expires=") for option in options if option.startswith("expires=")]
        if len(dates) > 1:
            raise ConfigurationError(f"{where}: an entry has one expires= at most")
        expires_at = _date(dates[0]) if dates else None
        if dates and expires_at is None:
            raise ConfigurationError(f"{where}: expires= takes an ISO 8601 date and time with a zone")
        try:
            return cls(_anonymous_id(digest) if name is None else name, digest, scopes, expires_at)
        except ConfigurationError as error:
            fault = str(error)
        # Raised out here: what is raised above would come along as its context.
        raise ConfigurationError(f"{where}: {fault}")

    @property
    def entry(self) -> str:
        """The text form, for ``MLGUARD_API_KEYS`` or a file: the digest, no secret."""
        parts = [f"{self.id}=sha256:{self.digest.hex()}", *sorted(self.scopes)]
        if self.expires_at is not None:
            parts.append(f"expires={self.expires_at.isoformat()}")
        return ";".join(parts)


def _split(credential: str) -> tuple[str | None, str]:
    """The id and the secret of ``id=secret``; None for a secret alone."""
    name, equals, rest = credential.partition("=")
    return (name, rest) if equals else (None, credential)


def _date(text: str) -> datetime | None:
    with suppress(ValueError):  # which quotes the text, and that can be a secret in the wrong place
        return datetime.fromisoformat(text)
    return None


def _matches(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _anonymous_id(digest: bytes) -> str:
    """A stable name for a key without one. From the digest, once more hashed, so that it says nothing about either."""
    return "key-" + hashlib.sha256(b"mlguard key id\0" + digest).hexdigest()[:12]


class APIKeys:
    """The keys that are live.

    Args:
        keys: Records from :meth:`APIKey.generate`, or entries as :meth:`APIKey.parse` reads them.

    Raises:
        ConfigurationError: No key, a secret that is listed twice, or an entry that cannot work.
    """

    def __init__(self, keys: Iterable[APIKey | str]) -> None:
        self._by_digest: dict[bytes, APIKey] = {}
        if isinstance(keys, str | bytes | Mapping) or not isinstance(keys, Iterable):
            raise ConfigurationError(
                "APIKeys takes a list of keys, such as [f'alice={secret}']; for text with commas use APIKeys.from_env"
            )
        for number, key in enumerate(keys, start=1):
            record = key if isinstance(key, APIKey) else APIKey.parse(key, where=f"APIKeys, entry {number}")
            if record.digest in self._by_digest:
                raise ConfigurationError(f"APIKeys: entry {number} has the same secret as an earlier one")
            self._by_digest[record.digest] = record
        if not self._by_digest:
            raise ConfigurationError("APIKeys needs at least one key; make one with APIKey.generate")

    @classmethod
    def from_env(cls, name: str = "MLGUARD_API_KEYS") -> "APIKeys":
        """Read the keys from an environment variable: entries separated by commas.

        Args:
            name: The variable. Each entry is ``secret``, ``id=secret`` or ``id=sha256:<hex>``, with ``;scope`` behind
                it for each scope. A secret without an id is a principal of its own, with a stable id that reveals
                nothing; it may not end in ``=``.

        Raises:
            ConfigurationError: The variable is unset or empty, or an entry cannot work. No value is quoted.
        """
        text = os.environ.get(name, "") if isinstance(name, str) and name.isascii() else ""
        if not text.strip():
            # from_env(os.environ[...]) passes the keys in the place of the name.
            called = name if _matches(_VARIABLE, name) else "the variable with the name that APIKeys.from_env was given"
            raise ConfigurationError(
                f"{called} is not set; give it one or more keys separated by commas, for example the output of: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        entries = [entry.strip() for entry in text.split(",")]
        return cls(APIKey.parse(entry, where=f"{name}, entry {n}") for n, entry in enumerate(entries, start=1))

    def find(self, secret: bytes) -> APIKey | None:
        """The key with this secret, if there is one.

        The look-up is by digest, so its timing depends on nothing an attacker can steer towards a live secret; the
        digests are then compared in constant time.
        """
        digest = _digest(secret)
        record = self._by_digest.get(digest)
        if not hmac.compare_digest(record.digest if record else _NO_DIGEST, digest):
            return None
        return record

    def __len__(self) -> int:
        return len(self._by_digest)

    def __repr__(self) -> str:
        return f"APIKeys({len(self)} live)"


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
        NotAuthenticatedError: No key, several, or one that is unknown or expired: always the same 401.
        InsufficientScopeError: The key lacks a scope (403).
        RateLimitedError: Too many failures (429).
    """

    control = Control.AUTHENTICATION
    statuses = (401, 403)
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
            raise ConfigurationError("APIKeyAuth takes APIKeys([...]) or APIKeys.from_env()")
        self._keys = keys
        self._header = header.lower().encode()
        #: The header that carries the credential, and how it begins. For ``AnyAuth``.
        self.credential = (self._header, b"")
        self._failures = checked_failures(failures, where="APIKeyAuth")
        self._clock = clock
        self.suspends = failures is not None and failures.suspends
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
        principal = await once(
            conn, self, lambda: with_failures(conn, self._failures, lambda: self._authenticate(conn))
        )
        principal.require(security_scopes, challenge="APIKey")
        return principal

    async def _authenticate(self, conn: HTTPConnection) -> Principal:
        # Raw bytes: a header such as b"\xe9" is no str that compare_digest could take.
        given = [value for name, value in conn.scope["headers"] if name == self._header]
        if len(given) != 1:
            self._refuse(f"{len(given)} {self.header} headers" if given else f"no {self.header} header")
        record = self.keys.find(given[0])
        if record is None:
            self._refuse("unknown API key")
        if record.expires_at is not None and record.expires_at <= datetime.fromtimestamp(self._clock(), UTC):
            self._refuse(f"API key of {record.id!r} has expired")
        return record.principal

    def _refuse(self, reason: str) -> NoReturn:
        raise NotAuthenticatedError(reason, challenge="APIKey")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(header={self.header!r})"


#: Demands one of the keys in ``MLGUARD_API_KEYS``. Importing it reads nothing; the first request, or the start-up under
#: ``harden``, does.
require_api_key = APIKeyAuth(APIKeys.from_env)
