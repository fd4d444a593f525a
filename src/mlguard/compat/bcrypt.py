"""The bcrypt hashes that passlib made, without passlib."""

import re

try:
    import bcrypt
    from pwdlib.hashers.bcrypt import BcryptHasher
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError('mlguard.compat.bcrypt needs bcrypt: pip install "mlguard[passlib]"') from missing

#: What bcrypt looks at of a password.
_MAX_BYTES = 72
# Before version 5, bcrypt panics on some hashes of another form, and a panic is no Exception.
_FORM = re.compile(rb"\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")


class PasslibBcrypt(BcryptHasher):
    """A hasher for pwdlib that verifies bcrypt hashes as passlib did.

    bcrypt looks at no more than the first 72 bytes of a password. passlib cut longer ones silently; bcrypt 5, and so
    pwdlib's own ``BcryptHasher``, raises a ``ValueError`` for them, which shuts out who has such a password::

        PasswordHash((Argon2Hasher(), PasslibBcrypt()))

    verifies old hashes, and replaces them by argon2id, which takes passwords of any length, at the next login.
    """

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:  # noqa: A002  # pwdlib's name
        """Whether the password is the one that was hashed, as far as the hash goes."""
        # Half a surrogate pair matches nothing; an error about it would quote the password.
        secret = password.encode("utf-8", "surrogatepass") if isinstance(password, str) else password
        stored = hash.encode() if isinstance(hash, str) else hash
        if _FORM.fullmatch(stored) is None or b"\0" in secret:  # at which other implementations of bcrypt end
            return False
        return bcrypt.checkpw(secret[:_MAX_BYTES], stored)
