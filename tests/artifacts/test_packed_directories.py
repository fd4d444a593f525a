"""A directory as one stream: what comes back, and what may not come out of it."""

import contextlib
import io
import os
import secrets
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlguard._files import open_regular
from mlguard.artifacts import _packed_directories
from mlguard.artifacts._packed_directories import pack, unpack
from mlguard.errors import ConfigurationError, ModelDecryptionError

CONTENT = {
    "config.json": b"{}",
    "weights/one.safetensors": secrets.token_bytes(3_000_000),
    "weights/deeper/empty": b"",
    "a name with spaces, é and 🎈": b"1",
    "x" * 200: b"2",
    "-rf": b"3",
}


def fill(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    """A directory with these files."""
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def content_of(folder: Path) -> dict[str, bytes]:
    """All files in a directory."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def packed(folder: Path) -> bytes:
    """What a directory is packed into."""
    stream = io.BytesIO()
    pack(folder, stream)
    return stream.getvalue()


def test_a_directory_comes_back_as_it_was(tmp_path: Path) -> None:
    """Names of every kind, empty files and directories, and whoever may read them is the owner alone."""
    source, target = fill(tmp_path / "model"), tmp_path / "copy"
    (source / "nothing in it").mkdir()
    (source / "config.json").chmod(0o777)
    target.mkdir()
    unpack(io.BytesIO(packed(source)), target)
    assert content_of(target) == CONTENT
    assert (target / "nothing in it").is_dir()
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in target.rglob("*")}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_an_empty_directory_comes_back_empty(tmp_path: Path) -> None:
    """Nothing is something too."""
    (tmp_path / "model").mkdir()
    (tmp_path / "copy").mkdir()
    unpack(io.BytesIO(packed(tmp_path / "model")), tmp_path / "copy")
    assert names(tmp_path / "copy") == []


def test_who_packed_it_and_when_is_not_told(tmp_path: Path) -> None:
    """Owners and times of files are nobody's business."""
    with tarfile.open(fileobj=io.BytesIO(packed(fill(tmp_path / "model")))) as tar:
        told = {(entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime) for entry in tar}
    assert told == {(0, 0, "", "", 0)}


def test_a_directory_has_64_levels_at_most(tmp_path: Path) -> None:
    """More are refused when they are packed, and when somebody else has packed them: removing them could fail."""
    source, target = tmp_path / "model", tmp_path / "copy"
    deep = source.joinpath(*["d"] * 63)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"1")
    target.mkdir()
    unpack(io.BytesIO(packed(source)), target)
    assert content_of(target) == content_of(source)
    (deep / "d").mkdir()
    (deep / "d" / "file").write_bytes(b"1")
    with pytest.raises(ConfigurationError, match="64 levels"):
        packed(source)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(entry("/".join("d" * 65)))
    with pytest.raises(ModelDecryptionError, match="no packed directory"):
        unpack(io.BytesIO(stream.getvalue()), target)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("config.json"),
        lambda path: path.symlink_to("/etc"),
        lambda path: path.symlink_to("nowhere"),
        os.mkfifo,
    ],
    ids=["link to a file", "link to a directory", "link to nothing", "pipe"],
)
def test_what_is_neither_file_nor_directory_is_not_packed(make: Callable[[Path], object], tmp_path: Path) -> None:
    """It could stand for something outside, or keep the reader for ever."""
    source = fill(tmp_path / "model")
    make(source / "weights" / "odd")
    with pytest.raises(ConfigurationError, match="neither a file nor a directory"):
        packed(source)


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and opening somebody puts a link there: an error, not the file behind it."""
    (tmp_path / "secret").write_bytes(b"secret")
    source = fill(tmp_path / "model", {"file": b"1"})
    real = open_regular

    def late(path: Path, **options: Any) -> Any:
        (source / "file").unlink()
        (source / "file").symlink_to(tmp_path / "secret")
        return real(path, **options)

    monkeypatch.setattr(_packed_directories, "open_regular", late)
    with pytest.raises(OSError, match="symbolic link"):
        packed(source)


@pytest.mark.parametrize("when", [2, 3])
def test_a_directory_that_becomes_a_link_is_not_followed(
    when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is looked at: an error. After it was opened: what was in it, and not what is behind the link."""
    fill(tmp_path / "secret", {"file": b"secret", "secret": b"secret"})
    source = fill(tmp_path / "model", {"a/b/file": b"1"})
    real, listed = os.scandir, 0

    def late(folder: Any) -> Any:
        nonlocal listed
        listed += 1
        if listed == when:
            (source / "a" / "b").rename(tmp_path / "moved")
            (source / "a" / "b").symlink_to(tmp_path / "secret")
        return real(folder)

    monkeypatch.setattr(os, "scandir", late)
    content = b""
    with contextlib.suppress(ConfigurationError):
        content = packed(source)
    assert b"secret" not in content
    assert (when == 3) == bool(content)


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    """An entry as somebody who has the key could make it."""
    made = tarfile.TarInfo(name)
    made.type = kind
    for attribute, value in more.items():
        setattr(made, attribute, value)
    return made


