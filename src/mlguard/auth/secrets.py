"""Is a secret one? Weak, patterned and published ones are refused when the guard is built."""

import base64
import math
import string

from mlguard.errors import ConfigurationError

#: Below this, a secret can be guessed (NIST SP 800-131A asks for at least 112 bits; 128 leaves a margin).
MIN_BITS = 128

_HEX = frozenset(string.hexdigits.lower().encode())
_CLASSES = tuple(
    frozenset(group.encode())
    for group in (string.ascii_lowercase, string.ascii_uppercase, string.digits, string.punctuation + " ")
)

# Placeholders that people leave in, and secrets printed in documentation that people copy.
_PLACEHOLDERS = (
    b"changeme", b"change-me", b"change_me", b"changethis", b"change-this", b"replace-me", b"replaceme", b"password",
    b"passw0rd", b"your-", b"your_", b"yoursecret", b"example", b"insecure", b"secret-key", b"secret_key", b"secretkey",
    b"supersecret", b"super-secret", b"super_secret", b"not-a-secret", b"correcthorse", b"test-shared-secret",
)  # fmt: skip
_PUBLISHED = frozenset(
    {
        b"09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI's OAuth2 tutorial
        b"192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",  # Flask's quickstart
        b"2b7e151628aed2a6abf7158809cf4f3c",  # FIPS 197, appendix A
        b"a-string-secret-at-least-256-bits-long",  # jwt.io
        b"d41d8cd98f00b204e9800998ecf8427e",  # MD5 of nothing
        b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # SHA-256 of nothing
        b"uzvjfb4u3n0jy4t7nz75mdvcr8zstinedjtkgcu46yw4xbyznjjxbdtjukdjpbtbmhhidi6pcl8jsasjltmtdq==",  # RFC 9421, B.1.5
    }
)


def check_strength(secret: bytes, *, where: str) -> None:
    """Refuse a secret that somebody could guess.

    Args:
        secret: The secret as it is sent or used.
        where: The setting it comes from, for the error. Never the secret itself.

    Raises:
        ConfigurationError: The secret is under 128 bits (length times log2 of the alphabet it uses), made of a repeated
            pattern, or known from documentation.
    """
    fix = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
    folded = secret.lower()
    spellings = {folded, secret.hex().encode(), base64.b64encode(secret).lower()}
    if spellings & _PUBLISHED or any(placeholder in folded for placeholder in _PLACEHOLDERS):
        raise ConfigurationError(f"{where}: the secret is a placeholder or known from documentation; {fix}")
    if _bits(secret) < MIN_BITS:
        raise ConfigurationError(f"{where}: the secret is shorter than {MIN_BITS} bits; {fix}")
    if _is_patterned(secret):
        raise ConfigurationError(f"{where}: the secret is made of a repeated pattern; {fix}")


def _bits(secret: bytes) -> float:
    used = frozenset(secret)
    if not used:
        return 0.0
    if used <= _HEX:
        alphabet = 10 if used <= _CLASSES[2] else 16
    elif used <= frozenset().union(*_CLASSES):
        alphabet = sum(len(group) for group in _CLASSES if group & used)
    else:
        alphabet = 256
    return len(secret) * math.log2(alphabet)


def _is_patterned(secret: bytes) -> bool:
    """Whether it repeats itself, uses hardly any characters, or mostly counts up or down.

    Pieces are compared wherever they are, so that a prefix such as ``"sk-"`` hides no repetition. Six characters, so
    that even digits hardly ever repeat a piece by chance.
    """
    pieces = {secret[start : start + 6] for start in range(len(secret) - 5)}
    return (
        2 * len(pieces) <= len(secret)
        or len(set(secret)) < 6
        or any(_counts(secret.lower(), every) for every in (1, 2))
    )


def _counts(secret: bytes, every: int) -> bool:
    """Whether most characters go on in the steps of the ones before: ``"acegi"``, or every second: ``"a1b2c3"``."""
    steady = sum(
        secret[at] - secret[at - every] == secret[at - every] - secret[at - 2 * every]
        for at in range(2 * every, len(secret))
    )
    return steady > len(secret) // 2
