"""Passwords: hashed in threads, few at a time, and with as much work for a wrong name as for a wrong password."""

import logging
import math
import secrets
import time
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from mlguard._threads import FewThreads, Turn
from mlguard.errors import ConfigurationError, InvalidInputError

logger = logging.getLogger("mlguard")

_LEAST_MAX_LENGTH = 64  # characters that a verifier should accept, NIST SP 800-63B, section 3.1.1.2
_LARGEST_MAX_LENGTH = 4096


class PasswordHasher(Protocol):
    """What hashes passwords: pwdlib's ``PasswordHash``, passlib's ``CryptContext``, or any object with both methods."""

    def hash(self, password: str, /) -> str:
        """Hash a password with a fresh salt."""

    def verify_and_update(self, password: str, stored: str, /) -> tuple[bool, str | None]:
        """Whether it is the password, and a new hash if the old one is out of date."""


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """What came of checking a password.

    Attributes:
        valid: Whether it is the right one.
        upgraded_hash: What to store in the place of the hash that was checked, if that is out of date.
    """

    valid: bool
    upgraded_hash: str | None = field(default=None, repr=False)


class Passwords:
    """Hashes and checks passwords, in threads, and never more than a few at a time.

    A hash is costly on purpose, so a flood of logins could take the machine. Here the flood waits in a line, and is
    refused beyond its end. For a name that nobody has, a hash is checked all the same, so that the time tells nothing.

    Passwords are normalised to NFKC before they are hashed (NIST SP 800-63B), so that "é" is the same from every
    keyboard. A hash that was made of the password as it was typed still verifies, and is upgraded. Nothing is ever cut
    off: an empty password, one with NUL, with half a surrogate pair or over ``max_length`` never verifies.

    Args:
        hasher: pwdlib's ``PasswordHash``, passlib's ``CryptContext``, or any object with ``hash(password)`` and
            ``verify_and_update(password, hash)``. Default: argon2id with 19 MiB, 2 passes and 1 lane, as the OWASP
            Password Storage Cheat Sheet has it.
        concurrency: How many are hashed at the same time in this process; each takes a core, and memory (19 MiB by
            default). Default: one less than there are cores, so that one is left to answer.
        max_waiting: How many may wait for their turn. Beyond it, they are refused. Default 64.
        max_length: Bytes of the longest password in UTF-8, 64 to 4096. Default 1024.

    Raises:
        ConfigurationError: At construction: a setting out of its range, or a hasher that does not verify what it has
            hashed itself.
        OverloadedError: When called: too many are waiting (503).
    """

    def __init__(
        self,
        hasher: PasswordHasher | None = None,
        *,
        concurrency: int | None = None,
        max_waiting: int = 64,
        max_length: int = 1024,
    ) -> None:
        self._threads = FewThreads("passwords", where="Passwords", concurrency=concurrency, max_waiting=max_waiting)
        if type(max_length) is not int or not _LEAST_MAX_LENGTH <= max_length <= _LARGEST_MAX_LENGTH:
            raise ConfigurationError(
                f"Passwords(max_length=...) is {_LEAST_MAX_LENGTH} to {_LARGEST_MAX_LENGTH}, a whole number of bytes"
            )
        self._max_length = max_length
        self._hasher = owasp_argon2id() if hasher is None else hasher
        started = time.perf_counter()
        self._dummy = _try_out(self._hasher)
        seconds_each = (time.perf_counter() - started) / 2
        self._threads.retry_after = max(1, math.ceil(seconds_each * max_waiting / self._threads.concurrency))

    def accepts(self, password: str) -> bool:
        """Whether it could be a password at all: not empty, not too long, no NUL, encodable."""
        try:
            size = len(password.encode())
        except UnicodeEncodeError:  # half a surrogate pair
            return False
        return 0 < size <= self._max_length and "\0" not in password

    async def hash(self, password: str) -> str:
        """Hash a password that somebody has chosen.

        Raises:
            InvalidInputError: It is empty, too long, or has NUL or half a surrogate pair in it (422).
            OverloadedError: Too many are waiting (503).
        """
        if not self.accepts(password):
            raise InvalidInputError(
                "a password that cannot be hashed", detail="The password is empty, too long, or no proper text."
            )
        async with self.turn() as turn:
            return await turn.hash(password)

    async def verify(self, password: str, password_hash: str | None) -> PasswordCheck:
        """Check a password.

        Args:
            password: As it was typed.
            password_hash: What is stored; None for a user that does not exist or has no password. The same work is
                done for it, in vain.

        Raises:
            OverloadedError: Too many are waiting (503).
        """
        async with self.turn() as turn:
            return await turn.verify(password, password_hash)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["PasswordTurn"]:
        """Wait for a place among those who may hash, and hold it.

        For whoever has to look at something again once the turn has come.

        Raises:
            OverloadedError: Too many are waiting (503).
        """
        async with self._threads.turn() as turn:
            yield PasswordTurn(self, turn)

    def _hash(self, password: str) -> str:
        return self._hasher.hash(unicodedata.normalize("NFKC", password))

    def _verify(self, password: str, password_hash: str | None) -> PasswordCheck:
        normal = unicodedata.normalize("NFKC", password)
        valid, newer = self._attempt(normal, password_hash)
        if not valid and password != normal:  # a hash of it as it was typed, from before
            valid, _ = self._attempt(password, password_hash)
            newer = self._hasher.hash(normal) if valid else None
        return PasswordCheck(valid, newer)

    def _attempt(self, password: str, password_hash: str | None) -> tuple[bool, str | None]:
        if password_hash is not None:
            try:
                valid, newer = self._hasher.verify_and_update(password, password_hash)
            except Exception as error:  # an unknown kind of hash. The text of the error may quote it
                logger.error("a stored password hash cannot be verified: %s", type(error).__name__)
            else:
                return (True, newer) if valid else (False, None)
        self._hasher.verify_and_update(password, self._dummy)
        return False, None

    def __repr__(self) -> str:
        return f"Passwords({type(self._hasher).__name__}, concurrency={self._threads.concurrency})"


