"""Loads files of nothing but arrays: safetensors, and NumPy's ``.npy`` and ``.npz``. None of them can run code."""

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlguard.artifacts._zip_files import BROKEN, open_zip
from mlguard.errors import ConfigurationError, ModelContentError

_LONGEST_HEADER = 1 << 24  # bytes of the JSON in a safetensors file; a model of 10 000 tensors has 1 MB
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_safetensors(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays by name.

    Raises:
        ModelContentError: The file is broken, or has a dtype that NumPy has not.
        ConfigurationError: The package is not installed.
    """
    try:
        from safetensors.numpy import load  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError("the model is of safetensors: pip install 'mlguard[safetensors]'") from None
    if int.from_bytes(content[:8], "little") > _LONGEST_HEADER:
        raise ModelContentError("the header of the safetensors file is too long")
    try:
        arrays: dict[str, NDArray[Any]] = load(content)
    except Exception as error:  # of the package, and of NumPy for a dtype that it has not
        raise ModelContentError(f"the safetensors file is broken ({error!r:.200})") from None
    return arrays


def load_npy(content: bytes) -> NDArray[Any]:
    """The array.

    Raises:
        ModelContentError: The file is broken, or its array holds objects.
    """
    stream = io.BytesIO(content)
    try:
        read_header = _NPY_HEADERS[np.lib.format.read_magic(stream)]
        shape, fortran, dtype = read_header(stream)
    except Exception as error:  # it is Python that NumPy reads: the errors are many
        raise ModelContentError(f"the .npy file is broken ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ModelContentError("the .npy file holds objects, which are a pickle: save it as numbers or texts")
    if not all(size >= 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ModelContentError("the .npy file has another number of bytes than its shape says")
    if not dtype.itemsize or not math.prod(shape):
        raise ModelContentError("the .npy file has no values")
    if dtype.subdtype is not None:
        raise ModelContentError("the .npy file has values that are arrays themselves")
    values = np.frombuffer(content, dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if fortran else "C").copy(order="K")


def load_npz(content: bytes, *, max_size: int) -> dict[str, NDArray[Any]]:
    """The arrays by name.

    Raises:
        ModelContentError: The file is broken, too large, or one of the arrays holds objects.
    """
    arrays = {}
    with open_zip(content, max_size=max_size) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise ModelContentError("the .npz file holds something other than arrays")
            try:
                array = archive.read(member)
            except BROKEN as error:
                raise ModelContentError(f"the .npz file is broken ({type(error).__name__})") from None
            arrays[member.filename.removesuffix(".npy")] = load_npy(array)
    return arrays
