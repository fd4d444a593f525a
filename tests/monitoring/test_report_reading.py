"""Audit logs are read whatever is in them, and what cannot be used is counted."""

import gzip
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import ConfigurationError, audit_report
from mlguard.monitoring._report_reading import (
    Reading,
    amount,
    chain_of,
    count,
    log_files,
    members,
    moment,
    name,
)  # fmt: skip
from tests.monitoring.audit_pages import event, log_of, request

_NOW = 1_795_726_800.0  # 2026-11-26 21:00
_VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def _read(*files: Path, since: float = -math.inf, until: float = math.inf) -> tuple[Reading, list[str]]:
    reading = Reading()
    return reading, [told for _, told, _ in reading.records(files, since=since, until=until, now=_NOW)]


def test_what_is_no_record_is_counted(tmp_path: Path) -> None:
    """Torn lines, other JSON, another version, and events without a name are counted, and the rest is read."""
    lines: list[Any] = [
        request(), "{", "[]", "null", '"request"', '{"v":1}', json.dumps({**request(), "v": 2}),
        json.dumps({**request(), "event": 7}), "\x00\x00", '{"event":"a\\ud800"}', "[" * 5_000, "   ",
        event("model.served"),
        json.dumps(request())[:100],
    ]  # fmt: skip
    reading, told = _read(log_of(tmp_path / "a.jsonl", lines))
    assert told == ["request", "model.served"]
    assert (reading.lines, reading.broken, reading.untimed) == (13, 11, 0)


@pytest.mark.parametrize(
    "time",
    [None, 7, "", "yesterday", "1970-01-01T00:00:00.000000Z", "2026-11-28T00:00:00Z", "9999-12-31T23:59:59Z",
     "x" * 10_000,
     "0001-01-01T00:00:00+23:59"],
)  # fmt: skip
def test_a_time_that_cannot_be_is_counted(tmp_path: Path, time: object) -> None:
    """A record of a broken clock is counted, and puts nothing into 1970 or into the future."""
    reading, told = _read(log_of(tmp_path / "a.jsonl", [{**request(), "time": time}]))
    assert told == []
    assert (reading.broken, reading.untimed) == (0, 1)


def test_a_clock_of_the_year_9999_makes_a_page(tmp_path: Path) -> None:
    """Where the clock of who reads is wrong too, a record of that year is counted, and is in no picture."""
    far = datetime(9999, 12, 31, 23, tzinfo=UTC)
    log = log_of(tmp_path / "a.jsonl", [request(), request(time="9999-12-31T22:00:00Z")])
    assert "1 record without a time" in audit_report(log, now=far)


def test_only_the_time_that_is_asked_for(tmp_path: Path) -> None:
    """From since on, and before until."""
    records = [request(f"2026-11-26T{hour:02d}:00:00Z") for hour in range(10, 15)]
    first, end = moment("2026-11-26T11:00:00Z"), moment("2026-11-26T13:00:00+00:00")
    assert first is not None
    assert end is not None
    reading, told = _read(log_of(tmp_path / "a.jsonl", records), since=first, until=end)
    assert len(told) == 2
    assert reading.outside == 3


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A packed file that is cut off is read as far as it goes; a link and a folder of that name are not followed."""
    packed = gzip.compress((json.dumps(request()) + "\n").encode() * 5_000)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "whole.jsonl.gz").write_bytes(gzip.compress((json.dumps(request()) + "\n").encode()))
    (tmp_path / "link.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    reading, told = _read(*log_files([tmp_path]))
    assert len(told) > 1
    assert reading.files == 4
    assert set(reading.unreadable) == {"cut.jsonl.gz", "link.jsonl", "folder.jsonl"}


def test_only_some_names_are_kept(tmp_path: Path) -> None:
    """Of a thousand files that cannot be read, twenty are named."""
    reading, _ = _read(*[tmp_path / f"{number}.jsonl" for number in range(30)])
    assert (len(reading.unreadable), reading.more_unreadable) == (20, 10)


def test_a_line_of_megabytes_is_one_broken_line(tmp_path: Path) -> None:
    """It is not taken into memory, and the next one is read."""
    reading, told = _read(log_of(tmp_path / "a.jsonl", ['{"a":"' + "x" * 3_000_000 + '"}', request()]))
    assert told == ["request"]
    assert reading.broken == 1


def test_which_files(tmp_path: Path) -> None:
    """Folders give their JSON lines, a file is one however it is called, and none is read twice."""
    log_of(tmp_path / "b.jsonl", [])
    log_of(tmp_path / "a.jsonl", [])
    log_of(tmp_path / "notes.txt", [])
    assert [path.name for path in log_files([tmp_path, tmp_path / "a.jsonl"])] == ["a.jsonl", "b.jsonl"]
    assert [path.name for path in log_files([tmp_path / "notes.txt"])] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="no file of JSON lines"):
        log_files([tmp_path / "empty"])
    with pytest.raises(ConfigurationError, match="no such audit log"):
        log_files([tmp_path / "gone"])


def test_the_chain_of_a_file() -> None:
    """Files of an audit log say in their names which chain they are of."""
    assert chain_of(Path("/x/audit-0123456789abcdef-000001.jsonl")) == "0123456789abcdef"
    assert chain_of(Path("/x/audit-0123456789ABCDEF-000001.jsonl")) is None
    assert chain_of(Path("/x/other.jsonl")) is None


def test_long_names_stay_apart() -> None:
    """A name of a megabyte is short, and another one is another one."""
    one, two = name("x" * 1_000_000), name("x" * 999_999 + "y")
    assert one != two
    assert one is not None
    assert len(one) < 80
    assert name("alice") == "alice"
    assert name(7) is None


@given(_VALUES)
def test_values_of_any_kind(value: object) -> None:
    """Whatever stands where a number or an object should, what is counted is a number that can be counted."""
    assert 0 <= count(value) <= 2**53
    found = amount(value)
    assert found is None or 0 <= found < math.inf
    assert isinstance(members(value), dict)


@given(st.text(max_size=45) | _VALUES)
def test_any_time(value: object) -> None:
    """Whatever stands where a time should is a time or none."""
    found = moment(value)
    assert found is None or isinstance(found, float)


def test_booleans_are_no_numbers() -> None:
    """``true`` is not one row."""
    assert (count(True), amount(True), count(-1), count(2**60), amount(float("inf"))) == (0, None, 0, 0, None)
