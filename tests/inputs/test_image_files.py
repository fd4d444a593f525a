"""Image files that are not what they seem, and what is left of those that are."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mlguard import InvalidInputError
from mlguard.inputs._image_files import FORMATS, Picture, read_picture
from tests.inputs.pictures import (
    END,
    SMALL,
    after_header,
    chunk,
    encode,
    header,
    noise,
    pixels,
    plainly,
    png,
    riff,
    riff_chunk,
    riff_chunks,
    scans_without_end,
    segment,
    with_orientation,
)

JPEG = encode(noise(), "JPEG")
PROGRESSIVE = encode(noise(), "JPEG", progressive=True)
GREY_JPEG = encode(noise(channels=1), "JPEG")
WEBP = encode(noise(), "WEBP")
LOSSLESS = encode(noise(), "WEBP", lossless=True)
CLEAR = encode(noise(channels=4), "WEBP")
PNG = encode(noise(), "PNG")
WHOLE = {"png": PNG, "jpeg": JPEG, "webp": WEBP}


def read(kind: str, data: bytes) -> Picture:
    return read_picture(data, FORMATS[kind], 4_000_000)


def rule(kind: str, data: bytes) -> str:
    """The rule that a file breaks."""
    with pytest.raises(InvalidInputError) as refusal:
        read(kind, data)
    assert refusal.value.status_code == 422
    return str(refusal.value.members["broken"])


# What is left ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data"),
    [("png", PNG), ("jpeg", JPEG), ("jpeg", PROGRESSIVE), ("jpeg", GREY_JPEG), ("webp", WEBP), ("webp", LOSSLESS)],
)
def test_what_is_left_has_the_same_pixels(kind: str, data: bytes) -> None:
    """A file without its metadata is decoded to the same image, of the size that was read."""
    picture = read(kind, data)
    assert (picture.width, picture.height, picture.orientation) == (17, 13, 1)
    assert np.array_equal(plainly(picture.data), plainly(data))


MARK = b"<script>secret</script>"


def hidden_in_png() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", MARK.decode())
    info.add_text("Compressed", MARK.decode(), zip=True)
    info.add(b"prVt", MARK)
    return encode(noise(), "PNG", pnginfo=info, exif=MARK, icc_profile=MARK)


def hidden_in_jpeg() -> bytes:
    data = encode(noise(), "JPEG", comment=MARK, exif=b"Exif\0\0" + MARK, icc_profile=MARK)
    return after_header(data, *(segment(marker, MARK) for marker in (0xE0, 0xE5, 0xED, 0xEE)))


def hidden_in_webp() -> bytes:
    return encode(noise(), "WEBP", exif=b"Exif\0\0" + MARK, icc_profile=MARK, xmp=MARK)


@pytest.mark.parametrize(("kind", "make"), [("png", hidden_in_png), ("jpeg", hidden_in_jpeg), ("webp", hidden_in_webp)])
def test_metadata_never_reach_the_decoder(kind: str, make: Callable[[], bytes]) -> None:
    """Comments, profiles, private parts and whatever else somebody has put there are not in what is decoded."""
    data = make()
    assert MARK in data
    left = read(kind, data).data
    assert MARK not in left
    assert np.array_equal(plainly(left), plainly(data))
    with Image.open(io.BytesIO(left)) as image:
        image.load()
        assert not {"exif", "icc_profile", "xmp", "comment", "Comment", "Compressed"} & image.info.keys()


def test_a_bomb_in_a_comment_is_never_inflated() -> None:
    """Text and profiles that would inflate to gigabytes are left out as they are, deflated."""
    bomb = zlib.compress(bytes(10_000_000))
    extra = [chunk(kind, b"x\0\0" + bomb) for kind in (b"zTXt", b"iCCP")] + [chunk(b"iTXt", b"x\0\1\0\0\0" + bomb)]
    assert read("png", SMALL[:33] + b"".join(extra) + SMALL[33:]).data == SMALL


def test_colors_of_jpegs_stay_what_they_are() -> None:
    """The segments that say RGB or YCbCr are kept, so that the colours are not mistaken."""
    rgb = encode(noise(), "JPEG", keep_rgb=True, quality=95)
    assert np.array_equal(plainly(read("jpeg", rgb).data), plainly(rgb))


def test_pixels_are_counted_before_anything_else() -> None:
    """By the header alone: whatever comes then is not read."""
    for kind, data in WHOLE.items():
        with pytest.raises(InvalidInputError) as refusal:
            read_picture(data, FORMATS[kind], 17 * 13 - 1)
        assert refusal.value.members == {"broken": "pixels"}
        assert read_picture(data, FORMATS[kind], 17 * 13).width == 17
    assert rule("png", png(header(50_000, 50_000), IDAT)) == "pixels"


# Polyglots and files that were cut ------------------------------------------------------------------------------------

TAILS = [b"\0", b"\n", b"PK\x05\x06" + bytes(18), b"<html></html>", b"GIF89a", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"]


@pytest.mark.parametrize("tail", [*TAILS, "itself"])
@pytest.mark.parametrize("kind", WHOLE)
def test_nothing_may_follow_the_image(kind: str, tail: bytes | str) -> None:
    """A ZIP, a page or another image behind an image is refused, whatever its own format would make of it."""
    data = WHOLE[kind]
    assert rule(kind, data + (data if isinstance(tail, str) else tail)) == "trailing"


def test_a_tail_inside_the_riff_is_no_part_of_the_image() -> None:
    """A WebP may hold unknown chunks; what is no chunk is damage, and what is one is left out."""
    data = riff(*riff_chunks(WEBP), riff_chunk(b"junk", MARK))
    assert read("webp", data).data == WEBP
    assert rule("webp", riff(*riff_chunks(WEBP), b"PK")) == "truncated"


@pytest.mark.parametrize("data", [PNG, SMALL, JPEG, PROGRESSIVE, WEBP, LOSSLESS, CLEAR], ids=range(7))
def test_a_file_that_was_cut_anywhere_is_refused(data: bytes) -> None:
    """There is no byte after which a file could end and still be an image."""
    kind = next(kind for kind, each in FORMATS.items() if each.magic.match(data))
    rules = {rule(kind, data[:end]) for end in range(len(data))}
    assert rules <= {"format", "truncated"}


def test_a_file_of_another_format_is_refused() -> None:
    """The first bytes must be those of the format, and of no other one."""
    for kind, whole in WHOLE.items():
        others = [data for data in WHOLE.values() if data != whole]
        for data in (b"", b"GIF89a", b"BM", b"<svg/>", b"%PDF-1.7", b"\0" + whole, *others):
            assert rule(kind, data) == "format"


# PNG ------------------------------------------------------------------------------------------------------------------

IHDR, IDAT = header(2, 2), pixels(b"\x01\x02", b"\x03\x04")
DEFLATED = zlib.compress(b"\0\1\2\0\3\4")
PALETTE, TRANSPARENCY = chunk(b"PLTE", bytes(9)), chunk(b"tRNS", b"\0\0")

DAMAGED_PNGS = {
    "no header": png(IDAT, END),
    "something before the header": png(chunk(b"tEXt"), IHDR, IDAT, END),
    "two headers": png(IHDR, header(9, 9), IDAT, END),
    "a short header": png(chunk(b"IHDR", bytes(12)), IDAT, END),
    "a long header": png(chunk(b"IHDR", bytes(14)), IDAT, END),
    "no pixels": png(IHDR, END),
    "pixels in two places": png(IHDR, IDAT, chunk(b"tEXt"), IDAT, END),
    "two palettes": png(IHDR, PALETTE, PALETTE, IDAT, END),
    "a palette behind the pixels": png(IHDR, IDAT, PALETTE, END),
    "two transparencies": png(IHDR, TRANSPARENCY, TRANSPARENCY, IDAT, END),
    "transparency behind the pixels": png(IHDR, IDAT, TRANSPARENCY, END),
    "no palette for numbers of colours": png(header(2, 2, 8, 3), IDAT, END),
    "no compression that there is": png(header(2, 2, more=b"\1\0\0"), IDAT, END),
    "no filter that there is": png(header(2, 2, more=b"\0\1\0"), IDAT, END),
    "no interlacing that there is": png(header(2, 2, more=b"\0\0\2"), IDAT, END),
    "no colour that there is": png(header(2, 2, color=1), IDAT, END),
    "a row too few": png(header(2, 3), IDAT, END),
    "a row too many": png(header(2, 1), IDAT, END),
    "a byte too few": png(IHDR, pixels(b"\x01\x02", b"\x03"), END),
    "a byte too many": png(IHDR, pixels(b"\x01\x02", b"\x03\x04\x05"), END),
    "nothing in the pixels": png(IHDR, chunk(b"IDAT"), END),
    "pixels without an end": png(IHDR, chunk(b"IDAT", DEFLATED[:-4]), END),
    "pixels with a wrong checksum of their own": png(IHDR, chunk(b"IDAT", DEFLATED[:-1] + b"\0"), END),
    "something behind the pixels": png(IHDR, chunk(b"IDAT", DEFLATED + b"PK"), END),
    "something behind the pixels, apart": png(IHDR, chunk(b"IDAT", DEFLATED), chunk(b"IDAT", b"PK"), END),
    "no deflate": png(IHDR, chunk(b"IDAT", b"PK\3\4"), END),
    "gigabytes behind the pixels": png(IHDR, chunk(b"IDAT", zlib.compress(b"\0\1\2\0\3\4" + bytes(10**8))), END),
    "an unknown critical chunk": png(IHDR, chunk(b"JDAT"), IDAT, END),
    "an end with something in it": png(IHDR, IDAT, chunk(b"IEND", b"PK")),
    "a kind that is no letters": png(IHDR, chunk(b"te\0t"), IDAT, END),
    "a wrong checksum of the pixels": png(IHDR, IDAT[:-1] + b"\0", END),
    "a wrong checksum of the header": png(IHDR[:-1] + b"\0", IDAT, END),
    "a wrong checksum of a comment": png(IHDR, chunk(b"tEXt")[:-1] + b"\0", IDAT, END),
}


@pytest.mark.parametrize("case", DAMAGED_PNGS)
def test_a_png_that_decoders_would_read_in_two_ways_is_refused(case: str) -> None:
    """Where one decoder takes the first of two and another the last, nobody knows which image was checked."""
    assert rule("png", DAMAGED_PNGS[case]) == "damaged"


def test_pixels_may_come_in_any_pieces() -> None:
    """Chunks are cut where an encoder likes, even to nothing."""
    cut = png(IHDR, *(chunk(b"IDAT", DEFLATED[at : at + 1]) for at in range(len(DEFLATED))), chunk(b"IDAT"), END)
    assert np.array_equal(plainly(read("png", cut).data), plainly(SMALL))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 9, 17])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 9, 16])
def test_interlaced_pixels_are_counted_right(width: int, height: int) -> None:
    """Adam7 goes over the pixels seven times, and passes over what has none."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    columns = [len(range(left, width, across)) for left, _, across, _ in passes]
    rows = [len(range(top, height, down)) for _, top, _, down in passes]
    content = b"".join((b"\0" + b"\x2a" * c) * r for c, r in zip(columns, rows, strict=True) if c)
    data = png(header(width, height, more=b"\0\0\1"), chunk(b"IDAT", zlib.compress(content)), END)
    assert (plainly(read("png", data).data, "L") == 42).all()
    more = png(header(width, height, more=b"\0\0\1"), chunk(b"IDAT", zlib.compress(content + b"\0")), END)
    assert rule("png", more) == "damaged"


