"""Loads what skops has saved, with the list of trusted types that it was made for."""

import pickle
import re
from importlib.metadata import version
from typing import Any

from mlguard.artifacts._private_copy import PrivateCopy
from mlguard.artifacts._symbols import Name, spell_some
from mlguard.artifacts._zip_files import open_zip
from mlguard.artifacts.pickle_globals import read_pickle
from mlguard.errors import ConfigurationError, ModelContentError

_OLDEST = (0, 13)  # older ones can be made to run what is not on the list: CVE-2025-54412, -54413, -54886


def untrusted_types(content: bytes, *, max_size: int) -> list[Name]:
    """The types that a file names and that skops does not trust by itself.

    Raises:
        ModelContentError: The file is broken.
        ConfigurationError: The package is not installed, or too old.
    """
    io = _skops_io()
    open_zip(content, max_size=max_size).close()
    try:
        untrusted: list[str] = io.get_untrusted_types(data=content)
    except Exception as error:  # it reads JSON of any shape: the errors are many
        raise ModelContentError(f"the skops file is broken ({type(error).__name__})") from None
    return [(module, name) for module, _, name in (one.rpartition(".") for one in untrusted)]


def load_skops(content: bytes, allowed: frozenset[Name], *, max_size: int, max_instructions: int) -> Any:
    """The object.

    Before anybody asks it anything it is looked at as if it had come in a pickle: skops trusts an estimator whatever
    its numbers are.

    Raises:
        ModelContentError: It is broken, names a type that is neither trusted by skops nor allowed, or its numbers would
            let native code read or write beside its memory.
        ConfigurationError: The package is not installed, or too old.
    """
    refused = [name for name in untrusted_types(content, max_size=max_size) if name not in allowed]
    if refused:
        raise ModelContentError(f"the file names what is not allowed: {spell_some(refused)}")
    try:
        model = _skops_io().loads(content, trusted=sorted(map(".".join, allowed)))
        again = pickle.dumps(model, 5)
    except Exception as error:
        raise ModelContentError(f"a class that the file names refuses what the file holds: {error!r:.300}") from error
    problems = read_pickle(PrivateCopy(again), max_instructions=max_instructions).problems
    # What NumPy and other libraries have made is theirs. An estimator's native code believes it, whoever has made it.
    told = [problem for problem in problems if problem.startswith("sklearn.") or "max_instructions" in problem]
    if told:
        raise ModelContentError("; ".join(told))
    return model


def _skops_io() -> Any:
    try:
        import skops.io as skops_io  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError("the model is of skops: pip install 'mlguard[skops]'") from None
    found = version("skops")
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise ConfigurationError(f"skops {found} can be made to run what is not allowed: pip install 'skops>=0.13'")
    return skops_io
