"""What NumPy and joblib may be called with while a pickle is loaded.

``dtype.__setstate__`` believes its file: with other offsets or flags it makes numbers into references to objects, and
with these whatever somebody wants. ``ndarray.__setstate__`` believes the length of a list of objects. So only what
NumPy itself writes is let through.
"""

import math
import re
from itertools import pairwise
from typing import Any

from mlguard.artifacts._pickle_rules import SCALAR, Rule, Value, attributes, is_count, is_global
from mlguard.artifacts._symbols import Array, Dtype, Made, MisuseError, Name

_NDARRAY: Name = ("numpy", "ndarray")
_CODE = re.compile(r"[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|b1|O8|[SUV](?:0|[1-9][0-9]{0,8})", re.ASCII)
_KEY_CODE = re.compile(r"[iu][1248]|f[248]|b1|[SU][0-9]+", re.ASCII)  # few of these have one hash
_MOST_AXES = 64
_MOST_FIELDS = 256
_PLAIN = {"O": (-1, 63), "S": (1, 0), "U": (4, 8)}  # alignment and flags, by kind
_OF_FIELDS = (0, 16)  # those of a structured one without objects: 16 is "may be set to zero at once"
_WRAPPER_STATE = {"subclass", "shape", "order", "dtype", "allow_mmap"}
_ALIGNMENT = "numpy_array_alignment_bytes"


class _Dtype(Value):
    """``numpy.dtype("f8", False, True)``, then its byte order, and fields."""

    must_be_built = True

    def call(self, args: tuple[Any, ...], /) -> Dtype:
        """Make it."""
        # One that is no copy is the one that NumPy itself uses: it would ignore the byte order that it is given.
        if len(args) != 3 or type(args[0]) is not str or args[1:] != (False, True):
            raise MisuseError("called as NumPy never calls it")
        if not _CODE.fullmatch(args[0]):
            raise MisuseError("neither numbers, texts, bytes nor objects")
        return Dtype(self.name, args, code=args[0])

    def build(self, made: Made, state: Any, /) -> None:
        """Set byte order and fields."""
        if not isinstance(made, Dtype) or type(state) is not tuple or len(state) != 8:
            raise MisuseError("a state that NumPy never writes")
        version, byte_order, subarray, names, fields, itemsize, alignment, flags = state
        if version != 3 or byte_order not in ("<", ">", "=", "|") or subarray is not None:
            raise MisuseError("a state that NumPy never writes")
        made.byte_order = byte_order
        if made.code[0] != "V":
            expected = _PLAIN.get(made.code[0], (-1, 0))
            size = made.itemsize if made.code[0] in "SU" else -1
            if names is not None or fields is not None or itemsize != size or (alignment, flags) != expected:
                raise MisuseError("a state that NumPy never writes")
            return
        if itemsize != made.itemsize or flags not in _OF_FIELDS or alignment not in (1, 2, 4, 8, 16):
            raise MisuseError("a state that NumPy never writes")
        made.names, made.fields = names, self._fields(names, fields, itemsize)

    def _fields(self, names: Any, fields: Any, itemsize: int) -> dict[str, tuple[Dtype, int]]:
        if type(names) is not tuple or type(fields) is not dict or not 0 < len(names) <= _MOST_FIELDS:
            raise MisuseError("fields that NumPy never writes")
        if not all(type(name) is str for name in names):  # before they are hashed, which of tuples has no end
            raise MisuseError("fields that NumPy never writes")
        if len(set(names)) != len(names) or set(names) != set(fields):
            raise MisuseError("fields that NumPy never writes")
        for field in fields.values():
            if type(field) is not tuple or len(field) != 2 or not is_count(field[1]):
                raise MisuseError("fields that NumPy never writes")
            dtype = field[0]
            if not isinstance(dtype, Dtype) or not dtype.built or dtype.holds_objects or dtype.fields:
                raise MisuseError("a field of something other than numbers")
            if field[1] + dtype.itemsize > itemsize:
                raise MisuseError("a field beyond the end of its row")
        places = sorted((offset, offset + dtype.itemsize) for dtype, offset in fields.values())
        if any(end > start for (_, end), (start, _) in pairwise(places)):  # NumPy copies them one over the other
            raise MisuseError("fields that overlap")
        return fields


class _Reconstruct(Value):
    """``_reconstruct(ndarray, (0,), b"b")``: an empty array, before its state."""

    def call(self, args: tuple[Any, ...], /) -> Array:
        """Make it."""
        if len(args) != 3 or not is_global(args[0], _NDARRAY) or args[1] != (0,) or args[2] != b"b":
            raise MisuseError("it makes something other than an empty array")
        return Array(self.name)

    def build(self, made: Made, state: Any, /) -> None:
        """Set shape, dtype and values."""
        if not isinstance(made, Array) or type(state) is not tuple or len(state) != 5 or state[0] != 1:
            raise MisuseError("a state that NumPy never writes")
        _, shape, dtype, fortran, values = state
        if fortran not in (True, False):
            raise MisuseError("a state that NumPy never writes")
        size = _size(shape, dtype)
        if dtype.holds_objects:
            if type(values) is not list or len(values) != size:
                raise MisuseError("another number of objects than its shape says")
        elif type(values) is not bytes or len(values) != size * dtype.itemsize:
            raise MisuseError("another number of bytes than its shape says")
        made.dtype, made.shape = dtype, shape
        made.values = list(values) if dtype.holds_objects else values


