"""Loads a pickle that has been read already, through an allow-list of its own.

The two readings must name the same globals in the same order, and be at the same place at each call; and an import
happens only for a pair that is allowed. So even if the first reading were deceived, nothing else could be reached.
"""

import importlib
import io
import math
import pickle
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from mlguard.artifacts._pickle_contents import PickleContents
from mlguard.artifacts._pickle_rules import modern_name
from mlguard.artifacts._pickle_steps import step_of, with_checks
from mlguard.artifacts._private_copy import PrivateCopy
from mlguard.artifacts._symbols import Name, spell
from mlguard.artifacts.pickle_globals import JOBLIB_WRAPPER
from mlguard.errors import ConfigurationError, ModelContentError

_DIFFER = "two readings of the file differ"
_OLDEST_JOBLIB = (1, 6)  # older ones read arrays of objects past find_class
_LARGE = 1 << 16  # bytes of an array from which on it stays where the file was read to: a tree copies it anyway


def unpickle(copy: PrivateCopy, contents: PickleContents, allowed: frozenset[Name]) -> Any:
    """Make the object.

    Args:
        copy: The pickle, or what joblib has written, with no compression.
        contents: What was found when it was read without running it. It has no problems.
        allowed: The globals that may be imported and called.

    Raises:
        ModelContentError: It names what is not allowed, or other than what was read; or a class will not have it.
        ConfigurationError: It was written by joblib, which is not here, or too old.
    """
    imports = _Imports(contents, allowed)
    reader = _joblib_reader(copy, imports) if contents.has_joblib_arrays else _Plain(copy.stream(), imports)
    try:
        made = reader.load()
    except (ModelContentError, ConfigurationError):
        raise
    except Exception as error:
        raise ModelContentError(f"a class that the file names refuses what the file holds: {error!r:.300}") from error
    imports.check_end()
    return made


class _Imports:
    """Imports what is allowed, as long as it is what was expected."""

    def __init__(self, expected: PickleContents, allowed: frozenset[Name]) -> None:
        self._expected: Iterator[Name] = iter(expected.names)
        self._steps: Iterator[int] = iter(expected.steps)
        self._allowed = allowed
        self._known: dict[Name, Any] = {}

    def find(self, module: str, name: str, protocol: int) -> Any:
        """The class or the function.

        Raises:
            ModelContentError: It is not allowed, not expected, or not installed.
        """
        pair = modern_name(module, name, protocol)
        if pair != next(self._expected, None):
            raise ModelContentError(_DIFFER)
        if pair not in self._allowed or "." in pair[1]:
            raise ModelContentError(f"the file names {spell(pair)}, which is not allowed")
        if pair not in self._known:
            try:
                self._known[pair] = getattr(importlib.import_module(pair[0]), pair[1])
            except (ImportError, AttributeError):
                raise ModelContentError(f"the file needs {spell(pair)}, which is not installed here") from None
        return self._known[pair]

    def check_step(self, reader: Any) -> None:
        """Whether a reader is where the other one was.

        Raises:
            ModelContentError: It is not.
        """
        if step_of(reader) != next(self._steps, None):
            raise ModelContentError(_DIFFER)

    def check_end(self) -> None:
        """Whether everything has come that was expected."""
        if next(self._expected, None) is not None or next(self._steps, None) is not None:
            raise ModelContentError(_DIFFER)


class _Plain(pickle._Unpickler):  # the same reader as before
    """A pickle."""

    proto: int

    def __init__(self, stream: Any, imports: _Imports) -> None:
        super().__init__(stream)
        self._imports = imports
        self.dispatch = with_checks(pickle._Unpickler.dispatch, imports.check_step)  # type: ignore[misc]  # its own

    def find_class(self, module: str, name: str) -> Any:
        """Import it, if it is allowed."""
        return self._imports.find(module, name, self.proto)


def _joblib_reader(copy: PrivateCopy, imports: _Imports) -> Any:
    """The reader of what joblib writes, made from joblib's.

    Raises:
        ConfigurationError: Joblib is not here, or too old.
    """
    require_joblib()
    content = copy.view
    from joblib.numpy_pickle import NumpyArrayWrapper, NumpyUnpickler  # noqa: PLC0415  # an extra

    class Wrapper(NumpyArrayWrapper):  # type: ignore[misc]  # joblib has no types
        """Takes an array out of memory in one piece, where joblib would read it piece by piece."""

        def read_array(self, unpickler: Any, ensure_native_byte_order: Any) -> Any:
            size = math.prod(self.shape) * self.dtype.itemsize
            stream = unpickler.file_handle
            if self.dtype.hasobject:
                return _Plain(stream, imports).load()
            if not size:
                return super().read_array(unpickler, ensure_native_byte_order)
            if self.safe_get_numpy_array_alignment_bytes() is not None:
                stream.seek(stream.read(1)[0], io.SEEK_CUR)
            start = stream.tell()
            stream.seek(size, io.SEEK_CUR)
            values = np.frombuffer(content[start : start + size], self.dtype).reshape(self.shape, order=self.order)
            if size >= _LARGE and self.dtype.isnative and values.flags.aligned and values.flags.writeable:
                return values
            return values.astype(self.dtype.newbyteorder("="), order="K")

    class Unpickler(NumpyUnpickler):  # type: ignore[misc]  # joblib has no types
        dispatch = with_checks(NumpyUnpickler.dispatch, imports.check_step)

        def find_class(self, module: str, name: str) -> Any:
            found = imports.find(module, name, self.proto)
            return Wrapper if (module, name) == JOBLIB_WRAPPER else found

    return Unpickler("", copy.stream(), ensure_native_byte_order=True)


def require_joblib() -> None:
    """See that joblib is here, and new enough.

    Raises:
        ConfigurationError: It is not.
    """
    try:
        found = version("joblib")
    except PackageNotFoundError:
        raise ConfigurationError("the model was written by joblib: pip install 'mlguard[joblib]'") from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST_JOBLIB:
        raise ConfigurationError(
            f"joblib {found} reads arrays of objects past an allow-list: pip install 'joblib>=1.6'"
        )
