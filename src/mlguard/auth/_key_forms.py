"""Is a text a public key, a certificate or a JWK, as it is or as variables and files carry it?

Were it taken for a shared secret, everybody who knows it could sign (RFC 8725, section 2.1). So it is looked for under
every wrapping that keys travel in, several deep: JSON and URL escapes, base64, hex, gzip, UTF-16.
"""

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from cryptography.x509 import load_der_x509_certificate

T = TypeVar("T")

_WRAPPINGS = 4  # JSON in base64 in gzip in base64 has as many
_LONGEST = 65_536  # bytes that are unpacked of a compressed text: a key is within the first few thousand

#: The line that opens or closes a PEM, with whatever stands in the place of its spaces and dashes.
_ARMOUR = re.compile(rb"---- ?(?:BEGIN|END)|BEGIN.{0,40}(?:KEY|CERTIFICATE)", re.IGNORECASE | re.DOTALL)
#: In a line of OpenSSH, and behind its length in what the line carries in base64.
_SSH = re.compile(rb"\A(?:.{4})?(?:sk-)?(?:ssh|ecdsa)-|ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-nistp", re.DOTALL)
#: A member of a JWK, in JSON, Python or YAML, or an XML signature's key.
_MEMBER = re.compile(rb"[\"']kty[\"']|\bkty:|<(?:RSA|EC)?KeyValue\b")
#: What names the kind of a key inside DER. It is found in damaged and in nested keys too.
_OBJECT_IDENTIFIERS = (
    bytes.fromhex("2a864886f70d01"),  # PKCS: RSA, and containers such as PKCS #7
    bytes.fromhex("2a8648ce3d"),  # ANSI X9.62: elliptic curves
    bytes.fromhex("06032b656e"),  # X25519
    bytes.fromhex("06032b656f"),  # X448
    bytes.fromhex("06032b6570"),  # Ed25519
    bytes.fromhex("06032b6571"),  # Ed448
)
_DER_LOADERS: tuple[Callable[[bytes], object], ...] = (
    load_der_public_key,
    load_der_x509_certificate,
    lambda form: load_der_private_key(form, None),
)

_ESCAPE = re.compile(rb"(?<!\\)\\++(?:(?:u00|x)([0-9a-f]{2})|([nrt]|[/\"']))", re.IGNORECASE)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/_-]+")
_HEX_SEPARATORS = re.compile(rb"0x|\\x|[\s:;,\"'\[\]{}]", re.IGNORECASE)


def is_key(data: bytes) -> bool:
    """Whether it is a public or private key, a certificate or a JWK, under up to four wrappings.

    The bare bytes of an Ed25519 key or of a point on a curve look as random as a secret: they cannot be told.
    """
    seen: set[bytes] = set()
    forms = {data}
    for _ in range(_WRAPPINGS + 1):
        if any(map(_is_bare_key, forms)):
            return True
        seen |= forms
        forms = {inner for form in forms for inner in _unwrapped(form) if inner} - seen
    return False


def attempt(load: Callable[..., T], *args: object) -> T | None:
    """What a loader returns, or None: its own exception could quote the key."""
    with suppress(Exception):
        return load(*args)
    return None


def _is_bare_key(form: bytes) -> bool:
    text = form.strip()
    if _ARMOUR.search(text) or _SSH.search(text) or _MEMBER.search(text):
        return True
    if any(identifier in form for identifier in _OBJECT_IDENTIFIERS):
        return True
    if isinstance(attempt(json.loads, text), dict | list):
        return True
    # Only a DER sequence, so that most secrets are spared the loaders.
    return form.startswith(b"\x30") and any(attempt(load, form) is not None for load in _DER_LOADERS)


def _unwrapped(form: bytes) -> Iterator[bytes]:
    """What it is without its outermost wrapping, under each one that it may have."""
    yield attempt(_decompressed, form) or b""
    text = form.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff").removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"")
    if not text.isascii():
        return
    yield text
    yield _ESCAPE.sub(_unescaped, text)
    yield unquote_to_bytes(text)
    runs = _NOT_BASE64.split(text)
    yield _from_base64(b"".join(runs))
    yield _from_base64(max(runs, key=len))  # behind a name, such as KEY=...
    yield attempt(bytes.fromhex, _HEX_SEPARATORS.sub(b"", text).decode()) or b""


def _decompressed(form: bytes) -> bytes:
    return zlib.decompressobj(wbits=47).decompress(form, _LONGEST)  # 47: gzip or zlib, by its header


def _unescaped(escape: re.Match[bytes]) -> bytes:
    if escape[1]:
        return bytes.fromhex(escape[1].decode())
    return b"\n" if escape[2].lower() in b"nrt" else bytes(escape[2])


def _from_base64(text: bytes) -> bytes:
    """Decode either alphabet; a last character that holds less than a byte is left out."""
    whole = text[:-1] if len(text) % 4 == 1 else text
    return base64.urlsafe_b64decode(whole + b"=" * (-len(whole) % 4))
