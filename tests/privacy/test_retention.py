"""Logs go when all of them is old, whole files at a time, and what cannot be judged stays and is told."""

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlguard import ConfigurationError, PurgedFile, purge_older_than
from mlguard.privacy import retention
from mlguard.privacy._json_lines import Record, read_lines
from tests.clock import Clock

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
CLOCK = Clock(NOW.timestamp())
MONTH = timedelta(days=30)


def days_ago(days: float) -> str:
    return (NOW - timedelta(days=days)).isoformat()


def write(path: Path, *times: Any, written: float = 60, **more: Any) -> Path:
    """A log with a record at each time, last written to so many days ago."""
    content = "".join(json.dumps({"time": at, **more}) + "\n" for at in times).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    moment = NOW.timestamp() - written * 86_400
    os.utime(path, (moment, moment))
    return path


def test_files_go_when_their_newest_record_is_old(tmp_path: Path) -> None:
    """Whatever the order of their records, packed or not, and whatever form the time has."""
    old = write(tmp_path / "1.jsonl", days_ago(40), days_ago(31), days_ago(90))
    packed = write(tmp_path / "2.jsonl.gz", days_ago(30.01), "2026-10-01T10:00:00Z")
    seconds = write(tmp_path / "3.jsonl", NOW.timestamp() - 31 * 86_400, 0, 1.5)
    mixed = write(tmp_path / "4.jsonl", days_ago(90), days_ago(29.99), days_ago(90))
    young = write(tmp_path / "5.jsonl", days_ago(1))
    purge = purge_older_than(MONTH, [old, packed, str(seconds), mixed, young], clock=CLOCK)
    assert [(file.path, file.records) for file in purge.purged] == [(old, 3), (packed, 2), (seconds, 3)]
    assert purge.purged[0].newest == NOW - timedelta(days=31)
    assert (purge.kept, purge.unclear) == ([mixed, young], {})
    assert sorted(tmp_path.iterdir()) == [mixed, young]
    assert purge_older_than(MONTH, [mixed, young], clock=CLOCK).purged == []


def test_what_is_left_of_a_chain_can_be_verified(tmp_path: Path) -> None:
    """The hash that the first line of the next file has is that of the last line that went."""
    old = write(tmp_path / "1.jsonl", days_ago(60), days_ago(40))
    last = old.read_bytes().splitlines()[-1]
    (file,) = purge_older_than(MONTH, [old], clock=CLOCK).purged
    assert file == PurgedFile(old, 2, NOW - timedelta(days=40), hashlib.sha256(last).hexdigest())


def test_a_file_that_is_written_to_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all that is in it is old, and where it is written to while it is looked through."""
    fresh = write(tmp_path / "1.jsonl", days_ago(60), written=29)
    written = write(tmp_path / "2.jsonl", days_ago(60))

    def meanwhile(path: Path) -> Iterator[tuple[bytes, Record | None]]:
        yield from read_lines(path)
        write(path, days_ago(60), days_ago(0))

    monkeypatch.setattr(retention, "read_lines", meanwhile)
    assert purge_older_than(MONTH, [fresh, written], clock=CLOCK).kept == [fresh, written]
    assert written.exists()


@pytest.mark.parametrize(
    "at", [None, True, "", "yesterday", "2026-01-01T00:00:00", [], float("1e300"), 10**18, "0001-01-01T00:00:00+23:59"]
)
def test_a_file_with_a_record_of_no_time_stays(tmp_path: Path, at: Any) -> None:
    """It is told which one: a time without a zone is none, since it may be in the day that is to be kept."""
    path = write(tmp_path / "1.jsonl", days_ago(60), at, days_ago(60))
    purge = purge_older_than(MONTH, [path], clock=CLOCK)
    assert purge.unclear == {path: "record 2 has no time that can be read"}
    assert path.exists()


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59Z", days_ago(-2), 253_402_300_799])
def test_a_time_in_the_future_is_told(tmp_path: Path, at: Any) -> None:
    """A record that lies would keep what is beside it for ever, and nobody would look."""
    record = write(tmp_path / "1.jsonl", days_ago(60), at)
    file = write(tmp_path / "2.jsonl", days_ago(60), written=-2)
    ahead = write(tmp_path / "3.jsonl", days_ago(-0.5))
    purge = purge_older_than(MONTH, [record, file, ahead], clock=CLOCK)
    assert purge.unclear == {
        record: "record 2 has a time in the future",
        file: "it says that it was written to in the future",
    }
    assert purge.kept == [ahead]


def test_a_file_that_cannot_be_deleted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was deleted before it is in the result, with its hash, and what comes after it is deleted."""
    files = [write(tmp_path / f"{number}.jsonl", days_ago(60)) for number in range(3)]
    unlink = Path.unlink

    def refuse(path: Path, **options: Any) -> None:
        if path == files[1]:
            raise PermissionError(1, "no")
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    purge = purge_older_than(MONTH, files, clock=CLOCK)
    assert [file.path for file in purge.purged] == [files[0], files[2]]
    assert purge.unclear == {files[1]: "it is old, and cannot be deleted (PermissionError)"}


