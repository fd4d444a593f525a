"""The files of a model on disk: listed without opening one, then hashed, then listed again.

A link, a device, a pipe or a socket is found when the folder is listed, so none is ever opened. No path from a
signature is opened either. What is opened must be the very file that was listed (device, inode, size and times), and
must still be it when everything was read: a path that leads elsewhere by then is refused, and so is a file that
somebody writes to.

A write that had begun before a file was listed, and one through a map of it in memory, can go unseen. Even then a model
is verified only if the bytes that were read are the ones that were signed.
"""

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias

from mlguard._files import opened_folder
from mlguard.artifacts._paths import is_portable, shown
from mlguard.artifacts._statement import ITSELF
from mlguard.errors import ModelSignatureError

_MAX_DEPTH = 64  # folders in folders, each of which holds a descriptor while it is listed
_CHUNK = 1 << 18  # bytes that are read at once; more is no faster
_LARGE = 1 << 20  # bytes of a file from which on a thread of its own pays
_THREADS = 4  # more do not read any faster from one disk

_TICK = 20_000_000  # nanoseconds; Linux ticks every 1 to 10 ms

# Where the platform has them: not through a link, not waiting for the other end of a pipe, no controlling terminal.
_SAFELY = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))


#: Tells one state of one file from every other: no program can set the last time, of the last change to the inode.
_identity = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
_Identity: TypeAlias = tuple[int, int, int, int, int]
_SIZE, _CHANGED = 2, 4


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
        self._root = str(path)
        self._skip = skip
        self._max_files = max_files
        with _reading():
            self._identities = self._first_list()

    @property
    def paths(self) -> set[str]:
        """The relative POSIX path of each file; ``"."`` if the model is one file."""
        return {*self._identities}

    def digests(self, check: Callable[[str, str], object]) -> dict[str, str]:
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

        large = [path for path, identity in self._identities.items() if identity[_SIZE] >= _LARGE]
        self._settle()
        with _reading():
            if len(large) > 1:
                _in_threads(hash_one, large, stop)
            stop.clear()
            for path in self._identities:
                if path not in digests:
                    hash_one(path)
            self._check_unchanged()
        return digests

    def _first_list(self) -> dict[str, _Identity]:
        identities = {}
        room = largest_signature(self._max_files)
        for path, identity in self._listed():
            if path != ITSELF and not is_portable(path):
                raise ModelSignatureError(f"{shown(path)} is no portable name: too long, or no plain UTF-8")
            room -= len(path)
            if room < 0:
                raise ModelSignatureError("the model has more and longer names than a signature may list: max_files")
            identities[path] = identity
        return identities

    def _settle(self) -> None:
        """Wait until a write to a file that was written just now would show: the file system's clock ticks coarsely."""
        now = time.time_ns()
        if any(0 <= now - identity[_CHANGED] < _TICK for identity in self._identities.values()):
            time.sleep(_TICK / 1e9)

    def _check_unchanged(self) -> None:
        count = 0
        for path, identity in self._listed():
            if self._identities.get(path) != identity:
                raise ModelSignatureError(f"{shown(path)} was changed or added while the model was read")
            count += 1
        if count != len(self._identities):
            raise ModelSignatureError("a file was removed while the model was read")

    def _listed(self) -> Iterator[tuple[str, _Identity]]:
        status = os.lstat(self._root)
        if stat.S_ISREG(status.st_mode):
            yield ITSELF, _identity(status)
            return
        if stat.S_ISLNK(status.st_mode):
            raise ModelSignatureError("the model is a symbolic link: pass the path that it leads to (Path.resolve)")
        if not stat.S_ISDIR(status.st_mode):
            raise ModelSignatureError("the model is neither a file nor a folder")
        budget = iter(range(self._max_files))
        with opened_folder(self._root, None) as root:
            yield from self._below(root, "", budget)

    def _below(self, folder: int | str, prefix: str, budget: Iterator[int]) -> Iterator[tuple[str, _Identity]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{prefix}{entry.name}"
                if path in self._skip:
                    continue
                if next(budget, None) is None:
                    raise ModelSignatureError(f"the model has more than {self._max_files} files and folders: max_files")
                status = entry.stat(follow_symlinks=False) if isinstance(folder, int) else os.lstat(entry.path)
                if stat.S_ISREG(status.st_mode):
                    yield path, _identity(status)
                elif not stat.S_ISDIR(status.st_mode):
                    kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a device, a pipe or a socket"
                    raise ModelSignatureError(f"{shown(path)} is {kind}: a model consists of files and folders")
                elif path.count("/") >= _MAX_DEPTH:
                    raise ModelSignatureError(f"the model has folders more than {_MAX_DEPTH} deep")
                else:
                    with opened_folder(entry.name if isinstance(folder, int) else entry.path, folder) as below:
                        yield from self._below(below, f"{path}/", budget)

    def _digest(self, path: str, listed: _Identity, stop: threading.Event) -> str:
        """Hash one file. Whether it was written to meanwhile is seen when everything is listed again."""
        hasher = hashlib.sha256()
        size, whole = 0, listed[_SIZE]
        descriptor = os.open(f"{self._root}/{path}" if path != ITSELF else self._root, os.O_RDONLY | _SAFELY)
        try:
            if _identity(os.fstat(descriptor)) != listed:
                raise ModelSignatureError(f"{shown(path)} was replaced or changed while the model was read")
            # One byte more than there should be is enough: a file that grows as it is read would never end.
            while (chunk := os.read(descriptor, min(_CHUNK, whole + 1 - size))) and not stop.is_set():
                hasher.update(chunk)
                size += len(chunk)
                if size >= whole:
                    break
        finally:
            os.close(descriptor)
        if size != whole:
            raise ModelSignatureError(f"{shown(path)} was changed while it was read")
        return hasher.hexdigest()


def largest_signature(max_files: int) -> int:
    """Bytes that the signature of so many files may have, and characters that all their paths may have."""
    return (1 << 20) + 512 * max_files


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
        raise failures[0]  # later ones may only say that they were stopped
