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

#: What goes wrong with files that are not there, not whole or not what they are called.
UNREADABLE = (OSError, EOFError, zlib.error)

Record = dict[str, Any]


class NotAFileError(OSError):
    """A link, a folder or a device in the place of a file."""


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
    if not stat.S_ISREG(path.lstat().st_mode):  # a pipe would keep us waiting
        raise NotAFileError
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                _skip_line(file)  # type: ignore[arg-type]
                yield line, None
            elif line.strip():
                yield line.rstrip(b"\r\n"), parse(line)


def ends_within_a_line(path: Path) -> bool:
    """Whether the last line of a file was not written to its end. Of one that is packed it is not told.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
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
