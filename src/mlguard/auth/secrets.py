"""Is a secret one? Weak, patterned and published ones, and what only stands for one, are refused at construction."""

import base64
import math
import re
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
_SHORT_PLACEHOLDERS = frozenset({b"your-", b"your_"})
_VISIBLE = re.compile(rb"[ -~]+")
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


# What a template, a shell or a secret store should have replaced by the secret.
_REFERENCE = re.compile(
    rb"\$(?:\w+$|[({])|<.*>$|\.{1,2}/|~/|/(?:app|data|etc|home|mnt|opt|root|run|secrets|srv|tmp|usr|var|vault)/"
    rb"|(?:https?|op|vault|secret)://|(?:arn|vault|file):",
    re.IGNORECASE,
)
#: The names of hashes, as they stand before a digest.
HASH_NAME = re.compile(r"s?sha-?[0-9]*|s?md5|blake[23][bs]?|bcrypt|scrypt|argon2(?:id|i|d)?|pbkdf2", re.IGNORECASE)
_HASHED = re.compile(
    rf"\{{?(?:{HASH_NAME.pattern})[:=$}}]|sha-?(?:256|384|512)|\$(?:2[abxy]?|[1567y]|{HASH_NAME.pattern})\$".encode(),
    re.IGNORECASE,
)
_TEMPLATE = re.compile(rb"\$\{[A-Za-z_]\w*[^{}]*\}|\{\{[^{}]+\}\}")
_LONGEST_TEMPLATE = 256  # bytes; in more random text than that, one comes about by chance


def secret_bytes(secret: object, *, where: str) -> bytes:
    """The bytes of a shared secret, checked.

    Raises:
        ConfigurationError: It is not a secret (``None`` from an unset variable, say), it is text with white space
            around it or with control characters, or it can be guessed.
    """
    if isinstance(secret, str):
        if secret != secret.strip() or not (secret.isprintable() or secret == ""):
            raise ConfigurationError(
                f"{where}: the secret has white space around it or control characters, "
                "such as the line feed at the end of a file: use .strip()"
            )
        secret = secret.encode()
    if not isinstance(secret, bytes):
        raise ConfigurationError(f"{where} must be str or bytes, and set")
    check_strength(secret, where=where)
    return secret


def check_strength(secret: bytes, *, where: str) -> None:
    """Refuse a secret that somebody could guess.

    Args:
        secret: The secret as it is sent or used.
        where: The setting it comes from, for the error. Never the secret itself.

    Raises:
        ConfigurationError: The secret is under 128 bits (length times log2 of the alphabet it uses), made of a repeated
            pattern, known from documentation, a hash, or the name or place of a secret (``${TOKEN}``, ``/run/token``).
    """
    fix = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
    folded = secret.lower()
    spellings = {folded, secret.hex().encode(), base64.b64encode(secret).lower()}
    if _is_reference(secret):
        raise ConfigurationError(
            f"{where}: the secret is only the name or the place of one, which nothing here fills in or reads: "
            f"pass what it stands for; {fix}"
        )
    if _HASHED.match(secret):
        raise ConfigurationError(
            f"{where}: the secret is a hash, and whoever reads it could send it: pass the secret itself "
            "(API keys also take its digest, as id=sha256:<64 lower-case hex digits>)"
        )
    if spellings & _PUBLISHED or _is_placeholder(secret):
        raise ConfigurationError(f"{where}: the secret is a placeholder or known from documentation; {fix}")
    if _bits(secret) < MIN_BITS:
        raise ConfigurationError(f"{where}: the secret is shorter than {MIN_BITS} bits; {fix}")
    if _is_patterned(secret):
        raise ConfigurationError(f"{where}: the secret is made of a repeated pattern; {fix}")


def _is_reference(secret: bytes) -> bool:
    if not _VISIBLE.fullmatch(secret):
        return False
    # Every 64th base64 secret starts with "/". Those have capitals, unlike most paths.
    path = secret.startswith(b"/") and secret == secret.lower()
    template = len(secret) <= _LONGEST_TEMPLATE and _TEMPLATE.search(secret)
    return path or bool(template or _REFERENCE.match(secret))


def _is_placeholder(secret: bytes) -> bool:
    folded = secret.lower()
    one_case = secret in {folded, secret.upper()}
    # The short ones happen by chance in base64.
    return any(word in folded and (one_case or word not in _SHORT_PLACEHOLDERS) for word in _PLACEHOLDERS)


def _bits(secret: bytes) -> float:
    used = frozenset(secret)
    if not used:
        return 0.0
    lower, upper, *_ = _CLASSES
    if used <= _HEX:
        alphabet = 10 if used <= _CLASSES[2] else 16
    elif used <= frozenset().union(*_CLASSES):
        alphabet = sum(len(group) for group in _CLASSES if group & used)
        if used & lower and used & upper:
            alphabet = max(alphabet, 64)  # base64 often has no digit by chance
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
