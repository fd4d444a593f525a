"""The audit log: what is put comes in, whatever goes wrong with it, with the disk or with the process."""

import asyncio
import errno
import logging
import os
import secrets
import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mlguard import (
    AuditHeads,
    AuditLog,
    ConfigurationError,
    DirectorySecrets,
    Rotating,
    SubjectKeyFile,
    SubjectKeys,
    UnavailableError,
    erase_subject,
    export_subject,
    verify_audit_log,
)
from mlguard._lookout import restart_all
from mlguard.monitoring import _audit_writer
from mlguard.monitoring.events import logger, record_event
from tests.clock import Clock
from tests.monitoring.audit_logs import KEY, events, files, records, requests, write
from tests.servers import wait_until

PRINCIPAL = {"method": "api-key", "issuer": "", "id": "alice"}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed is tried again at once."""
    monkeypatch.setattr(_audit_writer, "_FIRST_RETRY", 0.001)
    monkeypatch.setattr(_audit_writer, "_LAST_RETRY", 0.01)


class FlakySink:
    """A sink that fails for as long as it is told to."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.fails: BaseException | None = None
        self.attempts = 0

    def __call__(self, line: bytes) -> None:
        self.attempts += 1
        if self.fails is not None:
            raise self.fails
        self.lines.append(line)

    def text(self) -> str:
        return b"".join(self.lines).decode()


class HangingSink:
    """A sink that does not return until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.is_called = threading.Event()

    def __call__(self, line: bytes) -> None:
        self.is_called.set()
        self.go.wait(30)


async def put_and_wait(log: AuditLog, *batch: dict[str, Any]) -> None:
    for event in batch:
        log.put(event)
    await log.written()


# What is written ------------------------------------------------------------------------------------------------------


def test_records_are_chained_and_in_order(tmp_path: Path) -> None:
    """Each event is one record, in the order in which it was put, between an opening and a closing one."""
    write(tmp_path, events(3))
    found = records(tmp_path)
    assert [record["event"] for record in found] == ["audit.opened", "request", "request", "request", "audit.closed"]
    assert [record["number"] for record in requests(tmp_path)] == [0, 1, 2]
    assert [record["seq"] for record in found] == [0, 1, 2, 3, 4]
    assert {record["v"] for record in found} == {1}
    assert len({record["chain"] for record in found}) == 1
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert result.chains[0].ending == "closed"


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """Nobody else on the machine reads who has asked what."""
    write(tmp_path, events(1))
    assert {file.stat().st_mode & 0o777 for file in files(tmp_path)} == {0o600}


def test_nothing_is_made_before_there_is_an_event(tmp_path: Path) -> None:
    """A log to which nothing was put leaves no file, and no thread."""
    log = AuditLog(tmp_path, key=KEY)
    assert log.close()
    assert files(tmp_path) == []


def test_an_event_cannot_say_what_the_log_says(tmp_path: Path) -> None:
    """Number, chain, time and MAC are the log's own, whatever stands in an event."""
    write(tmp_path, [{"event": "request", "seq": 9, "chain": "x", "time": "1999", "mac": "x", "v": 7}])
    (record,) = requests(tmp_path)
    assert record["seq"] == 1
    assert record["v"] == 1
    assert record["time"] > "2026"
    assert len(record["mac"]) == 64
    assert verify_audit_log(tmp_path, key=KEY).is_intact


def test_a_clock_that_goes_backwards_does_not_matter(tmp_path: Path) -> None:
    """Times are written as the clock says them, the order is that of the chain."""
    clock = Clock()
    log = AuditLog(tmp_path, key=KEY, clock=clock)
    for event, clock.now in zip(events(5), [2_000.5, 1_000.25, 1e300, -1.0, float("nan")], strict=True):
        log.put(event)
    assert log.close()
    assert [record["time"] for record in requests(tmp_path)] == [
        "1970-01-01T00:33:20.500000Z",
        "1970-01-01T00:16:40.250000Z",
        "1970-01-01T00:00:00.000000Z",
        "1969-12-31T23:59:59.000000Z",
        "1970-01-01T00:00:00.000000Z",
    ]
    assert verify_audit_log(tmp_path, key=KEY).is_intact


