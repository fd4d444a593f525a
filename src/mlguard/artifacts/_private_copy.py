"""One reading of a file into memory that nobody else can write to: what is verified is what is loaded."""

import contextlib
import io
import mmap
import os
import stat
from collections.abc import Callable

from mlguard.errors import ModelContentError

_AT_A_TIME = 1 << 22  # bytes; enough for a thread beside this one


class PrivateCopy:
    """What a file held when it was read, once.

    Args:
        content: Its bytes.
    """

    def __init__(self, content: "bytes | mmap.mmap") -> None:
        self._content = content

    @property
    def view(self) -> memoryview:
        """The bytes, without a copy."""
        return memoryview(self._content)

    def as_bytes(self) -> bytes:
        """The bytes, for libraries that want such."""
        return self._content if isinstance(self._content, bytes) else bytes(self._content)

    def stream(self) -> "io.BytesIO | mmap.mmap":
        """The bytes as a file that is read from its beginning. One at a time."""
        if isinstance(self._content, bytes):
            return io.BytesIO(self._content)
        self._content.seek(0)
        return self._content


def read_once(
    path: str | os.PathLike[str], *, max_size: int, watch: Callable[[memoryview], object] = len
) -> PrivateCopy:
    """Read a file.

    Args:
        path: A file, not a device or a directory. Links are followed.
        max_size: Bytes that it may have.
        watch: Called with each piece as soon as it is there, where it will stay.

    Raises:
        ModelContentError: It is no file, empty, too large, or it changed while it was read.
        OSError: It cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags)) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise ModelContentError("not a file")
        if not before.st_size:
            raise ModelContentError("the file is empty")
        if before.st_size > max_size:
            raise ModelContentError(f"the file has {before.st_size} bytes, more than max_size={max_size}")
        memory = _memory(before.st_size)
        filled = 0
        view = memoryview(memory)
        while read := file.readinto(view[filled : filled + _AT_A_TIME]):
            watch(view[filled : filled + read])
            filled += read
        after = os.fstat(file.fileno())
        if filled != before.st_size or file.read(1) or _marks(before) != _marks(after):
            raise ModelContentError("the file changed while it was read")
    return PrivateCopy(memory)


def _memory(size: int) -> mmap.mmap:
    """Memory of this process alone, in large pages where the system has such: half the time for 100 MB."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # pragma: no cover  # Windows
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # pragma: no branch  # Linux
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _marks(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
