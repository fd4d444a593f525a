"""What is in an image file: its dimensions, and the file without anything but its pixels.

A file is walked through from its first byte to its last, without decoding anything. What is not needed to decode the
pixels is left out: comments, profiles, thumbnails, text, whatever somebody may have put there. So no decoder ever sees
it, nor inflates what is compressed in it. The orientation is read, because without it photographs lie on their side.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from mlguard.errors import InvalidInputError

#: What the caller is told about each rule.
_BROKEN = {
    "format": "The content is not an image of the format that its content type says",
    "truncated": "The image ends before its end",
    "trailing": "The body goes on after the end of the image",
    "damaged": "The image breaks the rules of its format, or is of a rare kind that is not read",
    "parts": "The image has too many parts",
    "frames": "The image is animated",
    "pixels": "The image has too many pixels",
    "size": "The image does not have the height and width that are expected",
    "color": "The image has 16 bits a channel, or is made for print; 8 bits of grey or RGB are expected",
    "transparent": "The image has pixels that can be seen through",
}

_MOST_SCANS = 64  # of a progressive JPEG, which usually has about ten. Each one costs a walk over all pixels
_MANY_PARTS = 1_000


class Picture(NamedTuple):
    """An image file that has not been decoded.

    Attributes:
        width: In pixels, as stored.
        height: In pixels, as stored.
        orientation: What has to be done to see it upright, 1 to 8, as in EXIF.
        data: The file without what is not pixels.
    """

    width: int
    height: int
    orientation: int
    data: bytes


class Format(NamedTuple):
    """A format of image files.

    Attributes:
        media_type: Its registered name.
        decoder: Pillow's name for it.
        magic: How its files begin.
        read: Walks through a file that may have so many pixels.
    """

    media_type: str
    decoder: str
    magic: re.Pattern[bytes]
    read: Callable[[bytes, int], Picture]


def broken(rule: str, reason: str = "") -> InvalidInputError:
    """The refusal for one broken rule."""
    return InvalidInputError(
        f"image rule {rule!r} is broken" + (f": {reason}" if reason else ""), detail=f"{_BROKEN[rule]}.", broken=rule
    )


def read_picture(data: bytes, image_format: Format, max_pixels: int) -> Picture:
    """What is in a file of a format.

    Args:
        data: The file.
        image_format: What it should be.
        max_pixels: Width times height, judged as soon as the header was read.

    Raises:
        InvalidInputError: It is too large, not whole, not alone, or not of that format (422).
    """
    if not image_format.magic.match(data):
        raise broken("format")
    try:
        return image_format.read(data, max_pixels)
    except struct.error:  # fewer bytes than a number has
        pass
    raise broken("truncated")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise broken("damaged")
    if width * height > max_pixels:
        raise broken("pixels")


class _Parts:
    """The parts of a file that are kept."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MANY_PARTS + len(data) // 1_024  # so many small ones are there only to cost time
        self.kept: list[bytes] = []

    def next(self, at: int, end: int) -> bytes:
        """The part of the file from one place to another, both inside of it."""
        self._left -= 1
        if self._left < 0:
            raise broken("parts")
        if end > len(self._data):
            raise broken("truncated")
        return self._data[at:end]


# PNG: https://www.w3.org/TR/png-3/ ------------------------------------------------------------------------------------

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_PNG_ONCE = frozenset({b"IHDR", b"PLTE", b"tRNS"})
_PNG_KEPT = _PNG_ONCE | {b"IDAT", b"IEND"}
_DEFLATED, _INFLATED = 16_384, 262_144  # bytes at a time
_ANCILLARY = 0x20  # of the first letter: a decoder may pass over what it does not know


def _read_png(data: bytes, max_pixels: int) -> Picture:
    parts = _Parts(data)
    at, orientation, last = len(_PNG_MAGIC), 1, b""
    seen: set[bytes] = set()
    header = _PNGHeader(0, 0, 0, 0, 0, 0, 0)
    while last != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = parts.next(at, at + 12 + length)
        at += len(chunk)
        _check_chunk(kind, chunk, seen, last)
        if kind == b"IHDR":
            header = _read_png_header(chunk[8:-4], max_pixels)
        if kind in _PNG_KEPT:
            parts.kept.append(chunk)
        elif kind == b"eXIf" and kind not in seen:
            orientation = _orientation(chunk[8:-4])
        seen.add(kind)
        last = kind
    if at != len(data):
        raise broken("trailing")
    if b"IDAT" not in seen or length or (header.color == _PALETTE and b"PLTE" not in seen):
        raise broken("damaged")
    if b"tRNS" in seen and header.color == _GREY and header.depth in {2, 4}:
        # Pillow looks for this grey among pixels that it has made 8 bits of already, and would find none of them.
        raise broken("transparent")
    _check_inflated([chunk[8:-4] for chunk in parts.kept if chunk[4:8] == b"IDAT"], header.inflated)
    return Picture(header.width, header.height, orientation, b"".join([_PNG_MAGIC, *parts.kept]))