def test_an_event_that_is_changed_later_is_no_crash(tmp_path: Path) -> None:
    """An event that cannot be read is a record that says so, and those behind it come in too."""

    class Changed(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    write(tmp_path, [Changed(event="request"), *events(1)])
    assert [record["event"] for record in records(tmp_path)][1:3] == ["audit.unwritable", "request"]


def test_texts_are_redacted_and_who_asked_is_not(tmp_path: Path) -> None:
    """Secrets and personal data in texts are gone; caller, address and request stay, to be found by."""
    event = {
        "event": "request",
        "request_id": "0123456789abcdef",
        "principal": {**PRINCIPAL, "id": "alice@example.org"},
        "address": "10.0.0.7",
        "reason": "mail to bob@example.org\nhttps://x.example/?token=4JmK2pQ8vR",
    }
    write(
        tmp_path,
        [
            event,
            {
                "event": "login",
                "facts": {"password": "hunter2", "address": "10.0.0.7", "why": "of 10.1.1.1", "what": "10.0.0.0/8"},
            },
        ],
    )
    text = b"".join(file.read_bytes() for file in files(tmp_path)).decode()
    assert "bob@example.org" not in text
    assert "4JmK2pQ8vR" not in text
    assert "hunter2" not in text
    record, login = records(tmp_path)[1:3]
    assert (record["principal"]["id"], record["address"]) == ("alice@example.org", "10.0.0.7")
    assert login["facts"] == {"password": "[secret]", "address": "10.0.0.7", "why": "of [ip]", "what": "10.0.0.0/8"}


def test_digests_and_names_in_facts_survive_redaction(tmp_path: Path) -> None:
    """What mlguard's own events say is not taken for a secret."""
    facts = {"digest": "sha256:" + "ab" * 32, "last_line_sha256": "cd" * 32, "name": "iris", "key": "2026-11"}
    write(tmp_path, [{"event": "x", "facts": facts}])
    assert records(tmp_path)[1]["facts"] == facts


def test_files_are_rotated_by_size_and_the_chain_goes_on(tmp_path: Path) -> None:
    """A full file is followed by another one, and all of them are one chain."""
    write(tmp_path, *[events(20)] * 5, max_bytes=4_096)
    assert len(files(tmp_path)) > 2
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert [(chain.files, chain.ending) for chain in result.chains] == [(len(files(tmp_path)), "closed")]
    assert len(requests(tmp_path)) == 100


def test_files_are_rotated_by_age(tmp_path: Path) -> None:
    """An old file is followed by another one, so that its records do not stay for the sake of new ones."""
    log = AuditLog(tmp_path, key=KEY, max_age=60)
    clock = log._sink._clock = Clock()  # type: ignore[attr-defined]
    for event in events(3):
        log.put(event)
        assert log.flush()
        clock.now += 40
    assert log.close()
    assert [file.name[-11:] for file in files(tmp_path)] == ["0001.jsonl", "0002.jsonl"] or len(files(tmp_path)) == 2
    assert verify_audit_log(tmp_path, key=KEY).is_intact


def test_writers_never_share_a_file(tmp_path: Path) -> None:
    """Two logs in one folder write two chains, each whole."""
    first, second = (AuditLog(tmp_path, key=KEY) for _ in range(2))
    for event in events(50):
        first.put(event)
        second.put(event)
    assert first.close()
    assert second.close()
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert [chain.records for chain in result.chains] == [52, 52]


def test_a_chain_whose_name_is_taken_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there already is never written to: another chain is begun, and nothing is lost."""
    ids = iter(["aa" * 8, "aa" * 8, "bb" * 8])
    monkeypatch.setattr("mlguard.monitoring._audit_chain.secrets.token_hex", lambda _: next(ids))
    write(tmp_path, events(1))
    before = files(tmp_path)[0].read_bytes()
    write(tmp_path, events(1))
    assert (tmp_path / "audit-aaaaaaaaaaaaaaaa-000001.jsonl").read_bytes() == before
    assert len(requests(tmp_path)) == 2
    assert verify_audit_log(tmp_path, key=KEY).is_intact


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_key_that_changes_while_the_log_is_written(tmp_path: Path) -> None:
    """The chain goes on under the new key in another file, and verifies with both, and not with one."""
    old, new = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    place, folder = tmp_path / "log", tmp_path / "secrets"
    place.mkdir()
    folder.mkdir()
    (folder / "audit").write_text(old)
    rotating = Rotating(DirectorySecrets(folder), "audit")
    log = AuditLog(place, key=rotating)
    log.put(events(1)[0])
    assert log.flush()
    (folder / "audit").write_text(new)
    rotating.refresh()
    log.put(events(1)[0])
    assert log.close()
    assert len(files(place)) == 2
    assert verify_audit_log(place, key=[new, old]).is_intact
    assert verify_audit_log(place, key=rotating).is_intact
    assert not verify_audit_log(place, key=new).is_intact
    assert not verify_audit_log(place, key=SecretStr(old)).is_intact


def test_a_key_whose_source_is_lost_goes_on(tmp_path: Path) -> None:
    """A log does not stop because its secret was not read for too long."""
    (tmp_path / "audit").write_text(KEY)
    (tmp_path / "log").mkdir()
    clock = Clock()
    log = AuditLog(tmp_path / "log", key=Rotating(DirectorySecrets(tmp_path), "audit", clock=clock, max_stale=600))
    (tmp_path / "audit").unlink()
    clock.now = 1e6
    log.put(events(1)[0])
    assert log.close()
    assert verify_audit_log(tmp_path / "log", key=KEY).is_intact


@pytest.mark.parametrize("key", ["short", "", None, 7, [], [KEY, KEY], [KEY] * 17, ["changeme" * 8]])
def test_a_key_that_is_none_is_refused(tmp_path: Path, key: Any) -> None:
    """No log is begun with a key that can be guessed."""
    with pytest.raises(ConfigurationError) as error:
        AuditLog(tmp_path, key=key)
    assert KEY not in str(error.value)


# Waiting --------------------------------------------------------------------------------------------------------------


def test_who_waits_is_told_when_it_is_on_the_disk(tmp_path: Path) -> None:
    """What was put before ``written()`` returned is in the file then, of each of many who wait at once."""

    async def main() -> None:
        log = AuditLog(tmp_path, key=KEY, durability="request")

        async def one(event: dict[str, Any]) -> None:
            await put_and_wait(log, event)
            assert event["number"] in {record["number"] for record in requests(tmp_path)}

        await asyncio.gather(*map(one, events(50)))
        assert log.close()

    asyncio.run(main())


def test_many_who_wait_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred requests at once do not wait for a hundred writes to the disk."""
    syncs: list[None] = []
    sync = os.fdatasync
    monkeypatch.setattr("mlguard.monitoring._audit_sinks._sync", lambda file: syncs.append(sync(file)))

    async def main() -> None:
        log = AuditLog(tmp_path, key=KEY)
        await put_and_wait(log, *events(1))
        await asyncio.gather(*(put_and_wait(log, event) for event in events(100)))
        assert log.close()

    asyncio.run(main())
    assert len(syncs) < 20


def test_who_is_cancelled_while_waiting_harms_nobody(tmp_path: Path) -> None:
    """A caller that has gone leaves the others waiting for what they wait for."""

    async def main() -> None:
        log = AuditLog(tmp_path, key=KEY)
        tasks = [asyncio.create_task(put_and_wait(log, event)) for event in events(10)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, *[type(None)] * 9]
        assert log.close()

    asyncio.run(main())
    assert len(requests(tmp_path)) == 10


def test_a_loop_that_is_closed_meanwhile_is_no_crash(tmp_path: Path) -> None:
    """Who waited in a loop that is gone is not told, and the log goes on."""
    sink = HangingSink()
    log = AuditLog(key=KEY, sink=sink)

    async def main() -> None:
        task = asyncio.create_task(put_and_wait(log, *events(1)))
        await asyncio.to_thread(sink.is_called.wait, 30)
        task.cancel()

    asyncio.run(main())
    sink.go.set()
    log.put(events(1)[0])
    assert log.flush()
    assert log.close()


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SystemExit(1)])
def test_a_sink_that_fails_is_refused_and_recovers(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """While it fails nothing is accepted, and when it works again everything is there, once."""
    sink = FlakySink()
    log = AuditLog(key=KEY, sink=sink)
    sink.fails = error

    async def main() -> None:
        with pytest.raises(UnavailableError) as refusal:
            await put_and_wait(log, *events(3))
        assert refusal.value.status_code == 503
        assert not log.accepts()
        assert not log.flush()
        with pytest.raises(UnavailableError):
            await log.written()
        sink.fails = None
        wait_until(log.accepts)
        await put_and_wait(log, *events(1))

    asyncio.run(main())
    assert log.close()
    assert sink.text().count('"event":"request"') == 4
    assert '"reason":"failure"' in sink.text()
    told = [record for record in caplog.records if record.name == "mlguard"]
    assert [record.__dict__.get("event") for record in told] == ["audit.failed", "audit.recovered"]
    assert KEY not in caplog.text


def test_a_handler_that_raises_stops_neither_the_log_nor_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever somebody has put behind the loggers, events are taken, and written when they can be."""

    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError

    monkeypatch.setattr(logging.getLogger("mlguard"), "handlers", [Raises()])
    sink = FlakySink()
    sink.fails = OSError()
    log = AuditLog(key=KEY, sink=sink, max_queue=16)
    for event in events(2_000):
        log.put(event)
    assert not log.flush()
    assert {one.name: one.value for one in log.measurements()}["mlguard_audit_dropped"] > 0
    sink.fails = None
    wait_until(log.accepts)
    assert log.close()


def test_a_sink_that_fails_in_the_middle_gets_nothing_twice() -> None:
    """Lines that a function has taken are not handed to it again."""
    taken: list[bytes] = []
    failures = iter([False, False, False, True])

    def sink(line: bytes) -> None:
        if next(failures, False):
            raise ConnectionError
        taken.append(line)

    log = AuditLog(key=KEY, sink=sink)
    for event in events(6):
        log.put(event)
    log.flush()
    wait_until(log.accepts)
    assert log.close()
    numbers = [int(part.split(b",")[0]) for part in b"".join(taken).split(b'"number":')[1:]]
    assert numbers == [0, 1, 2, 3, 4, 5]


def test_with_drop_the_service_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is refused; what found no room is counted, told to the operator, and told in the log."""
    sink = FlakySink()
    sink.fails = ValueError("a secret")
    log = AuditLog(key=KEY, sink=sink, on_failure="drop", max_queue=16)
    log.put(events(1)[0])
    assert not log.flush()
    for event in events(2_000):
        log.put(event)
    assert log.accepts()
    asyncio.run(log.written())
    numbers = {one.name: one.value for one in log.measurements()}
    assert numbers["mlguard_audit_dropped"] > 900
    assert numbers["mlguard_audit_up"] == 0
    sink.fails = None
    wait_until(log.flush)
    assert log.close()
    numbers = {one.name: one.value for one in log.measurements()}
    assert f'"facts":{{"count":{numbers["mlguard_audit_dropped"]}}}' in sink.text()
    assert sink.text().count('"event":"request"') == numbers["mlguard_audit_written"]
    assert numbers["mlguard_audit_written"] + numbers["mlguard_audit_dropped"] == 2_001
    assert "audit.dropped" in {record.__dict__.get("event") for record in caplog.records}
    assert "a secret" not in caplog.text


def test_a_full_queue_is_refused() -> None:
    """Where a sink is slow and the queue is full, requests are refused before they are served."""
    sink = HangingSink()
    log = AuditLog(key=KEY, sink=sink, max_queue=16)
    log.put(events(1)[0])
    assert sink.is_called.wait(30)
    for event in events(16):
        assert log.accepts()
        log.put(event)
    assert not log.accepts()
    log.put(events(1)[0])
    sink.go.set()
    assert log.close()


@pytest.mark.parametrize("on_failure", ["refuse", "drop"])
def test_a_sink_that_hangs_hangs_nobody(on_failure: Any) -> None:
    """After the time-out nothing is accepted, who waits is told, and the process can end."""
    sink = HangingSink()
    log = AuditLog(key=KEY, sink=sink, timeout=0.05, on_failure=on_failure)

    async def main() -> None:
        if on_failure == "drop":
            await put_and_wait(log, *events(1))
        else:
            with pytest.raises(UnavailableError):
                await put_and_wait(log, *events(1))

    asyncio.run(main())
    wait_until(lambda: {one.name: one.value for one in log.measurements()}["mlguard_audit_up"] == 0)
    assert log.accepts() is (on_failure == "drop")
    assert not log.close(timeout=0.05)
    sink.go.set()


def test_a_folder_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    """Without its folder the log is down; with it, it goes on by itself, and loses nothing."""
    place = tmp_path / "log"
    place.mkdir()
    log = AuditLog(place, key=KEY)
    log.put(events(1)[0])
    assert log.flush()
    shutil.rmtree(place)
    for event in events(3):
        log.put(event)
    assert not log.flush()
    assert not log.accepts()
    place.mkdir()
    wait_until(log.accepts)
    assert log.close()
    assert [record["number"] for record in requests(place)] == [0, 1, 2]
    assert verify_audit_log(place, key=KEY).is_intact


def test_a_file_that_is_moved_away_is_followed_by_another(tmp_path: Path) -> None:
    """Nothing is written into a file that is no more where it was, such as one that retention has deleted."""
    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    assert log.flush()
    files(tmp_path)[0].unlink()
    log.put(events(1)[0])
    assert log.close()
    (file,) = files(tmp_path)
    assert file.name.endswith("-000002.jsonl")
    assert len(requests(tmp_path)) == 1


def test_what_a_full_disk_has_taken_of_a_write_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a batch that did not fit leaves no torn line, and comes in whole later."""
    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    assert log.flush()
    write_really = os.write
    fails = [True]

    def half(file: int, data: Any) -> int:
        if not fails:
            return write_really(file, data)
        if len(data) < 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_really(file, data[: len(data) - 100])

    monkeypatch.setattr("mlguard.monitoring._audit_sinks.os.write", half)
    for event in events(5):
        log.put(event)
    assert not log.flush()
    fails.clear()
    wait_until(log.accepts)
    assert log.close()
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert sorted(chain.ending for chain in result.chains) == ["closed", "open"]
    assert sorted(record["number"] for record in requests(tmp_path)) == [0, 0, 1, 2, 3, 4]


def test_a_full_disk_is_not_filled_with_empty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt that fails takes away the file that it has made."""

    def full(file: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mlguard.monitoring._audit_sinks.os.write", full)
    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    wait_until(lambda: log._writer.failures > 5)
    assert not log.close()
    assert files(tmp_path) == []
    assert {one.name: one.value for one in log.measurements()}["mlguard_audit_dropped"] == 1


def test_where_no_thread_can_start_the_next_event_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is put while there can be no further thread waits for the next one."""
    log = AuditLog(tmp_path, key=KEY)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        log.put(events(1)[0])
    log.put(events(1)[0])
    assert log.close()
    assert len(requests(tmp_path)) == 2


def test_there_is_one_thread(tmp_path: Path) -> None:
    """Two who put the first event at the same moment start one thread."""
    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    thread = log._writer._thread
    log._writer._start()
    assert log._writer._thread is thread
    assert log.close()


def test_what_is_put_after_the_end_is_counted(tmp_path: Path) -> None:
    """A log that is closed takes nothing, and does not pretend to."""
    log = AuditLog(tmp_path, key=KEY)
    assert log.close()
    log.put(events(1)[0])
    assert not log.accepts()
    assert {one.name: one.value for one in log.measurements()}["mlguard_audit_dropped"] == 1
    assert log.close()


def test_a_child_of_a_fork_has_a_chain_of_its_own(tmp_path: Path) -> None:
    """After a fork the child's records are in another file than the parent's."""
    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    assert log.flush()
    old = log._writer._thread
    restart_all()  # what the child of a fork does
    log.put(events(1)[0])
    assert log.close()
    assert old is not log._writer._thread
    assert [record["facts"]["reason"] for record in records(tmp_path) if record["event"] == "audit.opened"].count(
        "fork"
    ) == 1
    assert len(verify_audit_log(tmp_path, key=KEY).chains) == 2


def test_threads_lose_nothing(tmp_path: Path) -> None:
    """Of what eight threads put at once, each record is there, once."""
    log = AuditLog(tmp_path, key=KEY, max_bytes=65_536)

    def put(thread: int) -> None:
        for event in events(200, thread=thread):
            log.put(event)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close()
    found = [(record["thread"], record["number"]) for record in requests(tmp_path)]
    assert len(found) == len(set(found)) == 1_600
    assert verify_audit_log(tmp_path, key=KEY).is_intact


def test_standard_output_is_a_sink(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, records are lines of standard output."""
    with os.fdopen(os.dup(1), "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        log = AuditLog(key=KEY, sink="stdout")
        log.put(events(1)[0])
        assert log.close()
    lines = capfd.readouterr().out.splitlines()
    assert [line.count('"event":"request"') for line in lines] == [0, 1, 0]


# Events ---------------------------------------------------------------------------------------------------------------


def test_events_are_recorded_while_it_is_attached(tmp_path: Path, audit_logger: None) -> None:
    """What mlguard records on its logger comes in, with its facts, and nothing that is about the log itself."""
    log = AuditLog(tmp_path, key=KEY)
    record_event("model.loaded", model="before")
    log.attach()
    log.attach()
    record_event("model.loaded", model="iris", version=3, note="x" * 9_999)
    record_event("audit.failed", error="OSError")
    logger.info("no event")
    logger.info("facts that are none", extra={"event": "strange", "facts": 7})
    log.detach()
    record_event("model.loaded", model="after")
    assert log.close()
    found = records(tmp_path)[1:-1]
    assert [record["event"] for record in found] == ["model.loaded", "strange"]
    assert found[0]["facts"]["model"] == "iris"
    assert len(found[0]["facts"]["note"]) < 1_100


def test_an_event_says_of_which_request_it_is(tmp_path: Path, audit_logger: None) -> None:
    """Where that is known, of the record of the logger or among the facts, it stands where that of a request does."""
    log = AuditLog(tmp_path, key=KEY)
    log.attach()
    record_event("login.accepted", user="alice", request_id="0123456789abcdef")
    logger.info("", extra={"event": "x", "facts": {}, "request_id": "", "trace_id": "ab" * 16})
    assert log.close()
    login, other = records(tmp_path)[1:-1]
    assert (login["request_id"], login["facts"]) == ("0123456789abcdef", {"user": "alice"})
    assert "trace_id" not in login
    assert other["trace_id"] == "ab" * 16
    assert "request_id" not in other


def test_attaching_keeps_a_level_that_is_lower(tmp_path: Path, audit_logger: None) -> None:
    """A logger that tells more than it has to goes on doing so."""
    logger.setLevel(logging.DEBUG)
    log = AuditLog(tmp_path, key=KEY)
    log.attach()
    assert logger.level == logging.DEBUG
    log.close()


# People ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> SubjectKeys:
    return SubjectKeys(SubjectKeyFile(tmp_path / "subjects.db"), keys={"1": secrets.token_urlsafe(32)})


def test_an_export_finds_the_records_of_a_caller(tmp_path: Path) -> None:
    """What the log has of a person in clear is found by their name."""
    place = tmp_path / "log"
    place.mkdir()
    write(place, events(2, principal=PRINCIPAL) + events(1, principal={**PRINCIPAL, "id": "bob"}))
    export = asyncio.run(export_subject("alice", logs=files(place)))
    assert [record["number"] for record in export.records] == [0, 1]
    assert export.unread == []


def test_callers_are_sealed_and_erased_and_the_chain_holds(tmp_path: Path, keys: SubjectKeys) -> None:
    """Who asked is unreadable without the keys, is in an export, and is gone after an erasure; the log is unchanged."""
    place = tmp_path / "log"
    place.mkdir()
    batch: list[dict[str, Any]] = [
        {"event": "request", "principal": {**PRINCIPAL, "issuer": "https://id"}, "address": "10.0.0.7"},
        {"event": "request", "principal": PRINCIPAL, "address": "10.0.0.7"},
        {"event": "request", "principal": "alice", "address": None},
        {"event": "request", "principal": None, "address": "10.0.0.9"},
    ]
    write(place, batch, subject_keys=keys)
    text = b"".join(file.read_bytes() for file in files(place))
    assert b"alice" not in text
    assert b"10.0.0.7" not in text
    assert b"10.0.0.9" in text  # of nobody who could be erased
    export = asyncio.run(export_subject("alice", keys=keys, logs=files(place)))
    assert [record["principal"] for record in export.records] == [
        {**PRINCIPAL, "issuer": "https://id"},
        PRINCIPAL,
        "alice",
    ]
    assert export.records[0]["address"] == "10.0.0.7"
    asyncio.run(erase_subject("alice", keys=keys))
    assert asyncio.run(export_subject("alice", keys=keys, logs=files(place))).records == []
    assert b"".join(file.read_bytes() for file in files(place)) == text
    assert verify_audit_log(place, key=KEY).is_intact


@pytest.mark.parametrize("name", ["Ann\u00a0Lee", "a\u200db", "x" * 2_000, 421_198_765_432_109, "\u05d0\u05d1"])
def test_whoever_is_erased_by_their_own_id_is_erased(tmp_path: Path, keys: SubjectKeys, name: Any) -> None:
    """Also where the log writes the id in another way, cuts it, or where it is a number."""
    place = tmp_path / "log"
    place.mkdir()
    write(
        place, [{"event": "request", "principal": {"id": name, "issuer": 7}, "address": "10.0.0.7"}], subject_keys=keys
    )
    write(place, [{"event": "request", "principal": name, "address": "10.0.0.7"}], subject_keys=keys)
    text = b"".join(file.read_bytes() for file in files(place))
    assert b"10.0.0.7" not in text
    assert str(name).encode()[:200] not in text
    assert b'"issuer":7' not in text
    export = asyncio.run(export_subject(str(name), keys=keys, logs=files(place)))
    assert [record["address"] for record in export.records] == ["10.0.0.7"] * 2
    asyncio.run(erase_subject(str(name), keys=keys))
    assert asyncio.run(export_subject(str(name), keys=keys, logs=files(place))).records == []


@pytest.mark.parametrize("principal", ["\ud800", {"id": "\ud800"}, {"id": b"ann"}, ["ann"], {"id": ["ann"]}])
def test_an_id_that_is_none_stops_no_log(tmp_path: Path, keys: SubjectKeys, principal: Any) -> None:
    """Whatever it is, it is sealed, and those after it are written."""
    place = tmp_path / "log"
    place.mkdir()
    write(place, [{"event": "request", "principal": principal, "address": "10.0.0.7"}], subject_keys=keys)
    (record,) = requests(place)
    assert record["address"].startswith("s1.")
    assert "ann" not in str(record)


@pytest.mark.parametrize("principal", [None, "", {}, {"id": ""}, {"id": None, "issuer": "x"}])
def test_nobody_is_sealed_for_nobody(tmp_path: Path, keys: SubjectKeys, principal: Any) -> None:
    """Where there is no id, there is no key."""
    place = tmp_path / "log"
    place.mkdir()
    write(place, [{"event": "request", "principal": principal, "address": "10.0.0.7"}], subject_keys=keys)
    assert requests(place)[0]["address"] == "10.0.0.7"


def test_many_callers_are_sealed_in_bounded_memory(
    tmp_path: Path, keys: SubjectKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sealed is remembered for a few callers, and sealed anew for others."""
    monkeypatch.setattr("mlguard.monitoring._audit_seals._MOST", 2)
    place = tmp_path / "log"
    place.mkdir()
    write(place, [{"event": "request", "principal": {"id": f"caller {n % 4}"}} for n in range(8)], subject_keys=keys)
    sealed = [record["principal"]["id"] for record in requests(place)]
    assert len(set(sealed)) == 8
    assert keys.open(sealed[7], context="id") == "caller 3"


def test_without_the_keys_nothing_is_written_in_clear(tmp_path: Path, keys: SubjectKeys) -> None:
    """Where nothing can be sealed, the log is down, and comes back."""
    place = tmp_path / "log"
    place.mkdir()
    log = AuditLog(place, key=KEY, subject_keys=keys)
    (tmp_path / "subjects.db").rename(tmp_path / "moved.db")
    log.put(events(1, principal=PRINCIPAL)[0])
    assert not log.flush()
    assert not log.accepts()
    (tmp_path / "moved.db").rename(tmp_path / "subjects.db")
    wait_until(log.accepts)
    assert log.close()
    assert requests(place)[0]["principal"]["id"].startswith("s1.")


# Settings -------------------------------------------------------------------------------------------------------------


def test_settings_name_folder_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two variables there is a log; the older key is behind a comma."""
    old = secrets.token_urlsafe(32)
    monkeypatch.setenv("MLGUARD_AUDIT_LOG", str(tmp_path))
    monkeypatch.setenv("MLGUARD_AUDIT_KEY", f"{KEY}, {old}")
    log = AuditLog.from_settings(durability="request")
    assert log.durability == "request"
    log.put(events(1)[0])
    assert log.close()
    assert verify_audit_log(tmp_path, key=KEY).is_intact


@pytest.mark.parametrize("missing", ["MLGUARD_AUDIT_LOG", "MLGUARD_AUDIT_KEY"])
def test_settings_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Without folder or key there is no log, and the error names the variable."""
    monkeypatch.setenv("MLGUARD_AUDIT_LOG", str(tmp_path))
    monkeypatch.setenv("MLGUARD_AUDIT_KEY", KEY)
    monkeypatch.delenv(missing)
    with pytest.raises(ConfigurationError, match=missing):
        AuditLog.from_settings()


def test_folders_that_cannot_work_are_refused(tmp_path: Path) -> None:
    """A folder that is not there, or that everybody may write to, is refused at once."""
    everybodys = tmp_path / "everybodys"
    everybodys.mkdir()
    everybodys.chmod(0o777)
    for folder in (tmp_path / "missing", everybodys, "", 7):
        with pytest.raises(ConfigurationError):
            AuditLog(folder, key=KEY)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one that this process may not write to."""
    monkeypatch.setattr("mlguard.monitoring._audit_sinks.os.access", lambda *_: False)
    with pytest.raises(ConfigurationError, match="may not write"):
        AuditLog(tmp_path, key=KEY)


def nowhere(line: bytes) -> None: ...


@pytest.mark.parametrize(
    "options",
    [
        {"durability": "always"},
        {"on_failure": "raise"},
        {"max_queue": 1},
        {"max_queue": True},
        {"max_bytes": 10},
        {"max_age": 0},
        {"max_age": float("nan")},
        {"timeout": 0},
        {"timeout": "5"},
        {"sink": "stderr"},
        {"sink": None},
        {"directory": "."},
        {"heads": "/mnt"},
        {"subject_keys": "keys"},
        {"redactor": str},
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    """Every setting out of its range stops the service when it is built."""
    with pytest.raises(ConfigurationError):
        AuditLog(**{"key": KEY, "sink": nowhere, **options})


def test_heads_beside_the_log_are_refused(tmp_path: Path) -> None:
    """Heads in the folder of the log would be altered together with it."""
    with pytest.raises(ConfigurationError, match="another folder"):
        AuditLog(tmp_path, key=KEY, heads=AuditHeads(tmp_path, key=_head_key()))
    (tmp_path / "log").mkdir()
    (tmp_path / "heads").symlink_to("log")
    with pytest.raises(ConfigurationError, match="another folder"):
        AuditLog(tmp_path / "log", key=KEY, heads=AuditHeads(tmp_path / "heads", key=_head_key()))


def test_the_log_says_nothing_of_its_key(tmp_path: Path) -> None:
    """Its repr and its records do not have the key."""
    log = AuditLog(tmp_path, key=KEY, heads=AuditHeads(nowhere, key=_head_key()))
    assert repr(log) == "AuditLog(durability='batch', on_failure='refuse')"
    log.put(events(1)[0])
    assert log.close()
    assert KEY.encode() not in b"".join(file.read_bytes() for file in files(tmp_path))
    assert {one.name for one in log.measurements()} >= {"mlguard_audit_heads", "mlguard_audit_head_failures"}


def _head_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def test_a_log_that_nobody_closes_is_closed_at_the_end(tmp_path: Path) -> None:
    """A process that ends without a word has its records written."""
    from mlguard.monitoring.audit_log import _close_at_exit

    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    _close_at_exit(weakref.ref(log), weakref.ref(log._writer))
    assert [record["event"] for record in records(tmp_path)][-1] == "audit.closed"
    _close_at_exit(lambda: None, lambda: None)  # type: ignore[arg-type]


def test_a_thread_that_is_far_behind_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop that is never idle would give it none: who hands events over steps back now and then."""
    opened = threading.Event()
    steps: list[float] = []
    lines: list[bytes] = []

    def take(line: bytes) -> None:
        assert opened.wait(30)
        lines.append(line)

    log = AuditLog(sink=take, key=KEY, timeout=30)
    monkeypatch.setattr(time, "sleep", steps.append)
    for event in events(1_000):
        log.put(event)
    assert _audit_writer._WAY not in steps
    for event in events(2_000):
        log.put(event)
    assert 1 <= steps.count(_audit_writer._WAY) <= 2_000 // _audit_writer._EVERY
    opened.set()
    assert log.close(30)
    assert len(lines) == 3_002
