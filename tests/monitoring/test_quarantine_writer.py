"""Rows are written after the answer, in bounds, and a file that fails takes nothing with it."""

import logging
import os
import signal
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from mlguard.errors import UnavailableError
from mlguard.monitoring._quarantine_writer import QuarantineWriter
from mlguard.monitoring.quarantined_rows import Held

ROW = Held(("api-key", "", "alice"), "model", "a", np.zeros(2))


def test_nobody_waits_for_the_file() -> None:
    """Who puts rows goes on while the file is slow; beyond a bound they are dropped and counted."""
    go_on = threading.Event()

    def slow(rows: Sequence[Held]) -> int:
        go_on.wait(30)
        return len(rows)

    writer = QuarantineWriter(slow)
    for _ in range(120):
        writer.put([ROW] * 100)
    assert writer.dropped == 2_000
    go_on.set()
    writer.flush()
    assert (writer.kept, writer.dropped) == (10_000, 2_000)
    writer.put([ROW])
    writer.flush()
    assert writer.kept == 10_001


@pytest.mark.parametrize("error", [UnavailableError("the disk is full", retry_after=1), RuntimeError("no such thing")])
def test_a_file_that_fails_is_in_the_log(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The rows are counted as dropped; the next ones are tried again; one warning says it, and not one each time."""

    def fail(rows: Sequence[Held]) -> int:
        raise error

    writer = QuarantineWriter(fail)
    with caplog.at_level(logging.WARNING, "mlguard"):
        writer.put([ROW])
        writer.put([ROW, ROW])
        writer.flush()
    assert (writer.kept, writer.dropped) == (0, 3)
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1
    assert sum("not accepted either" in record.getMessage() for record in caplog.records) == 2


def test_large_rows_are_bounded_by_their_bytes() -> None:
    """Rows of images fill no memory either; what is written makes room again."""
    go_on = threading.Event()

    def slow(rows: Sequence[Held]) -> int:
        go_on.wait(30)
        return len(rows)

    writer = QuarantineWriter(slow)
    image = ROW._replace(features=np.broadcast_to(np.float64(0), (1_024, 1_024)))  # 8 MB, none of which is there
    for _ in range(10):
        writer.put([image])
    assert writer.dropped == 2
    go_on.set()
    writer.flush()
    writer.put([image] * 9)  # nothing else waits
    writer.flush()
    assert (writer.kept, writer.dropped) == (17, 2)


def test_a_child_does_not_wait_for_what_its_parent_writes() -> None:
    """What waited at the fork is the parent's: in the child nobody will ever write it, and nothing is counted twice."""
    go_on = threading.Event()

    def slow(rows: Sequence[Held]) -> int:
        go_on.wait(30)
        return len(rows)

    writer = QuarantineWriter(slow)
    writer.put([ROW])
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        signal.alarm(20)  # or a child that waits for ever would stay
        writer.flush()
        os._exit(writer.kept)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    writer.flush()
    assert writer.kept == 1


def test_a_worker_that_was_forked_writes_too() -> None:
    """The thread stays behind in the parent; the child has one of its own."""
    read, write = os.pipe()

    def tell(rows: Sequence[Held]) -> int:
        os.write(write, b"%d" % len(rows))
        return len(rows)

    writer = QuarantineWriter(tell)
    writer.put([ROW])
    writer.flush()
    assert os.read(read, 1) == b"1"
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        writer.put([ROW, ROW])
        writer.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 1) == b"2"
    os.close(read)
    os.close(write)
