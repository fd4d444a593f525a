"""The thread that writes an audit log: what it costs those that it shares a process with, and how it ends."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlguard import AuditLog
from mlguard.monitoring import _audit_writer
from tests.monitoring.audit_logs import KEY, events, records


class Counted(dict[str, Any]):
    """A record that knows how many there are."""

    alive = most = 0

    def __init__(self, event: Mapping[str, Any]) -> None:
        super().__init__(event)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1


def test_records_do_not_grow_old_together(tmp_path: Path) -> None:
    """One at a time: of a thousand that live at once the garbage collector would make old ones, and stop everybody."""
    log = AuditLog(tmp_path, key=KEY)
    log._writer._form = Counted
    log._writer._write([(0.0, event) for event in events(1_024)], is_over=False)
    assert len(records(tmp_path)) == 1_025
    assert Counted.most <= 2


@pytest.mark.parametrize(("count", "turns"), [(31, 0), (1_000, 31), (1_024, 8)])
def test_others_get_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, turns: int) -> None:
    """Every few events; and where more come than are written, less often, for each turn may take milliseconds."""
    given: list[float] = []
    log = AuditLog(tmp_path, key=KEY)
    batch: list[_audit_writer.Event] = [(0.0, event) for event in events(count)]
    monkeypatch.setattr("mlguard.monitoring._audit_writer.time.sleep", given.append)
    log._writer._write(batch, is_over=False)
    assert given == [0] * turns


def test_where_no_thread_ever_starts_the_end_says_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever closes the log is not told that all is written, and the events are counted, once."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    log = AuditLog(tmp_path, key=KEY)
    for event in events(3):
        log.put(event)
    assert not log.close()
    assert "it ends with 3 events that cannot be written" in caplog.text
    log.close()
    assert log._writer.dropped == 3


def test_where_a_thread_starts_at_the_end_at_last_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written for want of a thread is written when there can be one."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    log = AuditLog(tmp_path, key=KEY)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        log.put(events(1)[0])
    assert log.close()
    assert [record["event"] for record in records(tmp_path)] == ["audit.opened", "request", "audit.closed"]


def test_a_log_that_nobody_holds_leaves_no_thread_behind(tmp_path: Path) -> None:
    """It writes what it was handed, says that it ends, and does."""
    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    thread = log._writer._thread
    assert thread is not None
    del log
    thread.join(30)
    assert not thread.is_alive()
    assert [record["event"] for record in records(tmp_path)] == ["audit.opened", "request", "audit.closed"]


def test_the_events_of_a_log_that_nobody_holds_are_written_at_the_end(tmp_path: Path) -> None:
    """Whoever forgets the log itself does not lose what they have handed over to it."""
    program = f"""
from mlguard import AuditLog
from mlguard.monitoring import _audit_writer
_audit_writer._LINGER = 60
log = AuditLog({str(tmp_path)!r}, key={KEY!r})
log.put({{"event": "request"}})
del log
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ), timeout=60)
    assert [record["event"] for record in records(tmp_path)] == ["audit.opened", "request", "audit.closed"]
