"""What the service keeps of an API key: a digest and what the key may do, no secret."""

import functools
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from mlguard._guard import Principal
from mlguard.auth._stand_ins import HASH_NAME, is_digest_of_a_common_word
from mlguard.auth.key_format import ENVIRONMENTS, Environment, claims_form, is_whole, make_key
from mlguard.auth.secrets import check_strength
from mlguard.errors import ConfigurationError
from mlguard.traffic.limits import limits_of

ID = re.compile(rf"(?!(?i:{HASH_NAME.pattern})(?![A-Za-z0-9._@-]))[A-Za-z0-9._@-]{{1,64}}", re.ASCII)
KEY_ID = re.compile(r"[A-Za-z0-9-]{1,32}", re.ASCII)
_SCOPE = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)
_SECRET = re.compile(r"[!-+\--:<-~]{1,512}", re.ASCII)  # visible ASCII but "," and ";", which separate entries
DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_OPTIONS = frozenset({"key", "expires", "not_before", "disabled", "limit"})
_MAX_KNOWN = 1_024  # different sets of scopes that need not be checked again

#: What one state is called in logs and lists.
LIVE = "live"


@dataclass(frozen=True, slots=True)
class APIKey:
    """What the service keeps of a key: a digest, no secret.

    Attributes:
        id: Names the caller. Several keys may carry one id, so that a secret can be replaced while the old one lives.
        digest: SHA-256 of the secret. A fast hash is right here: the secret has 128 bits or more, so it cannot be
            searched, unlike a password.
        scopes: What the caller may do.
        expires_at: From when on the key is refused; None for never.
        not_before: Until when the key is refused; None for not at all.
        disabled: Whether the key is refused whatever the time.
        limits: The caller's own limits, such as ``("600/minute",)``, by which a ``RateLimit`` by this caller counts
            instead of by its own. Empty: the ``RateLimit``'s.
        key_id: Names this one key, in the key itself and in lists. Of a key that carries none, made from the digest.
    """

    id: str
    digest: bytes = field(repr=False)
    scopes: frozenset[str] = frozenset()
    expires_at: datetime | None = None
    not_before: datetime | None = field(default=None, kw_only=True)
    disabled: bool = field(default=False, kw_only=True)
    limits: tuple[str, ...] = field(default=(), kw_only=True)
    key_id: str = field(default="", kw_only=True)
    _principal: Principal | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Nothing is quoted: in a mistyped entry, a secret can stand in any place.
        if not _matches(ID, self.id):
            if _matches(HASH_NAME, self.id):
                raise ConfigurationError(
                    "an API key's id is the name of a hash: write a digest as id=sha256:<64 hex digits>"
                )
            raise ConfigurationError("an API key's id is text of 1 to 64 letters, digits, '.', '_', '@' and '-'")
        if not isinstance(self.digest, bytes) or len(self.digest) != 32:
            raise ConfigurationError("an API key's digest must be the 32 bytes of a SHA-256")
        if is_digest_of_a_common_word(self.digest):
            raise ConfigurationError(
                "an API key's digest is that of a common word, so everybody knows its secret: use APIKey.generate"
            )
        object.__setattr__(self, "scopes", _checked_scopes(self.scopes))
        if self.expires_at is not None or self.not_before is not None:
            self._check_dates()
        if not isinstance(self.disabled, bool):
            raise ConfigurationError("an API key's disabled is True or False")
        if self.limits != ():
            object.__setattr__(self, "limits", _checked_limits(self.limits))
        if self.key_id == "":
            object.__setattr__(self, "key_id", anonymous_id(self.digest))
        elif not _matches(KEY_ID, self.key_id):
            raise ConfigurationError("an API key's key_id is text of 1 to 32 letters, digits and '-'")

    def _check_dates(self) -> None:
        for date in (self.expires_at, self.not_before):
            if date is not None and (not isinstance(date, datetime) or date.tzinfo is None):
                raise ConfigurationError(
                    "an API key's expiry and not_before are each a datetime with a time zone, such as datetime.UTC"
                )
        if self.expires_at is not None and self.not_before is not None and self.expires_at <= self.not_before:
            raise ConfigurationError("an API key expires before it begins to hold: see expires_at and not_before")

    @property
    def principal(self) -> Principal:
        """Whom the key proves."""
        if self._principal is None:  # made on first use: most keys of a large file are not used for long
            made = Principal(self.id, self.scopes, method="api-key", limits=self.limits)
            object.__setattr__(self, "_principal", made)
            return made
        return self._principal

    def state(self, now: float) -> str:
        """``"live"``, or why the key is refused: ``"disabled"``, ``"expired"`` or ``"not yet valid"``.

        Args:
            now: Seconds since 1970.
        """
        if self.disabled:
            return "disabled"
        if self.expires_at is not None and self.expires_at.timestamp() <= now:
            return "expired"
        if self.not_before is not None and now < self.not_before.timestamp():
            return "not yet valid"
        return LIVE

    @classmethod
    def generate(
        cls,
        id: str,  # noqa: A002  # the field's name
        *,
        scopes: Collection[str] = (),
        expires_at: datetime | None = None,
        not_before: datetime | None = None,
        limits: Sequence[str] = (),
        env: Environment = "live",
    ) -> tuple["APIKey", str]:
        """Make a key for somebody.

        Args:
            id: Names the caller.
            scopes: What the caller may do.
            expires_at: From when on the key is refused, with a time zone.
            not_before: Until when the key is refused, with a time zone.
            limits: The caller's own limits, such as ``["600/minute"]``.
            env: ``"live"``, or ``"test"`` for a key that is refused where ``MLGUARD_ENV`` is production.

        Returns:
            The record to keep, and the secret (256 bits) to hand out, once: it cannot be had again.

        Raises:
            ConfigurationError: Something that no key can carry.
        """
        if env not in ENVIRONMENTS:
            raise ConfigurationError("APIKey.generate(env=...) is 'live' or 'test'")
        key_id, secret = make_key(env)
        record = cls(
            id,
            digest_of(secret.encode()),
            scopes,  # type: ignore[arg-type]  # the constructor checks it, and makes a set of it
            expires_at,
            not_before=not_before,
            limits=limits,  # type: ignore[arg-type]  # as above, a tuple
            key_id=key_id,
        )
        return record, secret

    @classmethod
    def parse(cls, entry: str, *, where: str = "APIKeys") -> "APIKey":
        """Read an entry: ``secret``, ``id=secret`` or ``id=sha256:<hex>``, then ``;scope`` for each scope.

        ``;expires=2027-01-31T00:00:00+00:00`` sets the expiry, and ``;not_before=``, ``;disabled=true``, ``;limit=``
        (for each limit) and ``;key=`` the other fields. A secret that ends in ``=`` needs an id before it.

        Raises:
            ConfigurationError: The entry is malformed or its secret is weak. The text never quotes the entry.
        """
        if not isinstance(entry, str):
            raise ConfigurationError(
                f"{where}: an entry must be text, such as f'alice={{secret}}', or a record of APIKey.generate"
            )
        if not entry.strip():
            raise ConfigurationError(f"{where}: the entry is empty; is there a comma too many?")
        refuse_quotes(entry, where)
        credential, *rest = (part.strip() for part in entry.split(";"))
        name, secret = _split(credential)
        refuse_quotes(secret, where)
        if not secret.strip("="):
            # What is left of id=$SECRET where the variable is unset must not become the secret.
            raise ConfigurationError(
                f"{where}: an entry has no secret behind its id; write id=secret, also for a secret that ends in ="
            )
        digest = parse_digest(secret)
        if digest is None:
            digest = _digest_of_plain(secret, where)
        options, scopes = _options(rest, where)
        (expires_at, not_before) = (_date(options, option, where) for option in ("expires", "not_before"))
        try:
            return cls(
                anonymous_id(digest) if name is None else name,
                digest,
                frozenset(scopes),
                expires_at,
                not_before=not_before,
                disabled="disabled" in options,
                limits=tuple(options.get("limit", ())),
                key_id=_only(options, "key") or "",
            )
        except ConfigurationError as error:
            fault = str(error)
        # Raised out here: what is raised above would come along as its context.
        raise ConfigurationError(f"{where}: {fault}")

    @property
    def entry(self) -> str:
        """The text form, for ``MLGUARD_API_KEYS``: the digest, no secret."""
        parts = [f"{self.id}=sha256:{self.digest.hex()}"]
        if self.key_id != anonymous_id(self.digest):
            parts.append(f"key={self.key_id}")
        if self.disabled:
            parts.append("disabled=true")
        if self.not_before is not None:
            parts.append(f"not_before={self.not_before.isoformat()}")
        if self.expires_at is not None:
            parts.append(f"expires={self.expires_at.isoformat()}")
        parts += [f"limit={limit}" for limit in self.limits]
        return ";".join([*parts, *sorted(self.scopes)])


