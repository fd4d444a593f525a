"""Takes off the compression that joblib puts on, into a bounded amount of memory."""

import bz2
import io
import lzma
import zlib
from typing import Any

from mlguard.errors import ConfigurationError, ModelContentError

_AT_A_TIME = 1 << 20  # bytes
_LZMA_MEMORY = 1 << 28  # bytes; the strongest preset takes a quarter

_MARKS = {
    "gzip": b"\x1f\x8b\x08",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "lzma": b"\x5d\x00",
    "lz4": b"\x04\x22\x4d\x18",
}


def compression_of(content: memoryview) -> str | None:
    """By which of joblib's compressions a file is compressed. None: by none."""
    start = bytes(content[:6])
    for name, mark in _MARKS.items():
        if start.startswith(mark):
            return name
    # RFC 1950: deflate in a window of 32 KiB, and a check of both bytes.
    return "zlib" if len(start) > 1 and start[0] == 0x78 and int.from_bytes(start[:2], "big") % 31 == 0 else None


def decompress(content: memoryview, compression: str, *, max_size: int) -> bytes:
    """What was compressed.

    Args:
        content: The file, all of it one stream.
        compression: Its name.
        max_size: Bytes of what may come out.

    Raises:
        ModelContentError: It is broken, too large, or something stands behind its end.
        ConfigurationError: It is lz4, and that is not installed.
    """
    reader = _reader(compression)
    made = io.BytesIO()
    size = 0
    try:
        for start in range(0, len(content), _AT_A_TIME):
            if reader.eof:
                raise ModelContentError("something stands behind the end of the compressed file")
            piece = reader.decompress(bytes(content[start : start + _AT_A_TIME]), max_size - size + 1)
            size += made.write(piece)
            if size > max_size:
                raise ModelContentError(f"the file decompresses to more than max_size={max_size} bytes")
        if reader.unused_data:
            raise ModelContentError("something stands behind the end of the compressed file")
        if not reader.eof:
            raise ModelContentError("the compressed file is cut short")
    except (zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError, MemoryError) as error:
        raise ModelContentError(f"the compressed file is broken ({type(error).__name__})") from None
    return made.getvalue()


def _reader(compression: str) -> Any:
    if compression == "zlib":
        return zlib.decompressobj(zlib.MAX_WBITS)
    if compression == "gzip":
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    if compression == "bz2":
        return bz2.BZ2Decompressor()
    if compression == "lz4":
        try:
            from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]  # noqa: PLC0415  # untyped extra
        except ImportError:
            raise ConfigurationError("the model is compressed by lz4: pip install lz4") from None
        return LZ4FrameDecompressor()
    container = lzma.FORMAT_XZ if compression == "xz" else lzma.FORMAT_ALONE
    return lzma.LZMADecompressor(container, memlimit=_LZMA_MEMORY)
