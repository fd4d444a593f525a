"""A file that is read again when it changes, while what was read from it stays in use."""

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from mlguard._lookout import Lookout
from mlguard.errors import ConfigurationError
from mlguard.monitoring.events import record_event
from mlguard.problems import logger

T = TypeVar("T")

#: Something to call now and then during long work.
Breathe = Callable[[], None]

_EVERY = 0.2  # seconds between two looks
_QUIET = 0.05  # seconds for which a file that has changed must be the same before it is read
_SETTLED = 2.0  # seconds; some file systems keep times that coarse, so a second change may look like the first
_PAUSE = 0.0001  # seconds that requests are given now and then while a large file is read
_MAX_SIZE = 256 * 1_048_576  # bytes

_Signature = tuple[int, ...]


class _UnusableError(Exception):
    """The file cannot be used, for this reason. Quotes nothing of it."""


class _ChangingError(_UnusableError):
    """It changed while it was read."""


@dataclass(frozen=True, slots=True)
class FileHealth:
    """Whether what is in use is what the file says.

    Attributes:
        ok: It is. If not, what was read last stays in use.
        loaded_at: When that was read.
        error: Why the file as it is now cannot be used. Holds nothing of its content, and not its path.
    """

    ok: bool
    loaded_at: datetime
    error: str | None = None


class WatchedFile(Generic[T]):
    """What a file holds, read again when it changes.

    A new content is taken as a whole or not at all. One that cannot be used, or a file that is gone, leaves what was
    read before in use, logs one line, and shows in ``health``. A thread looks at the file five times a second, from the
    first use on (so that a server may fork before), and reads it once it has been the same for a moment: what is
    written in place would be seen half written.

    Args:
        path: Where. Symbolic links are followed at each look.
        read: Makes the value from the content, or raises ``ConfigurationError`` with a text that quotes nothing.
        what: What the file holds, for the log: ``"API keys"``.
        production: Whether to refuse a file to which every user of the machine may write.

    Raises:
        ConfigurationError: The file cannot be used.
    """

    def __init__(
        self, path: str | os.PathLike[str], read: Callable[[bytes, Breathe], T], *, what: str, production: bool
    ) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100  # not resolved: a mounted secret swaps its links
        self._read = read
        self._what = what
        self._production = production
        self._lock = threading.Lock()
        self._lookout = Lookout(self, "mlguard-file")
        self._last_look: _Signature = ()
        # The state of the file that was judged last, and the verdict: why it cannot be used, or None.
        self._judged: _Signature = ()
        self._settled = False
        self._fingerprint = b""
        self._verdict: str | None = None
        self._value: T
        self._health = FileHealth(ok=True, loaded_at=datetime.now(UTC))
        problem = self._reread(_go_on)
        if problem is not None:
            raise ConfigurationError(f"{what} cannot be read from {self.path}: {problem}")

    @property
    def value(self) -> T:
        """What was read last."""
        if not self._lookout.is_out:
            self._watch()
        return self._value

    @property
    def health(self) -> FileHealth:
        """Whether that is what the file says now."""
        if not self._lookout.is_out:
            self._watch()
        return self._health

    def refresh(self) -> None:
        """Look at the file now, and read it if it has changed."""
        with self._lock:
            self._tell(self._reread(_go_on))

    def look(self) -> float:
        """What the thread does: read the file if it has changed, and has been the same for two looks.

        Returns:
            Seconds until the next look.
        """
        with self._lock:
            before, self._last_look = self._last_look, self._stat()
            if self._last_look != before:
                return _QUIET
            if before != self._judged or not self._settled:
                self._tell(self._reread(_give_way))
        return _EVERY

    def _watch(self) -> None:
        with self._lock:
            if self._lookout.is_out:
                return
            if self._stat() != self._judged or not self._settled:
                self._tell(self._reread(_go_on))
            self._lookout.send()  # where there can be no thread, each use comes by here and looks for itself

    def restart_in_child(self) -> None:
        """After a fork, in the child: the lock is as the parent's thread had it."""
        self._lock = threading.Lock()

    def _tell(self, problem: str | None) -> None:
        """Log and show how things stand, if that has changed."""
        if problem == self._health.error:
            return
        self._health = FileHealth(problem is None, self._health.loaded_at, problem)
        if problem is None:
            logger.warning("%s: %s can be used again", self._what, self.path)
        else:
            since = self._health.loaded_at.isoformat(timespec="seconds")
            logger.error(
                "%s: %s cannot be used: %s; what was read at %s stays in use", self._what, self.path, problem, since
            )

    def _reread(self, breathe: Breathe) -> str | None:
        """Read the file, and take what it says if that can be used. Returns why it cannot."""
        try:
            signature, content = self._open()
        except _ChangingError:
            return self._health.error if self._judged else "it is being written"  # the next look sees it
        except _UnusableError as error:
            return str(error)
        except OSError as error:
            return error.strerror or type(error).__name__
        self._settled = abs(time.time() - signature[0] / 1e9) > _SETTLED
        fingerprint = hashlib.blake2b(content).digest()
        if fingerprint != self._fingerprint:
            self._verdict = self._take(content, breathe)
            self._fingerprint = fingerprint
        self._judged = signature
        return self._verdict

    def _take(self, content: bytes, breathe: Breathe) -> str | None:
        try:
            value = self._read(content, breathe)
        except ConfigurationError as error:
            return str(error)
        except Exception as error:  # a parser's own, such as a RecursionError
            return f"it cannot be parsed ({type(error).__name__})"
        self._value = value
        self._health = FileHealth(self._health.ok, datetime.now(UTC), self._health.error)
        if self._judged:
            logger.info("%s: read again from %s", self._what, self.path)
            record_event("key.reloaded", what=self._what, file=self.path.name)
        return None

    def _open(self) -> tuple[_Signature, bytes]:
        # Not blocking: a named pipe in its place would keep the thread for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(self.path, flags), "rb") as file:  # noqa: PTH123  # with flags
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _UnusableError("it is no file")
            if status.st_size > _MAX_SIZE:
                raise _UnusableError(f"it is larger than {_MAX_SIZE // 1_048_576} MiB")
            if self._production and os.name == "posix" and status.st_mode & stat.S_IWOTH:
                raise _UnusableError("every user of this machine may write to it: chmod o-w")
            content = file.read(_MAX_SIZE + 1)
            after = os.fstat(file.fileno())  # a rename over it changes its ctime, and nothing in it
            if (after.st_mtime_ns, len(content)) != (status.st_mtime_ns, status.st_size):
                raise _ChangingError
        return _signature(status), content

    def _stat(self) -> _Signature:
        """What tells one state of the file from another; nothing of it is read."""
        try:
            return _signature(self.path.stat())
        except OSError as error:
            return (error.errno or 0,)


def _signature(status: os.stat_result) -> _Signature:
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev, status.st_ctime_ns)


def _go_on() -> None:
    """At start-up nobody waits for anything else."""


def _give_way() -> None:
    time.sleep(_PAUSE)