def _checked_scopes(scopes: object) -> frozenset[str]:
    if type(scopes) is frozenset:  # first: a large file is full of these
        return known_scopes(scopes)
    if isinstance(scopes, str | Mapping) or not isinstance(scopes, Collection):
        raise ConfigurationError("an API key's scopes are a set of names, such as {'predict'}, not one text")
    return known_scopes(frozenset(scope if isinstance(scope, str) else "" for scope in scopes))


@functools.lru_cache(_MAX_KNOWN)
def known_scopes(scopes: frozenset[str]) -> frozenset[str]:
    """The scopes, one object for all keys that have the same."""
    if not all(_matches(_SCOPE, scope) for scope in scopes):
        raise ConfigurationError("an API key's scope has 1 to 64 letters, digits, '.', '_', ':', '/' and '-'")
    return scopes


def _checked_limits(limits: object) -> tuple[str, ...]:
    if isinstance(limits, str) or not isinstance(limits, Sequence) or not all(isinstance(one, str) for one in limits):
        raise ConfigurationError('an API key\'s limits are a list of text, such as ["600/minute"], not one text')
    return limits_of(tuple(limits)).names


def digest_of(secret: bytes) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret).digest()


def parse_digest(text: str) -> bytes | None:
    """The digest that ``sha256:<64 hex digits>`` spells; None for anything else."""
    match = DIGEST.fullmatch(text)
    return None if match is None else bytes.fromhex(match[1])


