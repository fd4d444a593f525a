"""``ImageInput`` as a caller and a developer see it, and as somebody would get past it."""

import asyncio
import io
import subprocess
import sys
import threading
import warnings
import zlib
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI, UploadFile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from mlguard import (
    BitDepth,
    BodyTooLargeError,
    ConfigurationError,
    Control,
    ImageInput,
    InvalidInputError,
    MedianSmoothing,
    MemoryStore,
    OverloadedError,
    QueryBudget,
    RateLimit,
    harden,
    truncate_output,
)
from mlguard.errors import MLGuardError
from tests.asgi import Answer, acall, call
from tests.clock import Clock
from tests.inputs.pictures import (
    END,
    SMALL,
    chunk,
    encode,
    header,
    noise,
    pixels,
    plainly,
    png,
    repaired,
    riff,
    riff_chunk,
    scans_without_end,
    with_orientation,
)
from tests.inputs.test_image_files import CLEAR, JPEG, LOSSLESS, PNG, PROGRESSIVE, WEBP, mutated

ALL: Any = ("png", "jpeg", "webp")
PHOTO = ImageInput(formats=ALL)
GREY = ImageInput(formats=ALL, mode="L")


def decode(data: bytes, guard: ImageInput = PHOTO) -> Any:
    return asyncio.run(guard.decode(data))


def rule(data: bytes, guard: ImageInput = PHOTO) -> str:
    """The rule that a file breaks."""
    with pytest.raises(InvalidInputError) as refusal:
        decode(data, guard)
    return str(refusal.value.members["broken"])


def service(guard: ImageInput, *more: Any, hardened: bool = True, direct: bool = False) -> FastAPI:
    app = FastAPI()
    if hardened:
        harden(app, max_body_size=16_000_000)

    async def predict(x: Annotated[Any, Depends(guard)]) -> Any:
        return {"shape": x.shape, "dtype": str(x.dtype), "sum": int(x.sum())}

    predict = truncate_output(decimals=1)(predict) if direct else predict
    app.post("/predict", dependencies=[Depends(one) for one in more])(predict)
    return app


def post(app: FastAPI, data: bytes, content_type: str | None = "image/png", **more: Any) -> Answer:
    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    return call(app, headers=headers, chunks=[data], client=("192.0.2.1", 1), **more)


# Accepted -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "data"), [("png", PNG), ("jpeg", JPEG), ("jpeg", PROGRESSIVE), ("webp", WEBP)])
def test_an_image_becomes_an_array(kind: str, data: bytes) -> None:
    """The body is the file, and the model gets height, width and three channels of uint8."""
    answer = post(service(PHOTO), data, f"image/{kind}")
    assert answer.status == 200
    assert answer.json == {"shape": [13, 17, 3], "dtype": "uint8", "sum": int(plainly(data).sum())}


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP], ids=ALL)
def test_the_array_is_what_pillow_reads(data: bytes) -> None:
    """The pixels are those of the file, in an array that a model may write to."""
    array = decode(data)
    assert np.array_equal(array, plainly(data))
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.dtype == np.uint8


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
def test_every_kind_of_8_bit_color_is_converted_exactly(mode: str) -> None:
    """Grey is repeated, a palette is looked up, an opaque alpha channel is taken away."""
    data = encode(noise(40, 30).convert(mode), "PNG")
    assert np.array_equal(decode(data), plainly(data))
    grey = decode(data, GREY)
    assert grey.shape == (40, 30)
    assert np.array_equal(grey, plainly(data, "L"))


