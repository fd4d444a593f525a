"""Files that are replaced in one step."""

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path


def replace_file(path: Path, content: bytes, *, new_mode: int) -> None:
    """Put a new content in the place of the old one, in one step, on the disk when it returns.

    Args:
        path: The file. Whoever reads it sees the one or the other, whole, also after a crash.
        content: What it shall hold.
        new_mode: The mode of a file that was not there. Another one keeps its mode and its owner.

    Raises:
        OSError: It cannot be written. What was there is as it was.
    """
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # it is open
            file.write(content)
            file.flush()
            _take_after(descriptor, before, new_mode)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if sys.platform != "win32":  # pragma: no branch  # not tested there
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _take_after(descriptor: int, before: os.stat_result | None, new_mode: int) -> None:
    """Give a file the owner and the mode of the one that it replaces, so that the service can go on reading it."""
    if sys.platform == "win32":  # pragma: no cover  # not tested there
        return
    if before is None:
        os.fchmod(descriptor, new_mode)
        return
    for owner, group in ((-1, before.st_gid), (before.st_uid, -1)):
        with contextlib.suppress(PermissionError):  # only root may give files away
            os.fchown(descriptor, owner, group)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & ~stat.S_IWOTH)
