"""Files and directories that appear in one step, and files that are files."""

import errno
import fcntl
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from mlguard._files import locked, making_directory, open_regular, replace_file, replacing
from mlguard.errors import ConfigurationError


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=["nameless", "no such flag", "no such file system", "no /proc"])
def however(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the system has files without a name."""
    if request.param == "no such flag":
        monkeypatch.delattr(os, "O_TMPFILE")
    elif request.param == "no such file system":
        whole = os.open

        def refuse(path: str, flags: int, *rest: int, **more: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            return whole(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", refuse)
    elif request.param == "no /proc":
        is_dir = Path.is_dir
        monkeypatch.setattr(Path, "is_dir", lambda self: self != Path("/proc/self/fd") and is_dir(self))
    return str(request.param)


def test_a_file_is_replaced_whole(however: str, tmp_path: Path) -> None:
    """A new file gets the mode that is asked for, a replaced one keeps its own, and nothing else is left."""
    path = tmp_path / "file"
    replace_file(path, b"one", new_mode=0o640)
    assert (path.read_bytes(), mode(path)) == (b"one", 0o640)
    path.chmod(0o604)
    replace_file(path, b"two", new_mode=0o640)
    assert (path.read_bytes(), mode(path)) == (b"two", 0o604)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), SystemExit()])
def test_after_a_failure_all_is_as_it_was(however: str, fault: BaseException, tmp_path: Path) -> None:
    """Whatever ends the writing, Ctrl-C too, the old file stays and the new one is gone."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(fault)), replacing(path, new_mode=0o600) as file:  # noqa: PT012
        file.write(b"half")
        file.flush()
        raise fault
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_what_is_being_written_has_no_name(tmp_path: Path) -> None:
    """On Linux nothing is in the folder before the file is whole, so that a killed process leaves nothing."""
    with replacing(tmp_path / "file", new_mode=0o600) as file:
        file.write(b"half")
        file.flush()
        assert names(tmp_path) == []


def test_without_nameless_files_nobody_else_can_read_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are none, what is being written has mode 0600, also when the file will be readable by all."""
    monkeypatch.delattr(os, "O_TMPFILE")
    with replacing(tmp_path / "file", new_mode=0o644):
        (temporary,) = tmp_path.iterdir()
        assert mode(temporary) == 0o600


def test_a_file_that_cannot_take_its_place_is_gone(however: str, tmp_path: Path) -> None:
    """A directory has come where the file should go: the error says so, and no temporary file stays."""
    path = tmp_path / "file"
    with pytest.raises(IsADirectoryError) as caught, replacing(path, new_mode=0o600) as file:  # noqa: PT012
        file.write(b"whole")
        path.mkdir()
    assert (caught.value.filename, caught.value.filename2) == (str(path), None)
    assert names(tmp_path) == ["file"]


def test_a_folder_that_is_not_there_is_an_error(however: str, tmp_path: Path) -> None:
    """No folder is made on the way, and the error names what was to be made, no temporary file."""
    path = tmp_path / "none" / "file"
    with pytest.raises(FileNotFoundError) as caught:
        replace_file(path, b"", new_mode=0o600)
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught, making_directory(path):
        pass
    assert caught.value.filename == str(path)


def test_a_folder_that_is_gone_is_an_error(however: str, tmp_path: Path) -> None:
    """As one that was never there."""
    path = tmp_path / "gone" / "file"
    path.parent.mkdir()
    with pytest.raises(FileNotFoundError) as caught, replacing(path, new_mode=0o600):  # noqa: PT012
        for left in path.parent.iterdir():
            left.unlink()
        path.parent.rmdir()
    assert path.name in str(caught.value)
    assert ".tmp" not in str(caught.value)


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    """Until the block ends it has another name and mode 0700."""
    path = tmp_path / "folder"
    with making_directory(path) as folder:
        (folder / "file").write_bytes(b"1")
        assert not path.exists()
        assert mode(folder) == 0o700
    assert (path / "file").read_bytes() == b"1"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_directory_that_failed_is_gone(fault: BaseException, tmp_path: Path) -> None:
    """Nothing of it stays, whatever ended the work."""
    with pytest.raises(type(fault)), making_directory(tmp_path / "folder") as folder:  # noqa: PT012
        (folder / "file").write_bytes(b"1")
        raise fault
    assert names(tmp_path) == []


def test_a_directory_replaces_none_that_holds_something(tmp_path: Path) -> None:
    """Somebody made one meanwhile: theirs stays."""
    path = tmp_path / "folder"
    with pytest.raises(OSError, match="not empty"), making_directory(path) as folder:  # noqa: PT012
        (folder / "file").write_bytes(b"mine")
        path.mkdir()
        (path / "file").write_bytes(b"theirs")
    assert (path / "file").read_bytes() == b"theirs"
    assert names(tmp_path) == ["folder"]


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a directory": os.mkdir,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_only_files_are_opened(kind: str, tmp_path: Path) -> None:
    """A pipe that nobody writes to and a device without an end are refused at once, not waited for."""
    path = tmp_path / "it"
    NO_FILES[kind](path)
    with pytest.raises(ConfigurationError, match="no regular file"), open_regular(path):
        pass


def test_a_link_is_followed_unless_it_may_not(tmp_path: Path) -> None:
    """A link to a file is a file, where links are allowed."""
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"1"
    with pytest.raises(OSError, match="symbolic link"), open_regular(tmp_path / "link", follow_links=False):
        pass


def test_a_forked_child_keeps_no_lock(tmp_path: Path) -> None:
    """Who forks while a folder is locked, as a service that starts its workers does, shuts nobody out afterwards."""
    reading, writing = os.pipe()
    with locked(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn, if there are threads
        child = os.fork()
        if not child:  # pragma: no cover  # coverage does not follow
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        for one in (descriptor, reading, writing):
            os.close(one)
        os.waitpid(child, 0)
