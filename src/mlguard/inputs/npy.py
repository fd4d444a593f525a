"""Arrays as NumPy saves them, ``application/x-npy``: the header read strictly, and never a pickle.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 to 3. NumPy's own reader evaluates
the header as a Python literal, guesses at those of Python 2, and has no public function for version 3. Here a pattern
matches what an array of numbers can have, and nothing is allocated before the body is known to be as long as the header
says. Big endian and Fortran order are read as what they are.
"""

import math
import re
import struct
from typing import Any

import numpy as np

from mlguard.inputs.broken_rules import broken
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.sent_rows import SentRows

_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": struct.Struct("<H"), b"\x02\x00": struct.Struct("<I"), b"\x03\x00": struct.Struct("<I")}
_LONGEST_HEADER = 4096  # bytes; NumPy's own headers of plain numbers have 118
_MEMBER = re.compile(
    rb""" *(['"])(?P<name>descr|fortran_order|shape)\1 *: *"""
    rb"""(?:(['"])(?P<descr>[^'"]*)\3|(?P<list>\[[^\]]*\])|(?P<order>True|False)|\((?P<shape>[-0-9, ]*)\))"""
    rb""" *(?P<end>,? *\}|,)"""
)
_VALUES = {b"descr": ("descr", "list"), b"fortran_order": ("order",), b"shape": ("shape",)}
_DESCR = re.compile(rb"[<>][iu][248]|[<>]f[248]|\|[iu]1")
_SIZE = re.compile(rb" *(0|[1-9][0-9]{0,17}) *")


class NpyRows:
    """Reads a ``.npy`` file of shape ``(rows, columns)``, or ``(rows, *shape)``.

    Args:
        rules: What the rows must be.
    """

    def __init__(self, rules: RowRules) -> None:
        self.rules = rules

    def sent(self, body: bytes) -> SentRows:
        """The rows in a body, in the dtype in which they came, and this machine's byte order.

        Raises:
            InvalidInputError: A rule of the format is broken (422).
        """
        header, start = _header(body)
        members = _members(header)
        dtype = _dtype(members)
        shape = _shape(members[b"shape"])
        if shape is None or shape[1:] != self.rules.shape:
            raise broken("shape")
        if shape[0] == 0:
            raise broken("empty")
        if shape[0] > self.rules.max_rows:
            raise broken("rows")
        if len(body) - start != math.prod(shape) * dtype.itemsize:
            raise broken("length")
        order: Any = "F" if members[b"fortran_order"] == b"True" else "C"
        values = np.frombuffer(body, dtype, offset=start).reshape(shape, order=order)
        # A copy, for the body is not the model's to write into.
        own = values.astype(dtype.newbyteorder("="), order="C", copy=True)
        return SentRows(own.reshape(shape[0], self.rules.columns))

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI media type object. It has no example: that would be bytes."""
        sizes = ", ".join(map(str, self.rules.shape))
        description = f"A .npy file of an array of shape (rows, {sizes}): floating-point numbers or integers."
        return {"schema": {"type": "string", "format": "binary", "description": description}}


def _header(body: bytes) -> tuple[bytes, int]:
    """The text of the header, and where the data begin."""
    length = _LENGTHS.get(body[6:8])
    if not body.startswith(_MAGIC) or length is None or len(body) < 8 + length.size:
        raise broken("npy")
    (size,) = length.unpack_from(body, 8)
    start = 8 + length.size + size
    if size > _LONGEST_HEADER or len(body) < start:
        raise broken("npy")
    return body[start - size : start], start


def _members(header: bytes) -> dict[bytes, bytes]:
    """The three members of the header, in any order, each as it is written."""
    members: dict[bytes, bytes] = {}
    if not header.startswith(b"{") or not header.endswith(b"\n"):
        raise broken("npy")
    at, closed = 1, False
    while not closed:
        member = _MEMBER.match(header, at)
        name = member["name"] if member else b""
        value = next((member[kind] for kind in _VALUES.get(name, ()) if member and member[kind] is not None), None)
        if member is None or value is None or name in members:
            raise broken("npy")
        if value.startswith(b"["):
            raise broken("datatype")  # of several fields
        members[name] = value
        at, closed = member.end(), member["end"].endswith(b"}")
    if len(members) != len(_VALUES) or header[at:].strip(b" ") != b"\n":
        raise broken("npy")
    return members


def _dtype(members: dict[bytes, bytes]) -> np.dtype[Any]:
    descr = members[b"descr"]
    if not _DESCR.fullmatch(descr):
        raise broken("datatype")
    return np.dtype(descr.decode("ascii"))


def _shape(text: bytes) -> tuple[int, ...] | None:
    """The sizes, or None where one is negative, or so large that no body has as many numbers."""
    sizes = text.split(b",")
    if not sizes[-1].strip(b" "):  # Python's comma after the last one
        sizes.pop()
    if not all(map(_SIZE.fullmatch, sizes)):
        return None
    return tuple(map(int, sizes))
