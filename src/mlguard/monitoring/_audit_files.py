"""The files of an audit log as readers find them: which there are, and their lines, in bounded memory."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlguard.errors import ConfigurationError
from mlguard.monitoring._audit_records import MAX_LINE
from mlguard.monitoring._audit_sinks import chain_and_number

_BLOCK = 65_536  # bytes


class LogFile(NamedTuple):
    """A file of a chain.

    Attributes:
        path: Where it is.
        number: Its place in the chain, from 1.
    """

    path: Path
    number: int


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        text: Without its end. Of one that is too long, the beginning.
        is_whole: Whether it has an end, and is not too long.
        is_last: Whether the file ends with it, without the end of a line.
        size: Bytes that it has in the file, with its end.
    """

    text: bytes
    is_whole: bool
    is_last: bool
    size: int


def files_by_chain(folder: str | os.PathLike[str]) -> dict[str, list[LogFile]]:
    """The files of an audit log, in the order in which they were written.

    Raises:
        ConfigurationError: There is no such folder.
        OSError: It cannot be read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigurationError(f"{os.fspath(folder)!r}: there is no such folder of an audit log")
    chains: dict[str, list[LogFile]] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            place = chain_and_number(entry.name)
            if place is not None:
                chains.setdefault(place[0], []).append(LogFile(Path(entry.path), place[1]))
    return {chain: sorted(files, key=lambda file: file.number) for chain, files in sorted(chains.items())}


def lines_of(path: Path, *, start: int = 0) -> Iterator[Line]:
    """The lines of a file from an offset on.

    Raises:
        OSError: It cannot be read, is a link or no file.
    """
    with open(path, "rb", opener=_opened) as file:  # of Path, it takes no opener
        file.seek(start)
        while text := file.readline(MAX_LINE):
            if text.endswith(b"\n"):
                yield Line(text[:-1], is_whole=True, is_last=False, size=len(text))
                continue
            rest, size = text, len(text)
            while rest and not rest.endswith(b"\n"):  # a line of gigabytes takes no more memory than this
                rest = file.readline(_BLOCK)
                size += len(rest)
            yield Line(text, is_whole=False, is_last=not rest and size < MAX_LINE, size=size)


def _opened(path: str, flags: int) -> int:
    """Open a regular file, and nothing else."""
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError("it is no regular file")


def last_lines(path: Path, count: int) -> list[bytes]:
    """The last whole lines of a file, read from its end.

    Raises:
        OSError: It cannot be read, is a link or no file.
    """
    size = path.lstat().st_size
    start = size
    while start > 0:
        start = max(0, start - _BLOCK)
        lines = [line.text for line in lines_of(path, start=start) if line.is_whole]
        if start:
            lines = lines[1:]  # the first one begins anywhere
        if len(lines) >= count or size - start > count * MAX_LINE:
            return lines[-count:]
        start = max(0, start - (size - start))  # twice as much
    return [line.text for line in lines_of(path) if line.is_whole][-count:]