@pytest.mark.parametrize("kind", [b"acTL", b"fcTL", b"fdAT"])
def test_an_animated_png_is_refused(kind: bytes) -> None:
    """There is one frame, or none."""
    assert rule("png", png(IHDR, chunk(kind, bytes(8)), IDAT, END)) == "frames"
    animated = encode(noise(), "PNG", save_all=True, append_images=[noise(seed=8)])
    assert rule("png", animated) == "frames"


@pytest.mark.parametrize("color", [0, 2, 4, 6])
def test_sixteen_bits_are_refused(color: int) -> None:
    """Half of the bits would be dropped, so it is no exact conversion."""
    assert rule("png", png(header(2, 2, 16, color), IDAT, END)) == "color"


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 13, 15])
def test_a_png_that_lies_about_a_length_is_refused(length: int) -> None:
    """A chunk that is longer than the file ends it, and nothing is allocated for it."""
    assert rule("png", SMALL[:33] + struct.pack(">I", length) + SMALL[37:]) in {"truncated", "damaged"}


def test_very_many_parts_are_refused() -> None:
    """Each part takes time, so a file of nothing but parts is not read to its end."""
    empty = chunk(b"tEXt")
    assert read("png", png(IHDR, *[empty] * 900, IDAT, END)).data == SMALL
    assert rule("png", png(IHDR, *[empty] * 2_000, IDAT, END)) == "parts"
    assert rule("png", png(IHDR, *[chunk(b"IDAT")] * 2_000, IDAT, END)) == "parts"
    assert rule("jpeg", after_header(JPEG, *[segment(0xFE, b"")] * 2_000)) == "parts"
    assert rule("webp", riff(*riff_chunks(WEBP), *[riff_chunk(b"junk", b"")] * 2_000)) == "parts"


