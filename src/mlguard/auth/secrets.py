"""Is a secret one? Weak, patterned and published ones, and what only stands for one, are refused at construction."""

import base64
import math
import re
import string
from collections.abc import Iterator

from pydantic import SecretBytes, SecretStr

from mlguard.auth._key_forms import attempt, is_key
from mlguard.auth._stand_ins import is_digest_of_a_common_word, is_hash, is_published, is_reference
from mlguard.errors import ConfigurationError

#: Below this, a secret can be guessed (NIST SP 800-131A asks for at least 112 bits; 128 leaves a margin).
MIN_BITS = 128

_HEX = frozenset(string.hexdigits.lower().encode())
_CLASSES = tuple(
    frozenset(group.encode())
    for group in (string.ascii_lowercase, string.ascii_uppercase, string.digits, string.punctuation + " ")
)

_FIX = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_PRINTABLE = re.compile(rb"[ -~\s]+")
_LEAST_TEXT = 12  # bytes; fewer are printable by chance


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
    if isinstance(secret, SecretStr | SecretBytes):
        raise ConfigurationError(f"{where}: pass what the secret holds, by .get_secret_value()")
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
            pattern, known from documentation, a hash, the hash of a common word, a public key, or the name or place of
            a secret (``${TOKEN}``, ``awssm://token``, ``/run/token``), as it is or in hex or base64.
    """
    fault = next(filter(None, map(_fault, _readings(secret))), None)
    if fault is None and is_key(secret):
        fault = f"is a public or private key, a certificate, a JWK or a token, which is no shared secret; {_FIX}"
    if fault is not None:
        raise ConfigurationError(f"{where}: the secret {fault}")


def _readings(secret: bytes) -> Iterator[bytes]:
    """The secret, and what it is the hex or base64 of. Of text that too, because it is no more random than the text."""
    yield secret
    for decoded in (attempt(bytes.fromhex, secret.decode("latin-1")), _from_base64(secret)):
        if decoded is not None and len(decoded) >= _LEAST_TEXT and _PRINTABLE.fullmatch(decoded):
            yield from _readings(decoded)
        elif decoded is not None and 8 * len(decoded) >= MIN_BITS:
            yield decoded


def _from_base64(text: bytes) -> bytes | None:
    if not _BASE64.fullmatch(text):
        return None
    text = text.rstrip(b"=")
    return attempt(base64.urlsafe_b64decode, text + b"=" * (-len(text) % 4))


def _fault(secret: bytes) -> str | None:
    """What is wrong with it, in words that do not quote it."""
    if is_published(secret):
        return f"is a placeholder or known from documentation; {_FIX}"
    if is_reference(secret):
        return (
            "is only the name or the place of one, which nothing here fills in or reads: "
            f"pass what it stands for; {_FIX}"
        )
    if is_hash(secret):
        return (
            "is a hash, and whoever reads it could send it: pass the secret itself "
            "(API keys also take its digest, as id=sha256:<64 lower-case hex digits>)"
        )
    if is_digest_of_a_common_word(secret):
        return f"is the hash of a common word, which anybody can make; {_FIX}"
    if _bits(secret) < MIN_BITS:
        return f"is shorter than {MIN_BITS} bits; {_FIX}"
    if _is_patterned(secret):
        return f"is made of a repeated pattern; {_FIX}"
    return None


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