def test_grey_is_made_of_colors_by_the_stated_weights() -> None:
    """0.299 red, 0.587 green and 0.114 blue, rounded (ITU-R BT.601)."""
    image = noise(50, 50)
    weights = np.array([0.299, 0.587, 0.114])
    expected = np.asarray(image) @ weights
    assert np.abs(decode(encode(image, "PNG"), GREY) - expected).max() <= 0.501


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_become_eight_exactly(depth: int) -> None:
    """The darkest is 0 and the brightest is 255, and the others lie evenly between."""
    levels = np.arange(2**depth)
    row = sum(int(level) << (64 - depth * (at + 1)) for at, level in enumerate(levels)).to_bytes(8)
    data = png(header(len(levels), 1, depth), pixels(row[: (len(levels) * depth + 7) // 8]), END)
    assert decode(data, GREY).tolist() == [(levels * 255 // (2**depth - 1)).tolist()]


def test_interlaced_images_are_read() -> None:
    """Adam7 is part of PNG, and of one pixel it is one pass."""
    data = png(header(1, 1, more=b"\0\0\1"), pixels(b"\x2a"), END)
    assert decode(data, GREY).tolist() == [[42]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ALL)
def test_photographs_stand_upright(kind: str, orientation: int) -> None:
    """What EXIF says about turning is done, as Pillow would do it when asked."""
    data = with_orientation(kind, orientation)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    array = decode(data)
    assert np.array_equal(array, upright)
    assert array.flags.c_contiguous
    assert decode(data, ImageInput(formats=ALL, size=upright.shape[:2])).shape == upright.shape


def test_colors_beyond_the_palette_are_black() -> None:
    """As browsers show them."""
    data = png(header(3, 1, 8, 3), chunk(b"PLTE", b"\x01\x02\x03"), pixels(b"\0\1\xff"), END)
    assert decode(data).tolist() == [[[1, 2, 3], [0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize("length", [0, 1, 4, 8])
def test_a_palette_is_made_of_colors(length: int) -> None:
    """Browsers show no image whose palette has none, or a part of one, and Pillow does."""
    assert rule(png(header(1, 1, 8, 3), chunk(b"PLTE", bytes(length)), pixels(b"\0"), END)) == "damaged"


def test_uploads_of_forms_go_through_the_same_rules() -> None:
    """An endpoint may hand over bytes from anywhere; the name and type that a form says do not matter."""
    app = FastAPI()
    harden(app)

    @app.post("/predict")
    async def predict(file: UploadFile) -> Any:
        return (await PHOTO.decode(await file.read())).shape

    def upload(data: bytes, content_type: str) -> Answer:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.exe"\r\n'
        body = head + f"Content-Type: {content_type}\r\n\r\n".encode() + data + b"\r\n--b--\r\n"
        return post(app, body, "multipart/form-data; boundary=b")

    assert upload(PNG, "text/html").json == [13, 17, 3]
    refusal = upload(b"<html>", "image/png")
    assert (refusal.status, refusal.json["broken"]) == (422, "format")


def test_the_body_is_there_for_others_too() -> None:
    """A second guard or the endpoint may read what was read already."""
    app = FastAPI()
    second = ImageInput(mode="L")

    @app.post("/predict")
    async def predict(a: Annotated[Any, Depends(PHOTO)], b: Annotated[Any, Depends(second)]) -> Any:
        return [a.ndim, b.ndim]

    assert post(app, PNG).json == [3, 2]


# Refused by type and size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [None, "", "image/webp", "image/gif", "image/jpg", "image/*", "image/png; charset=utf-8", "image/png, image/jpeg",
     "application/octet-stream", "multipart/form-data; boundary=x", "text/html", "application/json"],
)  # fmt: skip
def test_other_content_types_are_refused(content_type: str | None) -> None:
    """A body that is not declared to be one of the formats is not read, and the answer says which are."""
    answer = post(service(ImageInput(), hardened=True), PNG, content_type)
    assert (answer.status, answer.reads) == (415, 0)
    assert answer.headers["accept"] == "image/png, image/jpeg"


def test_two_content_types_are_refused() -> None:
    """Whoever reads the first and whoever reads the last would differ."""
    headers = [(b"content-type", b"image/png"), (b"content-type", b"image/png")]
    assert call(service(PHOTO), headers=headers, chunks=[PNG]).status == 415


def test_content_types_are_compared_without_case() -> None:
    """As media types are."""
    assert post(service(PHOTO), PNG, " Image/PNG\t").status == 200


@pytest.mark.parametrize(("content_type", "data"), [("image/jpeg", PNG), ("image/png", JPEG), ("image/webp", JPEG)])
def test_the_content_must_be_what_its_type_says(content_type: str, data: bytes) -> None:
    """An image of another format is refused, though that is allowed too."""
    answer = post(service(PHOTO), data, content_type)
    assert (answer.status, answer.json["broken"]) == (422, "format")


def test_formats_that_are_not_allowed_are_not_looked_at() -> None:
    """No decoder is tried but those that were asked for."""
    only_png = ImageInput(formats=["png"])
    assert rule(JPEG, only_png) == "format"
    for kind in ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000"):
        assert rule(encode(noise(16, 16), kind), PHOTO) == "format"


@pytest.mark.parametrize("hardened", [True, False])
@pytest.mark.parametrize("declared", [True, False])
def test_a_large_file_is_refused_before_it_is_read(*, declared: bool, hardened: bool) -> None:
    """By its declared length unread, and without one as soon as it is too much."""
    guard = ImageInput(max_bytes=1_000)
    headers = [(b"content-type", b"image/png")]
    chunks = [bytes(600)] * 10
    app = service(guard, hardened=hardened)
    answer = call(app, headers=headers, chunks=chunks, declared=declared)
    assert (answer.status, answer.reads) == (413, 0 if declared else 2)
    with pytest.raises(BodyTooLargeError):
        decode(bytes(1_001), guard)


@pytest.mark.parametrize("length", [b"99999999999999999999999999", b"-1", b"1e3", b"\xb2", b"0x10"])
def test_a_strange_length_is_refused(length: bytes) -> None:
    """Where a server lets one through."""
    headers = [(b"content-type", b"image/png"), (b"content-length", length)]
    assert call(service(PHOTO, hardened=False), headers=headers, chunks=[PNG], declared=False).status == 413


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(50_000, 50_000, "pixels"), (2**31 - 1, 2**31 - 1, "pixels"), (2_001, 2_000, "pixels"), (1, 4_000_001, "pixels"),
     (0, 5, "damaged"), (5, 0, "damaged"), (2_000, 2_000, "damaged")],
)  # fmt: skip
def test_pixels_are_counted_before_anything_is_decoded(width: int, height: int, expected: str) -> None:
    """By what the header says; what it says too little of does not fit the pixels that come."""
    assert rule(png(header(width, height), pixels(b"\0"), END)) == expected


def test_pixels_are_counted_in_every_format() -> None:
    """A JPEG says so in its frame, a WebP in its header."""
    few = ImageInput(formats=ALL, max_pixels=13 * 17 - 1)
    for data in (PNG, JPEG, PROGRESSIVE, WEBP, encode(noise(), "WEBP", lossless=True)):
        assert rule(data, few) == "pixels"
        assert decode(data, ImageInput(formats=ALL, max_pixels=13 * 17)).shape == (13, 17, 3)


def test_the_size_is_height_and_width() -> None:
    """An image that lies on its side is not of the size, and none is scaled."""
    exact = ImageInput(size=(13, 17))
    assert decode(PNG, exact).shape == (13, 17, 3)
    assert rule(encode(noise(17, 13), "PNG"), exact) == "size"
    assert rule(encode(noise(12, 17), "PNG"), exact) == "size"
    assert rule(with_orientation("PNG", 6), exact) == "size"


# Refused by what is in it ---------------------------------------------------------------------------------------------


def seen_through(mode: str, alpha: int) -> Image.Image:
    image = noise().convert(mode)
    image.putalpha(255)
    image.putpixel((3, 3), (*[9] * (len(mode) - 1), alpha))
    return image


@pytest.mark.parametrize("guard", [PHOTO, GREY], ids=["RGB", "L"])
def test_one_pixel_that_can_be_seen_through_is_enough(guard: ImageInput) -> None:
    """A person sees what is behind it and the model what is below it, so there is no exact conversion."""
    for alpha in (0, 254):
        assert rule(encode(seen_through("RGBA", alpha), "PNG"), guard) == "transparent"
        assert rule(encode(seen_through("LA", alpha), "PNG"), guard) == "transparent"
        assert rule(encode(seen_through("RGBA", alpha), "WEBP", lossless=True), guard) == "transparent"
    assert decode(encode(seen_through("RGBA", 255), "PNG"), guard).shape[:2] == (13, 17)
    assert decode(encode(seen_through("RGBA", 255), "WEBP", lossless=True), guard).shape[:2] == (13, 17)


@pytest.mark.parametrize(
    ("depth", "color", "transparency", "row"),
    [
        (8, 0, b"\0\1", b"\1\2"),
        (1, 0, b"\0\1", b"\xc0"),
        (8, 2, b"\0\1\0\2\0\3", b"\1\2\3\4\5\6"),
        (8, 3, b"\0", b"\0\1"),
    ],
)
def test_transparency_by_color_is_transparency(depth: int, color: int, transparency: bytes, row: bytes) -> None:
    """A PNG can say of one colour, or of entries of its palette, that they are not opaque."""
    palette = chunk(b"PLTE", bytes(6)) if color == 3 else b""
    data = png(header(2, 1, depth, color), palette, chunk(b"tRNS", transparency), pixels(row), END)
    for guard in (PHOTO, GREY):
        with warnings.catch_warnings(record=True) as said:
            assert rule(data, guard) == "transparent"
        assert not said


@pytest.mark.parametrize("depth", [2, 4])
def test_transparency_by_a_grey_of_few_bits_is_transparency(depth: int) -> None:
    """Pillow would not find the grey, and the model would see pixels that a browser leaves out."""
    row = bytes([0x55])  # the grey 1 or 5, as often as it fits
    grey = row[0] & (2**depth - 1)
    data = png(header(8 // depth, 1, depth, 0), chunk(b"tRNS", bytes([0, grey])), pixels(row), END)
    for guard in (PHOTO, GREY):
        assert rule(data, guard) == "transparent"


def test_an_alpha_channel_that_a_webp_denies_is_looked_at() -> None:
    """Browsers show it whatever the header says, and the model would see what is hidden behind it."""
    hidden, opaque = (
        bytearray(encode(seen_through("RGBA", alpha), "WEBP", lossless=True, exact=True)) for alpha in (0, 255)
    )
    for data in (hidden, opaque):
        data[data.index(b"VP8L") + 12] &= 0xEF
    assert rule(bytes(hidden)) == "transparent"
    assert decode(bytes(opaque)).shape == (13, 17, 3)


@pytest.mark.parametrize("mode", ["CMYK", "I;16"])
def test_colors_that_have_no_exact_conversion_are_refused(mode: str) -> None:
    """Print colours depend on a profile, and 16 bits on what is dropped."""
    if mode == "CMYK":
        assert rule(encode(noise().convert("CMYK"), "JPEG")) == "color"
    else:
        assert rule(encode(Image.fromarray(np.ones((3, 3), np.uint16)), "PNG")) == "color"


NOT_DECODED = {
    "a filter that there is not": png(header(2, 2), chunk(b"IDAT", zlib.compress(b"\5\1\2\5\3\4")), END),
    "a depth that there is not": png(header(2, 2, depth=3), pixels(b"\1", b"\3"), END),
    "a depth that its colours do not have": png(header(2, 2, depth=4, color=2), pixels(b"\1\2\3", b"\3\4\5"), END),
    "a palette of too many colours": png(header(1, 1, 8, 3), chunk(b"PLTE", bytes(3_000)), pixels(b"\1"), END),
    "no quantisation": JPEG.replace(b"\xff\xdb", b"\xff\xfe"),
    "half of a VP8": riff(riff_chunk(b"VP8 ", WEBP[20:60])),
    "half of a VP8L": riff(riff_chunk(b"VP8L", encode(noise(), "WEBP", lossless=True)[20:60])),
}


@pytest.mark.parametrize("case", NOT_DECODED)
def test_what_the_decoder_does_not_take_is_a_refusal(case: str) -> None:
    """Whatever Pillow raises, the caller is told that the image is damaged, and nothing of what it said."""
    data = NOT_DECODED[case]
    kind = {0x89: "png", 0xFF: "jpeg", 0x52: "webp"}[data[0]]
    answer = post(service(PHOTO), data, f"image/{kind}")
    assert (answer.status, answer.json["broken"]) == (422, "damaged")
    assert answer.json["detail"] == "The image breaks the rules of its format, or is of a rare kind that is not read."


def test_a_person_and_a_model_may_not_see_different_images() -> None:
    """A file whose decoder finds another size than its header says is refused."""
    guard = ImageInput()
    real = guard._pillow.open

    class Other:
        @staticmethod
        def open(file: Any, formats: Any) -> Any:
            return real(io.BytesIO(encode(noise(3, 3), "PNG")), formats=formats)

    guard._pillow = Other
    assert rule(PNG, guard) == "damaged"


BOMBS: dict[str, bytes] = {
    "50 000 x 50 000": png(header(50_000, 50_000, 8, 2), pixels(bytes(1_000_000)), END),
    "text": SMALL[:33] + b"".join([chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(20_000_000)))] * 30) + SMALL[33:-12],
    "a profile": SMALL[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200_000_000), 9)) + SMALL[33:-12],
    "scans": scans_without_end(2_000, 2_000, 10_000),
    "a WebP canvas": WEBP[:12] + b"VP8X\n\0\0\0\0\0\0\0" + b"\xff" * 6 + WEBP[12:],
}

MEASURE = """
import asyncio, resource, sys
from mlguard import ImageInput, InvalidInputError

guard = ImageInput(formats=("png", "jpeg", "webp"), max_bytes=16_000_000)
data = sys.stdin.buffer.read()
asyncio.run(guard.decode(bytes.fromhex("{small}")))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(3):
    try:
        asyncio.run(guard.decode(data))
    except InvalidInputError:
        print("refused")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux's units")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_takes_no_memory(bomb: str) -> None:
    """A refused file grows the process by no more than a few times its own size."""
    data = BOMBS[bomb]
    script = MEASURE.replace("{small}", SMALL.hex())
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, timeout=60, check=True)
    *refused, grown = done.stdout.split()
    assert refused == [b"refused"] * 3
    assert int(grown) * 1024 < 3 * len(data) + 4_000_000


# Turns ----------------------------------------------------------------------------------------------------------------


class Gate:
    """A squeeze that waits until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, values: Any) -> Any:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.open.wait(20)
        with self._lock:
            self.inside -= 1
        return values


async def until_inside(gate: Gate, number: int) -> None:
    while gate.inside < number:  # noqa: ASYNC110  # they are threads
        await asyncio.sleep(0)


def test_few_are_decoded_at_a_time_and_the_loop_goes_on() -> None:
    """Others wait for their turn; beyond the end of the line they are refused with 503; and the event loop is free."""
    gate = Gate()
    guard = ImageInput(squeeze=[gate], concurrency=2, max_waiting=3)
    gate.open.clear()

    async def run() -> None:
        waiting = [asyncio.ensure_future(guard.decode(PNG)) for _ in range(5)]
        await until_inside(gate, 2)
        with pytest.raises(OverloadedError) as refusal:
            await guard.decode(PNG)
        assert refusal.value.headers == {"Retry-After": "1"}
        assert not any(task.done() for task in waiting)
        with pytest.raises(InvalidInputError):  # what is no image at all needs no turn
            await guard._decode(b"GIF89a", guard._formats[0])
        gate.open.set()
        assert [image.shape for image in await asyncio.gather(*waiting)] == [(13, 17, 3)] * 5

    asyncio.run(run())
    assert gate.most == 2


def test_who_leaves_half_way_holds_the_place_until_the_thread_is_done() -> None:
    """A client that hangs up cannot have more images decoded at a time than are allowed."""
    gate = Gate()
    guard = ImageInput(squeeze=[gate], concurrency=1, max_waiting=0)
    gate.open.clear()

    async def run() -> None:
        leaving = asyncio.ensure_future(guard.decode(PNG))
        await until_inside(gate, 1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(OverloadedError):
            await guard.decode(PNG)
        gate.open.set()
        while True:
            try:
                assert (await guard.decode(PNG)).shape == (13, 17, 3)
            except OverloadedError:
                await asyncio.sleep(0)
            else:
                return

    asyncio.run(run())
    assert gate.most == 1


def test_an_overloaded_service_says_so() -> None:
    """The caller gets a problem with a time to try again."""
    gate = Gate()
    app = service(ImageInput(squeeze=[gate], concurrency=1, max_waiting=0))
    gate.open.clear()

    async def run() -> list[Answer]:
        headers = [(b"content-type", b"image/png")]
        first = asyncio.ensure_future(acall(app, headers=headers, chunks=[PNG]))
        await until_inside(gate, 1)
        second = await acall(app, headers=headers, chunks=[PNG])
        gate.open.set()
        return [await first, second]

    first, second = asyncio.run(run())
    assert (first.status, second.status) == (200, 503)
    assert second.headers["retry-after"] == "1"
    assert second.json["type"] == "urn:mlguard:problem:overloaded"


# What it costs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("make", [RateLimit, QueryBudget])
def test_an_image_costs_one(make: Any, *, direct: bool) -> None:
    """Not its height. A refused one costs one too, so that the rules cannot be probed for nothing."""
    limit = make("4/day", cost=PHOTO, by=lambda request: "all", store=MemoryStore(clock=Clock()))
    app = service(PHOTO, limit, direct=direct)
    answers = [post(app, data).status for data in (PNG, b"GIF89a", PNG + b"\0", PNG, PNG)]
    assert answers == [200, 422, 422, 200, 429]


def test_what_is_refused_unread_costs_nothing() -> None:
    """Neither the wrong type nor a file that is too large."""
    limit = RateLimit("1/day", cost=PHOTO, store=MemoryStore(clock=Clock()))
    app = service(PHOTO, limit)
    assert post(app, PNG, "image/gif").status == 415
    assert post(app, bytes(2_000_000)).status == 413
    assert post(app, PNG).status == 200


# Squeezing ------------------------------------------------------------------------------------------------------------


def test_squeezing_is_done_in_order() -> None:
    """The endpoint gets what the last one returned."""
    bits, median = BitDepth(2, low=0, high=255), MedianSmoothing(3)
    array = decode(PNG, ImageInput(squeeze=[bits, median]))
    assert np.array_equal(array, median(bits(plainly(PNG))))
    grey = decode(PNG, ImageInput(mode="L", size=(13, 17), squeeze=[median]))
    assert np.array_equal(grey, median(plainly(PNG, "L")))


def test_a_crash_of_ones_own_function_is_no_refusal() -> None:
    """It is the service's fault, so the caller gets a 500 that says nothing."""

    def odd(values: Any) -> Any:
        if values.shape == (13, 17, 3):
            raise ValueError("secret")
        return values

    answer = post(service(ImageInput(squeeze=[odd])), PNG)
    assert answer.status == 500
    assert b"secret" not in answer.body


# Anything -------------------------------------------------------------------------------------------------------------


FILES = [PNG, SMALL, JPEG, PROGRESSIVE, WEBP, LOSSLESS, CLEAR, encode(noise(channels=1).convert("P"), "PNG")]


@settings(max_examples=500)
@given(st.sampled_from(FILES), st.integers(0, 2**32), st.booleans())
def test_a_changed_file_is_refused_or_an_image(data: bytes, seed: int, repair: bool) -> None:
    """Whatever is changed in a file, there is a refusal or an array of the promised kind, and no other error."""
    changed = mutated(data, seed)
    try:
        array = decode(repaired(changed) if repair else changed, PHOTO)
    except MLGuardError:
        return
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[2] == 3


@settings(max_examples=300)
@given(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.sampled_from([1, 2, 3, 4, 8, 16]), st.integers(0, 7)),
    st.binary(max_size=99),
    st.binary(max_size=30),
    st.sampled_from([b"\0\0\0", b"\0\0\1", b"\0\1\0", b"\0\0\2"]),
)
def test_any_png_is_refused_or_an_image(
    head: tuple[int, int, int, int], content: bytes, palette: bytes, more: bytes
) -> None:
    """Chunks that are right in form, with anything in them."""
    parts = [chunk(b"PLTE", palette)] if palette else []
    data = png(header(*head, more), *parts, chunk(b"IDAT", zlib.compress(content)), END)
    try:
        array = decode(data)
    except MLGuardError:
        return
    assert array.shape == (head[1], head[0], 3)


# The guard and its settings -------------------------------------------------------------------------------------------


def test_the_guard_declares_itself() -> None:
    """What the posture check, OpenAPI and ``harden`` need to know of the guard."""
    assert PHOTO.control is Control.INPUT_VALIDATION
    assert PHOTO.reads_body
    assert PHOTO.statuses == (413, 415, 422, 503)
    assert repr(GREY) == "ImageInput(image/png, image/jpeg, image/webp, mode='L')"
    assert (GREY.mode, GREY.size) == ("L", None)
    file = {"schema": {"type": "string", "format": "binary"}}
    body = {"required": True, "content": {"image/png": file}}
    only_png = ImageInput(formats=["png"])
    assert only_png.openapi_body() == body
    operation = service(only_png).openapi()["paths"]["/predict"]["post"]
    assert operation["requestBody"] == body
    assert {"413", "415", "422", "503"} <= operation["responses"].keys()


def test_every_rule_is_documented() -> None:
    """The names that callers may rely on are in the docstring, all of them."""
    from mlguard.inputs import _image_files

    assert all(f"``{name}``" in (ImageInput.__doc__ or "") for name in _image_files._BROKEN)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("formats", value) for value in ((), "png", ["gif"], ["PNG"], [None], None, 1, ["png", "tiff"])],
        *[("mode", value) for value in ("rgb", "RGBA", "CMYK", None, 1)],
        *[
            ("size", value)
            for value in (28, (28,), (28, 28, 3), (0, 28), (28.0, 28), [28, 28], (True, 1), (3_000, 3_000))
        ],
        *[("max_pixels", value) for value in (0, -1, True, 1.5, None, 10**9)],
        *[("max_bytes", value) for value in (0, -1, True, 1.5, None, 2**33)],
        *[("squeeze", value) for value in (BitDepth(1, low=0, high=255), None, 1, [1], "ab")],
        *[("squeeze", [value]) for value in (lambda x: None, lambda x: x / 255, lambda x: x[:2], lambda x: x.tolist())],
        *[("concurrency", value) for value in (0, -1, True, 1.5, "1")],
        *[("max_waiting", value) for value in (-1, True, 1.5, None)],
    ],
    ids=repr,
)
def test_settings_that_cannot_work_are_refused(setting: str, value: Any) -> None:
    """A guard that would let everything or nothing through is not built, and the text names the setting."""
    with pytest.raises(ConfigurationError, match=setting):
        ImageInput(**{setting: value})


