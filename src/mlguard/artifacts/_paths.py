"""What a file inside a model may be called, in a signature, in a folder and in a setting.

Names are compared code point by code point. There is no normalisation and no folding of case: two spellings are two
files, so a file system that takes one for the other shows a file too few or one too many, and the model is refused.
"""

import re
from collections.abc import Iterable
from typing import TypeGuard

from mlguard.errors import ConfigurationError

#: Bytes of a whole relative path, as Linux allows.
MAX_PATH = 4_096

#: What no path has that means the same everywhere: control characters, the separator of Windows, and the halves of
#: characters that stand for bytes which are no UTF-8.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")


def is_portable(path: str) -> bool:
    """Whether it is a relative POSIX path of at most 4096 bytes, without ``.`` and ``..``, that means one thing."""
    return (
        len(path) <= MAX_PATH
        and _FORBIDDEN.search(path) is None
        and len(path.encode()) <= MAX_PATH
        and not {"", ".", ".."}.intersection(path.split("/"))
    )


def is_name(name: object) -> TypeGuard[str]:
    """Whether it is what a model may be called: one part of such a path."""
    return isinstance(name, str) and "/" not in name and is_portable(name)


def ignored_paths(paths: object) -> frozenset[str]:
    """The paths that may be there unsigned.

    Raises:
        ConfigurationError: They are no collection of relative POSIX paths.
    """
    if isinstance(paths, str | bytes) or not isinstance(paths, Iterable):
        raise ConfigurationError('ignore is a list of paths inside the model, such as ignore=[".git"]')
    checked = []
    for number, path in enumerate(paths, 1):
        if not isinstance(path, str) or not is_portable(path.removesuffix("/")):
            raise ConfigurationError(
                f'ignore, entry {number}, is no path inside the model: write it with "/", relative, without ".."'
            )
        checked.append(path.removesuffix("/"))
    return frozenset(checked)


def shown(path: str) -> str:
    """A path as it may stand in a message: whatever it is, one line, and not endless."""
    return ascii(path if len(path) <= 120 else f"{path[:120]}...")