# JPEG -----------------------------------------------------------------------------------------------------------------

FRAME = segment(0xC0, struct.pack(">BHHB", 8, 2, 2, 1) + b"\1\x11\0")
SCAN = segment(0xDA, b"\1\1\0\0\x3f\0") + b"\x12\xff\0\x34\xff\xd0\x56"

ODD_JPEGS = {
    "no frame": (SCAN, "damaged"),
    "no scan": (FRAME, "damaged"),
    "nothing": (b"", "damaged"),
    "two frames": (FRAME + FRAME + SCAN, "damaged"),
    "no height": (segment(0xC0, struct.pack(">BHHB", 8, 0, 2, 1) + b"\1\x11\0") + SCAN, "damaged"),
    "no width": (segment(0xC0, struct.pack(">BHHB", 8, 2, 0, 1) + b"\1\x11\0") + SCAN, "damaged"),
    "two components": (segment(0xC0, struct.pack(">BHHB", 8, 2, 2, 2) + b"\1\x11\0" * 2) + SCAN, "damaged"),
    "fewer components than it says": (segment(0xC0, struct.pack(">BHHB", 8, 2, 2, 3) + b"\1\x11\0") + SCAN, "damaged"),
    "a frame of nothing": (segment(0xC0, b"") + SCAN, "truncated"),
    "12 bits": (segment(0xC1, struct.pack(">BHHB", 12, 2, 2, 1) + b"\1\x11\0") + SCAN, "color"),
    "four components": (segment(0xC0, struct.pack(">BHHB", 8, 2, 2, 4) + b"\1\x11\0" * 4) + SCAN, "color"),
    "a length of 1": (FRAME + b"\xff\xc4\0\1" + SCAN, "damaged"),
    "a length of 0": (FRAME + b"\xff\xc4\0\0" + SCAN, "damaged"),
    "a length beyond the end": (FRAME + b"\xff\xc4\xff\xff" + SCAN, "truncated"),
    "something that is no marker": (FRAME + b"PK" + SCAN, "damaged"),
    "a second beginning": (FRAME + b"\xff\xd8" + SCAN, "damaged"),
    "a restart outside of a scan": (b"\xff\xd0" + FRAME + SCAN, "damaged"),
}


