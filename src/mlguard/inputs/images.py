"""The model's input: one image, as pixels and nothing else."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, ClassVar, Literal

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from mlguard._body_forms import BodyForm
from mlguard._guard import Control, Guard
from mlguard._numbers import whole
from mlguard._order import charge_refused_input, judge_all
from mlguard._threads import FewThreads
from mlguard.errors import BodyTooLargeError, ConfigurationError, InvalidInputError, UnsupportedMediaTypeError
from mlguard.inputs._image_files import FORMATS, Format, Picture, broken, read_picture
from mlguard.inputs.squeezing import Squeeze, squeezes

Pixels = NDArray[np.uint8]

# Above this Pillow warns, by its MAX_IMAGE_PIXELS, which is the app's to set.
_MOST_PIXELS = 89_478_485
_MODES = {"RGB": (3,), "L": ()}
_PLAIN = frozenset({"1", "L", "P", "LA", "RGB", "RGBA"})  # modes of Pillow's that become the other two exactly

# What EXIF's orientations 1 to 8 do: whether height and width change places, then the order of rows and columns.
_UPRIGHT = {
    1: (False, 1, 1), 2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1),
    5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1),
}  # fmt: skip


class ImageInput(Guard):
    """Reads one image from the body into an array of pixels.

    Guards against decoders that nobody needs, decompression bombs, files that are two things at once, animations, cut
    and damaged files, and pixels that a person does not see as the model does. The file is walked through before it is
    decoded, and only what makes its pixels reaches the decoder (Pillow): no comments, profiles, thumbnails or text.
    Decoding happens in threads, a few at a time, so the event loop goes on.

    It does not stop adversarial images, and does not scale: scaling in the endpoint can show the model another picture
    than people see, unless every pixel counts (``Image.Resampling.BOX``).

    ::

        photo = ImageInput(max_pixels=1_000_000)

        @app.post("/predict")
        def predict(x: Annotated[np.ndarray, Depends(photo)]): ...

    takes the file as the body, with the content type ``image/png`` or ``image/jpeg``. For forms, hand what was uploaded
    to :meth:`decode`.

    Grey images are repeated in three channels for ``"RGB"``. Colours become grey as ITU-R BT.601 has it, 0.299 red,
    0.587 green and 0.114 blue, rounded. A palette, 1, 2 or 4 bits become 8 exactly. An alpha channel is taken away if
    every pixel is opaque, else the image is refused: people and models see different things in it. CMYK and 16 bits a
    channel are refused. Colour profiles and gamma are not applied. The orientation in EXIF is, so photographs stand
    upright.

    A refusal says in ``broken`` which rule:

    ===============  =================================================================================
    ``format``       the content is not of the format that the content type says
    ``truncated``    the file ends before its end
    ``trailing``     the body goes on after the end of the image
    ``damaged``      a rule of the format is broken, a checksum is wrong, or the decoder has failed
    ``parts``        so many small parts, or scans of a progressive JPEG, that they only cost time
    ``frames``       the image is animated
    ``pixels``       more than ``max_pixels``
    ``size``         not of the height and width in ``size``
    ``color``        16 bits a channel, or CMYK
    ``transparent``  a pixel that is not opaque
    ===============  =================================================================================

    JPEG has no checksum: one whose data were changed, or cut out of its middle, decodes to other pixels.

    Args:
        formats: Any of ``"png"``, ``"jpeg"`` and ``"webp"``. The content decides, and the content type must agree.
        mode: ``"RGB"`` or ``"L"`` (grey).
        size: ``(height, width)`` that every image must have, upright. None: any. Nothing is ever scaled.
        max_pixels: Height times width, judged before anything is decoded. Decoding takes up to about 20 bytes a pixel.
        max_bytes: The largest file. ``harden`` has a limit of its own, and the smaller one holds.
        squeeze: What is done to the pixels then: ``BitDepth``, ``MedianSmoothing``, or any function of the array that
            returns one of the same shape and dtype.
        concurrency: How many images are decoded at the same time in this process. Default: one less than there are
            cores.
        max_waiting: How many may wait for their turn, with their files in memory. Beyond it, they are refused.

    Attributes:
        mode: ``"RGB"`` or ``"L"``.
        size: ``(height, width)``, or None.

    Raises:
        ConfigurationError: A setting that cannot work, the extra ``images`` is not installed, or, at start-up, Pillow's
            ``ImageFile.LOAD_TRUNCATED_IMAGES`` is on.
    """

    control: ClassVar[Control] = Control.INPUT_VALIDATION
    statuses: tuple[int, ...] = (413, 415, 422, 503)
    reads_body: ClassVar[bool] = True
    body_form = BodyForm("an image")

    def __init__(
        self,
        *,
        formats: Sequence[Literal["png", "jpeg", "webp"]] = ("png", "jpeg"),
        mode: Literal["RGB", "L"] = "RGB",
        size: tuple[int, int] | None = None,
        max_pixels: int = 4_000_000,
        max_bytes: int = 1_048_576,
        squeeze: Sequence[Squeeze] = (),
        concurrency: int | None = None,
        max_waiting: int = 64,
    ) -> None:
        self._formats = _formats(formats)
        if mode not in _MODES:
            raise ConfigurationError('ImageInput(mode=...) is "RGB" or "L"')
        self.mode: Literal["RGB", "L"] = mode
        self._max_pixels = whole("ImageInput(max_pixels=...)", max_pixels, least=1, most=_MOST_PIXELS)
        self._max_bytes = whole("ImageInput(max_bytes=...)", max_bytes, least=1, most=2**32)
        self.size = _size(size, self._max_pixels)
        example = np.zeros((*(self.size or (8, 8)), *_MODES[mode]), np.uint8)
        self._squeeze = squeezes(squeeze, example, where="ImageInput")
        self._pillow, self._settings = _load_pillow(self._formats)
        self._threads = FewThreads("images", where="ImageInput", concurrency=concurrency, max_waiting=max_waiting)

    def check(self) -> None:
        """Stop the start-up if Pillow takes files that are not whole.

        Raises:
            ConfigurationError: ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` is on.
        """
        if self._settings.LOAD_TRUNCATED_IMAGES:
            raise ConfigurationError(
                "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, so files that were cut would be decoded to "
                "half an image; leave it off in the service"
            )

    async def __call__(self, request: Request) -> Pixels:
        """The image in the request's body.

        Returns:
            A C-contiguous, writable array of uint8, new for each request: shape ``(height, width, 3)`` for ``"RGB"``,
            ``(height, width)`` for ``"L"``.

        Raises:
            MLGuardError: Another guard of the route refuses the request: all are judged first.
            UnsupportedMediaTypeError: The content type is not one of the formats' (415).
            BodyTooLargeError: The body is larger than ``max_bytes``, or than ``harden`` allows (413).
            InvalidInputError: A rule is broken (422). A budget whose cost is this guard is charged one.
            OverloadedError: Too many images are waiting to be decoded (503).
        """
        memory = await judge_all(request)  # who may not call is not told which content type is read
        image_format = self._format_of(request.scope["headers"])
        data = await self._body(request)
        return await memory.note_reading(self, self._judge_body(request, data, image_format))

    async def _judge_body(self, request: Request, data: bytes, image_format: Format) -> Pixels:
        try:
            return await self._decode(data, image_format)
        except InvalidInputError:
            await charge_refused_input(request, self)
            raise

    async def decode(self, data: bytes) -> Pixels:
        """An image from anywhere else, such as a form's ``UploadFile``, by the same rules. Nobody is charged.

        Args:
            data: The whole file.

        Returns:
            An array as for a body.

        Raises:
            BodyTooLargeError: The file is larger than ``max_bytes`` (413).
            InvalidInputError: A rule is broken (422).
            OverloadedError: Too many images are waiting to be decoded (503).
            TypeError: No bytes were given: a fault of the endpoint.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError("ImageInput.decode takes the bytes of a file, such as await file.read()")
        if len(data) > self._max_bytes:
            raise self._too_large()
        for image_format in self._formats:
            if image_format.magic.match(data):
                return await self._decode(bytes(data), image_format)
        raise broken("format")

    def units(self, value: Any) -> int:  # noqa: ARG002  # whatever is in it
        """One image counts as one."""
        return 1

    def openapi_body(self) -> dict[str, Any]:
        """The OpenAPI request body: a file in one of the formats."""
        file = {"schema": {"type": "string", "format": "binary"}}
        return {"required": True, "content": {each.media_type: file for each in self._formats}}

    def _format_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Format:
        """The format that the one content type says, without parameters, as they are registered."""
        types = [value.strip(b" \t").lower() for name, value in headers if name == b"content-type"]
        for image_format in self._formats:
            if types == [image_format.media_type.encode()]:
                return image_format
        accepted = ", ".join(each.media_type for each in self._formats)
        raise UnsupportedMediaTypeError("the content type is not that of an image", headers={"Accept": accepted})

    async def _body(self, request: Request) -> bytes:
        for name, value in request.scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > self._max_bytes):
                raise self._too_large()
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._max_bytes:
                raise self._too_large()
            chunks.append(chunk)
        request._body = b"".join(chunks)  # as request.body() does, for whoever else wants it
        return request._body

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"an image of more than max_bytes={self._max_bytes}")

    async def _decode(self, data: bytes, image_format: Format) -> Pixels:
        if not image_format.magic.match(data):  # needs no thread
            raise broken("format")
        async with self._threads.turn() as turn:
            return await turn.run(lambda: self._read(data, image_format))

    def _read(self, data: bytes, image_format: Format) -> Pixels:
        picture = read_picture(data, image_format, self._max_pixels)
        turned, *order = _UPRIGHT[picture.orientation]
        height, width = (picture.width, picture.height) if turned else (picture.height, picture.width)
        if self.size not in {None, (height, width)}:
            raise broken("size")
        self.check()
        pixels = self._pixels(picture, image_format)
        if turned:
            pixels = pixels.swapaxes(0, 1)
        rows, columns = order
        pixels = np.array(pixels[::rows, ::columns], order="C")
        for squeeze in self._squeeze:
            pixels = squeeze(pixels)
        return pixels

    def _pixels(self, picture: Picture, image_format: Format) -> Pixels:
        """The pixels as they are stored. Whatever the decoder raises is the file's fault."""
        try:
            with self._pillow.open(BytesIO(picture.data), formats=[image_format.decoder]) as image:
                if image.size == (picture.width, picture.height) and image.mode in _PLAIN:
                    image.load()
                    return np.asarray(_opaque(image).convert(self.mode))
                failure = f"{image.mode} of another size or mode than its header says"
        except InvalidInputError:
            raise
        except Exception as error:
            failure = type(error).__name__  # its text may quote the file
        raise broken("damaged", failure)

    def __repr__(self) -> str:
        return f"ImageInput({', '.join(each.media_type for each in self._formats)}, mode={self.mode!r})"


def _opaque(image: Any) -> Any:
    """The image without its alpha channel, where that says nothing."""
    if image.mode not in {"LA", "RGBA"} and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    if image.getextrema()[3][0] < 255:
        raise broken("transparent")
    return image.convert("RGB")


def _load_pillow(formats: Iterable[Format]) -> tuple[Any, Any]:
    try:
        # An extra. The plugins are imported now, and not while the first image waits.
        import PIL.JpegImagePlugin  # noqa: PLC0415  # as above
        import PIL.PngImagePlugin  # noqa: PLC0415  # as above
        import PIL.WebPImagePlugin  # noqa: F401, PLC0415  # as above; nothing calls them by name
        from PIL import Image, ImageFile, features  # noqa: PLC0415  # as above
    except ImportError:
        raise ConfigurationError("ImageInput needs the package Pillow: pip install 'mlguard[images]'") from None
    needed = {"PNG": "zlib", "JPEG": "jpg", "WEBP": "webp"}
    if missing := [each.decoder for each in formats if not features.check(needed[each.decoder])]:
        raise ConfigurationError(f"ImageInput(formats=...): this Pillow was built without {', '.join(missing)}")
    return Image, ImageFile


# Configuration --------------------------------------------------------------------------------------------------------


def _formats(formats: object) -> tuple[Format, ...]:
    names = tuple(formats) if isinstance(formats, Iterable) and not isinstance(formats, str) else ()
    if not names or not all(isinstance(name, str) and name in FORMATS for name in names):
        raise ConfigurationError(f"ImageInput(formats=...) is a list of {', '.join(map(repr, FORMATS))}, one at least")
    return tuple(FORMATS[name] for name in dict.fromkeys(names))


def _size(size: object, max_pixels: int) -> tuple[int, int] | None:
    if size is None:
        return None
    if not isinstance(size, tuple) or len(size) != 2 or not all(type(side) is int and side >= 1 for side in size):
        raise ConfigurationError("ImageInput(size=...) is (height, width) in pixels, or None")
    height, width = size
    if height * width > max_pixels:
        raise ConfigurationError("ImageInput(size=...) has more pixels than max_pixels; raise max_pixels")
    return height, width
