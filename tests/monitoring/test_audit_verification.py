"""Everything that can be done to an audit log by whoever does not have its key is found."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mlguard import AuditHeads, AuditLog, AuditVerification, ConfigurationError, purge_older_than, verify_audit_log
from mlguard.monitoring._audit_keys import audit_keys
from mlguard.monitoring._audit_records import NOTHING_BEFORE, signed_line
from mlguard.monitoring.events import logger
from tests.monitoring.audit_logs import KEY, events, files, records, write

HEAD_KEY = Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of one chain in three files, with heads beside it. Not to be changed."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "log").mkdir()
    (folder / "heads").mkdir()
    heads = AuditHeads(folder / "heads", key=HEAD_KEY)
    write(folder / "log", *[events(12, filling="é" * 20)] * 5, max_bytes=4_096, heads=heads)
    assert len(files(folder / "log")) >= 3
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be tampered with."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def verify(folder: Path, *, heads: bool = True, **options: object) -> AuditVerification:
    more = {"heads": folder / "heads", "head_key": HEAD_KEY.public_key()} if heads else {}
    return verify_audit_log(folder / "log", **{"key": KEY, **more, **options})  # type: ignore[arg-type]


def problems(folder: Path, **options: bool) -> str:
    """What is found to be wrong, which must be something."""
    result = verify(folder, **options)
    assert not result.is_intact
    return "\n".join([*result.problems, *(problem for chain in result.chains for problem in chain.problems)])


def edit(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of a file."""
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def test_what_was_not_touched_is_intact(written: Path) -> None:
    """A log that nobody has altered verifies, and the report says what there is."""
    result = verify(written)
    assert result.is_intact
    (chain,) = result.chains
    assert (chain.first, chain.last + 1, chain.ending) == (0, chain.records, "closed")
    assert chain.records == len(records(written / "log"))
    assert chain.head == chain.last
    assert (chain.since, chain.until) == tuple(records(written / "log")[number]["time"] for number in (0, -1))


@given(st.data())
def test_any_edit_of_any_byte_is_found(
    written: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whichever byte of the log is another one, it is not intact: by the chain, and at the very end by a head."""
    folder = tmp_path_factory.getbasetemp() / "one byte"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(written, folder)
    file = data.draw(st.sampled_from(files(folder / "log")))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    assert not verify(folder).is_intact
    without = verify(folder, heads=False)
    assert not without.is_intact or without.chains[0].ending == "torn"


@given(st.data())
def test_any_cut_is_found(written: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Wherever a piece of a file was cut out, at the end of the log too, it is not intact."""
    folder = tmp_path_factory.getbasetemp() / "a cut"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(written, folder)
    file = data.draw(st.sampled_from(files(folder / "log")))
    content = file.read_bytes()
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start + 1, len(content)))
    file.write_bytes(content[:start] + content[end:])
    assert not verify(folder).is_intact


def test_an_edited_record_is_named(copy: Path) -> None:
    """The line that was altered is told, and it alone."""
    file = files(copy / "log")[1]
    edit(
        file,
        lambda lines: [
            line.replace(b'"status":200', b'"status":500') if n == 3 else line for n, line in enumerate(lines)
        ],
    )
    assert (
        problems(copy) == f"{file.name}, line 4: it was altered, or records before it are missing or in another order"
    )


def test_deleted_swapped_and_repeated_records_are_found(copy: Path, written: Path) -> None:
    """A record that is gone, in another place, or there twice breaks the chain where it is."""
    file = files(copy / "log")[0]
    original = file.read_bytes()
    for change in (
        lambda lines: lines[:3] + lines[4:],
        lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
        lambda lines: lines[:-1],
        lambda lines: lines[1:],
        lambda lines: [],
        lambda lines: [*lines[:3], b"\n", *lines[3:]],
        lambda lines: [*lines[:3], b"x" * 300_000 + b"\n", *lines[3:]],
        lambda lines: [*lines, b"x" * 300_000],
        lambda lines: [lines[0][:-1]],
        lambda lines: [b"[]\n", *lines[1:]],
    ):
        file.write_bytes(original)
        edit(file, change)
        assert "audit-" in problems(copy), change
        assert problems(copy, heads=False)
    file.write_bytes(original)
    assert verify(copy).is_intact


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_deleted_file_is_found(copy: Path, number: int) -> None:
    """The first, one in the middle, or the last: the last one by its head."""
    files(copy / "log")[number].unlink()
    assert "missing" in problems(copy)
    assert verify(copy, heads=False).is_intact is (number == -1)