class PasswordTurn:
    """A place among those who may hash at the same time. See :meth:`Passwords.turn`."""

    def __init__(self, passwords: Passwords, turn: Turn) -> None:
        self._passwords = passwords
        self._turn = turn

    async def hash(self, password: str) -> str:
        """Hash a password that :meth:`Passwords.accepts`."""
        return await self._turn.run(lambda: self._passwords._hash(password))

    async def verify(self, password: str, password_hash: str | None) -> PasswordCheck:
        """Check a password; one that is not accepted is wrong, and costs nothing."""
        if not self._passwords.accepts(password):
            return PasswordCheck(valid=False)
        return await self._turn.run(lambda: self._passwords._verify(password, password_hash))


def owasp_argon2id() -> PasswordHash:
    """Argon2id with the parameters of the OWASP Password Storage Cheat Sheet: m=19456 (19 MiB), t=2, p=1."""
    return PasswordHash((Argon2Hasher(memory_cost=19_456, time_cost=2, parallelism=1),))


def _try_out(hasher: PasswordHasher) -> str:
    """A hash of a password that nobody knows, to be checked where there is no other.

    Raises:
        ConfigurationError: The hasher cannot verify it. passlib with a bcrypt that it does not know is one.
    """
    failure = "it does not verify what it has hashed"
    try:
        password = secrets.token_urlsafe(16)
        dummy = hasher.hash(password)
        valid, _ = hasher.verify_and_update(password, dummy)
        wrong, _ = hasher.verify_and_update(password + "x", dummy)
        if isinstance(dummy, str) and valid and not wrong:
            return dummy
    except Exception as error:
        failure = f"it failed with {type(error).__name__}"
    raise ConfigurationError(
        f"Passwords(hasher=...) cannot be used, {failure}: give it pwdlib's PasswordHash, passlib's CryptContext, "
        "or an object with hash(password) and verify_and_update(password, hash)"
    )
