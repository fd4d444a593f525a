"""Who may log in: a small protocol for where accounts are kept, and accounts in memory."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from mlguard.auth._scopes import checked_scopes
from mlguard.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class User:
    """An account.

    Attributes:
        id: Names the account for ever, and becomes ``sub`` in tokens. Not the login name, which may change hands.
        password_hash: What :class:`~mlguard.Passwords` or its hasher made. None: no password lets this user in.
        scopes: What the user may do.
        disabled: Whether the user is shut out. Nobody who logs in is told so.

    Raises:
        ConfigurationError: The id is no text or empty, or a scope is malformed (RFC 6749, section 3.3).
    """

    id: str
    password_hash: str | None = field(repr=False)
    scopes: Collection[str] = frozenset()
    disabled: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ConfigurationError("a User's id is text that is not empty: turn a number into str(number)")
        object.__setattr__(self, "scopes", checked_scopes(self.scopes, where="a User's scopes"))


@runtime_checkable
class UserDirectory(Protocol):
    """Where accounts are kept. See ``examples/login_sqlalchemy.py`` for a table in a database.

    A directory may also have ``async update_hash(user, new_hash)``. It is called when a hash is out of date, after a
    login, and replaces the hash only if it is still ``user.password_hash``: a password that was changed in between must
    stay changed.
    """

    async def find(self, name: str) -> User | None:
        """The account with this login name, as it was typed; None if there is none."""

    async def get(self, id: str) -> User | None:  # noqa: A002  # the field's name
        """The account with this id, asked whenever a session is refreshed; None if there is none any more."""


class Users:
    """Accounts in memory, for tests, demonstrations and services with a handful of them.

    Args:
        users: The accounts by login name.

    Raises:
        ConfigurationError: An entry is no :class:`User`, or two have the same id.
    """

    def __init__(self, users: Mapping[str, User]) -> None:
        if not isinstance(users, Mapping) or not all(isinstance(user, User) for user in users.values()):
            raise ConfigurationError('Users takes accounts by login name: {"alice": User("1", password_hash)}')
        self._ids = {name: user.id for name, user in users.items()}
        self._users = {user.id: user for user in users.values()}
        if len(self._users) < len(users):
            raise ConfigurationError("Users: two accounts have the same id")

    async def find(self, name: str) -> User | None:
        """The account with this login name, in exactly this spelling."""
        return self._users.get(self._ids.get(name, ""))

    async def get(self, id: str) -> User | None:  # noqa: A002  # the field's name
        """The account with this id."""
        return self._users.get(id)

    async def update_hash(self, user: User, new_hash: str) -> None:
        """Replace the hash of a user, if it is still the one that this user has."""
        now = self._users[user.id]
        if now.password_hash == user.password_hash:
            self._users[user.id] = replace(now, password_hash=new_hash)

    def __repr__(self) -> str:
        return f"Users({len(self._users)} accounts)"
