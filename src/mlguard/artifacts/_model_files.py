"""The files of a model on disk: listed without opening one, then hashed, then listed again.

A link, a device, a pipe or a socket is found when the folder is listed, so none is ever opened. What is opened
afterwards must be the very file that was listed (device, inode, size and times), before and after it is read: a path
that leads elsewhere by then, or a file that somebody writes to, is refused. No path from a signature is ever opened.
"""

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mlguard.artifacts._paths import is_portable, shown
from mlguard.artifacts._statement import ITSELF
from mlguard.errors import ModelSignatureError

_MAX_DEPTH = 64  # folders in folders, each of which holds a descriptor while it is listed
_CHUNK = 1 << 20  # bytes that are read at once; larger ones fall out of the processor's cache
_LARGE = 1 << 20  # bytes of a file from which on a thread of its own pays
_THREADS = 4  # more do not read any faster from one disk

# Where the platform has them: not through a link, not waiting for the other end of a pipe, no controlling terminal.
_SAFELY = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_FOLDER = os.O_RDONLY | _SAFELY | getattr(os, "O_DIRECTORY", 0)
_HAS_DESCRIPTORS = os.scandir in os.supports_fd and os.open in os.supports_dir_fd  # not on Windows


class _Identity(NamedTuple):
    """Tells one state of one file from every other. No program can set the time of the last change to the inode."""

    device: int
    inode: int
    size: int
    written: int
    changed: int


