"""Loads what skops has saved, with the list of trusted types that it was made for."""

import re
from importlib.metadata import version
from typing import Any

from mlguard.artifacts._sklearn_pickles import check_trees
from mlguard.artifacts._symbols import Name
from mlguard.artifacts._zip_files import open_zip
from mlguard.errors import ConfigurationError, ModelContentError

_OLDEST = (0, 13)  # older ones can be made to run what is not on the list: CVE-2025-54412, -54413, -54886


def untrusted_types(content: bytes, *, max_size: int) -> list[str]:
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
    return untrusted


def load_skops(content: bytes, allowed: frozenset[Name], *, max_size: int) -> Any:
    """The object.

    Raises:
        ModelContentError: It is broken, or names a type that is neither trusted by skops nor allowed.
        ConfigurationError: The package is not installed, or too old.
    """
    names = {".".join(pair) for pair in allowed}
    refused = [name for name in untrusted_types(content, max_size=max_size) if name not in names]
    if refused:
        raise ModelContentError(f"the file names what is not allowed: {', '.join(ascii(n)[1:-1] for n in refused)}")
    try:
        model = _skops_io().loads(content, trusted=sorted(names))
        check_trees(model)
    except Exception as error:
        raise ModelContentError(f"a class that the file names refuses what the file holds: {error!r:.300}") from error
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
