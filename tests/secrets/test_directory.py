"""Secrets in files, as Docker and Kubernetes mount them."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.secrets.servers import SECRET

from mlguard import ConfigurationError, DirectorySecrets, SecretNotFoundError, SecretUnavailableError
from mlguard.secrets import _files
from mlguard.secrets._answers import MAX_SIZE


class Kubernetes:
    """A volume of secrets: each file is a link through ``..data``, which is exchanged in one step."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._number = 0

    def publish(self, **secrets: str) -> None:
        """Exchange all files, and take the old ones away, as the kubelet does."""
        self._number += 1
        folder = self.root / f"..2026_11_26.{self._number}"
        folder.mkdir()
        for name, text in secrets.items():
            (folder / name).write_text(text)
        new, data = self.root / "..data_tmp", self.root / "..data"
        new.symlink_to(folder.name)
        old = data.resolve() if data.exists() else None
        new.replace(data)
        for name in secrets:
            if not (self.root / name).is_symlink():
                (self.root / name).symlink_to(f"..data/{name}")
        if old is not None:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()


def read(root: Path | str, name: str) -> str:
    return DirectorySecrets(root).read(name).get_secret_value()


def test_a_file_is_a_secret(tmp_path: Path) -> None:
    """Each file is one, read anew each time, with one line end taken away."""
    (tmp_path / "token").write_text(SECRET + "\n")
    source = DirectorySecrets(tmp_path)
    assert source.read("token").get_secret_value() == SECRET
    (tmp_path / "token").write_text("another one")
    assert source.read("token").get_secret_value() == "another one"
    assert repr(source) == f"DirectorySecrets({str(tmp_path)!r})"


def test_kubernetes_exchanges_its_secrets(tmp_path: Path) -> None:
    """Links through ..data work, and what is exchanged is read."""
    volume = Kubernetes(tmp_path)
    volume.publish(token="one", other="two")
    assert (read(tmp_path, "token"), read(tmp_path, "other")) == ("one", "two")
    volume.publish(token="three", other="two")
    assert read(tmp_path, "token") == "three"


def test_a_read_during_the_exchange_is_whole(tmp_path: Path) -> None:
    """Whoever reads while Kubernetes exchanges the files, hundreds of times, sees the one or the other."""
    volume = Kubernetes(tmp_path)
    volume.publish(token="a" * 1000)
    done = threading.Event()

    def exchange() -> None:
        for number in range(150):
            volume.publish(token=("b" if number % 2 else "a") * 1000)
        done.set()

    thread = threading.Thread(target=exchange)
    thread.start()
    source = DirectorySecrets(tmp_path)
    seen = set()
    while not done.is_set():
        try:
            seen.add(source.read("token").get_secret_value())
        except SecretNotFoundError:  # three exchanges during one read
            continue
    thread.join()
    assert seen <= {"a" * 1000, "b" * 1000}
    assert read(tmp_path, "token") == "b" * 1000


def test_an_exchange_between_the_look_and_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone when it is opened is looked for again; a link that leads nowhere is not, for ever."""
    volume = Kubernetes(tmp_path)
    volume.publish(token="old")
    look = DirectorySecrets._folder
    swaps = iter([True, False])

    def folder(self: DirectorySecrets) -> str:
        found = look(self)
        if next(swaps):
            open_file = os.open

            def swapped(*arguments: Any, **options: Any) -> int:
                monkeypatch.setattr(os, "open", open_file)
                volume.publish(token="new")
                return open_file(*arguments, **options)

            monkeypatch.setattr(os, "open", swapped)
        return found

    monkeypatch.setattr(DirectorySecrets, "_folder", folder)
    assert read(tmp_path, "token") == "new"
    monkeypatch.undo()
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(SecretNotFoundError):
        read(tmp_path, "dangling")


@pytest.mark.parametrize("mode", [0o400, 0o444, 0o640, 0o644])
def test_others_may_read(mode: int, tmp_path: Path) -> None:
    """Docker's 0444 and Kubernetes' 0644 are read: in a container nobody else is."""
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(mode)
    assert read(tmp_path, "token") == SECRET


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_may_be_of_another_user(tmp_path: Path) -> None:
    """A mounted file keeps its owner from the host."""
    (tmp_path / "token").write_text(SECRET)
    os.chown(tmp_path / "token", 12345, 12345)
    assert read(tmp_path, "token") == SECRET


def test_everybody_may_not_write(tmp_path: Path) -> None:
    """A file that every user may write to may hold anybody's secret, and so may a folder that is not sticky."""
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(0o646)
    with pytest.raises(SecretUnavailableError, match="every user of the machine may write to its file"):
        read(tmp_path, "token")
    (tmp_path / "token").chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(SecretUnavailableError, match="every user of the machine may write to the directory"):
        read(tmp_path, "token")
    tmp_path.chmod(0o1777)  # as Kubernetes mounts it
    assert read(tmp_path, "token") == SECRET


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b" ", b"\xff\xfe", b"a\0b", b"<!doctype html>", b"\xef\xbb\xbf<html>", b"x" * (MAX_SIZE + 1)],
)
def test_what_is_no_secret(content: bytes, tmp_path: Path) -> None:
    """An empty file, bytes, a page and what is too large are no secrets."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(SecretUnavailableError) as error:
        read(tmp_path, "token")
    assert not isinstance(error.value, SecretNotFoundError)


def test_a_mark_that_editors_write_first_is_no_part_of_a_secret(tmp_path: Path) -> None:
    """The byte order mark of UTF-8."""
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbf" + SECRET.encode())
    assert read(tmp_path, "token") == SECRET


def test_what_is_no_file(tmp_path: Path) -> None:
    """A pipe that nobody writes to is not waited for; a folder and an endless device are no secrets."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(SecretUnavailableError, match="no regular file"):
            read(tmp_path, name)
    with pytest.raises(SecretUnavailableError, match="no regular file"):
        read("/dev", "zero")


