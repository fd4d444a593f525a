"""Password hashes that passlib made: verified, and replaced by argon2id at the next login.

passlib has had no release since 2020. With bcrypt 5 it fails on every bcrypt hash: it tries its backend with a password
that bcrypt 5 refuses. So those are given to bcrypt itself here, and the others to passlib.
"""

import base64
import hashlib
import hmac
import logging
import warnings

from pwdlib import PasswordHash

from mlguard.auth.passwords import owasp_argon2id
from mlguard.compat.bcrypt import PasslibBcrypt
from mlguard.errors import ConfigurationError

with warnings.catch_warnings():
    # On Python 3.11 and 3.12 it imports crypt, and does without it where there is none.
    warnings.filterwarnings("ignore", "'crypt' is deprecated", DeprecationWarning)
    try:
        from passlib.context import CryptContext
        from passlib.hash import bcrypt_sha256
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError('mlguard.compat.passlib needs passlib: pip install "mlguard[passlib]"') from missing

logger = logging.getLogger("mlguard")

_MAX_PASSWORD = 4096  # bytes, as in passlib: the work of some of its schemes grows with the password
_BY_BCRYPT = frozenset({"bcrypt", "bcrypt_sha256"})


class PasslibHashes:
    """Verifies the hashes of a passlib ``CryptContext``, and has them replaced by better ones.

    For whatever takes an object with ``hash`` and ``verify_and_update``. New passwords are hashed with argon2id. When
    an old hash has verified, ``verify_and_update`` returns a new one beside the answer, to be stored in its place.
    Where all hashes are of bcrypt and argon2, pwdlib alone does it, with
    :class:`~mlguard.compat.bcrypt.PasslibBcrypt`.

    A hash that cannot be read lets nobody in. It crashes no login, which would tell that the account exists; the log
    says of which kind the error was. Calls take as long as the hash makes them: keep them off the event loop.

    Some schemes look at the beginning of a password only, bcrypt at 72 bytes and des_crypt at 8. The new hash is of the
    whole password as it was typed at that login.

    Args:
        context: The context that made the hashes. Its schemes say which hashes are read; its policy on what is
            deprecated does not count, because everything is replaced.
        upgrade_to: pwdlib's ``PasswordHash`` whose first hasher makes the new hashes. Default: argon2id with 19 MiB, 2
            passes and 1 lane, as the OWASP Password Storage Cheat Sheet has it.

    Raises:
        ConfigurationError: Not a ``CryptContext`` or a ``PasswordHash``, or a scheme that cannot work: without its
            backend, in need of the user's name, or ``plaintext``, which is no hash.
    """

    def __init__(self, context: CryptContext, *, upgrade_to: PasswordHash | None = None) -> None:
        if not isinstance(context, CryptContext):
            raise ConfigurationError("PasslibHashes takes passlib's CryptContext")
        if upgrade_to is not None and not isinstance(upgrade_to, PasswordHash):
            raise ConfigurationError("PasslibHashes(upgrade_to=...) takes pwdlib's PasswordHash, or leave it out")
        for scheme in context.schemes():
            _check_scheme(context, scheme)
        self._context = context
        self._new = owasp_argon2id() if upgrade_to is None else upgrade_to
        self._bcrypt = PasslibBcrypt()

    def __repr__(self) -> str:
        return f"PasslibHashes({', '.join(self._context.schemes())})"

    def hash(self, password: str | bytes) -> str:
        """Hash a new password.

        Raises:
            ValueError: It is longer than 4096 bytes, or no text.
        """
        secret = _encoded(password)
        if secret is None:
            raise ValueError("the password is longer than 4096 bytes, or holds half a character")
        return self._new.hash(secret)

    def verify_and_update(self, password: str | bytes, hash: str | bytes) -> tuple[bool, str | None]:  # noqa: A002  # pwdlib's and passlib's name
        """Whether the password is the one that was hashed; and the hash to store from now on, if it changes."""
        secret = _encoded(password)
        if secret is None:
            return False, None
        try:
            return self._verify(secret, hash if isinstance(hash, str) else hash.decode("ascii"))
        except Exception as error:
            # Its text could quote the hash.
            logger.warning("a stored password hash cannot be checked, and lets nobody in (%s)", type(error).__name__)
        self._new.hash(secret)  # as much work as a check: what takes no time would tell that the account exists
        return False, None

    def _verify(self, secret: bytes, stored: str) -> tuple[bool, str | None]:
        if self._new.current_hasher.identify(stored):
            return self._new.verify_and_update(secret, stored)
        scheme = self._context.identify(stored, required=True)
        if scheme == "bcrypt":
            holds = self._bcrypt.verify(secret, stored)
        elif scheme == "bcrypt_sha256":
            holds = self._bcrypt.verify(*_unwrapped(secret, stored))
        else:
            holds = bool(self._context.verify(secret, stored))
        return holds, self._new.hash(secret) if holds else None


def _encoded(password: str | bytes) -> bytes | None:
    """The bytes of a password; None if it cannot be one. An error would keep the password."""
    try:
        secret = password.encode() if isinstance(password, str) else password
    except UnicodeEncodeError:  # half a surrogate pair, from JSON
        return None
    return secret if len(secret) <= _MAX_PASSWORD else None


def _unwrapped(secret: bytes, stored: str) -> tuple[bytes, str]:
    """What passlib's bcrypt_sha256 gives to bcrypt, and the bcrypt hash in it."""
    parsed = bcrypt_sha256.from_string(stored)
    if parsed.version == 1:
        digest = hashlib.sha256(secret).digest()
    else:
        digest = hmac.digest(parsed.salt.encode("ascii"), secret, "sha256")
    return base64.b64encode(digest), f"{parsed.ident}{parsed.rounds:02d}${parsed.salt}{parsed.checksum}"


def _check_scheme(context: CryptContext, scheme: str) -> None:
    """Refuse what could not verify at a login, or would verify what is no hash."""
    handler = context.handler(scheme)
    if scheme == "plaintext" or scheme.endswith("_plaintext"):
        raise ConfigurationError(
            f"PasslibHashes: {scheme} is no hash; hash these passwords once with .hash(), and take it out of schemes"
        )
    if "user" in handler.context_kwds:
        raise ConfigurationError(f"PasslibHashes: {scheme} needs the user's name; take it out of schemes")
    if scheme in _BY_BCRYPT or not hasattr(handler, "get_backend"):
        return
    with warnings.catch_warnings():
        # It asks argon2-cffi for its version in a way that is deprecated.
        warnings.filterwarnings("ignore", "Accessing argon2.__version__", DeprecationWarning)
        try:
            handler.get_backend()
        except Exception as error:
            reason = type(error).__name__
        else:
            return
    raise ConfigurationError(
        f"PasslibHashes: passlib has no backend for {scheme} ({reason}); install one, or take it out of schemes "
        "(schemes that wrap bcrypt, besides bcrypt_sha256, need bcrypt<5)"
    )
