"""Loads what skops has saved, with the list of trusted types that it was made for."""

import io
import pickle
import re
from importlib.metadata import version
from types import FunctionType
from typing import Any

from mlguard.artifacts._pickle_contents import PickleContents
from mlguard.artifacts._private_copy import PrivateCopy
from mlguard.artifacts._symbols import Name, spell_some
from mlguard.artifacts._zip_files import open_zip
from mlguard.artifacts.allowed_globals import NUMPY_ARRAYS, SKLEARN_ESTIMATORS
from mlguard.artifacts.pickle_globals import CHANGED_LATER, read_pickle
from mlguard.errors import ConfigurationError, ModelContentError

#: What pickles need for arrays, with arguments that are looked at. Skops does not need it, and would call it with any.
_CALLED = NUMPY_ARRAYS - {("numpy", "dtype")}
_OLDEST = (0, 13)  # older ones can be made to run what is not on the list: CVE-2025-54412, -54413, -54886


def untrusted_types(content: bytes, *, max_size: int) -> list[Name]:
    """The types that a file names and that skops does not trust by itself.

    Raises:
        ModelContentError: The file is broken.
        ConfigurationError: The package is not installed, or too old.
    """
    skops_io = _skops_io()
    open_zip(content, max_size=max_size).close()
    try:
        untrusted: list[str] = skops_io.get_untrusted_types(data=content)
    except Exception as error:  # it reads JSON of any shape: the errors are many
        raise ModelContentError(f"the skops file is broken ({type(error).__name__})") from None
    return [(module, name) for module, _, name in (one.rpartition(".") for one in untrusted)]


def load_skops(content: bytes, allowed: frozenset[Name], *, max_size: int, max_instructions: int) -> Any:
    """The object.

    Before anybody asks it anything it is looked at as if it had come in a pickle: skops trusts an estimator whatever
    its numbers are.

    Raises:
        ModelContentError: It is broken, names a type that is neither trusted by skops nor allowed, has an estimator
            that nobody has allowed, or its numbers would let native code read or write beside its memory.
        ConfigurationError: The package is not installed, or too old.
    """
    trusted = allowed - _CALLED
    refused = [name for name in untrusted_types(content, max_size=max_size) if name not in trusted]
    if refused:
        raise ModelContentError(f"the file names what is not allowed: {spell_some(refused)}")
    try:
        model = _skops_io().loads(content, trusted=sorted(map(".".join, trusted)))
        again = io.BytesIO()
        _Candid(again, 5).dump(model)
    except Exception as error:
        raise ModelContentError(f"a class that the file names refuses what the file holds: {error!r:.300}") from error
    _check(read_pickle(PrivateCopy(again.getvalue()), max_instructions=max_instructions), allowed)
    return model


def _check(contents: PickleContents, allowed: frozenset[Name]) -> None:
    """Look at what was loaded.

    What NumPy and other libraries have made is theirs. An estimator's native code believes it, whoever has made it.
    """
    known = SKLEARN_ESTIMATORS | allowed
    unknown = [name for name in dict.fromkeys(contents.names) if _is_estimators(name) and name not in known]
    if unknown:
        raise ModelContentError(
            f"the file holds {spell_some(unknown)}, for which mlguard has no rules: native code may believe whatever "
            f"the file says. Where you trust whoever made it, allow=... takes pairs, ({unknown[0][0]!a}, "
            f"{unknown[0][1]!a})"
        )
    told = [one for one in contents.problems if one.startswith("sklearn.") or one == CHANGED_LATER]
    if told or not contents.is_whole:
        raise ModelContentError("; ".join(told or contents.problems))


def _is_estimators(name: Name) -> bool:
    return name[0].split(".")[0] == "sklearn"


class _Candid(pickle.Pickler):
    """Writes what an object has. It may have an attribute that would tell :mod:`pickle` something else."""

    def reducer_override(self, one: Any) -> Any:
        """Refuse such an object. Else, write it as ever."""
        own = () if isinstance(one, type | FunctionType) else getattr(one, "__dict__", ())
        if any(name.startswith("__") for name in own):
            raise pickle.PicklingError("an attribute is named like one of Python's own")
        return NotImplemented


def _skops_io() -> Any:
    try:
        import skops.io as skops_io  # type: ignore[import-untyped]  # noqa: PLC0415  # untyped extra
    except ImportError:
        raise ConfigurationError("the model is of skops: pip install 'mlguard[skops]'") from None
    found = version("skops")
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise ConfigurationError(f"skops {found} can be made to run what is not allowed: pip install 'skops>=0.13'")
    return skops_io
