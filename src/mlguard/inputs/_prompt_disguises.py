"""What is written in a text in another way than in plain words: escapes, base64, hexadecimal, bits, invisible letters.

Everything here takes time in proportion to the text. The regular expressions cannot backtrack: what they repeat without
bound is one class of characters, or pairs of one class, and possessively.
"""

import re
from base64 import b64decode
from binascii import unhexlify
from collections.abc import Iterator

from mlguard.inputs._bare_text import bare

_ESCAPE = re.compile(
    r"&#x([0-9a-f]{1,6});?|&#([0-9]{1,7});?|%([0-9a-f]{2})|\\x([0-9a-f]{2})|\\u([0-9a-f]{4})", re.IGNORECASE
)
_ESCAPED = (16, 10, 16, 16, 16)  # the base of each
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}+")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}[ :]?){10,}+")
_BITS = re.compile(r"(?:[01]{8} ?){6,}+")
_URL_SAFE = str.maketrans("-_", "+/")
_TAGS = re.compile("[\U000e0020-\U000e007e]{8,}+")  # flags of regions have up to six of them
_LAYERS = 2  # base64 within base64, and no further


def views_of(text: str) -> Iterator[tuple[str, str]]:
    """A text, and each text that is hidden in it, with how it is hidden. All together at most six times as long."""
    plain = bare(text)
    yield "", plain
    for tags in _TAGS.findall(text):
        yield "invisible", "".join(chr(ord(tag) - 0xE0000) for tag in tags)
    unescaped = _unescape(_unescape(plain))
    if unescaped != plain:
        yield "escaped", bare(unescaped)
    for hidden in _decoded(unescaped, _LAYERS):
        yield "encoded", bare(hidden)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(_character, text)


def _character(escape: re.Match[str]) -> str:
    group = escape.lastindex or 0
    code = int(escape[group], _ESCAPED[group - 1])
    return chr(code) if code < 0x110000 else " "


def _decoded(text: str, layers: int) -> Iterator[str]:
    for data in _blobs(text):
        try:
            decoded = data.decode()
        except UnicodeDecodeError:
            continue
        if _is_readable(decoded):
            yield decoded
            if layers > 1:
                yield from _decoded(decoded, layers - 1)


def _blobs(text: str) -> Iterator[bytes]:
    for blob in _BASE64.findall(text):
        whole = blob[: len(blob) - (len(blob) % 4 == 1)]  # the rest of a text that was cut off
        yield b64decode(whole.translate(_URL_SAFE) + "=" * (-len(whole) % 4))
    for blob in _HEX.findall(text):
        yield unhexlify(blob.replace(" ", "").replace(":", ""))
    for blob in _BITS.findall(text):
        bits = blob.replace(" ", "")
        yield bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def _is_readable(text: str) -> bool:
    """Whether it was text before it was encoded: chance does not make twelve printable characters with a space."""
    return len(text) >= 12 and any(map(str.isspace, text)) and text.replace("\n", "").replace("\t", "").isprintable()
