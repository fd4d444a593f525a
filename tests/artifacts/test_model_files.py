"""The files of a model that somebody changes while it is read: every step of it, in its order."""

# mypy: disable-error-code="func-returns-value"

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlguard import ModelSignatureError
from mlguard.artifacts._model_files import ModelFiles
from tests.artifacts.models import make_model

LARGE = 1 << 20  # from here on in threads


def listed(root: Path) -> ModelFiles:
    return ModelFiles(root, skip=frozenset(), max_files=100)


def nothing(path: str, digest: str) -> None:
    """No check."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model with small files, and with three large ones."""
    root = make_model(tmp_path / "iris")
    for number in range(3):
        (root / f"large{number}").write_bytes(bytes([number]) * (3 * LARGE + number))
    return root


def test_each_file_is_hashed_once(root: Path) -> None:
    """Large ones too, whose size no chunk divides."""
    seen: list[tuple[str, str]] = []
    digests = listed(root).digests(lambda path, digest: seen.append((path, digest)))
    assert len(seen) == len(digests) == 6
    assert {*seen} == {*digests.items()}
    assert digests == {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "written": (lambda root: (root / "config.json").write_text("[]"), "replaced or changed"),
    "grown": (lambda root: os.truncate(root / "config.json", 3), "replaced or changed"),
    "large written": (lambda root: (root / "large1").write_bytes(b"1"), "replaced or changed"),
    "replaced by its own copy": (
        lambda root: (shutil.copy2(root / "config.json", root / "c"), (root / "c").replace(root / "config.json")),
        "replaced or changed",
    ),
    "removed": (lambda root: (root / "config.json").unlink(), "cannot be read, or was changed"),
    "made a link to itself": (
        lambda root: ((root / "config.json").rename(root / "c"), (root / "config.json").symlink_to("c")),
        "cannot be read, or was changed",
    ),
    "made a pipe": (
        lambda root: ((root / "config.json").unlink(), os.mkfifo(root / "config.json")),
        "replaced or changed",
    ),
    "its folder made a link": (
        lambda root: ((root / "weights").rename(root / "w"), (root / "weights").symlink_to("w")),
        "is a symbolic link|'w/.*' was changed or added",
    ),
    "added": (lambda root: (root / "more").touch(), "'more' was changed or added"),
    "mode": (lambda root: (root / "config.json").chmod(0o600), "replaced or changed"),
    "the model a link": (
        lambda root: (root.rename(root.parent / "m"), root.symlink_to("m")),
        "the model is a symbolic link",
    ),
    "gone": (shutil.rmtree, "cannot be read"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_after_files_were_listed_is_refused(name: str, root: Path) -> None:
    """Whatever the path leads to by then; a pipe does not hang."""
    change, match = CHANGES[name]
    files = listed(root)
    change(root)
    with pytest.raises(ModelSignatureError, match=match):
        files.digests(nothing)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda path: path.write_bytes(b"2"), "was changed or added while the model was read"),
        (lambda path: path.unlink(), "a file was removed while the model was read"),
        (lambda path: path.with_name("more").touch(), "'more' was changed or added while the model was read"),
    ],
)
def test_a_change_after_the_last_file_was_hashed_is_refused(
    change: Callable[[Path], object], match: str, tmp_path: Path
) -> None:
    """A folder is listed again when all of it was read, so that one that is being copied into is not half verified."""
    root = tmp_path / "iris"
    root.mkdir()
    (root / "a").write_bytes(b"1")
    with pytest.raises(ModelSignatureError, match=match):
        listed(root).digests(lambda path, digest: change(root / path))


def test_a_change_of_one_file_after_it_was_hashed_is_refused(tmp_path: Path) -> None:
    """A model that is one file is looked at again too."""
    path = tmp_path / "iris.skops"
    path.write_bytes(b"1")
    with pytest.raises(ModelSignatureError, match=r"'\.' was changed or added"):
        listed(path).digests(lambda *_: path.write_bytes(b"22"))


def test_what_a_check_raises_in_a_thread_ends_the_work(root: Path) -> None:
    """The error is the check's, not the one of a thread that was stopped; small files are not read any more."""
    seen = []

    def check(path: str, digest: str) -> None:
        seen.append(path)
        raise ModelSignatureError(path)

    with pytest.raises(ModelSignatureError) as caught:
        listed(root).digests(check)
    assert str(caught.value) == seen[0]
    assert all(path.startswith("large") for path in seen)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mlguard-model")]


def test_a_file_that_was_written_just_now_is_read_when_the_clock_has_ticked(tmp_path: Path) -> None:
    """Until then a second write could leave the file with the same time."""
    path = tmp_path / "iris.skops"
    path.write_bytes(b"1")
    moments: list[int] = []
    listed(path).digests(lambda *_: moments.append(time.time_ns()))
    assert moments[0] - path.stat().st_ctime_ns >= 10_000_000  # Linux ticks every 10 ms or more often


def _churn(root: Path) -> None:
    """What somebody may do to a folder, a link and a pipe included, with the model as it was at the end."""
    extra = root / "weights" / "extra"
    extra.symlink_to("/dev/zero")
    extra.unlink()
    os.mkfifo(extra)
    extra.unlink()
    (root / "large0").rename(root / "large1.new")
    (root / "large1.new").rename(root / "large0")
    (root / "weights").rename(root / "w")
    (root / "weights").symlink_to("/")
    (root / "weights").unlink()
    (root / "w").rename(root / "weights")
    (root / "config.json").write_text("[]")
    (root / "config.json").write_text("{}")


def test_a_model_that_is_changed_all_the_time_is_refused_or_as_it_was(root: Path) -> None:
    """A race: the folder is turned inside out while it is read. Nothing hangs, and nothing else is raised."""
    expected = listed(root).digests(nothing)
    possible = {*expected.values(), hashlib.sha256(b"[]").hexdigest()}  # an empty file is one of them
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            _churn(root)

    changing = threading.Thread(target=churn)
    changing.start()
    refusals = 0
    try:
        while refusals < 30:
            try:
                digests = listed(root).digests(nothing)
            except ModelSignatureError:
                refusals += 1
            else:
                assert {*digests.values()} <= possible
    finally:
        stop.set()
        changing.join()
    assert listed(root).digests(nothing) == expected


def test_without_descriptors_of_folders_the_same_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a folder is listed by its path."""
    with_them = listed(root)
    monkeypatch.setattr("mlguard._files._HAS_DESCRIPTORS", False)
    without = listed(root)
    assert without.paths == with_them.paths
    assert without.digests(nothing) == with_them.digests(nothing)
    (root / "weights" / "link").symlink_to("one.bin")
    with pytest.raises(ModelSignatureError, match="'weights/link' is a symbolic link"):
        listed(root)


def test_no_descriptor_is_left_open(root: Path) -> None:
    """Neither by a model that was read, nor by one that was refused."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("open descriptors cannot be counted here")
    before = len([*descriptors.iterdir()])
    files = listed(root)
    files.digests(nothing)
    (root / "weights" / "deep").mkdir()
    (root / "weights" / "deep" / "link").symlink_to("/")
    for read in (lambda: listed(root), lambda: files.digests(nothing)):
        with pytest.raises(ModelSignatureError):
            read()
    assert len([*descriptors.iterdir()]) == before