@pytest.mark.parametrize("case", ODD_JPEGS)
def test_a_jpeg_that_breaks_a_rule_is_refused(case: str) -> None:
    """The segments must be there, in order, and as long as they say."""
    content, expected = ODD_JPEGS[case]
    assert rule("jpeg", b"\xff\xd8" + (content or b"\xff") + b"\xff\xd9") == expected


@pytest.mark.parametrize(
    "marker",
    [0x01, 0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF, 0xDC, 0xDE, 0xDF, 0xF0, 0xFD],
)
def test_kinds_of_jpeg_that_nobody_sends_are_refused(marker: int) -> None:
    """Arithmetic, lossless and hierarchical coding, and a height that comes later: code that is rarely used."""
    odd = segment(marker, struct.pack(">BHHB", 8, 2, 2, 1) + b"\1\x11\0")
    assert rule("jpeg", b"\xff\xd8" + odd + FRAME + SCAN + b"\xff\xd9") == "damaged"


def test_a_jpeg_may_fill_with_ff_and_restart() -> None:
    """Padding before markers, stuffed bytes and restarts are what the standard has."""
    made = b"\xff\xd8" + FRAME + b"\xff\xff\xff" + SCAN + SCAN + b"\xff\xff\xff\xd9"
    assert (read("jpeg", made).width, read("jpeg", made).height) == (2, 2)
    restarts = encode(noise(64, 64), "JPEG", restart_marker_blocks=1)
    assert np.array_equal(plainly(read("jpeg", restarts).data), plainly(restarts))


def test_scan_after_scan_is_refused() -> None:
    """A progressive JPEG of few bytes may not have all its pixels walked over again and again."""
    few = scans_without_end(64, 64, 60)
    assert plainly(read("jpeg", few).data, "L").shape == (64, 64)
    assert rule("jpeg", scans_without_end(2_000, 2_000, 500)) == "parts"


# WebP -----------------------------------------------------------------------------------------------------------------

