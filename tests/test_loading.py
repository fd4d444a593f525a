"""Loads, one at a time: one that hangs, and one that ends while somebody gives up on it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from mlguard._loading import Loading
from tests.clock import Clock


class Slow:
    """Something whose loads end when they are told to."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.failures: list[tuple[str, bool]] = []
        self.clock = Clock(1_000.0)
        self.loads = Loading(
            self.load,
            failed=lambda failure, news: self.failures.append((failure, news)),
            every=300,
            max_stale=600,
            speaking=LookupError,
            name="mlguard-test",
            clock=self.clock,
        )

    def load(self) -> Callable[[], None]:
        """Wait, and take nothing."""
        self.may_end.wait()
        return lambda: None


def test_a_load_that_hangs_is_told_of_once_until_another_would_be_due() -> None:
    """However many have waited for it; then it is told of again, and it may succeed yet."""
    slow = Slow()
    running = slow.loads.begin()
    assert running is not None
    for _ in range(3):
        slow.loads.put_off(running, "no end")
    assert slow.failures == [("no end", True)]
    slow.clock.now = slow.loads.due_at
    assert slow.loads.begin() is running, "it stays the only one"
    slow.loads.put_off(running, "no end")
    assert slow.failures == [("no end", True), ("no end", False)]
    slow.may_end.set()
    running.result(10)
    assert (slow.loads.failure, slow.loads.loaded_at) == (None, 1_000.0)


def test_a_load_that_has_just_ended_is_no_failure() -> None:
    """Who gave up on it a moment too early has given up on nothing."""
    slow = Slow()
    slow.may_end.set()
    running = slow.loads.begin()
    assert running is not None
    running.result(10)
    slow.loads.put_off(running, "no end")
    assert slow.failures == []
    assert slow.loads.is_usable


def test_who_listens_and_fails_keeps_nobody_waiting() -> None:
    """Such as a filter of a log that raises: a load that has failed has ended."""
    slow = Slow()

    def load() -> Callable[[], None]:
        raise LookupError("not there")

    def listen(failure: str, _: bool) -> None:
        raise BufferError(failure)

    slow.loads._load, slow.loads._failed = load, listen
    running: Future[None] = Future()
    with pytest.raises(BufferError):
        slow.loads._run(running, 1_000.0)
    assert running.done()
