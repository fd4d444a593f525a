"""Where the lines of an audit log go: files that nobody else writes to, or whatever somebody has a function for."""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Protocol

from mlguard._files import open_regular, sync_folder
from mlguard.errors import ConfigurationError
from mlguard.monitoring._audit_records import MAX_LINE

#: Takes one line, with its end.
LineSink = Callable[[bytes], object]

_NAME = re.compile(r"audit-([0-9a-f]{16})-([0-9]{6,12})\.jsonl", re.ASCII)
_FLAGS = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | sum(getattr(os, f, 0) for f in ("O_NOFOLLOW", "O_CLOEXEC"))
)
_MOST_OTHERS = 64  # that a file mentions; those before are mentioned by these
_sync = getattr(os, "fdatasync", os.fsync)


class Sink(Protocol):
    """What takes the lines. One thread calls it. Any exception means that they were not all taken.

    Attributes:
        taken: How many lines of the last call of ``write`` were taken, although it failed.
    """

    taken: int

    def begin(self, chain: str, number: int) -> None:
        """Go on at another place, which nobody else uses: the file with this number of a chain."""

    def others(self, chain: str) -> list[str]:
        """Names of places of other chains that have something in them: the latest ones."""

    @property
    def wants_another(self) -> bool:
        """Whether to go on at another place before the next lines."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Take these lines, so that they are there after a crash."""

    def abandon(self) -> None:
        """Let go of the place where it is: after a failure, or at the end."""

    def leave_to_parent(self) -> None:
        """Let go of the place in the child of a fork: it is the parent's."""


class AuditFiles:
    """A file after another in one folder. Each is made here, and none is ever opened again.

    Args:
        folder: It must be there.
        max_bytes: A file that has as many is followed by another one.
        max_age: So is one that is as old, in seconds, so that old records do not stay for the sake of new ones.
        clock: Seconds, never going backwards.

    Raises:
        ConfigurationError: The folder cannot be written to, or every user of the machine can.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_bytes: int,
        max_age: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = checked_folder(folder, where="AuditLog(directory)")
        self.taken = 0
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._file: int | None = None
        self._path = self.folder
        self._size = 0
        self._until = 0.0

    def begin(self, chain: str, number: int) -> None:
        """Make the next file.

        Raises:
            OSError: It cannot be made. ``FileExistsError``: there is one of this name.
        """
        self.abandon()
        path = self.folder / file_name(chain, number)
        self._file = os.open(path, _FLAGS, 0o600)
        self._path, self._size, self._until = path, 0, self._clock() + self._max_age
        sync_folder(self.folder)

    def others(self, chain: str) -> list[str]:
        """Names of the latest files of other chains that have a record: without one, they may never get one.

        Raises:
            OSError: The folder cannot be read.
        """
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                place = chain_and_number(entry.name)
                if place is not None and place[0] != chain:
                    with suppress(FileNotFoundError):  # it was deleted at this moment
                        state = entry.stat(follow_symlinks=False)
                        if state.st_size:
                            found.append((state.st_mtime_ns, entry.name))
        latest = (name for _, name in sorted(found, reverse=True) if has_first_line(self.folder / name))
        return [*islice(latest, _MOST_OTHERS)][::-1]

    @property
    def wants_another(self) -> bool:
        """Whether the file is large or old enough, or is no more where it was."""
        return self._size >= self._max_bytes or self._clock() >= self._until or not self._is_there()

    def write(self, lines: Sequence[bytes]) -> None:
        """Have these lines on the disk, or none of them.

        Raises:
            OSError: They are not. What is there of them is cut off, if that is possible.
        """
        if self._file is None:
            raise OSError("no file is open")  # pragma: no cover  # the writer begins one first
        left = memoryview(b"".join(lines))
        size = len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            _sync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += size

    def abandon(self) -> None:
        """Close the file. One in which there is nothing is removed, or a full disk would have one for each attempt."""
        if self._size == 0 and self._is_there():
            with suppress(OSError):
                self._path.unlink()
        self.leave_to_parent()

    def leave_to_parent(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # all that was taken is on the disk
                os.close(file)

    def _is_there(self) -> bool:
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file), self._path.lstat())
        except OSError:
            return False


class LinesTo:
    """Hands lines to a function, one after another. They are there when it returns.

    Args:
        take: The function.
    """

    wants_another = False

    def __init__(self, take: LineSink) -> None:
        self.taken = 0
        self._take = take

    def begin(self, chain: str, number: int) -> None:
        """Nothing has to be made."""

    def others(self, chain: str) -> list[str]:  # noqa: ARG002  # there is no folder to look into
        """None that anybody knows of."""
        return []

    def write(self, lines: Sequence[bytes]) -> None:
        """Hand the lines over."""
        self.taken = 0
        for line in lines:
            self._take(line)
            self.taken += 1

    def abandon(self) -> None:
        """Nothing is held."""

    def leave_to_parent(self) -> None:
        """Nothing is held."""


def to_stdout(line: bytes) -> None:
    """Write a line to standard output, as containers log."""
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def file_name(chain: str, number: int) -> str:
    """What a file of a chain is called."""
    return f"audit-{chain}-{number:06d}.jsonl"


def chain_and_number(name: str) -> tuple[str, int] | None:
    """What the name of a file says; None if it is no file of an audit log."""
    match = _NAME.fullmatch(name)
    if match is None or file_name(match[1], int(match[2])) != name:
        return None
    return match[1], int(match[2])


def has_first_line(path: Path) -> bool:
    """Whether a file has a whole first line; True where that cannot be told, and False where the file is gone."""
    try:
        with open_regular(path, follow_links=False) as file:
            return file.readline(MAX_LINE).endswith(b"\n")
    except FileNotFoundError:
        return False
    except (ConfigurationError, OSError):
        return True


def checked_folder(folder: str | os.PathLike[str], *, where: str) -> Path:
    """A folder to write to.

    Raises:
        ConfigurationError: It is none, cannot be written to, or every user of the machine can write to it.
    """
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise ConfigurationError(f"{where} is the path of a folder")
    path = Path(folder).absolute()
    if not path.is_dir():
        raise ConfigurationError(f"{where}: there is no such folder; make it, with mode 0700")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{where}: this process may not write there")
    if os.name == "posix" and path.stat().st_mode & 0o002:
        raise ConfigurationError(f"{where}: every user of the machine may write there; chmod o-w")
    return path
