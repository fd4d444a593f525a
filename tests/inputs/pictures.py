"""Image files for tests: honest ones from Pillow, and dishonest ones put together by hand."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def noise(height: int = 13, width: int = 17, channels: int = 3, seed: int = 7) -> Image.Image:
    """A picture of which no two places look alike."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file of a kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plainly(data: bytes, mode: str = "RGB") -> NDArray[np.uint8]:
    """What Pillow alone makes of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert(mode))


def with_orientation(kind: str, orientation: Any, **options: Any) -> bytes:
    """A picture that says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(noise(), kind, exif=exif.tobytes(), **options)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG, with the right checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, depth: int = 8, color: int = 0, more: bytes = b"\0\0\0") -> bytes:
    """The first chunk of a PNG."""
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, color) + more)


def png(*chunks: bytes) -> bytes:
    """A PNG of these chunks."""
    return PNG_MAGIC + b"".join(chunks)


def pixels(*rows: bytes) -> bytes:
    """The pixels of a PNG, by rows."""
    return chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))


END = chunk(b"IEND")
SMALL = png(header(2, 2), pixels(b"\x01\x02", b"\x03\x04"), END)


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def after_header(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments behind its first two bytes."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def riff(*chunks: bytes) -> bytes:
    """A WebP of these chunks."""
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def riff_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a WebP, padded."""
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def riff_chunks(webp: bytes) -> list[bytes]:
    """The chunks of a WebP."""
    chunks, at = [], 12
    while at < len(webp):
        (length,) = struct.unpack_from("<I", webp, at + 4)
        end = at + 8 + length + length % 2
        chunks.append(webp[at:end])
        at = end
    return chunks


def repaired(data: bytes) -> bytes:
    """A file that was changed, with the checksums and lengths that it should have, so that more of it is read."""
    if data.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    chunks, at = [], len(PNG_MAGIC)
    while data.startswith(PNG_MAGIC) and at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append(chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return png(*chunks) if chunks else data


def scans_without_end(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG of few bytes that says "nothing new" about every pixel, scan after scan."""
    blocks = ((width + 7) // 8) * ((height + 7) // 8)
    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0")
    tables += segment(0xC4, b"\x10" + bytes([1, 1] + [0] * 14) + b"\xe0\0")
    frame = segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + _bits("0" * blocks)
    runs, left = "", blocks
    while left >= 16_384:
        run = min(left, 32_767)
        runs, left = runs + "0" + format(run - 16_384, "014b"), left - run
    more = segment(0xDA, b"\1\1\0\1\x3f\0") + _bits(runs + "10" * left)
    return b"\xff\xd8" + tables + frame + first + more * scans + b"\xff\xd9"


def _bits(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