@pytest.mark.parametrize(
    "hostile",
    [
        entry("../outside"),
        entry(".."),
        entry("."),
        entry(""),
        entry("/outside"),
        entry("a/../../outside"),
        entry("link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("link", tarfile.LNKTYPE, linkname="file"),
        entry("pipe", tarfile.FIFOTYPE),
        entry("device", tarfile.CHRTYPE, devmajor=1, devminor=5),
        entry("sparse", tarfile.GNUTYPE_SPARSE),
        entry("x\x00y", pax_headers={"path": "x\x00y"}),
    ],
    ids=lambda entry: f"{entry.name!r} {entry.type!r}",
)
def test_nothing_comes_out_beside_the_directory(hostile: tarfile.TarInfo, tmp_path: Path) -> None:
    """Paths that lead outside, links and devices end it, even when whoever has the key has put them there."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(hostile)
    target = tmp_path / "in" / "copy"
    target.mkdir(parents=True)
    with pytest.raises(ModelDecryptionError, match="no packed directory"):
        unpack(io.BytesIO(stream.getvalue()), target)
    assert names(tmp_path) == ["in"]
    assert names(tmp_path / "in") == ["copy"]
    assert names(target) == []
    assert not Path("/outside").exists()


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    """The second cannot replace the first."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(entry("a"))
        tar.addfile(entry("a"))
    with pytest.raises(FileExistsError):
        unpack(io.BytesIO(stream.getvalue()), tmp_path)


@pytest.mark.parametrize("content", [b"x" * 512, b"x" * 5_000, b"\x00" * 511])
def test_what_is_no_directory_is_refused(content: bytes, tmp_path: Path) -> None:
    """Bytes of another kind, which somebody who has the key has called a directory."""
    with pytest.raises(ModelDecryptionError, match="no packed directory"):
        unpack(io.BytesIO(content), tmp_path)


def test_a_stream_is_read_to_its_end(tmp_path: Path) -> None:
    """Behind the last file too: only there it shows whether it is whole."""
    stream = io.BytesIO(packed(fill(tmp_path / "model", {"a": b"1"})) + bytes(5_000_000))
    (tmp_path / "copy").mkdir()
    unpack(stream, tmp_path / "copy")
    assert stream.read() == b""


@pytest.mark.parametrize("cut", [10, 512, 513, 1_000_000])
def test_a_stream_that_ends_early_is_an_error(cut: int, tmp_path: Path) -> None:
    """In a head or in a file."""
    content = packed(fill(tmp_path / "model", {"a": bytes(2_000_000)}))
    (tmp_path / "copy").mkdir()
    with pytest.raises(ModelDecryptionError, match="no packed directory"):
        unpack(io.BytesIO(content[:cut]), tmp_path / "copy")
