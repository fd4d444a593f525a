"""A directory as one stream (tar), so that no file of it can be left out, added or exchanged by itself."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlguard._files import open_regular, opened_folder
from mlguard.errors import ConfigurationError, ModelDecryptionError

_BLOCK = 1024 * 1024  # bytes
_DEEPEST = 64  # levels; what removes a directory again goes down by recursion


def pack(folder: Path, writer: Any) -> None:
    """Write a directory, without links, owners, modes and times. Memory does not grow with the number of files.

    Args:
        folder: The directory.
        writer: Has ``write``.

    Raises:
        ConfigurationError: In it is something that is neither a file nor a directory, such as a link; or it has more
            than 64 levels.
        OSError: A file cannot be read, or has become shorter meanwhile.
    """
    with tarfile.open(fileobj=writer, mode="w|", bufsize=_BLOCK, copybufsize=_BLOCK) as tar:  # type: ignore[call-overload]  # untyped
        for name, path, inside in _walk(os.path.realpath(folder), Path(), None):
            if len(name.parts) > _DEEPEST:
                raise ConfigurationError(
                    f"{str(folder / name)!r} is more than {_DEEPEST} levels deep, and is not encrypted"
                )
            entry = tarfile.TarInfo(name.as_posix())
            if path is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                with open_regular(path, follow_links=False, dir_fd=inside) as file:
                    entry.size = os.fstat(file.fileno()).st_size
                    tar.addfile(entry, file)
            tar.members.clear()  # it would keep them all


def unpack(reader: Any, folder: Path) -> None:
    """Write what :func:`pack` has packed into an empty directory, as files and directories that only the owner may use.

    Args:
        reader: Has ``read``. It is read to its end, because only then it is known to be whole.
        folder: The directory.

    Raises:
        ModelDecryptionError: What is read is no packed directory, or has an entry that would be outside of it.
        OSError: A file cannot be written.
    """
    try:
        with tarfile.open(fileobj=reader, mode="r|", bufsize=_BLOCK) as tar:
            while entry := tar.next():
                _write(tar, entry, folder)
                tar.members.clear()  # type: ignore[attr-defined]  # typeshed does not know it
    except (tarfile.TarError, ValueError) as error:
        raise ModelDecryptionError(f"what was encrypted is no packed directory: {type(error).__name__}") from None
    while reader.read(_BLOCK):
        pass


def _walk(folder: str, name: Path, parent: int | str | None) -> Iterator[tuple[Path, str | None, int | None]]:
    """What is in a directory at any depth, each directory before what is in it.

    No path leads through a directory that somebody has exchanged for a link meanwhile.

    Yields:
        The relative path; what to open, None for a directory; and the descriptor of the directory that it is in.
    """
    with opened_folder(folder, parent) as here, os.scandir(here) as entries:
        inside = here if isinstance(here, int) else None
        for entry in entries:
            below = name / entry.name
            place = entry.path if inside is None else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield below, None, None
                yield from _walk(place, below, here)
            elif entry.is_file(follow_symlinks=False):
                yield below, place, inside
            else:
                raise ConfigurationError(f"{str(below)!r} is neither a file nor a directory, and is not encrypted")


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    if entry.type not in {tarfile.REGTYPE, tarfile.DIRTYPE} or entry.issparse():
        raise tarfile.ReadError("neither a file nor a directory")
    name = Path(entry.name)
    if name.anchor or ".." in name.parts or not 0 < len(name.parts) <= _DEEPEST:
        raise tarfile.ReadError("not inside")
    path = folder / name
    if entry.isdir():
        path.mkdir(mode=0o700)
        return
    content = tar.extractfile(entry)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123  # it is open
        shutil.copyfileobj(content, file, _BLOCK)  # type: ignore[arg-type]  # it is a regular file's
        file.flush()
        os.fsync(file.fileno())
