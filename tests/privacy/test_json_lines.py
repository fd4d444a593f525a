"""Logs of JSON lines are read whatever is in them, and never more than a megabyte at a time."""

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.privacy._json_lines import MAX_LINE, UNREADABLE, NotAFileError, PackedTooWellError, read_lines


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs") / "log.jsonl"


@given(
    st.lists(st.binary(max_size=30) | st.sampled_from([b'{"a": 1}', b"{}", b"[]", b"3", b'"x"', b'{"a": NaN}', b" "]))
)
def test_any_bytes_are_lines(log: Path, lines: list[bytes]) -> None:
    """Each line is a record or none; empty ones are passed over."""
    log.write_bytes(b"\n".join(lines))
    records = [record for _, record in read_lines(log)]
    assert records.count({"a": 1}) == lines.count(b'{"a": 1}')
    assert records.count({}) == lines.count(b"{}")
    assert len(records) >= len(lines) - sum(not line.strip() for line in lines)


@pytest.mark.parametrize("end", [b"\n", b""])
def test_lines_longer_than_a_megabyte_are_no_records(log: Path, end: bytes) -> None:
    """They are skipped to their end, and the next one is read."""
    long = b'{"a": "' + b"x" * (3 * MAX_LINE) + b'"}'
    exact = b'{"a": "' + b"x" * (MAX_LINE - 10) + b'"}'
    log.write_bytes(long + b"\n" + exact + b"\n" + b'{"b": 1}\r\n' + long + end)
    records = [*read_lines(log)]
    assert [record for _, record in records] == [None, {"a": "x" * (MAX_LINE - 10)}, {"b": 1}, None]
    assert records[2][0] == b'{"b": 1}'
    assert len(records[0][0]) == MAX_LINE


def test_packed_files_are_unpacked(tmp_path: Path) -> None:
    """By their name. Those that are cut short give what they have, and then say so."""
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 50_000))
    assert sum(record == {"a": 1} for _, record in read_lines(path)) == 50_000
    whole = path.read_bytes()
    for broken in (whole[:-20], b"no gzip", whole[:30] + b"\xff" * 20 + whole[50:]):
        path.write_bytes(broken)
        with pytest.raises(UNREADABLE):
            list(read_lines(path))


def test_a_small_file_does_not_keep_its_reader_busy(tmp_path: Path) -> None:
    """What unpacks to a thousand times its size is read as far as a log could go, and then named."""
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress((b"x" * 9_999 + b"\n") * 2_500))
    lines = read_lines(path)
    for _ in range(16_777_216 // 10_000):
        next(lines)
    with pytest.raises(PackedTooWellError):
        list(lines)
    path.with_suffix("").write_bytes((b"x" * 9_999 + b"\n") * 2_500)
    assert sum(1 for _ in read_lines(path.with_suffix(""))) == 2_500


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would keep us waiting for ever, a link may lead anywhere."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("{}\n")
    for path in (pipe, link, tmp_path):
        with pytest.raises(NotAFileError):
            list(read_lines(path))
    with pytest.raises(FileNotFoundError):
        list(read_lines(tmp_path / "none"))


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_takes_the_place_of_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Between the look at a file and its opening somebody puts a pipe there, or a link to another file."""
    (tmp_path / "file").write_text("{}\n")
    looked = os.lstat(tmp_path / "file")
    path = tmp_path / "log.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "file")
    monkeypatch.setattr(Path, "lstat", lambda _: looked)
    with pytest.raises(UNREADABLE):
        list(read_lines(path))
