"""``mlguard audit-log``: what it says of a log, and what it lets through to a terminal or a spreadsheet."""

import csv
import heapq
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mlguard import AuditHeads, AuditLog
from mlguard.__main__ import main
from mlguard.commands._times import past
from mlguard.monitoring import _audit_files, _audit_reading
from mlguard.monitoring._audit_files import last_lines
from mlguard.monitoring._audit_reading import AuditFollower, AuditReader
from mlguard.monitoring._audit_records import MAX_LINE
from tests.clock import Clock
from tests.monitoring.audit_logs import KEY, events, files, records, write
from tests.servers import program

Run = Callable[..., tuple[int, str, str]]
NOON = 1_795_694_400.0  # 2026-11-26T12:00:00Z


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def run(log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``mlguard audit-log`` with these arguments on the log."""
    monkeypatch.setenv("MLGUARD_AUDIT_LOG", str(log))
    monkeypatch.setenv("MLGUARD_AUDIT_KEY", KEY)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["audit-log", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def some_day(log: Path) -> None:
    """Two processes, whose requests came in turns, an hour apart, and one event."""
    clock = Clock(NOON)
    first, second = (AuditLog(log, key=KEY, clock=clock) for _ in range(2))
    for number, event in enumerate(
        [
            request(id="alice", status=200),
            request(id="bob", status=429, refused_by="RateLimit", rule="rate-limited"),
            {"event": "model.loaded", "facts": {"model": "iris", "version": 3}},
            request(id=None, status=401, refused_by="APIKeyAuth", rule="not-authenticated"),
        ]
    ):
        clock.now = NOON + 3_600 * number
        (first if number % 2 else second).put(event)
        assert first.flush()
        assert second.flush()
    clock.now += 1
    assert first.close()
    assert second.close()


def request(**more: Any) -> dict[str, Any]:
    who = more.pop("id")
    return {
        "event": "request",
        "request_id": f"request-of-{who}",
        "principal": None if who is None else {"method": "api-key", "issuer": "", "id": who},
        "address": "192.0.2.7",
        "method": "POST",
        "route": "/predict",
        "refused_by": None,
        **more,
    }


# verify ---------------------------------------------------------------------------------------------------------------


def test_verify_says_that_a_log_is_intact(run: Run, log: Path) -> None:
    """Exit code 0, and what there is of each chain."""
    write(log, events(3))
    code, out, _ = run("verify")
    assert code == 0
    assert "1 files, 5 records" in out
    assert "  closed\n" in out
    assert out.endswith("intact: 1 chains, 5 records that hold\n")


def test_verify_says_that_it_is_not(run: Run, log: Path) -> None:
    """Exit code 1, and the line that was altered."""
    write(log, *[events(1)] * 60)
    file = files(log)[0]
    file.write_bytes(file.read_bytes().replace(b'"status":200', b'"status":500'))
    code, out, _ = run("verify")
    assert code == 1
    assert f"  PROBLEM: {file.name}, line 2: it was altered" in out
    assert "and 40 more problems" in out
    assert "NOT INTACT" in out


def test_verify_with_heads_keys_of_files_and_an_anchor(run: Run, log: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The key may be in a file, and heads find what was cut off."""
    monkeypatch.delenv("MLGUARD_AUDIT_KEY")
    signs = Ed25519PrivateKey.generate()
    (tmp_path / "heads").mkdir()
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "head.pem").write_bytes(
        signs.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    write(log, events(3), heads=AuditHeads(tmp_path / "heads", key=signs))
    more = ["--key-file", str(tmp_path / "key"), "--heads", str(tmp_path / "heads")]
    more += ["--head-key", str(tmp_path / "head.pem"), "--anchor", "0" * 64]
    code, out, _ = run("verify", *more)
    assert code == 0
    assert "a signed head proves records up to 4" in out
    (head,) = (tmp_path / "heads").iterdir()
    head.write_bytes(head.read_bytes() + b"x\n")
    files(log)[0].unlink()
    code, out, _ = run("verify", *more)
    assert code == 1
    assert "PROBLEM: heads: 1 lines are no heads" in out
    assert "all its files are missing" in out


def test_verify_tells_of_a_torn_line_and_of_retention(run: Run, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is a problem, and both are said."""
    write(log, *[events(20)] * 3, max_bytes=4_096)
    first, *_, last = files(log)
    from mlguard.privacy.retention import _judge

    purged = _judge(first, "time", 5e9, 6e9)
    assert purged is not None
    first.unlink()
    last.write_bytes(last.read_bytes()[:-9])
    code, out, _ = run("verify", "--anchor", purged.last_line_sha256)
    assert code == 0
    assert "older records were deleted by retention" in out
    assert "torn in the middle of a line" in out


@pytest.mark.parametrize("action", ["verify", "tail", "search", "export", "purge"])
def test_a_folder_is_named_by_its_option(run: Run, capsys: pytest.CaptureFixture[str], action: str) -> None:
    """Whoever writes it as other programs take it is told how, with the usage of the action."""
    with pytest.raises(SystemExit):
        run(action, "folder", *(["--older-than", "9d"] if action == "purge" else []))
    said = capsys.readouterr().err
    assert said.startswith(f"usage: mlguard audit-log {action} ")
    assert "--directory FOLDER" in said.splitlines()[-1]
    assert "key" not in said.splitlines()[-1]


def test_what_takes_no_more_says_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing stands in their place, nothing is said of it."""
    with pytest.raises(SystemExit):
        main(["lockdown", "list", "everything"])
    assert capsys.readouterr().err.endswith("there are more arguments than the command takes\n")


def test_without_a_log_or_a_key_it_says_which_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, and the name of the variable."""
    monkeypatch.delenv("MLGUARD_AUDIT_KEY")
    code, _, err = run("verify")
    assert code == 3
    assert "MLGUARD_AUDIT_KEY" in err
    monkeypatch.delenv("MLGUARD_AUDIT_LOG")
    code, _, err = run("tail")
    assert code == 3
    assert "MLGUARD_AUDIT_LOG" in err
    code, _, err = run("search", "--directory", "missing")
    assert code == 3
    assert "'missing': there is no such folder" in err


# purge ----------------------------------------------------------------------------------------------------------------


def test_purge_deletes_what_is_old_and_the_log_says_so(run: Run, log: Path) -> None:
    """Old files are gone, the others are there, and what is left verifies."""
    write(log, *[events(20)] * 3, max_bytes=4_096, clock=Clock(NOON - 86_400 * 400))
    first, second, last = files(log)
    for file in (first, second):
        os.utime(file, (1_000, 1_000))
    code, out, _ = run("purge", "--older-than", "30d")
    assert code == 0
    assert out.count("deleted audit-") == 2
    assert out.endswith("2 files deleted, 1 kept, 0 unclear\n")
    assert not first.exists()
    assert last.exists()
    code, out, _ = run("verify")
    assert code == 0
    assert "older records were deleted by retention" in out
    assert run("search", "--event", "operator.command")[1].split()[2:4] == ["command=audit-log", "purge"]


def test_purge_tells_what_it_cannot_judge(run: Run, log: Path) -> None:
    """A file whose age cannot be told stays, and the exit code says that somebody has to look."""
    file = log / "audit-0123456789abcdef-000001.jsonl"
    file.write_text("rubbish\n")
    os.utime(file, (1_000, 1_000))
    code, out, _ = run("purge", "--older-than", "52w")
    assert code == 1
    assert f"PROBLEM: {file.name}: " in out
    assert file.exists()


@pytest.mark.parametrize("age", ["0d", "90", "soon"])
def test_ages_that_mean_nothing_are_refused(run: Run, age: str) -> None:
    """Nothing is deleted by mistake."""
    with pytest.raises(SystemExit):
        run("purge", "--older-than", age)


# search and tail ------------------------------------------------------------------------------------------------------


def test_search_shows_all_processes_by_time(run: Run, log: Path) -> None:
    """What several processes wrote comes in the order in which it happened, one line each."""
    some_day(log)
    code, out, err = run("search", "--event", "request")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "2026-11-26T12:00:00.000000Z request alice 192.0.2.7 POST /predict 200",
        "2026-11-26T13:00:00.000000Z request bob 192.0.2.7 POST /predict 429 refused by RateLimit: rate-limited",
        "2026-11-26T15:00:00.000000Z request - 192.0.2.7 POST /predict 401 refused by APIKeyAuth: not-authenticated",
    ]
    _, out, _ = run("search", "--event", "model.*")
    assert out == "2026-11-26T14:00:00.000000Z model.loaded model=iris version=3\n"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--principal", "bob"], ["bob"]),
        (["--address", "192.0.2.7", "--route", "/predict", "--status", "200"], ["alice"]),
        (["--status", "4xx"], ["bob", None]),
        (["--request-id", "request-of-alice"], ["alice"]),
        (["--event", "request", "--since", "2026-11-26T13:00:00"], ["bob", None]),
        (["--event", "request", "--until", "2026-11-26T14:00:00+01:00"], ["alice"]),
        (["--event", "request", "--since", "1m", "--until", "2026-11-26"], []),
        (["--principal", "ali"], []),
        (["--status", "404"], []),
    ],
)
def test_search_finds_what_matches_all(run: Run, log: Path, arguments: list[str], found: list[str | None]) -> None:
    """Each filter is exact, and all of them have to hold; the exit code says whether there was one."""
    some_day(log)
    code, out, _ = run("search", "--json", *arguments)
    shown = [json.loads(line) for line in out.splitlines()]
    assert [record["principal"] and record["principal"]["id"] for record in shown] == found
    assert code == (0 if found else 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--status", "99"],
        ["--status", "4x"],
        ["--since", "yesterday"],
        ["--since", "999999w"],
        ["--until", "2026-13-01"],
    ],
)
def test_filters_that_mean_nothing_are_refused(run: Run, arguments: list[str]) -> None:
    """A mistake is told, and does not find everything."""
    with pytest.raises(SystemExit) as end:
        run("search", *arguments)
    assert end.value.code == 2


@pytest.mark.parametrize("count", ["0", "-1", "x", "1000000"])
def test_counts_that_mean_nothing_are_refused(run: Run, count: str) -> None:
    """So is a number of records that is none."""
    with pytest.raises(SystemExit):
        run("tail", "-n", count)


def test_tail_shows_the_latest_of_all_processes(run: Run, log: Path) -> None:
    """The last records by time, across files and processes."""
    some_day(log)
    _, out, _ = run("tail", "-n", "4")
    assert [line.split()[1] for line in out.splitlines()] == ["model.loaded", "request", "audit.closed", "audit.closed"]
    _, out, _ = run("tail", "--json", "-n", "1")
    assert json.loads(out)["event"] == "audit.closed"


def test_tail_reads_ends_of_files_only(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large file the end is read, of a small one all of it, and the lines are whole."""
    monkeypatch.setattr(_audit_files, "_BLOCK", 1_000)
    monkeypatch.setattr(_audit_files, "MAX_LINE", 2_000)
    write(log, *[events(30, filling="x" * 50)] * 3, max_bytes=4_096)
    everything = records(log)
    for count in (1, 2, 5, 17, 200):
        assert AuditReader(log).last(count) == everything[-count:]
    lines = files(log)[0].read_bytes().splitlines()
    for count in (1, 3, 10, 1_000):
        assert last_lines(files(log)[0], count) == lines[-count:]
    long = log / "audit-0123456789abcdef-000001.jsonl"
    long.write_bytes(b"{}\n" + b"x" * 90_000 + b"\n{}\n" + b"y" * 30_000)
    assert last_lines(long, 1) in ([], [b"{}"])
    assert last_lines(long, 2) in ([], [b"{}", b"{}"], [b"{}"])


def test_tail_follows_what_is_added(log: Path) -> None:
    """New records are shown as they come, of new processes too, until somebody interrupts it."""
    write(log, events(1))
    environment = {"MLGUARD_AUDIT_LOG": str(log)}
    with program("-m", "mlguard", "audit-log", "tail", "-f", "-n", "1", environment=environment) as tail:
        tail.wait_for("audit.closed")
        write(log, [{"event": "model.loaded", "facts": {"model": "fresh"}}])
        tail.wait_for("model.loaded model=fresh")
        assert tail.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("count", [1, 5_000])
def test_who_has_seen_enough_of_the_output_may_leave(
    run: Run, log: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """As with ``head``: no error, whether it is found while there is more to write, or at the end."""
    write(log, events(count))
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as output, monkeypatch.context() as piped:  # noqa: PTH123  # it is open
        piped.setattr(sys, "stdout", output)
        code, _, err = run("search")
    assert (code, err) == (3, "")


def test_nothing_is_said_of_a_pipe_when_python_ends(log: Path) -> None:
    """Nor is there when it lets go of what was not written."""
    write(log, events(1))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "mlguard", "audit-log", "export", "--directory", str(log)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (3, b"")


def test_following_ends_with_an_interrupt(run: Run, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was added meanwhile is shown, and the command ends well."""
    write(log, events(1))

    def meanwhile(_: float) -> None:
        if len(files(log)) > 1:
            raise KeyboardInterrupt
        write(log, [{"event": "model.loaded", "facts": {}}])

    monkeypatch.setattr("mlguard.commands.audit_log.time.sleep", meanwhile)
    code, out, _ = run("tail", "-f", "-n", "1")
    assert code == 0
    assert out.split()[1] == "audit.closed"
    assert "model.loaded" in out


def test_a_follower_shows_whole_lines_once(log: Path) -> None:
    """A line that is half written is shown when it is whole; a file that is purged is forgotten."""
    write(log, events(2))
    file = files(log)[0]
    follower = AuditFollower(log)
    assert follower.new() == []
    with file.open("ab") as half:
        half.write(b'{"event":"a"')
        half.flush()
        assert follower.new() == []
        half.write(b"}\n[]\n")
    assert follower.new() == [{"event": "a"}]
    assert follower.new() == []
    other = log / "audit-0123456789abcdef-000001.jsonl"
    os.mkfifo(other)
    assert follower.new() == []
    other.unlink()
    other.mkdir()
    assert follower.new() == []
    with file.open("ab") as more:
        more.write(b"{}\n")
    other.rmdir()
    file.unlink()
    file.symlink_to("/dev/zero")
    assert follower.new() == []
    file.unlink()
    assert follower.new() == []
    assert follower._read == {}


def test_a_follower_passes_by_a_line_that_is_too_long(log: Path) -> None:
    """Whoever adds one does not hide what comes after it."""
    write(log, events(1))
    file = files(log)[0]
    with file.open("ab") as more:
        more.write(b"x" * MAX_LINE + b"\n")
    follower = AuditFollower(log)
    with file.open("ab") as more:
        more.write(b"x" * (MAX_LINE + 7) + b'\n{"event":"a"}\n')
    assert follower.new() == [{"event": "a"}]
    assert follower.new() == []


def test_what_is_no_file_leaves_nothing_open(log: Path) -> None:
    """A folder in the place of a file is looked at twice a second, and would take one descriptor after another."""
    (log / "audit-0123456789abcdef-000001.jsonl").mkdir()
    follower = AuditFollower(log)
    follower._read.clear()
    before = os.open("/dev/null", os.O_RDONLY)
    os.close(before)
    for _ in range(3):
        assert follower.new() == []
    after = os.open("/dev/null", os.O_RDONLY)
    os.close(after)
    assert after == before


def test_tail_holds_the_records_of_two_chains_at_most(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many processes there were."""
    for _ in range(5):
        write(log, events(3))
    merged: list[int] = []
    merge = heapq.merge

    def counted(*parts: list[Any], **options: Any) -> Any:
        merged.append(sum(map(len, parts)))
        return merge(*parts, **options)

    monkeypatch.setattr(heapq, "merge", counted)
    assert AuditReader(log).last(4) == sorted(records(log), key=lambda record: str(record["time"]))[-4:]
    assert len(merged) == 5
    assert max(merged) <= 8


def test_where_there_is_nothing_verify_does_not_say_that_it_is_intact(run: Run, log: Path) -> None:
    """Another folder by mistake, and a log that somebody has removed, look alike."""
    code, out, _ = run("verify")
    assert (code, out.split(":")[0]) == (1, "NOTHING")
    (log / "audit-0123456789abcdef-000001.jsonl").touch()
    code, out, _ = run("verify")
    assert (code, out.splitlines()[-1].split(":")[0]) == (1, "NOTHING")


def test_lines_that_are_none_are_counted(run: Run, log: Path) -> None:
    """What cannot be read is left out, and said."""
    write(log, events(1))
    (log / "audit-0123456789abcdef-000001.jsonl").write_bytes(b"rubbish\n\xff\n{}\n{")
    os.mkfifo(log / "audit-0123456789abcdef-000002.jsonl")
    os.mkfifo(log / "audit-f123456789abcdef-000001.jsonl")
    code, out, err = run("search", "--event", "request")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "could not be read" in err
    code, out, _ = run("tail", "-n", "100")
    assert code == 0


def test_files_that_are_older_than_since_are_not_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of the last hour does not read the year."""
    write(log, events(1))
    os.utime(files(log)[0], (1_000, 1_000))
    assert list(AuditReader(log).records(since=past("1h"))) == []
    assert len(list(AuditReader(log).records())) == 3
    assert _audit_reading._written_at(log / "missing") == 0
    assert _audit_reading._end_of_lines(log / "missing") == 0


# What a terminal and a spreadsheet see --------------------------------------------------------------------------------


HOSTILE = "\x1b[2J\x9b31m\u202e\n=cmd|' /C calc'!A0"


def forged(log: Path) -> None:
    """A file that somebody else has written, with everything in it that a terminal obeys."""
    record = {"event": HOSTILE, "time": HOSTILE, "facts": {HOSTILE: HOSTILE}, "chain": ["=1"], "status": {"a": 1}}
    asked = {
        **request(id="=1+1", status=200),
        "route": HOSTILE,
        "refused_by": HOSTILE,
        "time": "9",
        "address": [HOSTILE],
    }
    lines = [record, asked, {"event": "x", "facts": 7, "principal": "alice"}]
    (log / "audit-0123456789abcdef-000001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "arguments", [["tail"], ["search"], ["search", "--json"], ["export"], ["export", "--format", "jsonl"], ["verify"]]
)
def test_no_terminal_obeys_what_stands_in_a_log(run: Run, log: Path, arguments: list[str]) -> None:
    """Whoever has forged a file cannot move the cursor, hide a line or add one."""
    forged(log)
    _, out, _ = run(*arguments)
    assert out.replace("\n", "").isprintable()
    assert "\u202e" not in out
    if "--json" in arguments or arguments == ["tail"]:
        assert len(out.splitlines()) == 3


def test_a_terminal_that_knows_ascii_only(run: Run, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters that it does not have are written out."""
    write(log, [{"event": "x", "facts": {"name": "ü"}}])
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["audit-log", "search", "--event", "x"]) == 0
    out.flush()
    assert b"name=\\xfc" in out.buffer.getvalue()


def test_export_is_a_table_without_formulas(run: Run, log: Path) -> None:
    """Each record is one row under named columns, and no cell is a formula to a spreadsheet."""
    some_day(log)
    forged(log)
    code, out, _ = run("export")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["principal"] for row in rows if row["event"] == "request"] == ["alice", "bob", "", "'=1+1"]
    assert [row["facts"] for row in rows if row["event"] == "model.loaded"] == ['{"model":"iris","version":3}']
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_export_to_a_file_for_its_owner(run: Run, log: Path, tmp_path: Path) -> None:
    """The file is whole or not there, and nobody else reads it."""
    some_day(log)
    file = tmp_path / "export.jsonl"
    code, out, _ = run("export", "--format", "jsonl", "--event", "request", "--output", str(file))
    assert (code, out) == (0, "")
    assert [json.loads(line)["status"] for line in file.read_text().splitlines()] == [200, 429, 401]
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("export", "--output", str(tmp_path / "missing" / "file"))[0] == 3