def test_a_chain_that_is_gone_is_found_by_its_head(copy: Path) -> None:
    """Where all files of a process are gone, a head knows that there was one."""
    for file in files(copy / "log"):
        file.unlink()
    assert "is the last: a head proves records up to" in problems(copy)
    assert verify(copy, heads=False).chains == []


def test_a_chain_that_is_gone_is_found_by_later_ones(tmp_path: Path) -> None:
    """Without heads, whoever removes all files of a process has to remove everything that was begun after it."""
    for _ in range(3):
        write(tmp_path, events(1))
    first, second, third = sorted(files(tmp_path), key=lambda file: file.stat().st_mtime_ns)
    first.rename(tmp_path / "kept")
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.problems == [f"{first.name}: it was there when other files were begun, and is missing"]
    assert verify_audit_log(tmp_path, key=KEY, anchors=[first.name]).is_intact
    second.unlink()
    assert len(verify_audit_log(tmp_path, key=KEY).problems) == 2
    third.unlink()
    assert verify_audit_log(tmp_path, key=KEY).is_intact


@pytest.mark.parametrize("left", [0, 30, -1])
def test_a_file_that_was_emptied_is_as_one_that_was_removed(tmp_path: Path, left: int) -> None:
    """Without heads too: it had records when a later one was begun, and not one of them is left."""
    write(tmp_path, events(1))
    (first,) = files(tmp_path)
    write(tmp_path, events(1))
    opening = first.read_bytes().splitlines(keepends=True)[0]
    first.write_bytes(opening[:left])
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.problems == [
        f"{first.name}: it was there when other files were begun, and has not one whole line left"
    ]
    assert verify_audit_log(tmp_path, key=KEY, anchors=[first.name]).is_intact
    first.write_bytes(opening)  # the rest was cut off, which without heads nobody can tell from a kill
    assert verify_audit_log(tmp_path, key=KEY).is_intact


