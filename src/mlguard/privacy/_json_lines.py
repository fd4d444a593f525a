"""Logs of one JSON object a line, read in bounded memory, whatever else is in them."""

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

MAX_LINE = 1_048_576  # bytes
# Logs are packed 10 to 50 times smaller. Gzip can do 1000, and who made a file so wants its reader to be busy.
_BEST_PACKED = 200
_LEAST = 16_777_216  # bytes that any file may unpack to

# A pipe is not waited for, and a link not followed. Windows has neither.
_CAUTIOUS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

#: What goes wrong with files that are not there, not whole or not what they are called.
UNREADABLE = (OSError, EOFError, zlib.error)

Record = dict[str, Any]


class NotAFileError(OSError):
    """A link, a folder or a device in the place of a file."""


class PackedTooWellError(OSError):
    """A packed file that unpacks to more than any log does."""


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record | None]]:
    """The lines of a file that have something in them.

    Args:
        path: A file, or one that gzip has packed, by its name.

    Yields:
        The line without its end, and its record: None where it is no JSON object or longer than a megabyte, of which
        only the beginning is there then.

    Raises:
        OSError, EOFError, zlib.error: The file cannot be read, or no further.
    """
    path = Path(path)
    with _opened(path) as plain, gzip.open(plain, "rb") if path.suffix == ".gz" else plain as file:
        left = _LEAST + _BEST_PACKED * os.fstat(plain.fileno()).st_size
        while line := file.readline(MAX_LINE):
            left -= len(line)
            if left < 0 and file is not plain:
                raise PackedTooWellError
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                _skip_line(file)  # type: ignore[arg-type]  # what gzip gives reads as a file does
                yield line, None
            elif line.strip():
                yield line.rstrip(b"\r\n"), parse(line)


def _opened(path: Path) -> BinaryIO:
    """A file, open. Nothing else is waited for, whatever takes its place meanwhile.

    Raises:
        OSError: It is no file, or cannot be opened.
    """
    if not stat.S_ISREG(path.lstat().st_mode):  # a device may do something when it is opened
        raise NotAFileError
    descriptor = os.open(path, os.O_RDONLY | _CAUTIOUS)
    file = open(descriptor, "rb")  # noqa: PTH123, SIM115  # it is open, and the caller closes it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise NotAFileError
    return file


def ends_within_a_line(path: Path) -> bool:
    """Whether the last line of a file was not written to its end. Of one that is packed it is not told.

    Raises:
        OSError: The file cannot be read.
    """
    with _opened(path) as file:
        file.seek(-1, os.SEEK_END)
        return path.suffix != ".gz" and file.read() != b"\n"


def parse(line: bytes) -> Record | None:
    """The record of a line; None where it is no JSON object."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _skip_line(file: BinaryIO) -> None:
    while (part := file.readline(MAX_LINE)) and not part.endswith(b"\n"):
        pass