def test_decode_takes_bytes() -> None:
    """A path, or a form's file that was not read, is a fault of the endpoint, and the text says what to write."""
    for wrong in ("white.png", None, ["white.png"]):
        with pytest.raises(TypeError, match=r"await file\.read\(\)"):
            asyncio.run(ImageInput().decode(wrong))  # type: ignore[arg-type]  # what somebody may have written


def test_a_size_beyond_max_pixels_says_so() -> None:
    """A side that is too long by itself, too."""
    for size in ((200, 20), (20, 20)):
        with pytest.raises(ConfigurationError, match="more pixels than max_pixels; raise max_pixels"):
            ImageInput(size=size, max_pixels=100)


def test_bounds_of_another_array_are_refused() -> None:
    """Levels from 0 to 1 would make an image of uint8 black, so the guard is not built."""
    with pytest.raises(ConfigurationError, match="low=0 and high=255"):
        ImageInput(squeeze=[BitDepth(4, low=0, high=1)])


def test_pillow_that_takes_half_an_image_stops_the_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that training scripts use is noticed, at start-up and for each image, and not changed."""
    PHOTO.check()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigurationError, match="LOAD_TRUNCATED_IMAGES"):
        PHOTO.check()
    with pytest.raises(ConfigurationError, match="LOAD_TRUNCATED_IMAGES"):
        decode(PNG)


def test_settings_of_pillow_are_left_alone() -> None:
    """The app may have other uses for it."""
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, [*Image.OPEN])
    ImageInput(formats=ALL, max_pixels=1)
    decode(PNG)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, [*Image.OPEN]) == before


def test_the_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed Pillow is told how."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[images\]'"):
        ImageInput()


def test_a_pillow_without_a_decoder_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the guard is built, not at the first image."""
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: name != "webp")
    ImageInput()
    with pytest.raises(ConfigurationError, match="WEBP"):
        ImageInput(formats=["webp"])


def test_mlguard_is_imported_without_pillow() -> None:
    """It takes time, and most services have no images."""
    script = "import sys, mlguard; print(any(name.partition('.')[0] == 'PIL' for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