class ModelFiles:
    """The files of a model, as they are now.

    Args:
        path: The model: a file or a folder.
        skip: Relative paths that do not belong to it, with everything below them. They are not looked at.
        max_files: How many files and folders there may be.

    Raises:
        ModelSignatureError: There is something else than files and folders, a name that is not portable, too many
            entries, or something that cannot be read.
    """

    def __init__(self, path: Path, *, skip: frozenset[str], max_files: int) -> None:
        self._path = path
        self._skip = skip
        self._max_files = max_files
        with _reading():
            self._identities = dict(self._listed())

    @property
    def paths(self) -> set[str]:
        """The relative POSIX path of each file; ``"."`` if the model is one file."""
        return {*self._identities}

    def digests(self, check: Callable[[str, str], None]) -> dict[str, str]:
        """Hash all files, the large ones in threads, and see whether anything has changed meanwhile.

        Args:
            check: Called with the path and the SHA-256 of each file in hex, perhaps in a thread. What it raises ends
                the work.

        Raises:
            ModelSignatureError: Something cannot be read, or was changed, added or removed since it was listed.
        """
        digests: dict[str, str] = {}
        stop = threading.Event()

        def hash_one(path: str) -> None:
            digest = self._digest(path, self._identities[path], stop)
            check(path, digest)
            digests[path] = digest

        large = [path for path, identity in self._identities.items() if identity.size >= _LARGE]
        with _reading():
            if len(large) > 1:
                _in_threads(hash_one, large, stop)
            stop.clear()
            for path in self._identities:
                if path not in digests:
                    hash_one(path)
            self._check_unchanged()
        return digests

    def _check_unchanged(self) -> None:
        count = 0
        for path, identity in self._listed():
            if self._identities.get(path) != identity:
                raise ModelSignatureError(f"{shown(path)} was changed or added while the model was read")
            count += 1
        if count != len(self._identities):
            raise ModelSignatureError("a file was removed while the model was read")

    def _listed(self) -> Iterator[tuple[str, _Identity]]:
        status = os.lstat(self._path)
        if stat.S_ISREG(status.st_mode):
            yield ITSELF, _identity(status)
            return
        if stat.S_ISLNK(status.st_mode):
            raise ModelSignatureError("the model is a symbolic link: pass the path that it leads to (Path.resolve)")
        if not stat.S_ISDIR(status.st_mode):
            raise ModelSignatureError("the model is neither a file nor a folder")
        budget = iter(range(self._max_files))
        with _folder(str(self._path), None) as root:
            yield from self._below(root, "", budget)

    def _below(self, folder: int | str, prefix: str, budget: Iterator[int]) -> Iterator[tuple[str, _Identity]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{prefix}{entry.name}"
                if path in self._skip:
                    continue
                if next(budget, None) is None:
                    raise ModelSignatureError(f"the model has more than {self._max_files} files and folders: max_files")
                if not is_portable(path):
                    raise ModelSignatureError(f"{shown(path)} is no portable name: too long, or no plain UTF-8")
                status = entry.stat(follow_symlinks=False) if _HAS_DESCRIPTORS else os.lstat(entry.path)
                if stat.S_ISREG(status.st_mode):
                    yield path, _identity(status)
                elif not stat.S_ISDIR(status.st_mode):
                    kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a device, a pipe or a socket"
                    raise ModelSignatureError(f"{shown(path)} is {kind}: a model consists of files and folders")
                elif path.count("/") >= _MAX_DEPTH:
                    raise ModelSignatureError(f"the model has folders more than {_MAX_DEPTH} deep")
                else:
                    with _folder(entry.name if _HAS_DESCRIPTORS else entry.path, folder) as below:
                        yield from self._below(below, f"{path}/", budget)

    def _digest(self, path: str, listed: _Identity, stop: threading.Event) -> str:
        whole = self._path if path == ITSELF else self._path / path
        hasher = hashlib.sha256()
        size = 0
        descriptor = os.open(whole, os.O_RDONLY | _SAFELY)
        try:
            if _identity(os.fstat(descriptor)) != listed:
                raise ModelSignatureError(f"{shown(path)} was replaced or changed while the model was read")
            buffer = memoryview(bytearray(min(_CHUNK, listed.size + 1)))
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                # One byte more than there should be is enough: a file that grows as it is read would never end.
                while size <= listed.size and (read := file.readinto(buffer)) and not stop.is_set():
                    hasher.update(buffer[:read])
                    size += read
            if size != listed.size or _identity(os.fstat(descriptor)) != listed:
                raise ModelSignatureError(f"{shown(path)} was changed while it was read")
        finally:
            os.close(descriptor)
        return hasher.hexdigest()


def read_small_file(path: Path, most: int) -> bytes:
    """Read a file that is no link, no device and not too large.

    Raises:
        ModelSignatureError: It is one of these.
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise ModelSignatureError("the signature is a link or a device, and no file")
    descriptor = os.open(path, os.O_RDONLY | _SAFELY)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # it is open
        content = file.read(most + 1)
    if len(content) > most:
        raise ModelSignatureError(f"the signature is larger than {most} bytes")
    return content


def _identity(status: os.stat_result) -> _Identity:
    return _Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextlib.contextmanager
def _folder(name: str, parent: int | str | None) -> Iterator[int | str]:
    """A folder to list: opened where it was found and not through a link, where the platform can."""
    if not _HAS_DESCRIPTORS:
        yield name
        return
    descriptor = os.open(name, _FOLDER, dir_fd=parent if isinstance(parent, int) else None)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turn what the file system refuses into a refusal."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelSignatureError(f"the model cannot be read, or was changed while it was read: {reason}") from error


def _in_threads(work: Callable[[str], None], paths: list[str], stop: threading.Event) -> None:
    """Do the work on each path, in a few threads, until one fails."""
    left = iter(paths)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def take_turns() -> None:
        try:
            while not stop.is_set():
                with lock:
                    path = next(left, None)
                if path is None:
                    return
                work(path)
        except BaseException as error:
            with lock:
                if not stop.is_set():  # later ones may only say that they were stopped
                    failures.append(error)
                    stop.set()

    threads = min(_THREADS, len(paths), os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, thread_name_prefix="mlguard-model") as pool:
        try:
            for turn in [pool.submit(take_turns) for _ in range(threads)]:
                turn.result()
        finally:
            stop.set()  # also when whoever waits is interrupted
    if failures:
        raise failures[0]