VP8, VP8L = riff_chunks(WEBP)[0], riff_chunks(LOSSLESS)[0]
VP8X, ALPH, UNDER_ALPHA = riff_chunks(CLEAR)

ODD_WEBPS = {
    "nothing in it": (riff(), "damaged"),
    "no pixels": (riff(riff_chunk(b"EXIF", b"")), "damaged"),
    "two images": (riff(VP8, VP8), "damaged"),
    "a lossy and a lossless one": (riff(VP8, VP8L), "damaged"),
    "no start code": (riff(VP8[:11] + b"abc" + VP8[14:]), "damaged"),
    "no signature": (riff(VP8L[:8] + b"\x2e" + VP8L[9:]), "damaged"),
    "too short to have a size": (riff(riff_chunk(b"VP8 ", b"\0\0\0\x9d\x01\x2a\0\0")), "truncated"),
    "a header behind the pixels": (riff(VP8, VP8X), "damaged"),
    "two headers": (riff(VP8X, VP8X, ALPH, UNDER_ALPHA), "damaged"),
    "an alpha channel without a header": (riff(ALPH, UNDER_ALPHA), "damaged"),
    "two alpha channels": (riff(VP8X, ALPH, ALPH, UNDER_ALPHA), "damaged"),
    "another size in the header": (riff(VP8X[:12] + b"\x7f\0\0\x7f\0\0", ALPH, UNDER_ALPHA), "damaged"),
    "a header of nothing": (riff(riff_chunk(b"VP8X", b""), UNDER_ALPHA), "damaged"),
    "a flag of animation": (riff(VP8X[:8] + b"\x12" + VP8X[9:], ALPH, UNDER_ALPHA), "frames"),
    "a frame of an animation": (riff(VP8X, riff_chunk(b"ANMF", VP8)), "frames"),
    "settings of an animation": (riff(VP8X, riff_chunk(b"ANIM", bytes(6)), ALPH, UNDER_ALPHA), "frames"),
    "a length beyond the end": (riff(b"VP8 \xff\xff\xff\xff" + VP8[8:]), "truncated"),
    "a length beyond the RIFF": (WEBP[:4] + struct.pack("<I", len(WEBP) - 10) + WEBP[8:-2], "truncated"),
    "a RIFF beyond the end": (WEBP[:4] + b"\xff\xff\xff\xff" + WEBP[8:], "truncated"),
}


@pytest.mark.parametrize("case", ODD_WEBPS)
def test_a_webp_that_breaks_a_rule_is_refused(case: str) -> None:
    """One image, in one place, of one size."""
    data, expected = ODD_WEBPS[case]
    assert rule("webp", data) == expected


def test_an_animated_webp_is_refused() -> None:
    """Not even its first frame is taken."""
    assert rule("webp", encode(noise(), "WEBP", save_all=True, append_images=[noise(seed=8)])) == "frames"


def test_the_alpha_channel_of_a_webp_is_kept() -> None:
    """It is judged later, when it is decoded, so it may not get lost on the way."""
    for data in (CLEAR, encode(noise(channels=4), "WEBP", lossless=True, exif=b"Exif\0\0" + MARK)):
        assert np.array_equal(plainly(read("webp", data).data, "RGBA"), plainly(data, "RGBA"))
    without_flag = riff(VP8X[:8] + b"\0" + VP8X[9:], ALPH, UNDER_ALPHA)
    assert np.array_equal(plainly(read("webp", without_flag).data, "RGBA"), plainly(CLEAR, "RGBA"))


# EXIF -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", WHOLE)
def test_the_orientation_is_read(kind: str, orientation: int) -> None:
    """Wherever a format keeps it, and in both orders of bytes."""
    assert read(kind, with_orientation(kind, orientation)).orientation == orientation


def entry(order: str, tag: int, kind: int, number: int, value: int) -> bytes:
    return struct.pack(f"{order}HHIHxx", tag, kind, number, value)


def tiff(order: str, *entries: bytes, count: int | None = None, start: int = 8) -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    number = len(entries) if count is None else count
    return magic + struct.pack(f"{order}IH", start, number) + b"".join(entries)


TURNED = [entry(order, 0x0112, 3, 1, 6) for order in "<>"]