def test_a_file_that_has_nothing_to_say_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some files of the system are regular, and wait like a pipe."""
    pipe = tmp_path / "token"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    monkeypatch.setattr(_files, "_check_mode", lambda _: None)
    with pytest.raises(SecretUnavailableError, match="nothing to read now"):
        read(tmp_path, "token")
    os.close(writer)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "..", "/"])
def test_links_do_not_lead_out(target: str, tmp_path: Path) -> None:
    """A link to a file elsewhere is refused, also to one in a folder whose name begins the same."""
    root = tmp_path / "secrets"
    root.mkdir()
    (tmp_path / "outside").write_text(SECRET)
    (tmp_path / "secrets2").write_text(SECRET)
    (root / "token").symlink_to(target)
    (root / "near").symlink_to("../secrets2")
    for name in ("token", "near"):
        with pytest.raises(SecretUnavailableError, match=r"leads out|no regular file"):
            read(root, name)


def test_a_link_in_a_circle(tmp_path: Path) -> None:
    """A link that leads to itself is an error."""
    (tmp_path / "token").symlink_to("token")
    with pytest.raises(SecretUnavailableError, match="cannot be read"):
        read(tmp_path, "token")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/b", "..", ".", "..data", ".hidden", "", "a\0", "a#b", "x" * 254, "ä"]
)
def test_names_are_names_of_files(name: str, tmp_path: Path) -> None:
    """A name is one file in the directory: no path, no hidden file, nothing else."""
    with pytest.raises(SecretUnavailableError, match="no name of a secret here"):
        read(tmp_path, name)


@given(name=st.text())
def test_no_name_reads_anything_else(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the name, in a directory without files nothing is read."""
    with pytest.raises(SecretUnavailableError):
        read(tmp_path_factory.getbasetemp() / "no-such-directory", name)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """A directory may come later than the source; until then, and if it is a file, nothing can be read.

    That there is no directory does not mean that there is no secret: a mount may have failed.
    """
    source = DirectorySecrets(tmp_path / "later")
    with pytest.raises(SecretUnavailableError, match="directory cannot be read") as error:
        source.read("token")
    assert not isinstance(error.value, SecretNotFoundError)
    (tmp_path / "later").write_text("")
    with pytest.raises(SecretUnavailableError, match="no directory"):
        source.read("token")
    (tmp_path / "later").unlink()
    (tmp_path / "later").mkdir()
    with pytest.raises(SecretNotFoundError, match="no such file"):
        source.read("token")


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the system is told by its kind."""
    (tmp_path / "token").write_text(SECRET)

    def refuse(*_: Any) -> int:
        raise PermissionError(13, "no")

    for name in ("open", "fstat"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(SecretUnavailableError, match=r"its file cannot be read \(PermissionError\)"):
                read(tmp_path, "token")


def test_the_directory_itself_may_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path may be a link that is switched at any moment: after a look at the directory, or during it."""
    current = tmp_path / "current"

    def publish(value: str) -> None:
        (tmp_path / value).mkdir()
        (tmp_path / value / "token").write_text(value)
        (tmp_path / "next").symlink_to(value)
        (tmp_path / "next").replace(current)

    def swapping(found: str) -> str:
        monkeypatch.undo()
        publish("new")
        (tmp_path / "old" / "token").unlink()
        (tmp_path / "old").rmdir()
        return found

    publish("old")
    look = DirectorySecrets._folder
    monkeypatch.setattr(DirectorySecrets, "_folder", lambda self: swapping(look(self)))
    assert read(current, "token") == "new"

    def late(path: str, *, strict: bool) -> str:
        monkeypatch.undo()
        return os.path.realpath(tmp_path / "old", strict=strict)

    monkeypatch.setattr(os.path, "realpath", late)
    assert read(current, "token") == "new"


@pytest.mark.parametrize("path", ["", None, 7, b"/run", "a\0"])
def test_paths_that_cannot_be(path: Any) -> None:
    """A path that is none ends the construction."""
    with pytest.raises(ConfigurationError, match="DirectorySecrets"):
        DirectorySecrets(path)