def anonymous_id(digest: bytes) -> str:
    """A stable name for a key without one. From the digest, once more hashed, so that it says nothing about either."""
    return "key-" + hashlib.sha256(b"mlguard key id\0" + digest).hexdigest()[:12]


def refuse_quotes(text: str, where: str) -> None:
    """Refuse a text in quotes: where nothing takes them off, they make another secret, which nobody has.

    Raises:
        ConfigurationError: It is. The text does not quote it.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise ConfigurationError(
            f"{where}: it stands in quotes, which would be a part of the secret: take them off (a shell does so, "
            "docker --env-file does not)"
        )


def _digest_of_plain(secret: str, where: str) -> bytes:
    if not _SECRET.fullmatch(secret):
        raise ConfigurationError(
            f"{where}: an entry is not of the form secret, id=secret or id=sha256:<64 hex digits>, "
            "with ;scope behind it for each scope, entries separated by commas"
        )
    if claims_form(secret.encode()) and not is_whole(secret.encode()):
        raise ConfigurationError(
            f"{where}: a secret begins as mlguard's own keys do and is not whole, so it would always be refused: "
            "copy all of it"
        )
    check_strength(secret.encode(), where=where)
    return digest_of(secret.encode())


def _split(credential: str) -> tuple[str | None, str]:
    """The id and the secret of ``id=secret``; None for a secret alone."""
    name, equals, rest = credential.partition("=")
    return (name, rest) if equals else (None, credential)


def _options(parts: Sequence[str], where: str) -> tuple[dict[str, list[str]], list[str]]:
    """Options by name, and scopes."""
    options: dict[str, list[str]] = {}
    scopes = []
    for part in parts:
        name, equals, value = part.partition("=")
        if equals and name in _OPTIONS:
            options.setdefault(name, []).append(value)
        elif equals:
            raise ConfigurationError(
                f"{where}: an entry has another option than expires=, not_before=, disabled=, limit= and key=; a scope "
                "stands alone, as in ;predict"
            )
        else:
            scopes.append(part)
    for name, values in options.items():
        if len(values) > 1 and name != "limit":
            raise ConfigurationError(f"{where}: an entry has one {name}= at most")
    if options.get("disabled", ["true"]) != ["true"]:
        raise ConfigurationError(f"{where}: disabled= takes true and nothing else")
    if options.get("key") == [""]:
        raise ConfigurationError(f"{where}: key= takes the id of the key")
    return options, scopes


def _only(options: dict[str, list[str]], name: str) -> str | None:
    return options[name][0] if name in options else None


def _date(options: dict[str, list[str]], name: str, where: str) -> datetime | None:
    text = _only(options, name)
    if text is None:
        return None
    with suppress(ValueError):  # raised outside: what could not be read may be a secret
        date = datetime.fromisoformat(text)
        if date.tzinfo is not None:
            return date
    raise ConfigurationError(f"{where}: {name}= takes a date and time with a zone, such as 2027-01-31T00:00:00Z")


def _matches(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None