def _check_chunk(kind: bytes, chunk: bytes, seen: set[bytes], last: bytes) -> None:
    """Refuse what a chunk may not be, and where it may not stand."""
    if kind in _PNG_ANIMATION:
        raise broken("frames")
    if (
        zlib.crc32(memoryview(chunk)[4:-4]) != int.from_bytes(chunk[-4:])
        or not kind.isalpha()
        or (kind == b"IHDR") != (not seen)
        or (kind not in _PNG_KEPT and not kind[0] & _ANCILLARY)
        or (kind == b"PLTE" and (len(chunk) == 12 or len(chunk) % 3))  # bytes around the colours, of three each
        # Of two, one decoder would take the first, another the last. Pixels stand together, and palettes before them.
        or (kind in _PNG_ONCE and not seen.isdisjoint({kind, b"IDAT"}))
        or (kind == b"IDAT" and kind in seen and last != kind)
    ):
        raise broken("damaged")


class _PNGHeader(NamedTuple):
    width: int
    height: int
    depth: int
    color: int
    compression: int
    filtering: int
    interlaced: int

    @property
    def inflated(self) -> int:
        """Bytes of all pixels, each row with one for its filter."""
        bits = self.depth * _CHANNELS[self.color]
        total = 0
        for left, top, across, down in _ADAM7 if self.interlaced else _ALL_AT_ONCE:
            columns, rows = -((left - self.width) // across), -((top - self.height) // down)
            total += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
        return total


_GREY, _PALETTE = 0, 3
_CHANNELS = {_GREY: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}
# Where each pass over the pixels begins, and its steps.
_ALL_AT_ONCE = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _read_png_header(content: bytes, max_pixels: int) -> _PNGHeader:
    if len(content) != 13:
        raise broken("damaged")
    header = _PNGHeader._make(struct.unpack(">II5B", content))
    _check_pixels(header.width, header.height, max_pixels)
    if header.depth == 16:
        raise broken("color")
    if header.color not in _CHANNELS or header.compression or header.filtering or header.interlaced > 1:
        raise broken("damaged")
    return header


def _check_inflated(contents: Iterable[bytes], expected: int) -> None:
    """Refuse pixels that are fewer or more than the header says, or have a wrong checksum.

    Pillow makes missing rows black. What is inflated is counted and dropped, a piece at a time.
    """
    inflate = zlib.decompressobj()
    inflated = 0
    try:
        for content in contents:
            for at in range(0, len(content), _DEFLATED):
                piece = content[at : at + _DEFLATED]
                while piece and inflated <= expected and not inflate.unused_data:
                    inflated += len(inflate.decompress(piece, _INFLATED))
                    piece = inflate.unconsumed_tail
        inflated += len(inflate.flush(_INFLATED))
    except zlib.error:
        inflated = -1
    if inflated != expected or not inflate.eof or inflate.unused_data:
        raise broken("damaged")


# JPEG: ITU-T T.81, annex B --------------------------------------------------------------------------------------------

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # anything but a stuffed FF and a restart
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; all with Huffman codes
_TABLES = frozenset({0xC4, 0xDB, 0xDD})  # Huffman, quantisation, restart interval
_DROPPED = frozenset({*range(0xE0, 0xF0), 0xFE})  # applications', comments


def _read_jpeg(data: bytes, max_pixels: int) -> Picture:
    parts = _Parts(data)
    orientation, scans, frame = 0, 0, (0, 0)
    marker, begin = _next_marker(data, 2)
    while marker != _EOI:
        _check_place(marker, frame)
        end = begin + _length(data, begin)
        segment = parts.next(begin + 2, end)
        if marker in _FRAMES:
            frame = _read_frame(segment, max_pixels)
        elif marker == _SOS:
            scans += 1
            end = _end_of_scan(data, end, scans)
        elif marker == 0xE1 and segment.startswith(b"Exif\0") and not scans:  # viewers look no further
            orientation = orientation or _orientation(segment[6:])
        if marker not in _DROPPED or _says_colors(marker, segment):
            parts.kept.append(data[begin - 2 : end])
        marker, begin = _next_marker(data, end)
    if begin != len(data):
        raise broken("trailing")
    if not scans:
        raise broken("damaged")
    height, width = frame
    return Picture(width, height, orientation or 1, b"".join([b"\xff\xd8", *parts.kept, b"\xff\xd9"]))


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """The marker that stands here, and where what belongs to it begins."""
    found = _MARKER.match(data, at)
    if found is None:
        raise broken("damaged" if data[at:].strip(b"\xff") else "truncated")
    return found[1][0], found.end()


def _length(data: bytes, at: int) -> int:
    (length,) = struct.unpack_from(">H", data, at)
    if length < 2:  # it counts itself
        raise broken("damaged")
    return int(length)


def _check_place(marker: int, frame: tuple[int, int]) -> None:
    """Refuse segments that are not known, and those that may not stand here: one frame comes before all scans."""
    is_known = marker in _FRAMES or marker in _TABLES or marker in _DROPPED or marker == _SOS
    if not is_known or (marker in _FRAMES and frame != (0, 0)) or (marker == _SOS and frame == (0, 0)):
        raise broken("damaged")


def _says_colors(marker: int, segment: bytes) -> bool:
    """Whether a segment of an application says if the colours are RGB or YCbCr."""
    return (marker == 0xE0 and segment.startswith(b"JFIF\0")) or (marker == 0xEE and segment.startswith(b"Adobe"))


def _read_frame(segment: bytes, max_pixels: int) -> tuple[int, int]:
    bits, height, width, components = struct.unpack_from(">BHHB", segment)
    _check_pixels(width, height, max_pixels)
    if bits != 8 or components == 4:
        raise broken("color")
    if components not in {1, 3} or len(segment) != 6 + 3 * components:
        raise broken("damaged")
    return height, width


def _end_of_scan(data: bytes, at: int, scans: int) -> int:
    if scans > _MOST_SCANS:
        raise broken("parts")
    found = _AFTER_SCAN.search(data, at)
    if found is None:
        raise broken("truncated")
    return found.start()


# WebP: RFC 9649 -------------------------------------------------------------------------------------------------------

_WEBP_ANIMATION = frozenset({b"ANIM", b"ANMF"})
_WEBP_KEPT = frozenset({b"VP8 ", b"VP8L", b"ALPH"})
_ANIMATED, _WITH_ALPHA = 0x02, 0x10  # flags
_VP8L_ALPHA = 0x10  # of the last byte of the size


def _read_webp(data: bytes, max_pixels: int) -> Picture:
    parts = _Parts(data)
    (size,) = struct.unpack_from("<I", data, 4)
    at, end = 12, 8 + size + size % 2
    chunks: dict[bytes, bytes] = {}
    if end < len(data):
        raise broken("trailing")
    while at < end:
        kind, length = struct.unpack_from("<4sI", data, at)
        chunk = parts.next(at, at + 8 + length + length % 2)
        at += len(chunk)
        if kind in _WEBP_ANIMATION or (kind == b"VP8X" and chunk[8:] and chunk[8] & _ANIMATED):
            raise broken("frames")
        if (kind == b"VP8X" and chunks) or (kind in _WEBP_KEPT and kind in chunks):
            raise broken("damaged")
        chunks.setdefault(kind, chunk)
    return _webp_pixels(chunks, max_pixels)


def _webp_pixels(chunks: Mapping[bytes, bytes], max_pixels: int) -> Picture:
    lossy, lossless, extended = (chunks.get(kind, b"") for kind in (b"VP8 ", b"VP8L", b"VP8X"))
    if lossy and not lossless and lossy[11:14] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", lossy, 14))
    elif lossless and not lossy and lossless[8:9] == b"\x2f":
        (bits,) = struct.unpack_from("<I", lossless, 9)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        raise broken("damaged")
    _check_pixels(width, height, max_pixels)
    if lossless:
        # Browsers show the alpha channel also where this bit says that there is none.
        chunks = {**chunks, b"VP8L": lossless[:12] + bytes([lossless[12] | _VP8L_ALPHA]) + lossless[13:]}
    kept = [chunk for kind, chunk in chunks.items() if kind in _WEBP_KEPT]
    if extended or len(kept) > 1:
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        if extended[12:] != canvas:  # two sizes, or none for what is laid over the pixels
            raise broken("damaged")
        flags = _WITH_ALPHA if b"ALPH" in chunks or extended[8] & _WITH_ALPHA else 0
        kept = [struct.pack("<4sII", b"VP8X", 10, flags) + canvas, *kept]
    content = b"WEBP" + b"".join(kept)
    orientation = _orientation(chunks.get(b"EXIF", b"")[8:].removeprefix(b"Exif\0\0"))
    return Picture(width, height, orientation, struct.pack("<4sI", b"RIFF", len(content)) + content)


# EXIF: a directory as in TIFF 6.0, section 2 --------------------------------------------------------------------------

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION, _SHORT = 0x0112, 3


def _orientation(exif: bytes) -> int:
    """The orientation in the first directory, 1 to 8; 1 where there is none that can be read, as viewers have it."""
    order = _ORDERS.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        entry = struct.Struct(f"{order}HHIH2x")
        for at in range(start + 2, start + 2 + count * entry.size, entry.size):
            tag, kind, number, value = entry.unpack_from(exif, at)
            if (tag, kind, number) == (_ORIENTATION, _SHORT, 1):  # browsers pass over one of another type
                return value if 1 <= value <= 8 else 1
    except struct.error:  # it ends too early
        pass
    return 1


FORMATS = {
    "png": Format("image/png", "PNG", re.compile(re.escape(_PNG_MAGIC)), _read_png),
    "jpeg": Format("image/jpeg", "JPEG", re.compile(rb"\xff\xd8\xff"), _read_jpeg),
    "webp": Format("image/webp", "WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL), _read_webp),
}
