"""``PromptClassifier``: a model of somebody's own, in threads, few at a time, and never more than there is room for."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlguard.errors import ConfigurationError, OverloadedError
from mlguard.inputs.prompt_classifier import PromptClassifier
from mlguard.inputs.prompt_score import PromptScore


class Gate:
    """A classifier that waits until it is let go, and counts who is inside."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)
        self.threads: set[str] = set()
        self.texts: list[str] = []
        self._lock = threading.Lock()
        self._inside = self.most = 0

    def __call__(self, text: str) -> float:
        with self._lock:
            self.texts.append(text)
            self.threads.add(threading.current_thread().name)
            self._inside += 1
            self.most = max(self.most, self._inside)
        self.entered.release()
        assert self.opened.wait(10)
        with self._lock:
            self._inside -= 1
        return 0.25


async def entered(gate: Gate, times: int = 1) -> None:
    for _ in range(times):
        assert await asyncio.to_thread(gate.entered.acquire, timeout=60)


@pytest.mark.parametrize("value", [0.75, np.float32(0.75), "0.75"])
def test_the_probability_is_the_score(value: Any) -> None:
    """Whatever a function returns as a number is the score, under the classifier's name."""
    classifier = PromptClassifier(lambda text: value, name="mine")
    assert asyncio.run(classifier.score("x")) == PromptScore(0.75, ("mine",))
    assert repr(classifier) == "PromptClassifier('mine', concurrency=1)"


def test_async_functions_are_awaited() -> None:
    """An ``async`` function, or an object whose call is one, runs on the event loop."""

    async def probability(text: str) -> float:
        assert threading.current_thread() is threading.main_thread()
        await asyncio.sleep(0)
        return len(text) / 10

    class Service:
        async def __call__(self, text: str) -> float:
            return await probability(text)

    assert asyncio.run(PromptClassifier(probability).score("abc")).value == 0.3
    assert asyncio.run(PromptClassifier(Service()).score("abc")).value == 0.3


def test_the_event_loop_goes_on_and_few_run_at_once() -> None:
    """Plain functions run in threads of their own, as many at once as was said, and all get their turn."""

    async def scores() -> None:
        gate = Gate()
        classifier = PromptClassifier(gate, concurrency=2, max_waiting=8)
        calls = [asyncio.ensure_future(classifier.score(f"{number}")) for number in range(10)]
        await entered(gate, 2)
        gate.opened.set()
        assert {(await call).value for call in calls} == {0.25}
        assert gate.most == 2
        assert all(name.startswith("mlguard-prompts") for name in gate.threads)

    asyncio.run(scores())


def test_there_is_a_last_place_in_the_line() -> None:
    """Beyond those who may wait, texts are refused at once; when there is room again, they are not."""

    async def scores() -> None:
        gate = Gate()
        classifier = PromptClassifier(gate, concurrency=1, max_waiting=1)
        calls = [asyncio.ensure_future(classifier.score("x")) for _ in range(2)]
        await entered(gate)
        with pytest.raises(OverloadedError) as refused:
            await classifier.score("x")
        assert refused.value.headers == {"Retry-After": "1"}
        gate.opened.set()
        await asyncio.gather(*calls)
        assert (await classifier.score("x")).value == 0.25

    asyncio.run(scores())


def test_who_leaves_while_waiting_is_not_classified() -> None:
    """A call that is given up in the line costs nothing, and one that runs holds its place until it ends."""

    async def scores() -> None:
        gate = Gate()
        classifier = PromptClassifier(gate, concurrency=1, max_waiting=1)
        running = asyncio.ensure_future(classifier.score("running"))
        await entered(gate)
        waiting = asyncio.ensure_future(classifier.score("waiting"))
        await asyncio.sleep(0)
        for call in (running, waiting):
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        following = asyncio.ensure_future(classifier.score("following"))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):  # one runs on though nobody waits for it, one waits
            await classifier.score("one too many")
        gate.opened.set()
        assert (await following).value == 0.25
        assert gate.texts == ["running", "following"]

    asyncio.run(scores())


@pytest.mark.parametrize("failure", [RuntimeError("secret"), KeyError("x")])
def test_a_failure_is_the_callers(failure: Exception) -> None:
    """What the function raises comes out, and the place is free again."""

    def probability(text: str) -> float:
        raise failure

    classifier = PromptClassifier(probability, max_waiting=0)
    for _ in range(3):
        with pytest.raises(type(failure)):
            asyncio.run(classifier.score("x"))


def function(text: str) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("wrong", "settings"),
    [
        (None, {}),
        ("model", {}),
        (Gate, {}),
        (function, {"concurrency": 0}),
        (function, {"concurrency": True}),
        (function, {"concurrency": 1.0}),
        (function, {"max_waiting": -1}),
    ],
)
def test_settings_that_cannot_work(wrong: Callable[[str], float] | Any, settings: dict[str, Any]) -> None:
    """What cannot classify, and a line that cannot be, are refused when the classifier is made."""
    with pytest.raises(ConfigurationError, match="PromptClassifier"):
        PromptClassifier(wrong, **settings)
