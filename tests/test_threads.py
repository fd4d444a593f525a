"""Threads for what is costly. What happens to those who wait is tested with passwords and images, which use them."""

import asyncio
import os
import threading

import pytest

from mlguard._threads import FewThreads
from mlguard.errors import ConfigurationError, OverloadedError


def few(concurrency: int | None = 1, max_waiting: int = 1) -> FewThreads:
    return FewThreads("tests", where="Tests", concurrency=concurrency, max_waiting=max_waiting)


async def run(threads: FewThreads) -> str:
    async with threads.turn() as turn:
        return await turn.run(lambda: threading.current_thread().name)


def test_work_is_done_in_a_thread_of_its_own() -> None:
    """Its name says what for, so that it is known in a profile."""
    assert asyncio.run(run(few())).startswith("mlguard-tests")


def test_each_event_loop_has_its_own_line() -> None:
    """An app that is started again and again, as tests do, leaves nothing behind."""
    threads = few()
    for _ in range(3):
        asyncio.run(run(threads))
    assert len(threads._lines) == 1


def test_one_core_is_left_to_answer() -> None:
    """Unless there is only one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert few(None).concurrency == max(1, cores - 1)


def test_who_is_refused_is_told_when_to_come_again() -> None:
    """The time is up to whoever knows how long the work takes."""
    threads = few(max_waiting=0)
    threads.retry_after = 7

    async def try_twice() -> None:
        async with threads.turn():
            with pytest.raises(OverloadedError) as refusal:
                await run(threads)
            assert refusal.value.headers == {"Retry-After": "7"}
        await run(threads)

    asyncio.run(try_twice())


@pytest.mark.parametrize(("setting", "value"), [("concurrency", 0), ("concurrency", True), ("max_waiting", -1)])
def test_settings_that_cannot_work_are_refused(setting: str, value: int) -> None:
    """The error names the guard that has them."""
    with pytest.raises(ConfigurationError, match=rf"Tests\({setting}="):
        few(**{setting: value})