class _FromBuffer(Value):
    """``_frombuffer(bytes, dtype, shape, order)``, by protocol 5."""

    def call(self, args: tuple[Any, ...], /) -> Array:
        """Make the array."""
        if len(args) != 4 or type(args[0]) not in (bytes, bytearray) or args[3] not in ("C", "F"):
            raise MisuseError("called as NumPy never calls it")
        values, dtype, shape, _ = args
        if _size(shape, dtype) * dtype.itemsize != len(values) or dtype.holds_objects:
            raise MisuseError("another number of bytes than its shape says")
        return Array(self.name, dtype=dtype, shape=shape, values=values)


class _Scalar(Value):
    """``scalar(dtype, bytes)``."""

    def call(self, args: tuple[Any, ...], /) -> Made:
        """Make it."""
        if len(args) != 2 or type(args[1]) is not bytes:
            raise MisuseError("it makes something other than a number")
        if _size((), args[0]) and (args[0].holds_objects or args[0].itemsize != len(args[1])):
            raise MisuseError("it makes something other than a number")
        return Made(self.name, args)


class _Encode(Value):
    """``_codecs.encode("...", "latin1")``: bytes, by protocols before 3."""

    def call(self, args: tuple[Any, ...], /) -> bytes:
        """Make them."""
        if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
            raise MisuseError("it encodes something other than bytes")
        try:
            return args[0].encode("latin1")
        except UnicodeEncodeError:
            raise MisuseError("it encodes something other than bytes") from None


class _Bytes(Value):
    """``bytes()``: none, by protocols before 3."""

    def call(self, args: tuple[Any, ...], /) -> bytes:
        """Make them."""
        if args:
            raise MisuseError("it is called with arguments")
        return b""


class _Wrapper(Rule):
    """Joblib's ``NumpyArrayWrapper``, behind whose state the bytes of the array stand."""

    must_be_built = True


def build_joblib_array(wrapper: Made, state: Any, content: memoryview, stream: Any) -> Array:
    """The array that joblib would read, with the stream behind it; for one of objects, before its pickle.

    Raises:
        MisuseError: The state is none that joblib writes, or the file ends before the array.
    """
    members = attributes(state)
    if not _WRAPPER_STATE <= set(members) <= _WRAPPER_STATE | {_ALIGNMENT}:
        raise MisuseError("a state that joblib never writes")
    if not is_global(members["subclass"], _NDARRAY) or members["order"] not in ("C", "F"):
        raise MisuseError("something other than an array")
    dtype, shape, alignment = members["dtype"], members["shape"], members.get(_ALIGNMENT)
    size = _size(shape, dtype)
    if not (alignment is None or (is_count(alignment, least=1) and alignment <= 255)):
        raise MisuseError("a state that joblib never writes")
    if dtype.holds_objects:
        return Array(wrapper.name, built=True, dtype=dtype, shape=shape)
    if alignment is not None:
        stream.read(int.from_bytes(stream.read(1), "little"))
    start = stream.tell()
    end = start + size * dtype.itemsize
    if end > len(content):
        raise MisuseError("the file ends before its array does")
    stream.seek(end)
    return Array(wrapper.name, built=True, dtype=dtype, shape=shape, values=content[start:end])


def is_plain_scalar(made: Made) -> bool:
    """Whether it is a text or a real number, of which few have the same hash."""
    dtype = made.args[0] if made.name == SCALAR and made.args else None
    return isinstance(dtype, Dtype) and _KEY_CODE.fullmatch(dtype.code) is not None


def _size(shape: Any, dtype: Any) -> int:
    """How many values an array has.

    Raises:
        MisuseError: The shape is none, or the dtype is not finished.
    """
    if not isinstance(dtype, Dtype) or not dtype.built:
        raise MisuseError("something other than a dtype, or one that is not finished")
    if type(shape) is not tuple or len(shape) > _MOST_AXES or not all(map(is_count, shape)):
        raise MisuseError("a shape that is none")
    return math.prod(shape)


_KINDS: dict[Name, type[Rule]] = {
    ("_codecs", "encode"): _Encode,
    ("builtins", "bytes"): _Bytes,
    ("builtins", "object"): Value,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Wrapper,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "float32"): Value,
    ("numpy", "float64"): Value,
    _NDARRAY: Value,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    SCALAR: _Scalar,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
}
NUMPY_RULES = {name: kind(name) for name, kind in _KINDS.items()}