def test_a_file_that_cannot_be_read_is_told_of_once(tmp_path: Path) -> None:
    """What is no file any more is a problem of its chain, and no second one."""
    write(tmp_path, events(1))
    (first,) = files(tmp_path)
    write(tmp_path, events(1))
    first.rename(tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere")
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.problems == []
    assert [problem for chain in result.chains for problem in chain.problems] == [
        f"{first.name}: it cannot be read (OSError)"
    ]
    first.unlink()
    first.mkdir()
    assert verify_audit_log(tmp_path, key=KEY).problems == []


@pytest.mark.parametrize("left", [0, 30])
def test_a_process_that_is_killed_before_its_first_record_hinders_nobody(tmp_path: Path, left: int) -> None:
    """Later files do not name what it has left: it never was a part of the log, and stays so without being missed."""
    write(tmp_path, events(1))
    (first,) = files(tmp_path)
    first.write_bytes(first.read_bytes()[:left])
    write(tmp_path, events(1))
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert [chain.ending for chain in result.chains if not chain.records] == ["torn" if left else "open"]
    first.unlink()
    assert records(tmp_path)[0]["facts"]["others"] == []
    assert verify_audit_log(tmp_path, key=KEY).is_intact


def test_a_file_that_vanishes_while_others_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge at the moment at which another file is begun hinders nobody."""

    class Gone:
        name = "audit-0123456789abcdef-000001.jsonl"

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise FileNotFoundError

    class GoneNow(Gone):
        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            return Path(__file__).stat()  # it was there a moment ago

    with monkeypatch.context() as patch:
        gone = [Gone(), GoneNow()]
        patch.setattr("mlguard.monitoring._audit_sinks.os.scandir", lambda _: contextlib.nullcontext(gone))
        write(tmp_path, events(1))
    assert records(tmp_path)[0]["facts"]["others"] == []


def test_empty_files_of_others_are_not_missed(tmp_path: Path) -> None:
    """What another process has made, and takes away again because its disk is full, was never a part of the log."""
    empty = tmp_path / "audit-0123456789abcdef-000001.jsonl"
    empty.touch()
    write(tmp_path, events(1))
    empty.unlink()
    assert verify_audit_log(tmp_path, key=KEY).is_intact


def test_a_cut_end_is_found_by_its_head(copy: Path) -> None:
    """Without heads a log whose last lines are gone is as one whose process was killed: it says so."""
    edit(files(copy / "log")[-1], lambda lines: lines[:-2])
    assert "its end is missing" in problems(copy)
    result = verify(copy, heads=False)
    assert result.is_intact
    assert result.chains[0].ending == "open"
    file = files(copy / "log")[-1]
    file.write_bytes(file.read_bytes()[:-9])
    assert verify(copy, heads=False).chains[0].ending == "torn"
    assert "its end is missing" in problems(copy)


def test_a_torn_line_is_for_the_end_only(copy: Path) -> None:
    """A file that ends within a line, and is followed by another, was cut."""
    file = files(copy / "log")[0]
    file.write_bytes(file.read_bytes()[:-9])
    assert f"{file.name}, line" in problems(copy, heads=False)


def test_renamed_and_copied_files_are_found(copy: Path) -> None:
    """A file in the place of another one, or of another chain, is none of it."""
    first, second = files(copy / "log")[:2]
    shutil.copy(first, first.with_name(first.name.replace("000001", "000009")))
    shutil.copy(first, first.with_name("audit-0123456789abcdef-000001.jsonl"))
    assert problems(copy).count("it is another file, which was renamed") == 2
    first.with_name("audit-0123456789abcdef-000001.jsonl").unlink()
    first.unlink()
    second.rename(first)
    assert "which was renamed" in problems(copy)


def test_files_of_an_earlier_day_put_back_are_found(copy: Path, written: Path) -> None:
    """Whoever puts an old copy of the log in its place has cut it."""
    shutil.copytree(copy / "log", copy / "old")
    for file in files(copy / "old")[1:]:
        file.unlink()
    edit(files(copy / "old")[0], lambda lines: lines[:5])
    shutil.rmtree(copy / "log")
    (copy / "old").rename(copy / "log")
    assert "its end is missing" in problems(copy)


def test_who_has_the_key_is_found_by_a_head(copy: Path) -> None:
    """A log that was written anew with the right key is not the one that heads were signed for."""
    file = files(copy / "log")[0]
    (key,) = audit_keys(KEY, where="test")()
    mac, lines = NOTHING_BEFORE, []
    for record in records(copy / "log"):
        record.pop("mac")
        if record["event"] == "audit.opened" and record["facts"]["file"] > 1:
            record["event"] = "request"
        if record["seq"] == 2:
            record["status"] = 500
        line, mac = signed_line(key.secret, mac, record)
        lines.append(line)
    for other in files(copy / "log")[1:]:
        other.unlink()
    file.write_bytes(b"".join(lines))
    assert verify(copy, heads=False).is_intact
    assert "is not the one that its head was signed for" in problems(copy)


def test_another_key_verifies_nothing(written: Path) -> None:
    """Without the key nothing holds, and the problem says which key it is."""
    result = verify_audit_log(written / "log", key="Vq3tYxw0ZkLr8HcNpB5uJd2eSgF7aKmQ")
    assert "another key than was given" in result.chains[0].problems[0]
    assert result.chains[0].records == 0


def test_links_and_pipes_are_not_followed(copy: Path) -> None:
    """What has become a link, a pipe or a folder is told, and waits for nobody."""
    first, second, third = files(copy / "log")[:3]
    for file in (first, second, third):
        file.rename(copy / file.name)
    first.symlink_to(copy / first.name)
    os.mkfifo(second)
    third.mkdir()
    assert problems(copy).count("it cannot be read") == 3


def test_many_problems_are_counted(tmp_path: Path) -> None:
    """A log that is nothing but rubbish makes a report of a few lines."""
    write(tmp_path, events(1))
    edit(files(tmp_path)[0], lambda lines: [lines[0], *[b"{}\n"] * 100, *lines[1:]])
    (chain,) = verify_audit_log(tmp_path, key=KEY).chains
    assert len(chain.problems) == 20
    assert (chain.more_problems, chain.records, chain.last) == (80, 3, 2)


def test_other_files_do_not_matter(copy: Path) -> None:
    """What is not named as a file of the log is no part of it."""
    (copy / "log" / "notes.txt").write_text("x")
    (copy / "log" / "audit-x-1.jsonl").write_text("x")
    (copy / "log" / "audit-0123456789abcdef-0000001.jsonl").write_text("x")
    assert verify(copy).is_intact


def test_a_file_that_was_made_and_not_written_to(copy: Path) -> None:
    """A process that was killed between the two leaves an empty file at the end, and nowhere else."""
    last = files(copy / "log")[-1]
    edit(last, lambda lines: lines[:-1])  # with which it was closed
    number = int(last.name[-12:-6])
    last.with_name(last.name.replace(f"{number:06d}.", f"{number + 1:06d}.")).touch()
    result = verify(copy, heads=False)
    assert result.is_intact
    assert result.chains[0].ending == "open"
    files(copy / "log")[0].write_bytes(b"")
    assert "it is empty" in problems(copy)


def test_a_log_that_is_being_written_is_intact(tmp_path: Path) -> None:
    """The service need not stop for it."""
    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    assert log.flush()
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert result.chains[0].ending == "open"
    log.close()


def test_what_cannot_work_is_refused(written: Path) -> None:
    """Heads without a key prove nothing, and a folder that is not there is no intact log."""
    with pytest.raises(ConfigurationError, match="both or none"):
        verify_audit_log(written / "log", key=KEY, heads=written / "heads")
    with pytest.raises(ConfigurationError, match="no such folder"):
        verify_audit_log(written / "missing", key=KEY)


# Retention ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def attached() -> Iterator[Callable[[AuditLog], AuditLog]]:
    """Attaches a log until the test ends."""
    level, logs = logger.level, []

    def attach(log: AuditLog) -> AuditLog:
        log.attach()
        logs.append(log)
        return log

    yield attach
    for log in logs:
        log.close()
    logger.setLevel(level)


def age(file: Path) -> None:
    """Have a file written to a long time ago, as its records were by the clock of the test."""
    os.utime(file, (1_000, 1_000))


def test_what_retention_has_deleted_is_not_missing(
    copy: Path, tmp_path: Path, attached: Callable[[AuditLog], AuditLog]
) -> None:
    """Old files that were purged are accepted, because the log says so in a record that holds."""
    log = attached(AuditLog(copy / "log", key=KEY))
    first, second, *_, last = files(copy / "log")
    for file in (first, second):
        age(file)
    purge = purge_older_than(timedelta(days=1), [first, second], clock=lambda: 4e9)
    assert len(purge.purged) == 2
    assert log.flush()
    result = verify(copy)
    assert result.is_intact
    report = next(chain for chain in result.chains if chain.was_purged)
    assert report.first == purge.purged[1].last_seq + 1  # type: ignore[operator]
    last.rename(copy / last.name)  # which is not purged
    assert "missing" in problems(copy)


def test_a_file_from_the_middle_that_was_purged(copy: Path, attached: Callable[[AuditLog], AuditLog]) -> None:
    """Where an older file could not be deleted, one behind it may have been, with the record that a head is for."""
    log = attached(AuditLog(copy / "log", key=KEY))
    second = files(copy / "log")[1]
    age(second)
    heads = min((copy / "heads").iterdir())
    assert purge_older_than(timedelta(days=1), [second], clock=lambda: 4e9).purged
    assert log.flush()
    assert verify(copy).is_intact
    heads.unlink()
    assert verify(copy).is_intact


def test_a_whole_chain_that_was_purged(copy: Path, attached: Callable[[AuditLog], AuditLog]) -> None:
    """Of a chain that is gone, the head is explained by the record of its last file."""
    log = attached(AuditLog(copy / "log", key=KEY))
    old = files(copy / "log")
    for file in old:
        age(file)
    assert len(purge_older_than(timedelta(days=1), old, clock=lambda: 4e9).purged) == len(old)
    assert log.flush()
    result = verify(copy)
    assert result.is_intact
    assert [chain.was_purged for chain in result.chains] == [False, True]


def test_a_hash_that_was_kept_explains_what_is_missing(copy: Path) -> None:
    """Where no log was attached, the hash that the purge returned is the anchor; another one is none."""
    first = files(copy / "log")[0]
    age(first)
    (purged,) = purge_older_than(timedelta(days=1), [first], clock=lambda: 4e9).purged
    assert "no record says that retention has deleted them" in problems(copy)
    assert verify(copy, anchors=[purged.last_line_sha256]).is_intact
    assert not verify(copy, anchors=["0" * 64]).is_intact


def test_a_head_of_a_chain_that_was_purged_long_ago(copy: Path) -> None:
    """When the record of its purge is gone too, the name of its last file explains what heads still prove."""
    old = files(copy / "log")
    for file in old:
        file.unlink()
    assert f"all its files are missing, {old[-1].name} is the last" in problems(copy)
    assert not verify(copy, anchors=[old[0].name]).is_intact
    result = verify(copy, anchors=[old[-1].name])
    assert result.is_intact
    assert result.chains[0].was_purged


@pytest.mark.parametrize("place", ["the file", "a file"])
def test_nothing_is_added_behind_an_end(copy: Path, place: str) -> None:
    """A chain that was closed is not torn: no process was killed there."""
    last = files(copy / "log")[-1]
    if place == "the file":
        with last.open("ab") as file:
            file.write(b"not so")
    else:
        number = int(last.stem.rpartition("-")[2])
        last.with_name(last.name.replace(f"{number:06d}.", f"{number + 1:06d}.")).touch()
    assert "something was added behind the record with which it was closed" in problems(copy)


def test_a_record_that_does_not_hold_explains_nothing(copy: Path) -> None:
    """Whoever writes a record of a purge into the log without the key has only added a problem."""
    first = files(copy / "log")[0]
    age(first)
    (purged,) = purge_older_than(timedelta(days=1), [first], clock=lambda: 4e9).purged
    facts = f'{{"file":"{first.name}","last_line_sha256":"{purged.last_line_sha256}","last_seq":9}}'
    line = f'{{"event":"log.purged","facts":{facts},"mac":"{"0" * 64}"}}\n'.encode()
    edit(files(copy / "log")[-1], lambda lines: [*lines, line])
    assert "missing" in problems(copy)


def test_facts_of_other_events_explain_nothing(tmp_path: Path) -> None:
    """What only looks like the record of a purge is not taken for one."""
    odd: list[dict[str, Any]] = [
        {"event": "request", "facts": {"event": "log.purged", "file": "audit-0123456789abcdef-000001.jsonl"}},
        {"event": "request", "facts": {"event": "audit.closed"}},
        {"event": "log.purged"},
        {"event": "log.purged", "facts": {"file": "other.log"}},
        {"event": "log.purged", "facts": {"file": "audit-0123456789abcdef-000001.jsonl", "last_seq": "9"}},
    ]
    log = AuditLog(tmp_path, key=KEY)
    for event in odd:
        log.put(event)
    assert log.flush()
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert result.chains[0].ending == "open"
    log.close()


def test_verification_sees_changes_of_the_order_of_files(tmp_path: Path) -> None:
    """Files of two processes are two chains: what was cut from one is not found in the other."""
    for _ in range(2):
        write(tmp_path, events(5))
    first, second = files(tmp_path)
    swapped = [file.read_bytes().splitlines(keepends=True) for file in (second, first)]
    for file, lines, other in zip((first, second), reversed(swapped), swapped, strict=True):
        file.write_bytes(b"".join([lines[0], *other[1:]]))
    result = verify_audit_log(tmp_path, key=KEY)
    assert [chain.is_intact for chain in result.chains] == [False, False]


def test_chains_of_many_processes_are_read_one_after_another(tmp_path: Path) -> None:
    """Each process that ever ran has its chain in the report."""
    for _ in range(5):
        write(tmp_path, events(1))
    result = verify_audit_log(tmp_path, key=KEY)
    assert len(result.chains) == 5
    assert all(a.chain < b.chain for a, b in itertools.pairwise(result.chains))


def test_waiting_for_nothing_is_no_crash(tmp_path: Path) -> None:
    """Who waits where nothing was put is told at once."""
    log = AuditLog(tmp_path, key=KEY)
    asyncio.run(log.written())
    assert log.close()
    assert verify_audit_log(tmp_path, key=KEY).chains == []


def test_a_mac_that_is_no_number_was_altered(copy: Path) -> None:
    """In the first line of a file, of which it says what came before."""
    file = files(copy / "log")[1]
    edit(file, lambda lines: [re.sub(rb'"previous":"..', b'"previous":"zz', lines[0]), *lines[1:]])
    assert f"{file.name}, line 1: it was altered" in problems(copy)