def test_a_file_that_cannot_be_read_stays(tmp_path: Path) -> None:
    """So does an empty one. What follows it is looked at."""
    broken = write(tmp_path / "1.jsonl.gz", days_ago(60))
    broken.write_bytes(broken.read_bytes()[:-4])
    empty = write(tmp_path / "2.jsonl")
    text = write(tmp_path / "3.jsonl")
    text.write_text("no JSON")
    for path in (broken, empty, text):
        os.utime(path, (0, 0))
    old = write(tmp_path / "4.jsonl", days_ago(60))
    link = tmp_path / "5.jsonl"
    link.symlink_to(write(tmp_path / "target", days_ago(60)))
    os.utime(link, (0, 0), follow_symlinks=False)
    purge = purge_older_than(MONTH, [broken, empty, text, tmp_path / "none", link, old], clock=CLOCK)
    assert purge.unclear == {
        broken: "it cannot be read (EOFError)",
        empty: "it is empty",
        text: "record 1 has no time that can be read",
        tmp_path / "none": "it cannot be read (FileNotFoundError)",
        link: "it cannot be read (NotAFileError)",
    }
    assert [file.path for file in purge.purged] == [old]
    assert (tmp_path / "target").exists()


def test_a_last_line_that_is_cut_short_keeps_no_file(tmp_path: Path) -> None:
    """A process that is killed leaves one behind, and its file would stay for ever. In another place it is told."""
    torn, middle, ended, packed = (write(tmp_path / name, days_ago(60)) for name in ("1", "2", "3", "4.gz"))
    whole = torn.read_bytes()
    torn.write_bytes(whole + b'{"time":"20')
    middle.write_bytes(b'{"time":"20\n' + whole + b'{"time":"20')
    ended.write_bytes(whole + b'{"time":"20\n')
    packed.write_bytes(gzip.compress(whole + b'{"time":"20'))
    for path in (torn, middle, ended, packed):
        os.utime(path, (0, 0))
    purge = purge_older_than(MONTH, [torn, middle, ended, packed], clock=CLOCK)
    assert [(file.path, file.records) for file in purge.purged] == [(torn, 1)]
    assert purge.purged[0].last_line_sha256 == hashlib.sha256(whole.rstrip()).hexdigest()
    assert purge.unclear == {
        middle: "record 1 has no time that can be read",
        ended: "record 2 has no time that can be read",
        packed: "record 2 has no time that can be read",
    }


def test_each_deletion_is_an_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So that an audit can tell a purge from somebody who has deleted a log."""
    caplog.set_level("INFO", "mlguard.audit")
    log = write(tmp_path / "1.jsonl", days_ago(60), subject="jane", seq=7)
    digest = hashlib.sha256(log.read_bytes().rstrip(b"\n")).hexdigest()
    purge_older_than(MONTH, [log], clock=CLOCK)
    assert caplog.messages == [
        f"log.purged file=1.jsonl records=1 newest={days_ago(60)} last_line_sha256={digest} last_seq=7"
    ]


def test_another_member_may_have_the_time(tmp_path: Path) -> None:
    """By its name."""
    path = write(tmp_path / "1.jsonl", None, at=days_ago(60))
    assert purge_older_than(MONTH, [path], time_field="at", clock=CLOCK).purged


@pytest.mark.parametrize("age", [timedelta(0), -MONTH, 30, None])
def test_an_age_is_above_0(age: Any, tmp_path: Path) -> None:
    """Else everything would go, at once."""
    path = write(tmp_path / "1.jsonl", days_ago(60))
    with pytest.raises(ConfigurationError, match="timedelta"):
        purge_older_than(age, [path], clock=CLOCK)
    assert path.exists()