EXIFS = {
    "little endian": (tiff("<", entry("<", 0x0100, 3, 1, 9), TURNED[0]), 6),
    "big endian": (tiff(">", entry(">", 0x0100, 3, 1, 9), TURNED[1]), 6),
    "the first one counts": (tiff("<", TURNED[0], entry("<", 0x0112, 3, 1, 3)), 6),
    "one of another type is passed over": (tiff("<", entry("<", 0x0112, 4, 1, 1), TURNED[0]), 6),
    "more entries than there are": (tiff("<", TURNED[0], count=65_535), 6),
    "a tag that never comes": (tiff("<", entry("<", 0x0100, 3, 1, 9), count=65_535), 1),
    "none": (tiff("<"), 1),
    "0": (tiff("<", entry("<", 0x0112, 3, 1, 0)), 1),
    "9": (tiff("<", entry("<", 0x0112, 3, 1, 9)), 1),
    "a text": (tiff("<", entry("<", 0x0112, 2, 1, 6)), 1),
    "two numbers": (tiff("<", entry("<", 0x0112, 3, 2, 6)), 1),
    "a directory beyond the end": (tiff("<", TURNED[0], start=0xFFFFFFFF), 1),
    "no directory": (b"II*\0", 1),
    "no order": (b"XX*\0" + bytes(100), 1),
    "nothing": (b"", 1),
}


@pytest.mark.parametrize("case", EXIFS)
def test_what_exif_says_is_believed_only_where_it_makes_sense(case: str) -> None:
    """What cannot be read turns nothing, as in every viewer."""
    exif, expected = EXIFS[case]
    assert read("jpeg", after_header(JPEG, segment(0xE1, b"Exif\0\0" + exif))).orientation == expected
    assert read("png", SMALL[:33] + chunk(b"eXIf", exif) + SMALL[33:]).orientation == expected
    assert read("webp", riff(VP8, riff_chunk(b"EXIF", exif))).orientation == expected


def test_of_two_orientations_the_first_counts() -> None:
    """As it does for browsers and for Pillow."""
    first, second = (tiff("<", entry("<", 0x0112, 3, 1, turn)) for turn in (6, 3))
    twice = [segment(0xE1, b"Exif\0\0" + exif) for exif in (first, second)]
    assert read("jpeg", after_header(JPEG, *twice)).orientation == 6
    assert read("png", SMALL[:33] + chunk(b"eXIf", first) + chunk(b"eXIf", second) + SMALL[33:]).orientation == 6
    assert read("webp", riff(VP8, riff_chunk(b"EXIF", first), riff_chunk(b"EXIF", second))).orientation == 6


def test_exif_begins_with_any_sixth_byte() -> None:
    """The standard has 0 there, and browsers do not look."""
    assert read("jpeg", after_header(JPEG, segment(0xE1, b"Exif\0\1" + tiff("<", TURNED[0])))).orientation == 6


def test_an_orientation_behind_the_pixels_turns_nothing() -> None:
    """Browsers and Pillow look for it before the first scan, and no further."""
    behind = segment(0xE1, b"Exif\0\0" + tiff("<", TURNED[0]))
    assert read("jpeg", JPEG[:-2] + behind + JPEG[-2:]).orientation == 1


# Anything -------------------------------------------------------------------------------------------------------------


def mutated(data: bytes, seed: int) -> bytes:
    """A file with a few bytes changed, put in or taken out."""
    chance = random.Random(seed)
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        piece = chance.choice([b"", b"\xff", b"\0", bytes([chance.randrange(256)]), changed[at : at + 12]])
        changed[at : at + chance.choice([0, 1, 1, 1, 4])] = piece
    return bytes(changed)


@given(st.sampled_from(["png", "jpeg", "webp"]), st.binary(max_size=200))
def test_any_bytes_are_refused(kind: str, tail: bytes) -> None:
    """Nothing but a refusal comes of what follows the first bytes of a format."""
    begin: Any = {
        "png": SMALL[:8],
        "jpeg": b"\xff\xd8\xff",
        "webp": b"RIFF" + struct.pack("<I", len(tail) + 4) + b"WEBP",
    }
    rule(kind, begin[kind] + tail)


@given(st.sampled_from([PNG, JPEG, PROGRESSIVE, WEBP, LOSSLESS, CLEAR]), st.integers(0, 2**32))
def test_a_changed_file_is_refused_or_whole(data: bytes, seed: int) -> None:
    """Whatever is changed in a file, it is a refusal, or a file of the same kind that is read to its end again."""
    kind = next(kind for kind, each in FORMATS.items() if each.magic.match(data))
    try:
        picture = read(kind, mutated(data, seed))
    except InvalidInputError:
        return
    assert read(kind, picture.data).data == picture.data
