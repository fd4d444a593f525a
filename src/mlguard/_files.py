"""Files and directories that appear in one step, and files that are files."""

import contextlib
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlguard.errors import ConfigurationError

if sys.platform != "win32":  # pragma: no branch  # not tested on Windows, and so below
    import fcntl

#: Whether folders can be listed, and files in them opened, whatever their path leads to by then. Not on Windows.
_HAS_DESCRIPTORS = os.scandir in os.supports_fd and os.open in os.supports_dir_fd
_FOLDER = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC"))

#: What ``making_directory`` leaves of a numbered folder when its process is killed.
_UNFINISHED = re.compile(r"\.[0-9]+\.[a-z0-9_]{8}", re.ASCII)


def replace_file(path: Path, content: bytes, *, new_mode: int) -> None:
    """Put a new content in the place of the old one, in one step, on the disk when it returns.

    Args:
        path: The file. Whoever reads it sees the one or the other, whole, also after a crash.
        content: What it shall hold.
        new_mode: The mode of a file that was not there. Another one keeps its mode and its owner.

    Raises:
        OSError: It cannot be written. What was there is as it was.
    """
    with replacing(path, new_mode=new_mode) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, *, new_mode: int) -> Iterator[BinaryIO]:
    """A file to write and read, which takes the place of another when the block ends without an exception.

    Until then nobody else can read it. After an exception it is gone. A process that is killed leaves nothing either on
    Linux, where the file has no name before it is whole. Elsewhere, and between the two steps in which a whole file is
    named and put in its place, it leaves ``.NAME.….tmp``.

    Args:
        path: As for :func:`replace_file`.
        new_mode: As for :func:`replace_file`.

    Raises:
        OSError: As for :func:`replace_file`.
    """
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    descriptor = _open_nameless(path.parent)
    nameless = descriptor is not None
    if descriptor is None:
        with _naming(path):
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
    else:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(descriptor, "w+b") as file:  # noqa: PTH123  # it is open
            yield file
            file.flush()
            _take_after(descriptor, before, new_mode)
            os.fsync(descriptor)
            if nameless:
                with _naming(path):
                    _give_name(descriptor, temporary)
        with _naming(path):
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def making_directory(path: Path) -> Iterator[Path]:
    """A directory with mode 0700 to fill, which gets its name when the block ends without an exception.

    After an exception it is gone. A process that is killed leaves ``.NAME.…``.

    Args:
        path: The directory. There is none yet, or an empty one.

    Raises:
        OSError: It cannot be made. What was there is as it was.
    """
    with _naming(path):
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for folder, _, _ in os.walk(temporary):
            sync_folder(Path(folder))
        with _naming(path):
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left that were making numbered folders. Hold the lock of the folder.

    Only what has such a name and is a folder itself: a folder that somebody else can write to may be a link to one with
    other hidden folders in it, or may have these itself. What cannot be removed stays, and hinders nobody.

    Args:
        folder: Where :func:`making_directory` makes folders whose names are numbers.
    """
    with os.scandir(folder) as entries:
        left = [entry.path for entry in entries if _UNFINISHED.fullmatch(entry.name)]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)  # refuses links


@contextlib.contextmanager
def opened_folder(path: str, parent: int | str | None) -> Iterator[int | str]:
    """A folder to list: opened where it was found and not through a link, where the platform can.

    Args:
        path: The folder: its name in ``parent``, if that is a descriptor.
        parent: What this has yielded for the folder that it is in. None: ``path`` says where it is.

    Yields:
        A descriptor, for ``os.scandir`` and as ``dir_fd``; else ``path``.

    Raises:
        OSError: It cannot be read, or is a link.
    """
    if not _HAS_DESCRIPTORS:
        yield path
        return
    descriptor = os.open(path, _FOLDER, dir_fd=parent if isinstance(parent, int) else None)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_regular(
    path: str | os.PathLike[str], *, follow_links: bool = True, dir_fd: int | None = None
) -> Iterator[BinaryIO]:
    """Open a file to read it, if it is one: a pipe or a device could keep the reader for ever.

    Args:
        path: The file.
        follow_links: False: a link is an ``OSError``.
        dir_fd: A descriptor of the folder that ``path`` is in, which may be found elsewhere by now.

    Raises:
        ConfigurationError: It is something else.
        OSError: It cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe opens without a writer
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigurationError(f"{os.fspath(path)!r} is no regular file")
    with open(descriptor, "rb") as file:  # noqa: PTH123  # it is open
        yield file


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let nobody else in who locks this folder too. The folder, because a file is another one after each change.

    Args:
        folder: It must be there.
    """
    if sys.platform == "win32":  # pragma: no cover  # each change is whole there too; two at once may lose one
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing is not enough: a child that was forked meanwhile has the same lock, for as long as it lives.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have an error name the file that was asked for: of a temporary one, nobody has heard."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _open_nameless(folder: Path) -> int | None:
    """A file in a folder that ends with the process unless it is given a name; None where there is no such thing."""
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # this file system has none; or nothing can be written here, which the other way will say
        return None


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    if sys.platform != "win32":  # pragma: no branch  # not tested there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _give_name(descriptor: int, path: Path) -> None:
    """Name a file that has none. See O_TMPFILE in open(2)."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Only with a folder does Python ask the system to follow the link in /proc.
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder, follow_symlinks=True)
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
