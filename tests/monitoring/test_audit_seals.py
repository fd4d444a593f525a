"""Who called is sealed in the thread that writes the log, also in processes that fork meanwhile."""

import os
import sys
import threading
from typing import Any

import pytest

from mlguard import Redactor
from mlguard.monitoring import _audit_seals
from mlguard.monitoring._audit_records import RecordForm
from mlguard.monitoring._audit_seals import Seals


class AskedLock:
    """A lock that says when somebody asks for it with a limit, as a fork does."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._lock = threading.Lock()

    def acquire(self, timeout: float) -> bool:
        self.asked.set()
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="no forks")
def test_no_process_forks_while_something_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own locks would stay locked in the child, and its log would hang with the first caller."""
    lock, begun, done = AskedLock(), threading.Event(), []
    monkeypatch.setattr(_audit_seals, "_sealing", lock)

    class Keys:
        def seal(self, subject: str, value: str, *, context: str) -> str:
            begun.set()
            lock.asked.wait(30)
            done.append((subject, value, context))
            return "sealed"

    seals = Seals(Keys(), RecordForm(Redactor()))  # type: ignore[arg-type]
    thread = threading.Thread(target=seals.record, args=({"event": "x", "principal": "alice"},))
    thread.start()
    assert begun.wait(30)
    pid = os.fork()
    if pid == 0:
        found: Any = done
        os._exit(0 if found == [("alice", "alice", "principal")] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join(30)
    assert seals.record({"event": "x", "principal": "bob"})["principal"] == "sealed"


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a key file that hangs there is an end, and the lock stays with who has it."""
    monkeypatch.setattr(_audit_seals, "_FORK_WAITS", 0)
    with _audit_seals._sealing:
        _audit_seals._before_fork()
        _audit_seals._after_fork()
        assert _audit_seals._sealing.locked()
    assert _audit_seals._fork_has_it == []
